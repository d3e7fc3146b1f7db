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

/// Calls `work(first value, values of each)` for pieces of slices of equal length.
pub(crate) fn for_pieces_of<T: Send, const N: usize>(
    slices: [&mut [T]; N],
    work: impl Fn(usize, [&mut [T]; N]) + Sync,
) {
    let length = slices[0].len();
    if length <= 2 * PIECE || rayon::current_num_threads() == 1 {
        return work(0, slices);
    }
    let mut left = slices.map(|slice| slice.chunks_mut(PIECE));
    let next = |_| left.each_mut().map(|chunks| chunks.next().expect("slices of equal length"));
    let pieces: Vec<[&mut [T]; N]> = (0..length.div_ceil(PIECE)).map(next).collect();
    pieces.into_par_iter().enumerate().for_each(|(piece, values)| work(piece * PIECE, values));
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
