//! Timings of the Evo-1 policy by stage.
//!
#![forbid(unsafe_code)]

pub use evo1::StageTimes;
use evo1::{ActionChunk, Observation, Policy, PredictOptions, Result};

/// [`Policy::predict`], with the time of each stage.
pub fn predict_timed(
    policy: &Policy,
    observation: &Observation,
    options: &PredictOptions,
) -> Result<(ActionChunk, StageTimes)> {
    let (mut predictions, times) = policy.predict_batch_timed(std::slice::from_ref(observation), options)?;
    Ok((predictions.remove(0).chunk, times))
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
