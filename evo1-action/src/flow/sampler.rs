//! The sampler: explicit Euler steps from noise to actions.

use burn::tensor::{Int, Tensor};
use evo1_core::{
    Trace,
    config::{ResultMask, Semantics},
};

use super::Guidance;
use crate::{
    head::{ActionExpert, Conditioning},
    time::{sinusoid, step_index},
};

/// Integrates the velocity field: `x ← x + v(x ⊙ mask, i / N) / N` for `i` in `0..N`.
#[derive(Debug, Clone, Copy)]
pub struct Sampler {
    /// Number of Euler steps, N.
    pub steps: usize,
    /// κ of the time table.
    pub time_scale: f64,
    /// Whether the result is masked.
    pub result_mask: ResultMask,
}

impl Sampler {
    /// The sampler of a reference.
    ///
    /// # Panics
    /// When `steps` is 0.
    pub fn new(steps: usize, semantics: &Semantics) -> Self {
        assert!(steps > 0, "a flow is integrated in at least one step");
        Self { steps, time_scale: semantics.time_scale, result_mask: semantics.result_mask }
    }

    /// Actions from noise.
    ///
    /// # Shapes
    /// - noise: `[batch, horizon, max_action_dim]`, in [−1, 1)
    /// - mask: `[batch, horizon, max_action_dim]`, 1 for real action dimensions and 0 for padded ones
    /// - output: `[batch, horizon, max_action_dim]`
    pub fn sample(
        &self,
        expert: &ActionExpert,
        conditioning: &Conditioning,
        noise: Tensor<3>,
        mask: Tensor<3>,
        trace: &mut Trace,
    ) -> Tensor<3> {
        self.sample_guided(expert, conditioning, noise, mask, None, trace)
    }

    /// [`Self::sample`], guided to a previous chunk.
    pub fn sample_guided(
        &self,
        expert: &ActionExpert,
        conditioning: &Conditioning,
        noise: Tensor<3>,
        mask: Tensor<3>,
        guidance: Option<&Guidance>,
        trace: &mut Trace,
    ) -> Tensor<3> {
        let (device, dtype) = (noise.device(), noise.dtype());
        let indices: Vec<usize> = (0..self.steps).map(|step| step_index(step, self.steps, self.time_scale)).collect();
        if trace.is_on() {
            let indices: Vec<i64> = indices.iter().map(|&index| index as i64).collect();
            trace.record("time_index", &Tensor::<1, Int>::from_data(indices.as_slice(), &device));
        }
        let times = sinusoid(&indices, expert.embed_dim(), &device);
        let mut x = noise;
        // Dropout belongs to training, but follows the device, and the Jacobian's is one that differentiates.
        let evaluated = guidance.map(|_| expert.without_dropout());
        let expert = evaluated.as_ref().unwrap_or(expert);
        for step in 0..self.steps {
            let mut network = |x: Tensor<3>| {
                let seen = x * mask.clone();
                trace.scope(format_args!("step.{step:02}"), |trace| {
                    trace.record("action_in", &seen);
                    let velocity = expert.velocity(seen, times.clone().narrow(0, step, 1), conditioning, trace);
                    trace.record("velocity", &velocity);
                    velocity.cast(dtype)
                })
            };
            let velocity = match guidance {
                None => network(x.clone()),
                Some(guidance) => guidance.velocity(&x, step as f64 / self.steps as f64, network),
            };
            x = x + velocity / self.steps as f64;
        }
        match self.result_mask {
            ResultMask::Masked => x * mask,
            ResultMask::Unmasked => x,
        }
    }
}
