//! ImageNet normalisation of resized frames.

use burn::tensor::{DType, Device, Int, IntDType, Tensor, TensorData};
use half::bf16;
use rayon::prelude::*;

use super::{
    pixels::Pixels,
    resize::{CHANNELS, Resized},
};

/// Mean of red, green and blue over ImageNet, of pixels in [0, 1].
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];

/// Standard deviation of red, green and blue over ImageNet, of pixels in [0, 1].
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Grey levels of a channel.
const LEVELS: usize = 256;

/// The number type in which pixels are normalised. The references normalise in the number type of their model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// Single precision.
    F32,
    /// Every intermediate result is rounded to bfloat16.
    Bf16,
}

impl Arithmetic {
    fn rounded(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// (x − mean) / std of one channel, x in [0, 1].
    fn normalized(self, value: f32, channel: usize) -> f32 {
        let [value, mean, std] = [value, IMAGENET_MEAN[channel], IMAGENET_STD[channel]].map(|x| self.rounded(x));
        self.rounded(self.rounded(value - mean) / std)
    }
}

/// A black image `[3, size, size]` after normalisation, which stands in for an absent view.
pub fn normalized_black(size: usize, arithmetic: Arithmetic) -> Vec<f32> {
    (0..CHANNELS).flat_map(|channel| std::iter::repeat_n(arithmetic.normalized(0.0, channel), size * size)).collect()
}

/// Cuts an image into a grid `columns` wide of square tiles, row-major, and normalises them.
///
/// # Shapes
/// - image: `[rows · size, columns · size, 3]`
/// - output: `[rows · columns, 3, size, size]`
pub(super) fn normalized_tiles(image: &Resized, columns: usize, size: usize, arithmetic: Arithmetic) -> Vec<f32> {
    match image {
        Resized::Levels(levels) => {
            let table = normalized_levels(arithmetic);
            cut(levels, columns, size, |level, channel| table[channel][usize::from(level)])
        }
        Resized::Floats(floats) => cut(floats, columns, size, |value, channel| arithmetic.normalized(value, channel)),
    }
}

/// The normalised value of every grey level, `[3, 256]`: a look-up in place of two divisions a value.
fn normalized_levels(arithmetic: Arithmetic) -> [[f32; LEVELS]; CHANNELS] {
    std::array::from_fn(|channel| std::array::from_fn(|level| arithmetic.normalized(level as f32 / 255.0, channel)))
}

/// Normalises grey levels on a device, by looking them up: the values are those of the host, to the bit.
#[derive(Debug, Clone)]
pub struct LevelTable {
    /// Normalised levels, channel by channel, `[3 · 256]`.
    values: Tensor<1>,
    /// Where the levels of each channel begin, `[1, 3, 1]`.
    starts: Tensor<3, Int>,
}

impl LevelTable {
    /// The table of an arithmetic, its values in a number type.
    pub fn new(arithmetic: Arithmetic, dtype: DType, device: &Device) -> Self {
        let values = normalized_levels(arithmetic).concat();
        let values = TensorData::new(values, [CHANNELS * LEVELS]);
        let values = Tensor::<1>::from_data(values, (device, DType::F32)).cast(dtype);
        let starts = (0..CHANNELS).map(|channel| (channel * LEVELS) as i32).collect::<Vec<_>>();
        Self { values, starts: Tensor::from_data(TensorData::new(starts, [1, CHANNELS, 1]), (device, DType::I32)) }
    }

    /// Normalised pixels of levels: `[tiles · 3 · size · size]` → `[tiles, 3, size, size]`.
    pub fn normalized(&self, levels: Tensor<1, Int>, size: usize) -> Tensor<4> {
        let area = size * size;
        let tiles = levels.dims()[0] / (CHANNELS * area);
        let levels = levels.cast(IntDType::I32).reshape([tiles, CHANNELS, area]);
        let rows = (levels + self.starts.clone()).reshape([tiles * CHANNELS * area]);
        self.values.clone().select(0, rows).reshape([tiles, CHANNELS, size, size])
    }
}

/// Cuts an image as [`normalized_tiles`] does; its levels, if it has any, stay as they are.
pub(super) fn level_tiles(image: &Resized, columns: usize, size: usize, arithmetic: Arithmetic) -> Pixels {
    match image {
        Resized::Levels(levels) => Pixels::Levels(cut(levels, columns, size, |level, _| level)),
        Resized::Floats(_) => Pixels::Normalized(normalized_tiles(image, columns, size, arithmetic)),
    }
}

/// Normalises levels that were cut already, `[tiles, 3, size, size]`.
pub(super) fn normalized_cut(levels: &[u8], size: usize, arithmetic: Arithmetic) -> Vec<f32> {
    let table = normalized_levels(arithmetic);
    let planes = levels.chunks(size * size).enumerate();
    let normalized = |(plane, levels): (usize, &[u8])| {
        let of_channel = table[plane % CHANNELS];
        levels.iter().map(move |&level| of_channel[usize::from(level)]).collect::<Vec<_>>()
    };
    planes.flat_map(normalized).collect()
}

/// `[rows · size, columns · size, 3]` → `[rows · columns, 3, size, size]`, every value through `convert`.
fn cut<V: Copy + Sync, T: Copy + Default + Send>(
    image: &[V],
    columns: usize,
    size: usize,
    convert: impl Fn(V, usize) -> T + Sync,
) -> Vec<T> {
    let row_length = columns * size * CHANNELS;
    let mut tiles = vec![T::default(); image.len()];
    tiles.par_chunks_mut(size * size).enumerate().for_each(|(plane, values)| {
        let (tile, channel) = (plane / CHANNELS, plane % CHANNELS);
        let (row, column) = (tile / columns, tile % columns);
        for (y, line) in values.chunks_exact_mut(size).enumerate() {
            let start = (row * size + y) * row_length + column * size * CHANNELS;
            let pixels = image[start..start + size * CHANNELS].chunks_exact(CHANNELS);
            for (value, pixel) in line.iter_mut().zip(pixels) {
                *value = convert(pixel[channel], channel);
            }
        }
    });
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn black_is_minus_mean_over_std() {
        let black = normalized_black(2, Arithmetic::F32);
        assert_eq!(black.len(), 12);
        for (channel, plane) in black.chunks_exact(4).enumerate() {
            assert!(plane.iter().all(|&value| value == -IMAGENET_MEAN[channel] / IMAGENET_STD[channel]));
        }
        assert_eq!(black, normalized_tiles(&Resized::Levels(vec![0; 12]), 1, 2, Arithmetic::F32));
    }

    #[test]
    fn levels_and_floats_normalise_alike() {
        let levels = (0..=255).cycle().take(16 * 16 * 3).collect::<Vec<u8>>();
        let floats = levels.iter().map(|&level| f32::from(level) / 255.0).collect();
        assert_eq!(
            normalized_tiles(&Resized::Levels(levels), 2, 8, Arithmetic::F32),
            normalized_tiles(&Resized::Floats(floats), 2, 8, Arithmetic::F32)
        );
    }

    #[test]
    fn tiles_are_cut_row_major() {
        // Two rows of three tiles of 2 × 2: the level of a pixel is the number of its tile.
        let (columns, rows, size) = (3, 2, 2);
        let mut levels = Vec::new();
        for y in 0..rows * size {
            for x in 0..columns * size {
                levels.extend([(y / size * columns + x / size) as u8; 3]);
            }
        }
        let tiles = normalized_tiles(&Resized::Levels(levels), columns, size, Arithmetic::F32);
        let table = normalized_levels(Arithmetic::F32);
        for (tile, values) in tiles.chunks_exact(CHANNELS * size * size).enumerate() {
            for (channel, plane) in values.chunks_exact(size * size).enumerate() {
                assert_eq!(plane, [table[channel][tile]; 4], "tile {tile}");
            }
        }
    }
}
