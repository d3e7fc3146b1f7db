//! Work in pieces on several threads, or on this one when it is not worth waking others.

use rayon::prelude::*;

/// Values that a thread handles at once in element-wise work.
const PIECE: usize = 1 << 14;

/// Calls `work(first row, rows)` for pieces of `out`, whose rows have `width` values.
pub(crate) fn for_rows<T: Send>(out: &mut [T], width: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    if out.is_empty() {
        return;
    }
    let rows = PIECE.div_ceil(width);
    if out.len() <= 2 * PIECE || rayon::current_num_threads() == 1 {
        work(0, out);
    } else {
        out.par_chunks_mut(rows * width).enumerate().for_each(|(piece, out)| work(piece * rows, out));
    }
}

/// Calls `work(first row, rows of a, rows of b)` for pieces of two slices of equal shape.
pub(crate) fn for_rows_of_two<T: Send>(
    a: &mut [T],
    b: &mut [T],
    width: usize,
    work: impl Fn(usize, &mut [T], &mut [T]) + Sync,
) {
    if a.is_empty() {
        return;
    }
    let rows = PIECE.div_ceil(width);
    if a.len() <= 2 * PIECE || rayon::current_num_threads() == 1 {
        work(0, a, b);
    } else {
        let pieces = a.par_chunks_mut(rows * width).zip(b.par_chunks_mut(rows * width));
        pieces.enumerate().for_each(|(piece, (a, b))| work(piece * rows, a, b));
    }
}

/// Calls `work(first value, values of a, of b, of c)` for pieces of three slices of equal length.
pub(crate) fn for_rows_of_three<T: Send>(
    a: &mut [T],
    b: &mut [T],
    c: &mut [T],
    work: impl Fn(usize, &mut [T], &mut [T], &mut [T]) + Sync,
) {
    if a.len() <= 2 * PIECE || rayon::current_num_threads() == 1 {
        work(0, a, b, c);
    } else {
        let pieces = a.par_chunks_mut(PIECE).zip(b.par_chunks_mut(PIECE)).zip(c.par_chunks_mut(PIECE));
        pieces.enumerate().for_each(|(piece, ((a, b), c))| work(piece * PIECE, a, b, c));
    }
}

/// The sums of what `work` adds for the pieces of `rows` rows, of `width` values each. Pieces have a fixed size, so that
/// the order of the sums does not depend on the number of threads.
pub(crate) fn sum_of_rows(
    rows: usize,
    width: usize,
    sums: usize,
    work: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let piece = (4 * PIECE).div_ceil(width.max(1));
    let partial = |start: usize| {
        let mut partial = vec![0.0; sums];
        work(start..(start + piece).min(rows), &mut partial);
        partial
    };
    let starts: Vec<usize> = (0..rows).step_by(piece).collect();
    let partials: Vec<Vec<f32>> = if starts.len() <= 1 {
        starts.into_iter().map(partial).collect()
    } else {
        starts.into_par_iter().map(partial).collect()
    };
    let mut partials = partials.into_iter();
    let mut total = partials.next().unwrap_or_else(|| vec![0.0; sums]);
    for partial in partials {
        for (total, value) in total.iter_mut().zip(partial) {
            *total += value;
        }
    }
    total
}
