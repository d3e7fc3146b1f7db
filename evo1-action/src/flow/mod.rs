//! Flow matching: the training objective, the sampler, and its guidance to a previous chunk.

mod grid;
mod guidance;
mod noise;
mod objective;
mod sampler;
mod solver;
mod time_draw;

use std::sync::Arc;

use evo1_core::{Result, config::FlowConfig};

pub use grid::{TimeGrid, time_grid};
pub use guidance::{Guidance, GuidanceConfig, GuidanceMethod, PrefixSchedule};
pub use noise::{NoiseDraw, noise_draw};
pub use objective::{FlowLoss, FlowSample, flow_matching_loss, masked_loss};
pub use sampler::Sampler;
pub use solver::{Euler, Heun, Midpoint, Solver, solver};
pub use time_draw::{TimeDraw, time_draw};

/// The flow that a policy is trained and sampled with: what [`FlowConfig`] names.
#[derive(Debug, Clone)]
pub struct Flow {
    /// What ε is drawn from.
    pub noise: Arc<dyn NoiseDraw>,
    /// What τ is drawn from while training.
    pub time_draw: Arc<dyn TimeDraw>,
    /// The times between which the sampler steps.
    pub grid: Arc<dyn TimeGrid>,
    /// What a step does.
    pub solver: Arc<dyn Solver>,
}

impl Flow {
    /// The built-in flow of a configuration.
    ///
    /// # Errors
    /// When it names something that is not built in.
    pub fn built_in(config: &FlowConfig) -> Result<Self> {
        Ok(Self {
            noise: noise_draw(&config.noise)?,
            time_draw: time_draw(&config.time_draw)?,
            grid: time_grid(&config.grid)?,
            solver: solver(&config.solver)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use evo1_core::Choice;

    use super::*;

    #[test]
    fn the_default_is_built_in_and_other_names_are_refused_with_those_that_there_are() {
        let published = FlowConfig::default();
        Flow::built_in(&published).expect("the published flow");
        let message = |config| Flow::built_in(&config).expect_err("refused").to_string();
        let pink = FlowConfig { noise: Choice::new("pink"), ..published.clone() };
        assert!(message(pink).contains("one of uniform, normal, got pink"));
        let rk4 = FlowConfig { solver: Choice::new("rk4"), ..published };
        assert!(message(rk4).contains("one of euler, heun, midpoint, got rk4"));
    }
}
