//! Packing: the parts of A and B that a task works on, in the order in which it reads them.

use std::ops::Range;

use super::{Matrix, panel_columns};
use crate::flex::{element::Element, simd::Vectorized};

/// Part of A as tiles of some rows, a column of a tile being contiguous; rows past the end are zero.
pub(super) struct PackRows<'a, A, const ROWS: usize> {
    pub(super) a: Matrix<'a, A>,
    pub(super) rows: Range<usize>,
    pub(super) depth: Range<usize>,
    pub(super) out: &'a mut [f32],
}

impl<A: Element, const ROWS: usize> Vectorized for PackRows<'_, A, ROWS> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { a, rows, depth, out } = self;
        for (tile, out) in out.chunks_exact_mut(ROWS * depth.len()).enumerate() {
            let first = rows.start + tile * ROWS;
            let height = ROWS.min(rows.end - first);
            let (columns, _) = out.as_chunks_mut::<ROWS>();
            if height < ROWS {
                columns.fill([0.0; ROWS]);
            }
            if a.column_stride == 1 && height == ROWS {
                let lines: [&[A]; ROWS] =
                    std::array::from_fn(|row| &a.data[(first + row) * a.row_stride + depth.start..][..depth.len()]);
                for (at, column) in columns.iter_mut().enumerate() {
                    for (value, line) in column.iter_mut().zip(lines) {
                        *value = line[at].widen();
                    }
                }
            } else if a.row_stride == 1 {
                for (at, column) in columns.iter_mut().enumerate() {
                    let source = &a.data[(depth.start + at) * a.column_stride + first..][..height];
                    for (value, source) in column.iter_mut().zip(source) {
                        *value = source.widen();
                    }
                }
            } else {
                for (at, column) in columns.iter_mut().enumerate() {
                    for (row, value) in column[..height].iter_mut().enumerate() {
                        let index = (first + row) * a.row_stride + (depth.start + at) * a.column_stride;
                        *value = a.data[index].widen();
                    }
                }
            }
        }
    }
}

/// Part of B as panels side by side, a row of each being contiguous; columns past the end are zero.
pub(super) struct PackColumns<'a, B> {
    pub(super) b: Matrix<'a, B>,
    pub(super) depth: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) out: &'a mut [f32],
}

impl<B: Element> Vectorized for PackColumns<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        match panel_columns() {
            8 => self.pack::<8>(),
            16 => self.pack::<16>(),
            32 => self.pack::<32>(),
            _ => self.pack_any(),
        }
    }
}

impl<B: Element> PackColumns<'_, B> {
    #[inline(always)]
    fn pack<const PANEL: usize>(self) {
        let Self { b, depth, columns, out } = self;
        let width = columns.len();
        let (lines, _) = out.as_chunks_mut::<PANEL>();
        if !width.is_multiple_of(PANEL) {
            lines[width / PANEL * depth.len()..].as_flattened_mut().fill(0.0);
        }
        if b.column_stride == 1 {
            for (at, row) in depth.clone().enumerate() {
                let source = &b.data[row * b.row_stride + columns.start..][..width];
                let (whole, rest) = source.as_chunks::<PANEL>();
                for (panel, source) in whole.iter().enumerate() {
                    for (value, source) in lines[panel * depth.len() + at].iter_mut().zip(source) {
                        *value = source.widen();
                    }
                }
                if !rest.is_empty() {
                    for (value, source) in lines[whole.len() * depth.len() + at].iter_mut().zip(rest) {
                        *value = source.widen();
                    }
                }
            }
        } else if b.row_stride == 1 {
            // A transposed matrix: some rows at a time keep the lines that are written in the cache.
            const ROWS: usize = 8;
            for start in (0..depth.len()).step_by(ROWS) {
                let length = ROWS.min(depth.len() - start);
                for column in 0..width {
                    let source = &b.data[(columns.start + column) * b.column_stride + depth.start + start..][..length];
                    let lines = &mut lines[column / PANEL * depth.len() + start..][..length];
                    for (line, source) in lines.iter_mut().zip(source) {
                        line[column % PANEL] = source.widen();
                    }
                }
            }
        } else {
            Self { b, depth, columns, out }.pack_any();
        }
    }

    /// Any strides and any width of a panel.
    fn pack_any(self) {
        let Self { b, depth, columns, out } = self;
        let panel = panel_columns();
        out.fill(0.0);
        for (at, row) in depth.clone().enumerate() {
            for column in 0..columns.len() {
                let index = row * b.row_stride + (columns.start + column) * b.column_stride;
                out[(column / panel * depth.len() + at) * panel + column % panel] = b.data[index].widen();
            }
        }
    }
}
