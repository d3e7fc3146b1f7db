//! Ablation studies: every combination of some axes trained and measured over some seeds, and what came of it.

mod axes;
mod paired;
mod report;
mod results;
mod run;
mod study;
mod summary;
mod tasks;

pub(crate) use axes::AXES;
pub(crate) use report::write;
pub(crate) use results::{Outcome, Results};
pub(crate) use run::Runner;
pub(crate) use study::{Changes, File as StudyFile, Study};
pub(crate) use summary::summary;
pub(crate) use tasks::{OnDisk, Task, find, tasks};
