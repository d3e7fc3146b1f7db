//! `evo1 bench`: how long a prediction takes, by stage, and the model's operations by themselves.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use burn::tensor::{DType, Device};
use clap::{Args, ValueEnum};
use evo1::{
    Components, Frame, LoadOptions, Observation, Policy, PredictOptions, Rollout, View,
    config::{PolicyConfig, Precision, Profile},
    cost::Workload,
    files::write_atomically,
};
use evo1_bench::{
    FirstPrediction, KernelSetup, KernelTimes, Provenance, Quantiles, Reference, Report, Setup, bounds, by_stage,
    compare, device_memory, kernel_times, peak, peak_memory, set_narrow_vectors,
};
use eyre::{Result, WrapErr, bail};
use tracing::warn;

use super::matrix::{self, Place};
use crate::{common::Common, output::say, plot};

/// Stages in the order of a prediction, as the table shows them.
pub(super) const STAGES: [&str; 8] =
    ["prepare", "vision", "projector", "language", "action", "device", "finish", "total"];

/// The only stage of a training step.
pub(super) const TRAINING: &str = "step";

/// Time predictions of a preset with random weights, by stage. Nothing is downloaded.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    evo1 bench --json before.json\n  \
    evo1 bench --json now.json --plot now.png\n  \
    evo1 bench --compare before.json now.json\n  \
    evo1 bench --preset evo1 --train 1 --batch 4\n  \
    evo1 bench --preset evo1 --device cuda --dtype bf16 --kernels --repeat 10\n  \
    evo1 bench --preset evo1 --matrix flex:f32,cuda:bf16,vulkan:f16 --plot devices.png")]
pub(crate) struct Bench {
    /// Size of the model
    #[arg(long, default_value = "tiny")]
    preset: Preset,

    /// A policy directory to time instead of a preset
    #[arg(long, value_name = "DIR", conflicts_with = "preset")]
    policy: Option<PathBuf>,

    /// Camera views that are present
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3))]
    views: u32,

    /// Camera views after them that are masked
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2))]
    masked: u32,

    /// Euler steps
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,

    /// Observations in one prediction or step
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    batch: u32,

    /// Threads of the CPU devices; all by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,

    /// Timed predictions, after one that is not counted
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,

    /// What the robot is told; its length is the prompt's
    #[arg(long, value_name = "TEXT", default_value = "pick up the red block and put it into the bowl")]
    instruction: String,

    /// With --train: points (τ, ε) for each observation
    #[arg(long, value_name = "N", requires = "train", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    draws: u32,

    /// With --train: keep of the vision-language model only what passes between its layers
    #[arg(long, requires = "train")]
    gradient_checkpointing: bool,

    /// Time steps of training of a stage instead of predictions: 1 the action expert, 2 everything
    #[arg(long, value_name = "STAGE", value_parser = clap::value_parser!(u8).range(1..=2))]
    train: Option<u8>,

    /// Seed of the weights
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Time the model's operations by themselves too, each as a share of what the device could do
    #[arg(long)]
    kernels: bool,

    /// Of `--kernels`, products in every way in which they can be cut into tiles on tensor cores
    #[arg(long, requires = "kernels")]
    candidates: bool,

    /// Leave the processor's vectors of 512 bits unused, as on one that has none
    #[arg(long)]
    narrow_vectors: bool,

    /// Predict as a robot's server does: on devices that have graphs, one graph for all of the device's work
    #[arg(long, conflicts_with = "train")]
    graph: bool,

    /// The same work on several devices and in several number types, in turn; each stage as a share of what the device
    /// could do
    #[arg(long, value_name = "DEVICE:DTYPE,..", value_delimiter = ',', value_parser = matrix::parse_place)]
    matrix: Vec<Place>,

    /// What the device multiplies at most; measured by default
    #[arg(long, value_name = "TFLOP/S")]
    peak_tflops: Option<f64>,

    /// What the device's memory moves at most; measured by default
    #[arg(long, value_name = "GB/S")]
    peak_gbs: Option<f64>,

    /// Write the report as JSON, to a file or, without one, in place of the table
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,

    /// Draw the stages as bars
    #[arg(long, value_name = "FILE.png")]
    plot: Option<PathBuf>,

    /// Compare two reports instead of timing anything
    #[arg(long, num_args = 2, value_names = ["A.json", "B.json"])]
    compare: Option<Vec<PathBuf>>,

    /// With --compare: fail when a stage of B takes more than this many times A's, both counted in burn's own product of
    /// the same run. Processors with other vectors have other ratios; reports of two such are not judged
    #[arg(long, value_name = "RATIO", requires = "compare")]
    limit: Option<f64>,
}

/// Sizes of a model.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Preset {
    /// The published model, 775 M parameters.
    Evo1,
    /// The tiny one.
    Tiny,
}

impl Preset {
    /// The preset's configuration.
    pub(crate) fn config(self) -> PolicyConfig {
        match self {
            Self::Evo1 => PolicyConfig::evo1(),
            Self::Tiny => PolicyConfig::tiny(),
        }
    }
}

impl Bench {
    pub(crate) fn run<C: Components>(self, common: &Common) -> Result<()> {
        if let Some([first, second]) = self.compare.as_deref() {
            return print_comparison(&read(first)?, &read(second)?, self.limit);
        }
        set_narrow_vectors(self.narrow_vectors);
        if let Some(threads) = self.threads {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads as usize)
                .build_global()
                .wrap_err("cannot start the threads")?;
        }
        if !self.matrix.is_empty() {
            let cells = matrix::measured(&self.matrix, |place| {
                let start = Instant::now();
                self.measure::<C>(common, start, &place.open()?, place.precision(), place.dtype_name())
            })?;
            if let Some(path) = &self.plot {
                matrix::draw_png(path, &cells)?;
            }
            return if self.has_printed_json(&cells)? { Ok(()) } else { matrix::print_table(&cells) };
        }
        let (start, device) = (Instant::now(), common.open_device()?);
        let report = self.measure::<C>(common, start, &device, common.precision(), common.dtype_name())?;
        if let Some(path) = &self.plot {
            plot::stages_png(path, &report)?;
        }
        if self.has_printed_json(&report)? { Ok(()) } else { print_table(&report) }
    }

    /// Writes what was measured as JSON where it is wanted; whether that was on standard output.
    fn has_printed_json(&self, measured: &impl serde::Serialize) -> Result<bool> {
        let Some(place) = &self.json else { return Ok(false) };
        let text = serde_json::to_string_pretty(measured)?;
        match place {
            Some(path) => write_atomically(path, text.as_bytes())?,
            None => say!("{text}")?,
        }
        Ok(place.is_none())
    }

    fn measure<C: Components>(
        &self,
        common: &Common,
        start: Instant,
        device: &Device,
        precision: Precision,
        dtype_name: String,
    ) -> Result<Report> {
        // Training computes in another number type from weights in f32.
        let weights = if self.train.is_some() { Precision::default() } else { precision };
        let (name, policy) = match &self.policy {
            Some(folder) => {
                let options = LoadOptions { profile: common.profile, precision: weights, ..LoadOptions::new(device) };
                (folder.display().to_string(), Policy::load_as::<C>(folder, &options)?.0)
            }
            None => {
                let config = self.preset.config().with_profile(common.profile.unwrap_or(Profile::LeRobot));
                let name = format!("{:?}", self.preset).to_lowercase();
                (name, Policy::random_as::<C>(config, self.seed, device, weights)?)
            }
        };
        let config = &policy.config;
        if (self.views + self.masked) as usize > config.max_views {
            bail!("{} views and {} masked ones are more than {}", self.views, self.masked, config.max_views);
        }
        let (size, profile) = (config.vlm.image_size, config.profile);
        let kernel_setup = KernelSetup {
            views: self.views as usize,
            steps: self.steps as usize,
            repeat: self.repeat as usize,
            has_candidates: self.candidates,
            tflops: self.peak_tflops,
            gbs: self.peak_gbs,
        };
        let config = config.clone();
        let frame = || Frame::black(size, size);
        let present = (0..self.views).map(|_| View::Present(frame()));
        let observation = Observation {
            views: present.chain((0..self.masked).map(|_| View::Masked(frame()))).collect(),
            state: vec![0.0; 8],
            instruction: self.instruction.clone(),
            ..Observation::default()
        };
        let observations = vec![observation; self.batch as usize];
        let (arithmetic, mut reference) = (Reference::new(device), Vec::new());
        let mut first_prediction = None;
        let milliseconds = match self.train {
            Some(stage) => {
                self.train(stage, precision.vlm, policy, &observations, || reference.push(arithmetic.milliseconds()))?
            }
            None => {
                let rollout = Rollout::from(policy.packed());
                let options = PredictOptions { steps: Some(self.steps as usize), ..PredictOptions::default() };
                let mut runs = Vec::new();
                for run in 0..=self.repeat {
                    if run == 1 && self.graph {
                        rollout.warm_up(&observations, &options)?;
                        if !rollout.is_captured() {
                            warn!("no graph: {device:?} predicts launch by launch");
                        }
                    }
                    let (_, times) = match self.graph {
                        true => rollout.predict_batch_timed(&observations, &options)?,
                        false => rollout.policy().predict_batch_timed(&observations, &options)?,
                    };
                    if run == 0 {
                        first_prediction = Some(FirstPrediction {
                            ready_seconds: start.elapsed().as_secs_f64(),
                            milliseconds: 1e3 * times.total().as_secs_f64(),
                        });
                    } else {
                        runs.push(times);
                        reference.push(arithmetic.milliseconds());
                    }
                }
                by_stage(&runs)
            }
        };
        let device_memory_bytes = device_memory(device);
        let kernels = self.kernels.then(|| kernel_times(&config, precision.vlm, device, kernel_setup));
        let peak = match &kernels {
            Some(KernelTimes { peak, .. }) => Some(*peak),
            None => (!self.matrix.is_empty()).then(|| peak(&config, precision.vlm, device, kernel_setup)),
        };
        let bounds = match peak {
            Some(peak) if self.train.is_none() => {
                let views = PolicyConfig { max_views: self.views as usize, ..config.clone() };
                let workload = Workload { steps: self.steps as usize, ..Workload::of(&views) };
                Some(bounds::<C>(&config, &workload, self.batch as usize, precision, peak)?)
            }
            _ => None,
        };
        Ok(Report {
            setup: Setup {
                preset: name,
                profile: profile.to_string(),
                device: format!("{device:?}"),
                dtype: dtype_name,
                views: self.views as usize,
                masked: self.masked as usize,
                steps: self.steps as usize,
                batch: self.batch as usize,
                threads: rayon::current_num_threads(),
                repeat: self.repeat as usize,
            },
            provenance: Provenance::here(),
            milliseconds,
            reference: Quantiles::of(reference),
            first_prediction,
            kernels,
            bounds,
            peak_memory_bytes: peak_memory(),
            device_memory_bytes,
        })
    }

    /// Times steps of training on one batch, the preparation of the batch aside. Stage 1 computes the context anew in every
    /// step.
    #[cfg(feature = "train")]
    fn train<C: Components>(
        &self,
        stage: u8,
        compute: DType,
        policy: Policy<C>,
        observations: &[Observation],
        mut between: impl FnMut(),
    ) -> Result<BTreeMap<String, Quantiles>> {
        use evo1_train::{Decay, Learner, LearnerConfig, OptimizerConfig, Schedule, TrainBatch, TrainedParts};

        let trained = if stage == 1 { TrainedParts::stage1() } else { TrainedParts::all() };
        let inputs = policy.preparer().prepare_on_host(observations, true)?;
        let mask = inputs.action_mask.clone();
        let batch = TrainBatch { actions: mask.iter().map(|mask| 0.5 * mask).collect(), mask, inputs, samples: vec![] };
        let schedule = Schedule { warmup: 1, total: u64::from(self.repeat) + 1, decay: Decay::Cosine };
        let config = LearnerConfig {
            gradient_checkpointing: self.gradient_checkpointing,
            compute,
            draws: self.draws as usize,
            ..LearnerConfig::new(trained, OptimizerConfig::default(), schedule)
        };
        let mut learner = Learner::new(policy, config)?;
        let mut samples = Vec::new();
        for run in 0..=self.repeat {
            let start = std::time::Instant::now();
            learner.step(std::slice::from_ref(&batch))?;
            if run > 0 {
                samples.push(start.elapsed().as_secs_f64() * 1e3);
                between();
            }
        }
        Ok(BTreeMap::from([(TRAINING.to_owned(), Quantiles::of(samples))]))
    }

    #[cfg(not(feature = "train"))]
    fn train<C: Components>(
        &self,
        _stage: u8,
        _compute: DType,
        _policy: Policy<C>,
        _observations: &[Observation],
        _between: impl FnMut(),
    ) -> Result<BTreeMap<String, Quantiles>> {
        bail!("this build has no `evo1 bench --train`: build with `--features train`")
    }
}

fn read(path: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).wrap_err_with(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).wrap_err_with(|| format!("{} is no report of `evo1 bench`", path.display()))
}

fn print_table(report: &Report) -> Result<()> {
    let Report { setup, provenance, .. } = report;
    say!("{} on {}, {}, profile {}", setup.preset, setup.device, setup.dtype, setup.profile)?;
    say!(
        "{} views, {} masked, {} steps, batch {}, {} threads, {} runs, {} build\n",
        setup.views,
        setup.masked,
        setup.steps,
        setup.batch,
        setup.threads,
        setup.repeat,
        provenance.build
    )?;
    say!("{:10} {:>10} {:>10} {:>10}", "stage", "min ms", "p50 ms", "p90 ms")?;
    let stages = STAGES.iter().chain([&TRAINING]).filter_map(|&name| Some((name, report.milliseconds.get(name)?)));
    for (name, Quantiles { min, p50, p90 }) in stages.chain([("reference", &report.reference)]) {
        say!("{name:10} {min:>10.1} {p50:>10.1} {p90:>10.1}")?;
    }
    for (name, what) in [("total", "predictions"), (TRAINING, "samples")] {
        if let Some(total) = report.milliseconds.get(name) {
            say!("\n{:.3} {what} per second", setup.batch as f64 * 1e3 / total.p50)?;
        }
    }
    if let Some(bytes) = report.peak_memory_bytes {
        say!("peak memory {:.2} GB", bytes as f64 / 1e9)?;
    }
    if let Some(bytes) = report.device_memory_bytes {
        say!("memory held by the device {:.2} GB", bytes as f64 / 1e9)?;
    }
    match &report.kernels {
        Some(times) => print_kernels(times),
        None => Ok(()),
    }
}

fn print_kernels(KernelTimes { peak, kernels }: &KernelTimes) -> Result<()> {
    say!("\nof {:.1} TFLOP/s and {:.0} GB/s:", peak.tflops, peak.gbs)?;
    let [calls, total] = ["calls", "all ms"];
    say!(
        "{:62} {:>10} {:>10} {:>16} {:>8} {calls:>6} {total:>9}",
        "operation",
        "min µs",
        "p50 µs",
        "rate",
        "of bound"
    )?;
    for kernel in kernels {
        let Quantiles { min, p50, .. } = kernel.milliseconds;
        let (rate, unit) = kernel.rate(*peak);
        let (share, calls, all) = (100.0 * kernel.bound / min, kernel.calls, kernel.calls as f64 * min);
        let name = &kernel.name;
        say!(
            "{name:62} {:>10.1} {:>10.1} {rate:>8.1} {unit:7} {share:>6.0} % {calls:>6} {all:>9.2}",
            1e3 * min,
            1e3 * p50
        )?;
    }
    let all: f64 = kernels.iter().map(|kernel| kernel.calls as f64 * kernel.milliseconds.min).sum();
    let hosts = kernels.iter().filter(|kernel| !kernel.is_graph).count();
    say!(
        "\n{all:.2} ms of a prediction; {hosts} of {} operations were launched by the host, not as a graph",
        kernels.len()
    )
}

fn print_comparison(first: &Report, second: &Report, limit: Option<f64>) -> Result<()> {
    if (&first.setup.preset, &first.setup.dtype, first.setup.steps, first.setup.views)
        != (&second.setup.preset, &second.setup.dtype, second.setup.steps, second.setup.views)
    {
        tracing::warn!("the reports are of different setups: {:?} and {:?}", first.setup, second.setup);
    }
    let compared = compare(first, second);
    say!("{:10} {:>10} {:>10} {:>8} {:>14}", "stage", "A p50 ms", "B p50 ms", "B / A", "by reference")?;
    for name in STAGES.into_iter().chain([TRAINING]) {
        let Some(stage) = compared.iter().find(|stage| stage.name == name) else { continue };
        let [a, b] = stage.medians;
        say!("{name:10} {a:>10.1} {b:>10.1} {:>8.2} {:>14.2}", stage.ratio, stage.by_reference)?;
    }
    let [a, b] = [first, second].map(|report| &report.provenance.instructions);
    if a != b {
        say!("\nnot judged: A was made with {a}, B with {b}")?;
        return Ok(());
    }
    // Stages of less than a millisecond are too short to be judged.
    let slower: Vec<String> = compared
        .iter()
        .filter(|stage| stage.medians[0] >= 1.0 && limit.is_some_and(|limit| stage.by_reference > limit))
        .map(|stage| format!("`{}` takes {:.2} times as long", stage.name, stage.by_reference))
        .collect();
    if !slower.is_empty() {
        bail!("{}; the limit is {}", slower.join(", "), limit.unwrap_or_default());
    }
    Ok(())
}
