//! Attention and activations as PyTorch computes them, forward and backward.

use burn::tensor::{Bool, Tensor, activation, module, ops::AttentionModuleOptions};

/// Gaussian error linear unit with the exact error function: `x · Φ(x)`.
///
/// Composed of `erf` because burn's own `gelu` differentiates the tanh approximation on most devices, which misses
/// PyTorch's gradient by more than 1e-4.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let phi = (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() * 0.5 + 0.5;
    x * phi
}

/// Scaled dot-product attention: `softmax(q·kᵀ / √head_dim, hidden keys at −∞) · v`.
///
/// # Shapes
/// - query: `[batch, heads, queries, head_dim]`
/// - key, value: `[batch, heads, keys, head_dim]`
/// - hidden: `[batch or 1, 1, queries or 1, keys]`, true where a query may not see a key
/// - output: `[batch, heads, queries, head_dim]`
pub fn attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, hidden: Option<Tensor<4, Bool>>) -> Tensor<4> {
    let [batch, heads, queries, _] = query.dims();
    let keys = key.dims()[2];
    let hidden = hidden.map(|mask| mask.expand([batch, heads, queries, keys]));
    module::attention(query, key, value, hidden, None, AttentionModuleOptions::default())
}

/// The weights of [`attention`], `[batch, heads, queries, keys]`, for callers that need to see or change them.
pub fn attention_weights(query: Tensor<4>, key: Tensor<4>, hidden: Option<Tensor<4, Bool>>) -> Tensor<4> {
    let [batch, heads, queries, head_dim] = query.dims();
    let keys = key.dims()[2];
    let scores = query.matmul(key.transpose()) / (head_dim as f64).sqrt();
    let scores = match hidden {
        Some(mask) => scores.mask_fill(mask.expand([batch, heads, queries, keys]), f32::NEG_INFINITY),
        None => scores,
    };
    activation::softmax(scores, 3)
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
