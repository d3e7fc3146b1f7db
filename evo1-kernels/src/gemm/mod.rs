//! Matrix products with what comes after them: `out = f(A·B + bias)`, `out = base + scale ⊙ (A·B + bias)`.
//!
//! The scheme is the usual one of blocks that stay in the caches. B is packed into panels as wide as two vectors, A into
//! tiles of a few rows; a tile's product with a panel stays in registers over a block of the inner dimension. Packing
//! takes any strides, so that transposes cost nothing, and any element type, so that weights in half the size are widened
//! on the way. Bias, activation and residual are applied while the result is still in the first-level cache.
//!
//! An element of the result is summed in an order that depends on the inner dimension alone: neither the number of
//! threads nor the other rows change a bit of it.

mod pack;
mod tile;
mod vector;

use rayon::prelude::*;

use crate::{
    element::Element,
    math,
    scratch::Scratch,
    simd::{Vectorized, lanes},
};
use pack::{PackColumns, PackRows};
pub(crate) use tile::multiply;
use tile::{MultiplyBlock, TILE_ROWS};

/// Length of a block of the inner dimension: a panel of it fills half of a first-level cache.
const DEPTH: usize = 320;

/// Rows of A that a task packs at once: with [`DEPTH`] they fill half of a second-level cache.
const BLOCK_ROWS: usize = 192;

/// Up to so many rows, panels of B are packed where they are used; above, once for all tasks.
const FEW_ROWS: usize = 96;

/// Panels of B that are packed together: their rows are read in pieces that the memory delivers well.
const PANEL_GROUP: usize = 4;

/// Multiplications below which one thread is faster than several.
const SMALL: usize = 1 << 18;

/// A matrix somewhere in a slice: element `(r, c)` is at `r · row_stride + c · column_stride`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a, E> {
    pub(crate) data: &'a [E],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a, E> Matrix<'a, E> {
    /// A matrix whose rows follow each other.
    pub(crate) fn row_major(data: &'a [E], rows: usize, columns: usize) -> Self {
        assert!(data.len() >= rows * columns, "{} values are no {rows} × {columns} matrix", data.len());
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// A function applied to every element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// The element itself.
    #[default]
    None,
    /// `x · Φ(x)`.
    Gelu,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    #[inline(always)]
    fn apply(self, x: f32) -> f32 {
        match self {
            Self::None => x,
            Self::Gelu => math::gelu(x),
            // Not `max`, which would make 0 of NaN.
            Self::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
        }
    }
}

/// What is done to a product before it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// Added to every row.
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) activation: Activation,
    /// Multiplied with every row.
    pub(crate) scale: Option<&'a [f32]>,
    /// Whether the result is added to what is stored already.
    pub(crate) accumulates: bool,
}

impl Epilogue<'_> {
    /// The product alone.
    pub(crate) const NONE: Self = Self { bias: None, activation: Activation::None, scale: None, accumulates: false };

    /// Applies everything but the accumulation to part of a row that begins at `column`.
    #[inline(always)]
    fn apply(&self, row: &mut [f32], column: usize) {
        if let Some(bias) = self.bias {
            for (value, bias) in row.iter_mut().zip(&bias[column..]) {
                *value += bias;
            }
        }
        row.iter_mut().for_each(|value| *value = self.activation.apply(*value));
        if let Some(scale) = self.scale {
            for (value, scale) in row.iter_mut().zip(&scale[column..]) {
                *value *= scale;
            }
        }
    }
}

/// `out = epilogue(a · b)` on all threads; `out` is row-major, `[a.rows, b.columns]`.
pub(crate) fn gemm<A: Element, B: Element>(a: Matrix<A>, b: Matrix<B>, out: &mut [f32], epilogue: &Epilogue) {
    let (rows, columns, depth) = (a.rows, b.columns, a.columns);
    assert_eq!(depth, b.rows, "columns of A and rows of B");
    assert_eq!(out.len(), rows * columns, "a result of {rows} × {columns}");
    if rows == 0 || columns == 0 {
        return;
    }
    let threads = rayon::current_num_threads();
    let is_small = rows * columns * depth < SMALL || threads == 1;
    if rows <= vector::MAX_ROWS && b.column_stride == 1 && depth > 0 {
        vector::multiply(a, b, out, epilogue, is_small);
    } else if is_small {
        let mut lines: Vec<&mut [f32]> = out.chunks_exact_mut(columns).collect();
        few_rows(a, b, &mut lines, 0..columns, epilogue, None);
    } else if rows <= FEW_ROWS {
        by_columns(a, b, out, epilogue, threads);
    } else {
        by_rows(a, b, out, epilogue, threads);
    }
}

/// `lines = epilogue(a · b)` on this thread; the result's rows may be anywhere.
pub(crate) fn multiply_lines<A: Element, B: Element>(
    a: Matrix<A>,
    b: Matrix<B>,
    lines: &mut [&mut [f32]],
    epilogue: &Epilogue,
) {
    assert_eq!(a.columns, b.rows, "columns of A and rows of B");
    assert_eq!(lines.len(), a.rows, "rows of A and of the result");
    if b.columns > 0 {
        few_rows(a, b, lines, 0..b.columns, epilogue, None);
    }
}

/// Few rows: A is packed once, and every task packs the panels of its own columns.
fn by_columns<A: Element, B: Element>(
    a: Matrix<A>,
    b: Matrix<B>,
    out: &mut [f32],
    epilogue: &Epilogue,
    threads: usize,
) {
    let columns = b.columns;
    let panel = panel_columns();
    let packed = packed_rows(a);
    // Several tasks for each thread even out what other programs take.
    let panels = columns.div_ceil(panel);
    let width = panels.div_ceil((4 * threads).min(panels)) * panel;
    let mut tasks: Vec<Vec<&mut [f32]>> = (0..columns.div_ceil(width)).map(|_| Vec::with_capacity(a.rows)).collect();
    for line in out.chunks_exact_mut(columns) {
        for (task, part) in tasks.iter_mut().zip(line.chunks_mut(width)) {
            task.push(part);
        }
    }
    tasks.into_par_iter().enumerate().for_each(|(task, mut lines)| {
        let first = task * width;
        few_rows(a, b, &mut lines, first..(first + width).min(columns), epilogue, Some(&packed));
    });
}

/// All rows of A, block of the inner dimension by block.
fn packed_rows<A: Element>(a: Matrix<A>) -> Scratch {
    let padded = a.rows.next_multiple_of(TILE_ROWS);
    let mut packed = Scratch::new(padded * a.columns);
    for (start, depth) in blocks(a.columns) {
        let out = &mut packed[start * padded..][..depth * padded];
        PackRows { a, rows: 0..a.rows, depth: start..start + depth, out }.dispatch();
    }
    packed
}

/// The columns `columns` of the product; `lines` are the parts of the result's rows that they are.
fn few_rows<A: Element, B: Element>(
    a: Matrix<A>,
    b: Matrix<B>,
    lines: &mut [&mut [f32]],
    columns: std::ops::Range<usize>,
    epilogue: &Epilogue,
    packed: Option<&Scratch>,
) {
    let panel = panel_columns();
    let owned = packed.is_none().then(|| packed_rows(a));
    let Some(packed) = packed.or(owned.as_ref()) else { return };
    let padded = a.rows.next_multiple_of(TILE_ROWS);
    let group = PANEL_GROUP * panel;
    let mut panels = Scratch::new(DEPTH * group);
    if a.columns == 0 {
        for line in lines.iter_mut() {
            finish_empty(line, columns.start, epilogue);
        }
        return;
    }
    for (start, depth) in blocks(a.columns) {
        for first in columns.clone().step_by(group) {
            let width = group.min(columns.end - first);
            let size = width.next_multiple_of(panel) * depth;
            let out = &mut panels[..size];
            PackColumns { b, depth: start..start + depth, columns: first..first + width, out }.dispatch();
            MultiplyBlock {
                rows: &packed[start * padded..][..depth * padded],
                panels: &panels[..size],
                panel_stride: depth * panel,
                depth,
                lines,
                line_start: first - columns.start,
                column: first,
                width,
                is_first: start == 0,
                is_last: start + depth == a.columns,
                epilogue,
            }
            .run();
        }
    }
}

/// What the epilogue makes of a sum of nothing.
fn finish_empty(line: &mut [f32], column: usize, epilogue: &Epilogue) {
    let mut values = vec![0.0; line.len()];
    epilogue.apply(&mut values, column);
    for (out, value) in line.iter_mut().zip(values) {
        *out = if epilogue.accumulates { *out + value } else { value };
    }
}

/// Many rows: B is packed once by all threads, then every task takes a block of rows.
fn by_rows<A: Element, B: Element>(a: Matrix<A>, b: Matrix<B>, out: &mut [f32], epilogue: &Epilogue, threads: usize) {
    let (columns, depth) = (b.columns, b.rows);
    let panel = panel_columns();
    let mut panels = Scratch::new(columns.div_ceil(panel) * panel * depth);
    let group = PANEL_GROUP * panel;
    panels.par_chunks_mut(group * depth).enumerate().for_each(|(at, out)| {
        let first = at * group;
        PackColumns { b, depth: 0..depth, columns: first..(first + group).min(columns), out }.dispatch();
    });
    // The number of blocks is a multiple of the threads', so that all finish together.
    let count = a.rows.div_ceil(BLOCK_ROWS).next_multiple_of(threads);
    let height = a.rows.div_ceil(count).next_multiple_of(TILE_ROWS);
    out.par_chunks_mut(height * columns).enumerate().for_each(|(block, out)| {
        let first = block * height;
        let mut lines: Vec<&mut [f32]> = out.chunks_exact_mut(columns).collect();
        let rows = first..first + lines.len();
        let padded = lines.len().next_multiple_of(TILE_ROWS);
        let mut packed = Scratch::new(padded * DEPTH.min(depth));
        for (start, length) in blocks(depth) {
            let out = &mut packed[..length * padded];
            PackRows { a, rows: rows.clone(), depth: start..start + length, out }.dispatch();
            MultiplyBlock {
                rows: &packed[..length * padded],
                panels: &panels[start * panel..],
                panel_stride: depth * panel,
                depth: length,
                lines: &mut lines,
                line_start: 0,
                column: 0,
                width: columns,
                is_first: start == 0,
                is_last: start + length == depth,
                epilogue,
            }
            .run();
        }
    });
}

/// The blocks of the inner dimension, as start and length, of nearly equal length.
fn blocks(depth: usize) -> impl Iterator<Item = (usize, usize)> {
    let length = depth.div_ceil(depth.div_ceil(DEPTH).max(1)).max(1);
    (0..depth).step_by(length).map(move |start| (start, length.min(depth - start)))
}

/// Columns of a panel of B: two vectors.
fn panel_columns() -> usize {
    2 * lanes()
}

#[cfg(test)]
mod tests;
