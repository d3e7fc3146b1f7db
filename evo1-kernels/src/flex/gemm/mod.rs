//! Matrix products with what comes after them: `out = f(A·B + bias)`, `out = base + scale ⊙ (A·B + bias)`.
//!
//! The scheme is the usual one of blocks that stay in the caches. B is packed into panels as wide as two vectors, A into
//! tiles of a few rows; a tile's product with a panel stays in registers over a block of the inner dimension. Packing
//! takes any strides, so that transposes cost nothing, and any element type, so that weights in half the size are widened
//! on the way. Bias, activation and residual are applied while the result is still in the first-level cache.
//!
//! An element of the result is summed in an order that depends on the inner dimension, and on whether there are so few
//! rows (up to eight of a weight that is not packed) that they are multiplied without packing: nothing else, and not the
//! number of threads, changes a bit of it.
//!
//! What is packed of each element, and how a tile is multiplied with a panel, is the [`Arithmetic`]: [`Single`] widens
//! every element to `f32`, `InPairs` keeps two `bf16` in the place of one `f32` for processors that multiply those.
//!
//! A weight that is used again and again is packed for good ([`pack`]): products of few rows spend a third of their time
//! on packing it, because its rows lie far apart.

mod pack;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod tile;
mod vector;

use std::ops::Range;

use pulp::bytemuck;
use rayon::prelude::*;

use crate::{
    backend::Activation,
    flex::{
        element::Element,
        elementwise::convert,
        math,
        scratch::Scratch,
        simd::{Vectorized, lanes},
    },
};
use pack::{PackColumns, PackRows};
pub(crate) use tile::multiply;
use tile::{MultiplyBlock, SINGLE_ROWS};

/// How elements are packed and multiplied. What is packed takes the room of an `f32` each.
trait Arithmetic<A: Element, B: Element>: Copy + Sync {
    /// Elements along the inner dimension that are packed as one.
    const TERMS: usize;

    /// Rows of A in a tile.
    const TILE_ROWS: usize;

    /// Packs rows of A as tiles; the inner dimension is counted in packed values.
    fn pack_rows(self, a: Matrix<A>, rows: Range<usize>, depth: Range<usize>, out: &mut [f32]);

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
    const TILE_ROWS: usize = SINGLE_ROWS;

    fn pack_rows(self, a: Matrix<A>, rows: Range<usize>, depth: Range<usize>, out: &mut [f32]) {
        PackRows::<A, SINGLE_ROWS> { a, rows, depth, out }.dispatch();
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
pub(crate) fn multiplies_pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    return crate::flex::pairs::Pairs::find().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// `out = epilogue(a · b)` on all threads; `out` is row-major, `[a.rows, b.columns]`. It is summed in `f32`.
pub(crate) fn gemm<A: Element, B: Element, O: Element>(a: Matrix<A>, b: Matrix<B>, out: &mut [O], epilogue: &Epilogue) {
    if (1..=vector::MAX_ROWS).contains(&a.rows) && b.column_stride == 1 && a.columns > 0 {
        check(a, b.rows, b.columns, out);
        return vector::multiply(a, b, out, epilogue, is_small(a, b.columns));
    }
    multiply_packed(a, Right::Matrix(b), out, epilogue);
}

/// [`gemm`] with a B that [`pack`] has packed.
pub(crate) fn gemm_packed<A: Element, O: Element>(a: Matrix<A>, b: Panels<A>, out: &mut [O], epilogue: &Epilogue) {
    multiply_packed(a, Right::Panels(b), out, epilogue);
}

fn check<A, O>(a: Matrix<A>, rows: usize, columns: usize, out: &[O]) {
    assert_eq!(a.columns, rows, "columns of A and rows of B");
    assert_eq!(out.len(), a.rows * columns, "a result of {} × {columns}", a.rows);
}

/// Whether one thread is faster than several.
fn is_small<A>(a: Matrix<A>, columns: usize) -> bool {
    a.rows * columns * a.columns < SMALL || rayon::current_num_threads() == 1
}

/// `out = epilogue(a · b)` with the processor's best arithmetic.
fn multiply_packed<A: Element, B: Element, O: Element>(a: Matrix<A>, b: Right<B>, out: &mut [O], epilogue: &Epilogue) {
    check(a, b.rows(), b.columns(), out);
    if out.is_empty() {
        return;
    }
    let is_small = is_small(a, b.columns());
    #[cfg(target_arch = "x86_64")]
    {
        use pairs::{FEW_TILE_ROWS, InPairs, TILE_ROWS, VECTOR_TILE_ROWS};

        /// Returns the product with tiles of so many rows, if the processor multiplies pairs.
        macro_rules! in_tiles_of {
            ($rows:expr) => {
                if let Some(pairs) = InPairs::<{ $rows }>::of::<A, B>() {
                    return packed(pairs, a, b, out, epilogue, is_small);
                }
            };
        }

        if a.rows <= VECTOR_TILE_ROWS {
            in_tiles_of!(VECTOR_TILE_ROWS);
        } else if a.rows <= FEW_ROWS && a.rows.next_multiple_of(FEW_TILE_ROWS) < a.rows.next_multiple_of(TILE_ROWS) {
            in_tiles_of!(FEW_TILE_ROWS);
        }
        in_tiles_of!(TILE_ROWS);
    }
    packed(Single, a, b, out, epilogue, is_small);
}

/// `out = epilogue(a · b)` by packing.
fn packed<A: Element, B: Element, O: Element>(
    arithmetic: impl Arithmetic<A, B>,
    a: Matrix<A>,
    b: Right<B>,
    out: &mut [O],
    epilogue: &Epilogue,
    is_small: bool,
) {
    if is_small {
        let columns = b.columns();
        let lines = out.chunks_exact_mut(columns).collect();
        in_f32(lines, epilogue, |lines| few_rows(arithmetic, a, b, lines, 0..columns, epilogue, None));
    } else if a.rows <= FEW_ROWS {
        by_columns(arithmetic, a, b, out, epilogue);
    } else {
        by_blocks(arithmetic, a, b, out, epilogue);
    }
}

/// The right side of a product.
#[derive(Debug, Clone, Copy)]
enum Right<'a, B> {
    /// Packed when it is multiplied.
    Matrix(Matrix<'a, B>),
    /// Packed before.
    Panels(Panels<'a, B>),
}

impl<B> Right<'_, B> {
    fn rows(&self) -> usize {
        match self {
            Self::Matrix(matrix) => matrix.rows,
            Self::Panels(panels) => panels.rows,
        }
    }

    fn columns(&self) -> usize {
        match self {
            Self::Matrix(matrix) => matrix.columns,
            Self::Panels(panels) => panels.columns,
        }
    }
}

/// A matrix that [`pack`] has packed: as many values, in the order in which this processor's products read them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panels<'a, E> {
    /// `[panels, rows / terms, columns of a panel, terms]`, where terms are the rows that are packed as one.
    pub(crate) data: &'a [E],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl<'a, E: Element> Panels<'a, E> {
    /// What is packed, in the room of an `f32` each.
    fn packed(&self) -> &'a [f32] {
        bytemuck::cast_slice(self.data)
    }
}

/// Rows of a matrix that are packed as one, if one of its type and size can be packed for good without growing.
fn terms<E: Element>(rows: usize, columns: usize) -> Option<usize> {
    let terms = if E::IS_F32 {
        1
    } else if E::IS_BF16 && multiplies_pairs() {
        2
    } else {
        return None;
    };
    (rows.is_multiple_of(terms) && columns.is_multiple_of(panel_columns())).then_some(terms)
}

/// Whether [`pack`] takes a matrix of this type and size.
pub(crate) fn can_be_packed<E: Element>(rows: usize, columns: usize) -> bool {
    terms::<E>(rows, columns).is_some()
}

/// Packs a matrix for good, into as many values as it has: for matrices that [`can_be_packed`].
pub(crate) fn pack<E: Element>(b: Matrix<E>, out: &mut [E]) {
    let out: &mut [f32] = bytemuck::cast_slice_mut(out);
    #[cfg(target_arch = "x86_64")]
    if let Some(pairs) = pairs::InPairs::<{ pairs::TILE_ROWS }>::of::<E, E>() {
        return pack_panels::<E, E>(pairs, b, out);
    }
    pack_panels::<E, E>(Single, b, out);
}

/// The inverse of [`pack`]; `out` is row-major.
pub(crate) fn unpack<E: Element>(b: Panels<E>, out: &mut [E]) {
    let Some(terms) = terms::<E>(b.rows, b.columns) else { return out.copy_from_slice(b.data) };
    let panel = panel_columns();
    let depth = b.rows / terms;
    out.par_chunks_mut(b.columns).enumerate().for_each(|(row, line)| {
        for (at, values) in line.chunks_exact_mut(panel).enumerate() {
            let source = &b.data[(at * depth + row / terms) * panel * terms..][..panel * terms];
            for (value, source) in values.iter_mut().zip(source[row % terms..].iter().step_by(terms)) {
                *value = *source;
            }
        }
    });
}

/// All panels of B, by all threads.
fn pack_panels<A: Element, B: Element>(arithmetic: impl Arithmetic<A, B>, b: Matrix<B>, out: &mut [f32]) {
    let (depth, group) = (packed_depth(arithmetic, b.rows), PANEL_GROUP * panel_columns());
    out.par_chunks_mut(group * depth).enumerate().for_each(|(at, out)| {
        let first = at * group;
        let columns = first..(first + group).min(b.columns);
        arithmetic.pack_columns(PackColumns { b, depth: 0..depth, columns, out });
    });
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
        few_rows(Single, a, Right::Matrix(b), lines, 0..b.columns, epilogue, None);
    }
}

/// Few rows: A is packed once, and every task packs the panels of its own columns.
fn by_columns<A: Element, B: Element, O: Element>(
    arithmetic: impl Arithmetic<A, B>,
    a: Matrix<A>,
    b: Right<B>,
    out: &mut [O],
    epilogue: &Epilogue,
) {
    let (columns, threads) = (b.columns(), rayon::current_num_threads());
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

/// Rows of A with those that fill its last tile.
fn padded_rows<A: Element, B: Element, P: Arithmetic<A, B>>(_: P, rows: usize) -> usize {
    rows.next_multiple_of(P::TILE_ROWS)
}

/// All rows of A, block of the inner dimension by block.
fn packed_rows<A: Element, B: Element>(arithmetic: impl Arithmetic<A, B>, a: Matrix<A>) -> Scratch {
    let mut packed = Scratch::new(padded_rows(arithmetic, a.rows) * packed_depth(arithmetic, a.columns));
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
    let padded = padded_rows(arithmetic, rows.len());
    for (start, depth) in blocks(packed_depth(arithmetic, a.columns)) {
        let out = &mut out[start * padded..][..depth * padded];
        arithmetic.pack_rows(a, rows.clone(), start..start + depth, out);
    }
}

/// The columns `columns` of the product; `lines` are the parts of the result's rows that they are.
fn few_rows<A: Element, B: Element>(
    arithmetic: impl Arithmetic<A, B>,
    a: Matrix<A>,
    b: Right<B>,
    lines: &mut [&mut [f32]],
    columns: Range<usize>,
    epilogue: &Epilogue,
    packed: Option<&Scratch>,
) {
    let panel = panel_columns();
    let depth = packed_depth(arithmetic, a.columns);
    let owned = packed.is_none().then(|| packed_rows(arithmetic, a));
    let Some(packed) = packed.or(owned.as_ref()) else { return };
    let padded = padded_rows(arithmetic, a.rows);
    if a.columns == 0 {
        for line in lines.iter_mut() {
            finish_empty(line, columns.start, epilogue);
        }
        return;
    }
    let group = PANEL_GROUP * panel;
    let mut scratch = matches!(b, Right::Matrix(_)).then(|| Scratch::new(DEPTH * group));
    for (start, length) in blocks(depth) {
        for first in columns.clone().step_by(group) {
            let width = group.min(columns.end - first);
            let (panels, panel_stride) = match (b, &mut scratch) {
                (Right::Matrix(b), Some(scratch)) => {
                    let out = &mut scratch[..width.next_multiple_of(panel) * length];
                    let depth = start..start + length;
                    arithmetic.pack_columns(PackColumns { b, depth, columns: first..first + width, out });
                    (&*out, length * panel)
                }
                (Right::Panels(b), _) => (&b.packed()[first * depth + start * panel..], depth * panel),
                (Right::Matrix(_), None) => unreachable!("a matrix has somewhere to be packed to"),
            };
            arithmetic.multiply(MultiplyBlock {
                rows: &packed[start * padded..][..length * padded],
                panels,
                panel_stride,
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

/// Many rows: A and B are packed once by all threads, unless B is, then every task computes a block of the result.
fn by_blocks<A: Element, B: Element, O: Element>(
    arithmetic: impl Arithmetic<A, B>,
    a: Matrix<A>,
    b: Right<B>,
    out: &mut [O],
    epilogue: &Epilogue,
) {
    let (columns, depth) = (b.columns(), packed_depth(arithmetic, b.rows()));
    let panel = panel_columns();
    let owned;
    let panels: &[f32] = match b {
        Right::Panels(panels) => panels.packed(),
        Right::Matrix(b) => {
            let mut panels = Scratch::new(columns.next_multiple_of(panel) * depth);
            pack_panels(arithmetic, b, &mut panels);
            owned = panels;
            &owned
        }
    };
    // Blocks of nearly equal height.
    let height = padded_rows(arithmetic, a.rows.div_ceil(a.rows.div_ceil(BLOCK_ROWS)));
    let mut packed = Scratch::new(padded_rows(arithmetic, a.rows) * depth);
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
        let padded = padded_rows(arithmetic, lines.len());
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
