//! `Policy`: loading and predicting.

use std::path::PathBuf;

use burn::tensor::DType;
use evo1::{
    FinishOptions, LoadOptions, Noise, Policy, PredictOptions, Prediction, Rollout, StageTimes, StatisticsKey,
    config::{PolicyConfig, Precision, Profile},
    device::{DeviceName, allow_tf32, caught},
    hub::Repository,
};
use pyo3::{
    exceptions::PyValueError,
    prelude::*,
    types::{PyDict, PyString},
};

use crate::{
    array::array,
    chunk::{PyChunk, PyChunkGuidance},
    error::{loading, predicting},
    observation::{FrameMemory, Given, Observations},
};

/// A policy: camera frames, a state and an instruction in, a chunk of actions out.
///
/// `Policy.load` makes one. Any number of threads may predict with it; the interpreter is free while it computes.
#[pyclass(frozen, module = "evo1", name = "Policy")]
pub(crate) struct PyPolicy {
    /// In a box, because parts of it are aligned to 64 bytes, and Python's objects to 16.
    rollout: Box<Rollout>,
    name: String,
    dtype: String,
    memory: FrameMemory,
}

#[pymethods]
impl PyPolicy {
    /// A policy directory, as LeRobot's `evo1`, the authors' code or this project writes it; `hf://owner/name[@revision]` on the
    /// Hugging Face Hub; or the embedded policy when `path` is None.
    ///
    /// device: "auto", "flex" (CPU), "cuda", "wgpu", …, with an index as in "cuda:1".
    /// dtype: "f32", "bf16", "f16", "mixed" (a bf16 vision-language model, an f32 action expert) or "tf32".
    /// profile: "paper", "official", "official-flash" or "lerobot"; what is found in the directory when None.
    /// strict: refuse what is otherwise warned of: unknown configuration keys, values that no trained network has.
    /// adapter: a folder with a PEFT adapter of the policy, which is added to its weights.
    #[staticmethod]
    #[pyo3(signature = (path=None, *, device="auto", dtype="f32", profile=None, strict=false, adapter=None))]
    fn load(
        py: Python<'_>,
        path: Option<PathBuf>,
        device: &str,
        dtype: &str,
        profile: Option<&str>,
        strict: bool,
        adapter: Option<PathBuf>,
    ) -> PyResult<Self> {
        let precision = precision(dtype)?;
        let profile = profile.map(parse_profile).transpose()?;
        let name = path.as_ref().map_or("embedded".into(), |path| path.display().to_string());
        let load = || {
            let options = LoadOptions { device: open(device, dtype)?, profile, precision, is_strict: strict, adapter };
            let Some(path) = path else { return Policy::embedded(&options) };
            let (policy, report) = Policy::load(&Repository::local(&path, |_, _| ())?, &options)?;
            report.warn();
            if policy.statistics.is_none() {
                tracing::warn!("no statistics: states and actions are in normalised units");
            }
            Ok(policy)
        };
        Self::of(py, load, name, dtype)
    }

    /// A policy of random weights, for tests and timings.
    ///
    /// preset: "tiny", or "evo1" for the published sizes.
    #[staticmethod]
    #[pyo3(signature = (preset="tiny", *, seed=0, device="auto", dtype="f32"))]
    fn random(py: Python<'_>, preset: &str, seed: u64, device: &str, dtype: &str) -> PyResult<Self> {
        let (config, precision) = (self::preset(preset)?, precision(dtype)?);
        let load = || Policy::random_in(config.with_profile(Profile::LeRobot), seed, &open(device, dtype)?, precision);
        Self::of(py, load, format!("random {preset}"), dtype)
    }

    /// What the policy is: sizes, cameras, robots, device.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let described = serde_json::to_string(&self.rollout.policy().description(&self.name));
        let described = described.map_err(|error| PyValueError::new_err(error.to_string()))?;
        let info = py.import("json")?.call_method1("loads", (described,))?;
        info.cast::<PyDict>()?.set_item("dtype", &self.dtype)?;
        Ok(info)
    }

    /// The actions for an observation, float32, (horizon, width), in the robot's units; for a batch (batch, horizon, width).
    ///
    /// images: arrays of uint8, (height, width, 3), red first: a mapping from the names of cameras, or a list in the order of the
    ///     policy's views; None for a camera that gives no frame. Where the policy knows no names (`info()["cameras"]`), a mapping
    ///     counts as a list.
    /// state: the robot's state in its own units.
    /// prompt: what the robot shall do.
    /// seed: of the noise that the flow starts from; the same seed gives the same actions.
    /// steps: of the sampler; the policy's own number when None.
    /// embodiment, arm_key, dataset_key: for policies of several robots.
    /// smoothing: steps of the Gaussian that smooths the chunk along time.
    /// guidance: `ActionQueue.guidance`'s, for real-time chunking.
    ///
    /// A state with two dimensions, (batch, values), is a batch: every array of `images` has a leading dimension then, `prompt`
    /// is one text or a list, and `seed` is that of the first observation (the next one's is larger by 1) or a list.
    #[pyo3(signature = (images, state, prompt, *, seed=None, steps=None, embodiment=None, arm_key=None, dataset_key=None, smoothing=None, guidance=None))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords")]
    fn predict<'py>(
        &self,
        py: Python<'py>,
        images: &Bound<'py, PyAny>,
        state: &Bound<'py, PyAny>,
        prompt: &Bound<'py, PyAny>,
        seed: Option<&Bound<'py, PyAny>>,
        steps: Option<usize>,
        embodiment: Option<usize>,
        arm_key: Option<String>,
        dataset_key: Option<String>,
        smoothing: Option<f32>,
        guidance: Option<&PyChunkGuidance>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let statistics = StatisticsKey { arm: arm_key, dataset: dataset_key };
        let given = Given { images, state, prompt, embodiment, statistics, memory: &self.memory };
        let options = PredictOptions { noise: noise(seed)?, ..options(steps, smoothing, guidance) };
        let (predictions, _, is_batch) = self.predictions(py, &given, &options)?;
        let arrays = predictions.iter().map(|prediction| array(py, &prediction.chunk)).collect::<PyResult<Vec<_>>>()?;
        match &arrays[..] {
            [only] if !is_batch => Ok(only.clone()),
            _ => py.import("numpy")?.call_method1("stack", (arrays,)),
        }
    }

    /// `predict` for one observation as a `Chunk`: with times, and with what an `ActionQueue` needs.
    #[pyo3(signature = (images, state, prompt, *, seed=0, steps=None, embodiment=None, arm_key=None, dataset_key=None, smoothing=None, guidance=None))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords")]
    fn plan(
        &self,
        py: Python<'_>,
        images: &Bound<'_, PyAny>,
        state: &Bound<'_, PyAny>,
        prompt: &str,
        seed: u64,
        steps: Option<usize>,
        embodiment: Option<usize>,
        arm_key: Option<String>,
        dataset_key: Option<String>,
        smoothing: Option<f32>,
        guidance: Option<&PyChunkGuidance>,
    ) -> PyResult<PyChunk> {
        let statistics = StatisticsKey { arm: arm_key, dataset: dataset_key };
        let prompt = PyString::new(py, prompt);
        let given = Given { images, state, prompt: prompt.as_any(), embodiment, statistics, memory: &self.memory };
        let options = PredictOptions { noise: Noise::Seed(seed), ..options(steps, smoothing, guidance) };
        let (mut predictions, times, is_batch) = self.predictions(py, &given, &options)?;
        match predictions.pop() {
            Some(prediction) if !is_batch => Ok(PyChunk { prediction, times }),
            _ => Err(PyValueError::new_err("`plan` is for one observation: `state` has one dimension")),
        }
    }

    fn __repr__(&self) -> String {
        format!("Policy({}, {:?}, {})", self.name, self.rollout.policy().device(), self.dtype)
    }
}

impl PyPolicy {
    /// What `load` gives, ready to predict.
    fn of(
        py: Python<'_>,
        load: impl FnOnce() -> evo1::Result<Policy> + Send,
        name: String,
        dtype: &str,
    ) -> PyResult<Self> {
        let policy = py.detach(|| caught(load).map_err(evo1::Error::from).and_then(|policy| policy));
        let rollout = Box::new(Rollout::new(policy.map_err(loading)?.packed()));
        Ok(Self { rollout, name, dtype: dtype.to_owned(), memory: FrameMemory::default() })
    }

    /// Predictions, their times, and whether they are those of a batch.
    fn predictions(
        &self,
        py: Python<'_>,
        given: &Given<'_, '_>,
        options: &PredictOptions,
    ) -> PyResult<(Vec<Prediction>, StageTimes, bool)> {
        let Observations { all, is_batch } = given.observations(&self.rollout.policy().config.cameras)?;
        let predicted = py.detach(|| {
            let predict = || self.rollout.predict_batch_timed(&all, options);
            caught(predict).map_err(evo1::Error::from).and_then(|predicted| predicted)
        });
        self.memory.keep(all);
        let (predictions, times) = predicted.map_err(predicting)?;
        Ok((predictions, times, is_batch))
    }
}

fn options(steps: Option<usize>, smoothing: Option<f32>, guidance: Option<&PyChunkGuidance>) -> PredictOptions {
    PredictOptions {
        steps,
        guidance: guidance.map(|guidance| guidance.0.clone()),
        finish: FinishOptions { smoothing, ..FinishOptions::default() },
        ..PredictOptions::default()
    }
}

/// A number, or one for each observation of a batch.
fn noise(seed: Option<&Bound<'_, PyAny>>) -> PyResult<Noise> {
    let Some(seed) = seed else { return Ok(Noise::Seed(0)) };
    match seed.extract() {
        Ok(seed) => Ok(Noise::Seed(seed)),
        Err(_) => seed.extract().map(Noise::Seeds).map_err(|_| {
            PyValueError::new_err("`seed` must be a number of at least 0 or, of a batch, a list of them".to_owned())
        }),
    }
}

fn open(device: &str, dtype: &str) -> evo1::Result<burn::tensor::Device> {
    let device = device.parse::<DeviceName>()?.open()?;
    if dtype == "tf32" {
        allow_tf32(&device)?;
    }
    Ok(device)
}

fn precision(dtype: &str) -> PyResult<Precision> {
    match dtype {
        "f32" | "tf32" => Ok(Precision::all(DType::F32)),
        "bf16" => Ok(Precision::all(DType::BF16)),
        "f16" => Ok(Precision::all(DType::F16)),
        "mixed" => Ok(Precision { vlm: DType::BF16, action: DType::F32 }),
        _ => Err(PyValueError::new_err(format!("`dtype` must be f32, bf16, f16, mixed or tf32, got `{dtype}`"))),
    }
}

fn preset(name: &str) -> PyResult<PolicyConfig> {
    match name {
        "tiny" => Ok(PolicyConfig::tiny()),
        "evo1" => Ok(PolicyConfig::evo1()),
        _ => Err(PyValueError::new_err(format!("`preset` must be tiny or evo1, got `{name}`"))),
    }
}

fn parse_profile(name: &str) -> PyResult<Profile> {
    name.parse().map_err(|_| {
        let known = Profile::ALL.map(Profile::name).join(", ");
        PyValueError::new_err(format!("`profile` must be one of {known}, got `{name}`"))
    })
}
