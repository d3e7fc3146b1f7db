//! Pixels of tiles before they are put on a device.

use std::{borrow::Cow, ops::Range};

use super::normalize::{Arithmetic, normalized_black, normalized_cut};

/// Pixels of tiles, `[tiles, 3, size, size]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// Grey levels, which a device normalises ([`LevelTable`](super::LevelTable)): a quarter of the bytes.
    Levels(Vec<u8>),
    /// Normalised.
    Normalized(Vec<f32>),
}

impl Pixels {
    /// Values of all tiles.
    pub fn len(&self) -> usize {
        match self {
            Self::Levels(levels) => levels.len(),
            Self::Normalized(values) => values.len(),
        }
    }

    /// Whether there is no tile.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tiles.
    pub fn tiles(&self, size: usize) -> usize {
        self.len() / (3 * size * size)
    }

    /// Some of the tiles.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn tile_range(&self, range: Range<usize>, size: usize) -> Self {
        let values = range.start * 3 * size * size..range.end * 3 * size * size;
        match self {
            Self::Levels(levels) => Self::Levels(levels[values].to_vec()),
            Self::Normalized(normalized) => Self::Normalized(normalized[values].to_vec()),
        }
    }

    /// The bytes of the values, the lowest ones first.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Levels(levels) => Cow::Borrowed(levels),
            Self::Normalized(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    /// Normalised, on the host.
    pub fn into_normalized(self, size: usize, arithmetic: Arithmetic) -> Vec<f32> {
        match self {
            Self::Levels(levels) => normalized_cut(&levels, size, arithmetic),
            Self::Normalized(values) => values,
        }
    }

    /// These tiles and others behind them: levels as long as all are.
    pub fn append(&mut self, others: Self, size: usize, arithmetic: Arithmetic) {
        match (&mut *self, others) {
            (Self::Levels(levels), Self::Levels(others)) => levels.extend(others),
            (Self::Normalized(values), others) => values.extend(others.into_normalized(size, arithmetic)),
            (Self::Levels(levels), Self::Normalized(others)) => {
                let mut values = normalized_cut(levels, size, arithmetic);
                values.extend(others);
                *self = Self::Normalized(values);
            }
        }
    }

    /// A black tile for [`Self::append`] to these.
    pub fn black(&self, size: usize, arithmetic: Arithmetic) -> Self {
        match self {
            Self::Levels(_) => Self::Levels(vec![0; 3 * size * size]),
            Self::Normalized(_) => Self::Normalized(normalized_black(size, arithmetic)),
        }
    }

    /// Whether every tile is black.
    pub fn is_black(&self, size: usize, arithmetic: Arithmetic) -> bool {
        match self {
            Self::Levels(levels) => levels.iter().all(|&level| level == 0),
            Self::Normalized(values) => {
                let black = normalized_black(size, arithmetic);
                values.chunks_exact(3 * size * size).all(|tile| tile == black)
            }
        }
    }

    /// The tiles that are not among `left_out`, which is in ascending order.
    pub fn without(self, left_out: &[usize], size: usize) -> Self {
        fn kept<T: Copy>(values: Vec<T>, left_out: &[usize], tile: usize) -> Vec<T> {
            let tiles = values.chunks_exact(tile).enumerate();
            tiles
                .filter(|(index, _)| left_out.binary_search(index).is_err())
                .flat_map(|(_, tile)| tile)
                .copied()
                .collect()
        }
        let tile = 3 * size * size;
        match self {
            pixels if left_out.is_empty() => pixels,
            Self::Levels(levels) => Self::Levels(kept(levels, left_out, tile)),
            Self::Normalized(values) => Self::Normalized(kept(values, left_out, tile)),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Tensor, TensorData};
    use evo1_core::device::test_devices;

    use super::*;
    use crate::frame::LevelTable;

    const SIZE: usize = 4;
    const ALL: [Arithmetic; 2] = [Arithmetic::F32, Arithmetic::Bf16];

    /// Two tiles with every level in every channel, the second one upside down.
    fn levels() -> Vec<u8> {
        let tile: Vec<u8> = (0..3 * SIZE * SIZE).map(|at| (at * 89 % 256) as u8).collect();
        tile.iter().copied().chain(tile.iter().rev().copied()).collect()
    }

    #[test]
    fn levels_and_normalized_tiles_stand_together() {
        for arithmetic in ALL {
            let normalized = Pixels::Levels(levels()).into_normalized(SIZE, arithmetic);
            let (mut first, mut second) = (Pixels::Levels(levels()), Pixels::Normalized(normalized.clone()));
            first.append(Pixels::Normalized(normalized.clone()), SIZE, arithmetic);
            second.append(Pixels::Levels(levels()), SIZE, arithmetic);
            assert_eq!(first, second);
            assert_eq!(first, Pixels::Normalized([normalized.clone(), normalized.clone()].concat()));
            let black = first.black(SIZE, arithmetic);
            assert!(black.is_black(SIZE, arithmetic) && Pixels::Levels(vec![0; 96]).is_black(SIZE, arithmetic));
            assert!(!first.is_black(SIZE, arithmetic) && !Pixels::Levels(levels()).is_black(SIZE, arithmetic));
            assert_eq!(first.without(&[1, 2], SIZE), second.without(&[1, 2], SIZE));
        }
        assert_eq!(Pixels::Levels(levels()).without(&[0], SIZE), Pixels::Levels(levels()[48..].to_vec()));
    }

    #[test]
    fn a_device_normalizes_levels_to_the_bits_of_the_host() {
        // Shaders know no whole numbers of 8 bits.
        for device in test_devices().into_iter().filter(|device| device.supports_dtype(DType::U8)) {
            for arithmetic in ALL {
                let all: Vec<u8> = (0..3 * 16 * 16).map(|at| (at % 256) as u8).collect();
                let want = Pixels::Levels(all.clone()).into_normalized(16, arithmetic);
                let on_device = Tensor::from_data(TensorData::new(all, [3 * 16 * 16]), (&device, DType::U8));
                let got = LevelTable::new(arithmetic, DType::F32, &device).normalized(on_device, 16);
                assert_eq!(got.dims(), [1, 3, 16, 16]);
                assert_eq!(got.into_data().iter::<f32>().collect::<Vec<_>>(), want);
            }
        }
    }
}
