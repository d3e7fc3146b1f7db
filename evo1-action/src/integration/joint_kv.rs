//! D: every block attends to the context, the state and the noisy action tokens in one softmax.
//!
//! ```text
//! context, state ──┬────────────┬─ keys, values
//! actions ─┬► block 0 ─┬► block 1 ► … velocity
//!          ╰─ keys, values ╰─ keys, values
//! ```
//!
//! The actions' keys and values are of a block's own normed tokens; those of the first block are the noisy actions'.

use super::Memory;
use crate::block::{Attended, CrossAttentionBlock};

/// Every block attends to the same context, and to its own action tokens.
pub fn attended(blocks: &[CrossAttentionBlock], memory: Memory) -> Vec<Attended> {
    let Memory { tokens, hidden, .. } = memory;
    blocks.iter().map(|block| Attended::ContextAndActions(block.keys_values(tokens.clone(), hidden.clone()))).collect()
}
