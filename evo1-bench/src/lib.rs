//! Timings of the Evo-1 policy by stage.
//!
//! A stage's time ends when the device has finished it, so that asynchronous devices are charged where they work.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use evo1::{ActionChunk, Observation, Policy, PredictOptions, Result};

/// How long each stage of one prediction took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Frames, prompt and state to tensors.
    pub prepare: Duration,
    /// Vision tower and projector.
    pub vision: Duration,
    /// Language model.
    pub language: Duration,
    /// Action expert, all Euler steps.
    pub action: Duration,
    /// Back to the robot's units.
    pub finish: Duration,
}

impl StageTimes {
    /// The stages by name, in their order.
    pub fn stages(&self) -> [(&'static str, Duration); 5] {
        [
            ("prepare", self.prepare),
            ("vision", self.vision),
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

/// [`Policy::predict`], with the time of each stage.
pub fn predict_timed(
    policy: &Policy,
    observation: &Observation,
    options: &PredictOptions,
) -> Result<(ActionChunk, StageTimes)> {
    let observations = std::slice::from_ref(observation);
    let mut times = StageTimes::default();
    let inputs = timed(policy, &mut times.prepare, || policy.prepare(observations, options.skips_unseen))?;
    let visual = timed(policy, &mut times.vision, || policy.see(&inputs));
    let context = timed(policy, &mut times.language, || policy.fuse(visual, &inputs))?;
    let actions = timed(policy, &mut times.action, || {
        let noise = policy.noise(observations.len(), &options.noise)?;
        policy.act(context, &inputs, noise, options.steps)
    })?;
    let mut chunks = timed(policy, &mut times.finish, || policy.finish(actions, observations))?;
    Ok((chunks.remove(0), times))
}

fn timed<T>(policy: &Policy, time: &mut Duration, stage: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let out = stage();
    // A device that cannot be waited for has failed, which reading the result will report.
    let _ = policy.device().sync();
    *time = start.elapsed();
    out
}

/// The most memory that this process has had resident so far, in bytes; `None` where the system does not tell.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use evo1::{Frame, View, config::PolicyConfig, device::test_devices};

    use super::*;

    #[test]
    fn a_timed_prediction_is_the_prediction() {
        for device in test_devices() {
            let policy = Policy::random(PolicyConfig::tiny(), 1, &device).expect("tiny");
            let observation = Observation {
                views: vec![View::Present(Frame::black(64, 64))],
                instruction: "go".into(),
                ..Observation::default()
            };
            let options = PredictOptions { steps: Some(2), ..PredictOptions::default() };
            let (chunk, times) = predict_timed(&policy, &observation, &options).expect("a chunk");
            assert_eq!(chunk, policy.predict(&observation, &options).expect("a chunk"));
            assert!(times.stages().iter().all(|(_, time)| !time.is_zero()), "{times:?}");
        }
    }
}
