//! The training objective: regress the velocity of the straight path from noise to actions.

use burn::tensor::{DType, Tensor, TensorData};
use evo1_core::{
    Trace,
    config::{LossKind, Semantics, TargetMask},
};

use crate::model::{FlowTime, VelocityModel};

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

/// The flow-matching loss, differentiable with respect to the model and to what it is conditioned on.
///
/// `x_τ = (1 − τ)·ε·m + τ·a`, target `u = a − ε·m`, prediction `v = velocity(x_τ, τ)`; the loss compares v and u as
/// [`LossKind`] says.
pub fn flow_matching_loss<M: VelocityModel>(
    model: &M,
    conditioning: &M::Conditioning,
    sample: FlowSample,
    semantics: &Semantics,
    trace: &mut Trace,
) -> FlowLoss {
    let FlowSample { actions, mask, noise, time } = sample;
    let device = actions.device();
    let noise = noise * mask.clone();
    let times: Vec<FlowTime> = time.iter().map(|&tau| FlowTime::drawn(tau, semantics.time_scale)).collect();
    let tau = Tensor::<3>::from_data(TensorData::new(time, [times.len(), 1, 1]), (&device, DType::F32));
    let end = match semantics.target_mask {
        TargetMask::Unmasked => actions.clone(),
        TargetMask::Masked => actions.clone() * mask.clone(),
    };
    let x_t = noise.clone() * (-tau.clone() + 1.0) + end * tau;
    let target = actions - noise;
    let times = model.time(&times, &device);
    let velocity = model.velocity(x_t.clone(), &times, conditioning, trace).cast(x_t.dtype());
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
    use evo1_core::device::test_devices;

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
}
