//! Timings of the Evo-1 policy: predictions by stage, summed up, and the model's operations by themselves.
//!
//! Its only `unsafe` replays a graph of repeated operations.

mod bounds;
mod kernels;
mod report;

pub use bounds::{Bounds, bounds};
use burn::tensor::Device;
pub use evo1::StageTimes;
pub use evo1::device::peak_memory;
use evo1::{ActionChunk, Components, Observation, Policy, PredictOptions, Result};
pub use evo1_kernels::{set_narrow_vectors, set_tf32};
pub use kernels::{KernelSetup, KernelTime, KernelTimes, Peak, kernel_times, peak};
pub use report::{Comparison, FirstPrediction, Provenance, Quantiles, Reference, Report, Setup, by_stage, compare};

/// [`Policy::predict`], with the time of each stage.
pub fn predict_timed<C: Components>(
    policy: &Policy<C>,
    observation: &Observation,
    options: &PredictOptions,
) -> Result<(ActionChunk, StageTimes)> {
    let (mut predictions, times) = policy.predict_batch_timed(std::slice::from_ref(observation), options)?;
    Ok((predictions.remove(0).chunk, times))
}

/// Memory that a device's allocator holds, in bytes: what is in use, and what is kept to be used again; `None` for devices
/// that use the process's.
pub fn device_memory(device: &Device) -> Option<u64> {
    device.memory_pool_usage().map(|usage| usage.bytes_reserved)
}
