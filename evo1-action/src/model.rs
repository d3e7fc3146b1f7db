//! What every action expert is: the velocity field of the flow.

use std::fmt::Debug;

use burn::{
    module::{Module, ModuleDisplay},
    tensor::{DType, Device, Int, Tensor, TensorData},
};
use evo1_core::{
    Choice, Component, Context, OneOf, Result, Trace,
    config::ActionConfig,
    cost::{ActionWorkload, Cost},
    one_of,
    weights::{InitialValue, ParamSpec, number_type},
};

use crate::time::{path_index, time_index};

/// A velocity field `v(x, τ | context, state)`, which the flow follows from noise to actions.
///
/// Sampler, guidance, training objective, trainer and server work with any. What an implementor owes:
///
/// - [`Self::condition`] does once what does not change over the steps of a sampler, and [`Self::velocity`] the rest. Both
///   take batches; samples do not see each other, so that a batch gives what its samples give one by one.
/// - The context's hidden tokens ([`Context::hidden`]) change nothing.
/// - Actions are padded: columns past a robot's own come as zeros, and what is given for them is never used.
/// - Results are differentiable with respect to parameters, context and actions (for guidance by the Jacobian).
/// - It computes in the number type of its weights, and takes contexts, states and actions of any.
/// - It reads no tensor on the host while it predicts: a prediction can be recorded once, and repeated by the device with
///   other contexts, states, embodiments and noise, but with the same number of steps.
/// - Dropout, if it has any, is that of [`Self::with_dropout`]: none must be left at 0.
/// - Its parameters are found by their paths in files of burn's format, and start as [`Self::initial_value`] says.
///
/// Its settings are those of its name in [`ActionConfig::expert`]; the sizes of what it is given and gives are the fields
/// beside it.
pub trait VelocityModel: Component + Module + ModuleDisplay + Debug + Send + Sync + 'static {
    /// What is the same over all steps of the sampler.
    type Conditioning: Clone + Debug + Send;

    /// What is made of times alone.
    type Time: Clone + Debug + Send;

    /// An uninitialised model: parameters get values when they are loaded, initialised from a seed, or first used.
    ///
    /// # Errors
    /// When the settings are not those of the model.
    fn init(config: &ActionConfig, device: &Device) -> Result<Self>;

    /// What is computed once for all steps.
    ///
    /// # Shapes
    /// - context: tokens `[batch, context_len, embed]`
    /// - state: `[batch, max_state_dim]`, normalised and padded
    /// - embodiment: `[batch]`, an id of each sample, below the number of categories ([`embodiments`])
    fn condition(
        &self,
        context: Context,
        state: Tensor<2>,
        embodiment: &Tensor<1, Int>,
        trace: &mut Trace,
    ) -> Self::Conditioning;

    /// Every sample `times` times in a row, for as many points on its path.
    fn repeat(conditioning: Self::Conditioning, times: usize) -> Self::Conditioning;

    /// What is made of times: one for each sample of a batch, or a single one for all of them.
    fn time(&self, times: &[FlowTime], device: &Device) -> Self::Time;

    /// What is made of each of a sampler's times, for all samples of a batch.
    fn times(&self, times: &[FlowTime], device: &Device) -> Vec<Self::Time> {
        times.iter().map(|&time| self.time(&[time], device)).collect()
    }

    /// The velocity at noisy actions and a time.
    ///
    /// # Shapes
    /// - actions: `[batch, horizon, max_action_dim]`
    /// - output: `[batch, horizon, max_action_dim]`
    fn velocity(
        &self,
        actions: Tensor<3>,
        time: &Self::Time,
        conditioning: &Self::Conditioning,
        trace: &mut Trace,
    ) -> Tensor<3>;

    /// What a prediction costs. The parts' parameters are all of the model's.
    fn costs(&self, config: &ActionConfig, workload: &ActionWorkload) -> Vec<Cost>;

    /// The same model dropping with another probability while training, if it drops anything.
    fn with_dropout(self, probability: f64) -> Self {
        let _ = probability;
        self
    }

    /// The same model with weights that only predict in the order in which products read them ([`pack`]), where all of
    /// its linear layers go through [`ops`](evo1_core::ops): burn's own cannot read those. As it is by default.
    ///
    /// [`pack`]: evo1_core::weights::pack
    fn packed(self) -> Self {
        self
    }

    /// The number type of the weights.
    fn dtype(&self) -> DType {
        number_type(self)
    }

    /// The numbers of language layers whose outputs [`Context::layers`] is to hold, of `layers` that there are.
    ///
    /// # Errors
    /// When the configuration names layers that do not exist.
    fn language_layers(&self, layers: usize) -> Result<Vec<usize>> {
        let _ = layers;
        Ok(Vec::new())
    }

    /// Blocks that attend to the context and record the weights under `block.{block}.attention_weights`, the keys'
    /// first ones those of the context.
    fn attention_blocks(&self) -> Vec<usize> {
        Vec::new()
    }

    /// How a parameter starts; as PyTorch would draw it when `None`.
    fn initial_value(&self, spec: &ParamSpec) -> Option<InitialValue> {
        let _ = spec;
        None
    }
}

/// Embodiment ids on a device, `[batch]`.
pub fn embodiments(ids: &[usize], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let batch = ids.len();
    Tensor::from_data(TensorData::new(ids, [batch]), device)
}

/// A time of the flow, from noise at 0 to actions at 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlowTime {
    /// τ.
    pub tau: f64,
    /// Its row in a table of [`TIME_ROWS`](crate::time::TIME_ROWS) rows: `⌊κ · τ⌋`, computed as the references do.
    pub row: usize,
}

impl FlowTime {
    /// A τ that was drawn, whose row is computed in single precision.
    pub fn drawn(tau: f32, time_scale: f64) -> Self {
        Self { tau: tau.into(), row: time_index(tau, time_scale) }
    }

    /// A τ on the path of a sampler, whose row is computed in double precision.
    pub fn on_path(tau: f64, time_scale: f64) -> Self {
        Self { tau, row: path_index(tau, time_scale) }
    }
}

/// The field of the configuration that chooses the action expert.
pub const FIELD: &str = "action.expert";

/// Why a mismatch cannot happen unless a program mixes models.
const MIXED: &str = "a model is given what it made itself";

impl<First: VelocityModel, Rest: VelocityModel> VelocityModel for OneOf<First, Rest> {
    type Conditioning = OneOf<First::Conditioning, Rest::Conditioning>;
    type Time = OneOf<First::Time, Rest::Time>;

    fn init(config: &ActionConfig, device: &Device) -> Result<Self> {
        let choice: &Choice = &config.expert;
        Self::choose(choice, FIELD, || First::init(config, device), || Rest::init(config, device))
    }

    fn condition(
        &self,
        context: Context,
        state: Tensor<2>,
        embodiment: &Tensor<1, Int>,
        trace: &mut Trace,
    ) -> Self::Conditioning {
        match self {
            Self::First(model) => OneOf::First(model.condition(context, state, embodiment, trace)),
            Self::Rest(model) => OneOf::Rest(model.condition(context, state, embodiment, trace)),
        }
    }

    fn repeat(conditioning: Self::Conditioning, times: usize) -> Self::Conditioning {
        match conditioning {
            OneOf::First(conditioning) => OneOf::First(First::repeat(conditioning, times)),
            OneOf::Rest(conditioning) => OneOf::Rest(Rest::repeat(conditioning, times)),
        }
    }

    fn time(&self, times: &[FlowTime], device: &Device) -> Self::Time {
        match self {
            Self::First(model) => OneOf::First(model.time(times, device)),
            Self::Rest(model) => OneOf::Rest(model.time(times, device)),
        }
    }

    fn times(&self, times: &[FlowTime], device: &Device) -> Vec<Self::Time> {
        match self {
            Self::First(model) => model.times(times, device).into_iter().map(OneOf::First).collect(),
            Self::Rest(model) => model.times(times, device).into_iter().map(OneOf::Rest).collect(),
        }
    }

    fn velocity(
        &self,
        actions: Tensor<3>,
        time: &Self::Time,
        conditioning: &Self::Conditioning,
        trace: &mut Trace,
    ) -> Tensor<3> {
        match (self, time, conditioning) {
            (Self::First(model), OneOf::First(time), OneOf::First(conditioning)) => {
                model.velocity(actions, time, conditioning, trace)
            }
            (Self::Rest(model), OneOf::Rest(time), OneOf::Rest(conditioning)) => {
                model.velocity(actions, time, conditioning, trace)
            }
            _ => unreachable!("{MIXED}"),
        }
    }

    fn costs(&self, config: &ActionConfig, workload: &ActionWorkload) -> Vec<Cost> {
        one_of!(self, model => model.costs(config, workload))
    }

    fn with_dropout(self, probability: f64) -> Self {
        match self {
            Self::First(model) => Self::First(model.with_dropout(probability)),
            Self::Rest(model) => Self::Rest(model.with_dropout(probability)),
        }
    }

    fn packed(self) -> Self {
        match self {
            Self::First(model) => Self::First(model.packed()),
            Self::Rest(model) => Self::Rest(model.packed()),
        }
    }

    fn dtype(&self) -> DType {
        one_of!(self, model => model.dtype())
    }

    fn language_layers(&self, layers: usize) -> Result<Vec<usize>> {
        one_of!(self, model => model.language_layers(layers))
    }

    fn attention_blocks(&self) -> Vec<usize> {
        one_of!(self, model => model.attention_blocks())
    }

    fn initial_value(&self, spec: &ParamSpec) -> Option<InitialValue> {
        one_of!(self, model => model.initial_value(spec))
    }
}
