//! The model's own operations at its own sizes, beside the most that the device was seen to do.

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};
use evo1::config::PolicyConfig;
use evo1_kernels as kernels;
use serde::{Deserialize, Serialize};

use crate::Quantiles;

/// What an operation did in a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelTime {
    /// The operation and its sizes.
    pub name: String,
    /// Time of one call.
    pub milliseconds: Quantiles,
    /// What `rate` counts: `GFLOP/s`, or `GB/s` for operations that the memory limits.
    pub unit: Unit,
    /// At the fastest call.
    pub rate: f64,
    /// The highest rate of its unit in this report, of a square product or a copy.
    pub ceiling: f64,
}

/// What a rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Multiplications and additions.
    #[serde(rename = "GFLOP/s")]
    Gflops,
    /// Bytes read and written.
    #[serde(rename = "GB/s")]
    Gbytes,
}

impl Unit {
    /// The unit as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gflops => "GFLOP/s",
            Self::Gbytes => "GB/s",
        }
    }
}

/// An operation, and how much it does.
struct Case<'a> {
    name: String,
    unit: Unit,
    work: f64,
    run: Box<dyn Fn() -> Tensor<2> + 'a>,
}

/// Times the operations of a model of `config`'s sizes, each `repeat` times after one that is not counted, in one number
/// type. Weights are packed, as they are in predictions.
pub fn kernel_times(config: &PolicyConfig, dtype: DType, device: &Device, repeat: usize) -> Vec<KernelTime> {
    let uniform = Distribution::Uniform(-1.0, 1.0);
    let random = |rows: usize, columns: usize| Tensor::<2>::random([rows, columns], uniform, device).cast(dtype);
    let packed = |rows: usize, columns: usize| kernels::pack(random(rows, columns));
    let gbyte = 1e-9 * dtype.size() as f64;
    let (vision, language, action) = (&config.vlm.vision, &config.vlm.language, &config.action);
    let patches = 1 + (vision.image_size / vision.patch_size).pow(2);
    let text = config.max_views * config.vlm.tokens_per_tile() + 32;
    let mut cases = Vec::new();
    let square = 1024;
    let (a, b) = (random(square, square), packed(square, square));
    let gflop = |rows: usize, inner: usize, columns: usize| 2e-9 * (rows * inner * columns) as f64;
    cases.push(Case {
        name: format!("ceiling: product {square} × {square} × {square}"),
        unit: Unit::Gflops,
        work: gflop(square, square, square),
        run: Box::new(move || kernels::linear(a.clone(), b.clone(), None, kernels::Activation::None)),
    });
    let long = random(4096, 4096);
    cases.push(Case {
        name: format!("ceiling: copy of {:.0} MB", 1e3 * gbyte * (4096 * 4096) as f64),
        unit: Unit::Gbytes,
        work: 2.0 * gbyte * (4096 * 4096) as f64,
        run: Box::new(move || long.clone() * 1.5),
    });
    for (what, rows, inner, columns) in [
        ("vision fc1", patches, vision.hidden_size, vision.intermediate_size),
        ("vision fc2", patches, vision.intermediate_size, vision.hidden_size),
        ("language gate", text, language.hidden_size, language.intermediate_size),
        ("language down", text, language.intermediate_size, language.hidden_size),
        ("action ff1", action.horizon, action.embed_dim, 4 * action.embed_dim),
    ] {
        let (x, weight) = (random(rows, inner), packed(inner, columns));
        cases.push(Case {
            name: format!("product, {what}: {rows} × {inner} × {columns}"),
            unit: Unit::Gflops,
            work: gflop(rows, inner, columns),
            run: Box::new(move || kernels::linear(x.clone(), weight.clone(), None, kernels::Activation::None)),
        });
    }
    let pooled = action.horizon * action.embed_dim;
    let (x, weight) = (random(1, pooled), packed(pooled, action.embed_dim));
    cases.push(Case {
        name: format!("product, action pooling: 1 × {pooled} × {}", action.embed_dim),
        unit: Unit::Gbytes,
        work: gbyte * (pooled * action.embed_dim) as f64,
        run: Box::new(move || kernels::linear(x.clone(), weight.clone(), None, kernels::Activation::None)),
    });
    for (what, heads, queries, keys, width) in [
        ("vision", vision.num_heads, patches, patches, vision.hidden_size / vision.num_heads),
        ("action", action.num_heads, action.horizon, text + 1, action.embed_dim / action.num_heads),
    ] {
        let heads_of = |rows: usize| Tensor::<4>::random([1, heads, rows, width], uniform, device).cast(dtype);
        let (query, key, value) = (heads_of(queries), heads_of(keys), heads_of(keys));
        cases.push(Case {
            name: format!("attention, {what}: {heads} heads × {queries} × {keys} × {width}"),
            unit: Unit::Gflops,
            work: 2.0 * heads as f64 * gflop(queries, keys, width),
            run: Box::new(move || {
                kernels::attention(query.clone(), key.clone(), value.clone(), None).flatten::<3>(0, 1).flatten(0, 1)
            }),
        });
    }
    let (rows, width) = (patches, vision.intermediate_size);
    let bytes = 2.0 * gbyte * (rows * width) as f64;
    let x = random(rows, width);
    cases.push(Case {
        name: format!("GELU: {rows} × {width}"),
        unit: Unit::Gbytes,
        work: bytes,
        run: Box::new({
            let x = x.clone();
            move || kernels::gelu(x.clone())
        }),
    });
    cases.push(Case {
        name: format!("softmax: {rows} × {width}"),
        unit: Unit::Gbytes,
        work: bytes,
        run: Box::new({
            let x = x.clone();
            move || kernels::softmax(x.clone())
        }),
    });
    let gamma = Tensor::<1>::ones([width], device).cast(dtype);
    cases.push(Case {
        name: format!("layer norm: {rows} × {width}"),
        unit: Unit::Gbytes,
        work: bytes,
        run: Box::new(move || kernels::layer_norm(x.clone(), gamma.clone(), Some(gamma.clone()), 1e-6)),
    });

    let mut times: Vec<KernelTime> = cases.iter().map(|case| time(case, device, repeat)).collect();
    for unit in [Unit::Gflops, Unit::Gbytes] {
        let rates = times.iter().filter(|time| time.unit == unit).map(|time| time.rate);
        let ceiling = rates.fold(0.0, f64::max);
        times.iter_mut().filter(|time| time.unit == unit).for_each(|time| time.ceiling = ceiling);
    }
    times
}

fn time(case: &Case, device: &Device, repeat: usize) -> KernelTime {
    let mut samples = Vec::with_capacity(repeat);
    for run in 0..=repeat {
        let start = Instant::now();
        let out = (case.run)();
        // A device that cannot be waited for has failed, which the next reading will report.
        let _ = device.sync();
        if run > 0 {
            samples.push(start.elapsed().as_secs_f64() * 1e3);
        }
        drop(out);
    }
    let milliseconds = Quantiles::of(samples);
    let rate = case.work / (milliseconds.min * 1e-3);
    KernelTime { name: case.name.clone(), milliseconds, unit: case.unit, rate, ceiling: 0.0 }
}

#[cfg(test)]
mod tests {
    use evo1::device::test_devices;

    use super::*;

    #[test]
    fn no_operation_is_faster_than_the_ceiling() {
        let device = test_devices().remove(0);
        let times = kernel_times(&PolicyConfig::tiny(), DType::F32, &device, 1);
        assert!(times.len() > 10);
        assert!(times.iter().all(|time| time.rate > 0.0 && time.rate <= time.ceiling), "{times:?}");
    }
}
