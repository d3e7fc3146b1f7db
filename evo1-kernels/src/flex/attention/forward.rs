//! The forward pass: blocks of queries against blocks of keys, with a running softmax.
//!
//! A block of queries is as wide as two vectors, one query in each lane. The scores of a block are computed transposed,
//! `[keys, queries]`: maximum, exponential and sum run along the keys without crossing lanes, and what they leave is
//! already the panel that the product with the values wants.
//!
//! What is packed of each number, and how tiles are multiplied, are the [`Products`]: in `f32`, or in pairs of `bf16` where
//! the processor multiplies those. Scores, exponentials and sums are `f32` in both.

use std::ops::Range;

use pulp::{Simd, WithSimd, bytemuck};
use rayon::prelude::*;

use half::bf16;

use super::{Heads, Hidden, lines_by_head};
use crate::flex::{
    element::{Element, converted},
    gemm::multiply,
    math::exp,
    scratch::Scratch,
};

/// Keys of a block, a multiple of any tile: its scores stay in the first-level cache.
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
        tasks.into_iter().for_each(Task::dispatch);
    } else {
        tasks.into_par_iter().for_each(Task::dispatch);
    }
    (out, log_sums)
}

/// How numbers are packed, and tiles of `TILE` keys, or channels of values, multiplied with a panel of queries. What is
/// packed takes the room of an `f32` each.
trait Products<S: Simd, const TILE: usize>: Copy {
    /// What is packed of a number.
    type Packed: Element;

    /// Neighbours along the inner dimension that are packed as one.
    const TERMS: usize;

    /// The product of a tile, `[depth, TILE]`, with a panel, `[depth, 2 vectors]`.
    fn multiply(self, simd: S, tile: &[f32], panel: &[f32]) -> [[S::f32s; 2]; TILE];

    /// Packs rows of two vectors in place.
    fn pack(self, rows: &mut [f32]);
}

/// Products in `f32`.
#[derive(Debug, Clone, Copy)]
struct Single;

/// Keys or channels of a tile in `f32`: as many as leave registers on every processor.
const SINGLE_TILE: usize = 6;

impl<S: Simd> Products<S, SINGLE_TILE> for Single {
    type Packed = f32;

    const TERMS: usize = 1;

    #[inline(always)]
    fn multiply(self, simd: S, tile: &[f32], panel: &[f32]) -> [[S::f32s; 2]; SINGLE_TILE] {
        multiply::<S, SINGLE_TILE>(simd, tile, panel)
    }

    #[inline(always)]
    fn pack(self, _: &mut [f32]) {}
}

#[cfg(target_arch = "x86_64")]
mod in_pairs {
    use pulp::{f32x16, x86::V4};

    use super::{Element, Products, Task, bf16};
    use crate::flex::pairs::{PairWork, Pairs};

    /// Keys or channels of a tile: what the widths of all heads are a multiple of.
    const TILE: usize = 8;

    impl Products<V4, TILE> for Pairs {
        type Packed = bf16;

        const TERMS: usize = 2;

        #[inline(always)]
        fn multiply(self, _: V4, tile: &[f32], panel: &[f32]) -> [[f32x16; 2]; TILE] {
            Self::multiply(self, tile, panel)
        }

        #[inline(always)]
        fn pack(self, rows: &mut [f32]) {
            self.narrow(rows);
        }
    }

    impl<E: Element> PairWork for Task<'_, E> {
        #[inline(always)]
        fn run(self, simd: V4, pairs: Pairs) {
            self.attend(simd, pairs);
        }
    }
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
    fn with_simd<S: Simd>(self, simd: S) {
        self.attend(simd, Single);
    }
}

impl<E: Element> Task<'_, E> {
    fn dispatch(self) {
        #[cfg(target_arch = "x86_64")]
        if E::IS_BF16
            && let Some(pairs) = crate::flex::pairs::Pairs::find()
        {
            return pairs.dispatch(self);
        }
        crate::flex::simd::arch().dispatch(self);
    }

    #[inline(always)]
    fn attend<S: Simd, P: Products<S, TILE>, const TILE: usize>(mut self, simd: S, products: P) {
        let panel = 2 * S::F32_LANES;
        let (width, value_width) = (self.query.width, self.value.width);
        let seen = self.seen_keys();
        let depth = width.div_ceil(P::TERMS);
        let value_rows = value_width.next_multiple_of(TILE);
        let keys = self.packed_keys::<S, P, TILE>(&seen);
        let values = self.packed_values::<S, P, TILE>(&seen);
        let mut queries = Scratch::new(depth * panel);
        let mut scores = Scratch::new(BLOCK_KEYS * panel);
        let mut sums = Scratch::new(value_rows * panel);
        for start in (0..self.queries.len()).step_by(panel) {
            let count = panel.min(self.queries.len() - start);
            let first = self.queries.start + start;
            self.pack_queries::<S, P, TILE>(first, count, &mut queries);
            sums.fill(0.0);
            let mut row = Running::<S>::new(simd, self.scale);
            for block in (0..seen.len()).step_by(BLOCK_KEYS) {
                let block = block..(block + BLOCK_KEYS).min(seen.len());
                let coverage = self.coverage(first, count, &seen[block.clone()]);
                if coverage == Coverage::All {
                    continue;
                }
                let tiles = &keys[block.start * depth..block.end.next_multiple_of(TILE) * depth];
                for (tile, scores) in tiles.chunks_exact(TILE * depth).zip(scores.chunks_exact_mut(TILE * panel)) {
                    let products = products.multiply(simd, tile, &queries);
                    let (scores, _) = S::as_mut_simd_f32s(scores);
                    scores.iter_mut().zip(products.as_flattened()).for_each(|(score, product)| *score = *product);
                }
                let scored = &mut scores[..block.len() * panel];
                if coverage == Coverage::Some {
                    self.hide(first, count, &seen[block.clone()], panel, scored);
                }
                let correction = row.add(simd, scored);
                // Keys past the end weigh nothing.
                let whole = block.len().next_multiple_of(P::TERMS);
                scores[block.len() * panel..whole * panel].fill(0.0);
                products.pack(&mut scores[..whole * panel]);
                let block_depth = whole / P::TERMS;
                let weights = &scores[..block_depth * panel];
                let tiles = &values[block.start / P::TERMS * value_rows..][..block_depth * value_rows];
                for (tile, sums) in tiles.chunks_exact(TILE * block_depth).zip(sums.chunks_exact_mut(TILE * panel)) {
                    let products = products.multiply(simd, tile, weights);
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

    /// Tiles of keys, `[tiles, width, TILE]` with neighbours of the width packed as one; keys past the end are zero.
    #[inline(always)]
    fn packed_keys<S: Simd, P: Products<S, TILE>, const TILE: usize>(&self, seen: &[usize]) -> Scratch {
        let width = self.key.width;
        let depth = width.div_ceil(P::TERMS);
        let mut packed = Scratch::new(seen.len().next_multiple_of(TILE) * depth);
        let source = self.key.of(self.sample, self.shared_head());
        for (keys, tile) in seen.chunks(TILE).zip(packed.chunks_exact_mut(TILE * depth)) {
            if keys.len() < TILE || !width.is_multiple_of(P::TERMS) {
                tile.fill(0.0);
            }
            for (row, key) in keys.iter().enumerate() {
                let source = &source[key * self.key.strides[2]..][..width];
                spread::<E, P::Packed>(source, P::TERMS, TILE, row, tile);
            }
        }
        packed
    }

    /// Blocks of values, `[blocks, tiles of channels, keys of the block, TILE]` with neighbours among the keys packed as
    /// one; channels and keys past the end are zero.
    #[inline(always)]
    fn packed_values<S: Simd, P: Products<S, TILE>, const TILE: usize>(&self, seen: &[usize]) -> Scratch {
        let width = self.value.width;
        let rows = width.next_multiple_of(TILE);
        let mut packed = Scratch::new(seen.len().div_ceil(P::TERMS) * rows);
        let source = self.value.of(self.sample, self.shared_head());
        for (keys, block) in seen.chunks(BLOCK_KEYS).zip(packed.chunks_mut(BLOCK_KEYS / P::TERMS * rows)) {
            let depth = keys.len().div_ceil(P::TERMS);
            if rows > width || !keys.len().is_multiple_of(P::TERMS) {
                block.fill(0.0);
            }
            let block: &mut [P::Packed] = bytemuck::cast_slice_mut(block);
            for (at, keys) in keys.chunks(P::TERMS).enumerate() {
                for (term, key) in keys.iter().enumerate() {
                    let source = &source[key * self.value.strides[2]..][..width];
                    for tile in 0..rows / TILE {
                        let column = &mut block[(tile * depth + at) * TILE * P::TERMS..][..TILE * P::TERMS];
                        let source = &source[tile * TILE..];
                        let mut put = |lane: usize, channel: E| column[lane * P::TERMS + term] = converted(channel);
                        match source.first_chunk::<TILE>() {
                            Some(whole) => (0..TILE).for_each(|lane| put(lane, whole[lane])),
                            None => source.iter().enumerate().for_each(|(lane, &channel)| put(lane, channel)),
                        }
                    }
                }
            }
        }
        packed
    }

    /// A block of queries transposed, `[width, panel]` with neighbours of the width packed as one; lanes past the end are
    /// zero.
    #[inline(always)]
    fn pack_queries<S: Simd, P: Products<S, TILE>, const TILE: usize>(
        &self,
        first: usize,
        count: usize,
        out: &mut [f32],
    ) {
        let (panel, width) = (2 * S::F32_LANES, self.query.width);
        let source = self.query.of(self.sample, self.head);
        if count < panel || !width.is_multiple_of(P::TERMS) {
            out.fill(0.0);
        }
        for lane in 0..count {
            let source = &source[(first + lane) * self.query.strides[2]..][..width];
            spread::<E, P::Packed>(source, P::TERMS, panel, lane, out);
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

/// Writes a row into one lane of `lanes`: `[depth, lanes]` with `terms` neighbours along the depth packed as one.
#[inline(always)]
fn spread<E: Element, P: Element>(row: &[E], terms: usize, lanes: usize, lane: usize, out: &mut [f32]) {
    let (whole, rest) = (row.chunks_exact(terms), row.chunks_exact(terms).remainder());
    let out: &mut [P] = bytemuck::cast_slice_mut(out);
    let mut out = out.chunks_exact_mut(lanes * terms).map(|out| &mut out[lane * terms..][..terms]);
    for (values, packed) in whole.zip(out.by_ref()) {
        (0..terms).for_each(|term| packed[term] = converted(values[term]));
    }
    if let Some(packed) = out.next() {
        packed.iter_mut().zip(rest).for_each(|(packed, &value)| *packed = converted(value));
    }
}

/// The softmax of a block of queries so far: the largest scaled score and the sum of exponentials relative to it, by lane.
struct Running<S: Simd> {
    scale: S::f32s,
    largest: [S::f32s; 2],
    total: [S::f32s; 2],
}

impl<S: Simd> Running<S> {
    #[inline(always)]
    fn new(simd: S, scale: f32) -> Self {
        let [lowest, zero] = [LOWEST, 0.0].map(|value| simd.splat_f32s(value));
        Self { scale: simd.splat_f32s(scale), largest: [lowest; 2], total: [zero; 2] }
    }

    /// Turns scores into exponentials and returns the factor for what was summed before.
    #[inline(always)]
    fn add(&mut self, simd: S, scores: &mut [f32]) -> [S::f32s; 2] {
        let (vectors, _) = S::as_mut_simd_f32s(scores);
        let (rows, _) = vectors.as_chunks_mut::<2>();
        let before = self.largest;
        let mut largest = [simd.splat_f32s(f32::NEG_INFINITY); 2];
        for [left, right] in rows.iter() {
            largest = [simd.max_f32s(largest[0], *left), simd.max_f32s(largest[1], *right)];
        }
        for half in 0..2 {
            self.largest[half] = simd.max_f32s(before[half], simd.mul_f32s(largest[half], self.scale));
        }
        let below = self.largest.map(|largest| simd.neg_f32s(largest));
        let mut correction = [simd.sub_f32s(before[0], self.largest[0]), simd.sub_f32s(before[1], self.largest[1])];
        exp_in_place::<S>(&mut correction);
        let mut total = [simd.splat_f32s(0.0); 2];
        for row in rows.iter_mut() {
            *row = [simd.mul_add_f32s(row[0], self.scale, below[0]), simd.mul_add_f32s(row[1], self.scale, below[1])];
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
