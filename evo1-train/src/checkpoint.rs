//! Checkpoints: policy directories with what a run needs to go on.
//!
//! A checkpoint is written to a folder of another name, which is renamed once everything is on the disk: a folder
//! `step-00000100` is always complete, whenever the process is killed. Beside the policy's own files it holds
//! `training/`: `optimizer.bpk` (burn's record of the optimiser) and `progress.json`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use burn::{optim::OptimizerRecord, tensor::Bytes};
use evo1::{Components, CoreError, Policy, convert::Format, files::write_atomically};
use serde::{Deserialize, Serialize};

use crate::{CheckpointConfig, Error, Learner, LearnerConfig, Progress, Result};

/// The folder of a run's checkpoints.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
    config: CheckpointConfig,
}

const TRAINING: &str = "training";
const OPTIMIZER: &str = "optimizer.bpk";
const PROGRESS: &str = "progress.json";
/// Which checkpoint is the best.
const BEST: &str = "best.json";
/// How the names of files end that were being written.
const TEMPORARY: &str = ".tmp";
/// How the names of complete checkpoints begin.
const PREFIX: &str = "step-";
/// How the names of those begin that are being written.
const UNFINISHED: &str = ".unfinished-";

impl Checkpoints {
    /// The checkpoints below the folder of a run. What a killed process left unfinished is removed.
    pub(crate) fn open(run: &Path, config: CheckpointConfig) -> Result<Self> {
        let checkpoints = Self { folder: run.join("checkpoints"), config };
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

    /// Whether there is a checkpoint of a step.
    pub(crate) fn has(&self, step: u64) -> bool {
        self.path(step).is_dir()
    }

    /// The newest checkpoint.
    pub(crate) fn newest(&self) -> Result<Option<PathBuf>> {
        Ok(self.steps()?.last().map(|&step| self.path(step)))
    }

    /// Saves a learner with the mean loss since the checkpoint before, then removes those that need not be kept.
    pub(crate) fn save<C: Components>(&self, learner: &Learner<C>, loss: f64) -> Result<PathBuf> {
        let step = learner.progress().step;
        let (path, unfinished) = (self.path(step), self.folder.join(format!("{UNFINISHED}{step}")));
        remove(&unfinished)?;
        write(learner, &unfinished)?;
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

    fn path(&self, step: u64) -> PathBuf {
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
fn write<C: Components>(learner: &Learner<C>, folder: &Path) -> Result<()> {
    let training = folder.join(TRAINING);
    fs::create_dir_all(&training).map_err(|reason| CoreError::io("create", &training, reason))?;
    let path = training.join(OPTIMIZER);
    let bytes = learner.optimizer().into_bytes().map_err(|error| Error::checkpoint(&path, format!("{error:?}")))?;
    write_atomically(&path, &bytes)?;
    let text = serde_json::to_string_pretty(&learner.progress()).expect("numbers under string keys are JSON");
    write_atomically(&training.join(PROGRESS), text.as_bytes())?;
    let policy = learner.policy();
    policy.save(folder, Format::of(&policy.config))?;
    sync(&training)?;
    sync(folder)
}

/// A learner as it was when a checkpoint was saved, from the checkpoint's policy.
///
/// # Errors
/// When the folder is no checkpoint of a run, or the optimiser's state is not that of the policy.
pub(crate) fn restore<C: Components>(folder: &Path, policy: Policy<C>, config: LearnerConfig) -> Result<Learner<C>> {
    let training = folder.join(TRAINING);
    if !training.is_dir() {
        return Err(Error::checkpoint(folder, "not a checkpoint of a training run: it has no folder `training`"));
    }
    let path = training.join(PROGRESS);
    let text = fs::read_to_string(&path).map_err(|reason| CoreError::io("read", &path, reason))?;
    let progress: Progress = serde_json::from_str(&text).map_err(|error| Error::checkpoint(&path, error))?;
    let path = training.join(OPTIMIZER);
    let bytes = fs::read(&path).map_err(|reason| CoreError::io("read", &path, reason))?;
    let record = OptimizerRecord::from_bytes(Bytes::from_bytes_vec(bytes))
        .map_err(|error| Error::checkpoint(&path, format!("not burn's record of an optimiser: {error:?}")))?;
    let learner = Learner::new(policy, config)?;
    learner.restored(record, progress).map_err(|message| Error::checkpoint(&path, message))
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
