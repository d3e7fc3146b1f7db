//! Real-time chunking: the next chunk is computed while the present one executes, and is guided to agree with what of it
//! has not been executed yet.
//!
//! At time τ of the flow, with x̂₁ = x + (1 − τ)·v the actions that the velocity v points to,
//!
//! `v ← v + g·Jᵀ(w ⊙ (previous − x̂₁))`, `g = min(g_max, (1 − τ)/τ · ((1 − τ)² + τ²)/(1 − τ)²)`, `J = ∂x̂₁/∂x`,
//!
//! where w falls from 1 for the steps that will have been executed when the chunk is there, to 0 for those that nothing
//! binds. Sources: "Real-Time Execution of Action Chunking Flow Policies" (arXiv 2506.07339), and LeRobot's port of it,
//! which takes J = identity.

use burn::tensor::{DType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// How the error of the chunk becomes a change of the velocity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuidanceMethod {
    /// J is the identity: no backward pass. What LeRobot does.
    #[default]
    Identity,
    /// J is the Jacobian of x̂₁: one backward pass through the action expert for each Euler step. What the paper does.
    Jacobian,
}

/// How w falls from 1 at the inference delay to 0 at the execution horizon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrefixSchedule {
    /// Linearly.
    #[default]
    Linear,
    /// As l·(eˡ − 1)/(e − 1) of the linear value l.
    Exp,
    /// Not at all: 1 up to the execution horizon.
    Ones,
    /// At once: 0 from the inference delay on.
    Zeros,
}

/// How a chunk is guided.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuidanceConfig {
    /// How the error becomes a change of the velocity.
    pub method: GuidanceMethod,
    /// How the weights of the steps fall.
    pub schedule: PrefixSchedule,
    /// Steps of the new chunk that are bound to the previous one at all: 10.
    pub execution_horizon: usize,
    /// g_max, the largest guidance weight: 10.
    pub max_weight: f32,
}

impl Default for GuidanceConfig {
    fn default() -> Self {
        Self {
            method: GuidanceMethod::default(),
            schedule: PrefixSchedule::default(),
            execution_horizon: 10,
            max_weight: 10.0,
        }
    }
}

impl GuidanceConfig {
    /// w for each of `horizon` steps, when `delay` steps of the previous chunk are executed during the inference and
    /// `left` steps of it are left at its beginning.
    pub fn step_weights(&self, delay: usize, left: usize, horizon: usize) -> Vec<f32> {
        let end = self.execution_horizon.min(left);
        let start = delay.min(end);
        let between = (end - start + 1) as f64;
        let weight = |step: usize| {
            // 1 at the last step before `start` and 0 at `end`, both outside the range.
            let linear = 1.0 - (step + 1 - start) as f64 / between;
            match self.schedule {
                PrefixSchedule::Linear => linear,
                PrefixSchedule::Exp => linear * linear.exp_m1() / 1_f64.exp_m1(),
                PrefixSchedule::Ones => 1.0,
                PrefixSchedule::Zeros => 0.0,
            }
        };
        (0..horizon)
            .map(|step| match step {
                _ if step < start => 1.0,
                _ if step < end => weight(step) as f32,
                _ => 0.0,
            })
            .collect()
    }

    /// g at time τ in [0, 1).
    pub fn weight(&self, time: f64) -> f64 {
        let (left, max) = (1.0 - time, f64::from(self.max_weight));
        if time <= 0.0 {
            return max;
        }
        (left / time * (left * left + time * time) / (left * left)).min(max)
    }
}

/// The guidance of one sampling.
#[derive(Debug, Clone)]
pub struct Guidance {
    config: GuidanceConfig,
    /// `[batch, horizon, max_action_dim]`
    previous: Tensor<3>,
    /// w on real action dimensions, `[batch, horizon, max_action_dim]`
    weights: Tensor<3>,
}

impl Guidance {
    /// Guidance to a previous chunk of which `delay` more steps are executed during the inference.
    ///
    /// Dimensions that are not real are not guided, whatever the network gives for them.
    ///
    /// # Shapes
    /// - previous: `[batch, left, max_action_dim]`, normalised: what of the chunk is not executed yet
    /// - mask: `[batch, horizon, max_action_dim]`, 1 for real action dimensions
    pub fn new(config: GuidanceConfig, previous: Tensor<3>, delay: usize, mask: &Tensor<3>) -> Self {
        let ([batch, left, width], [_, horizon, _], device) = (previous.dims(), mask.dims(), mask.device());
        let left = left.min(horizon);
        let weights = TensorData::new(config.step_weights(delay, left, horizon), [1, horizon, 1]);
        let padding = Tensor::zeros([batch, horizon - left, width], (&device, DType::F32));
        let previous = Tensor::cat(vec![previous.narrow(1, 0, left), padding], 1);
        Self { config, previous, weights: Tensor::<3>::from_data(weights, (&device, DType::F32)) * mask.clone() }
    }

    /// The guided velocity at `x` and `time`; `velocity` is the network.
    pub fn velocity(&self, x: &Tensor<3>, time: f64, velocity: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        let (left, strength) = (1.0 - time, self.config.weight(time));
        let error = |end: Tensor<3>| (self.previous.clone() - end) * self.weights.clone();
        match self.config.method {
            GuidanceMethod::Identity => {
                let velocity = velocity(x.clone());
                let end = x.clone() + velocity.clone() * left;
                velocity + error(end) * strength
            }
            GuidanceMethod::Jacobian => {
                let leaf = x.clone().inner().autodiff().require_grad();
                let velocity = velocity(leaf.clone());
                let end = leaf.clone() + velocity.clone() * left;
                // The gradient of ⟨x̂₁, e⟩ with e held fixed is Jᵀe.
                let gradients = (end.clone() * error(end.inner())).sum().backward();
                let correction = leaf.grad(&gradients).expect("x̂₁ depends on x");
                velocity.inner() + correction * strength
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use evo1_core::{device::test_devices, test_support::assert_within};

    use super::*;

    fn config(schedule: PrefixSchedule, execution_horizon: usize) -> GuidanceConfig {
        GuidanceConfig { schedule, execution_horizon, ..GuidanceConfig::default() }
    }

    #[test]
    fn step_weights_fall_from_the_delay_to_the_execution_horizon() {
        use PrefixSchedule::{Exp, Linear, Ones, Zeros};
        let assert_weights = |(schedule, delay, end, left): (PrefixSchedule, _, _, _), want: &[f32]| {
            let got = config(schedule, end).step_weights(delay, left, 8);
            assert_within(&format!("{schedule:?}, {delay}, {end}, {left}"), &got, want, 1e-6);
        };
        assert_weights((Linear, 2, 5, 8), &[1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0]);
        let exp = |l: f32| l * l.exp_m1() / 1_f32.exp_m1();
        assert_weights((Exp, 2, 5, 8), &[1.0, 1.0, exp(0.75), exp(0.5), exp(0.25), 0.0, 0.0, 0.0]);
        assert_weights((Ones, 2, 5, 8), &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_weights((Zeros, 2, 5, 8), &[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_weights((Linear, 2, 5, 3), &[1.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_weights((Linear, 9, 5, 8), &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_weights((Linear, 0, 20, 20), &[20.0, 19.0, 18.0, 17.0, 16.0, 15.0, 14.0, 13.0].map(|n| n / 21.0));
        assert_weights((Linear, 0, 0, 8), &[0.0; 8]);
    }

    #[test]
    fn the_guidance_weight_is_bounded_and_falls() {
        let config = GuidanceConfig::default();
        assert_eq!(config.weight(0.0), 10.0);
        assert_eq!(config.weight(0.05), 10.0);
        assert!((config.weight(0.5) - 2.0).abs() < 1e-12);
        let late = 0.25 / 0.75 * (0.25_f64.powi(2) + 0.75_f64.powi(2)) / 0.25_f64.powi(2);
        assert!((config.weight(0.75) - late).abs() < 1e-12);
    }

    /// For a network v = c·x the Jacobian of x̂₁ is (1 + (1 − τ)c)·I.
    #[test]
    fn both_methods_equal_their_formula_on_a_linear_network() {
        for device in test_devices() {
            let tensor = |values: [f32; 6]| Tensor::<1>::from_floats(values, &device).reshape([1, 3, 2]);
            let (x, previous) = (tensor([0.5, -0.2, 0.1, 0.9, -0.7, 0.3]), tensor([0.0, 1.0, -1.0, 0.5, 0.2, 0.4]));
            let mask = tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
            let (time, slope) = (0.4, 0.6_f64);
            for (method, jacobian) in
                [(GuidanceMethod::Identity, 1.0), (GuidanceMethod::Jacobian, 1.0 + (1.0 - time) * slope)]
            {
                let config = GuidanceConfig { method, execution_horizon: 2, ..GuidanceConfig::default() };
                let guidance = Guidance::new(config, previous.clone().narrow(1, 0, 2), 1, &mask);
                let got: Vec<f32> = guidance.velocity(&x, time, |x| x * slope).into_data().iter().collect();
                let (x, previous): (Vec<f32>, Vec<f32>) =
                    (x.clone().into_data().iter().collect(), previous.clone().into_data().iter().collect());
                let weights = [1.0, 0.0, 0.5, 0.0, 0.0, 0.0];
                let want: Vec<f32> = (0..6)
                    .map(|i| {
                        let (x, previous, weight) = (f64::from(x[i]), f64::from(previous[i]), weights[i]);
                        let error = weight * (previous - x * (1.0 + (1.0 - time) * slope));
                        (slope * x + config.weight(time) * jacobian * error) as f32
                    })
                    .collect();
                assert_within(&format!("{method:?} on {device:?}"), &got, &want, 1e-6);
            }
        }
    }
}
