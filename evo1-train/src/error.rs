//! The error of this crate.

use std::{io::ErrorKind, path::PathBuf};

use evo1::CoreError;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in a training run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A policy cannot be loaded, saved or given an observation.
    #[error(transparent)]
    Policy(#[from] evo1::Error),
    /// A file, device or configuration of the policy cannot be used.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// A value of the run's configuration is not one that it may have.
    #[error("`{field}` must be {expected}, got {got}")]
    Config {
        /// Dotted path of the value.
        field: String,
        /// What would be accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// The configuration file cannot be read as one.
    #[error("{}: {message}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with line and column where known.
        message: String,
    },
    /// The network diverged.
    #[error(
        "the loss or its gradient was not finite in {streak} steps in a row, the last being step {step}: lower the \
         learning rate, or look at {}",
        if samples.is_empty() { "the data".into() } else { samples.join("; ") }
    )]
    NonFinite {
        /// Steps in a row.
        streak: u32,
        /// The last of them.
        step: u64,
        /// The observations of the last one whose loss was not finite.
        samples: Vec<String>,
    },
    /// A run that goes on would be another run.
    #[error("the run would be another one than it was: {text} (`--allow-change {name}` accepts it)")]
    Changed {
        /// What is not the same, as `--allow-change` names it.
        name: String,
        /// Old and new values.
        text: String,
    },
    /// The run cannot fit into memory.
    #[error(
        "a step needs {needed} more of memory, of which {available} are available, for {estimate}: train fewer parts, or \
         adapters (`lora`)"
    )]
    Memory {
        /// What is certainly needed and not there yet.
        needed: String,
        /// What the system still gives.
        available: String,
        /// All that the run takes.
        estimate: String,
    },
    /// Another rank of the run failed or is gone.
    #[error("{0}")]
    Group(String),
    /// A checkpoint is not one that the run can go on from.
    #[error("{}: {message}", path.display())]
    Checkpoint {
        /// The checkpoint's folder or file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A picture cannot be drawn.
    #[error("cannot draw {}: {message}", path.display())]
    Plot {
        /// The picture's file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// The training data cannot be read.
    #[error(transparent)]
    Data(#[from] evo1_data::Error),
}

impl Error {
    /// Whether a disk is full, or the user's part of it.
    pub fn is_full(&self) -> bool {
        let (Self::Core(CoreError::Io { reason, .. }) | Self::Policy(evo1::Error::Core(CoreError::Io { reason, .. }))) =
            self
        else {
            return false;
        };
        matches!(reason.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    }

    /// A value that a field of the configuration may not have.
    pub fn config(field: impl ToString, expected: impl ToString, got: impl ToString) -> Self {
        Self::Config { field: field.to_string(), expected: expected.to_string(), got: got.to_string() }
    }

    /// A folder or file that is no usable checkpoint.
    pub fn checkpoint(path: impl Into<PathBuf>, message: impl ToString) -> Self {
        Self::Checkpoint { path: path.into(), message: message.to_string() }
    }
}
