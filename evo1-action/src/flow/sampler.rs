//! The sampler: explicit steps from noise to actions.

use std::sync::Arc;

use burn::tensor::{Int, Tensor};
use evo1_core::{
    Choice, Result, Trace,
    config::{ResultMask, Semantics},
    ops::{advance, masked},
};

use super::{Euler, Flow, Guidance, Solver, TimeGrid, grid::check, time_grid};
use crate::model::{FlowTime, VelocityModel};

/// Integrates the velocity field `v(x ⊙ mask, t)` from `t = 0` to `t = 1` in N steps.
#[derive(Debug, Clone)]
pub struct Sampler {
    /// Number of steps, N.
    pub steps: usize,
    /// The times between which it steps.
    pub grid: Arc<dyn TimeGrid>,
    /// What a step does.
    pub solver: Arc<dyn Solver>,
    /// κ of the time table.
    pub time_scale: f64,
    /// Whether the result is masked.
    pub result_mask: ResultMask,
}

/// A step of a sampler.
struct Step {
    index: usize,
    start: f64,
    end: f64,
}

impl Step {
    /// The time of a stage, from the step's start at 0 to its end at 1; exact at both.
    fn time(&self, stage: f64) -> f64 {
        if stage == 1.0 { self.end } else { self.start + stage * (self.end - self.start) }
    }
}

impl Sampler {
    /// The sampler of a reference: equal Euler steps.
    ///
    /// # Panics
    /// When `steps` is 0.
    pub fn new(steps: usize, semantics: &Semantics) -> Self {
        assert!(steps > 0, "a flow is integrated in at least one step");
        let Semantics { time_scale, result_mask, .. } = *semantics;
        let grid = time_grid(&Choice::new("uniform")).expect("it is built in");
        Self { steps, grid, solver: Arc::new(Euler), time_scale, result_mask }
    }

    /// The same with the times and the solver of a flow.
    pub fn with_flow(self, flow: &Flow) -> Self {
        Self { grid: Arc::clone(&flow.grid), solver: Arc::clone(&flow.solver), ..self }
    }

    /// The same with steps of another solver.
    pub fn with_solver(self, solver: impl Solver + 'static) -> Self {
        Self { solver: Arc::new(solver), ..self }
    }

    /// Actions from noise.
    ///
    /// # Shapes
    /// - noise: `[batch, horizon, max_action_dim]`
    /// - mask: `[batch, horizon, max_action_dim]`, 1 for real action dimensions and 0 for padded ones
    /// - output: `[batch, horizon, max_action_dim]`
    ///
    /// # Errors
    /// When the grid has no times for this number of steps.
    pub fn sample<M: VelocityModel>(
        &self,
        model: &M,
        conditioning: &M::Conditioning,
        noise: Tensor<3>,
        mask: Tensor<3>,
        trace: &mut Trace,
    ) -> Result<Tensor<3>> {
        self.sample_guided(model, conditioning, noise, mask, None, trace)
    }

    /// [`Self::sample`], guided to a previous chunk.
    pub fn sample_guided<M: VelocityModel>(
        &self,
        model: &M,
        conditioning: &M::Conditioning,
        noise: Tensor<3>,
        mask: Tensor<3>,
        guidance: Option<&Guidance>,
        trace: &mut Trace,
    ) -> Result<Tensor<3>> {
        let (device, dtype) = (noise.device(), noise.dtype());
        let (steps, stages) = (self.path()?, self.solver.stages());
        let times: Vec<FlowTime> = steps
            .iter()
            .flat_map(|step| stages.iter().map(|&stage| FlowTime::on_path(step.time(stage), self.time_scale)))
            .collect();
        if trace.is_on() {
            let rows: Vec<i64> = times.iter().map(|time| time.row as i64).collect();
            trace.record("time_index", &Tensor::<1, Int>::from_data(rows.as_slice(), &device));
        }
        // Dropout belongs to training, but follows the device, and the Jacobian's is one that differentiates.
        let evaluated = guidance.map(|_| model.clone().with_dropout(0.0));
        let model = evaluated.as_ref().unwrap_or(model);
        let conditioned = model.times(&times, &device);
        // A velocity that is a slope as it is stays in the network's type, in which the step takes it.
        let is_slope = guidance.is_none() && stages.len() == 1;
        let evaluate = |x: Tensor<3>, at: usize, trace: &mut Trace| {
            let mut network = |x: Tensor<3>| {
                let given = masked(x, mask.clone(), model.dtype());
                trace.record("action_in", &given);
                let velocity = model.velocity(given, &conditioned[at], conditioning, trace);
                trace.record("velocity", &velocity);
                if is_slope { velocity } else { velocity.cast(dtype) }
            };
            match guidance {
                None => network(x),
                Some(guidance) => guidance.velocity(&x, times[at].tau, network),
            }
        };
        let mut x = noise;
        for step in steps {
            let (first, size) = (step.index * stages.len(), step.end - step.start);
            let slope = trace.scope(format_args!("step.{:02}", step.index), |trace| {
                self.solver.slope(x.clone(), size, &mut |stage, x| match stage {
                    0 => evaluate(x, first, trace),
                    1 => trace.scope("second", |trace| evaluate(x, first + 1, trace)),
                    _ => trace.scope(format_args!("stage.{stage}"), |trace| evaluate(x, first + stage, trace)),
                })
            });
            // The references divide by the number of steps.
            x = advance(x, slope, size.recip());
        }
        Ok(match self.result_mask {
            ResultMask::Masked => x * mask,
            ResultMask::Unmasked => x,
        })
    }

    /// The steps from noise to actions.
    fn path(&self) -> Result<Vec<Step>> {
        let times = self.grid.times(self.steps)?;
        check(&times, self.steps, &format!("{:?}", self.grid))?;
        let steps = times.windows(2).enumerate();
        Ok(steps.map(|(index, pair)| Step { index, start: pair[0], end: pair[1] }).collect())
    }
}
