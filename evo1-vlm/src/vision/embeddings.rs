//! Patch, class and position embeddings of the vision tower.

use burn::{
    module::{Module, Param},
    nn::{
        Initializer,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{DType, Device, Tensor, TensorData},
};
use evo1_core::{
    config::VlmConfig,
    constants::Constants,
    ops::{matmul, product},
};

/// `[cls; Conv(pixels)] + positions`, with a convolution whose kernel and stride are the patch size: a product of each
/// patch's pixels with the kernels.
#[derive(Module, Debug)]
pub struct VisionEmbeddings {
    /// `[1, 1, hidden]`
    cls_token: Param<Tensor<3>>,
    /// `[1, 1 + patches, hidden]`, the class token's first, then the patches' row by row.
    position_embeddings: Param<Tensor<3>>,
    patch_embedding: Conv2d,
    /// Weights that interpolate the position embeddings, `[1, side, stored side]`.
    #[module(skip)]
    interpolations: Constants<[usize; 2], Tensor<3>>,
}

impl VisionEmbeddings {
    /// Uninitialised embeddings of the configuration's sizes.
    pub fn init(config: &VlmConfig, device: &Device) -> Self {
        let vision = &config.vision;
        let (patch, hidden) = (vision.patch_size, vision.hidden_size);
        let patches = (vision.image_size / patch).pow(2);
        Self {
            cls_token: Initializer::Zeros.init([1, 1, hidden], device),
            position_embeddings: Initializer::Zeros.init([1, 1 + patches, hidden], device),
            patch_embedding: Conv2dConfig::new([3, hidden], [patch, patch]).with_stride([patch, patch]).init(device),
            interpolations: Constants::default(),
        }
    }

    /// The number type of the weights.
    pub fn dtype(&self) -> DType {
        self.cls_token.val().dtype()
    }

    /// Embeds normalised tiles.
    ///
    /// # Shapes
    /// - pixels: `[tiles, 3, size, size]`, a multiple of the patch size
    /// - output: `[tiles, 1 + patches, hidden]`
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        let [tiles, channels, height, width] = pixels.dims();
        let kernels = self.patch_embedding.weight.val();
        let [hidden, _, patch, _] = kernels.dims();
        let (rows, columns, values) = (height / patch, width / patch, channels * patch * patch);
        let patches = pixels
            .reshape([tiles, channels, rows, patch, columns, patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([tiles, rows * columns, values]);
        let kernels = kernels.reshape([hidden, values]).transpose();
        let bias = self.patch_embedding.bias.as_ref().map(|bias| bias.val());
        let patches = product(patches, kernels, bias);
        let cls = self.cls_token.val().expand([tiles, 1, hidden]);
        Tensor::cat(vec![cls, patches], 1) + self.positions(rows)
    }

    /// Position embeddings of a grid of `side · side` patches: as stored, or interpolated bicubically.
    fn positions(&self, side: usize) -> Tensor<3> {
        let stored = self.position_embeddings.val();
        let [_, count, hidden] = stored.dims();
        let stored_side = (count - 1).isqrt();
        if side == stored_side {
            return stored;
        }
        let (device, dtype) = (stored.device(), stored.dtype());
        let weights = self.interpolations.get([stored_side, side], &device, || {
            let weights = TensorData::new(bicubic_matrix(stored_side, side), [1, side, stored_side]);
            Tensor::from_data(weights, (&device, DType::F32))
        });
        let cls = stored.clone().narrow(1, 0, 1);
        let grid = stored.narrow(1, 1, count - 1).cast(DType::F32);
        // The filter is separable: first along the rows of the grid, then along its columns.
        let rows = matmul(weights.clone(), grid.reshape([1, stored_side, stored_side * hidden]));
        let columns = rows.reshape([side, stored_side, hidden]);
        let grid = matmul(weights.expand([side, side, stored_side]), columns).reshape([1, side * side, hidden]);
        Tensor::cat(vec![cls, grid.cast(dtype)], 1)
    }
}

/// Weights `[to, from]` of bicubic interpolation as `torch.nn.functional.interpolate` computes it: a = −0.75,
/// `align_corners = false`, no antialias, indices clamped at the border.
fn bicubic_matrix(from: usize, to: usize) -> Vec<f32> {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let scale = from as f32 / to as f32;
    let mut weights = vec![0.0; to * from];
    for (row, weights) in weights.chunks_exact_mut(from).enumerate() {
        let center = (row as f32 + 0.5) * scale - 0.5;
        let left = center.floor();
        let t = center - left;
        for (offset, weight) in [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)].into_iter().enumerate() {
            let index = (left as isize + offset as isize - 1).clamp(0, from as isize - 1);
            weights[index as usize] += weight;
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpolation_weights_sum_to_one() {
        for (from, to) in [(4, 8), (8, 4), (32, 48), (3, 7)] {
            for row in bicubic_matrix(from, to).chunks(from) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn doubling_has_the_weights_of_torch() {
        // Row 2 of interpolate(eye(4), size 8, mode bicubic): centre 0.75, between the stored positions 0 and 1.
        let row = &bicubic_matrix(4, 8)[2 * 4..3 * 4];
        for (got, want) in row.iter().zip([0.226_562_5, 0.878_906_25, -0.105_468_75, 0.0]) {
            assert!((got - want).abs() < 1e-6, "{row:?}");
        }
    }
}
