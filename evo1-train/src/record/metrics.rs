//! `metrics.jsonl`: one JSON object for each logged step.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use evo1::{CoreError, files::write_atomically};
use serde::{Deserialize, Deserializer, Serialize};

use crate::Result;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The step, counted from 1: how many have been done.
    pub step: u64,
    /// Mean loss of the steps since the line before; not a number (`null`) when all of them were skipped.
    #[serde(deserialize_with = "number_or_nan")]
    pub loss: f64,
    /// Mean norm of the gradients since the line before, before clipping.
    #[serde(deserialize_with = "number_or_nan")]
    pub gradient_norm: f64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// Observations seen since the run began.
    pub samples: u64,
    /// Observations a second since the line before.
    pub samples_per_second: f64,
    /// Part of that time spent waiting for data.
    pub waiting: f64,
    /// Steps skipped since the run began because loss or gradient were not finite.
    pub skipped: u64,
    /// Seconds since the process began the run or went on with it.
    pub seconds: f64,
}

/// The file, open for more lines.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    lines: Vec<Metrics>,
}

impl MetricsFile {
    /// Opens the file in `folder` for a run that has done `step` steps: lines of later steps, written before the run was
    /// killed, are dropped, and so is a last line that was cut off.
    pub fn open(folder: &Path, step: u64) -> Result<Self> {
        let path = folder.join("metrics.jsonl");
        let lines: Vec<Metrics> = match std::fs::read_to_string(&path) {
            Ok(text) => text.lines().map_while(|line| serde_json::from_str(line).ok()).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(reason) => return Err(CoreError::io("read", &path, reason).into()),
        };
        let lines: Vec<Metrics> = lines.into_iter().filter(|line| line.step <= step).collect();
        let text: String = lines.iter().map(line_of).collect();
        write_atomically(&path, text.as_bytes())?;
        let opened = OpenOptions::new().append(true).open(&path);
        let file = opened.map_err(|reason| CoreError::io("write", &path, reason))?;
        Ok(Self { path, file, lines })
    }

    /// Adds a line.
    pub fn push(&mut self, metrics: Metrics) -> Result<()> {
        let written = self.file.write_all(line_of(&metrics).as_bytes());
        written.map_err(|reason| CoreError::io("write", &self.path, reason))?;
        self.lines.push(metrics);
        Ok(())
    }

    /// All lines.
    pub fn lines(&self) -> &[Metrics] {
        &self.lines
    }
}

/// JSON has no word for what is not a number and says `null`.
fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn line_of(metrics: &Metrics) -> String {
    let line = serde_json::to_string(metrics).expect("numbers under string keys are JSON");
    format!("{line}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_run_drops_what_came_after_its_checkpoint() {
        let folder = tempfile::tempdir().expect("folder");
        let metrics = |step| Metrics {
            step,
            loss: 0.5,
            gradient_norm: 1.0,
            learning_rate: 1e-3,
            samples: 8 * step,
            samples_per_second: 100.0,
            waiting: 0.1,
            skipped: 0,
            seconds: 1.0,
        };
        let mut file = MetricsFile::open(folder.path(), 0).expect("file");
        file.push(metrics(10)).expect("line");
        file.push(Metrics { loss: f64::NAN, ..metrics(20) }).expect("line");
        file.push(metrics(30)).expect("line");
        file.file.write_all(b"{\"step\": 40, \"lo").expect("cut off");
        let file = MetricsFile::open(folder.path(), 20).expect("file");
        assert_eq!(file.lines().iter().map(|line| line.step).collect::<Vec<_>>(), [10, 20]);
        assert!(file.lines()[1].loss.is_nan());
        let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).expect("file");
        assert_eq!(text.lines().count(), 2);
    }
}
