//! A: cross-attention of every block to the language model's output. The published model.
//!
//! ```text
//! context ─────┬──────────┬──────────┐ keys, values
//! actions ► block 0 ► block 1 ► … block n ► velocity
//! ```

use super::Memory;
use crate::block::{Attended, CrossAttentionBlock};

/// Every block attends to the same tokens.
pub fn attended(blocks: &[CrossAttentionBlock], memory: Memory) -> Vec<Attended> {
    let Memory { tokens, hidden, .. } = memory;
    blocks.iter().map(|block| Attended::Context(block.keys_values(tokens.clone(), hidden.clone()))).collect()
}
