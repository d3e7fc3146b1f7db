//! What follows a product: bias, activation, scale and residual, in one pass over its sums.

use burn::tensor::DType;
use burn_cubecl::{
    cubecl::{self, ir::ElemType, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{element_of, elementwise::gelu_of, empty_like, threads, vector_size};
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

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments, reason = "what may follow a product")]
fn epilogue_kernel<F: Float, N: Size>(
    sums: &Tensor<Vector<f32, N>>,
    bias: &Tensor<Vector<F, N>>,
    scale: &Tensor<Vector<F, N>>,
    base: &Tensor<Vector<F, N>>,
    output: &mut Tensor<Vector<F, N>>,
    #[comptime] columns: u32,
    #[comptime] has_bias: bool,
    #[comptime] is_gelu: bool,
    #[comptime] is_relu: bool,
    #[comptime] has_scale: bool,
    #[comptime] has_base: bool,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS >= output.len() {
        terminate!();
    }
    let column = ABSOLUTE_POS % columns as usize;
    let mut y = sums[ABSOLUTE_POS];
    if comptime!(has_bias) {
        y += Vector::<f32, N>::cast_from(bias[column]);
    }
    if comptime!(is_gelu) {
        y = gelu_of::<N>(y);
    }
    if comptime!(is_relu) {
        y = max(y, Vector::<f32, N>::new(0.0f32));
    }
    if comptime!(has_scale) {
        y *= Vector::<f32, N>::cast_from(scale[column]);
    }
    if comptime!(has_base) {
        y += Vector::<f32, N>::cast_from(base[ABSOLUTE_POS]);
    }
    output[ABSOLUTE_POS] = Vector::cast_from(y);
}

/// `base + scale ⊙ activation(sums + bias)`, whatever of it there is, rounded once to `dtype`, which bias, scale and base
/// have too.
pub(super) fn apply(sums: CubeTensor, epilogue: Epilogue, dtype: DType) -> CubeTensor {
    let Epilogue { bias, activation, scale, base } = epilogue;
    let sums = into_contiguous(sums);
    let out = empty_like(&sums, dtype);
    let size = vector_size(&sums).min(vector_size(&out));
    let columns = sums.meta.shape()[sums.meta.num_dims() - 1] / size;
    let (count, dim) = threads(&sums, size);
    let has = [&bias, &scale, &base].map(Option::is_some);
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
        has[0],
        activation == Activation::Gelu,
        activation == Activation::Relu,
        has[1],
        has[2],
        element_of(dtype),
    );
    out
}
