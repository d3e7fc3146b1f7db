//! Each kernel at the model's own sizes (`evo1`), beside burn's operations put together as a user of burn would (`burn`).
//!
//! Products and attention are counted in operations, a multiplication and an addition being two, all else in elements.
#![allow(missing_docs)]

use std::{hint::black_box, time::Duration};

use burn::{
    nn::{LayerNormConfig, RmsNormConfig},
    tensor::{Bool, DType, Device, Distribution, Tensor, activation, module},
};
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use evo1_kernels::{self as kernels, Activation};

/// Tokens of a tile in the vision tower, its class token included, and their channels.
const PATCHES: usize = 1025;
const VISION: usize = 1024;
const VISION_MLP: usize = 4096;
const VISION_HEADS: usize = 16;

/// Tokens of a prompt with three tiles, and their channels; the action expert's are as many.
const TOKENS: usize = 800;
const EMBED: usize = 896;
const LANGUAGE_MLP: usize = 4864;
const LANGUAGE_HEADS: usize = 14;
const LANGUAGE_KV_HEADS: usize = 2;

/// Actions of a chunk.
const HORIZON: usize = 50;
const ACTION_HEADS: usize = 8;

const EPSILON: f64 = 1e-6;

/// The number types of the full-size model.
const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

fn random<const D: usize>(shape: [usize; D], dtype: DType) -> Tensor<D> {
    Tensor::<D>::random(shape, Distribution::Uniform(-1.0, 1.0), &Device::default()).cast(dtype)
}

/// Two operations for each of the product's multiplications.
fn operations(rows: usize, inner: usize, columns: usize) -> Throughput {
    Throughput::Elements(2 * (rows * inner * columns) as u64)
}

/// Times one way to compute something until the device has done it.
fn time<const D: usize>(
    group: &mut BenchmarkGroup<WallTime>,
    whose: &str,
    sizes: &str,
    dtype: DType,
    run: impl Fn() -> Tensor<D>,
) {
    let device = Device::default();
    group.bench_function(BenchmarkId::new(whose, format!("{sizes} {}", dtype.name())), |bencher| {
        bencher.iter(|| {
            let out = black_box(run());
            device.sync().expect("a device that computes");
            out
        });
    });
}

fn gelu(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gelu");
    for dtype in DTYPES {
        let x = random([PATCHES, VISION_MLP], dtype);
        group.throughput(Throughput::Elements((PATCHES * VISION_MLP) as u64));
        let sizes = format!("{PATCHES}x{VISION_MLP}");
        time(&mut group, "evo1", &sizes, dtype, || kernels::gelu(x.clone()));
        time(&mut group, "burn", &sizes, dtype, || activation::gelu(x.clone()));
    }
}

fn swiglu(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("swiglu");
    for dtype in DTYPES {
        let (gate, up) = (random([TOKENS, LANGUAGE_MLP], dtype), random([TOKENS, LANGUAGE_MLP], dtype));
        group.throughput(Throughput::Elements((TOKENS * LANGUAGE_MLP) as u64));
        let sizes = format!("{TOKENS}x{LANGUAGE_MLP}");
        time(&mut group, "evo1", &sizes, dtype, || kernels::swiglu(gate.clone(), up.clone()));
        time(&mut group, "burn", &sizes, dtype, || activation::silu(gate.clone()) * up.clone());
    }
}

fn softmax(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("softmax");
    for dtype in DTYPES {
        let x = random([LANGUAGE_HEADS, TOKENS, TOKENS], dtype);
        group.throughput(Throughput::Elements((LANGUAGE_HEADS * TOKENS * TOKENS) as u64));
        let sizes = format!("{LANGUAGE_HEADS}x{TOKENS}x{TOKENS}");
        time(&mut group, "evo1", &sizes, dtype, || kernels::softmax(x.clone()));
        time(&mut group, "burn", &sizes, dtype, || activation::softmax(x.clone(), 2));
    }
}

fn layer_norm(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("layer_norm");
    for dtype in DTYPES {
        let x = random([PATCHES, VISION], dtype);
        let (gamma, beta) = (random([VISION], dtype), random([VISION], dtype));
        let mut norm = LayerNormConfig::new(VISION).with_epsilon(EPSILON).init(&Device::default());
        norm.gamma = norm.gamma.map(|_| gamma.clone());
        norm.beta = norm.beta.map(|bias| bias.map(|_| beta.clone()));
        group.throughput(Throughput::Elements((PATCHES * VISION) as u64));
        let sizes = format!("{PATCHES}x{VISION}");
        time(&mut group, "evo1", &sizes, dtype, || {
            kernels::layer_norm(x.clone(), gamma.clone(), Some(beta.clone()), EPSILON)
        });
        time(&mut group, "burn", &sizes, dtype, || norm.forward(x.clone()));
    }
}

fn rms_norm(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rms_norm");
    for dtype in DTYPES {
        let (x, gamma) = (random([TOKENS, EMBED], dtype), random([EMBED], dtype));
        let mut norm = RmsNormConfig::new(EMBED).with_epsilon(EPSILON).init(&Device::default());
        norm.gamma = norm.gamma.map(|_| gamma.clone());
        group.throughput(Throughput::Elements((TOKENS * EMBED) as u64));
        let sizes = format!("{TOKENS}x{EMBED}");
        time(&mut group, "evo1", &sizes, dtype, || kernels::rms_norm(x.clone(), gamma.clone(), EPSILON));
        time(&mut group, "burn", &sizes, dtype, || norm.forward(x.clone()));
    }
}

/// `softmax(q·kᵀ / √width) · v` of heads that are all there.
fn composed_attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    hidden: Option<Tensor<4, Bool>>,
) -> Tensor<4> {
    let scale = (query.dims()[3] as f64).sqrt();
    let scores = query.matmul(key.transpose()) / scale;
    let scores = match hidden {
        Some(hidden) => scores.mask_fill(hidden, f64::NEG_INFINITY),
        None => scores,
    };
    activation::softmax(scores, 3).matmul(value)
}

/// Heads of keys and values once for each query head that they serve.
fn repeated(heads: Tensor<4>, times: usize) -> Tensor<4> {
    let [batch, kv_heads, tokens, width] = heads.dims();
    heads.reshape([batch, kv_heads, 1, tokens, width]).expand([batch, kv_heads, times, tokens, width]).reshape([
        batch,
        kv_heads * times,
        tokens,
        width,
    ])
}

fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    for (what, heads, kv_heads, queries, keys, width, is_causal) in [
        ("vision", VISION_HEADS, VISION_HEADS, PATCHES, PATCHES, VISION / VISION_HEADS, false),
        ("language", LANGUAGE_HEADS, LANGUAGE_KV_HEADS, TOKENS, TOKENS, EMBED / LANGUAGE_HEADS, true),
        ("action", ACTION_HEADS, ACTION_HEADS, HORIZON, TOKENS + 1, EMBED / ACTION_HEADS, false),
    ] {
        // Of the whole square, also where half of it is hidden.
        group.throughput(operations(2 * heads * queries, keys, width));
        let sizes = format!("{what} {heads}x{queries}x{keys}x{width}");
        for dtype in DTYPES {
            let query = random([1, heads, queries, width], dtype);
            let (key, value) = (random([1, kv_heads, keys, width], dtype), random([1, kv_heads, keys, width], dtype));
            let hidden = is_causal
                .then(|| Tensor::<2, Bool>::tril_mask([queries, keys], 0, &Device::default()).unsqueeze::<4>());
            time(&mut group, "evo1", &sizes, dtype, || {
                kernels::attention(query.clone(), key.clone(), value.clone(), hidden.clone())
            });
            let all = |heads: &Tensor<4>| repeated(heads.clone(), LANGUAGE_HEADS / LANGUAGE_KV_HEADS);
            let (key, value) = if kv_heads == heads { (key, value) } else { (all(&key), all(&value)) };
            let hidden = hidden.map(|hidden| hidden.expand([1, heads, queries, keys]));
            time(&mut group, "burn", &sizes, dtype, || {
                module::attention(query.clone(), key.clone(), value.clone(), hidden.clone(), None, Default::default())
            });
            time(&mut group, "burn composed", &sizes, dtype, || {
                composed_attention(query.clone(), key.clone(), value.clone(), hidden.clone())
            });
        }
    }
}

fn linear(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("linear");
    for (what, rows, inner, columns) in [
        ("vision q", PATCHES, VISION, VISION),
        ("language gate", TOKENS, EMBED, LANGUAGE_MLP),
        ("action q", HORIZON, EMBED, EMBED),
        ("action pooling", 1, HORIZON * EMBED, EMBED),
    ] {
        group.throughput(operations(rows, inner, columns));
        let sizes = format!("{what} {rows}x{inner}x{columns}");
        for dtype in DTYPES {
            let (x, weight, bias) =
                (random([rows, inner], dtype), random([inner, columns], dtype), random([columns], dtype));
            time(&mut group, "evo1", &sizes, dtype, || {
                kernels::linear(x.clone(), weight.clone(), Some(bias.clone()), Activation::None)
            });
            time(&mut group, "burn", &sizes, dtype, || module::linear(x.clone(), weight.clone(), Some(bias.clone())));
        }
    }
}

fn linear_gelu(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("linear_gelu");
    group.throughput(operations(PATCHES, VISION, VISION_MLP));
    let sizes = format!("vision fc1 {PATCHES}x{VISION}x{VISION_MLP}");
    for dtype in DTYPES {
        let x = random([PATCHES, VISION], dtype);
        let (weight, bias) = (random([VISION, VISION_MLP], dtype), random([VISION_MLP], dtype));
        time(&mut group, "evo1", &sizes, dtype, || {
            kernels::linear(x.clone(), weight.clone(), Some(bias.clone()), Activation::Gelu)
        });
        time(&mut group, "burn", &sizes, dtype, || {
            activation::gelu(module::linear(x.clone(), weight.clone(), Some(bias.clone())))
        });
    }
}

fn linear_residual(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("linear_residual");
    group.throughput(operations(PATCHES, VISION_MLP, VISION));
    let sizes = format!("vision fc2 {PATCHES}x{VISION_MLP}x{VISION}");
    for dtype in DTYPES {
        let (x, base) = (random([PATCHES, VISION_MLP], dtype), random([PATCHES, VISION], dtype));
        let weight = random([VISION_MLP, VISION], dtype);
        let (bias, scale) = (random([VISION], dtype), random([VISION], dtype));
        time(&mut group, "evo1", &sizes, dtype, || {
            let (bias, scale) = (Some(bias.clone()), Some(scale.clone()));
            kernels::linear_residual(x.clone(), weight.clone(), bias, scale, base.clone())
        });
        time(&mut group, "burn", &sizes, dtype, || {
            let out = module::linear(x.clone(), weight.clone(), Some(bias.clone()));
            base.clone() + out * scale.clone().unsqueeze()
        });
    }
}

criterion_group! {
    name = kernel_benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = gelu, swiglu, softmax, layer_norm, rms_norm, attention, linear, linear_gelu, linear_residual
}
criterion_main!(kernel_benches);
