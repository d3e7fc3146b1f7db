//! D: every block attends to the context, the state and the noisy action tokens in one softmax.
//!
//! ```text
//! context, state ──┬────────────┬─ keys, values
//! actions ─┬► block 0 ─┬► block 1 ► … velocity
//!          ╰─ keys, values ╰─ keys, values
//! ```
//!
//! The actions' keys and values are of a block's own normed tokens; those of the first block are the noisy actions'.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use evo1_core::{Component, Context, Result, config::ActionConfig};

use super::{FROM_CONTEXT, Integration, Sources, require_plain};
use crate::attention::{KeyValues, MultiHeadAttention};

/// Every block attends to the same context, and to its own action tokens.
#[derive(Module, Debug)]
pub struct JointKv;

impl Component for JointKv {
    fn names() -> Vec<&'static str> {
        vec!["joint-kv"]
    }
}

impl Integration for JointKv {
    fn init(config: &ActionConfig, _: &Device) -> Result<Self> {
        require_plain(config).map(|()| Self)
    }

    fn of_context(&self, _: usize, attention: &MultiHeadAttention, context: &Context) -> Option<KeyValues> {
        Some(attention.of_context(context))
    }

    fn of_step(
        &self,
        _: usize,
        attention: &MultiHeadAttention,
        x: &Tensor<3>,
        of_context: Option<&KeyValues>,
    ) -> KeyValues {
        of_context.expect(FROM_CONTEXT).clone().followed_by(attention.keys_values(x.clone(), None))
    }

    fn sources(&self, _: usize) -> Sources {
        Sources { context: true, actions: true }
    }
}
