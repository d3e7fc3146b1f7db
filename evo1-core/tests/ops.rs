//! Every operation of `ops` equals the same made of burn's elementary ones, forward and backward, on every device.

use burn::tensor::{Bool, DType, Device, Distribution, Tensor, TensorData, activation};
use evo1_core::{device::test_devices, ops};
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
    assert_close(&what, &got(&inputs).into_data(), &expected);

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
    assert_close(&format!("{what}, with gradients"), &got, &expected);
    for (index, (got, want)) in got_grads.iter().zip(&want_grads).enumerate() {
        assert_close(&format!("{what}, gradient {index}"), got, want);
    }
}

fn assert_close(what: &str, got: &TensorData, want: &TensorData) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    let largest = want.iter::<f32>().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    for (index, (got, want)) in got.iter::<f32>().zip(want.iter::<f32>()).enumerate() {
        assert!((got - want).abs() <= 1e-5 * (1.0 + largest), "{what}, element {index}: {got} is not {want}");
    }
}

fn vector(x: &Tensor<4>) -> Tensor<1> {
    x.clone().flatten(0, 3)
}

fn matrix(x: Tensor<4>) -> Tensor<2> {
    x.flatten::<3>(0, 1).squeeze_dim(0)
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

#[test]
fn norms() {
    for device in test_devices() {
        for shape in [[1, 1, 1, 8], [2, 3, 7, 33], [1, 4, 200, 96]] {
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
                    let out = x[0].clone().matmul(weight_of(&x[1])) + x[2].clone();
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
                |x: &[Tensor<4>]| x[4].clone() + (x[0].clone().matmul(weight_of(&x[1])) + x[2].clone()) * x[3].clone();
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
    let scores = x[0].clone().matmul(shared(&x[1]).transpose()) / (width as f64).sqrt();
    let scores = match hidden {
        Some(hidden) => scores.mask_fill(hidden.expand([batch, heads, queries, keys]), -1e30),
        None => scores,
    };
    activation::softmax(scores, 3).matmul(shared(&x[2]))
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

/// With the vision tower's, the language model's and the action expert's odd sizes, of which burn's fused kernels take
/// some only when they are filled up.
#[test]
fn attention_in_half_precision_is_that_in_full_to_its_rounding() {
    for device in test_devices() {
        for dtype in [DType::BF16, DType::F16].into_iter().filter(|&dtype| device.supports_dtype(dtype)) {
            for ([heads, kv_heads], queries, keys, width) in
                [([2, 2], 257, 257, 64), ([4, 2], 75, 75, 64), ([2, 2], 50, 81, 112), ([1, 1], 3, 5, 7)]
            {
                let random = |heads, rows| {
                    let shape = [2, heads, rows, width];
                    Tensor::<4>::random(shape, Distribution::Uniform(-1.5, 1.5), &device).cast(dtype)
                };
                let x = [random(heads, queries), random(kv_heads, keys), random(kv_heads, keys)];
                let wide = x.clone().map(|x| x.cast(DType::F32));
                let causal = Tensor::<2, Bool>::tril_mask([queries, keys], 0, &device).reshape([1, 1, queries, keys]);
                for hidden in [None, Some(causal)] {
                    let [query, key, value] = x.clone();
                    let got = ops::attention(query, key, value, hidden.clone()).cast(DType::F32);
                    let difference = (got - attention(&wide, hidden)).abs().max().into_scalar::<f32>();
                    let what = format!("{queries} × {keys} × {width} in {dtype:?} on {device:?}");
                    assert!(difference < 0.02, "{what}: {difference}");
                }
            }
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
