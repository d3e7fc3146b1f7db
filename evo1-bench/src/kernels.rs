//! The model's own operations at its own sizes, as the device sees them, beside the least time that its peak allows.

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Int, Tensor, capture};
use evo1::{
    config::PolicyConfig,
    device::has_graphs,
    ops::{merge_heads, split_heads},
};
use evo1_kernels::{self as kernels, Activation};
use serde::{Deserialize, Serialize};

use crate::Quantiles;

/// The most that a device does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Additions and multiplications of products, in 10¹² per second.
    pub tflops: f64,
    /// Bytes of memory read and written, in 10⁹ per second.
    pub gbs: f64,
}

impl Peak {
    /// The least milliseconds for some work: its arithmetic or its memory, whichever takes longer.
    pub fn bound(self, gflop: f64, gbyte: f64) -> f64 {
        (gflop / self.tflops).max(1e3 * gbyte / self.gbs)
    }
}

/// The operations of a prediction by themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelTimes {
    /// What the shares are of: what was given, else the highest rates of products and of a copy in this run.
    pub peak: Peak,
    /// The operations in the order of a prediction, after the two that measure the peak.
    pub kernels: Vec<KernelTime>,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelTime {
    /// The operation and its sizes.
    pub name: String,
    /// How often a prediction runs it.
    pub calls: usize,
    /// Time of one call.
    pub milliseconds: Quantiles,
    /// Whether the calls were replayed as a graph of the device, so that the host has no part in their time.
    pub is_graph: bool,
    /// Additions and multiplications of its products, in 10⁹.
    pub gflop: f64,
    /// Its operands and results, each read or written once, in 10⁹ bytes.
    pub gbyte: f64,
    /// The least milliseconds that the peak allows. An operation whose operands stay in a cache may take less.
    pub bound: f64,
}

impl KernelTime {
    /// What it does in a second at its fastest, in the unit of what bounds it.
    pub fn rate(&self, peak: Peak) -> (f64, &'static str) {
        let per_second = 1e3 / self.milliseconds.min;
        match self.gflop / peak.tflops > 1e3 * self.gbyte / peak.gbs {
            true => (1e-3 * self.gflop * per_second, "TFLOP/s"),
            false => (self.gbyte * per_second, "GB/s"),
        }
    }
}

/// What [`kernel_times`] runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KernelSetup {
    /// Camera views.
    pub views: usize,
    /// Euler steps, which are counted and not run.
    pub steps: usize,
    /// Timed runs of an operation.
    pub repeat: usize,
    /// Peaks that are known better than by measuring.
    pub tflops: Option<f64>,
    /// Likewise, of the memory.
    pub gbs: Option<f64>,
    /// Products in every way in which their kernels can be cut into tiles ([`evo1_kernels::tilings`]), too.
    pub has_candidates: bool,
}

/// Weights that an operation takes in turn, as layers do: together they are more than a cache holds.
const LAYERS: usize = 8;
/// Calls of a graph, and its replays that are timed together: the host starts one while the device runs another.
const CALLS: usize = 24;
const REPLAYS: usize = 4;
/// Milliseconds that calls take together elsewhere, at most [`CALLS`] of them.
const MILLISECONDS: f64 = 20.0;
/// Prompt tokens beside the visual ones: of a view, and of an instruction.
const VIEW_TEXT: usize = 8;
const TEXT: usize = 30;
/// Where [`ceilings`] leaves the time of its copy.
const COPY: usize = 1;
/// Whole tiles of products.
const TILE: usize = 64;
/// Parts of the inner dimension that candidates are tried with, of so many values at least, and where there are not so many
/// rows that parts could not help.
const PARTS: [usize; 5] = [1, 2, 4, 8, 32];
const PART: usize = 256;
const MANY: usize = 1024;

/// Times the operations of a model of `config`'s sizes for one observation in one number type. Weights are packed, as they
/// are in predictions.
pub fn kernel_times(config: &PolicyConfig, dtype: DType, device: &Device, setup: KernelSetup) -> KernelTimes {
    let mut timer = Timer::new(dtype, device, setup.repeat);
    ceilings(&mut timer, config);
    if setup.has_candidates && dtype != DType::F32 {
        timer.candidates = kernels::tilings();
    }
    vision(&mut timer, config, setup.views);
    language(&mut timer, config, setup.views);
    action(&mut timer, config, setup);
    let peak = timer.peak(setup);
    let mut kernels = timer.times;
    kernels.iter_mut().for_each(|time| time.bound = peak.bound(time.gflop, time.gbyte));
    KernelTimes { peak, kernels }
}

/// The peak of a device as [`kernel_times`] finds it, of a product and a copy alone.
pub fn peak(config: &PolicyConfig, dtype: DType, device: &Device, setup: KernelSetup) -> Peak {
    let mut timer = Timer::new(dtype, device, setup.repeat);
    ceilings(&mut timer, config);
    timer.peak(setup)
}

/// A square product, and a copy that is larger than caches are where the model is.
fn ceilings(timer: &mut Timer, config: &PolicyConfig) {
    let width = config.vlm.vision.hidden_size;
    let (size, elements) = (4 * width, 128 * width * width);
    let x = timer.random([size, size]);
    timer.product(("peak: product", 0), x, size, |x, weight| kernels::linear(x, weight, None, Activation::None));
    let x = timer.random([128 * width, width]);
    let name = format!("peak: copy of {:.0} MB", 1e-6 * (elements * timer.dtype.size()) as f64);
    timer.run(name, 0, 0.0, 2 * elements, |_| x.clone() * 1.5);
}

/// The tower: all views at once.
fn vision(timer: &mut Timer, config: &PolicyConfig, views: usize) {
    let vision = &config.vlm.vision;
    let (width, inner, layers) = (vision.hidden_size, vision.intermediate_size, vision.num_layers);
    let patches = 1 + (vision.image_size / vision.patch_size).pow(2);
    let rows = views * patches;
    let x = timer.random([rows, width]);
    let (gamma, bias) = (timer.vector(width), timer.vector(inner));
    timer.run(format!("vision: layer norm {rows} × {width}"), 2 * layers, 0.0, 2 * rows * width, |_| {
        kernels::layer_norm(x.clone(), gamma.clone(), Some(gamma.clone()), 1e-6)
    });
    timer.product(("vision: query, key, value", 3 * layers), x.clone(), width, |x, weight| {
        kernels::linear(x, weight, Some(gamma.clone()), Activation::None)
    });
    let heads = [vision.num_heads; 2];
    timer.attention(("vision: attention", layers), [views, patches, patches], heads, width / heads[0], false);
    timer.product(("vision: output, scale, residual", layers), x.clone(), width, |y, weight| {
        kernels::linear_residual(y, weight, Some(gamma.clone()), Some(gamma.clone()), x.clone())
    });
    timer.product(("vision: MLP in, GELU", layers), x.clone(), inner, |x, weight| {
        kernels::linear(x, weight, Some(bias.clone()), Activation::Gelu)
    });
    let y = timer.random([rows, inner]);
    timer.product(("vision: MLP out, scale, residual", layers), y, width, |y, weight| {
        kernels::linear_residual(y, weight, Some(gamma.clone()), Some(gamma.clone()), x.clone())
    });
}

/// Tokens of a prompt.
fn prompt(config: &PolicyConfig, views: usize) -> usize {
    views * (config.vlm.tokens_per_tile() + VIEW_TEXT) + TEXT
}

/// The language model with a prompt as it comes, and its products with one of whole tiles.
fn language(timer: &mut Timer, config: &PolicyConfig, views: usize) {
    let language = &config.vlm.language;
    let (width, inner, layers) = (language.hidden_size, language.intermediate_size, language.num_layers);
    let (heads, kv_heads) = (language.num_heads, language.num_kv_heads);
    let head = width / heads;
    let tokens = prompt(config, views);
    let (gamma, bias) = (timer.vector(width), timer.vector(kv_heads * head));
    let padded = tokens.next_multiple_of(TILE);
    let lengths = [(tokens, layers), (padded, 0)];
    for (rows, layers) in lengths.into_iter().take(if padded == tokens { 1 } else { 2 }) {
        let (x, y) = (timer.random([rows, width]), timer.random([rows, inner]));
        timer.run(format!("language: RMS norm {rows} × {width}"), 2 * layers, 0.0, 2 * rows * width, |_| {
            kernels::rms_norm(x.clone(), gamma.clone(), 1e-6)
        });
        timer.product(("language: query", layers), x.clone(), width, |x, weight| {
            kernels::linear(x, weight, Some(gamma.clone()), Activation::None)
        });
        timer.product(("language: key, value", 2 * layers), x.clone(), kv_heads * head, |x, weight| {
            kernels::linear(x, weight, Some(bias.clone()), Activation::None)
        });
        timer.attention(("language: attention", layers), [1, rows, rows], [heads, kv_heads], head, true);
        timer.product(("language: output, residual", layers), x.clone(), width, |y, weight| {
            kernels::linear_residual(y, weight, None, None, x.clone())
        });
        timer.product(("language: gate, up", 2 * layers), x.clone(), inner, |x, weight| {
            kernels::linear(x, weight, None, Activation::None)
        });
        timer.run(format!("language: SwiGLU {rows} × {inner}"), layers, 0.0, 3 * rows * inner, |_| {
            kernels::swiglu(y.clone(), y.clone())
        });
        timer.product(("language: down, residual", layers), y.clone(), width, |y, weight| {
            kernels::linear_residual(y, weight, None, None, x.clone())
        });
    }
    let table = timer.random([tokens, head]).reshape([1, 1, tokens, head]);
    for (what, heads) in [("queries", heads), ("keys", kv_heads)] {
        let x = split_heads(timer.random([tokens, heads * head]).unsqueeze(), heads);
        let name = format!("language: rotary embedding of {what} {heads} × {tokens} × {head}");
        timer.run(name, layers, 0.0, 2 * tokens * (heads + 1) * head, |_| {
            kernels::rotate(x.clone(), table.clone(), table.clone())
        });
    }
}

/// The action expert: the context's keys and values once, all else in every step.
fn action(timer: &mut Timer, config: &PolicyConfig, setup: KernelSetup) {
    let action = &config.action;
    let (width, horizon, steps) = (action.embed_dim, action.horizon, setup.steps);
    let (inner, layers) = (4 * width, steps * action.num_layers);
    let context = prompt(config, setup.views) + 1;
    let (gamma, bias) = (timer.vector(width), timer.vector(inner));
    let (x, y) = (timer.random([horizon, width]), timer.random([horizon, inner]));
    let plain = |x: Tensor<2>, weight: Tensor<2>| kernels::linear(x, weight, Some(gamma.clone()), Activation::None);
    timer.product(
        ("action: key, value of the context", 2 * action.num_layers),
        timer.random([context, width]),
        width,
        plain,
    );
    timer.run(format!("action: layer norm {horizon} × {width}"), layers, 0.0, 2 * horizon * width, |_| {
        kernels::layer_norm(x.clone(), gamma.clone(), Some(gamma.clone()), 1e-5)
    });
    timer.product(("action: query", layers), x.clone(), width, plain);
    timer.attention(
        ("action: attention", layers),
        [1, horizon, context],
        [action.num_heads; 2],
        width / action.num_heads,
        false,
    );
    timer.product(("action: output, residual", layers), x.clone(), width, |y, weight| {
        kernels::linear_residual(y, weight, Some(gamma.clone()), None, x.clone())
    });
    let (rows, time) = (x.clone().unsqueeze::<3>(), timer.random([1, width]).unsqueeze::<3>());
    timer.run(format!("action: layer norm, time {horizon} × {width}"), layers, 0.0, 2 * horizon * width, |_| {
        kernels::layer_norm_added(rows.clone(), gamma.clone(), Some(gamma.clone()), time.clone(), 1e-5)
    });
    timer.product(("action: MLP in, GELU", layers), x.clone(), inner, |x, weight| {
        kernels::linear(x, weight, Some(bias.clone()), Activation::Gelu)
    });
    timer.product(("action: MLP out, residual", layers), y, width, |y, weight| {
        kernels::linear_residual(y, weight, Some(gamma.clone()), None, x.clone())
    });
    timer.product(("action: pooling", steps), timer.random([1, horizon * width]), width, plain);
}

/// Times operations one after the other, each with operands of its own.
struct Timer<'a> {
    dtype: DType,
    device: &'a Device,
    repeat: usize,
    has_graphs: bool,
    candidates: Vec<String>,
    times: Vec<KernelTime>,
}

impl<'a> Timer<'a> {
    fn new(dtype: DType, device: &'a Device, repeat: usize) -> Self {
        Self { dtype, device, repeat, has_graphs: has_graphs(device), candidates: Vec::new(), times: Vec::new() }
    }

    /// The highest rates so far, where none are given. Only the copy says what the memory does: other operations read
    /// what caches hold.
    fn peak(&self, setup: KernelSetup) -> Peak {
        let highest = |rate: fn(&KernelTime) -> f64| self.times.iter().map(rate).fold(f64::MIN_POSITIVE, f64::max);
        Peak {
            tflops: setup.tflops.unwrap_or_else(|| highest(|time| time.gflop / time.milliseconds.min)),
            gbs: setup.gbs.unwrap_or(1e3 * self.times[COPY].gbyte / self.times[COPY].milliseconds.min),
        }
    }

    fn random(&self, shape: [usize; 2]) -> Tensor<2> {
        Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), self.device).cast(self.dtype)
    }

    fn vector(&self, width: usize) -> Tensor<1> {
        Tensor::<1>::ones([width], self.device).cast(self.dtype)
    }

    /// Times a product of `x` (`[rows, inner]`) and weights of `columns`.
    fn product(
        &mut self,
        (name, calls): (&str, usize),
        x: Tensor<2>,
        columns: usize,
        product: impl Fn(Tensor<2>, Tensor<2>) -> Tensor<2>,
    ) {
        let [rows, inner] = x.dims();
        // A weight that is read with one row is larger than caches are.
        let count = if rows == 1 || calls == 0 { 1 } else { LAYERS };
        let weights: Vec<Tensor<2>> = (0..count).map(|_| kernels::pack(self.random([inner, columns]))).collect();
        let name = format!("{name} {rows} × {inner} × {columns}");
        let elements = rows * inner + inner * columns + rows * columns;
        let call = |call: usize| product(x.clone(), weights[call % count].clone());
        for (index, candidate) in self.candidates.clone().into_iter().enumerate() {
            for parts in PARTS.into_iter().filter(|&parts| parts == 1 || rows <= MANY && inner >= parts * PART) {
                kernels::set_tiling(Some((index, parts)));
                let name = format!("{name}: {candidate}, {parts} parts");
                self.run(name, 0, gflop(rows, inner, columns), elements, call);
            }
        }
        kernels::set_tiling(None);
        self.run(name, calls, gflop(rows, inner, columns), elements, call);
    }

    /// Times attention with the heads of queries and of keys split and merged, as layers do. `sizes` are batch, queries and
    /// keys; with `is_causal` no query sees the keys behind it.
    fn attention(
        &mut self,
        (name, calls): (&str, usize),
        [batch, queries, keys]: [usize; 3],
        [heads, kv_heads]: [usize; 2],
        head: usize,
        is_causal: bool,
    ) {
        let split = |rows: usize, heads: usize| {
            let x = self.random([batch * rows, heads * head]);
            split_heads(x.reshape([batch, rows, heads * head]), heads)
        };
        let (query, key, value) = (split(queries, heads), split(keys, kv_heads), split(keys, kv_heads));
        let hidden = is_causal.then(|| {
            let at = |length: usize| Tensor::<1, Int>::arange(0..length as i64, self.device);
            at(keys).reshape([1, 1, 1, keys]).greater(at(queries).reshape([1, 1, queries, 1]))
        });
        let seen = if is_causal { 0.5 } else { 1.0 };
        let elements = 2 * batch * (queries * heads + keys * kv_heads) * head;
        let causal = if is_causal { ", causal" } else { "" };
        let name = format!("{name}{causal} {batch} × {heads} × {queries} × {keys} × {head}");
        self.run(name, calls, 2.0 * seen * (batch * heads) as f64 * gflop(queries, keys, head), elements, |_| {
            merge_heads(kernels::attention(query.clone(), key.clone(), value.clone(), hidden.clone()))
        });
    }

    /// Times an operation: `call` gets the number of the call. `elements` are read and written.
    fn run<const D: usize>(
        &mut self,
        name: String,
        calls: usize,
        gflop: f64,
        elements: usize,
        call: impl Fn(usize) -> Tensor<D>,
    ) {
        let wait = || {
            // A device that cannot be waited for has failed, which the next reading will report.
            let _ = self.device.sync();
        };
        let timed = |run: &mut dyn FnMut()| {
            wait();
            let start = Instant::now();
            run();
            wait();
            1e3 * start.elapsed().as_secs_f64()
        };
        let (samples, together, is_graph): (Vec<f64>, usize, bool) = if self.has_graphs {
            let mut graph = capture(self.device, || (1..CALLS).fold(call(0), |_, at| call(at)));
            let is_graph = graph.is_hardware();
            // SAFETY: what `call` reads outlives `graph`, which owns what it writes; only this thread uses either, and it
            // waits before anything else is done.
            #[allow(unsafe_code, reason = "there is no safe way to replay a graph")]
            let mut replay = || unsafe {
                for _ in 0..REPLAYS {
                    graph.replay();
                }
            };
            timed(&mut replay);
            ((0..self.repeat).map(|_| timed(&mut replay)).collect(), CALLS * REPLAYS, is_graph)
        } else {
            let mut once = || drop(call(0));
            timed(&mut once);
            let together = ((MILLISECONDS / timed(&mut once)) as usize).clamp(1, CALLS);
            let mut all = || (0..together).for_each(|at| drop(call(at)));
            ((0..self.repeat).map(|_| timed(&mut all)).collect(), together, false)
        };
        let milliseconds = Quantiles::of(samples.into_iter().map(|sample| sample / together as f64).collect());
        let gbyte = 1e-9 * (elements * self.dtype.size()) as f64;
        self.times.push(KernelTime { name, calls, milliseconds, is_graph, gflop, gbyte, bound: 0.0 });
    }
}

/// Of a product, in 10⁹.
fn gflop(rows: usize, inner: usize, columns: usize) -> f64 {
    2e-9 * (rows * inner * columns) as f64
}

#[cfg(test)]
mod tests {
    use evo1::device::test_devices;

    use super::*;

    #[test]
    fn every_operation_is_timed_and_no_product_passes_the_peak() {
        let device = test_devices().remove(0);
        let setup = KernelSetup { views: 1, steps: 2, repeat: 1, tflops: None, gbs: None, has_candidates: false };
        let KernelTimes { peak, kernels } = kernel_times(&PolicyConfig::tiny(), DType::F32, &device, setup);
        assert!(kernels.len() > 25);
        for kernel in &kernels {
            assert!(kernel.milliseconds.min > 0.0 && kernel.bound > 0.0, "{kernel:?}");
            // The one that has the peak is divided and multiplied by its own time, which rounds.
            let most = peak.tflops * kernel.milliseconds.min;
            assert!(kernel.gflop <= most * (1.0 + 1e-9), "{kernel:?}");
        }
    }

    #[test]
    fn given_peaks_are_taken() {
        let peak = Peak { tflops: 2.0, gbs: 100.0 };
        assert_eq!((peak.bound(4.0, 0.1), peak.bound(1.0, 0.3)), (2.0, 3.0));
    }
}
