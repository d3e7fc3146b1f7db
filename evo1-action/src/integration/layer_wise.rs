//! C: cross-attention of every block to the output of a language layer of its own.
//!
//! ```text
//! layer l₀ ────┐   layer l₁ ────┐   layer lₙ ────┐ keys, values
//! actions ► block 0 ►        block 1 ► …      block n ► velocity
//! ```
//!
//! The paper's figure leaves the pairing open: [`Design::context_layers`](evo1_core::config::Design::context_layers) has
//! the one chosen here, and takes any other. Every layer's output passes through the language model's final norm, so that
//! a pairing of the last layer with every block is A.

use super::Memory;
use crate::block::{Attended, CrossAttentionBlock};

/// Block `i` attends to layer `i` of the memory.
///
/// # Panics
/// When the memory has not one layer for each block.
pub fn attended(blocks: &[CrossAttentionBlock], memory: Memory) -> Vec<Attended> {
    let Memory { layers, hidden, .. } = memory;
    assert_eq!(layers.len(), blocks.len(), "layer-wise integration reads one layer of the context for each block");
    let pairs = blocks.iter().zip(layers);
    pairs.map(|(block, layer)| Attended::Context(block.keys_values(layer, hidden.clone()))).collect()
}
