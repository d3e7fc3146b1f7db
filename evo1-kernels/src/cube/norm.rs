//! Norms: a cube of threads for each row.

use burn_cubecl::{
    cubecl::{self, features::Plane, ir::ElemType, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{cubes, element_of, empty_like, vector_size};
use crate::backend::Norm;

/// Threads of a row.
const THREADS: u32 = 128;

/// The sum of a vector of each thread, given to all. `planes` of a cube add theirs by themselves, where that is not 0.
#[cube]
fn sum_of_cube<N: Size>(value: Vector<f32, N>, partial: &mut Shared<[f32]>, #[comptime] planes: u32) -> f32 {
    let sum = RuntimeCell::<f32>::new(0.0f32);
    #[unroll]
    for at in 0..N::value() {
        sum.store(sum.read() + value.extract(at));
    }
    let total = RuntimeCell::<f32>::new(0.0f32);
    if comptime!(planes > 0) {
        let of_plane = plane_sum(sum.consume());
        if UNIT_POS_PLANE == 0 {
            partial[(UNIT_POS / PLANE_DIM) as usize] = of_plane;
        }
        sync_cube();
        #[unroll]
        for plane in 0..planes {
            total.store(total.read() + partial[plane as usize]);
        }
    } else {
        partial[UNIT_POS as usize] = sum.consume();
        sync_cube();
        let mut active = CUBE_DIM / 2;
        while active > 0 {
            if UNIT_POS < active {
                let other = partial[(UNIT_POS + active) as usize];
                partial[UNIT_POS as usize] += other;
            }
            sync_cube();
            active /= 2;
        }
        total.store(partial[0]);
    }
    // Before the next sum writes there.
    sync_cube();
    total.consume()
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments, reason = "what a norm is given")]
fn norm_kernel<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    gamma: &Tensor<Vector<F, N>>,
    beta: &Tensor<Vector<F, N>>,
    added: &Tensor<Vector<F, N>>,
    output: &mut Tensor<Vector<F, N>>,
    epsilon: f32,
    #[comptime] vectors: u32,
    #[comptime] threads: u32,
    #[comptime] planes: u32,
    #[comptime] is_centered: bool,
    #[comptime] has_beta: bool,
    // Rows that share a vector that is added; 0 where none is.
    #[comptime] sharing: u32,
    #[define(F)] _element: ElemType,
) {
    let row = CUBE_POS * vectors as usize;
    if row >= output.len() {
        terminate!();
    }
    let mut partial = Shared::new_slice(threads as usize);
    let count = comptime!(vectors as f32) * N::value() as f32;
    // The vectors of a row that are this thread's stay with it.
    let turns = comptime!(vectors.div_ceil(threads));
    let mut values = Array::<Vector<f32, N>>::new(comptime!(turns as usize));
    let mut sum = Vector::<f32, N>::new(0.0f32);
    #[unroll]
    for turn in 0..turns {
        let at = UNIT_POS + comptime!(turn * threads);
        let mut value = Vector::<f32, N>::new(0.0f32);
        if comptime!((turn + 1) * threads <= vectors) || at < vectors {
            value = Vector::<f32, N>::cast_from(x[row + at as usize]);
        }
        sum += value;
        values[turn as usize] = value;
    }
    let mean = RuntimeCell::<f32>::new(0.0f32);
    if comptime!(is_centered) {
        mean.store(sum_of_cube::<N>(sum, &mut partial, planes) / count);
    }
    let mean = Vector::<f32, N>::new(mean.consume());
    let mut squares = Vector::<f32, N>::new(0.0f32);
    #[unroll]
    for turn in 0..turns {
        let at = UNIT_POS + comptime!(turn * threads);
        if comptime!((turn + 1) * threads <= vectors) || at < vectors {
            let value = values[turn as usize] - mean;
            squares += value * value;
        }
    }
    let variance = sum_of_cube::<N>(squares, &mut partial, planes) / count;
    let scale = Vector::<f32, N>::new(1.0f32 / (variance + epsilon).sqrt());
    #[unroll]
    for turn in 0..turns {
        let at = UNIT_POS + comptime!(turn * threads);
        if comptime!((turn + 1) * threads <= vectors) || at < vectors {
            let mut y = (values[turn as usize] - mean) * scale * Vector::<f32, N>::cast_from(gamma[at as usize]);
            if comptime!(has_beta) {
                y += Vector::<f32, N>::cast_from(beta[at as usize]);
            }
            if comptime!(sharing > 0) {
                let sample = CUBE_POS / comptime!(sharing.max(1)) as usize * vectors as usize;
                y += Vector::<f32, N>::cast_from(added[(sample + at as usize) % added.len()]);
            }
            output[row + at as usize] = Vector::cast_from(y);
        }
    }
}

/// `norm(x) ⊙ gamma + beta + added` over the last dimension, all of one type; `added`: `[samples or 1, 1, width]`.
pub(super) fn norm(
    x: CubeTensor,
    gamma: CubeTensor,
    beta: Option<CubeTensor>,
    added: Option<CubeTensor>,
    norm: Norm,
    epsilon: f64,
) -> CubeTensor {
    let [x, gamma] = [x, gamma].map(into_contiguous);
    let dims = x.meta.num_dims();
    let sharing = if added.is_some() { x.meta.shape()[dims - 2] } else { 0 };
    let added = added.map_or_else(|| gamma.clone(), into_contiguous);
    let has_beta = beta.is_some();
    let beta = beta.map_or_else(|| gamma.clone(), into_contiguous);
    let (out, size) = (empty_like(&x, x.dtype), vector_size(&x));
    let width = x.meta.shape()[x.meta.num_dims() - 1];
    let rows = x.meta.num_elements() / width;
    let (hardware, features) = (&x.client.properties().hardware, x.client.features());
    let has_planes = features.plane.contains(Plane::Ops) && hardware.plane_size_min == hardware.plane_size_max;
    let planes = if has_planes { THREADS / hardware.plane_size_max } else { 0 };
    norm_kernel::launch(
        &x.client.clone(),
        cubes(rows),
        CubeDim::new_1d(THREADS),
        x.required_address_type(),
        size,
        x.clone().into_tensor_arg(),
        gamma.into_tensor_arg(),
        beta.into_tensor_arg(),
        added.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        epsilon as f32,
        (width / size) as u32,
        THREADS,
        planes,
        norm == Norm::Layer,
        has_beta,
        sharing as u32,
        element_of(x.dtype),
    );
    out
}
