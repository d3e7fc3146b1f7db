//! B: blocks attend in turn to the language model's output and to the action tokens.
//!
//! ```text
//! context ─────┬─────────────────────┬─ keys, values
//! actions ► block 0 ► block 1 ► block 2 ► block 3 ► … velocity
//!                      ╰─╯ self                ╰─╯ self
//! ```
//!
//! Depth and parameters are those of A: half of its cross-attention becomes self-attention.

use super::Memory;
use crate::block::{Attended, CrossAttentionBlock};

/// Even blocks attend to the context, odd ones to the actions.
pub fn attended(blocks: &[CrossAttentionBlock], memory: Memory) -> Vec<Attended> {
    let Memory { tokens, hidden, .. } = memory;
    let attended = |(index, block): (usize, &CrossAttentionBlock)| match index % 2 {
        0 => Attended::Context(block.keys_values(tokens.clone(), hidden.clone())),
        _ => Attended::Actions,
    };
    blocks.iter().enumerate().map(attended).collect()
}
