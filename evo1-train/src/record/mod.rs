//! What a run leaves for people to look at.

mod curves;
mod metrics;
mod report;
mod tensorboard;

pub use curves::write_curves;
pub use metrics::{Metrics, MetricsFile};
pub use report::{Fact, write_report};
pub use tensorboard::EventFile;
