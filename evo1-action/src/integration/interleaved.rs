//! B: blocks attend in turn to the language model's output and to the action tokens.
//!
//! ```text
//! context ─────┬─────────────────────┬─ keys, values
//! actions ► block 0 ► block 1 ► block 2 ► block 3 ► … velocity
//!                      ╰─╯ self                ╰─╯ self
//! ```
//!
//! Depth and parameters are those of A: half of its cross-attention becomes self-attention.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use evo1_core::{Component, Context, Result, config::ActionConfig};

use super::{Integration, Sources, require_plain};
use crate::attention::{KeyValues, MultiHeadAttention};

/// Even blocks attend to the context, odd ones to the actions.
#[derive(Module, Debug)]
pub struct Interleaved;

impl Component for Interleaved {
    fn names() -> Vec<&'static str> {
        vec!["interleaved"]
    }
}

impl Integration for Interleaved {
    fn init(config: &ActionConfig, _: &Device) -> Result<Self> {
        require_plain(config).map(|()| Self)
    }

    fn of_context(&self, block: usize, attention: &MultiHeadAttention, context: &Context) -> Option<KeyValues> {
        let is_cross = self.sources(block).context;
        is_cross.then(|| attention.of_context(context))
    }

    fn of_step(
        &self,
        _: usize,
        attention: &MultiHeadAttention,
        x: &Tensor<3>,
        of_context: Option<&KeyValues>,
    ) -> KeyValues {
        match of_context {
            Some(of_context) => of_context.clone(),
            None => attention.keys_values(x.clone(), None),
        }
    }

    fn sources(&self, block: usize) -> Sources {
        let is_cross = block.is_multiple_of(2);
        Sources { context: is_cross, actions: !is_cross }
    }
}
