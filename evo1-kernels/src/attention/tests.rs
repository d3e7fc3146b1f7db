use super::*;
use crate::test_values::values;

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
