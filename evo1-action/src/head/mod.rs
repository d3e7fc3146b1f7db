//! How a velocity is made of the action tokens.
//!
//! | `action.design.head` | |
//! | --- | --- |
//! | [`seq-pool`](SeqPool) | the chunk is pooled into one token, from which all steps are made; the published model |
//! | [`per-step`](PerStep) | each step is made of its own token |

mod per_step;
mod seq_pool;

use std::fmt::Debug;

use burn::{
    module::{Module, ModuleDisplay},
    tensor::{Device, Int, Tensor},
};
use evo1_core::{
    Component, OneOf, Result, Trace,
    config::ActionConfig,
    cost::Cost,
    one_of,
    weights::{InitialValue, ParamSpec},
};

pub use per_step::PerStep;
pub use seq_pool::SeqPool;

/// The built-in heads.
pub type Heads = OneOf<SeqPool, PerStep>;

/// What makes a velocity of the last block's normed tokens.
///
/// Its parameters stand beside the expert's own (`action.mlp_head.…`, not `action.head.mlp_head.…`), as in published
/// checkpoints; its settings are those of its name in `config.design.head`.
pub trait VelocityHead: Component + Module + ModuleDisplay + Debug + Send + Sync + 'static {
    /// The head for the samples of a batch, with the weights of their embodiments.
    type Chosen: Clone + Debug + Send;

    /// An uninitialised head of the configuration's sizes.
    ///
    /// # Errors
    /// When the settings are not its own.
    fn init(config: &ActionConfig, device: &Device) -> Result<Self>;

    /// The head of a batch's samples, whose embodiments are `[batch]`, below the number of categories.
    fn chosen(&self, embodiment: &Tensor<1, Int>) -> Self::Chosen;

    /// Every sample `times` times in a row.
    fn repeat(chosen: Self::Chosen, times: usize) -> Self::Chosen;

    /// The velocity: `[batch, horizon, embed]` → `[batch, horizon, max_action_dim]`.
    fn velocity(&self, x: Tensor<3>, chosen: &Self::Chosen, trace: &mut Trace) -> Tensor<3>;

    /// What one evaluation costs, in the order of the data.
    fn costs(&self, config: &ActionConfig) -> Vec<Cost>;

    /// The same head with weights that only predict in the order in which products read them ([`pack`]), where all of
    /// its linear layers go through [`ops`](evo1_core::ops): burn's own cannot read those. As it is by default.
    ///
    /// [`pack`]: evo1_core::weights::pack
    fn packed(self) -> Self {
        self
    }

    /// How a parameter of its own starts; as PyTorch would draw it when `None`.
    fn initial_value(&self, spec: &ParamSpec) -> Option<InitialValue> {
        let _ = spec;
        None
    }
}

/// The field of the configuration that chooses a head.
const FIELD: &str = "action.design.head";

impl<First: VelocityHead, Rest: VelocityHead> VelocityHead for OneOf<First, Rest> {
    type Chosen = OneOf<First::Chosen, Rest::Chosen>;

    fn init(config: &ActionConfig, device: &Device) -> Result<Self> {
        let choice = &config.design.head;
        Self::choose(choice, FIELD, || First::init(config, device), || Rest::init(config, device))
    }

    fn chosen(&self, embodiment: &Tensor<1, Int>) -> Self::Chosen {
        match self {
            Self::First(head) => OneOf::First(head.chosen(embodiment)),
            Self::Rest(head) => OneOf::Rest(head.chosen(embodiment)),
        }
    }

    fn repeat(chosen: Self::Chosen, times: usize) -> Self::Chosen {
        match chosen {
            OneOf::First(chosen) => OneOf::First(First::repeat(chosen, times)),
            OneOf::Rest(chosen) => OneOf::Rest(Rest::repeat(chosen, times)),
        }
    }

    fn velocity(&self, x: Tensor<3>, chosen: &Self::Chosen, trace: &mut Trace) -> Tensor<3> {
        match (self, chosen) {
            (Self::First(head), OneOf::First(chosen)) => head.velocity(x, chosen, trace),
            (Self::Rest(head), OneOf::Rest(chosen)) => head.velocity(x, chosen, trace),
            _ => unreachable!("a head is given what it chose itself"),
        }
    }

    fn costs(&self, config: &ActionConfig) -> Vec<Cost> {
        one_of!(self, head => head.costs(config))
    }

    fn packed(self) -> Self {
        match self {
            Self::First(head) => Self::First(head.packed()),
            Self::Rest(head) => Self::Rest(head.packed()),
        }
    }

    fn initial_value(&self, spec: &ParamSpec) -> Option<InitialValue> {
        one_of!(self, head => head.initial_value(spec))
    }
}
