//! Rotary position embedding.

use super::{attention::Heads, element::Element, simd::Vectorized, threads::for_rows};

/// `x ⊙ cos + rotate_half(x) ⊙ sin` of all heads; the tables are `[batch or 1, rows, width]`, with equal halves of a row.
///
/// # Shapes
/// - output: `[batch, rows, heads, width]`
pub(crate) fn rotate<E: Element>(x: Heads<E>, cos: &[f32], sin: &[f32]) -> Vec<E> {
    struct Tokens<'a, E> {
        x: Heads<'a, E>,
        cos: &'a [f32],
        sin: &'a [f32],
        /// The first token of `out`, counted over all samples.
        first: usize,
        out: &'a mut [E],
    }

    impl<E: Element> Vectorized for Tokens<'_, E> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            let Heads { heads, rows, width, .. } = self.x;
            let half = width / 2;
            for (token, out) in self.out.chunks_exact_mut(heads * width).enumerate() {
                let token = self.first + token;
                let (sample, row) = (token / rows, token % rows);
                // One sample's tables serve all, or each has its own.
                let table = token * width % self.cos.len();
                let (cos, sin) = (&self.cos[table..][..half], &self.sin[table..][..half]);
                for (head, out) in out.chunks_exact_mut(width).enumerate() {
                    let x = &self.x.of(sample, head)[row * self.x.strides[2]..][..width];
                    let (first, second) = x.split_at(half);
                    let (out_first, out_second) = out.split_at_mut(half);
                    for at in 0..half {
                        let (a, b) = (first[at].widen(), second[at].widen());
                        out_first[at] = E::narrow(a * cos[at] - b * sin[at]);
                        out_second[at] = E::narrow(b * cos[at] + a * sin[at]);
                    }
                }
            }
        }
    }

    let width = x.heads * x.width;
    let mut out = vec![E::narrow(0.0); x.batch * x.rows * width];
    for_rows(&mut out, width.max(1), |first, out| Tokens { x, cos, sin, first, out }.dispatch());
    out
}
