//! Files with one JSON object in each line.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use evo1::{CoreError, files::write_atomically};
use serde::{Serialize, de::DeserializeOwned};

use crate::Result;

/// Lines, and the file that they are in, if they are in one.
#[derive(Debug)]
pub struct JsonLines<T> {
    file: Option<(PathBuf, File)>,
    lines: Vec<T>,
}

impl<T> Default for JsonLines<T> {
    fn default() -> Self {
        Self { file: None, lines: Vec::new() }
    }
}

impl<T: Serialize + DeserializeOwned> JsonLines<T> {
    /// Opens a file for more lines. Of those in it the ones that are not wanted are dropped, and those that are broken.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path, is_wanted: impl Fn(&T) -> bool) -> Result<Self> {
        let text = match std::fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(reason) => return Err(CoreError::io("read", path, reason).into()),
        };
        let lines: Vec<T> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(is_wanted).collect();
        let text: String = lines.iter().map(line_of).collect();
        write_atomically(path, text.as_bytes())?;
        let opened = OpenOptions::new().append(true).open(path);
        let file = opened.map_err(|reason| CoreError::io("write", path, reason))?;
        Ok(Self { file: Some((path.to_owned(), file)), lines })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// When it cannot be written; it is then among [`Self::lines`] nevertheless.
    pub fn push(&mut self, line: T) -> Result<()> {
        let text = line_of(&line);
        self.lines.push(line);
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        Ok(file.write_all(text.as_bytes()).map_err(|reason| CoreError::io("write", path, reason))?)
    }

    /// All lines.
    pub fn lines(&self) -> &[T] {
        &self.lines
    }
}

fn line_of(line: &impl Serialize) -> String {
    let line = serde_json::to_string(line).expect("values under string keys are JSON");
    format!("{line}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Metrics;

    fn metrics(step: u64, loss: f64) -> Metrics {
        Metrics { step, loss, ..Metrics::default() }
    }

    #[test]
    fn a_resumed_run_drops_what_came_after_its_checkpoint_and_lines_that_are_broken() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("metrics.jsonl");
        let mut file: JsonLines<Metrics> = JsonLines::open(&path, |_| true).expect("file");
        file.push(metrics(10, 0.5)).expect("line");
        file.file.as_mut().expect("a file").1.write_all(b"{\"step\": 15, \xff\n").expect("broken");
        file.push(metrics(20, f64::NAN)).expect("line");
        file.push(metrics(30, 0.5)).expect("line");
        file.file.as_mut().expect("a file").1.write_all(b"{\"step\": 40, \"lo").expect("cut off");
        let file: JsonLines<Metrics> = JsonLines::open(&path, |line: &Metrics| line.step <= 20).expect("file");
        assert_eq!(file.lines().iter().map(|line| line.step).collect::<Vec<_>>(), [10, 20]);
        assert!(file.lines()[1].loss.is_nan());
        assert_eq!(std::fs::read_to_string(&path).expect("file").lines().count(), 2);
    }
}
