//! What was measured, cell by cell and seed by seed, in a file that only grows.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use evo1::CoreError;
use eyre::{Result, WrapErr};
use serde::{Deserialize, Serialize};

use crate::commands::evaluate::Measured;

/// One line of `results.jsonl`.
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
    /// Why nothing was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Training loss over the steps.
    #[serde(default)]
    pub(crate) curve: Vec<(f64, f64)>,
}

/// `results.jsonl`.
pub(crate) struct Results {
    path: PathBuf,
    pub(crate) outcomes: Vec<Outcome>,
}

impl Results {
    /// The results in a folder, none at first. A last line that was cut off by a crash is dropped.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("results.jsonl");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(reason) => return Err(CoreError::io("read", &path, reason).into()),
        };
        let mut outcomes = Vec::new();
        for (index, line) in text.lines().enumerate() {
            match serde_json::from_str(line) {
                Ok(outcome) => outcomes.push(outcome),
                Err(_) if !text.ends_with('\n') && index + 1 == text.lines().count() => {
                    let kept: String = text.lines().take(index).map(|line| format!("{line}\n")).collect();
                    evo1::files::write_atomically(&path, kept.as_bytes())?;
                }
                Err(error) => return Err(error).wrap_err_with(|| format!("{}, line {}", path.display(), index + 1)),
            }
        }
        Ok(Self { path, outcomes })
    }

    /// The newest result of a cell that still is what it was then.
    pub(super) fn of(&self, cell: &str, seed: u64, key: &str) -> Option<&Outcome> {
        self.outcomes.iter().rev().find(|outcome| outcome.cell == cell && outcome.seed == seed && outcome.key == key)
    }

    /// Adds a line.
    pub(super) fn add(&mut self, outcome: Outcome) -> Result<()> {
        let line = serde_json::to_string(&outcome)? + "\n";
        let failed = |reason| CoreError::io("write", &self.path, reason);
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path).map_err(failed)?;
        file.write_all(line.as_bytes()).map_err(failed)?;
        self.outcomes.push(outcome);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(cell: &str) -> Outcome {
        Outcome {
            cell: cell.into(),
            seed: 0,
            key: "k".into(),
            seconds: 1.0,
            measured: None,
            error: None,
            curve: vec![],
        }
    }

    #[test]
    fn results_are_found_again_and_half_a_line_is_dropped() {
        let folder = tempfile::tempdir().expect("folder");
        let mut results = Results::open(folder.path()).expect("none yet");
        results.add(outcome("a")).expect("written");
        results.add(outcome("b")).expect("written");
        let path = folder.path().join("results.jsonl");
        let text = fs::read_to_string(&path).expect("text");
        fs::write(&path, &text[..text.len() - 5]).expect("cut");
        let mut reopened = Results::open(folder.path()).expect("reopened");
        assert_eq!(reopened.outcomes, [outcome("a")]);
        reopened.add(outcome("c")).expect("written");
        assert_eq!(Results::open(folder.path()).expect("again").outcomes, [outcome("a"), outcome("c")]);
        assert!(reopened.of("a", 0, "k").is_some() && reopened.of("a", 0, "other").is_none());
        fs::write(&path, "nonsense\n").expect("broken");
        assert!(Results::open(folder.path()).is_err());
    }
}
