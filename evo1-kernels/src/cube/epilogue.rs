//! What follows a product: bias, activation, scale and residual, in one pass over its sums.

use burn::tensor::{DType, Shape};
use burn_cubecl::{
    cubecl::{self, ir::ElemType, prelude::*},
    kernel::into_contiguous,
    ops::numeric::empty_device_contiguous_dtype,
    tensor::CubeTensor,
};

use super::{element_of, elementwise::gelu_of, threads, vector_size};
use crate::backend::Activation;

/// What is done with sums.
#[derive(Debug, Clone, Default)]
pub(super) struct Epilogue {
    /// `[columns]`
    pub(super) bias: Option<CubeTensor>,
    pub(super) activation: Activation,
    /// `[columns]`
    pub(super) scale: Option<CubeTensor>,
    /// Of the sums' shape.
    pub(super) base: Option<CubeTensor>,
}

/// Which of it there is, known when a kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Followed {
    has_bias: bool,
    activation: Activation,
    has_scale: bool,
    has_base: bool,
}

impl Epilogue {
    pub(super) fn is_empty(&self) -> bool {
        let Self { bias, activation, scale, base } = self;
        bias.is_none() && scale.is_none() && base.is_none() && *activation == Activation::None
    }

    pub(super) fn followed(&self) -> Followed {
        Followed {
            has_bias: self.bias.is_some(),
            activation: self.activation,
            has_scale: self.scale.is_some(),
            has_base: self.base.is_some(),
        }
    }
}

/// What follows sums, which are those of the vectors `column` of a row and `at` of the whole result.
#[cube]
pub(super) fn follow<F: Float, N: Size>(
    sums: Vector<f32, N>,
    bias: &Tensor<Vector<F, N>>,
    scale: &Tensor<Vector<F, N>>,
    base: &Tensor<Vector<F, N>>,
    column: usize,
    at: usize,
    #[comptime] followed: Followed,
) -> Vector<f32, N> {
    let mut y = sums;
    if comptime!(followed.has_bias) {
        y += Vector::<f32, N>::cast_from(bias[column]);
    }
    if comptime!(followed.activation == Activation::Gelu) {
        y = gelu_of::<N>(y);
    }
    if comptime!(followed.activation == Activation::Relu) {
        y = max(y, Vector::<f32, N>::new(0.0f32));
    }
    if comptime!(followed.has_scale) {
        y *= Vector::<f32, N>::cast_from(scale[column]);
    }
    if comptime!(followed.has_base) {
        y += Vector::<f32, N>::cast_from(base[at]);
    }
    y
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments, reason = "what may follow a product")]
fn epilogue_kernel<F: Float, N: Size>(
    sums: &Tensor<Vector<f32, N>>,
    bias: &Tensor<Vector<F, N>>,
    scale: &Tensor<Vector<F, N>>,
    base: &Tensor<Vector<F, N>>,
    output: &mut Tensor<Vector<F, N>>,
    #[comptime] columns: u32,
    #[comptime] parts: u32,
    #[comptime] followed: Followed,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS >= output.len() {
        terminate!();
    }
    let mut sum = sums[ABSOLUTE_POS];
    #[unroll]
    for part in 1..parts {
        sum += sums[part as usize * output.len() + ABSOLUTE_POS];
    }
    let column = ABSOLUTE_POS % columns as usize;
    output[ABSOLUTE_POS] = Vector::cast_from(follow::<F, N>(sum, bias, scale, base, column, ABSOLUTE_POS, followed));
}

/// `base + scale ⊙ activation(sums + bias)`, whatever of it there is, rounded once to `dtype`, which bias, scale and base
/// have too. `sums`: of the result's shape, or `[parts, ..]`, which are added.
pub(super) fn apply(sums: CubeTensor, shape: Shape, epilogue: Epilogue, dtype: DType) -> CubeTensor {
    let followed = epilogue.followed();
    let Epilogue { bias, scale, base, .. } = epilogue;
    let sums = into_contiguous(sums);
    let out = empty_device_contiguous_dtype(sums.client.clone(), sums.device.clone(), shape, dtype);
    let size = vector_size(&sums).min(vector_size(&out));
    let columns = out.meta.shape()[out.meta.num_dims() - 1] / size;
    let parts = sums.meta.num_elements() / out.meta.num_elements();
    let (count, dim) = threads(&out, size);
    // What is absent is not read: any tensor of the type stands for it.
    let [bias, scale, base] = [bias, scale, base].map(|given| given.map_or_else(|| out.clone(), into_contiguous));
    epilogue_kernel::launch(
        &sums.client.clone(),
        count,
        dim,
        sums.required_address_type(),
        size,
        sums.into_tensor_arg(),
        bias.into_tensor_arg(),
        scale.into_tensor_arg(),
        base.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        columns as u32,
        parts as u32,
        followed,
        element_of(dtype),
    );
    out
}
