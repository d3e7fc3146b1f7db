//! Rotary position embedding, half-split (NeoX) form.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use evo1_core::ops::rotate;

/// Cosines and sines of the tokens' positions: `angle(p, i) = p · θ^(−2i / head_dim)`, the second half of a head's
/// channels repeating the first.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    /// `[batch or 1, 1, tokens, head_dim]`
    pub cos: Tensor<4>,
    /// `[batch or 1, 1, tokens, head_dim]`
    pub sin: Tensor<4>,
}

impl RotaryTable {
    /// The table of a batch. Samples whose positions are all the same share one row.
    ///
    /// # Panics
    /// When the samples have different numbers of positions.
    pub fn new(positions: &[Vec<usize>], head_dim: usize, theta: f64, device: &Device) -> Self {
        let rows = match positions {
            [first, rest @ ..] if rest.iter().all(|row| row == first) => &positions[..1],
            rows => rows,
        };
        let tokens = rows.first().map_or(0, Vec::len);
        let inverse: Vec<f32> =
            (0..head_dim / 2).map(|i| theta.powf(-(2.0 * i as f64) / head_dim as f64) as f32).collect();
        let table = |function: fn(f32) -> f32| {
            let values: Vec<f32> = rows
                .iter()
                .flatten()
                .flat_map(|&position| {
                    let half: Vec<f32> = inverse.iter().map(|inverse| function(position as f32 * inverse)).collect();
                    half.repeat(2)
                })
                .collect();
            let shape = [rows.len(), 1, tokens, head_dim];
            Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
        };
        Self { cos: table(f32::cos), sin: table(f32::sin) }
    }

    /// The rows of single positions: `[batch, tokens]` → `[batch, 1, tokens, head_dim]`, of a table of one sample whose
    /// positions count from 0.
    pub fn at(&self, positions: Tensor<2, Int>) -> Self {
        let [batch, tokens] = positions.dims();
        let positions = positions.reshape([batch * tokens]);
        let rows = |table: &Tensor<4>| {
            let [_, _, rows, head_dim] = table.dims();
            let table = table.clone().reshape([rows, head_dim]);
            table.select(0, positions.clone()).reshape([batch, 1, tokens, head_dim])
        };
        Self { cos: rows(&self.cos), sin: rows(&self.sin) }
    }

    /// Rotates queries or keys: `x ⊙ cos + rotate_half(x) ⊙ sin`.
    ///
    /// `x`: `[batch, heads, tokens, head_dim]` → the same shape.
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        rotate(x, self.cos.clone(), self.sin.clone())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;
    use evo1_core::device::test_devices;

    use super::*;

    #[test]
    fn position_zero_changes_nothing_and_lengths_are_kept() {
        for device in test_devices() {
            let x = Tensor::<4>::random([1, 2, 3, 8], Distribution::Default, &device);
            let rotated = RotaryTable::new(&[vec![0, 5, 9]], 8, 1e4, &device).rotate(x.clone());
            let first = |x: &Tensor<4>| x.clone().narrow(2, 0, 1).into_data();
            assert_eq!(first(&rotated), first(&x));
            let lengths = |x: Tensor<4>| x.square().sum_dim(3).into_data().iter::<f32>().collect::<Vec<_>>();
            for (got, want) in lengths(rotated).into_iter().zip(lengths(x)) {
                assert!((got - want).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn rows_by_position_are_those_of_the_positions() {
        for device in test_devices() {
            let positions = [vec![0, 5, 5], vec![2, 3, 7]];
            let want = RotaryTable::new(&positions, 4, 1e4, &device);
            let all = RotaryTable::new(&[(0..8).collect()], 4, 1e4, &device);
            let got = all.at(Tensor::from_ints([[0, 5, 5], [2, 3, 7]], &device));
            assert_eq!(got.cos.into_data(), want.cos.into_data());
            assert_eq!(got.sin.into_data(), want.sin.into_data());
        }
    }

    #[test]
    fn equal_positions_share_a_row() {
        let device = test_devices().remove(0);
        let rows = |positions: &[Vec<usize>]| RotaryTable::new(positions, 4, 1e4, &device).cos.dims()[0];
        assert_eq!(rows(&[vec![0, 1], vec![0, 1]]), 1);
        assert_eq!(rows(&[vec![0, 1], vec![0, 2]]), 2);
    }
}
