//! The innermost loops: a tile of A's rows times a panel of B's columns, in registers.

use pulp::{Simd, WithSimd, bytemuck};

use super::{Activation, Epilogue};

/// Rows of a tile in `f32`. Six rows of two vectors are twelve sums, as many as hide the latency of a multiply-add and
/// leave registers for the operands.
pub(super) const SINGLE_ROWS: usize = 6;

/// Packed rows times packed panels over one block of the inner dimension.
pub(super) struct MultiplyBlock<'a, 'b> {
    /// Tiles of A, `[tiles, depth, rows]`.
    pub(super) rows: &'a [f32],
    /// Panels of B, `[depth, panel]` each, `panel_stride` apart.
    pub(super) panels: &'a [f32],
    pub(super) panel_stride: usize,
    pub(super) depth: usize,
    /// The result's rows.
    pub(super) lines: &'a mut [&'b mut [f32]],
    /// Where in the lines the result goes.
    pub(super) line_start: usize,
    /// The column of the whole result that this is, for the epilogue.
    pub(super) column: usize,
    /// Number of columns.
    pub(super) width: usize,
    /// Whether nothing has been stored yet of this product.
    pub(super) is_first: bool,
    /// Whether the sum is complete after this block.
    pub(super) is_last: bool,
    pub(super) epilogue: &'a Epilogue<'a>,
}

impl MultiplyBlock<'_, '_> {
    pub(super) fn run(self) {
        crate::flex::simd::arch().dispatch(self);
    }
}

impl WithSimd for MultiplyBlock<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.with_product(simd, |tile, columns| multiply::<S, SINGLE_ROWS>(simd, tile, columns));
    }
}

impl MultiplyBlock<'_, '_> {
    /// The block with `product` for a tile times a panel.
    #[inline(always)]
    pub(super) fn with_product<S: Simd, const ROWS: usize>(
        self,
        simd: S,
        product: impl Fn(&[f32], &[f32]) -> [[S::f32s; 2]; ROWS],
    ) {
        let panel = 2 * S::F32_LANES;
        let Self { rows, panels, panel_stride, depth, lines, line_start, column, width, .. } = self;
        let store = Store { is_first: self.is_first, is_last: self.is_last, epilogue: self.epilogue };
        for (at, offset) in (0..width).step_by(panel).enumerate() {
            let columns = &panels[at * panel_stride..][..depth * panel];
            let used = panel.min(width - offset);
            let whole = (used == panel).then(|| store.vectors::<S>(simd, column + offset));
            for (tile, lines) in rows.chunks_exact(ROWS * depth).zip(lines.chunks_mut(ROWS)) {
                let sums = product(tile, columns);
                for (sums, line) in sums.into_iter().zip(lines) {
                    let line = &mut line[line_start + offset..][..used];
                    match &whole {
                        Some(whole) => whole.store(simd, sums, line),
                        None => store.store_part(bytemuck::cast_slice(&sums), line, column + offset),
                    }
                }
            }
        }
    }
}

/// What is done with the sums of a tile.
///
/// Blocks before the last leave plain sums in the result, which the last one completes. Where the result is to be added
/// to what is there already, every block is scaled and added, and the bias comes with the last.
struct Store<'a> {
    is_first: bool,
    is_last: bool,
    epilogue: &'a Epilogue<'a>,
}

impl Store<'_> {
    /// The first values of `sums`, one by one.
    #[inline(always)]
    fn store_part(&self, sums: &[f32], line: &mut [f32], column: usize) {
        let Epilogue { bias, activation, scale, accumulates } = *self.epilogue;
        for (at, (out, &sum)) in line.iter_mut().zip(sums).enumerate() {
            let bias = bias.filter(|_| self.is_last).map_or(0.0, |bias| bias[column + at]);
            let scale = scale.filter(|_| self.is_last || accumulates).map_or(1.0, |scale| scale[column + at]);
            *out = if accumulates {
                scale.mul_add(sum + bias, *out)
            } else {
                let sum = if self.is_first { sum } else { sum + *out } + bias;
                if self.is_last { activation.apply(sum) * scale } else { sum }
            };
        }
    }

    /// The vectors of bias and scale that belong to a panel.
    #[inline(always)]
    fn vectors<S: Simd>(&self, simd: S, column: usize) -> WholeStore<S> {
        let Epilogue { bias, activation, scale, accumulates } = *self.epilogue;
        let of = |values: Option<&[f32]>| {
            let (vectors, _) = S::as_simd_f32s(&values?[column..][..2 * S::F32_LANES]);
            Some([vectors[0], vectors[1]])
        };
        let zero = simd.splat_f32s(0.0);
        WholeStore {
            adds: !self.is_first || accumulates,
            bias: of(bias.filter(|_| self.is_last)).unwrap_or([zero; 2]),
            activation: if self.is_last { activation } else { Activation::None },
            scale: of(scale.filter(|_| self.is_last || accumulates)),
            accumulates,
        }
    }
}

/// [`Store`] for both vectors of a panel at once.
struct WholeStore<S: Simd> {
    adds: bool,
    bias: [S::f32s; 2],
    activation: Activation,
    scale: Option<[S::f32s; 2]>,
    accumulates: bool,
}

impl<S: Simd> WholeStore<S> {
    #[inline(always)]
    fn store(&self, simd: S, sums: [S::f32s; 2], line: &mut [f32]) {
        let (out, _) = S::as_mut_simd_f32s(line);
        let [left, right] = out else { return };
        for (half, (out, sum)) in [left, right].into_iter().zip(sums).enumerate() {
            let mut sum = simd.add_f32s(sum, self.bias[half]);
            if self.adds && !self.accumulates {
                sum = simd.add_f32s(sum, *out);
            }
            if self.activation != Activation::None {
                let values: &mut [f32] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut sum));
                values.iter_mut().for_each(|value| *value = self.activation.apply(*value));
            }
            *out = match (self.accumulates, self.scale) {
                (true, Some(scale)) => simd.mul_add_f32s(scale[half], sum, *out),
                (true, None) => simd.add_f32s(sum, *out),
                (false, Some(scale)) => simd.mul_f32s(sum, scale[half]),
                (false, None) => sum,
            };
        }
    }
}

/// `ROWS` rows of a tile, `[depth, ROWS]`, times a panel, `[depth, 2 vectors]`.
#[inline(always)]
pub(crate) fn multiply<S: Simd, const ROWS: usize>(simd: S, tile: &[f32], panel: &[f32]) -> [[S::f32s; 2]; ROWS] {
    let (tile, _) = tile.as_chunks::<ROWS>();
    let (vectors, _) = S::as_simd_f32s(panel);
    let (vectors, _) = vectors.as_chunks::<2>();
    let zero = simd.splat_f32s(0.0);
    let mut sums = [[zero; 2]; ROWS];
    for (a, [left, right]) in tile.iter().zip(vectors) {
        for (sums, &a) in sums.iter_mut().zip(a) {
            let a = simd.splat_f32s(a);
            sums[0] = simd.mul_add_f32s(a, *left, sums[0]);
            sums[1] = simd.mul_add_f32s(a, *right, sums[1]);
        }
    }
    sums
}
