//! A: cross-attention of every block to the language model's output. The published model.
//!
//! ```text
//! context ─────┬──────────┬──────────┐ keys, values
//! actions ► block 0 ► block 1 ► … block n ► velocity
//! ```

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use evo1_core::{Component, Context, Result, config::ActionConfig};

use super::{FROM_CONTEXT, Integration, Sources, require_plain};
use crate::attention::{KeyValues, MultiHeadAttention};

/// Every block attends to the same tokens.
#[derive(Module, Debug)]
pub struct MidLayerCross;

impl Component for MidLayerCross {
    fn names() -> Vec<&'static str> {
        vec!["mid-layer-cross"]
    }
}

impl Integration for MidLayerCross {
    fn init(config: &ActionConfig, _: &Device) -> Result<Self> {
        require_plain(config).map(|()| Self)
    }

    fn of_context(&self, _: usize, attention: &MultiHeadAttention, context: &Context) -> Option<KeyValues> {
        Some(attention.of_context(context))
    }

    fn of_step(&self, _: usize, _: &MultiHeadAttention, _: &Tensor<3>, of_context: Option<&KeyValues>) -> KeyValues {
        of_context.expect(FROM_CONTEXT).clone()
    }

    fn sources(&self, _: usize) -> Sources {
        Sources { context: true, actions: false }
    }
}
