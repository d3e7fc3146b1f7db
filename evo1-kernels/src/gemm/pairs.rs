//! Products of `bf16` in pairs, on processors that have them: `VDPBF16PS` of AVX-512 adds the products of two pairs to an
//! `f32`, which is twice the work of a multiply-add.
//!
//! Two neighbours along the inner dimension lie in the place of one `f32`, so that everything around the innermost loop
//! is that of [`Single`](super::Single) with half the inner dimension.
#![allow(
    unsafe_code,
    reason = "pulp has no products of bf16, and the intrinsic takes vectors that only transmute makes"
)]

use std::{
    arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps, _mm512_set1_ps, _mm512_setzero_ps},
    ops::Range,
};

use pulp::{Simd, bytemuck, cast, f32x16, x86::V4};

use super::{
    Arithmetic, Matrix,
    pack::{PackColumns, PackRows},
    tile::MultiplyBlock,
};
use crate::{element::Element, simd::Vectorized};

/// Columns of a panel of B.
const PANEL: usize = 2 * V4::F32_LANES;

/// Rows of a tile: twelve rows of two vectors are 24 sums of the 32 registers, and read a panel half as often as six.
pub(super) const TILE_ROWS: usize = 12;

/// Rows of a tile for few rows where twelve leave more of the last tile empty, as with the fifty of a chunk of actions.
pub(super) const FEW_TILE_ROWS: usize = 10;

/// Tiles of `ROWS` rows. Exists only where the processor has the products.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pairs<const ROWS: usize>(V4);

impl<const ROWS: usize> Pairs<ROWS> {
    /// For elements that are both `bf16`, on a processor with their products.
    pub(super) fn of<A: Element, B: Element>() -> Option<Self> {
        let has_products = A::IS_BF16 && B::IS_BF16 && std::arch::is_x86_feature_detected!("avx512bf16");
        has_products.then(V4::try_new).flatten().map(Self)
    }
}

impl<A: Element, B: Element, const ROWS: usize> Arithmetic<A, B> for Pairs<ROWS> {
    const TERMS: usize = 2;
    const TILE_ROWS: usize = ROWS;

    fn pack_rows(self, a: Matrix<A>, rows: Range<usize>, depth: Range<usize>, out: &mut [f32]) {
        PackRowPairs(PackRows::<A, ROWS> { a, rows, depth, out }).dispatch();
    }

    fn pack_columns(self, work: PackColumns<B>) {
        PackColumnPairs(work).dispatch();
    }

    fn multiply(self, block: MultiplyBlock) {
        // SAFETY: a `Pairs` exists only where the processor has every one of these features.
        unsafe { multiply_block::<ROWS>(self.0, block) }
    }
}

/// [`MultiplyBlock::run`] with products of pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
fn multiply_block<const ROWS: usize>(simd: V4, block: MultiplyBlock) {
    block.with_product(simd, |tile, panel| {
        let (tile, _) = tile.as_chunks::<ROWS>();
        let (vectors, _) = V4::as_simd_f32s(panel);
        let (vectors, _) = vectors.as_chunks::<2>();
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for (a, [left, right]) in tile.iter().zip(vectors) {
            for (sums, &a) in sums.iter_mut().zip(a) {
                let a = pairs(_mm512_set1_ps(a));
                sums[0] = _mm512_dpbf16_ps(sums[0], a, pairs(cast(*left)));
                sums[1] = _mm512_dpbf16_ps(sums[1], a, pairs(cast(*right)));
            }
        }
        sums.map(|sums| sums.map(cast::<__m512, f32x16>))
    });
}

/// The bits of a vector as pairs.
#[inline(always)]
fn pairs(bits: __m512) -> __m512bh {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { std::mem::transmute(bits) }
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
