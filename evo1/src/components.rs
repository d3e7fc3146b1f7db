//! The components that a program's policies may be made of.

use std::{fmt::Debug, sync::Arc};

use burn::tensor::Device;
use evo1_action::{
    ActionExpert, Flow, VelocityModel,
    flow::{self, NoiseDraw, Solver, TimeDraw, TimeGrid},
    head::Heads,
    integration::Integrations,
};
use evo1_core::{
    Choice, Component, Error, Result,
    config::{FlowConfig, PolicyConfig},
};
use evo1_vlm::{InternVl, VisionLanguageModel};

use crate::Evo1;

/// What the names in a configuration stand for.
///
/// A pair of a vision-language model and an action expert is one: [`Published`] are the built-in ones, and a program with
/// an action expert of its own uses `(InternVl, OneOf<Mine, ActionExpert>)`, where configurations name either. A type of
/// one's own brings noise, times, grids and solvers as well.
pub trait Components: Debug + Clone + Send + Sync + 'static {
    /// What makes a context of pixels and tokens.
    type Vlm: VisionLanguageModel;
    /// What makes a velocity of context, state, noisy actions and time.
    type Action: VelocityModel;

    /// The noise that `flow.noise` names.
    ///
    /// # Errors
    /// When there is none of the name, or settings that it has not.
    fn noise_draw(choice: &Choice) -> Result<Arc<dyn NoiseDraw>> {
        flow::noise_draw(choice)
    }

    /// The distribution of training times that `flow.time_draw` names.
    ///
    /// # Errors
    /// As [`Self::noise_draw`].
    fn time_draw(choice: &Choice) -> Result<Arc<dyn TimeDraw>> {
        flow::time_draw(choice)
    }

    /// The times of the sampler that `flow.grid` names.
    ///
    /// # Errors
    /// As [`Self::noise_draw`].
    fn time_grid(choice: &Choice) -> Result<Arc<dyn TimeGrid>> {
        flow::time_grid(choice)
    }

    /// The solver that `flow.solver` names.
    ///
    /// # Errors
    /// As [`Self::noise_draw`].
    fn solver(choice: &Choice) -> Result<Arc<dyn Solver>> {
        flow::solver(choice)
    }

    /// The flow of a configuration.
    ///
    /// # Errors
    /// When it names something that there is not.
    fn flow(config: &FlowConfig) -> Result<Flow> {
        Ok(Flow {
            noise: Self::noise_draw(&config.noise)?,
            time_draw: Self::time_draw(&config.time_draw)?,
            grid: Self::time_grid(&config.grid)?,
            solver: Self::solver(&config.solver)?,
        })
    }

    /// Fails unless the parts of a configuration fit together and every component that it names is there, with settings
    /// of its own. `origin` names the file in the message.
    ///
    /// # Errors
    /// Naming the field, what it must be and what it is.
    fn check(config: &PolicyConfig, origin: &str) -> Result<()> {
        let named = |error| match error {
            Error::InvalidField { field, expected, got, .. } => Error::invalid(origin, field, expected, got),
            other => other,
        };
        config.validate(origin)?;
        Evo1::<Self::Vlm, Self::Action>::init(config, &Device::default()).map_err(named)?;
        Self::flow(&config.flow).map(|_| ()).map_err(named)
    }
}

impl<V: VisionLanguageModel, A: VelocityModel> Components for (V, A) {
    type Vlm = V;
    type Action = A;
}

/// The built-in components.
pub type Published = (InternVl, ActionExpert);

/// Fails when a configuration names components that are not built in: no other program knows their parameters.
pub(crate) fn require_built_in(config: &PolicyConfig) -> crate::Result<()> {
    let PolicyConfig { vlm, action, .. } = config;
    let choices = [
        ("vlm.model", &vlm.model, InternVl::names()),
        ("action.expert", &action.expert, <ActionExpert>::names()),
        ("action.design.integration", &action.design.integration, Integrations::names()),
        ("action.design.head", &action.design.head, Heads::names()),
    ];
    let own = choices.into_iter().filter(|(_, choice, built_in)| !built_in.contains(&choice.name()));
    let own: Vec<String> = own.map(|(field, choice, _)| format!("{field}: {}", choice.name())).collect();
    match own.is_empty() {
        true => Ok(()),
        false => Err(crate::Error::OwnComponents { components: own.join(", ") }),
    }
}
