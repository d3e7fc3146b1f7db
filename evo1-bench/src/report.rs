//! What a benchmark found: numbers with where they come from, as JSON and side by side.

use std::{collections::BTreeMap, time::Instant};

use burn::tensor::{DType, Device, Distribution, Tensor};
use evo1::StageTimes;
use serde::{Deserialize, Serialize};

use crate::{Bounds, KernelTimes};

/// Repeated measurements in short.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The smallest.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// Nine of ten are no larger.
    pub p90: f64,
}

impl Quantiles {
    /// Of at least one measurement.
    ///
    /// # Panics
    /// When there is none.
    pub fn of(mut samples: Vec<f64>) -> Self {
        assert!(!samples.is_empty(), "a summary of no measurement");
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize];
        Self { min: samples[0], p50: at(0.5), p90: at(0.9) }
    }
}

/// A benchmark's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was run.
    pub setup: Setup,
    /// Where it was run.
    pub provenance: Provenance,
    /// Milliseconds by stage, and of all of them as `total`.
    pub milliseconds: BTreeMap<String, Quantiles>,
    /// Milliseconds of [`Reference`], taken between the predictions: what another machine, or the same one under load, is
    /// compared by.
    pub reference: Quantiles,
    /// The prediction that does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_prediction: Option<FirstPrediction>,
    /// The model's operations by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<KernelTimes>,
    /// The least that the device could take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Bounds>,
    /// Most memory of the process, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Memory that the device's allocator holds after the last run, in bytes: what is in use, and what is kept to be used
    /// again. `None` where the process's own memory is the device's.
    #[serde(default)]
    pub device_memory_bytes: Option<u64>,
}

/// What a process does before it is fast: kernels are compiled or read, and chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FirstPrediction {
    /// Seconds from before the device is opened to the end of the first prediction: weights are made or read in them.
    pub ready_seconds: f64,
    /// Milliseconds of it alone.
    pub milliseconds: f64,
}

/// What a benchmark runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Size of the model, or the policy's folder.
    pub preset: String,
    /// Reference whose semantics are used.
    pub profile: String,
    /// Where it runs.
    pub device: String,
    /// Number types.
    pub dtype: String,
    /// Views that are present.
    pub views: usize,
    /// Views that are masked.
    pub masked: usize,
    /// Euler steps.
    pub steps: usize,
    /// Observations in a prediction, or of a training step.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Timed predictions.
    pub repeat: usize,
}

/// Where numbers come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of this crate.
    pub version: String,
    /// Commit, of a release build from a clone, or where the build was told (`EVO1_COMMIT`).
    pub commit: Option<String>,
    /// Version of burn.
    pub burn: String,
    /// Devices that the build contains, as features are named.
    #[serde(default)]
    pub features: Vec<String>,
    /// `release` or `debug`.
    pub build: String,
    /// The processor, as the system names it.
    pub processor: Option<String>,
    /// What the kernels found on it.
    pub instructions: String,
    /// Operating system and architecture.
    pub system: String,
}

/// The version of burn in `Cargo.lock`: burn itself does not tell.
const BURN_VERSION: &str = "0.22.1";

impl Provenance {
    /// Of this build on this machine.
    pub fn here() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("EVO1_COMMIT").map(Into::into),
            burn: BURN_VERSION.into(),
            features: device_features(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.into(),
            processor: processor(),
            instructions: evo1_kernels::instructions().into(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

fn device_features() -> Vec<String> {
    let all = [
        ("flex", cfg!(feature = "flex")),
        ("ndarray", cfg!(feature = "ndarray")),
        ("cpu", cfg!(feature = "cpu")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("metal", cfg!(feature = "metal")),
        ("webgpu", cfg!(feature = "webgpu")),
        ("cuda", cfg!(feature = "cuda")),
        ("cuda-llvm", cfg!(feature = "cuda-llvm")),
    ];
    all.into_iter().filter(|(_, is_built)| *is_built).map(|(name, _)| name.to_owned()).collect()
}

fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
}

/// Milliseconds by stage of some predictions.
pub fn by_stage(runs: &[StageTimes]) -> BTreeMap<String, Quantiles> {
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for run in runs {
        for (name, time) in run.stages() {
            samples.entry(name.into()).or_default().push(milliseconds(time));
        }
        samples.entry("total".into()).or_default().push(milliseconds(run.total()));
    }
    samples.into_iter().map(|(name, samples)| (name, Quantiles::of(samples))).collect()
}

/// A stage of two reports.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The stage, or `reference`.
    pub name: String,
    /// Medians in milliseconds.
    pub medians: [f64; 2],
    /// The second's median over the first's.
    pub ratio: f64,
    /// The same with every time counted in its report's own [`Reference`], fastest runs of both: what is left when one
    /// machine was slower or busier.
    pub by_reference: f64,
}

/// Two reports stage by stage.
pub fn compare(first: &Report, second: &Report) -> Vec<Comparison> {
    let stages =
        first.milliseconds.iter().filter_map(|(name, a)| Some((name.clone(), *a, *second.milliseconds.get(name)?)));
    stages
        .map(|(name, a, b)| Comparison {
            name,
            medians: [a.p50, b.p50],
            ratio: b.p50 / a.p50,
            by_reference: (b.min / second.reference.min) / (a.min / first.reference.min),
        })
        .collect()
}

/// Square matrices that burn multiplies by its own means, on all threads: no change to this project makes that faster or
/// slower, but what else the machine does is felt by it as by the model.
pub struct Reference {
    matrix: Tensor<2>,
}

/// Rows and columns.
const REFERENCE_SIZE: usize = 1024;

/// Products of which the fastest counts.
const REFERENCE_REPEATS: usize = 3;

impl Reference {
    /// On a device.
    pub fn new(device: &Device) -> Self {
        let matrix = Tensor::<2>::random([REFERENCE_SIZE; 2], Distribution::Uniform(-1.0, 1.0), device);
        Self { matrix: matrix.cast(DType::F32) }
    }

    /// How long a product takes now.
    pub fn milliseconds(&self) -> f64 {
        let product = || {
            let start = Instant::now();
            let out = self.matrix.clone().matmul(self.matrix.clone());
            let _ = self.matrix.device().sync();
            drop(out);
            start.elapsed().as_secs_f64() * 1e3
        };
        (0..REFERENCE_REPEATS).map(|_| product()).fold(f64::INFINITY, f64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_takes_time() {
        let device = evo1::device::test_devices().remove(0);
        assert!(Reference::new(&device).milliseconds() > 0.0);
    }

    #[test]
    fn a_summary_is_of_the_sorted_measurements() {
        let summary = Quantiles::of((1..=11).rev().map(f64::from).collect());
        assert_eq!(summary, Quantiles { min: 1.0, p50: 6.0, p90: 10.0 });
        assert_eq!(Quantiles::of(vec![3.0]), Quantiles { min: 3.0, p50: 3.0, p90: 3.0 });
    }

    fn report(total: f64, reference: f64) -> Report {
        let summary = |value| Quantiles { min: value, p50: value, p90: value };
        Report {
            setup: Setup {
                preset: "tiny".into(),
                profile: "lerobot".into(),
                device: "flex".into(),
                dtype: "f32".into(),
                views: 1,
                masked: 0,
                steps: 1,
                batch: 1,
                threads: 1,
                repeat: 1,
            },
            provenance: Provenance::here(),
            milliseconds: [("total".to_owned(), summary(total))].into(),
            reference: summary(reference),
            first_prediction: None,
            kernels: None,
            bounds: None,
            peak_memory_bytes: None,
            device_memory_bytes: None,
        }
    }

    #[test]
    fn a_machine_twice_as_slow_is_no_slower_by_its_reference() {
        let compared = compare(&report(10.0, 1.0), &report(20.0, 2.0));
        assert_eq!((compared[0].ratio, compared[0].by_reference), (2.0, 1.0));
    }

    #[test]
    fn burns_version_is_the_locked_one() {
        let lock = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
        let lock = std::fs::read_to_string(lock).expect("Cargo.lock");
        let entry = format!("name = \"burn\"\nversion = \"{BURN_VERSION}\"\n");
        assert!(lock.replace("\r\n", "\n").contains(&entry), "BURN_VERSION is not the locked version of burn");
    }

    #[test]
    fn a_report_without_the_newer_fields_is_read() {
        let mut stored = serde_json::to_value(report(10.0, 1.0)).expect("JSON");
        stored["provenance"].as_object_mut().expect("an object").remove("features");
        stored.as_object_mut().expect("an object").remove("device_memory_bytes");
        let read: Report = serde_json::from_value(stored).expect("a report");
        assert_eq!((read.provenance.features.len(), read.device_memory_bytes), (0, None));
    }

    #[test]
    fn a_report_survives_its_file() {
        let text = serde_json::to_string(&report(10.0, 1.0)).expect("JSON");
        assert_eq!(serde_json::from_str::<Report>(&text).expect("a report"), report(10.0, 1.0));
    }
}
