//! What a run leaves for people to look at.

mod curves;
mod lines;
mod metrics;
mod report;
mod tensorboard;

pub use curves::write_curves;
pub use lines::JsonLines;
pub use metrics::{Metrics, Profile, Warned};
pub use report::{Fact, write_report};
pub use tensorboard::EventFile;
