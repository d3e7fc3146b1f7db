use half::bf16;

use super::*;
use crate::flex::test_values::values;

fn reference<E: Element>(a: Matrix<f32>, b: Matrix<E>) -> Vec<f32> {
    let mut out = Vec::new();
    for row in 0..a.rows {
        for column in 0..b.columns {
            let sum: f64 = (0..a.columns)
                .map(|k| {
                    let a = a.data[row * a.row_stride + k * a.column_stride];
                    let b = b.data[k * b.row_stride + column * b.column_stride].widen();
                    f64::from(a) * f64::from(b)
                })
                .sum();
            out.push(sum as f32);
        }
    }
    out
}

const SIZES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [1, 2049, 70],
    [3, 100, 33],
    [7, 5, 9],
    [50, 700, 130],
    [97, 321, 64],
    [200, 64, 515],
    [385, 33, 100],
    [6, 640, 16],
];

fn assert_close(got: &[f32], want: &[f32], what: &str) {
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 2e-5 * (1.0 + want.abs()), "{what}, element {index}: {got} is not {want}");
    }
}

#[test]
fn products_of_all_layouts_are_the_sums() {
    for [rows, depth, columns] in SIZES {
        let (a, b) = (values(1, rows * depth), values(2, depth * columns));
        let a = [Matrix::row_major(&a, rows, depth), Matrix::row_major(&a, depth, rows).transposed()];
        let b = [Matrix::row_major(&b, depth, columns), Matrix::row_major(&b, columns, depth).transposed()];
        for a in a {
            for b in b {
                let want = reference(a, b);
                let mut out = vec![f32::NAN; rows * columns];
                gemm(a, b, &mut out, &Epilogue::NONE);
                assert_close(&out, &want, &format!("{rows} × {depth} × {columns}"));
                out.fill(f32::NAN);
                let mut lines: Vec<&mut [f32]> = out.chunks_exact_mut(columns).collect();
                multiply_lines(a, b, &mut lines, &Epilogue::NONE);
                assert_close(&out, &want, "on one thread");
            }
        }
    }
}

/// On processors that multiply pairs of `bf16`, and with the arithmetic that all others have.
#[test]
fn products_of_bf16_are_the_sums() {
    let half = |seed, count| -> Vec<bf16> { values(seed, count).into_iter().map(bf16::narrow).collect() };
    let widened = |values: &[bf16]| -> Vec<f32> { values.iter().map(|value| value.widen()).collect() };
    for [rows, depth, columns] in SIZES {
        let (a, b) = (half(1, rows * depth), half(2, depth * columns));
        let wide = widened(&a);
        let a = [
            (Matrix::row_major(&a, rows, depth), Matrix::row_major(&wide, rows, depth)),
            (Matrix::row_major(&a, depth, rows).transposed(), Matrix::row_major(&wide, depth, rows).transposed()),
        ];
        let b = [Matrix::row_major(&b, depth, columns), Matrix::row_major(&b, columns, depth).transposed()];
        for (a, wide) in a {
            for b in b {
                let (want, what) = (reference(wide, b), format!("{rows} × {depth} × {columns}"));
                let mut out = vec![f32::NAN; rows * columns];
                gemm(a, b, &mut out, &Epilogue::NONE);
                assert_close(&out, &want, &what);
                for is_small in [false, true] {
                    packed(Single, a, Right::Matrix(b), &mut out, &Epilogue::NONE, is_small);
                    assert_close(&out, &want, &format!("{what}, singly"));
                }
            }
        }
    }
}

#[test]
fn the_epilogue_is_what_it_says() {
    for [rows, depth, columns] in SIZES {
        let (a, b) = (values(3, rows * depth), values(4, depth * columns));
        let (bias, scale, base) = (values(5, columns), values(6, columns), values(7, rows * columns));
        let (a, b) = (Matrix::row_major(&a, rows, depth), Matrix::row_major(&b, depth, columns));
        let product = reference(a, b);
        for activation in [Activation::None, Activation::Gelu, Activation::Relu] {
            let accumulates = activation == Activation::None;
            let epilogue = Epilogue { bias: Some(&bias), activation, scale: Some(&scale), accumulates };
            let mut out = base.clone();
            gemm(a, b, &mut out, &epilogue);
            let want: Vec<f32> = (0..rows * columns)
                .map(|at| {
                    let x = product[at] + bias[at % columns];
                    let x = match activation {
                        Activation::None => x,
                        Activation::Gelu => math::gelu(x),
                        Activation::Relu => x.max(0.0),
                    };
                    x * scale[at % columns] + if accumulates { base[at] } else { 0.0 }
                })
                .collect();
            assert_close(&out, &want, &format!("{activation:?} of {rows} × {depth} × {columns}"));
        }
    }
}

#[test]
fn half_size_weights_are_widened() {
    for [rows, depth, columns] in SIZES {
        let a = values(8, rows * depth);
        let b: Vec<half::bf16> = values(9, depth * columns).into_iter().map(half::bf16::from_f32).collect();
        let (a, b) = (Matrix::row_major(&a, rows, depth), Matrix::row_major(&b, depth, columns));
        let mut out = vec![0.0; rows * columns];
        gemm(a, b, &mut out, &Epilogue::NONE);
        assert_close(&out, &reference(a, b), "bf16");
    }
}

#[test]
fn other_rows_change_no_bit_of_a_row() {
    let (depth, columns) = (700, 130);
    let (a, b) = (values(10, 200 * depth), values(11, depth * columns));
    let b = Matrix::row_major(&b, depth, columns);
    let mut all = vec![0.0; 200 * columns];
    gemm(Matrix::row_major(&a, 200, depth), b, &mut all, &Epilogue::NONE);
    let mut some = vec![0.0; 50 * columns];
    gemm(Matrix::row_major(&a[20 * depth..], 50, depth), b, &mut some, &Epilogue::NONE);
    assert_eq!(some, all[20 * columns..70 * columns]);
}

#[test]
fn a_sum_of_nothing_is_the_bias() {
    let bias = [1.0, 2.0];
    let mut out = [0.0; 4];
    let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::NONE };
    gemm(Matrix::<f32>::row_major(&[], 2, 0), Matrix::<f32>::row_major(&[], 0, 2), &mut out, &epilogue);
    assert_eq!(out, [1.0, 2.0, 1.0, 2.0]);
}

#[test]
fn relu_hides_no_nan() {
    assert!(Activation::Relu.apply(f32::NAN).is_nan());
    assert_eq!(Activation::Relu.apply(-1.0), 0.0);
}

#[test]
fn a_packed_matrix_has_the_same_products_and_is_unpacked() {
    fn check<E: Element + PartialEq>() {
        let of = |seed, count| -> Vec<E> { values(seed, count).into_iter().map(E::narrow).collect() };
        for [rows, depth, columns] in [[1, 2050, 64], [7, 6, 96], [50, 1100, 160], [60, 34, 32], [200, 64, 544]] {
            assert_eq!(can_be_packed::<E>(depth, columns), E::IS_F32 || multiplies_pairs());
            assert!(!can_be_packed::<E>(depth, columns + 1));
            if !can_be_packed::<E>(depth, columns) {
                continue;
            }
            let (a, b) = (of(12, rows * depth), of(13, depth * columns));
            let (a, matrix) = (Matrix::row_major(&a, rows, depth), Matrix::row_major(&b, depth, columns));
            let mut data = vec![E::narrow(0.0); b.len()];
            pack(matrix, &mut data);
            let panels = Panels { data: &data, rows: depth, columns };
            let mut unpacked = vec![E::narrow(0.0); b.len()];
            unpack(panels, &mut unpacked);
            assert!(unpacked == b, "{rows} × {depth} × {columns}");
            let (mut got, mut want) = (vec![0.0; rows * columns], vec![0.0; rows * columns]);
            gemm_packed(a, panels, &mut got, &Epilogue::NONE);
            multiply_packed(a, Right::Matrix(matrix), &mut want, &Epilogue::NONE);
            assert_eq!(got, want, "{rows} × {depth} × {columns}");
        }
    }
    check::<f32>();
    check::<bf16>();
}
