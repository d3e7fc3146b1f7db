//! Ablation studies: every combination of some axes trained and measured over some seeds, and what came of it.

mod axes;
mod report;
mod results;
mod run;
mod study;
mod summary;

pub(crate) use axes::AXES;
pub(crate) use report::write;
pub(crate) use results::Outcome;
pub(crate) use run::Runner;
pub(crate) use study::{Changes, Study};
pub(crate) use summary::summary;
