//! Conversions, activations and their gradients, value by value.

use crate::backend::AdamW;
use crate::flex::{
    element::Element,
    math::{gelu, gelu_derivative, sigmoid},
    simd::Vectorized,
    threads::{for_pieces_of, for_rows},
};

/// `out = x`, in another number type.
pub(crate) fn convert<A: Element, B: Element>(x: &[A], out: &mut [B]) {
    struct Convert<'a, A, B>(&'a [A], &'a mut [B]);

    impl<A: Element, B: Element> Vectorized for Convert<'_, A, B> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            for (x, out) in self.0.iter().zip(self.1) {
                *out = B::narrow(x.widen());
            }
        }
    }

    for_rows(out, 1, |first, out| Convert(&x[first..][..out.len()], out).dispatch());
}

/// `x ← gelu(x)`.
pub(crate) fn gelu_in_place<E: Element>(x: &mut [E]) {
    struct Gelu<'a, E>(&'a mut [E]);

    impl<E: Element> Vectorized for Gelu<'_, E> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            for x in self.0 {
                *x = E::narrow(gelu(x.widen()));
            }
        }
    }

    for_rows(x, 1, |_, x| Gelu(x).dispatch());
}

/// `grad ← grad · gelu'(x)`.
pub(crate) fn gelu_backward<E: Element>(x: &[E], grad: &mut [E]) {
    struct Backward<'a, E>(&'a [E], &'a mut [E]);

    impl<E: Element> Vectorized for Backward<'_, E> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            for (x, grad) in self.0.iter().zip(self.1) {
                *grad = E::narrow(grad.widen() * gelu_derivative(x.widen()));
            }
        }
    }

    for_rows(grad, 1, |first, grad| Backward(&x[first..][..grad.len()], grad).dispatch());
}

/// A step of AdamW over a weight and its moments, in place. Operations have the order of burn's own, and so the same bits.
pub(crate) fn adamw<E: Element>(weight: &mut [E], gradient: &[E], moments: [&mut [E]; 2], step: AdamW) {
    struct Step<'a, E> {
        weight: &'a mut [E],
        gradient: &'a [E],
        moments: [&'a mut [E]; 2],
        step: AdamW,
    }

    impl<E: Element> Vectorized for Step<'_, E> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            let Self { weight, gradient, moments: [moment_1, moment_2], step } = self;
            let AdamW { betas: [beta_1, beta_2], corrections: [correction_1, correction_2], .. } = step;
            let (rest_1, rest_2) = (1.0 - beta_1, 1.0 - beta_2);
            for (((weight, gradient), m), v) in weight.iter_mut().zip(gradient).zip(moment_1).zip(moment_2) {
                let g = gradient.widen();
                let first = m.widen() * beta_1 + g * rest_1;
                let second = v.widen() * beta_2 + g * g * rest_2;
                let change = first / correction_1 / ((second / correction_2).sqrt() + step.epsilon);
                (*m, *v) = (E::narrow(first), E::narrow(second));
                *weight = E::narrow(weight.widen() * step.kept - change * step.learning_rate);
            }
        }
    }

    let [moment_1, moment_2] = moments;
    for_pieces_of([weight, moment_1, moment_2], |first, [weight, moment_1, moment_2]| {
        let gradient = &gradient[first..][..weight.len()];
        Step { weight, gradient, moments: [moment_1, moment_2], step }.dispatch();
    });
}

/// `gate ← SiLU(gate) · up`.
pub(crate) fn swiglu<E: Element>(gate: &mut [E], up: &[E]) {
    struct Forward<'a, E>(&'a mut [E], &'a [E]);

    impl<E: Element> Vectorized for Forward<'_, E> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            for (gate, up) in self.0.iter_mut().zip(self.1) {
                let x = gate.widen();
                *gate = E::narrow(x * sigmoid(x) * up.widen());
            }
        }
    }

    for_rows(gate, 1, |first, gate| {
        let length = gate.len();
        Forward(gate, &up[first..][..length]).dispatch();
    });
}

/// From `gate`, `up` and the gradient of [`swiglu`]: `grad ← ∂gate`, `up ← ∂up`.
pub(crate) fn swiglu_backward<E: Element>(gate: &[E], up: &mut [E], grad: &mut [E]) {
    struct Backward<'a, E>(&'a [E], &'a mut [E], &'a mut [E]);

    impl<E: Element> Vectorized for Backward<'_, E> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            for ((gate, up), grad) in self.0.iter().zip(self.1).zip(self.2) {
                let (x, y, g) = (gate.widen(), up.widen(), grad.widen());
                let s = sigmoid(x);
                *up = E::narrow(g * x * s);
                *grad = E::narrow(g * y * s * (1.0 - s).mul_add(x, 1.0));
            }
        }
    }

    for_pieces_of([up, grad], |first, [up, grad]| {
        let length = grad.len();
        Backward(&gate[first..][..length], up, grad).dispatch();
    });
}
