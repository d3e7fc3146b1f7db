//! Two-stage training of Evo-1 policies with exact resume.
//!
//! A [`Learner`] does one step after another on [`TrainBatch`]es that the caller brings. A [`Trainer`] adds what a run needs:
//! data by a configuration file, checkpoints, metrics and a report.
//!
//! ```no_run
//! use std::{ops::ControlFlow, path::Path};
//!
//! use evo1_train::{Event, TrainConfig, Trainer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let device = evo1::device::test_devices().remove(0);
//! let config = TrainConfig::read(Path::new("recipes/tiny.yaml"), &["steps=200".into()])?;
//! let finished = Trainer::open(config, &device, |_, _| ())?.run(|event| {
//!     if let Event::Logged(line) = event {
//!         println!("step {}: loss {}", line.step, line.loss);
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! println!("{} steps, saved in {}", finished.steps, finished.checkpoint.display());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod batch;
mod checkpoint;
mod config;
mod data;
mod ema;
mod error;
mod evaluate;
mod frozen;
mod gradients;
mod group;
mod identity;
mod learner;
mod lock;
mod lora;
mod memory;
#[cfg(feature = "mpi")]
pub mod mpi;
mod open;
mod optimizer;
mod parameters;
pub mod record;
mod replica;
mod robot;
mod schedule;
mod trainer;

pub use batch::{BatchSource, TrainBatch};
pub use config::{
    CheckpointConfig, Compute, DataSource, HeldOutConfig, PolicySource, Preset, ScheduleConfig, StatisticsSource,
    TokenizerSource, TrainConfig, assign, parse_config, read_config,
};
pub use data::DatasetBatches;
pub use error::{Error, Result};
pub use evaluate::{Errors, Evaluation, EvaluationConfig, evaluate, evaluate_with};
pub use group::{Alone, Group};
pub use identity::{Change, RunIdentity};
pub use learner::{Draw, Learner, LearnerConfig, Progress, StepReport, StepTimes};
pub use lock::FileLock;
pub use lora::LoraConfig;
pub use memory::MemoryEstimate;
pub use optimizer::{OptimizerConfig, OptimizerGroup, global_norm};
pub use parameters::{Parameter, TrainedParts, parameters, with_stable_ids};
pub use schedule::{Decay, Schedule};
pub use trainer::{Event, Finished, RunOptions, RunStart, Trainer};
