//! How action tokens meet the context: the four variants of the paper's figure 6.
//!
//! | | [`Integration`] | a block attends to |
//! | --- | --- | --- |
//! | A | [`mid_layer_cross`] | the context |
//! | B | [`interleaved`] | the context and the actions, in turn |
//! | C | [`layer_wise`] | the context of a language layer of its own |
//! | D | [`joint_kv`] | the context and the actions, together |
//!
//! All four have the same blocks with the same parameters; they differ in where a block's keys and values come from.
//! What comes from the context is computed once for all steps of the sampler.

pub mod interleaved;
pub mod joint_kv;
pub mod layer_wise;
pub mod mid_layer_cross;

use burn::tensor::{Bool, Tensor};
use evo1_core::config::Integration;

use crate::block::{Attended, CrossAttentionBlock};

/// What an action expert may attend to, the action tokens aside.
///
/// # Shapes
/// - tokens, layers: each `[batch, context_len, embed]`, the state's token included
/// - hidden: `[batch, 1, 1, context_len]`, true where a token may not be seen
#[derive(Debug, Clone)]
pub struct Memory {
    /// The language model's output.
    pub tokens: Tensor<3>,
    /// Outputs of single language layers, one for each block; empty unless the integration is layer-wise.
    pub layers: Vec<Tensor<3>>,
    /// Tokens that may not be seen.
    pub hidden: Option<Tensor<4, Bool>>,
}

/// What each block attends to.
pub fn attended(integration: Integration, blocks: &[CrossAttentionBlock], memory: Memory) -> Vec<Attended> {
    match integration {
        Integration::MidLayerCross => mid_layer_cross::attended(blocks, memory),
        Integration::Interleaved => interleaved::attended(blocks, memory),
        Integration::LayerWise => layer_wise::attended(blocks, memory),
        Integration::JointKv => joint_kv::attended(blocks, memory),
    }
}
