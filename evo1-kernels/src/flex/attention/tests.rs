use half::bf16;

use super::*;
use crate::flex::{element::Element, test_values::values};

#[test]
fn a_query_that_sees_nothing_gets_zeros_and_no_gradient() {
    let (q, k, v) = (values(1, 3 * 8), values(2, 4 * 8), values(3, 4 * 8));
    let heads = |data, rows| Heads { data, batch: 1, heads: 1, rows, width: 8, strides: [0, 0, 8] };
    let mask = [0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1];
    let hidden = Some(Hidden { data: &mask, strides: [0, 0, 4], keys: 4 });
    let (out, log_sums) = forward(heads(&q, 3), heads(&k, 4), heads(&v, 4), hidden, 0.5);
    assert_eq!(out[8..16], [0.0; 8]);
    assert!(out.iter().all(|value| value.is_finite()));
    let grad = values(4, 3 * 8);
    let gradients =
        backward(heads(&q, 3), heads(&k, 4), heads(&v, 4), hidden, 0.5, heads(&out, 3), &log_sums, heads(&grad, 3));
    assert_eq!(gradients.query[8..16], [0.0; 8]);
    assert!(gradients.key.iter().chain(&gradients.value).all(|value| value.is_finite()));
}

/// On processors that multiply pairs of `bf16`, weights are rounded to it; on others only the result is.
#[test]
fn attention_in_bf16_is_that_in_f32_to_its_rounding() {
    for (case, [queries, keys, width]) in
        [[3, 1, 2], [1, 7, 5], [40, 33, 8], [70, 195, 13], [300, 401, 64]].into_iter().enumerate()
    {
        for masked in [false, true] {
            let narrow = |seed, rows| -> Vec<bf16> {
                values(seed, 2 * rows * width).into_iter().map(|value| bf16::narrow(3.0 * value)).collect()
            };
            let (q, k, v) = (narrow(1, queries), narrow(2, keys), narrow(3, keys));
            let wide = |values: &[bf16]| -> Vec<f32> { values.iter().map(|value| value.widen()).collect() };
            let (wide_q, wide_k, wide_v) = (wide(&q), wide(&k), wide(&v));
            // Every key but one of three, another for each query.
            let mask: Vec<u8> =
                (0..queries * keys).map(|at| u8::from(keys > 1 && (at / keys + at % keys) % 3 == 0)).collect();
            let hidden = masked.then_some(Hidden { data: &mask, strides: [0, 0, keys], keys });
            let (got, got_sums) =
                forward(two(&q, queries, width), two(&k, keys, width), two(&v, keys, width), hidden, 0.3);
            let (want, want_sums) = forward(
                two(&wide_q, queries, width),
                two(&wide_k, keys, width),
                two(&wide_v, keys, width),
                hidden,
                0.3,
            );
            for (got, want) in got.iter().zip(want) {
                assert!((got.widen() - want).abs() <= 0.02, "case {case}: {got} is not {want}");
            }
            for (got, want) in got_sums.iter().zip(want_sums) {
                assert!((got - want).abs() <= 1e-4, "case {case}: {got} is not {want}");
            }
        }
    }
}

/// Two heads one after the other.
fn two<E>(data: &[E], rows: usize, width: usize) -> Heads<'_, E> {
    Heads { data, batch: 1, heads: 2, rows, width, strides: [0, rows * width, width] }
}
