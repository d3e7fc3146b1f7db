//! The kernels as operations of burn's backends.
//!
//! Every operation has a default made of burn's own operations: the fallback on devices without a kernel, and the
//! reference that the kernels are tested against. Gradients are formulas too, kernel or not, so that a device without
//! kernels trains with the same arithmetic.

use burn::{
    backend::{
        Backend, ExtensionType, backend_extension,
        tensor::{BoolTensor, FloatTensor},
    },
    tensor::DType,
};

use crate::fallback;

/// A tensor that may be absent.
#[derive(Debug, Clone, ExtensionType)]
pub enum OptionalTensor<B: Backend> {
    /// There is none.
    Absent,
    /// There is one.
    Present(FloatTensor<B>),
}

impl<B: Backend> OptionalTensor<B> {
    /// The tensor as an option.
    pub fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Self::Absent => None,
            Self::Present(tensor) => Some(tensor),
        }
    }
}

/// Which keys an attention may not see.
#[derive(Debug, Clone, ExtensionType)]
pub enum HiddenKeys<B: Backend> {
    /// All are seen.
    None,
    /// `[batch or 1, heads or 1, queries or 1, keys]`, true where hidden.
    Of(BoolTensor<B>),
}

/// A function applied to every element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Activation {
    /// The element itself.
    #[default]
    None,
    /// `x · Φ(x)`.
    Gelu,
    /// `max(x, 0)`.
    Relu,
}

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// `(x − mean) / √(variance + ε)`.
    Layer,
    /// `x / √(mean of squares + ε)`.
    Rms,
}

/// The numbers of a step of AdamW (arXiv 1711.05101) that are the same for all values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// β₁ and β₂.
    pub betas: [f32; 2],
    /// `1 − β₁ᵗ` and `1 − β₂ᵗ` of the step number t, counted from 1.
    pub corrections: [f32; 2],
    /// ε.
    pub epsilon: f32,
    /// The learning rate.
    pub learning_rate: f32,
    /// What weight decay leaves of a weight: `1 − learning rate · decay`.
    pub kept: f32,
}

/// Operations that have kernels on some devices.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
)]
pub trait KernelOps: Backend {
    /// `lhs·rhs` of one type, with equal leading dimensions, rounded once to `dtype`: its own or, of a half type, `f32`.
    fn kernel_matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        fallback::matmul::<Self>(lhs, rhs, dtype)
    }

    /// `x · Φ(x)`.
    ///
    /// Composed of `erf`, because burn's own `gelu` differentiates the tanh approximation on most devices.
    fn kernel_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        fallback::gelu::<Self>(x)
    }

    /// `grad · (Φ(x) + x · φ(x))`.
    fn kernel_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        fallback::gelu_backward::<Self>(x, grad)
    }

    /// `SiLU(gate) · up`.
    fn kernel_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        fallback::swiglu::<Self>(gate, up)
    }

    /// The gradients of `gate` and `up`.
    fn kernel_swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        fallback::swiglu_backward::<Self>(gate, up, grad)
    }

    /// A step of AdamW: the weight and its two moments after it. It has no gradient of its own.
    fn kernel_adamw(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moment_1: FloatTensor<Self>,
        moment_2: FloatTensor<Self>,
        step: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        fallback::adamw::<Self>(weight, gradient, [moment_1, moment_2], step)
    }

    /// `x ⊙ mask` for a mask of zeros and ones in the type of `x`, and the result in another type.
    fn kernel_masked(x: FloatTensor<Self>, mask: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        fallback::masked::<Self>(x, mask, dtype)
    }

    /// `x + slope / divisor` in the type of `x`, for a slope of that or a narrower type.
    fn kernel_advance(x: FloatTensor<Self>, slope: FloatTensor<Self>, divisor: f64) -> FloatTensor<Self> {
        fallback::advance::<Self>(x, slope, divisor)
    }

    /// `norm(x) ⊙ gamma + beta` over the last dimension.
    fn kernel_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        #[extension_type] beta: OptionalTensor<Self>,
        norm: Norm,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        fallback::norm::<Self>(x, gamma, beta, norm, epsilon)
    }

    /// [`Self::kernel_norm`] plus `added`, whose dimensions are the norm's or 1.
    fn kernel_norm_added(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        #[extension_type] beta: OptionalTensor<Self>,
        added: FloatTensor<Self>,
        norm: Norm,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        fallback::norm_added::<Self>(x, gamma, beta, added, norm, epsilon)
    }

    /// The gradients of x, gamma and beta.
    fn kernel_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        norm: Norm,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        fallback::norm_backward::<Self>(x, gamma, grad, norm, epsilon)
    }

    /// Softmax over the last dimension.
    fn kernel_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        fallback::softmax::<Self>(x)
    }

    /// The gradient of x from softmax's result `y`.
    fn kernel_softmax_backward(y: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        fallback::softmax_backward::<Self>(y, grad)
    }

    /// `x ⊙ cos + rotate_half(x) ⊙ sin` for `x` of `[batch, heads, tokens, head_dim]` and tables that broadcast to it, whose
    /// halves along the last dimension are the same.
    fn kernel_rotate(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        fallback::rotate::<Self>(x, cos, sin)
    }

    /// Scaled dot-product attention; heads of keys and values may serve groups of query heads.
    fn kernel_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        #[extension_type] hidden: HiddenKeys<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        fallback::attention::<Self>(query, key, value, hidden, scale)
    }

    /// [`Self::kernel_attention`], and the logarithms of the sums of the rows' exponentials, `[batch, heads, queries]`.
    fn kernel_attention_with_sums(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        #[extension_type] hidden: HiddenKeys<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        fallback::attention_with_sums::<Self>(query, key, value, hidden, scale)
    }

    /// The gradients of query, key and value.
    #[allow(clippy::too_many_arguments, reason = "what the forward pass had, and what it made")]
    fn kernel_attention_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        #[extension_type] hidden: HiddenKeys<Self>,
        scale: f64,
        out: FloatTensor<Self>,
        log_sums: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        fallback::attention_backward::<Self>(query, key, value, hidden, scale, out, log_sums, grad)
    }

    /// `activation(x·weight + bias)`.
    fn kernel_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: OptionalTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        fallback::linear::<Self>(x, weight, bias, activation)
    }

    /// A weight as this device's [`Self::kernel_linear`] reads it fastest: itself, or all its values in one row.
    fn kernel_pack(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        weight
    }

    /// The inverse of [`Self::kernel_pack`], for a weight of `inputs` rows.
    ///
    /// A device that packs none may be given one that was moved to it: it is unpacked on the host, at every use.
    fn kernel_unpack(weight: FloatTensor<Self>, inputs: usize) -> FloatTensor<Self> {
        fallback::unpack::<Self>(weight, inputs)
    }

    /// The gradients of weight and bias of [`Self::kernel_linear`] without an activation.
    fn kernel_linear_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        fallback::linear_backward::<Self>(x, grad)
    }

    /// `base + scale ⊙ (x·weight + bias)`.
    fn kernel_linear_residual(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: OptionalTensor<Self>,
        #[extension_type] scale: OptionalTensor<Self>,
        base: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        fallback::linear_residual::<Self>(x, weight, bias, scale, base)
    }
}

#[cfg(feature = "ndarray")]
#[allow(deprecated, reason = "kept for comparison, as the device is")]
impl KernelOps for burn::backend::NdArray {}
