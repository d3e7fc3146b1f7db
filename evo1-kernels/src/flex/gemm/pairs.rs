//! Products of `bf16` in [pairs](crate::flex::pairs).
//!
//! Two neighbours along the inner dimension lie in the place of one `f32`, so that everything around the innermost loop
//! is that of [`Single`](super::Single) with half the inner dimension.

use std::ops::Range;

use pulp::{Simd, bytemuck, x86::V4};

use super::{
    Arithmetic, Matrix,
    pack::{PackColumns, PackRows},
    tile::MultiplyBlock,
};
use crate::flex::{
    element::Element,
    pairs::{PairWork, Pairs},
    simd::Vectorized,
};

/// Columns of a panel of B.
const PANEL: usize = 2 * V4::F32_LANES;

/// Rows of a tile: twelve rows of two vectors are 24 sums of the 32 registers, and read a panel half as often as six.
pub(super) const TILE_ROWS: usize = 12;

/// Rows of a tile for few rows where twelve leave more of the last tile empty, as with the fifty of a chunk of actions.
pub(super) const FEW_TILE_ROWS: usize = 10;

/// Rows of a tile for a vector or a few: more would be slower than the memory that the panels come from.
pub(super) const VECTOR_TILE_ROWS: usize = 4;

/// Products of pairs with tiles of `ROWS` rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct InPairs<const ROWS: usize>(Pairs);

impl<const ROWS: usize> InPairs<ROWS> {
    /// For elements that are both `bf16`, on a processor with their products.
    pub(super) fn of<A: Element, B: Element>() -> Option<Self> {
        (A::IS_BF16 && B::IS_BF16).then(Pairs::find).flatten().map(Self)
    }
}

impl<A: Element, B: Element, const ROWS: usize> Arithmetic<A, B> for InPairs<ROWS> {
    const TERMS: usize = 2;
    const TILE_ROWS: usize = ROWS;

    fn pack_rows(self, a: Matrix<A>, rows: Range<usize>, depth: Range<usize>, out: &mut [f32]) {
        PackRowPairs(PackRows::<A, ROWS> { a, rows, depth, out }).dispatch();
    }

    fn pack_columns(self, work: PackColumns<B>) {
        PackColumnPairs(work).dispatch();
    }

    fn multiply(self, block: MultiplyBlock) {
        self.0.dispatch(BlockInPairs::<ROWS>(block));
    }
}

/// [`MultiplyBlock::run`] with products of pairs.
struct BlockInPairs<'a, 'b, const ROWS: usize>(MultiplyBlock<'a, 'b>);

impl<const ROWS: usize> PairWork for BlockInPairs<'_, '_, ROWS> {
    #[inline(always)]
    fn run(self, simd: V4, pairs: Pairs) {
        self.0.with_product(simd, |tile, panel| pairs.multiply::<ROWS>(tile, panel));
    }
}

/// Two neighbours along the inner dimension in one place.
#[inline(always)]
fn pair(first: u16, second: u16) -> u32 {
    u32::from(first) | u32::from(second) << 16
}

/// [`PackRows`] in pairs; past the inner dimension's end there is zero.
struct PackRowPairs<'a, A, const ROWS: usize>(PackRows<'a, A, ROWS>);

impl<A: Element, const ROWS: usize> Vectorized for PackRowPairs<'_, A, ROWS> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self(PackRows { a, rows, depth, out }) = self;
        let data: &[u16] = bytemuck::cast_slice(a.data);
        for (tile, out) in out.chunks_exact_mut(ROWS * depth.len()).enumerate() {
            let first = rows.start + tile * ROWS;
            let height = ROWS.min(rows.end - first);
            let (columns, _) = bytemuck::cast_slice_mut::<f32, u32>(out).as_chunks_mut::<ROWS>();
            if a.column_stride == 1 && height == ROWS && 2 * depth.end <= a.columns {
                let lines: [&[[u16; 2]]; ROWS] = std::array::from_fn(|row| {
                    let line = &data[(first + row) * a.row_stride + 2 * depth.start..][..2 * depth.len()];
                    line.as_chunks().0
                });
                for (at, column) in columns.iter_mut().enumerate() {
                    for (value, line) in column.iter_mut().zip(lines) {
                        let [first, second] = line[at];
                        *value = pair(first, second);
                    }
                }
                continue;
            }
            let at = |row: usize, k: usize| {
                if k < a.columns { data[row * a.row_stride + k * a.column_stride] } else { 0 }
            };
            for (column, k) in columns.iter_mut().zip((2 * depth.start..).step_by(2)) {
                *column = [0; ROWS];
                for (value, row) in column[..height].iter_mut().zip(first..) {
                    *value = pair(at(row, k), at(row, k + 1));
                }
            }
        }
    }
}

/// [`PackColumns`] in pairs; past the inner dimension's end there is zero.
struct PackColumnPairs<'a, B>(PackColumns<'a, B>);

impl<B: Element> Vectorized for PackColumnPairs<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self(PackColumns { b, depth, columns, out }) = self;
        let data: &[u16] = bytemuck::cast_slice(b.data);
        let (lines, _) = bytemuck::cast_slice_mut::<f32, u32>(out).as_chunks_mut::<PANEL>();
        let at = |k: usize, column: usize| {
            if k < b.rows { data[k * b.row_stride + column * b.column_stride] } else { 0 }
        };
        for (panel, lines) in lines.chunks_exact_mut(depth.len()).enumerate() {
            let first = columns.start + panel * PANEL;
            let width = PANEL.min(columns.end - first);
            for (line, k) in lines.iter_mut().zip((2 * depth.start..).step_by(2)) {
                if b.column_stride == 1 && width == PANEL && k + 1 < b.rows {
                    let row = |k: usize| data[k * b.row_stride + first..].first_chunk::<PANEL>();
                    let (Some(even), Some(odd)) = (row(k), row(k + 1)) else { continue };
                    let mut pairs = [0; PANEL];
                    for (column, value) in pairs.iter_mut().enumerate() {
                        *value = pair(even[column], odd[column]);
                    }
                    *line = pairs;
                } else {
                    *line = [0; PANEL];
                    for (value, column) in line[..width].iter_mut().zip(first..) {
                        *value = pair(at(k, column), at(k + 1, column));
                    }
                }
            }
        }
    }
}
