//! LeRobot datasets on the disk: their metadata, tables and where their videos are.
//!
//! Versions 2.0 and 2.1 keep one parquet file and one video per episode and camera, and their metadata as JSON lines.
//! Version 3.0 puts many episodes into one file, and says in `meta/episodes/*.parquet` where each begins.

mod check;
mod dataset;
mod folder;
mod info;
mod meta;
mod repair;
mod shared_file;
mod table;

pub use check::{Problem, ProblemKind};
pub use dataset::{Dataset, OpenOptions, VideoClip};
pub use info::{Feature, Info};
pub use meta::{Episode, Tasks};
pub use repair::Repair;
pub use table::{Column, Table};
