//! The training objective: regress the velocity of the straight path from noise to actions.

use burn::tensor::{DType, Tensor, TensorData};
use evo1_core::{
    Trace,
    config::{LossKind, Semantics, TargetMask, TimeDraw},
    rng::{Rng, RngExt},
};
use rand_distr::{Beta, Distribution, Normal};

use crate::{
    head::{ActionExpert, Conditioning},
    time::time_index,
};

/// τ is kept inside this range.
const TIME_RANGE: (f32, f32) = (0.02, 0.98);

/// What one evaluation of the objective is computed from.
///
/// # Shapes
/// - actions, mask, noise: `[batch, horizon, max_action_dim]`
/// - time: one τ in (0, 1) for each sample
#[derive(Debug, Clone)]
pub struct FlowSample {
    /// Normalised true actions, padded with zeros.
    pub actions: Tensor<3>,
    /// 1 for real action dimensions of real steps, 0 elsewhere.
    pub mask: Tensor<3>,
    /// Noise, not yet masked.
    pub noise: Tensor<3>,
    /// τ.
    pub time: Vec<f32>,
}

/// The objective's value and what it was computed from.
#[derive(Debug, Clone)]
pub struct FlowLoss {
    /// The loss, `[1]`.
    pub loss: Tensor<1>,
    /// The predicted velocity, `[batch, horizon, max_action_dim]`.
    pub velocity: Tensor<3>,
    /// The target velocity, `[batch, horizon, max_action_dim]`.
    pub target: Tensor<3>,
    /// The point on the path, `[batch, horizon, max_action_dim]`.
    pub x_t: Tensor<3>,
}

/// Draws τ, clamped to [0.02, 0.98], for each sample.
///
/// # Panics
/// When the distribution's parameters are none that it can have; [`PolicyConfig::validate`] refuses them.
///
/// [`PolicyConfig::validate`]: evo1_core::config::PolicyConfig::validate
pub fn draw_times(kind: TimeDraw, batch: usize, rng: &mut impl Rng) -> Vec<f32> {
    let draws: Vec<f32> = match kind {
        TimeDraw::Beta { alpha, beta } => {
            let beta = Beta::new(alpha, beta).expect("both parameters are positive");
            beta.sample_iter(rng).take(batch).collect()
        }
        TimeDraw::Uniform => (0..batch).map(|_| rng.random()).collect(),
        TimeDraw::LogitNormal { mean, std } => {
            let normal = Normal::new(mean, std).expect("the deviation is finite");
            normal.sample_iter(rng).take(batch).map(|x: f32| 1.0 / (1.0 + (-x).exp())).collect()
        }
    };
    draws.into_iter().map(|time| time.clamp(TIME_RANGE.0, TIME_RANGE.1)).collect()
}

/// The flow-matching loss, differentiable with respect to the expert and to what it is conditioned on.
///
/// `x_τ = (1 − τ)·ε·m + τ·a`, target `u = a − ε·m`, prediction `v = velocity(x_τ, τ)`; the loss compares v and u as
/// [`LossKind`] says.
pub fn flow_matching_loss(
    expert: &ActionExpert,
    conditioning: &Conditioning,
    sample: FlowSample,
    semantics: &Semantics,
    trace: &mut Trace,
) -> FlowLoss {
    let FlowSample { actions, mask, noise, time } = sample;
    let device = actions.device();
    let noise = noise * mask.clone();
    let rows: Vec<usize> = time.iter().map(|&time| time_index(time, semantics.time_scale)).collect();
    let tau = Tensor::<3>::from_data(TensorData::new(time, [rows.len(), 1, 1]), (&device, DType::F32));
    let end = match semantics.target_mask {
        TargetMask::Unmasked => actions.clone(),
        TargetMask::Masked => actions.clone() * mask.clone(),
    };
    let x_t = noise.clone() * (-tau.clone() + 1.0) + end * tau;
    let target = actions - noise;
    let times = expert.time_conditioning(&rows, &device);
    let velocity = expert.velocity(x_t.clone(), &times, conditioning, trace).cast(x_t.dtype());
    let loss = masked_loss(velocity.clone(), target.clone(), mask, semantics.loss);
    FlowLoss { loss, velocity, target, x_t }
}

/// The loss of a velocity, a target and a mask, all `[batch, horizon, max_action_dim]`.
pub fn masked_loss(velocity: Tensor<3>, target: Tensor<3>, mask: Tensor<3>, kind: LossKind) -> Tensor<1> {
    let masked = velocity * mask.clone();
    let numel = mask.shape().num_elements() as f64;
    match kind {
        LossKind::MeanOfMaskedPrediction => (masked - target).square().mean() * numel / (mask.sum() + 1e-8),
        LossKind::MeanOfMaskedPair => (masked - target * mask.clone()).square().mean() * numel / (mask.sum() + 1e-8),
        LossKind::SumOverMask => {
            // A sample without a single real action counts as one entry, not as none.
            let [batch, horizon, width] = mask.dims();
            let entries = mask.clone().reshape([batch, horizon * width]).sum_dim(1).clamp_min(1.0).sum();
            (masked - target * mask).square().sum() / entries
        }
    }
}

#[cfg(test)]
mod tests {
    use evo1_core::{device::test_devices, rng};

    use super::*;

    #[test]
    fn losses_differ_as_the_references_do() {
        for device in test_devices() {
            let tensor = |values: [f32; 4]| Tensor::<1>::from_floats(values, &device).reshape([1, 2, 2]);
            let (velocity, target) = (tensor([1.0, 9.0, 2.0, 9.0]), tensor([0.0, 2.0, 0.0, 0.0]));
            let mask = tensor([1.0, 0.0, 1.0, 0.0]);
            let loss = |kind| masked_loss(velocity.clone(), target.clone(), mask.clone(), kind).into_scalar::<f32>();
            assert!((loss(LossKind::SumOverMask) - 2.5).abs() < 1e-6, "(1 + 4) / 2");
            assert!((loss(LossKind::MeanOfMaskedPair) - 2.5).abs() < 1e-6, "the same with one mask");
            assert!((loss(LossKind::MeanOfMaskedPrediction) - 4.5).abs() < 1e-6, "(1 + 4 + 4) / 2");
        }
    }

    #[test]
    fn times_stay_in_their_range_and_repeat() {
        let logit_normal = TimeDraw::LogitNormal { mean: 0.0, std: 1.0 };
        let skewed = TimeDraw::Beta { alpha: 1.5, beta: 1.0 };
        for (kind, mean) in [(TimeDraw::default(), 0.5), (TimeDraw::Uniform, 0.5), (logit_normal, 0.5), (skewed, 0.6)] {
            let draw = || draw_times(kind, 2000, &mut rng::stream(5, "time"));
            let times = draw();
            assert!(times.iter().all(|time| (TIME_RANGE.0..=TIME_RANGE.1).contains(time)));
            assert!((times.iter().sum::<f32>() / 2000.0 - mean).abs() < 0.02, "{kind:?}");
            assert_eq!(times, draw());
        }
    }
}
