//! Checkpoints: policy directories with what a run needs to go on.
//!
//! A checkpoint is written to a folder of another name, which is renamed once everything is on the disk: a folder
//! `step-00000100` is always complete, whenever the process is killed. Beside the policy's own files it holds
//! `ema/`, the policy with the average of its weights, where there is one, and
//! `training/`: `optimizer.bpk` (burn's record of the optimiser), `progress.json`, `run.json` ([`RunIdentity`]), and
//! `lora.safetensors`, the adapters that the policy's weights contain, with the weights without them; they stand in
//! `adapter/` as well, as PEFT reads them, where LeRobot knows the policy's modules.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use burn::{optim::OptimizerRecord, tensor::Bytes};
use burn_pack::{Reader, Tensor, Writer};
use evo1::{Components, CoreError, convert::Format, files::write_atomically, weights::write_pack};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{CheckpointConfig, Error, Learner, Parameter, Progress, Result, identity::RunIdentity};

/// The folder of a run's checkpoints.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
    config: CheckpointConfig,
}

const TRAINING: &str = "training";
const EMA: &str = "ema";
const ADAPTER: &str = "adapter";
const OPTIMIZER: &str = "optimizer.bpk";
const PROGRESS: &str = "progress.json";
const RUN: &str = "run.json";
const LORA: &str = "lora.safetensors";
const LORA_OF_EMA: &str = "lora-ema.safetensors";
/// Which checkpoint is the best.
const BEST: &str = "best.json";
/// How the names of files end that were being written.
const TEMPORARY: &str = ".tmp";
/// How the names of complete checkpoints begin.
const PREFIX: &str = "step-";
/// How the names of those begin that are being written.
const UNFINISHED: &str = ".unfinished-";

impl Checkpoints {
    /// The checkpoints below the folder of a run.
    pub(crate) fn of(run: &Path, config: CheckpointConfig) -> Self {
        Self { folder: run.join("checkpoints"), config }
    }

    /// [`Self::of`] for the process that writes them. What a killed process left unfinished is removed.
    pub(crate) fn open(run: &Path, config: CheckpointConfig) -> Result<Self> {
        let checkpoints = Self::of(run, config);
        let failed = |reason| CoreError::io("create", &checkpoints.folder, reason);
        fs::create_dir_all(&checkpoints.folder).map_err(failed)?;
        for name in checkpoints.names()? {
            let path = checkpoints.folder.join(&name);
            if name.starts_with(UNFINISHED) && path.is_dir() {
                remove(&path)?;
            } else if name.ends_with(TEMPORARY) {
                fs::remove_file(&path).map_err(|reason| CoreError::io("remove", &path, reason))?;
            }
        }
        Ok(checkpoints)
    }

    /// Where a checkpoint has the policy with the average of its weights.
    pub(crate) fn ema_of(checkpoint: &Path) -> PathBuf {
        checkpoint.join(EMA)
    }

    /// Where a checkpoint has adapters with the weights that they belong to: its own, and those of the average.
    pub(crate) fn lora_of(checkpoint: &Path) -> [PathBuf; 2] {
        [LORA, LORA_OF_EMA].map(|file| checkpoint.join(TRAINING).join(file))
    }

    /// Whether there is a checkpoint of a step.
    pub(crate) fn has(&self, step: u64) -> bool {
        self.path(step).is_dir()
    }

    /// The newest checkpoint.
    pub(crate) fn newest(&self) -> Result<Option<PathBuf>> {
        Ok(self.steps()?.last().map(|&step| self.path(step)))
    }

    /// Saves a learner with the mean loss since the checkpoint before, then removes those that need not be kept.
    pub(crate) fn save<C: Components>(
        &self,
        learner: &Learner<C>,
        identity: &RunIdentity,
        loss: f64,
    ) -> Result<PathBuf> {
        let step = learner.progress().step;
        let (path, unfinished) = (self.path(step), self.folder.join(format!("{UNFINISHED}{step}")));
        remove(&unfinished)?;
        write(learner, identity, &unfinished).inspect_err(|_| {
            // What is half written takes the room that the next try needs.
            let _ = remove(&unfinished);
        })?;
        remove(&path)?;
        fs::rename(&unfinished, &path).map_err(|reason| CoreError::io("write", &path, reason))?;
        sync(&self.folder)?;
        self.note_best(step, loss)?;
        self.prune()?;
        Ok(path)
    }

    /// The step of the checkpoint with the lowest loss, and the loss.
    pub(crate) fn best(&self) -> Option<(u64, f64)> {
        let text = fs::read_to_string(self.folder.join(BEST)).ok()?;
        let best: Best = serde_json::from_str(&text).ok()?;
        Some((best.step, best.loss))
    }

    fn note_best(&self, step: u64, loss: f64) -> Result<()> {
        let is_better = self.best().is_none_or(|(_, lowest)| loss < lowest);
        if !(self.config.keep_best && loss.is_finite() && is_better) {
            return Ok(());
        }
        let text = serde_json::to_string(&Best { step, loss }).expect("two numbers are JSON");
        Ok(write_atomically(&self.folder.join(BEST), text.as_bytes())?)
    }

    fn prune(&self) -> Result<()> {
        let steps = self.steps()?;
        let best = self.best().map(|(step, _)| step);
        let old = steps.len().saturating_sub(self.config.keep);
        for &step in &steps[..old] {
            let is_milestone = self.config.keep_every.is_some_and(|every| every > 0 && step.is_multiple_of(every));
            if !is_milestone && best != Some(step) {
                remove(&self.path(step))?;
            }
        }
        Ok(())
    }

    /// The folder of a step's checkpoint.
    pub(crate) fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{step:08}"))
    }

    /// Steps of the complete checkpoints, oldest first.
    fn steps(&self) -> Result<Vec<u64>> {
        let names = self.names()?;
        let mut steps: Vec<u64> = names.iter().filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok()).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn names(&self) -> Result<Vec<String>> {
        let failed = |reason| CoreError::io("read", &self.folder, reason);
        let entries = fs::read_dir(&self.folder).map_err(failed)?;
        let names = entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()));
        Ok(names.collect::<Result<_, CoreError>>()?)
    }
}

#[derive(Serialize, Deserialize)]
struct Best {
    step: u64,
    loss: f64,
}

/// Writes everything of a checkpoint into a new folder.
fn write<C: Components>(learner: &Learner<C>, identity: &RunIdentity, folder: &Path) -> Result<()> {
    let training = folder.join(TRAINING);
    fs::create_dir_all(&training).map_err(|reason| CoreError::io("create", &training, reason))?;
    let path = training.join(OPTIMIZER);
    let bytes = learner.optimizer().into_bytes().map_err(|error| Error::checkpoint(&path, format!("{error:?}")))?;
    // burn's order changes from process to process.
    let sorted = repacked(bytes, |_, _, _| Ok(true)).map_err(|message| Error::checkpoint(&path, message))?;
    write_pack(&path, sorted)?;
    let text = serde_json::to_string_pretty(&learner.progress()).expect("numbers under string keys are JSON");
    write_atomically(&training.join(PROGRESS), text.as_bytes())?;
    let text = serde_json::to_string_pretty(identity).expect("values under string keys are JSON");
    write_atomically(&training.join(RUN), text.as_bytes())?;
    learner.save_lora([&training.join(LORA), &training.join(LORA_OF_EMA)])?;
    let policy = learner.policy();
    policy.save(folder, Format::of(&policy.config))?;
    if let Some(average) = learner.ema_policy() {
        average.save(&folder.join(EMA), Format::of(&average.config))?;
    }
    if Format::of(&policy.config) == Format::LeRobot {
        learner.save_for_peft([&folder.join(ADAPTER), &folder.join(EMA).join(ADAPTER)])?;
    }
    sync(&training)?;
    sync(folder)
}

/// What the run was when a checkpoint was saved, and how far.
///
/// # Errors
/// When the folder is no checkpoint of a run.
pub(crate) fn saved(folder: &Path) -> Result<(Progress, RunIdentity)> {
    let training = folder.join(TRAINING);
    if !training.is_dir() {
        return Err(Error::checkpoint(folder, "not a checkpoint of a training run: it has no folder `training`"));
    }
    Ok((read_json(&training.join(PROGRESS))?, read_json(&training.join(RUN))?))
}

/// The state of a checkpoint's optimiser for the parameters that are trained now. Others have none where they
/// `may_differ`: what is trained was changed.
///
/// # Errors
/// When it is of other parameters, by their names and shapes: burn would begin the state of those anew without a word.
pub(crate) fn optimizer_of(
    folder: &Path,
    trained: &[Parameter],
    progress: &Progress,
    may_differ: bool,
) -> Result<OptimizerRecord> {
    let path = folder.join(TRAINING).join(OPTIMIZER);
    let bytes = fs::read(&path).map_err(|reason| CoreError::io("read", &path, reason))?;
    let mut count = 0;
    let bytes = repacked(Bytes::from_bytes_vec(bytes), |id, name, shape| {
        match trained.iter().find(|parameter| Some(parameter.id.val()) == id) {
            Some(Parameter { path: parameter, shape: expected, .. }) => match shape {
                Some(shape) if shape != expected => {
                    Err(format!("the state of `{parameter}` must have shape {expected:?}, got {shape:?}"))
                }
                shape => {
                    count += usize::from(shape.is_some());
                    Ok(true)
                }
            },
            None if may_differ => Ok(false),
            None => Err(format!("it holds the state `{name}` of a parameter that is not trained")),
        }
    });
    let bytes = bytes.and_then(|writer| writer.into_bytes().map_err(|error| format!("{error:?}")));
    let bytes = bytes.map_err(|message| Error::checkpoint(&path, message))?;
    if (count == 0) == (progress.step > progress.skipped) && !may_differ {
        return Err(Error::checkpoint(&path, format!("it holds {count} tensors after {} steps", progress.step)));
    }
    OptimizerRecord::from_bytes(bytes).map_err(|error| Error::checkpoint(&path, format!("{error:?}")))
}

/// An optimiser's record with its tensors in the order of their names and without what is not wanted. `is_wanted` is asked
/// of every entry by its parameter's id, its name and, where it is a tensor, its shape.
fn repacked(
    bytes: Bytes,
    mut is_wanted: impl FnMut(Option<u64>, &str, Option<&[usize]>) -> Result<bool, String>,
) -> Result<Writer, String> {
    let failed = |error: burn_pack::Error| format!("not burn's record of an optimiser: {error:?}");
    let reader = Reader::from_bytes(bytes).map_err(failed)?;
    let (scalars, paths) = (reader.scalars().clone(), reader.metadata().clone());
    let mut tensors = Vec::new();
    for tensor in reader.into_tensors().map_err(failed)? {
        let (name, dtype, shape, id, bytes) = tensor.into_parts().map_err(failed)?;
        if is_wanted(id, &name, Some(shape.as_slice()))? {
            tensors.push((name, dtype, shape, id, bytes));
        }
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let tensors = tensors.into_iter().map(|(name, dtype, shape, id, bytes)| Tensor::new(name, dtype, shape, id, bytes));
    let mut writer = Writer::new(tensors.collect());
    // Entries are named after the parameter's id.
    let id_of = |name: &str| name.split('.').next().and_then(|id| id.parse::<u64>().ok());
    for (name, value) in &scalars {
        if is_wanted(id_of(name), name, None)? {
            writer = writer.with_scalar(name, *value);
        }
    }
    for (name, value) in &paths {
        if is_wanted(id_of(name), name, None)? {
            writer = writer.with_metadata(name, value);
        }
    }
    Ok(writer)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|reason| CoreError::io("read", path, reason))?;
    serde_json::from_str(&text).map_err(|error| Error::checkpoint(path, error))
}

/// Removes a folder, if it is there.
fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(reason) if reason.kind() != std::io::ErrorKind::NotFound => {
            Err(CoreError::io("remove", folder, reason).into())
        }
        _ => Ok(()),
    }
}

/// Waits until a folder's entries are on the disk.
fn sync(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(synced.map_err(|reason| CoreError::io("write", folder, reason))?)
}
