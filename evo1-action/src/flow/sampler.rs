//! The sampler: explicit steps from noise to actions.

use burn::tensor::{Int, Tensor};
use evo1_core::{
    Trace,
    config::{ResultMask, Semantics, Solver},
};

use super::Guidance;
use crate::{
    head::{ActionExpert, Conditioning},
    time::path_index,
};

/// Integrates the velocity field `v(x ⊙ mask, t)` from `t = 0` to `t = 1` in N equal steps.
#[derive(Debug, Clone, Copy)]
pub struct Sampler {
    /// Number of steps, N.
    pub steps: usize,
    /// What a step does.
    pub solver: Solver,
    /// κ of the time table.
    pub time_scale: f64,
    /// Whether the result is masked.
    pub result_mask: ResultMask,
}

impl Sampler {
    /// The sampler of a reference: Euler steps.
    ///
    /// # Panics
    /// When `steps` is 0.
    pub fn new(steps: usize, semantics: &Semantics) -> Self {
        assert!(steps > 0, "a flow is integrated in at least one step");
        let Semantics { time_scale, result_mask, .. } = *semantics;
        Self { steps, solver: Solver::Euler, time_scale, result_mask }
    }

    /// The same with steps of another solver.
    pub fn with_solver(self, solver: Solver) -> Self {
        Self { solver, ..self }
    }

    /// Actions from noise.
    ///
    /// # Shapes
    /// - noise: `[batch, horizon, max_action_dim]`
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
        let (device, dtype, size) = (noise.device(), noise.dtype(), 1.0 / self.steps as f64);
        let stages = stages(self.solver);
        let indices: Vec<usize> = (0..self.steps)
            .flat_map(|step| stages.iter().map(move |stage| (step as f64 + stage) / self.steps as f64))
            .map(|time| path_index(time, self.time_scale))
            .collect();
        if trace.is_on() {
            let indices: Vec<i64> = indices.iter().map(|&index| index as i64).collect();
            trace.record("time_index", &Tensor::<1, Int>::from_data(indices.as_slice(), &device));
        }
        let mut x = noise;
        // Dropout belongs to training, but follows the device, and the Jacobian's is one that differentiates.
        let evaluated = guidance.map(|_| expert.without_dropout());
        let expert = evaluated.as_ref().unwrap_or(expert);
        let times = expert.time_conditioning(&indices, &device);
        for step in 0..self.steps {
            let slope = trace.scope(format_args!("step.{step:02}"), |trace| {
                let velocity = |x: Tensor<3>, stage: usize, trace: &mut Trace| {
                    let time = (step as f64 + stages[stage]) / self.steps as f64;
                    let mut network = |x: Tensor<3>| {
                        let seen = x * mask.clone();
                        trace.record("action_in", &seen);
                        let time = times.at(step * stages.len() + stage);
                        let velocity = expert.velocity(seen, &time, conditioning, trace);
                        trace.record("velocity", &velocity);
                        velocity.cast(dtype)
                    };
                    match guidance {
                        None => network(x),
                        Some(guidance) => guidance.velocity(&x, time, network),
                    }
                };
                let first = velocity(x.clone(), 0, trace);
                let mut second = |x| trace.scope("second", |trace| velocity(x, 1, trace));
                match self.solver {
                    Solver::Euler => first,
                    Solver::Heun => (second(x.clone() + first.clone() * size) + first) / 2.0,
                    Solver::Midpoint => second(x.clone() + first * (size / 2.0)),
                }
            });
            x = x + slope / self.steps as f64;
        }
        match self.result_mask {
            ResultMask::Masked => x * mask,
            ResultMask::Unmasked => x,
        }
    }
}

/// Where in a step, from its start at 0 to its end at 1, a solver evaluates the velocity field.
fn stages(solver: Solver) -> &'static [f64] {
    match solver {
        Solver::Euler => &[0.0],
        Solver::Heun => &[0.0, 1.0],
        Solver::Midpoint => &[0.0, 0.5],
    }
}
