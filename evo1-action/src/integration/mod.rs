//! How action tokens meet the context: where the keys and values of each block come from.
//!
//! | | `action.design.integration` | a block attends to |
//! | --- | --- | --- |
//! | A | [`mid-layer-cross`](MidLayerCross) | the context |
//! | B | [`interleaved`](Interleaved) | the context and the actions, in turn |
//! | C | [`layer-wise`](LayerWise) | the context of a language layer of its own |
//! | D | [`joint-kv`](JointKv) | the context and the actions, together |
//!
//! All four have the same blocks with the same parameters (the paper's figure 6). One of a program's own may have
//! parameters, and is put in front of them: `ActionExpert<OneOf<Mine, Integrations>>`.

mod interleaved;
mod joint_kv;
mod layer_wise;
mod mid_layer_cross;

use std::fmt::Debug;

use burn::{
    module::{Module, ModuleDisplay},
    tensor::{Device, Tensor},
};
use evo1_core::{
    Component, Context, OneOf, Result,
    config::ActionConfig,
    one_of,
    weights::{InitialValue, ParamSpec},
};

pub use interleaved::Interleaved;
pub use joint_kv::JointKv;
pub use layer_wise::LayerWise;
pub use mid_layer_cross::MidLayerCross;

use crate::attention::{KeyValues, MultiHeadAttention};

/// The built-in integrations.
pub type Integrations = OneOf<MidLayerCross, OneOf<Interleaved, OneOf<LayerWise, JointKv>>>;

/// Where the keys and values of each block come from.
///
/// What an implementor owes: [`Self::of_context`] is run once for all steps of a sampler, so that it depends on the context
/// alone; [`Self::of_step`] is run in every step. Hidden tokens of the context stay hidden: [`KeyValues::hidden`] says so.
/// [`Self::sources`] says truthfully what a block sees, because costs and attention maps are made from it.
pub trait Integration: Component + Module + ModuleDisplay + Debug + Send + Sync + 'static {
    /// An uninitialised integration for the blocks of a configuration. Its parameters' paths begin with
    /// `action.integration.`; its settings are those of its name in `config.design.integration`.
    ///
    /// # Errors
    /// When the settings are not its own.
    fn init(config: &ActionConfig, device: &Device) -> Result<Self>;

    /// Keys and values that a block takes from the context, whose tokens include the state's; `None` when none.
    ///
    /// # Shapes
    /// - context: tokens and layers `[batch, context_len, embed]`
    fn of_context(&self, block: usize, attention: &MultiHeadAttention, context: &Context) -> Option<KeyValues>;

    /// Keys and values of a block in one step.
    ///
    /// # Shapes
    /// - x: `[batch, horizon, embed]`, the block's normed action tokens
    /// - of_context: what [`Self::of_context`] gave for the block
    fn of_step(
        &self,
        block: usize,
        attention: &MultiHeadAttention,
        x: &Tensor<3>,
        of_context: Option<&KeyValues>,
    ) -> KeyValues;

    /// What a block attends to.
    fn sources(&self, block: usize) -> Sources;

    /// The numbers of language layers behind [`Context::layers`], of `layers` that there are, for `blocks` blocks.
    ///
    /// # Errors
    /// When the configuration names layers that do not exist.
    fn language_layers(&self, blocks: usize, layers: usize) -> Result<Vec<usize>> {
        let _ = (blocks, layers);
        Ok(Vec::new())
    }

    /// Operations of the integration's own parameters, the blocks' projections aside: once for a context of some tokens,
    /// and in every step.
    fn own_flops(&self, config: &ActionConfig, context_len: usize) -> [u64; 2] {
        let _ = (config, context_len);
        [0, 0]
    }

    /// The same integration with weights that only predict in the order in which products read them ([`pack`]), where all of
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

/// What a block attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sources {
    /// The context; its keys come first.
    pub context: bool,
    /// The block's own action tokens.
    pub actions: bool,
}

/// What there must be where the context's keys and values are asked for.
const FROM_CONTEXT: &str = "the keys and values that were made of the context";

/// The field of the configuration that chooses an integration.
const FIELD: &str = "action.design.integration";

impl<First: Integration, Rest: Integration> Integration for OneOf<First, Rest> {
    fn init(config: &ActionConfig, device: &Device) -> Result<Self> {
        let choice = &config.design.integration;
        Self::choose(choice, FIELD, || First::init(config, device), || Rest::init(config, device))
    }

    fn of_context(&self, block: usize, attention: &MultiHeadAttention, context: &Context) -> Option<KeyValues> {
        one_of!(self, integration => integration.of_context(block, attention, context))
    }

    fn of_step(
        &self,
        block: usize,
        attention: &MultiHeadAttention,
        x: &Tensor<3>,
        of_context: Option<&KeyValues>,
    ) -> KeyValues {
        one_of!(self, integration => integration.of_step(block, attention, x, of_context))
    }

    fn sources(&self, block: usize) -> Sources {
        one_of!(self, integration => integration.sources(block))
    }

    fn language_layers(&self, blocks: usize, layers: usize) -> Result<Vec<usize>> {
        one_of!(self, integration => integration.language_layers(blocks, layers))
    }

    fn own_flops(&self, config: &ActionConfig, context_len: usize) -> [u64; 2] {
        one_of!(self, integration => integration.own_flops(config, context_len))
    }

    fn packed(self) -> Self {
        match self {
            Self::First(integration) => Self::First(integration.packed()),
            Self::Rest(integration) => Self::Rest(integration.packed()),
        }
    }

    fn initial_value(&self, spec: &ParamSpec) -> Option<InitialValue> {
        one_of!(self, integration => integration.initial_value(spec))
    }
}

/// Fails where settings or a layer-wise pairing are given to an integration that has none.
fn require_plain(config: &ActionConfig) -> Result<()> {
    config.design.integration.require_plain(FIELD)?;
    match config.design.layer_pairing.as_slice() {
        [] => Ok(()),
        pairing => Err(evo1_core::Error::invalid(
            "configuration",
            layer_wise::FIELD,
            "empty unless the integration is layer-wise",
            format!("{pairing:?}"),
        )),
    }
}
