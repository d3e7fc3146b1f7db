//! Rotary position embedding.

use burn_cubecl::{
    cubecl::{self, ir::ElemType, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{element_of, empty_like, threads, vector_size};

/// A thread turns a vector of the first half of a row and the one of the second half that belongs to it.
#[cube(launch, address_type = "dynamic")]
fn rotate_kernel<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    cos: &Tensor<Vector<f32, N>>,
    sin: &Tensor<Vector<f32, N>>,
    output: &mut Tensor<Vector<F, N>>,
    #[comptime] heads: u32,
    #[comptime] rows: u32,
    #[comptime] half: u32,
    #[comptime] tables: u32,
    #[define(F)] _element: ElemType,
) {
    if 2 * ABSOLUTE_POS >= output.len() {
        terminate!();
    }
    let (half, rows, heads) = (half as usize, rows as usize, heads as usize);
    let at = ABSOLUTE_POS % half;
    let line = ABSOLUTE_POS / half;
    let row = line % rows;
    let head = line / rows % heads;
    let sample = line / rows / heads;
    let from = (sample * x.stride(0) + head * x.stride(1) + row * x.stride(2)) / N::value() + at;
    let table = ((sample % tables as usize) * rows + row) * 2 * half + at;
    let to = line * 2 * half + at;
    let first = Vector::<f32, N>::cast_from(x[from]);
    let second = Vector::<f32, N>::cast_from(x[from + half]);
    let (cos, sin) = (cos[table], sin[table]);
    output[to] = Vector::cast_from(first * cos - second * sin);
    output[to + half] = Vector::cast_from(second * cos + first * sin);
}

/// `x ⊙ cos + rotate_half(x) ⊙ sin` for `x` of `[batch, heads, rows, width]` where its heads lie, and tables
/// `[batch or 1, 1, rows, width]` in f32.
pub(super) fn rotate(x: CubeTensor, cos: CubeTensor, sin: CubeTensor) -> CubeTensor {
    let [_, heads, rows, width] = x.meta.shape()[..] else { unreachable!("it was looked at") };
    let (cos, sin) = (into_contiguous(cos), into_contiguous(sin));
    let out = empty_like(&x, x.dtype);
    // A half has to consist of whole vectors.
    let mut size = vector_size(&x).min(vector_size(&cos));
    while !(width / 2).is_multiple_of(size) {
        size /= 2;
    }
    let (count, dim) = threads(&x, 2 * size);
    rotate_kernel::launch(
        &x.client.clone(),
        count,
        dim,
        x.required_address_type(),
        size,
        x.clone().into_tensor_arg(),
        cos.clone().into_tensor_arg(),
        sin.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        heads as u32,
        rows as u32,
        (width / 2 / size) as u32,
        cos.meta.shape()[0] as u32,
        element_of(x.dtype),
    );
    out
}
