//! Vectorised, threaded CPU kernels, and some for GPUs, as an extension of burn's backends.
//!
//! burn's CPU device multiplies matrices at the processor's speed; what stands between the products (attention, norms,
//! activations) it computes value by value on one thread. This crate has kernels for those, for the products with what
//! follows them, and for weights in half the size. GPUs have kernels for attention, norms, activations, rotary embedding
//! and what follows a product, and are kept from rounding `f32` to TF32 ([`set_tf32`]). What has no kernel on a device is made of
//! burn's own operations.
//!
//! Half precision is that of operands and results, on every device: what is between them is computed in `f32`.
//!
//! | function | computes |
//! | --- | --- |
//! | [`attention`] | softmax(q·kᵀ / √d)·v without the matrix of scores |
//! | [`matmul`] | products of any leading dimensions |
//! | [`linear`], [`linear_residual`] | products with bias, activation, scale and residual |
//! | [`pack`] | weights in the order in which products read them |
//! | [`layer_norm`], [`layer_norm_added`], [`rms_norm`], [`softmax`] | row by row |
//! | [`rotate`] | rotary position embedding |
//! | [`gelu`], [`swiglu`] | value by value |
//!
//! All of them are differentiable. `pulp` chooses the instructions at run time; two intrinsics that it lacks, for pairs of
//! `bf16`, are this crate's only `unsafe`.

// burn deprecates its ndarray backend; the feature is kept for comparison.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

mod autodiff;
mod backend;
#[cfg(feature = "cube")]
mod cube;
mod fallback;
#[cfg(feature = "flex")]
mod flex;

pub use backend::{Activation, AdamW, HiddenKeys, KernelOps, Norm, OptionalTensor};

use burn::{
    backend::Dispatch,
    tensor::{Bool, DType, Device, Tensor},
};

/// The vector instructions that the CPU kernels found on this processor.
pub fn instructions() -> &'static str {
    #[cfg(feature = "flex")]
    return flex::instructions();
    #[cfg(not(feature = "flex"))]
    return "no CPU kernels in this build";
}

/// Leaves the vectors of 512 bits unused that a processor may have, to measure what one without them does: with 256 bits
/// and fused multiplication (AVX2). Before anything is computed, since packed weights are in the order of the vectors.
pub fn set_narrow_vectors(is_narrow: bool) {
    #[cfg(feature = "flex")]
    flex::set_narrow(is_narrow);
    #[cfg(not(feature = "flex"))]
    let _ = is_narrow;
}

/// Whether products of `f32` may round their operands to TF32, with 10 bits of mantissa instead of 23, on devices that
/// multiply those faster ([`has_tf32`]). Of the whole process, like PyTorch's `allow_tf32`, and off at first.
pub fn set_tf32(is_allowed: bool) {
    #[cfg(feature = "cube")]
    cube::set_tf32(is_allowed);
    #[cfg(not(feature = "cube"))]
    let _ = is_allowed;
}

/// Keeps the kernels that CUDA devices compile in CubeCL's folder of the user's cache (`~/.cache/cubecl` on Linux), from
/// where later processes load them. Before the first use of a device; a `cubecl.toml` of the user's goes before it.
pub fn keep_kernels() {
    #[cfg(feature = "cuda-llvm")]
    cube::keep_kernels();
}

/// Whether a device multiplies in TF32 where [`set_tf32`] allows it.
pub fn has_tf32(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    return cube::has_tf32(device);
    #[cfg(not(feature = "cube"))]
    {
        let _ = device;
        false
    }
}

/// Whether a device adds what it has to what others of its kind have by itself: a CUDA device, where NCCL is installed.
pub fn has_transport(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    return cube::has_transport(device);
    #[cfg(not(feature = "cube"))]
    {
        let _ = device;
        false
    }
}

/// The ways in which products in half precision are cut into tiles, by name, where a build has kernels for that.
pub fn tilings() -> Vec<String> {
    #[cfg(feature = "cube")]
    return cube::tilings();
    #[cfg(not(feature = "cube"))]
    Vec::new()
}

/// Cuts every product of the process that tensor cores compute by one of [`tilings`], and its inner dimension into some
/// parts: for measuring. `None`, as at first, leaves both to the kernels.
pub fn set_tiling(tiling: Option<(usize, usize)>) {
    #[cfg(feature = "cube")]
    cube::set_tiling(tiling);
    #[cfg(not(feature = "cube"))]
    let _ = tiling;
}

/// Whether the work of a device can be recorded once and repeated as a whole, with other values in the same buffers: a graph
/// of CUDA's.
pub fn has_graphs(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    {
        use burn::backend::DispatchDevice;
        matches!(device.as_dispatch(), DispatchDevice::Cube(burn_cubecl::CubeDevice::Cuda(_)))
    }
    #[cfg(not(feature = "cube"))]
    {
        let _ = device;
        false
    }
}

/// Whether a device works while the host goes on, until something is read.
pub fn is_asynchronous(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    return matches!(device.as_dispatch(), burn::backend::DispatchDevice::Cube(_));
    #[cfg(not(feature = "cube"))]
    {
        let _ = device;
        false
    }
}

/// Gaussian error linear unit with the exact error function: `x · Φ(x)`.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as KernelOps>::kernel_gelu(x.into_dispatch()))
}

/// `SiLU(gate) ⊙ up`, for tensors of one shape.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as KernelOps>::kernel_swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// `x ⊙ mask` for a mask of zeros and ones of the same shape, in another number type.
pub fn masked<const D: usize>(x: Tensor<D>, mask: Tensor<D>, dtype: DType) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as KernelOps>::kernel_masked(x.into_dispatch(), mask.into_dispatch(), dtype))
}

/// `x + slope / divisor` in the number type of `x`: a step of a sampler.
pub fn advance<const D: usize>(x: Tensor<D>, slope: Tensor<D>, divisor: f64) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as KernelOps>::kernel_advance(x.into_dispatch(), slope.into_dispatch(), divisor))
}

/// A step of AdamW: a weight and its two moments after it, from those before it and the gradient, all of one shape.
pub fn adamw<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    moments: [Tensor<D>; 2],
    step: AdamW,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    let [moment_1, moment_2] = moments.map(Tensor::into_dispatch);
    let (weight, moment_1, moment_2) = <Dispatch as KernelOps>::kernel_adamw(
        weight.into_dispatch(),
        gradient.into_dispatch(),
        moment_1,
        moment_2,
        step,
    );
    (Tensor::from_dispatch(weight), [moment_1, moment_2].map(Tensor::from_dispatch))
}

/// `(x − mean) / √(variance + ε) ⊙ gamma + beta` over the last dimension.
pub fn layer_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, beta: Option<Tensor<1>>, epsilon: f64) -> Tensor<D> {
    norm(x, gamma, beta, Norm::Layer, epsilon)
}

/// [`layer_norm`] plus a vector of each sample, of which there may be one for all.
///
/// # Shapes
/// - x, output: `[batch, rows, width]`
/// - added: `[batch or 1, 1, width]`
pub fn layer_norm_added(
    x: Tensor<3>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    added: Tensor<3>,
    epsilon: f64,
) -> Tensor<3> {
    let (x, gamma, added) = (x.into_dispatch(), gamma.into_dispatch(), added.into_dispatch());
    let beta = optional(beta);
    Tensor::from_dispatch(<Dispatch as KernelOps>::kernel_norm_added(x, gamma, beta, added, Norm::Layer, epsilon))
}

/// `x / √(mean of squares + ε) ⊙ gamma` over the last dimension.
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    norm(x, gamma, None, Norm::Rms, epsilon)
}

fn norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    norm: Norm,
    epsilon: f64,
) -> Tensor<D> {
    let (x, gamma) = (x.into_dispatch(), gamma.into_dispatch());
    Tensor::from_dispatch(<Dispatch as KernelOps>::kernel_norm(x, gamma, optional(beta), norm, epsilon))
}

/// Softmax over the last dimension.
pub fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as KernelOps>::kernel_softmax(x.into_dispatch()))
}

/// Scaled dot-product attention: `softmax(q·kᵀ / √width, hidden keys at −∞) · v`.
///
/// Heads of keys and values may serve groups of query heads: head `h` serves the queries `h·g .. (h+1)·g`.
///
/// # Shapes
/// - query: `[batch, heads, queries, width]`
/// - key, value: `[batch, kv_heads, keys, width]`, `heads` a multiple of `kv_heads`
/// - hidden: `[batch or 1, heads or 1, queries or 1, keys]`, true where a query may not see a key; a query that sees
///   none gets zeros
/// - output: `[batch, heads, queries, width]`
pub fn attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, hidden: Option<Tensor<4, Bool>>) -> Tensor<4> {
    let scale = 1.0 / (query.dims()[3] as f64).sqrt();
    let hidden = match hidden {
        Some(hidden) => HiddenKeys::Of(hidden.into_dispatch()),
        None => HiddenKeys::None,
    };
    Tensor::from_dispatch(<Dispatch as KernelOps>::kernel_attention(
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        hidden,
        scale,
    ))
}

/// `lhs·rhs` with equal leading dimensions, rounded once. In `f32` it is `f32` on every device, unless
/// [`set_tf32`] says otherwise.
///
/// # Shapes
/// - lhs: `[.., rows, inner]`
/// - rhs: `[.., inner, columns]`
/// - output: `[.., rows, columns]`
pub fn matmul<const D: usize>(lhs: Tensor<D>, rhs: Tensor<D>) -> Tensor<D> {
    let dtype = lhs.dtype();
    Tensor::from_dispatch(<Dispatch as KernelOps>::kernel_matmul(lhs.into_dispatch(), rhs.into_dispatch(), dtype))
}

/// [`matmul`] of operands in half precision with the result in `f32`, not rounded.
pub fn matmul_wide<const D: usize>(lhs: Tensor<D>, rhs: Tensor<D>) -> Tensor<D> {
    let dtype = fallback::wide_type(lhs.dtype());
    Tensor::from_dispatch(<Dispatch as KernelOps>::kernel_matmul(lhs.into_dispatch(), rhs.into_dispatch(), dtype))
}

/// Rotary position embedding of queries or keys: `x ⊙ cos + rotate_half(x) ⊙ sin`, where `rotate_half([a, b]) = [−b, a]`.
/// The tables are constants: they get no gradient.
///
/// # Shapes
/// - x, output: `[batch, heads, tokens, head_dim]`
/// - cos, sin: `[batch or 1, 1, tokens, head_dim]`, the second half of the last dimension the same as the first
pub fn rotate(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let (cos, sin) = (cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(<Dispatch as KernelOps>::kernel_rotate(x.into_dispatch(), cos, sin))
}

/// `activation(x·weight + bias)`.
///
/// # Shapes
/// - x: `[.., input]`
/// - weight: `[input, output]`, or what [`pack`] made of it
/// - bias: `[output]`
/// - output: `[.., output]`
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    activation: Activation,
) -> Tensor<D> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(<Dispatch as KernelOps>::kernel_linear(x, weight, optional(bias), activation))
}

/// `base + scale ⊙ (x·weight + bias)`.
///
/// # Shapes
/// - x: `[.., input]`
/// - weight: `[input, output]`, or what [`pack`] made of it
/// - bias, scale: `[output]`
/// - base, output: `[.., output]`
pub fn linear_residual<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    scale: Option<Tensor<1>>,
    base: Tensor<D>,
) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as KernelOps>::kernel_linear_residual(
        x.into_dispatch(),
        weight.into_dispatch(),
        optional(bias),
        optional(scale),
        base.into_dispatch(),
    ))
}

/// A weight as the products of its device read it fastest: `[input, output]` to `[1, input · output]`, or as it was where
/// there is no such order, as for anything but a matrix. [`linear`] and [`linear_residual`] take either.
///
/// The order is that of this processor, and of no use to anything else.
pub fn pack<const D: usize>(weight: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as KernelOps>::kernel_pack(weight.into_dispatch()))
}

fn optional(tensor: Option<Tensor<1>>) -> OptionalTensor<Dispatch> {
    tensor.map_or(OptionalTensor::Absent, |tensor| OptionalTensor::Present(tensor.into_dispatch()))
}
