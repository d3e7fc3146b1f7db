//! C: cross-attention of every block to the output of a language layer of its own.
//!
//! ```text
//! layer l₀ ────┐   layer l₁ ────┐   layer lₙ ────┐ keys, values
//! actions ► block 0 ►        block 1 ► …      block n ► velocity
//! ```
//!
//! The paper's figure leaves the pairing open: [`LayerWise::language_layers`] has the one chosen here, and takes any other.
//! Every layer's output passes through the language model's final norm, so that a pairing of the last layer with every
//! block is A.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use evo1_core::{Component, Context, Error, Result, config::ActionConfig};

use super::{FROM_CONTEXT, Integration, Sources};
use crate::attention::{KeyValues, MultiHeadAttention};

/// The field of the configuration that holds a pairing.
pub(super) const FIELD: &str = "action.design.layer_pairing";

/// Block `i` attends to layer `i` of the context.
#[derive(Module, Debug)]
pub struct LayerWise {
    /// The language layer of each block; empty for an even spread.
    #[module(skip)]
    pairing: Vec<usize>,
}

impl Component for LayerWise {
    fn names() -> Vec<&'static str> {
        vec!["layer-wise"]
    }
}

impl Integration for LayerWise {
    fn init(config: &ActionConfig, _: &Device) -> Result<Self> {
        config.design.integration.require_plain(super::FIELD)?;
        Ok(Self { pairing: config.design.layer_pairing.clone() })
    }

    /// # Panics
    /// When the context has no layer for the block.
    fn of_context(&self, block: usize, attention: &MultiHeadAttention, context: &Context) -> Option<KeyValues> {
        let layer = context.layers.get(block);
        let layer = layer.expect("layer-wise integration reads one layer of the context for each block");
        Some(attention.keys_values(layer.clone(), context.hidden.clone()))
    }

    fn of_step(&self, _: usize, _: &MultiHeadAttention, _: &Tensor<3>, of_context: Option<&KeyValues>) -> KeyValues {
        of_context.expect(FROM_CONTEXT).clone()
    }

    fn sources(&self, _: usize) -> Sources {
        Sources { context: true, actions: false }
    }

    /// The pairing that was given; without one, block `i` reads layer `⌈(i + 1) · layers / blocks⌉`: this spreads the
    /// blocks over all layers and gives the last one what the published model gives to all.
    fn language_layers(&self, blocks: usize, layers: usize) -> Result<Vec<usize>> {
        let pairing = &self.pairing;
        let refused = |expected: String| Err(Error::invalid("configuration", FIELD, expected, format!("{pairing:?}")));
        match pairing.len() {
            0 => Ok((1..=blocks).map(|block| (block * layers).div_ceil(blocks)).collect()),
            _ if !pairing.iter().all(|layer| (1..=layers).contains(layer)) => {
                refused(format!("language layers from 1 to {layers}"))
            }
            count if count != blocks => {
                refused(format!("one language layer for each of the {blocks} blocks, or empty"))
            }
            _ => Ok(pairing.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_spread_over_all_layers_and_end_at_the_last() {
        let layers = |pairing: &[usize], blocks, layers| {
            LayerWise { pairing: pairing.to_vec() }.language_layers(blocks, layers).map_err(|error| error.to_string())
        };
        assert_eq!(layers(&[], 8, 14), Ok(vec![2, 4, 6, 7, 9, 11, 13, 14]));
        assert_eq!(layers(&[], 4, 2), Ok(vec![1, 1, 2, 2]));
        assert_eq!(layers(&[3, 1], 2, 14), Ok(vec![3, 1]));
        let refused = |pairing: &[usize]| layers(pairing, 2, 2).expect_err("refused");
        assert!(refused(&[1]).contains("one language layer for each of the 2 blocks"));
        assert!(refused(&[1, 3]).contains("language layers from 1 to 2, got [1, 3]"));
    }
}
