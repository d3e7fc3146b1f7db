//! Every operation of `ops` equals the same made of burn's elementary ones, forward and backward, on every device.

use burn::tensor::{Bool, DType, Device, Distribution, Tensor, TensorData, activation};
use evo1_core::{
    device::test_devices,
    ops,
    test_support::{assert_within, largest},
};
use evo1_kernels::Activation;

/// A function of some tensors.
type Function<'a> = &'a dyn Fn(&[Tensor<4>]) -> Tensor<4>;

/// Compares two functions on random inputs of the given shapes: their results with and without gradients, and the
/// gradients of all inputs for a random direction.
fn assert_same(what: &str, device: &Device, shapes: &[[usize; 4]], got: Function, want: Function) {
    let what = format!("{what} on {device:?}");
    let random = |shape| Tensor::<4>::random(shape, Distribution::Uniform(-1.5, 1.5), device);
    let inputs: Vec<Tensor<4>> = shapes.iter().map(|&shape| random(shape)).collect();
    let expected = want(&inputs);
    let direction = random(expected.dims());
    let expected = expected.into_data();
    assert_equal(&what, &got(&inputs).into_data(), &expected);

    let tracked = device.clone().autodiff();
    let differentiated = |function: Function| {
        let inputs: Vec<Tensor<4>> =
            inputs.iter().map(|input| Tensor::from_data(input.to_data(), &tracked).require_grad()).collect();
        let out = function(&inputs);
        let grads = (out.clone() * Tensor::from_data(direction.to_data(), &tracked)).sum().backward();
        let of_inputs: Vec<TensorData> =
            inputs.iter().map(|input| input.grad(&grads).expect("every input has a gradient").into_data()).collect();
        (out.into_data(), of_inputs)
    };
    let ((got, got_grads), (_, want_grads)) = (differentiated(got), differentiated(want));
    assert_equal(&format!("{what}, with gradients"), &got, &expected);
    for (index, (got, want)) in got_grads.iter().zip(&want_grads).enumerate() {
        assert_equal(&format!("{what}, gradient {index}"), got, want);
    }
}

/// Within 1e-5, and besides within 1e-5 of the largest value.
fn assert_equal(what: &str, got: &TensorData, want: &TensorData) {
    assert_within(what, got, want, 1e-5 * (1.0 + largest(want)));
}

fn vector(x: &Tensor<4>) -> Tensor<1> {
    x.clone().flatten(0, 3)
}

fn matrix(x: Tensor<4>) -> Tensor<2> {
    x.flatten::<3>(0, 1).squeeze_dim(0)
}

/// `x·weight` for a weight without leading dimensions.
fn product(x: &Tensor<4>, weight: &Tensor<4>) -> Tensor<4> {
    let ([_, batch, ..], [_, _, input, output]) = (x.dims(), weight.dims());
    ops::matmul(x.clone(), weight.clone().expand([1, batch, input, output]))
}

/// burn's own product of `f32` is one of TF32 on some devices, three digits.
#[test]
fn products_are_exact_in_f32() {
    for device in test_devices() {
        for (batch, rows, inner, columns) in [(1, 1, 70, 1), (2, 1, 2100, 33), (1, 50, 96, 24), (3, 65, 130, 70)] {
            let random = |shape| Tensor::<3>::random(shape, Distribution::Uniform(-1.5, 1.5), &device);
            let (lhs, rhs) = (random([batch, rows, inner]), random([batch, inner, columns]));
            let values = |x: &Tensor<3>| x.to_data().iter::<f64>().collect::<Vec<_>>();
            let (left, right, got) = (values(&lhs), values(&rhs), ops::matmul(lhs, rhs).into_data());
            for (index, got) in got.iter::<f64>().enumerate() {
                let (sample, row, column) = (index / columns / rows, index / columns % rows, index % columns);
                let terms = (0..inner).map(|at| {
                    left[(sample * rows + row) * inner + at] * right[(sample * inner + at) * columns + column]
                });
                let (want, bound) = (terms.clone().sum::<f64>(), terms.map(f64::abs).sum::<f64>());
                let what = format!("{batch} × {rows} × {inner} × {columns} on {device:?}, element {index}");
                assert!((got - want).abs() <= 2e-6 * bound, "{what}: {got} is not {want}");
            }
        }
    }
}

#[test]
fn activations() {
    for device in test_devices() {
        for shape in [[1, 1, 3, 5], [2, 3, 7, 33], [1, 2, 300, 120]] {
            assert_same("gelu", &device, &[shape], &|x| ops::gelu(x[0].clone()), &|x| {
                let cdf = (x[0].clone() * std::f64::consts::FRAC_1_SQRT_2).erf() * 0.5 + 0.5;
                x[0].clone() * cdf
            });
            let swiglu = |x: &[Tensor<4>]| activation::silu(x[0].clone()) * x[1].clone();
            let separate = |x: &[Tensor<4>]| ops::swiglu(x[0].clone(), x[1].clone());
            assert_same("swiglu", &device, &[shape; 2], &separate, &swiglu);
            let (got, want) = (
                |x: &[Tensor<4>]| evo1_kernels::softmax(x[0].clone() * 10),
                |x: &[Tensor<4>]| activation::softmax(x[0].clone() * 10, 3),
            );
            assert_same("softmax", &device, &[shape], &got, &want);
        }
    }
}

/// What a sampler does to actions between two evaluations.
#[test]
fn steps_of_a_sampler() {
    for device in test_devices() {
        let shapes = [[1, 2, 50, 24], [1, 2, 50, 24]];
        let mask = |x: &Tensor<4>| x.clone().detach().greater_elem(0.0).float();
        assert_same(
            "masked",
            &device,
            &shapes,
            &|x| ops::masked(x[0].clone(), mask(&x[1]), DType::F32) + x[1].clone(),
            &|x| x[0].clone() * mask(&x[1]) + x[1].clone(),
        );
        assert_same("advanced", &device, &shapes, &|x| ops::advance(x[0].clone(), x[1].clone(), 32.0), &|x| {
            x[0].clone() + x[1].clone() / 32.0
        });
        for dtype in half_types(&device) {
            let random = || Tensor::<4>::random([1, 2, 5, 24], Distribution::Uniform(-1.5, 1.5), &device);
            let (x, slope) = (random(), random().cast(dtype));
            let got = ops::advance(x.clone(), slope.clone(), 32.0).into_data();
            assert_equal("advanced by a half", &got, &(x.clone() + slope.cast(DType::F32) / 32.0).into_data());
            let got = ops::masked(x.clone(), mask(&x), dtype);
            assert_eq!(got.dtype(), dtype);
            let want = (x.clone() * mask(&x)).cast(dtype).cast(DType::F32);
            assert_equal("masked to a half", &got.cast(DType::F32).into_data(), &want.into_data());
        }
    }
}

#[test]
fn rotary_embedding() {
    for device in test_devices() {
        for (batch, tables) in [(1, 1), (3, 1), (3, 3)] {
            let [heads, tokens, width] = [4, 9, 16];
            let half = Tensor::<4>::random([tables, 1, tokens, width / 2], Distribution::Uniform(-3.0, 3.0), &device);
            let angles = Tensor::cat(vec![half.clone(), half], 3).into_data();
            let table = |x: &Tensor<4>, function: fn(Tensor<4>) -> Tensor<4>| {
                function(Tensor::from_data(angles.clone(), (&x.device(), DType::F32)))
            };
            // Heads where they lie in a projection.
            let heads_of = |x: &[Tensor<4>]| x[0].clone().swap_dims(1, 2);
            let got = |x: &[Tensor<4>]| ops::rotate(heads_of(x), table(&x[0], Tensor::cos), table(&x[0], Tensor::sin));
            let want = |x: &[Tensor<4>]| {
                let y = heads_of(x);
                let (first, second) = (y.clone().narrow(3, 0, width / 2), y.clone().narrow(3, width / 2, width / 2));
                y * table(&x[0], Tensor::cos) + Tensor::cat(vec![-second, first], 3) * table(&x[0], Tensor::sin)
            };
            assert_same("rotary embedding", &device, &[[batch, tokens, heads, width]], &got, &want);
        }
    }
}

#[test]
fn norms() {
    for device in test_devices() {
        for shape in [[1, 1, 1, 8], [2, 3, 7, 33], [1, 4, 200, 96], [1, 1, 33_000, 16]] {
            let width = [1, 1, 1, shape[3]];
            let normed = |x: Tensor<4>, epsilon: f64| {
                let scale = (x.clone().square().mean_dim(3) + epsilon).sqrt();
                x / scale
            };
            let moved = |x: &Tensor<4>| x.clone() * 3 + 1;
            let got =
                |x: &[Tensor<4>]| evo1_kernels::layer_norm(moved(&x[0]), vector(&x[1]), Some(vector(&x[2])), 1e-5);
            let want = |x: &[Tensor<4>]| {
                let y = moved(&x[0]);
                normed(y.clone() - y.mean_dim(3), 1e-5) * x[1].clone() + x[2].clone()
            };
            assert_same("layer norm", &device, &[shape, width, width], &got, &want);
            let got = |x: &[Tensor<4>]| evo1_kernels::rms_norm(x[0].clone(), vector(&x[1]), 1e-6);
            let want = |x: &[Tensor<4>]| normed(x[0].clone(), 1e-6) * x[1].clone();
            assert_same("RMS norm", &device, &[shape, width], &got, &want);
        }
        // A vector of each sample, or one for all.
        for (batch, samples) in [(1, 1), (3, 1), (3, 3)] {
            let (shape, width) = ([1, batch, 5, 24], [1, 1, 1, 24]);
            let got = |x: &[Tensor<4>]| {
                let (y, added) = (x[0].clone().squeeze_dim::<3>(0), x[3].clone().squeeze_dim::<3>(0));
                evo1_kernels::layer_norm_added(y, vector(&x[1]), Some(vector(&x[2])), added, 1e-5).unsqueeze()
            };
            let want = |x: &[Tensor<4>]| {
                let y = x[0].clone() - x[0].clone().mean_dim(3);
                let scale = (y.clone().square().mean_dim(3) + 1e-5).sqrt();
                y / scale * x[1].clone() + x[2].clone() + x[3].clone()
            };
            assert_same("added norm", &device, &[shape, width, width, [1, samples, 1, 24]], &got, &want);
        }
    }
}

#[test]
fn linear_layers_and_what_follows_them() {
    for device in test_devices() {
        for ([batch, rows], input, output) in
            [([1, 1], 40, 24), ([1, 3], 70, 33), ([2, 25], 96, 128), ([3, 90], 64, 50), ([1, 6], 2100, 20)]
        {
            let (x, weight, bias) = ([1, batch, rows, input], [1, 1, input, output], [1, 1, 1, output]);
            let weight_of = |x: &Tensor<4>| x.clone() / (input as f64).sqrt();
            for kind in [Activation::None, Activation::Gelu, Activation::Relu] {
                let got = |x: &[Tensor<4>]| {
                    evo1_kernels::linear(x[0].clone(), matrix(weight_of(&x[1])), Some(vector(&x[2])), kind)
                };
                let want = |x: &[Tensor<4>]| {
                    let out = product(&x[0], &weight_of(&x[1])) + x[2].clone();
                    match kind {
                        Activation::None => out,
                        Activation::Gelu => ops::gelu(out),
                        Activation::Relu => activation::relu(out),
                    }
                };
                assert_same(&format!("linear with {kind:?}"), &device, &[x, weight, bias], &got, &want);
            }
            let got = |x: &[Tensor<4>]| {
                let [bias, scale] = [&x[2], &x[3]].map(|x| Some(vector(x)));
                evo1_kernels::linear_residual(x[0].clone(), matrix(weight_of(&x[1])), bias, scale, x[4].clone())
            };
            let want =
                |x: &[Tensor<4>]| x[4].clone() + (product(&x[0], &weight_of(&x[1])) + x[2].clone()) * x[3].clone();
            let base = [1, batch, rows, output];
            assert_same("linear with residual", &device, &[x, weight, bias, bias, base], &got, &want);
        }
    }
}

/// Attention with its matrix of weights.
fn attention(x: &[Tensor<4>], hidden: Option<Tensor<4, Bool>>) -> Tensor<4> {
    let [batch, heads, queries, width] = x[0].dims();
    let [_, kv_heads, keys, _] = x[1].dims();
    let shared = |x: &Tensor<4>| {
        let group = [batch, kv_heads, heads / kv_heads, keys, width];
        x.clone().unsqueeze_dim::<5>(2).expand(group).reshape([batch, heads, keys, width])
    };
    let scores = ops::matmul(x[0].clone(), shared(&x[1]).transpose()) / (width as f64).sqrt();
    let scores = match hidden {
        Some(hidden) => scores.mask_fill(hidden.expand([batch, heads, queries, keys]), -1e30),
        None => scores,
    };
    ops::matmul(activation::softmax(scores, 3), shared(&x[2]))
}

#[test]
fn attention_of_any_size_and_mask() {
    for device in test_devices() {
        for (batch, [heads, kv_heads], queries, keys, width) in [
            (1, [1, 1], 1, 1, 4),
            (2, [4, 4], 16, 70, 24),
            (1, [4, 2], 37, 37, 16),
            (1, [2, 2], 50, 205, 112),
            (1, [2, 1], 130, 401, 64),
            (3, [2, 2], 5, 9, 6),
            // Enough heads for the largest tiles of a GPU's kernel, and for the next ones.
            (1, [64, 32], 230, 131, 4),
            (2, [16, 16], 230, 97, 8),
        ] {
            let of_keys = [batch, kv_heads, keys, width];
            let shapes = [[batch, heads, queries, width], of_keys, of_keys];
            // Another third of the keys in every sample, but never the first, which a causal mask leaves some alone with.
            let some_keys: Vec<bool> =
                (0..batch * keys).map(|at| at % keys > 0 && (at % keys + at / keys) % 3 == 1).collect();
            let some_keys = Tensor::<4, Bool>::from_data(TensorData::new(some_keys, [batch, 1, 1, keys]), &device);
            let causal = Tensor::<2, Bool>::tril_mask([queries, keys], 0, &device).reshape([1, 1, queries, keys]);
            let full = [batch, 1, queries, keys];
            let both = causal.clone().expand(full).bool_or(some_keys.clone().expand(full));
            let masks = [("no", None), ("key", Some(some_keys)), ("causal", Some(causal)), ("full", Some(both))];
            for (name, hidden) in masks {
                assert_same(
                    &format!("attention {queries} × {keys} × {width} with {name} mask"),
                    &device,
                    &shapes,
                    &|x| ops::attention(x[0].clone(), x[1].clone(), x[2].clone(), hidden.clone()),
                    &|x| attention(x, hidden.clone()),
                );
            }
        }
    }
}

/// The largest error of rounding to a half type once, relative to the number.
fn rounding(dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
        other => panic!("{other:?} is no half type"),
    }
}

/// Compares a function of tensors in half precision with that of the same numbers in `f32`: its results, rounded once
/// themselves and `inside` times on the way to the largest, and the gradients of the inputs for a random direction, each
/// with its own number, if any are given.
fn assert_rounded(
    what: &str,
    dtype: DType,
    inputs: &[Tensor<4>],
    (inside, of_gradients): (f32, &[f32]),
    function: Function,
) {
    let device = inputs[0].device();
    let what = format!("{what} in {dtype:?} on {device:?}");
    let halves: Vec<TensorData> = inputs.iter().map(|input| input.clone().cast(dtype).into_data()).collect();
    let of_type = |dtype: DType, device: &Device| -> Vec<Tensor<4>> {
        let tensor = |data: &TensorData| Tensor::from_data(data.clone().convert_dtype(dtype), (device, dtype));
        halves.iter().map(tensor).collect()
    };
    let assert_near = |what: &str, got: TensorData, want: TensorData, inside: f32| {
        assert_eq!(got.dtype(), dtype, "{what}");
        let largest = want.iter::<f32>().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        for (index, (got, want)) in got.iter::<f32>().zip(want.iter::<f32>()).enumerate() {
            let bound = 1.001 * rounding(dtype) * (want.abs() + inside * largest) + 1e-5 * largest;
            assert!((got - want).abs() <= bound, "{what}, element {index}: {got} is not {want} ± {bound}");
        }
    };
    let want = function(&of_type(DType::F32, &device));
    let direction = Tensor::<4>::random(want.dims(), Distribution::Uniform(-1.5, 1.5), &device).cast(dtype).into_data();
    assert_near(&what, function(&of_type(dtype, &device)).into_data(), want.into_data(), inside);
    if of_gradients.is_empty() {
        return;
    }

    let tracked = device.autodiff();
    let gradients = |dtype: DType| -> Vec<TensorData> {
        let inputs: Vec<_> = of_type(dtype, &tracked).into_iter().map(Tensor::require_grad).collect();
        let direction = Tensor::from_data(direction.clone().convert_dtype(dtype), (&tracked, dtype));
        let grads = (function(&inputs) * direction).sum().backward();
        inputs.iter().map(|input| input.grad(&grads).expect("every input has a gradient").into_data()).collect()
    };
    let pairs = gradients(dtype).into_iter().zip(gradients(DType::F32));
    for (index, ((got, want), &inside)) in pairs.zip(of_gradients).enumerate() {
        assert_near(&format!("{what}, gradient {index}"), got, want, inside);
    }
}

/// Sizes that a residual stream has: a few channels of a few tokens are hundreds of times as large as the rest.
fn with_massive_activations(shape: [usize; 4], device: &Device) -> Tensor<4> {
    let width = shape[3];
    let values: Vec<f32> =
        Tensor::<4>::random(shape, Distribution::Uniform(-1.5, 1.5), device).into_data().iter().collect();
    let values = values.into_iter().enumerate().map(|(at, value)| match (at / width % 4, at % width) {
        (1, 3) => 300.0,
        (1, 5) => -300.0,
        (2, 2) => -3000.0,
        (2, 4) => 3000.0,
        _ => value,
    });
    Tensor::from_data(TensorData::new(values.collect(), shape), (device, DType::F32))
}

fn half_types(device: &Device) -> impl Iterator<Item = DType> {
    [DType::BF16, DType::F16].into_iter().filter(|&dtype| device.supports_dtype(dtype))
}

#[test]
fn norms_and_activations_round_once_in_half_precision() {
    for device in test_devices() {
        for dtype in half_types(&device) {
            let random = |shape| Tensor::<4>::random(shape, Distribution::Uniform(-1.5, 1.5), &device);
            let (large, width) = (with_massive_activations([1, 2, 8, 40], &device), [1, 1, 1, 40]);
            let norm = [large.clone(), random(width), random(width)];
            assert_rounded("RMS norm", dtype, &norm[..2], (0.0, &[0.0; 2]), &|x| {
                evo1_kernels::rms_norm(x[0].clone(), vector(&x[1]), 1e-6)
            });
            assert_rounded("layer norm", dtype, &norm, (0.0, &[0.0; 3]), &|x| {
                evo1_kernels::layer_norm(x[0].clone(), vector(&x[1]), Some(vector(&x[2])), 1e-5)
            });
            assert_rounded("softmax", dtype, std::slice::from_ref(&large), (0.0, &[1.0]), &|x| {
                evo1_kernels::softmax(x[0].clone())
            });
            let usual = random([1, 2, 8, 40]) * 4;
            for x in [usual.clone(), large.clone()] {
                let gelu = |x: &[Tensor<4>]| ops::gelu(x[0].clone());
                assert_rounded("GELU", dtype, std::slice::from_ref(&x), (0.0, &[0.0]), &gelu);
                assert_rounded("SwiGLU", dtype, &[x, usual.clone()], (0.0, &[0.0; 2]), &|x| {
                    ops::swiglu(x[0].clone(), x[1].clone())
                });
            }
            let angles = random([1, 1, 8, 20]) * 3;
            let angles = Tensor::cat(vec![angles.clone(), angles], 3).into_data();
            assert_rounded("rotary embedding", dtype, &[large], (0.0, &[0.0]), &|x| {
                let angles = Tensor::<4>::from_data(angles.clone(), (&x[0].device(), DType::F32));
                ops::rotate(x[0].clone(), angles.clone().cos(), angles.sin())
            });
        }
    }
}

#[test]
fn products_round_once_in_half_precision() {
    for device in test_devices() {
        for dtype in half_types(&device) {
            for (rows, inner, columns) in [(1, 2100, 33), (50, 96, 24), (65, 130, 70)] {
                let random = |shape| Tensor::<4>::random(shape, Distribution::Uniform(-1.5, 1.5), &device);
                let inputs = [random([1, 3, rows, inner]), random([1, 3, inner, columns])];
                let what = format!("{rows} × {inner} × {columns}");
                assert_rounded(&what, dtype, &inputs, (0.0, &[0.0; 2]), &|x| ops::matmul(x[0].clone(), x[1].clone()));
            }
        }
    }
}

#[test]
fn linear_layers_round_once_in_half_precision() {
    for device in test_devices() {
        for dtype in half_types(&device) {
            for (rows, input, output) in [(1, 40, 24), (20, 96, 33), (300, 64, 48)] {
                let random = |shape| Tensor::<4>::random(shape, Distribution::Uniform(-1.5, 1.5), &device);
                let weight = random([1, 1, input, output]) / (input as f64).sqrt();
                let (x, channels) = (random([1, 1, rows, input]), [1, 1, 1, output]);
                let inputs = [x, weight, random(channels), random(channels), random([1, 1, rows, output]) * 20];
                for kind in [Activation::None, Activation::Gelu, Activation::Relu] {
                    // Where gradients are wanted, what goes into an activation is kept, rounded.
                    let inside = if kind == Activation::None { 0.0 } else { 1.0 };
                    assert_rounded(&format!("linear with {kind:?}"), dtype, &inputs[..3], (0.0, &[inside; 3]), &|x| {
                        evo1_kernels::linear(x[0].clone(), matrix(x[1].clone()), Some(vector(&x[2])), kind)
                    });
                }
                assert_rounded("linear with residual", dtype, &inputs, (0.0, &[4.0; 5]), &|x| {
                    let [bias, scale] = [&x[2], &x[3]].map(|x| Some(vector(x)));
                    evo1_kernels::linear_residual(x[0].clone(), matrix(x[1].clone()), bias, scale, x[4].clone())
                });
            }
        }
    }
}

/// Sizes below, at and above those of tiles, and so few inner values that copies run past their end.
#[test]
fn every_tiling_of_products_rounds_once() {
    for device in test_devices() {
        for dtype in half_types(&device) {
            for (tiling, name) in evo1_kernels::tilings().into_iter().enumerate() {
                // Those that are chosen from stand first.
                let sizes = [(1, 50, 296, 40), (3, 65, 520, 8), (1, 130, 72, 136), (2, 3, 640, 264)];
                for (parts, rows, input, output) in sizes.into_iter().take(if tiling < 4 { 4 } else { 2 }) {
                    let random = |shape| Tensor::<4>::random(shape, Distribution::Uniform(-1.5, 1.5), &device);
                    let weight = random([1, 1, input, output]) / (input as f64).sqrt();
                    let channels = [1, 1, 1, output];
                    let x = random([1, 1, rows, input]);
                    let inputs = [x, weight, random(channels), random(channels), random([1, 1, rows, output])];
                    let halves = inputs.clone().map(|x| x.cast(dtype));
                    let layer = |x: &[Tensor<4>; 5]| {
                        let bias = || Some(vector(&x[2]));
                        let weight = || matrix(x[1].clone());
                        let activated = evo1_kernels::linear(x[0].clone(), weight(), bias(), Activation::Gelu);
                        let scale = Some(vector(&x[3]));
                        let residual =
                            evo1_kernels::linear_residual(x[0].clone(), weight(), bias(), scale, x[4].clone());
                        [activated, residual].map(Tensor::into_data)
                    };
                    evo1_kernels::set_tiling(Some((tiling, parts)));
                    let got = layer(&halves);
                    evo1_kernels::set_tiling(None);
                    let want = layer(&halves.map(|x| x.cast(DType::F32)));
                    let what = format!("{name}, {parts} parts: {rows} × {input} × {output} in {dtype:?}");
                    for (got, want) in got.iter().zip(&want) {
                        let bound = f64::from(rounding(dtype)) * largest(want) + 1e-5;
                        assert_within(&what, &got.clone().convert_dtype(DType::F32), want, bound);
                    }
                }
            }
        }
    }
}

/// With the vision tower's, the language model's and the action expert's odd sizes, with as many heads as a batch has, and
/// with scores as large as those of Qwen2's biases.
#[test]
fn attention_rounds_weights_and_results_only_in_half_precision() {
    for device in test_devices() {
        for dtype in half_types(&device) {
            for ([heads, kv_heads], queries, keys, width) in [
                ([2, 2], 257, 257, 64),
                ([4, 2], 75, 75, 64),
                ([2, 2], 50, 81, 112),
                ([1, 1], 3, 5, 7),
                ([140, 70], 5, 9, 16),
            ] {
                // The gradient of a score is a difference of numbers that were rounded: between scores so far apart that
                // one weight is all, nothing of it is left but that it is a number.
                for (size, of_scores) in [(1.0, 8.0), (8.0, f32::INFINITY)] {
                    let random = |heads, rows, size: f64| {
                        Tensor::<4>::random([2, heads, rows, width], Distribution::Uniform(-size, size), &device)
                    };
                    let x = [random(heads, queries, size), random(kv_heads, keys, size), random(kv_heads, keys, 1.0)];
                    let causal = Tensor::<2, Bool>::tril_mask([queries, keys], 0, &device);
                    let causal = causal.reshape([1, 1, queries, keys]);
                    for hidden in [None, Some(causal)] {
                        let what = format!("attention {queries} × {keys} × {width} of ±{size}");
                        assert_rounded(&what, dtype, &x, (1.0, &[of_scores, of_scores, 1.0]), &|x| {
                            ops::attention(x[0].clone(), x[1].clone(), x[2].clone(), hidden.clone())
                        });
                    }
                }
            }
        }
    }
}

/// Each kind of mask, widths that tensor cores take and others, with few queries and with enough for another kernel.
#[test]
fn attention_of_any_size_and_mask_in_half_precision() {
    for device in test_devices() {
        for dtype in half_types(&device) {
            for (batch, [heads, kv_heads], queries, keys, width) in [
                (1, [1, 1], 1, 1, 16),
                (1, [2, 1], 17, 16, 64),
                (2, [2, 2], 50, 200, 112),
                (1, [4, 2], 65, 63, 128),
                (1, [2, 2], 130, 65, 48),
                (1, [2, 2], 20, 130, 72),
                (1, [70, 14], 17, 64, 64),
                (1, [90, 45], 130, 70, 16),
                (3, [90, 45], 20, 65, 64),
                (1, [66, 66], 66, 33, 112),
                (4, [70, 70], 3, 17, 112),
                (3, [50, 25], 1, 16, 128),
            ] {
                let random = |heads, rows| {
                    Tensor::<4>::random([batch, heads, rows, width], Distribution::Uniform(-1.5, 1.5), &device)
                };
                let x = [random(heads, queries), random(kv_heads, keys), random(kv_heads, keys)];
                let marks = |shape: [usize; 4], is_hidden: &dyn Fn(usize) -> bool| {
                    let marks: Vec<bool> = (0..shape.iter().product()).map(is_hidden).collect();
                    Tensor::<4, Bool>::from_data(TensorData::new(marks, shape), &device)
                };
                let of_keys = marks([batch, 1, 1, keys], &|at| at % keys % 3 == 1 || at / keys == 1);
                // In every head another third, and all keys of the queries with a certain number.
                let all = marks([1, heads, queries, keys], &|at| (at / keys + at) % 3 == 1 || at / keys % 5 == 2);
                for (name, hidden) in [("no", None), ("key", Some(of_keys)), ("full", Some(all))] {
                    let what = format!("attention {queries} × {keys} × {width} of {heads} heads with {name} mask");
                    assert_rounded(&what, dtype, &x, (1.0, &[]), &|x| {
                        ops::attention(x[0].clone(), x[1].clone(), x[2].clone(), hidden.clone())
                    });
                }
            }
            // Heads where they lie in a joint projection, behind other columns, as many as fit and some samples.
            for (heads, tokens, width) in [(3, 40, 32), (34, 70, 16)] {
                let x =
                    Tensor::<4>::random([1, 2, tokens, 4 * heads * width], Distribution::Uniform(-1.5, 1.5), &device);
                assert_rounded("attention of a joint projection", dtype, &[x], (1.0, &[]), &|x| {
                    let joint = x[0].clone().squeeze_dim::<3>(0);
                    let [query, key, value] = [1, 2, 3].map(|part| {
                        ops::split_heads(joint.clone().narrow(2, part * heads * width, heads * width), heads)
                    });
                    ops::merge_heads(ops::attention(query, key, value, None)).unsqueeze()
                });
            }
        }
    }
}

#[test]
fn a_query_that_sees_no_key_gets_zeros_and_gives_none_a_gradient() {
    for device in test_devices() {
        let tracked = device.clone().autodiff();
        let random = |device: &Device| Tensor::<4>::random([1, 2, 3, 8], Distribution::Uniform(-1.5, 1.5), device);
        let hidden: Vec<bool> = (0..9).map(|at| at / 3 == 1).collect();
        let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hidden, [1, 1, 3, 3]), &device);
        let [query, key, value] = [0; 3].map(|_| random(&tracked).require_grad());
        let of = |query, key, value| ops::attention(query, key, value, Some(hidden.clone()));
        let out = of(query.clone(), key.clone(), value.clone());
        let plain = of(query.clone().inner(), key.clone().inner(), value.clone().inner());
        let grads = out.clone().sum().backward();
        for out in [out.inner(), plain] {
            assert!(out.clone().narrow(2, 1, 1).into_data().iter::<f32>().all(|value| value == 0.0), "{device:?}");
            assert!(out.into_data().iter::<f32>().all(f32::is_finite), "{device:?}");
        }
        let of_query = query.grad(&grads).expect("a gradient");
        assert!(of_query.narrow(2, 1, 1).into_data().iter::<f32>().all(|value| value == 0.0), "{device:?}");
        for x in [key, value] {
            let grad = x.grad(&grads).expect("a gradient").into_data();
            assert!(grad.iter::<f32>().all(f32::is_finite), "{device:?}");
        }
    }
}

#[test]
fn attention_takes_heads_where_they_lie() {
    for device in test_devices() {
        let (heads, width) = (4, 8);
        let parts = |x: &[Tensor<4>]| {
            let joint = x[0].clone().reshape([2, 20, 3 * heads * width]);
            [0, 1, 2].map(|part| ops::split_heads(joint.clone().narrow(2, part * heads * width, heads * width), heads))
        };
        let got = |x: &[Tensor<4>]| {
            let [query, key, value] = parts(x);
            ops::merge_heads(ops::attention(query, key, value, None)).unsqueeze()
        };
        let want = |x: &[Tensor<4>]| ops::merge_heads(attention(&parts(x), None)).unsqueeze();
        assert_same("attention of a joint projection", &device, &[[1, 2, 20, 3 * heads * width]], &got, &want);
    }
}
