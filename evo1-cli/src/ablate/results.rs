//! What was measured, in a file for each task.

use std::{
    fs,
    path::{Path, PathBuf},
};

use evo1::{CoreError, files::write_atomically};
use eyre::{Result, WrapErr};
use serde::{Deserialize, Serialize};

use super::tasks::Task;
use crate::{commands::evaluate::Measured, rollout::Episode};

/// What came of a cell and a seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) cell: String,
    pub(crate) seed: u64,
    /// What was trained and evaluated: a result counts only for a cell that still is the same.
    pub(crate) key: String,
    /// Seconds of training and evaluation.
    pub(crate) seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) measured: Option<Measured>,
    /// What it did in closed loop; nothing where the study does not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) episodes: Option<Vec<Episode>>,
    /// Why nothing was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Training loss over the steps.
    #[serde(default)]
    pub(crate) curve: Vec<(f64, f64)>,
}

/// The folder with a file `KEY.json` for each task. A file is always whole.
#[derive(Debug, Clone)]
pub(crate) struct Results(PathBuf);

impl Results {
    /// The results in the folder of a study.
    pub(crate) fn of(out: &Path) -> Self {
        Self(out.join("results"))
    }

    fn path(&self, key: &str) -> PathBuf {
        self.0.join(format!("{key}.json"))
    }

    /// What came of a task's cells, as far as they still are what they were then; none at first.
    pub(crate) fn read(&self, task: &Task<'_>) -> Result<Vec<Outcome>> {
        let path = self.path(&task.key);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(reason) => return Err(CoreError::io("read", &path, reason).into()),
        };
        let outcomes: Vec<Outcome> = serde_json::from_str(&text).wrap_err_with(|| path.display().to_string())?;
        let is_of = |outcome: &Outcome| task.cells.iter().any(|(_, key)| *key == outcome.key);
        Ok(outcomes.into_iter().filter(is_of).collect())
    }

    /// Writes what came of a task's cells.
    pub(crate) fn write(&self, task: &Task<'_>, outcomes: &[Outcome]) -> Result<()> {
        fs::create_dir_all(&self.0).map_err(|reason| CoreError::io("create", &self.0, reason))?;
        Ok(write_atomically(&self.path(&task.key), serde_json::to_string(outcomes)?.as_bytes())?)
    }

    /// Whether every cell of a task has a result.
    pub(crate) fn has(&self, task: &Task<'_>) -> Result<bool> {
        let outcomes = self.read(task)?;
        Ok(task.cells.iter().all(|(_, key)| measured(&outcomes, key).is_some()))
    }
}

/// The result with a key among some, unless nothing was measured.
pub(crate) fn measured<'a>(outcomes: &'a [Outcome], key: &str) -> Option<&'a Outcome> {
    outcomes.iter().find(|outcome| outcome.key == key && outcome.measured.is_some())
}
