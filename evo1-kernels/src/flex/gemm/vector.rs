//! Products of one row or a few: every weight is read once and used at once, at the speed of the memory.

use std::ops::Range;

use rayon::prelude::*;

use super::{Epilogue, Matrix};
use crate::flex::{element::Element, simd::Vectorized};

/// Most rows for which this is faster than packing.
pub(super) const MAX_ROWS: usize = 8;

/// Rows of B that make a task. Fixed, so that the order of summation is.
const TASK_DEPTH: usize = 1024;

/// Columns whose sums stay in the first-level cache.
const STRIP: usize = 1024;

/// `out = epilogue(a · b)` for a few rows of A and a B with contiguous rows.
pub(super) fn multiply<A: Element, B: Element, O: Element>(
    a: Matrix<A>,
    b: Matrix<B>,
    out: &mut [O],
    epilogue: &Epilogue,
    is_small: bool,
) {
    let (rows, columns) = (a.rows, b.columns);
    let tasks: Vec<usize> = (0..b.rows).step_by(TASK_DEPTH).collect();
    let partial = |&start: &usize| {
        let mut sums = vec![0.0; rows * columns];
        let end = (start + TASK_DEPTH).min(b.rows);
        Accumulate { a, b, depth: start..end, sums: &mut sums }.dispatch();
        sums
    };
    let partials: Vec<Vec<f32>> =
        if is_small { tasks.iter().map(partial).collect() } else { tasks.par_iter().map(partial).collect() };
    let mut partials = partials.into_iter();
    let Some(mut sums) = partials.next() else { return };
    for partial in partials {
        for (sum, value) in sums.iter_mut().zip(partial) {
            *sum += value;
        }
    }
    for (line, sums) in out.chunks_exact_mut(columns).zip(sums.chunks_exact_mut(columns)) {
        epilogue.apply(sums, 0);
        for (out, sum) in line.iter_mut().zip(sums) {
            *out = O::narrow(if epilogue.accumulates { out.widen() + *sum } else { *sum });
        }
    }
}

/// Adds the products with some rows of B to `sums`.
struct Accumulate<'a, A, B> {
    a: Matrix<'a, A>,
    b: Matrix<'a, B>,
    depth: Range<usize>,
    sums: &'a mut [f32],
}

impl<A: Element, B: Element> Vectorized for Accumulate<'_, A, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { a, b, depth, sums } = self;
        let columns = b.columns;
        for start in (0..columns).step_by(STRIP) {
            let width = STRIP.min(columns - start);
            let mut at = depth.start;
            // Four rows of B for each pass over the sums.
            while at + 4 <= depth.end {
                let lines: [&[B]; 4] = std::array::from_fn(|row| &b.data[(at + row) * b.row_stride + start..][..width]);
                for row in 0..a.rows {
                    let factors: [f32; 4] =
                        std::array::from_fn(|k| a.data[row * a.row_stride + (at + k) * a.column_stride].widen());
                    let sums = &mut sums[row * columns + start..][..width];
                    let [first, second, third, fourth] = lines;
                    let lines = first.iter().zip(second).zip(third.iter().zip(fourth));
                    for (sum, ((first, second), (third, fourth))) in sums.iter_mut().zip(lines) {
                        let low = second.widen().mul_add(factors[1], first.widen().mul_add(factors[0], *sum));
                        *sum = fourth.widen().mul_add(factors[3], third.widen().mul_add(factors[2], low));
                    }
                }
                at += 4;
            }
            for at in at..depth.end {
                let line = &b.data[at * b.row_stride + start..][..width];
                for row in 0..a.rows {
                    let factor = a.data[row * a.row_stride + at * a.column_stride].widen();
                    let sums = &mut sums[row * columns + start..][..width];
                    for (sum, value) in sums.iter_mut().zip(line) {
                        *sum = value.widen().mul_add(factor, *sum);
                    }
                }
            }
        }
    }
}
