//! The backward pass, head by head.
//!
//! With P the weights, O the output and D the row sums of `∂O ⊙ O`: `∂V = Pᵀ·∂O`, `∂S = P ⊙ (∂O·Vᵀ − D) · scale`,
//! `∂Q = ∂S·K`, `∂K = ∂Sᵀ·Q`. P is computed again from the scores and the stored logarithms of the row sums.

use rayon::prelude::*;

use super::{Heads, Hidden, lines_by_head};
use crate::flex::{
    gemm::{Epilogue, multiply_lines},
    math::exp,
    scratch::Scratch,
    simd::Vectorized,
};

/// Multiplications below which one thread is faster than several.
const SMALL: usize = 1 << 18;

/// The gradients of queries `[batch, queries, heads, width]`, keys `[batch, keys, kv heads, width]` and values
/// `[batch, keys, kv heads, value width]`.
pub(crate) struct Gradients {
    pub(crate) query: Vec<f32>,
    pub(crate) key: Vec<f32>,
    pub(crate) value: Vec<f32>,
}

/// The gradients of [`forward`](super::forward()) from its result, its logarithms of sums and its result's gradient.
#[allow(clippy::too_many_arguments, reason = "what the forward pass had, and what it made")]
pub(crate) fn backward(
    query: Heads,
    key: Heads,
    value: Heads,
    hidden: Option<Hidden>,
    scale: f32,
    out: Heads,
    log_sums: &[f32],
    grad: Heads,
) -> Gradients {
    let (heads, kv_heads) = (query.heads, key.heads);
    let zeros = |of: &Heads| vec![0.0; of.batch * of.rows * of.heads * of.width];
    let mut gradients = Gradients { query: zeros(&query), key: zeros(&key), value: zeros(&value) };
    if gradients.query.is_empty() || gradients.key.is_empty() || gradients.value.is_empty() {
        return gradients;
    }
    let mut of_queries = lines_by_head(&mut gradients.query, heads, query.rows, query.width).into_iter();
    let of_keys = lines_by_head(&mut gradients.key, kv_heads, key.rows, key.width);
    let of_values = lines_by_head(&mut gradients.value, kv_heads, value.rows, value.width);
    let group = heads / kv_heads;
    let tasks: Vec<Task> = of_keys
        .into_iter()
        .zip(of_values)
        .enumerate()
        .map(|(at, (of_key, of_value))| Task {
            at,
            of_queries: of_queries.by_ref().take(group).collect(),
            of_key,
            of_value,
        })
        .collect();
    let run = |Task { at, of_queries, mut of_key, mut of_value }: Task| {
        let (sample, kv_head) = (at / kv_heads, at % kv_heads);
        let (keys, values) = (key.matrix(sample, kv_head), value.matrix(sample, kv_head));
        let size = query.rows * key.rows;
        let (mut weights, mut of_scores) = (Scratch::new(size), Scratch::new(size));
        for (member, mut of_query) in of_queries.into_iter().enumerate() {
            let head = kv_head * group + member;
            let (queries, grads) = (query.matrix(sample, head), grad.matrix(sample, head));
            multiply_lines(queries, keys.transposed(), &mut lines(&mut weights, key.rows), &Epilogue::NONE);
            multiply_lines(grads, values.transposed(), &mut lines(&mut of_scores, key.rows), &Epilogue::NONE);
            for row in 0..query.rows {
                let at = |heads: &Heads| row * heads.strides[2];
                WeightsAndScores {
                    weights: &mut weights[row * key.rows..][..key.rows],
                    of_scores: &mut of_scores[row * key.rows..][..key.rows],
                    hidden: hidden.map(|hidden| hidden.row(sample, head, row)),
                    log_sum: log_sums[(sample * heads + head) * query.rows + row],
                    scale,
                    out: &out.of(sample, head)[at(&out)..][..out.width],
                    grad: &grad.of(sample, head)[at(&grad)..][..grad.width],
                }
                .dispatch();
            }
            let matrix = |data| crate::flex::gemm::Matrix::row_major(data, query.rows, key.rows);
            let adds = Epilogue { accumulates: true, ..Epilogue::NONE };
            multiply_lines(matrix(&weights).transposed(), grads, &mut of_value, &adds);
            multiply_lines(matrix(&of_scores), keys, &mut of_query, &Epilogue::NONE);
            multiply_lines(matrix(&of_scores).transposed(), queries, &mut of_key, &adds);
        }
    };
    let work = query.batch * heads * query.rows * key.rows * (query.width + value.width);
    if work < SMALL || rayon::current_num_threads() == 1 {
        tasks.into_iter().for_each(run);
    } else {
        tasks.into_par_iter().for_each(run);
    }
    gradients
}

/// A head of keys and values, with the gradients of its own and of the queries that it serves.
struct Task<'a> {
    /// Number of the head over all samples.
    at: usize,
    of_queries: Vec<Vec<&'a mut [f32]>>,
    of_key: Vec<&'a mut [f32]>,
    of_value: Vec<&'a mut [f32]>,
}

fn lines(matrix: &mut [f32], width: usize) -> Vec<&mut [f32]> {
    matrix.chunks_exact_mut(width).collect()
}

/// One row: scores become weights, and the gradients of weights become those of scores.
struct WeightsAndScores<'a> {
    weights: &'a mut [f32],
    of_scores: &'a mut [f32],
    hidden: Option<&'a [u8]>,
    log_sum: f32,
    scale: f32,
    out: &'a [f32],
    grad: &'a [f32],
}

impl Vectorized for WeightsAndScores<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { weights, of_scores, hidden, log_sum, scale, out, grad } = self;
        // A query that saw nothing has no gradient.
        let (offset, factor) = if log_sum.is_finite() { (log_sum, 1.0) } else { (0.0, 0.0) };
        for weight in weights.iter_mut() {
            *weight = exp(weight.mul_add(scale, -offset)) * factor;
        }
        if let Some(hidden) = hidden {
            for (weight, &hidden) in weights.iter_mut().zip(hidden) {
                *weight = if hidden == 0 { *weight } else { 0.0 };
            }
        }
        let along: f32 = out.iter().zip(grad).map(|(out, grad)| out * grad).sum();
        for (of_score, weight) in of_scores.iter_mut().zip(weights) {
            *of_score = *weight * (*of_score - along) * scale;
        }
    }
}
