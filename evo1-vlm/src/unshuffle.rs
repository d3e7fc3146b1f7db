//! Pixel-unshuffle: fewer, wider tokens (InternVL, `pixel_shuffle` version 2).

use burn::tensor::Tensor;

/// Joins squares of `factor · factor` patches into one token each.
///
/// With the patches on a row-major grid, token `(i, j)`, again row-major, is the channel concatenation of the patches
/// `(f·i + a, f·j + b)` for `a, b` in `0..f`, `b` running faster.
///
/// # Shapes
/// - patches: `[tiles, side · side, channels]`
/// - output: `[tiles, (side / factor)², channels · factor²]`
///
/// # Panics
/// When the patches form no square grid or `factor` does not divide its side; configurations are checked for both.
pub fn pixel_unshuffle(patches: Tensor<3>, factor: usize) -> Tensor<3> {
    let [tiles, count, channels] = patches.dims();
    let side = count.isqrt();
    assert_eq!(side * side, count, "{count} patches form no square grid");
    assert!(side.is_multiple_of(factor), "squares of {factor} × {factor} do not tile {side} × {side} patches");
    let cells = side / factor;
    patches.reshape([tiles, cells, factor, cells, factor, channels]).permute([0, 1, 3, 2, 4, 5]).reshape([
        tiles,
        cells * cells,
        factor * factor * channels,
    ])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Int, Tensor};
    use evo1_core::device::test_devices;

    use super::*;

    #[test]
    fn patches_are_joined_row_by_row() {
        for device in test_devices() {
            let patches = Tensor::<1, Int>::arange(0..16, &device).float().reshape([1, 16, 1]);
            let tokens: Vec<f32> = pixel_unshuffle(patches, 2).into_data().iter().collect();
            assert_eq!(tokens, [0., 1., 4., 5., 2., 3., 6., 7., 8., 9., 12., 13., 10., 11., 14., 15.]);
        }
    }

    #[test]
    fn a_factor_of_one_changes_nothing() {
        for device in test_devices() {
            let patches = Tensor::<1, Int>::arange(0..18, &device).float().reshape([1, 9, 2]);
            assert_eq!(pixel_unshuffle(patches.clone(), 1).into_data(), patches.into_data());
        }
    }

    #[test]
    #[should_panic(expected = "do not tile 3 × 3 patches")]
    fn an_odd_grid_panics() {
        let device = test_devices().remove(0);
        let _ = pixel_unshuffle(Tensor::zeros([1, 9, 2], &device), 2);
    }
}
