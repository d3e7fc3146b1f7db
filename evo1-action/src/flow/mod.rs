//! Flow matching: the training objective, the sampler, and its guidance to a previous chunk.

mod guidance;
mod objective;
mod sampler;

pub use guidance::{Guidance, GuidanceConfig, GuidanceMethod, PrefixSchedule};
pub use objective::{FlowLoss, FlowSample, draw_times, flow_matching_loss, masked_loss};
pub use sampler::Sampler;

use burn::tensor::{DType, Device, Tensor, TensorData};
use evo1_core::{
    config::NoiseKind,
    rng::{Rng, RngExt},
};
use rand_distr::{Distribution, StandardNormal};

/// The noise ε of a flow, `[batch, horizon, max_action_dim]`, drawn sample by sample.
pub fn draw_noise(kind: NoiseKind, shape: [usize; 3], rng: &mut impl Rng, device: &Device) -> Tensor<3> {
    match kind {
        NoiseKind::Uniform => uniform_noise(shape, rng, device),
        NoiseKind::Normal => {
            let values: Vec<f32> = StandardNormal.sample_iter(rng).take(shape.iter().product()).collect();
            Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
        }
    }
}

/// Uniform noise in [−1, 1), `[batch, horizon, max_action_dim]`, drawn sample by sample.
///
/// Evo-1 starts its flow from uniform noise, not from a normal distribution as most flow-matching policies do.
pub fn uniform_noise(shape: [usize; 3], rng: &mut impl Rng, device: &Device) -> Tensor<3> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect();
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}
