//! The error of this crate. Every variant names the file, episode or field, what was expected and what came.

use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can be wrong with a dataset, its files, or how they are asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or a configuration value cannot be used.
    #[error(transparent)]
    Core(#[from] evo1_core::Error),
    /// An observation does not fit the policy.
    #[error(transparent)]
    Policy(#[from] evo1::Error),
    /// A file is not what its name says.
    #[error("{}: not a usable {format} file: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// `parquet`, `mp4`, `YAML`, …
        format: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// A suite cannot be made.
    #[error("{dataset}: the suite `{suite}` cannot be used: {message}")]
    Suite {
        /// The dataset.
        dataset: String,
        /// The suite.
        suite: String,
        /// What is wrong with its name or settings.
        message: String,
    },
    /// The cameras of a dataset are not those of the policy.
    #[error("{dataset}: {reason}; a `view_map` in the data configuration says which camera each view shows")]
    Cameras {
        /// The dataset.
        dataset: String,
        /// The cameras on both sides.
        reason: Box<evo1_core::Error>,
    },
    /// A dataset has more views than the policy.
    #[error(
        "{dataset}: it has {got} cameras ({cameras}), but the policy takes at most {max} views; a `view_map` in the data \
             configuration chooses among them"
    )]
    TooManyCameras {
        /// The dataset.
        dataset: String,
        /// Its cameras.
        cameras: String,
        /// The policy's views.
        max: usize,
        /// The dataset's cameras.
        got: usize,
    },
    /// A file of a dataset lies outside of the dataset's folder.
    #[error(
        "{} leads out of the dataset's folder {}; set `follow_links: true` for the dataset if this is meant, as in a Hugging Face cache",
        path.display(), root.display()
    )]
    OutsideDataset {
        /// The file.
        path: PathBuf,
        /// The dataset's folder.
        root: PathBuf,
    },
    /// A dataset contradicts itself.
    #[error("{}: {what} must be {expected}, got {got}", path.display())]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// What is wrong: a column, an episode, a count.
        what: String,
        /// What its metadata says.
        expected: String,
        /// What it holds.
        got: String,
    },
    /// A video has no frame at the time that a row of the dataset names.
    #[error(
        "{}: the frame at {asked:.4} s is wanted, but the nearest one is at {got:.4} s, further than may be ({tolerance:.4} s): the video's frame rate is not the dataset's, or frames are missing",
        path.display()
    )]
    Timestamp {
        /// The video.
        path: PathBuf,
        /// Seconds into the video.
        asked: f64,
        /// Time of the nearest frame.
        got: f64,
        /// Seconds by which it may miss the time.
        tolerance: f64,
    },
    /// A vector is wider than the model's.
    #[error(
        "{dataset}: its {what} has {got} dimensions, but the model takes at most {max}; choose dimensions with `{key}: […]` in the data configuration"
    )]
    TooWide {
        /// The dataset.
        dataset: String,
        /// `state` or `action`.
        what: &'static str,
        /// The configuration key that chooses dimensions.
        key: &'static str,
        /// The model's width.
        max: usize,
        /// The dataset's width.
        got: usize,
    },
    /// A state or action is NaN or infinite.
    #[error("{}: column `{column}` holds {value} in episode {episode}, frame {frame}: every value must be finite", path.display())]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The episode.
        episode: usize,
        /// The frame within the episode.
        frame: usize,
        /// The value.
        value: f32,
    },
    /// Nothing is left to draw samples from.
    #[error("no samples: every frame of {0} is excluded or has the weight 0")]
    NoSamples(String),
    /// Too many samples in a row could not be read.
    #[error("{tries} samples in a row could not be read; the last one: {last}")]
    TooManyBadSamples {
        /// How many were tried.
        tries: usize,
        /// What was wrong with the last one.
        last: Box<Error>,
    },
    /// What was wrong with one sample.
    #[error("{sample}: {reason}")]
    Sample {
        /// The sample.
        sample: String,
        /// What was wrong with it.
        reason: Box<Error>,
    },
    /// An episode cannot be recorded for Rerun.
    #[cfg(feature = "rerun")]
    #[error("episode {episode} cannot be recorded: {reason}")]
    Recording {
        /// The episode.
        episode: usize,
        /// What went wrong.
        reason: String,
    },
    /// A thread that prepares batches has died.
    #[error("a thread that prepares batches has panicked; its message is above")]
    WorkerDied,
}

impl Error {
    /// A file that is not of its format.
    pub(crate) fn format(path: &Path, format: &'static str, message: impl ToString) -> Self {
        Self::Format { path: path.to_owned(), format, message: message.to_string() }
    }

    /// A contradiction within a dataset.
    pub(crate) fn inconsistent(path: &Path, what: impl ToString, expected: impl ToString, got: impl ToString) -> Self {
        Self::Inconsistent {
            path: path.to_owned(),
            what: what.to_string(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }

    /// An operating-system error with the path it happened at.
    pub(crate) fn io(action: &'static str, path: &Path, reason: std::io::Error) -> Self {
        evo1_core::Error::io(action, path, reason).into()
    }

    /// The same with the sample it happened in.
    pub(crate) fn in_sample(self, sample: impl ToString) -> Self {
        Self::Sample { sample: sample.to_string(), reason: Box::new(self) }
    }
}
