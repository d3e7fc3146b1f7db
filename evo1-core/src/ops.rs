//! Attention, norms, linear layers and activations as PyTorch computes them, forward and backward.
//!
//! Model code calls these instead of burn's modules: they run the kernels of `evo1-kernels` where a device has them, and
//! burn's own operations elsewhere. Half precision is that of operands and results: what is between them is `f32`.

use burn::{
    nn::{LayerNorm, Linear, RmsNorm},
    tensor::{Bool, DType, Tensor, kind},
};
use evo1_kernels::Activation;
pub use evo1_kernels::{AdamW, adamw, advance, attention, gelu, masked, matmul, rotate, swiglu};

/// `x·W + b` over the last dimension.
pub fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    activated(layer, x, Activation::None)
}

/// `GELU(x·W + b)`.
pub fn linear_gelu<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    activated(layer, x, Activation::Gelu)
}

/// `ReLU(x·W + b)`.
pub fn linear_relu<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    activated(layer, x, Activation::Relu)
}

/// `x·W + b` with weights that are no linear layer's: `[input, output]` and `[output]`.
pub fn product<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    evo1_kernels::linear(x, weight, bias, Activation::None)
}

fn activated<const D: usize>(layer: &Linear, x: Tensor<D>, activation: Activation) -> Tensor<D> {
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    let weight = whole_weight(layer, x.dtype());
    evo1_kernels::linear(x, weight, bias, activation)
}

/// The weight of a layer; one that is stored in eight bits in the type of what it meets.
fn whole_weight(layer: &Linear, dtype: DType) -> Tensor<2> {
    let weight = layer.weight.val();
    match weight.dtype() {
        DType::QFloat(_) => weight.dequantize().cast(dtype),
        _ => weight,
    }
}

/// `base + scale ⊙ (x·W + b)`, with a factor for each channel.
pub fn linear_residual<const D: usize>(
    layer: &Linear,
    x: Tensor<D>,
    scale: Option<Tensor<1>>,
    base: Tensor<D>,
) -> Tensor<D> {
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    let weight = whole_weight(layer, x.dtype());
    evo1_kernels::linear_residual(x, weight, bias, scale, base)
}

/// `(x − mean) / √(variance + ε) ⊙ gamma + beta` over the last dimension. The layer keeps its ε to itself.
pub fn layer_norm<const D: usize>(layer: &LayerNorm, x: Tensor<D>, epsilon: f64) -> Tensor<D> {
    let beta = layer.beta.as_ref().map(|beta| beta.val());
    evo1_kernels::layer_norm(x, layer.gamma.val(), beta, epsilon)
}

/// [`layer_norm`] plus a vector of each sample: x `[batch, rows, width]`, added `[batch or 1, 1, width]`.
pub fn layer_norm_added(layer: &LayerNorm, x: Tensor<3>, added: Tensor<3>, epsilon: f64) -> Tensor<3> {
    let beta = layer.beta.as_ref().map(|beta| beta.val());
    evo1_kernels::layer_norm_added(x, layer.gamma.val(), beta, added, epsilon)
}

/// `x / √(mean of squares + ε) ⊙ gamma` over the last dimension.
pub fn rms_norm<const D: usize>(layer: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
    evo1_kernels::rms_norm(x, layer.gamma.val(), layer.epsilon)
}

/// The weights of [`attention`], `[batch, heads, queries, keys]`, for callers that need to see or change them.
pub fn attention_weights(query: Tensor<4>, key: Tensor<4>, hidden: Option<Tensor<4, Bool>>) -> Tensor<4> {
    let [batch, heads, queries, head_dim] = query.dims();
    let keys = key.dims()[2];
    let dtype = query.dtype();
    let scores = evo1_kernels::matmul_wide(query, key.transpose()) / (head_dim as f64).sqrt();
    let scores = match hidden {
        Some(mask) => scores.mask_fill(mask.expand([batch, heads, queries, keys]), f32::NEG_INFINITY),
        None => scores,
    };
    evo1_kernels::softmax(scores).cast(dtype)
}

/// Splits the channels into heads: `[batch, tokens, heads · head_dim]` → `[batch, heads, tokens, head_dim]`.
pub fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, channels] = x.dims();
    x.reshape([batch, tokens, heads, channels / heads]).swap_dims(1, 2)
}

/// The inverse of [`split_heads`].
pub fn merge_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, tokens, head_dim] = x.dims();
    x.swap_dims(1, 2).reshape([batch, tokens, heads * head_dim])
}

/// Every sample of a batch `times` times in a row: `[batch, ..]` → `[batch · times, ..]`.
pub fn repeat_samples<const D: usize, K: kind::Basic>(x: Tensor<D, K>, times: usize) -> Tensor<D, K> {
    if times == 1 {
        return x;
    }
    let mut shape = x.dims();
    let batch = shape[0];
    let rest = shape[1..].iter().product::<usize>();
    shape[0] = batch * times;
    x.reshape([batch, 1, rest]).expand([batch, times, rest]).reshape(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::test_devices;

    #[test]
    fn repeated_samples_stand_in_a_row() {
        for device in test_devices() {
            let x = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &device);
            assert_eq!(repeat_samples(x.clone(), 1).into_data(), x.clone().into_data());
            let repeated: Vec<f32> = repeat_samples(x, 2).into_data().iter().collect();
            assert_eq!(repeated, [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
        }
    }
}
