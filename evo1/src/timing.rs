//! How long the stages of a prediction take.

use std::time::{Duration, Instant};

use burn::tensor::Device;

/// How long each stage of one prediction took: those of the network one by one, or all that is the device's together
/// ([`Self::device`]), where waiting for it between them would cost time.
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
    /// From the first to the last of the device's stages, uploads and download included, in place of vision, projector,
    /// language and action; zero where those were timed.
    pub device: Duration,
    /// Back to the robot's units.
    pub finish: Duration,
}

impl StageTimes {
    /// The stages by name, in their order.
    pub fn stages(&self) -> Vec<(&'static str, Duration)> {
        let of_network = if self.device.is_zero() {
            vec![
                ("vision", self.vision),
                ("projector", self.projector),
                ("language", self.language),
                ("action", self.action),
            ]
        } else {
            vec![("device", self.device)]
        };
        [vec![("prepare", self.prepare)], of_network, vec![("finish", self.finish)]].concat()
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
