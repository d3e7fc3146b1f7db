//! How long the stages of a prediction take.

use std::time::{Duration, Instant};

use burn::tensor::Device;

/// How long each stage of one prediction took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Frames, prompt and state to tensors.
    pub prepare: Duration,
    /// Vision tower.
    pub vision: Duration,
    /// Pixel-unshuffle and projector.
    pub projector: Duration,
    /// Language model.
    pub language: Duration,
    /// Action expert, all Euler steps.
    pub action: Duration,
    /// Back to the robot's units.
    pub finish: Duration,
}

impl StageTimes {
    /// The stages by name, in their order.
    pub fn stages(&self) -> [(&'static str, Duration); 6] {
        [
            ("prepare", self.prepare),
            ("vision", self.vision),
            ("projector", self.projector),
            ("language", self.language),
            ("action", self.action),
            ("finish", self.finish),
        ]
    }

    /// All stages together.
    pub fn total(&self) -> Duration {
        self.stages().iter().map(|(_, time)| *time).sum()
    }
}

/// Runs a stage and waits until the device has finished it, so that asynchronous devices are charged where they work.
pub(crate) fn timed<T>(device: &Device, time: &mut Duration, stage: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let out = stage();
    // A device that cannot be waited for has failed, which reading the result will report.
    let _ = device.sync();
    *time = start.elapsed();
    out
}
