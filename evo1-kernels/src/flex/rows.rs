//! Norms and softmax, row by row, and their gradients.

use std::ops::Range;

use crate::{
    backend::Norm,
    flex::{
        element::Element,
        math::exp,
        simd::Vectorized,
        threads::{for_rows, sum_of_rows},
    },
};

/// Partial sums that a row is added up in: as many as several vectors hold.
const SUMS: usize = 32;

/// The sum of `f` over the values of two slices.
#[inline(always)]
fn sum<A: Element, B: Element>(a: &[A], b: &[B], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0; SUMS];
    let (a, a_rest) = a.as_chunks::<SUMS>();
    let (b, b_rest) = b.as_chunks::<SUMS>();
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f(a.widen(), b.widen());
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| f(a.widen(), b.widen())).sum();
    sums.iter().sum::<f32>() + rest
}

impl Norm {
    /// What is subtracted from a row and what it is then multiplied with.
    #[inline(always)]
    fn statistics<E: Element>(self, row: &[E], epsilon: f32) -> (f32, f32) {
        let count = row.len() as f32;
        let mean = match self {
            Self::Layer => sum(row, row, |x, _| x) / count,
            Self::Rms => 0.0,
        };
        let variance = sum(row, row, |x, _| (x - mean) * (x - mean)) / count;
        (mean, 1.0 / (variance + epsilon).sqrt())
    }
}

/// `out = norm(x) ⊙ gamma + beta`, row by row.
pub(crate) fn norm<E: Element>(norm: Norm, x: &[E], gamma: &[E], beta: Option<&[E]>, epsilon: f32, out: &mut [E]) {
    struct Forward<'a, E> {
        norm: Norm,
        x: &'a [E],
        gamma: &'a [E],
        beta: Option<&'a [E]>,
        epsilon: f32,
        out: &'a mut [E],
    }

    impl<E: Element> Vectorized for Forward<'_, E> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            let width = self.gamma.len();
            for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
                let (mean, scale) = self.norm.statistics(x, self.epsilon);
                let normed = x.iter().zip(self.gamma).map(|(x, gamma)| (x.widen() - mean) * scale * gamma.widen());
                match self.beta {
                    Some(beta) => {
                        for ((out, y), beta) in out.iter_mut().zip(normed).zip(beta) {
                            *out = E::narrow(y + beta.widen());
                        }
                    }
                    None => out.iter_mut().zip(normed).for_each(|(out, y)| *out = E::narrow(y)),
                }
            }
        }
    }

    let width = gamma.len();
    for_rows(out, width, |first, out| {
        let x = &x[first * width..][..out.len()];
        Forward { norm, x, gamma, beta, epsilon, out }.dispatch();
    });
}

/// From the gradient of [`norm()`]: `grad ← ∂x`; returns `∂gamma` followed by `∂beta`.
pub(crate) fn norm_backward<E: Element>(norm: Norm, x: &[E], gamma: &[E], epsilon: f32, grad: &mut [E]) -> Vec<f32> {
    /// `∂gamma` and `∂beta` of some rows.
    struct Parameters<'a, E> {
        norm: Norm,
        x: &'a [E],
        grad: &'a [E],
        epsilon: f32,
        sums: &'a mut [f32],
    }

    impl<E: Element> Vectorized for Parameters<'_, E> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            let width = self.sums.len() / 2;
            let (gamma, beta) = self.sums.split_at_mut(width);
            for (x, grad) in self.x.chunks_exact(width).zip(self.grad.chunks_exact(width)) {
                let (mean, scale) = self.norm.statistics(x, self.epsilon);
                for (((gamma, beta), x), grad) in gamma.iter_mut().zip(beta.iter_mut()).zip(x).zip(grad) {
                    let grad = grad.widen();
                    *gamma += grad * (x.widen() - mean) * scale;
                    *beta += grad;
                }
            }
        }
    }

    /// `∂x` of some rows.
    struct Input<'a, E> {
        norm: Norm,
        x: &'a [E],
        gamma: &'a [E],
        epsilon: f32,
        grad: &'a mut [E],
    }

    impl<E: Element> Vectorized for Input<'_, E> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            let width = self.gamma.len();
            let count = width as f32;
            let mut scaled = vec![0.0_f32; width];
            for (x, grad) in self.x.chunks_exact(width).zip(self.grad.chunks_exact_mut(width)) {
                let (mean, scale) = self.norm.statistics(x, self.epsilon);
                for ((scaled, grad), gamma) in scaled.iter_mut().zip(&*grad).zip(self.gamma) {
                    *scaled = grad.widen() * gamma.widen();
                }
                let along = sum(x, &scaled, |x, grad| (x - mean) * scale * grad) / count;
                let offset = match self.norm {
                    Norm::Layer => sum(&scaled, &scaled, |grad, _| grad) / count,
                    Norm::Rms => 0.0,
                };
                for ((grad, scaled), x) in grad.iter_mut().zip(&scaled).zip(x) {
                    let normed = (x.widen() - mean) * scale;
                    *grad = E::narrow(scale * (scaled - offset - normed * along));
                }
            }
        }
    }

    let width = gamma.len();
    let of = |rows: Range<usize>| rows.start * width..rows.end * width;
    let parameters = sum_of_rows(x.len() / width, width, 2 * width, |rows, sums| {
        Parameters { norm, x: &x[of(rows.clone())], grad: &grad[of(rows)], epsilon, sums }.dispatch();
    });
    for_rows(grad, width, |first, grad| {
        Input { norm, x: &x[first * width..][..grad.len()], gamma, epsilon, grad }.dispatch();
    });
    parameters
}

/// The sum of all rows of `width` values.
pub(crate) fn sum_of_all<E: Element>(x: &[E], width: usize) -> Vec<f32> {
    struct Add<'a, E>(&'a [E], &'a mut [f32]);

    impl<E: Element> Vectorized for Add<'_, E> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            for row in self.0.chunks_exact(self.1.len()) {
                for (sum, x) in self.1.iter_mut().zip(row) {
                    *sum += x.widen();
                }
            }
        }
    }

    let rows = x.len().checked_div(width).unwrap_or(0);
    sum_of_rows(rows, width, width, |rows, sums| Add(&x[rows.start * width..rows.end * width], sums).dispatch())
}

/// `x ← softmax(x)` for rows of `width` values. A row of −∞ becomes zeros.
pub(crate) fn softmax_in_place<E: Element>(x: &mut [E], width: usize) {
    struct Forward<'a, E>(&'a mut [E], usize);

    impl<E: Element> Vectorized for Forward<'_, E> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            let mut exponentials = vec![0.0_f32; self.1];
            for row in self.0.chunks_exact_mut(self.1) {
                let mut largest = [f32::MIN; SUMS];
                let (chunks, rest) = row.as_chunks::<SUMS>();
                for chunk in chunks {
                    for (largest, x) in largest.iter_mut().zip(chunk) {
                        *largest = largest.max(x.widen());
                    }
                }
                let largest = rest.iter().map(|x| x.widen()).chain(largest).fold(f32::MIN, f32::max);
                for (exponential, x) in exponentials.iter_mut().zip(&*row) {
                    *exponential = exp(x.widen() - largest);
                }
                let total = sum(&exponentials, &exponentials, |x, _| x);
                let scale = if total > 0.0 { 1.0 / total } else { 0.0 };
                for (x, exponential) in row.iter_mut().zip(&exponentials) {
                    *x = E::narrow(exponential * scale);
                }
            }
        }
    }

    for_rows(x, width, |_, x| Forward(x, width).dispatch());
}

/// From the result of [`softmax_in_place`]: `grad ← y ⊙ (grad − Σ grad ⊙ y)`.
pub(crate) fn softmax_backward<E: Element>(y: &[E], width: usize, grad: &mut [E]) {
    struct Backward<'a, E>(&'a [E], usize, &'a mut [E]);

    impl<E: Element> Vectorized for Backward<'_, E> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            for (y, grad) in self.0.chunks_exact(self.1).zip(self.2.chunks_exact_mut(self.1)) {
                let along = sum(y, grad, |y, grad| y * grad);
                for (grad, y) in grad.iter_mut().zip(y) {
                    *grad = E::narrow(y.widen() * (grad.widen() - along));
                }
            }
        }
    }

    for_rows(grad, width, |first, grad| Backward(&y[first * width..][..grad.len()], width, grad).dispatch());
}
