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
    config::{ActionConfig, FlowConfig, PolicyConfig, VlmConfig},
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

/// The components of a configuration that are not built in, as `field: name`: no other program knows their parameters.
pub(crate) fn own_components(config: &PolicyConfig) -> Vec<String> {
    let PolicyConfig { vlm, action, .. } = config;
    let choices = [
        ("vlm.model", &vlm.model, vec![VlmConfig::published_model().name().to_owned()]),
        ("action.expert", &action.expert, vec![ActionConfig::published_expert().name().to_owned()]),
        ("action.design.integration", &action.design.integration, owned(Integrations::names())),
        ("action.design.head", &action.design.head, owned(Heads::names())),
    ];
    let own = choices.into_iter().filter(|(_, choice, built_in)| !built_in.iter().any(|name| name == choice.name()));
    own.map(|(field, choice, _)| format!("{field}: {}", choice.name())).collect()
}

fn owned(names: Vec<&str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}
