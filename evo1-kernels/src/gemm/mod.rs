//! Matrix products with what comes after them: `out = f(A·B + bias)`, `out = base + scale ⊙ (A·B + bias)`.
//!
//! The scheme is the usual one of blocks that stay in the caches. B is packed into panels as wide as two vectors, A into
//! tiles of a few rows; a tile's product with a panel stays in registers over a block of the inner dimension. Packing
//! takes any strides, so that transposes cost nothing, and any element type, so that weights in half the size are widened
//! on the way. Bias, activation and residual are applied while the result is still in the first-level cache.
//!
//! An element of the result is summed in an order that depends on the inner dimension alone: neither the number of
//! threads nor the other rows change a bit of it.
//!
//! What is packed of each element, and how a tile is multiplied with a panel, is the [`Arithmetic`]: [`Single`] widens
//! every element to `f32`, `Pairs` keeps two `bf16` in the place of one `f32` for processors that multiply those.

mod pack;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod tile;
mod vector;

use std::ops::Range;

use pulp::bytemuck;
use rayon::prelude::*;

use crate::{
    element::Element,
    elementwise::convert,
    math,
    scratch::Scratch,
    simd::{Vectorized, lanes},
};
use pack::{PackColumns, PackRows};
pub(crate) use tile::multiply;
use tile::{MultiplyBlock, TILE_ROWS};

/// How elements are packed and multiplied. What is packed takes the room of an `f32` each.
trait Arithmetic<A: Element, B: Element>: Copy + Sync {
    /// Elements along the inner dimension that are packed as one.
    const TERMS: usize;

    /// Packs rows of A; the inner dimension is counted in packed values.
    fn pack_rows(self, work: PackRows<A>);

    /// Packs columns of B; the inner dimension is counted in packed values.
    fn pack_columns(self, work: PackColumns<B>);

    /// Multiplies what is packed.
    fn multiply(self, block: MultiplyBlock);
}

/// Products in `f32`, whatever the elements are.
#[derive(Debug, Clone, Copy)]
struct Single;

impl<A: Element, B: Element> Arithmetic<A, B> for Single {
    const TERMS: usize = 1;

    fn pack_rows(self, work: PackRows<A>) {
        work.dispatch();
    }

    fn pack_columns(self, work: PackColumns<B>) {
        work.dispatch();
    }

    fn multiply(self, block: MultiplyBlock) {
        block.run();
    }
}

/// Length of a block of the inner dimension. Long, because every block reads and writes the result once; a tile and half
/// a panel of it stay in a first-level cache.
const DEPTH: usize = 512;

/// Rows and columns of the result that a task computes: they and what is packed of A for them, [`DEPTH`] long, stay in a
/// second-level cache. There are many tasks for each thread, which evens out what other programs take.
const BLOCK_ROWS: usize = 144;
const BLOCK_COLUMNS: usize = 256;

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

/// Whether the processor multiplies pairs of `bf16`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn multiplies_pairs() -> bool {
    pairs::Pairs::of::<half::bf16, half::bf16>().is_some()
}

/// `out = epilogue(a · b)` on all threads; `out` is row-major, `[a.rows, b.columns]`. It is summed in `f32`.
pub(crate) fn gemm<A: Element, B: Element, O: Element>(a: Matrix<A>, b: Matrix<B>, out: &mut [O], epilogue: &Epilogue) {
    let (rows, columns, depth) = (a.rows, b.columns, a.columns);
    assert_eq!(depth, b.rows, "columns of A and rows of B");
    assert_eq!(out.len(), rows * columns, "a result of {rows} × {columns}");
    if rows == 0 || columns == 0 {
        return;
    }
    let is_small = rows * columns * depth < SMALL || rayon::current_num_threads() == 1;
    if rows <= vector::MAX_ROWS && b.column_stride == 1 && depth > 0 {
        return vector::multiply(a, b, out, epilogue, is_small);
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(pairs) = pairs::Pairs::of::<A, B>() {
        return packed(pairs, a, b, out, epilogue, is_small);
    }
    packed(Single, a, b, out, epilogue, is_small);
}

/// `out = epilogue(a · b)` by packing.
fn packed<A: Element, B: Element, O: Element>(
    arithmetic: impl Arithmetic<A, B>,
    a: Matrix<A>,
    b: Matrix<B>,
    out: &mut [O],
    epilogue: &Epilogue,
    is_small: bool,
) {
    if is_small {
        let lines = out.chunks_exact_mut(b.columns).collect();
        in_f32(lines, epilogue, |lines| few_rows(arithmetic, a, b, lines, 0..b.columns, epilogue, None));
    } else if a.rows <= FEW_ROWS {
        by_columns(arithmetic, a, b, out, epilogue);
    } else {
        by_blocks(arithmetic, a, b, out, epilogue);
    }
}

/// Calls `work` with part of a result in `f32`: where it lies, or in a copy that is narrowed to it afterwards.
fn in_f32<O: Element>(mut lines: Vec<&mut [O]>, epilogue: &Epilogue, work: impl FnOnce(&mut [&mut [f32]])) {
    if O::IS_F32 {
        let mut lines: Vec<&mut [f32]> = lines.into_iter().map(bytemuck::cast_slice_mut).collect();
        return work(&mut lines);
    }
    let width = lines.first().map_or(1, |line| line.len().max(1));
    let mut wide = Scratch::new(lines.len() * width);
    if epilogue.accumulates {
        wide.chunks_exact_mut(width).zip(&lines).for_each(|(wide, line)| convert(line, wide));
    }
    work(&mut wide.chunks_exact_mut(width).collect::<Vec<_>>());
    lines.iter_mut().zip(wide.chunks_exact(width)).for_each(|(line, wide)| convert(wide, line));
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
        few_rows(Single, a, b, lines, 0..b.columns, epilogue, None);
    }
}

/// Few rows: A is packed once, and every task packs the panels of its own columns.
fn by_columns<A: Element, B: Element, O: Element>(
    arithmetic: impl Arithmetic<A, B>,
    a: Matrix<A>,
    b: Matrix<B>,
    out: &mut [O],
    epilogue: &Epilogue,
) {
    let (columns, threads) = (b.columns, rayon::current_num_threads());
    let panel = panel_columns();
    let packed = packed_rows(arithmetic, a);
    // Several tasks for each thread even out what other programs take.
    let panels = columns.div_ceil(panel);
    let width = panels.div_ceil((4 * threads).min(panels)) * panel;
    let mut tasks: Vec<Vec<&mut [O]>> = (0..columns.div_ceil(width)).map(|_| Vec::with_capacity(a.rows)).collect();
    for line in out.chunks_exact_mut(columns) {
        for (task, part) in tasks.iter_mut().zip(line.chunks_mut(width)) {
            task.push(part);
        }
    }
    tasks.into_par_iter().enumerate().for_each(|(task, lines)| {
        let columns = task * width..((task + 1) * width).min(columns);
        in_f32(lines, epilogue, |lines| few_rows(arithmetic, a, b, lines, columns, epilogue, Some(&packed)));
    });
}

/// The inner dimension in packed values.
fn packed_depth<A: Element, B: Element, P: Arithmetic<A, B>>(_: P, depth: usize) -> usize {
    depth.div_ceil(P::TERMS)
}

/// All rows of A, block of the inner dimension by block.
fn packed_rows<A: Element, B: Element>(arithmetic: impl Arithmetic<A, B>, a: Matrix<A>) -> Scratch {
    let mut packed = Scratch::new(a.rows.next_multiple_of(TILE_ROWS) * packed_depth(arithmetic, a.columns));
    pack_rows(arithmetic, a, 0..a.rows, &mut packed);
    packed
}

/// Some rows of A, block of the inner dimension by block.
fn pack_rows<A: Element, B: Element>(
    arithmetic: impl Arithmetic<A, B>,
    a: Matrix<A>,
    rows: Range<usize>,
    out: &mut [f32],
) {
    let padded = rows.len().next_multiple_of(TILE_ROWS);
    for (start, depth) in blocks(packed_depth(arithmetic, a.columns)) {
        let out = &mut out[start * padded..][..depth * padded];
        arithmetic.pack_rows(PackRows { a, rows: rows.clone(), depth: start..start + depth, out });
    }
}

/// The columns `columns` of the product; `lines` are the parts of the result's rows that they are.
fn few_rows<A: Element, B: Element>(
    arithmetic: impl Arithmetic<A, B>,
    a: Matrix<A>,
    b: Matrix<B>,
    lines: &mut [&mut [f32]],
    columns: Range<usize>,
    epilogue: &Epilogue,
    packed: Option<&Scratch>,
) {
    let panel = panel_columns();
    let depth = packed_depth(arithmetic, a.columns);
    let owned = packed.is_none().then(|| packed_rows(arithmetic, a));
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
    for (start, length) in blocks(depth) {
        for first in columns.clone().step_by(group) {
            let width = group.min(columns.end - first);
            let size = width.next_multiple_of(panel) * length;
            let out = &mut panels[..size];
            arithmetic.pack_columns(PackColumns {
                b,
                depth: start..start + length,
                columns: first..first + width,
                out,
            });
            arithmetic.multiply(MultiplyBlock {
                rows: &packed[start * padded..][..length * padded],
                panels: &panels[..size],
                panel_stride: length * panel,
                depth: length,
                lines,
                line_start: first - columns.start,
                column: first,
                width,
                is_first: start == 0,
                is_last: start + length == depth,
                epilogue,
            });
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

/// Many rows: A and B are packed once by all threads, then every task computes a block of the result.
fn by_blocks<A: Element, B: Element, O: Element>(
    arithmetic: impl Arithmetic<A, B>,
    a: Matrix<A>,
    b: Matrix<B>,
    out: &mut [O],
    epilogue: &Epilogue,
) {
    let (columns, depth) = (b.columns, packed_depth(arithmetic, b.rows));
    let panel = panel_columns();
    let mut panels = Scratch::new(columns.next_multiple_of(panel) * depth);
    let group = PANEL_GROUP * panel;
    panels.par_chunks_mut(group * depth).enumerate().for_each(|(at, out)| {
        let first = at * group;
        let columns = first..(first + group).min(columns);
        arithmetic.pack_columns(PackColumns { b, depth: 0..depth, columns, out });
    });
    // Blocks of nearly equal height.
    let height = a.rows.div_ceil(a.rows.div_ceil(BLOCK_ROWS)).next_multiple_of(TILE_ROWS);
    let mut packed = Scratch::new(a.rows.next_multiple_of(TILE_ROWS) * depth);
    packed.par_chunks_mut(height * depth).enumerate().for_each(|(block, out)| {
        let first = block * height;
        pack_rows(arithmetic, a, first..(first + height).min(a.rows), out);
    });
    // One block of columns after the other, so that the panels of those under way stay in the last cache.
    let (above, width) = (a.rows.div_ceil(height), BLOCK_COLUMNS.next_multiple_of(panel));
    let mut tasks: Vec<Vec<&mut [O]>> = Vec::new();
    tasks.resize_with(above * columns.div_ceil(width), || Vec::with_capacity(height));
    for (row, line) in out.chunks_exact_mut(columns).enumerate() {
        for (task, part) in tasks.iter_mut().skip(row / height).step_by(above).zip(line.chunks_mut(width)) {
            task.push(part);
        }
    }
    tasks.into_par_iter().enumerate().for_each(|(task, lines)| {
        let (first_row, first_column) = (task % above * height, task / above * width);
        let padded = lines.len().next_multiple_of(TILE_ROWS);
        let rows = &packed[first_row * depth..][..padded * depth];
        let multiply = |lines: &mut [&mut [f32]]| {
            for (start, length) in blocks(depth) {
                arithmetic.multiply(MultiplyBlock {
                    rows: &rows[start * padded..][..length * padded],
                    panels: &panels[first_column * depth + start * panel..],
                    panel_stride: depth * panel,
                    depth: length,
                    lines,
                    line_start: 0,
                    column: first_column,
                    width: width.min(columns - first_column),
                    is_first: start == 0,
                    is_last: start + length == depth,
                    epilogue,
                });
            }
        };
        in_f32(lines, epilogue, multiply);
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
