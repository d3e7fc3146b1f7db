//! Activations, value by value.

use burn::tensor::DType;
use burn_cubecl::{
    cubecl::{
        self,
        ir::ElemType,
        prelude::*,
        std::tensor::layout::linear::{LinearView, LinearViewMut},
    },
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{common_vector_size, element_of, empty_like, threads, vector_size};

/// `x · Φ(x)`.
#[cube]
pub(super) fn gelu_of<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let half = Vector::<f32, N>::new(0.5f32);
    x * (Vector::erf(x * Vector::new(std::f32::consts::FRAC_1_SQRT_2)) * half + half)
}

#[cube(launch, address_type = "dynamic")]
fn gelu_kernel<F: Float, N: Size>(
    input: LinearView<'_, Vector<F, N>>,
    mut output: LinearViewMut<'_, Vector<F, N>>,
    #[define(F)] _element: ElemType,
) {
    if !output.is_in_bounds(ABSOLUTE_POS) {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(input.read(ABSOLUTE_POS));
    output.write(ABSOLUTE_POS, Vector::cast_from(gelu_of::<N>(x)));
}

#[cube(launch, address_type = "dynamic")]
fn swiglu_kernel<F: Float, N: Size>(
    gate: LinearView<'_, Vector<F, N>>,
    up: LinearView<'_, Vector<F, N>>,
    mut output: LinearViewMut<'_, Vector<F, N>>,
    #[define(F)] _element: ElemType,
) {
    if !output.is_in_bounds(ABSOLUTE_POS) {
        terminate!();
    }
    let gate = Vector::<f32, N>::cast_from(gate.read(ABSOLUTE_POS));
    let up = Vector::<f32, N>::cast_from(up.read(ABSOLUTE_POS));
    let one = Vector::<f32, N>::new(1.0f32);
    let sigmoid = one / (one + Vector::exp(-gate));
    output.write(ABSOLUTE_POS, Vector::cast_from(gate * sigmoid * up));
}

#[cube(launch, address_type = "dynamic")]
fn masked_kernel<F: Float, O: Float, N: Size>(
    input: LinearView<'_, Vector<F, N>>,
    mask: LinearView<'_, Vector<F, N>>,
    mut output: LinearViewMut<'_, Vector<O, N>>,
    #[define(F)] _element: ElemType,
    #[define(O)] _rounded: ElemType,
) {
    if !output.is_in_bounds(ABSOLUTE_POS) {
        terminate!();
    }
    output.write(ABSOLUTE_POS, Vector::cast_from(input.read(ABSOLUTE_POS) * mask.read(ABSOLUTE_POS)));
}

#[cube(launch, address_type = "dynamic")]
fn advance_kernel<F: Float, S: Float, N: Size>(
    input: LinearView<'_, Vector<F, N>>,
    slope: LinearView<'_, Vector<S, N>>,
    mut output: LinearViewMut<'_, Vector<F, N>>,
    divisor: f32,
    #[define(F)] _element: ElemType,
    #[define(S)] _narrow: ElemType,
) {
    if !output.is_in_bounds(ABSOLUTE_POS) {
        terminate!();
    }
    let step = Vector::<f32, N>::cast_from(slope.read(ABSOLUTE_POS)) / Vector::new(divisor);
    output.write(ABSOLUTE_POS, Vector::cast_from(Vector::<f32, N>::cast_from(input.read(ABSOLUTE_POS)) + step));
}

/// `x ⊙ mask` of one shape and type, the result in `dtype`.
pub(super) fn masked(x: CubeTensor, mask: CubeTensor, dtype: DType) -> CubeTensor {
    let out = empty_like(&x, dtype);
    let size = common_vector_size([&x, &mask, &out]);
    let (count, dim) = threads(&x, size);
    masked_kernel::launch(
        &x.client.clone(),
        count,
        dim,
        x.required_address_type(),
        size,
        x.clone().into_linear_view(),
        mask.into_linear_view(),
        out.clone().into_linear_view(),
        element_of(x.dtype),
        element_of(dtype),
    );
    out
}

/// `x + slope / divisor` of one shape.
pub(super) fn advance(x: CubeTensor, slope: CubeTensor, divisor: f64) -> CubeTensor {
    let out = empty_like(&x, x.dtype);
    let size = common_vector_size([&x, &slope, &out]);
    let (count, dim) = threads(&x, size);
    advance_kernel::launch(
        &x.client.clone(),
        count,
        dim,
        x.required_address_type(),
        size,
        x.clone().into_linear_view(),
        slope.clone().into_linear_view(),
        out.clone().into_linear_view(),
        divisor as f32,
        element_of(x.dtype),
        element_of(slope.dtype),
    );
    out
}

/// `x · Φ(x)`.
pub(super) fn gelu(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let (out, size) = (empty_like(&x, x.dtype), vector_size(&x));
    let (count, dim) = threads(&x, size);
    gelu_kernel::launch(
        &x.client.clone(),
        count,
        dim,
        x.required_address_type(),
        size,
        x.clone().into_linear_view(),
        out.clone().into_linear_view(),
        element_of(x.dtype),
    );
    out
}

/// `SiLU(gate) · up`.
pub(super) fn swiglu(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
    let (gate, up) = (into_contiguous(gate), into_contiguous(up));
    let (out, size) = (empty_like(&gate, gate.dtype), vector_size(&gate));
    let (count, dim) = threads(&gate, size);
    swiglu_kernel::launch(
        &gate.client.clone(),
        count,
        dim,
        gate.required_address_type(),
        size,
        gate.clone().into_linear_view(),
        up.into_linear_view(),
        out.clone().into_linear_view(),
        element_of(gate.dtype),
    );
    out
}
