//! The configuration of a run: one file, every value with a default.

mod file;
mod policy;

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use evo1::{CoreError, hub::Repository};
use evo1_data::Share;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Decay, Error, Group, LearnerConfig, LoraConfig, OptimizerConfig, Result, Schedule, TrainedParts,
    checkpoint::Checkpoints,
    frozen::{bytes_below, check_is_frozen},
};

pub use file::{assign, parse_config, read_config};
pub use policy::{PolicySource, Preset, TokenizerSource};

/// The file that says how a run was configured, beside its checkpoints.
pub(crate) const CONFIG_FILE: &str = "config.yaml";

/// A training run. Paths are relative to the folder that the program runs in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// The folder of the run: checkpoints, metrics, report. `runs/train`.
    pub output: PathBuf,
    /// What is trained: the policy and where its weights start.
    pub policy: PolicySource,
    /// The data: the path of a file in the authors' format, or its contents.
    pub data: DataSource,
    /// What states and actions are normalised with: `policy` (its own, or the data's where it has none), `data` (each
    /// dataset's own), `{dataset: arm/name}` (that one's for all), or `{file: norm_stats.json}`.
    pub statistics: StatisticsSource,
    /// The stage, which decides what is trained: 1 the action expert, 2 everything, starting from a policy of stage 1.
    /// With `null`, `trained` decides alone.
    pub stage: Option<u8>,
    /// Which parts are trained, where `stage` does not say it.
    pub trained: Option<TrainedParts>,
    /// Steps of the run: 5000.
    pub steps: u64,
    /// Observations of a batch, on each device: 16.
    pub batch_size: usize,
    /// Batches whose gradients are averaged for a step: 1.
    pub accumulate: usize,
    /// Points on the path (τ, ε) drawn for each observation: 1. The context is computed once for all of them.
    pub draws: usize,
    /// Probability with which attention weights of the action expert are dropped; the policy's own when `null`.
    pub dropout: Option<f64>,
    /// AdamW and gradient clipping.
    pub optimizer: OptimizerConfig,
    /// The learning rate's schedule.
    pub schedule: ScheduleConfig,
    /// Adapters that are trained instead of the matrices of the trained parts: none. The policy is saved with them merged.
    pub lora: Option<LoraConfig>,
    /// Decay of an exponential moving average of the weights, which is evaluated and saved beside them: none.
    pub ema: Option<f64>,
    /// Loss and action error on observations that are not trained on, during the run: none.
    pub held_out: Option<HeldOutConfig>,
    /// The number type of the computation: f32. Weights, gradients and loss stay in f32.
    pub compute: Compute,
    /// Keep of the vision-language model only what passes between its layers, and run each again for its gradients: less
    /// memory for one more forward pass.
    pub gradient_checkpointing: bool,
    /// Compute what the frozen vision-language model makes of a sample once and keep it on disk: false. For stage 1 without
    /// augmentation; a sample of the full size takes up to 3.7 MB. Frames are still decoded in every epoch.
    pub cache_frozen: bool,
    /// Where it is kept; `frozen` in the run's folder when `null`. Runs may share it: other weights, data or settings do
    /// not meet in it.
    pub cache_folder: Option<PathBuf>,
    /// Megabytes that the folder may take, with all that lies there: no end. What has no room is computed each time.
    pub cache_mb: Option<u64>,
    /// Everything random comes from it: 0.
    pub seed: u64,
    /// Devices with a replica of the policy each, which share the batches of a step; the one of the command line when empty.
    pub devices: Vec<String>,
    /// Megabytes of memory that a device has, for those that do not tell: unknown. A run that certainly needs more is refused.
    pub device_memory_mb: Option<u64>,
    /// Threads that prepare batches: 0, which means one for each core.
    pub workers: usize,
    /// Megabytes that batches may take which are prepared ahead: 2048.
    pub prefetch_mb: usize,
    /// What is saved, and when.
    pub checkpoints: CheckpointConfig,
    /// Steps between two lines of `metrics.jsonl`: 10.
    pub log_every: u64,
    /// The effective batch of the recipe that the run follows; a much smaller one is warned of.
    pub recipe_batch: Option<usize>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            output: PathBuf::from("runs/train"),
            policy: PolicySource::default(),
            data: DataSource::default(),
            statistics: StatisticsSource::Data,
            stage: Some(1),
            trained: None,
            steps: 5000,
            batch_size: 16,
            accumulate: 1,
            draws: 1,
            dropout: None,
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig::default(),
            lora: None,
            ema: None,
            held_out: None,
            compute: Compute::F32,
            gradient_checkpointing: false,
            cache_frozen: false,
            cache_folder: None,
            cache_mb: None,
            seed: 0,
            devices: Vec::new(),
            device_memory_mb: None,
            workers: 0,
            prefetch_mb: 2048,
            checkpoints: CheckpointConfig::default(),
            log_every: 10,
            recipe_batch: None,
        }
    }
}

/// Where the data is described.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum DataSource {
    /// A file.
    File(PathBuf),
    /// In the run's own configuration.
    Inline(Value),
}

impl Default for DataSource {
    fn default() -> Self {
        Self::Inline(Value::Null)
    }
}

impl DataSource {
    /// Makes every path start from the root, so that the data is found from any folder.
    pub fn make_absolute(&mut self) -> Result<()> {
        match self {
            Self::File(path) => absolute(path)?,
            Self::Inline(data) => {
                let groups = data.get_mut("data_groups").and_then(Value::as_object_mut).into_iter().flatten();
                let datasets = groups.filter_map(|(_, group)| group.as_object_mut()).flatten();
                for path in datasets.filter_map(|(_, dataset)| dataset.get_mut("path")) {
                    if let Some(text) = path.as_str() {
                        let mut full = evo1_data::located(Path::new(""), Path::new(text));
                        absolute(&mut full)?;
                        *path = full.to_string_lossy().into_owned().into();
                    }
                }
            }
        }
        Ok(())
    }
}

/// Names of repositories on the Hub stay as they are.
fn absolute(path: &mut PathBuf) -> Result<()> {
    if Repository::is_named_by(path) {
        return Ok(());
    }
    *path = std::path::absolute(&*path).map_err(|reason| CoreError::io("find", &*path, reason))?;
    Ok(())
}

/// What states and actions are normalised with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum StatisticsSource {
    /// The policy's own; the data's where it has none.
    Policy,
    /// Each dataset's own, over the windows that are trained on.
    #[default]
    Data,
    /// Those of one dataset, for all of them.
    Dataset(String),
    /// A `norm_stats.json`.
    File(PathBuf),
}

/// The learning rate's schedule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// Steps of the linear warm-up: 300. The first step's rate is 0.
    pub warmup_steps: u64,
    /// What follows: `cosine` or `linear` to 0 at the last step, `constant`, `inverse-sqrt`, `{exponential: 0.999}` or
    /// `{step: {every: 1000, by: 0.5}}`.
    pub decay: Decay,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { warmup_steps: 300, decay: Decay::Cosine }
    }
}

/// What is saved, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps between two checkpoints: 2500. The last step is always saved.
    pub every: u64,
    /// The newest checkpoints that are kept: 2.
    pub keep: usize,
    /// Checkpoints at multiples of these steps are kept for good; `null` for none.
    pub keep_every: Option<u64>,
    /// Keep the checkpoint with the lowest loss, as well: on what is held out, else the mean since the one before it.
    pub keep_best: bool,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 2500, keep: 2, keep_every: None, keep_best: true }
    }
}

/// Observations that are not trained on, and how often they are looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HeldOutConfig {
    /// The part of each dataset's episodes that is not trained on: 0.1. They lie at equal distances.
    pub episodes: f64,
    /// Other data, instead of episodes of the run's own.
    pub data: Option<DataSource>,
    /// Steps between two evaluations: 500. The last step is always evaluated, and each that is saved.
    pub every: u64,
    /// Batches of an evaluation: 4, always the same.
    pub batches: usize,
    /// Observations of such a batch: 16.
    pub batch_size: usize,
}

impl Default for HeldOutConfig {
    fn default() -> Self {
        Self { episodes: 0.1, data: None, every: 500, batches: 4, batch_size: 16 }
    }
}

/// A number type to compute in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16 from single-precision weights.
    Bf16,
    /// Single precision, of whose numbers products take the first eleven bits, on devices that multiply those faster.
    Tf32,
}

impl TrainConfig {
    /// Reads a YAML or TOML file with some values set to others, each written `dotted.path=value`.
    ///
    /// # Errors
    /// When a key is unknown or a value is not one that the key may have.
    pub fn read(path: &Path, sets: &[String]) -> Result<Self> {
        read_config::<Self>(path, sets)?.with_absolute_paths()
    }

    /// The configuration of the run in a folder, with some values set to others.
    pub fn of_run(run: &Path, sets: &[String]) -> Result<Self> {
        let path = run.join(CONFIG_FILE);
        if !path.is_file() {
            return Err(Error::checkpoint(run, format!("not the folder of a run: it has no `{CONFIG_FILE}`")));
        }
        Self { output: run.to_owned(), ..read_config(&path, sets)? }.with_absolute_paths()
    }

    /// Learners of this process: one for each device.
    fn ranks_here(&self) -> usize {
        self.devices.len().max(1)
    }

    /// Observations of one step, of all devices of some processes.
    pub fn effective_batch(&self, processes: &dyn Group) -> usize {
        self.batch_size * self.accumulate * self.ranks_here() * processes.size()
    }

    /// The batches that this one of some processes has of a step's.
    pub(crate) fn share(&self, processes: &dyn Group) -> Share {
        let (own, of_rank) = (self.ranks_here() as u64, self.accumulate as u64);
        Share { ranks: own * processes.size() as u64, first: own * processes.rank() as u64, own, of_rank }
    }

    /// The configuration with all its values as YAML.
    pub fn to_yaml(&self) -> Result<String> {
        let document = serde_json::to_value(self).expect("a configuration is JSON");
        serde_saphyr::to_string(&document).map_err(|error| Error::config("config", "YAML", error))
    }

    /// Whether a checkpoint of the run is there to go on from.
    pub fn has_begun(&self) -> bool {
        Checkpoints::of(&self.output, self.checkpoints).newest().is_ok_and(|newest| newest.is_some())
    }

    /// Every path from the root on, so that the run can be gone on with from anywhere.
    fn with_absolute_paths(mut self) -> Result<Self> {
        absolute(&mut self.output)?;
        self.cache_folder.as_mut().map(absolute).transpose()?;
        let PolicySource { from, adapter, base, tokenizer, .. } = &mut self.policy;
        from.iter_mut().chain(adapter).chain(base).try_for_each(absolute)?;
        if let TokenizerSource::File(path) = tokenizer {
            absolute(path)?;
        }
        if let StatisticsSource::File(path) = &mut self.statistics {
            absolute(path)?;
        }
        self.data.make_absolute()?;
        if let Some(HeldOutConfig { data: Some(data), .. }) = &mut self.held_out {
            data.make_absolute()?;
        }
        Ok(self)
    }

    /// What is trained, by `stage` or `trained`.
    ///
    /// # Errors
    /// When neither or both say it, or the stage is none.
    pub fn trained(&self) -> Result<TrainedParts> {
        match (self.stage, &self.trained) {
            (Some(1), None) => Ok(TrainedParts::stage1()),
            (Some(2), None) => Ok(TrainedParts::all()),
            (None, Some(trained)) => Ok(trained.clone()),
            (Some(stage), None) => Err(Error::config("stage", "1, 2 or null", stage)),
            (Some(_), Some(_)) => Err(Error::config("stage", "null where `trained` is given", "both")),
            (None, None) => Err(Error::config("stage", "1 or 2, or `trained` given", "neither")),
        }
    }

    /// The folder in which what the frozen model makes of samples is kept.
    fn frozen_outputs(&self) -> Option<PathBuf> {
        self.cache_frozen.then(|| self.cache_folder.clone().unwrap_or_else(|| self.output.join("frozen")))
    }

    /// The configuration of the learner of one of some processes.
    pub(crate) fn learner_among(&self, processes: &dyn Group) -> Result<LearnerConfig> {
        let room = |(folder, limit): (PathBuf, u64)| {
            (limit << 20).saturating_sub(bytes_below(&folder)) / processes.size() as u64
        };
        let frozen_room = self.frozen_outputs().zip(self.cache_mb).map(room);
        Ok(LearnerConfig { frozen_room, ..self.learner()? })
    }

    /// The configuration of the learner.
    pub fn learner(&self) -> Result<LearnerConfig> {
        Ok(LearnerConfig {
            trained: self.trained()?,
            optimizer: self.optimizer.clone(),
            lora: self.lora.clone(),
            base: self.policy.name(),
            ema: self.ema,
            schedule: Schedule { warmup: self.schedule.warmup_steps, total: self.steps, decay: self.schedule.decay },
            draws: self.draws,
            gradient_checkpointing: self.gradient_checkpointing,
            frozen_outputs: self.frozen_outputs(),
            frozen_room: None,
            compute: match self.compute {
                Compute::F32 | Compute::Tf32 => DType::F32,
                Compute::Bf16 => DType::BF16,
            },
            seed: self.seed,
        })
    }

    /// Fails unless the values can be used together; everything that can be known before data or weights are read.
    pub fn validate(&self) -> Result<()> {
        let trained = self.trained()?;
        if self.cache_frozen {
            check_is_frozen(&trained)?;
        }
        for (field, value) in [
            ("batch_size", self.batch_size as u64),
            ("accumulate", self.accumulate as u64),
            ("draws", self.draws as u64),
            ("steps", self.steps),
            ("log_every", self.log_every),
            ("checkpoints.every", self.checkpoints.every),
            ("checkpoints.keep", self.checkpoints.keep as u64),
        ] {
            if value == 0 {
                return Err(Error::config(field, "at least 1", 0));
            }
        }
        let OptimizerConfig { learning_rate, betas, epsilon, weight_decay, clip_norm, .. } = self.optimizer;
        let is_in = |value: f32, range: std::ops::Range<f32>| range.contains(&value);
        for (field, expected, holds, got) in [
            ("optimizer.learning_rate", "above 0", learning_rate.is_finite() && learning_rate > 0.0, learning_rate),
            (
                "optimizer.betas",
                "from 0 to below 1",
                is_in(betas.0, 0.0..1.0) && is_in(betas.1, 0.0..1.0),
                betas.0.into(),
            ),
            ("optimizer.epsilon", "above 0", epsilon > 0.0, epsilon.into()),
            ("optimizer.weight_decay", "at least 0", weight_decay >= 0.0, weight_decay.into()),
            ("optimizer.clip_norm", "above 0", clip_norm.is_none_or(|norm| norm > 0.0), clip_norm.unwrap_or(0.0)),
            (
                "dropout",
                "from 0 to below 1",
                self.dropout.is_none_or(|p| (0.0..1.0).contains(&p)),
                self.dropout.unwrap_or(0.0),
            ),
        ] {
            if !holds {
                return Err(Error::config(field, expected, got));
            }
        }
        if let Some(decay) = self.ema.filter(|decay| !(0.0..1.0).contains(decay)) {
            return Err(Error::config("ema", "from 0 to below 1", decay));
        }
        if let Some(HeldOutConfig { episodes, data, every, batches, batch_size }) = &self.held_out {
            if [*every, *batches as u64, *batch_size as u64].contains(&0) {
                return Err(Error::config("held_out", "`every`, `batches` and `batch_size` of at least 1", "0"));
            }
            if data.is_none() && !(*episodes > 0.0 && *episodes < 1.0) {
                return Err(Error::config("held_out.episodes", "a part between 0 and 1", episodes));
            }
        }
        for (at, group) in self.optimizer.groups.iter().enumerate() {
            if group.learning_rate.is_some_and(|rate| !(rate.is_finite() && rate >= 0.0)) {
                let got = group.learning_rate.unwrap_or_default();
                return Err(Error::config(format!("optimizer.groups[{at}].learning_rate"), "at least 0", got));
            }
        }
        self.schedule.decay.validate()?;
        self.policy.validate(self.stage == Some(2))
    }
}
