//! Conversions, activations and their gradients, value by value.

use crate::flex::{
    element::Element,
    math::{gelu, gelu_derivative, sigmoid},
    simd::Vectorized,
    threads::{for_rows, for_rows_of_two},
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

    for_rows_of_two(up, grad, 1, |first, up, grad| {
        let length = grad.len();
        Backward(&gate[first..][..length], up, grad).dispatch();
    });
}
