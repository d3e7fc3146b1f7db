//! The forward pass: blocks of queries against blocks of keys, with a running softmax.
//!
//! A block of queries is as wide as two vectors, one query in each lane. The scores of a block are computed transposed,
//! `[keys, queries]`: maximum, exponential and sum run along the keys without crossing lanes, and what they leave is
//! already the panel that the product with the values wants.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd, bytemuck};
use rayon::prelude::*;

use super::{Heads, Hidden, lines_by_head};
use crate::{element::Element, gemm::multiply, math::exp, scratch::Scratch};

/// Rows of keys or channels of values that are multiplied at once.
const TILE: usize = 6;

/// Keys of a block, a multiple of [`TILE`]: its scores stay in the first-level cache.
const BLOCK_KEYS: usize = 192;

/// Tasks for each thread, if there are queries enough: they even out what other programs take. Each packs the keys and
/// values of its head again.
const TASKS_PER_THREAD: usize = 4;

/// Queries that a task takes at least.
const TASK_QUERIES: usize = 256;

/// Multiplications below which one thread is faster than several.
const SMALL: usize = 1 << 18;

/// A score below any other. Not −∞, whose difference with itself is not a number.
const LOWEST: f32 = -1e30;

/// Attention of all heads. Heads of keys and values serve groups of query heads: head `h` of `kv` serves the queries
/// `h·g .. (h+1)·g`. A query that sees no key gets zeros.
///
/// # Shapes
/// - output: `[batch, queries, heads, value width]`
/// - the logarithm of the sum of a row's exponentials: `[batch, heads, queries]`
pub(crate) fn forward<E: Element>(
    query: Heads<E>,
    key: Heads<E>,
    value: Heads<E>,
    hidden: Option<Hidden>,
    scale: f32,
) -> (Vec<E>, Vec<f32>) {
    let (heads, queries, width) = (query.heads, query.rows, value.width);
    let mut out = vec![E::narrow(0.0); query.batch * queries * heads * width];
    let mut log_sums = vec![f32::NEG_INFINITY; query.batch * heads * queries];
    if out.is_empty() {
        return (out, log_sums);
    }
    let pieces = (TASKS_PER_THREAD * rayon::current_num_threads()).div_ceil(query.batch * heads);
    let piece_queries = queries.div_ceil(pieces).max(TASK_QUERIES);
    let mut tasks = Vec::new();
    let by_head = lines_by_head(&mut out, heads, queries, width).into_iter().zip(log_sums.chunks_mut(queries));
    for (at, (mut lines, log_sums)) in by_head.enumerate() {
        let (sample, head) = (at / heads, at % heads);
        for (piece, log_sums) in log_sums.chunks_mut(piece_queries).enumerate() {
            let rest = lines.split_off(log_sums.len());
            let first = piece * piece_queries;
            let queries = first..first + log_sums.len();
            let lines = std::mem::replace(&mut lines, rest);
            tasks.push(Task { query, key, value, hidden, scale, sample, head, queries, lines, log_sums });
        }
    }
    let work = query.batch * heads * queries * key.rows * (query.width + width);
    if work < SMALL || rayon::current_num_threads() == 1 {
        tasks.into_iter().for_each(|task| Arch::new().dispatch(task));
    } else {
        tasks.into_par_iter().for_each(|task| Arch::new().dispatch(task));
    }
    (out, log_sums)
}

/// Some queries of one head.
struct Task<'a, E> {
    query: Heads<'a, E>,
    key: Heads<'a, E>,
    value: Heads<'a, E>,
    hidden: Option<Hidden<'a>>,
    scale: f32,
    sample: usize,
    head: usize,
    queries: Range<usize>,
    lines: Vec<&'a mut [E]>,
    log_sums: &'a mut [f32],
}

impl<E: Element> WithSimd for Task<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let panel = 2 * S::F32_LANES;
        let (width, value_width) = (self.query.width, self.value.width);
        let seen = self.seen_keys();
        let (keys, values) = (self.packed_keys(&seen), self.packed_values(&seen));
        let value_rows = value_width.next_multiple_of(TILE);
        let mut queries = Scratch::new(width * panel);
        let mut scores = Scratch::new(BLOCK_KEYS * panel);
        let mut sums = Scratch::new(value_rows * panel);
        for start in (0..self.queries.len()).step_by(panel) {
            let count = panel.min(self.queries.len() - start);
            let first = self.queries.start + start;
            self.pack_queries(first, count, panel, &mut queries);
            sums.fill(0.0);
            let mut row = Running::<S>::new(simd);
            for block in (0..seen.len()).step_by(BLOCK_KEYS) {
                let block = block..(block + BLOCK_KEYS).min(seen.len());
                let coverage = self.coverage(first, count, &seen[block.clone()]);
                if coverage == Coverage::All {
                    continue;
                }
                let scores = &mut scores[..block.len() * panel];
                let tiles = &keys[block.start * width..block.end.next_multiple_of(TILE) * width];
                for (tile, scores) in tiles.chunks_exact(TILE * width).zip(scores.chunks_mut(TILE * panel)) {
                    let products = multiply::<S, TILE>(simd, tile, &queries);
                    let length = scores.len();
                    scores.copy_from_slice(&bytemuck::cast_slice(&products)[..length]);
                }
                if coverage == Coverage::Some {
                    self.hide(first, count, &seen[block.clone()], panel, scores);
                }
                let correction = row.add(simd, scores);
                let tiles = &values[block.start * value_rows..block.end * value_rows];
                for (tile, sums) in tiles.chunks_exact(TILE * block.len()).zip(sums.chunks_exact_mut(TILE * panel)) {
                    let products = multiply::<S, TILE>(simd, tile, scores);
                    let (sums, _) = S::as_mut_simd_f32s(sums);
                    for (sum, product) in sums.iter_mut().enumerate().zip(products.into_iter().flatten()) {
                        let (at, sum) = sum;
                        *sum = simd.mul_add_f32s(*sum, correction[at % 2], product);
                    }
                }
            }
            self.finish::<S>(start, count, &row, &sums);
        }
    }
}

/// How much of a block of scores is hidden.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coverage {
    None,
    Some,
    All,
}

impl<E: Element> Task<'_, E> {
    /// The keys that any query may see.
    #[inline(always)]
    fn seen_keys(&self) -> Vec<usize> {
        match self.hidden.filter(Hidden::is_of_keys) {
            Some(hidden) => {
                let row = hidden.row(self.sample, self.head, 0);
                (0..self.key.rows).filter(|&key| row[key] == 0).collect()
            }
            None => (0..self.key.rows).collect(),
        }
    }

    #[inline(always)]
    fn shared_head(&self) -> usize {
        self.head / (self.query.heads / self.key.heads)
    }

    /// Tiles of keys, `[tiles, width, TILE]`.
    #[inline(always)]
    fn packed_keys(&self, seen: &[usize]) -> Scratch {
        let width = self.key.width;
        let mut packed = Scratch::new(seen.len().next_multiple_of(TILE) * width);
        let source = self.key.of(self.sample, self.shared_head());
        for (keys, tile) in seen.chunks(TILE).zip(packed.chunks_exact_mut(TILE * width)) {
            let (columns, _) = tile.as_chunks_mut::<TILE>();
            for row in 0..TILE {
                match keys.get(row) {
                    Some(key) => {
                        let source = &source[key * self.key.strides[2]..][..width];
                        columns.iter_mut().zip(source).for_each(|(column, value)| column[row] = value.widen());
                    }
                    None => columns.iter_mut().for_each(|column| column[row] = 0.0),
                }
            }
        }
        packed
    }

    /// Blocks of values, `[blocks, tiles of channels, keys of the block, TILE]`; channels past the end are zero.
    #[inline(always)]
    fn packed_values(&self, seen: &[usize]) -> Scratch {
        let width = self.value.width;
        let rows = width.next_multiple_of(TILE);
        let mut packed = Scratch::new(seen.len() * rows);
        let source = self.value.of(self.sample, self.shared_head());
        for (keys, block) in seen.chunks(BLOCK_KEYS).zip(packed.chunks_mut(BLOCK_KEYS * rows)) {
            let (columns, _) = block.as_chunks_mut::<TILE>();
            for (at, key) in keys.iter().enumerate() {
                let source = &source[key * self.value.strides[2]..][..width];
                let (whole, rest) = source.as_chunks::<TILE>();
                for (tile, channels) in whole.iter().enumerate() {
                    for (value, channel) in columns[tile * keys.len() + at].iter_mut().zip(channels) {
                        *value = channel.widen();
                    }
                }
                if !rest.is_empty() {
                    let column = &mut columns[whole.len() * keys.len() + at];
                    *column = [0.0; TILE];
                    column.iter_mut().zip(rest).for_each(|(value, channel)| *value = channel.widen());
                }
            }
        }
        packed
    }

    /// A block of queries transposed and scaled, `[width, panel]`; lanes past the end are zero.
    #[inline(always)]
    fn pack_queries(&self, first: usize, count: usize, panel: usize, out: &mut [f32]) {
        let source = self.query.of(self.sample, self.head);
        if count < panel {
            out.fill(0.0);
        }
        for lane in 0..count {
            let source = &source[(first + lane) * self.query.strides[2]..][..self.query.width];
            for (line, value) in out.chunks_exact_mut(panel).zip(source) {
                line[lane] = value.widen() * self.scale;
            }
        }
    }

    /// How much of a block is hidden by a mask that differs from query to query.
    #[inline(always)]
    fn coverage(&self, first: usize, count: usize, keys: &[usize]) -> Coverage {
        let Some(hidden) = self.hidden.filter(|hidden| !hidden.is_of_keys()) else { return Coverage::None };
        // No key was left out, so that the keys of the block follow each other.
        let keys = keys[0]..keys[0] + keys.len();
        let rows = || (first..first + count).map(|query| &hidden.row(self.sample, self.head, query)[keys.clone()]);
        if rows().all(|row| row.iter().all(|&hidden| hidden == 0)) {
            Coverage::None
        } else if rows().all(|row| row.iter().all(|&hidden| hidden != 0)) {
            Coverage::All
        } else {
            Coverage::Some
        }
    }

    #[inline(always)]
    fn hide(&self, first: usize, count: usize, keys: &[usize], panel: usize, scores: &mut [f32]) {
        let Some(hidden) = self.hidden else { return };
        for lane in 0..count {
            let row = &hidden.row(self.sample, self.head, first + lane)[keys[0]..][..keys.len()];
            for (scores, &hidden) in scores.chunks_exact_mut(panel).zip(row) {
                if hidden != 0 {
                    scores[lane] = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// Divides by the sums and writes the rows of the result.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, start: usize, count: usize, row: &Running<S>, sums: &[f32]) {
        let panel = 2 * S::F32_LANES;
        let (totals, largest): (&[f32], &[f32]) =
            (bytemuck::cast_slice(&row.total), bytemuck::cast_slice(&row.largest));
        for lane in 0..count {
            let total = totals[lane];
            let scale = if total > 0.0 { 1.0 / total } else { 0.0 };
            for (out, sums) in self.lines[start + lane].iter_mut().zip(sums.chunks_exact(panel)) {
                *out = E::narrow(sums[lane] * scale);
            }
            self.log_sums[start + lane] = if total > 0.0 { largest[lane] + total.ln() } else { f32::NEG_INFINITY };
        }
    }
}

/// The softmax of a block of queries so far: the largest score and the sum of exponentials relative to it, by lane.
struct Running<S: Simd> {
    largest: [S::f32s; 2],
    total: [S::f32s; 2],
}

impl<S: Simd> Running<S> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        Self { largest: [simd.splat_f32s(LOWEST); 2], total: [simd.splat_f32s(0.0); 2] }
    }

    /// Turns scores into exponentials and returns the factor for what was summed before.
    #[inline(always)]
    fn add(&mut self, simd: S, scores: &mut [f32]) -> [S::f32s; 2] {
        let (vectors, _) = S::as_mut_simd_f32s(scores);
        let (rows, _) = vectors.as_chunks_mut::<2>();
        let before = self.largest;
        for [left, right] in rows.iter() {
            let [largest_left, largest_right] = self.largest;
            self.largest = [simd.max_f32s(largest_left, *left), simd.max_f32s(largest_right, *right)];
        }
        let mut correction = [simd.sub_f32s(before[0], self.largest[0]), simd.sub_f32s(before[1], self.largest[1])];
        exp_in_place::<S>(&mut correction);
        let mut total = [simd.splat_f32s(0.0); 2];
        for row in rows.iter_mut() {
            *row = [simd.sub_f32s(row[0], self.largest[0]), simd.sub_f32s(row[1], self.largest[1])];
            exp_in_place::<S>(row);
            total = [simd.add_f32s(total[0], row[0]), simd.add_f32s(total[1], row[1])];
        }
        for half in 0..2 {
            self.total[half] = simd.mul_add_f32s(self.total[half], correction[half], total[half]);
        }
        correction
    }
}

#[inline(always)]
fn exp_in_place<S: Simd>(vectors: &mut [S::f32s; 2]) {
    let values: &mut [f32] = bytemuck::cast_slice_mut(vectors);
    for value in values {
        *value = exp(*value);
    }
}
