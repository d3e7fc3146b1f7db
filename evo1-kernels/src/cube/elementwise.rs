//! Activations, value by value.

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

use super::{element_of, empty_like, threads, vector_size};

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
