//! LeRobot datasets in, training batches out.
//!
//! ```no_run
//! use std::{num::NonZeroUsize, path::Path, sync::Arc};
//!
//! use evo1::Policy;
//! use evo1_data::{DataConfig, Loader, LoaderOptions, Mixture, Position};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let device = evo1::device::test_devices().remove(0);
//! let mut policy = Policy::tiny(0, &device)?;
//! let config = DataConfig::read(Path::new("data.yaml"))?;
//! let mixture = Arc::new(Mixture::open(&config, policy.config.action.horizon)?);
//! policy.statistics = Some(mixture.statistics(|done, of| eprint!("\r{done}/{of}"))?);
//!
//! let options = LoaderOptions::new(NonZeroUsize::new(16).expect("not 0"));
//! let loader = Loader::new(mixture, policy.preparer(), options)?;
//! for batch in loader.batches(Position::start(7)) {
//!     let batch = batch?;
//!     // batch.inputs, batch.actions, batch.mask: one step; then save batch.position, from which
//!     // `loader.batches(position)` continues with exactly the batches that would have come.
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | type | is |
//! | --- | --- |
//! | [`DataConfig`] | which datasets, views, suites and weights: the authors' `config.yaml`, and keys of our own |
//! | [`Mixture`] | the datasets, open; its samples in a seeded, weighted order; their statistics |
//! | [`Loader`] | batches on several threads, from any [`Position`] of the order |
//! | [`Epochs`] | the same batches as burn's `DataLoader`, for its training loops |
//! | [`Batch`] | [`evo1::Inputs`], normalised actions and their mask |
//! | [`Dataset`], [`Table`], [`VideoReader`] | a dataset's files by themselves |
//! | [`Suite`] | how states and actions are read from columns |
#![forbid(unsafe_code)]

mod augment;
mod batch;
mod config;
#[cfg(feature = "epochs")]
mod epochs;
mod error;
mod hub;
mod identity;
mod lerobot;
mod loader;
mod mixture;
#[cfg(feature = "rerun")]
mod recording;
mod sample;
mod sampler;
mod source;
mod statistics;
mod suite;
mod summary;
mod video;

pub use augment::{Changes, ColorChange};
pub use batch::{Batch, HostBatch};
pub use config::{
    Augmentation, DataConfig, DatasetConfig, Episodes, Exclusion, FrameWeight, MissingVideo, OnError, Part, StateNoise,
    Time,
};
#[cfg(feature = "epochs")]
pub use epochs::Epochs;
pub use error::{Error, Result};
pub use hub::{Needed, located};
pub use identity::DatasetIdentity;
pub use lerobot::{
    Column, Dataset, Episode, Feature, Info, OpenOptions, Problem, ProblemKind, Repair, Table, Tasks, VideoClip,
};
pub use loader::{Batches, Loader, LoaderOptions, Share};
pub use mixture::{Mixture, SkippedEpisode};
pub use sample::{Sample, SampleId};
pub use sampler::Position;
pub use source::DatasetSource;
pub use statistics::StatisticsPer;
pub use suite::{Suite, SuiteSettings, Suites};
pub use video::{VideoPool, VideoReader};
