//! The whole language model.

use std::{collections::BTreeMap, rc::Rc};

use burn::{
    module::Module,
    nn::{Embedding, EmbeddingConfig, RmsNorm, RmsNormConfig},
    tensor::{Bool, Device, Int, Tensor},
};
use evo1_core::{
    Trace,
    config::{LanguageConfig, MaskedRows},
    constants::Constants,
    ops::rms_norm,
};

use super::{AttentionMask, DecoderLayer, RotaryTable, attention::causal};
use crate::{PlacedTokens, TokenBatch, segments::Segment};

/// Token embeddings, the layers that are kept, and the final norm, which stays although layers were cut.
#[derive(Module, Debug)]
pub struct Decoder {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    /// Layers whose outputs are handed on beside the last one's, by how many were run.
    #[module(skip)]
    tapped: Vec<usize>,
    head_dim: usize,
    rope_theta: f64,
    #[module(skip)]
    places: Constants<Layout, Places>,
    /// Cosines and sines of all positions below a limit, and the causal mask of a length.
    #[module(skip)]
    tables: Constants<[usize; 2], (RotaryTable, Tensor<4, Bool>)>,
}

/// What the places of a batch's tokens depend on.
#[derive(PartialEq)]
struct Layout {
    positions: Vec<Vec<usize>>,
    attention_mask: Vec<Vec<bool>>,
    masked_rows: MaskedRows,
}

/// Where the tokens of a batch are, and what each may attend to.
#[derive(Debug, Clone)]
struct Places {
    rope: RotaryTable,
    mask: AttentionMask,
}

impl Decoder {
    /// An uninitialised language model of the configuration's sizes.
    pub fn init(config: &LanguageConfig, device: &Device) -> Self {
        let layer = || DecoderLayer::init(config, device);
        Self {
            embed_tokens: EmbeddingConfig::new(config.vocab_size, config.hidden_size).init(device),
            layers: std::iter::repeat_with(layer).take(config.num_layers).collect(),
            norm: RmsNormConfig::new(config.hidden_size).with_epsilon(config.rms_norm_eps).init(device),
            tapped: Vec::new(),
            head_dim: config.head_dim(),
            rope_theta: config.rope_theta,
            places: Constants::default(),
            tables: Constants::default(),
        }
    }

    /// The same model handing on the outputs of single layers as well: for each entry, that of the layer with as many
    /// layers up to it, itself included.
    pub(crate) fn with_tapped_layers(self, tapped: Vec<usize>) -> Self {
        Self { tapped, ..self }
    }

    /// Rows of the embedding table.
    pub fn vocab_size(&self) -> usize {
        self.embed_tokens.weight.lazy_shape()[0]
    }

    /// The layers that are kept.
    pub fn layers(&self) -> &[DecoderLayer] {
        &self.layers
    }

    /// Cosines and sines of the positions of a batch.
    pub fn rope(&self, tokens: &TokenBatch, device: &Device) -> RotaryTable {
        RotaryTable::new(tokens.positions(), self.head_dim, self.rope_theta, device)
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.norm.gamma.lazy_device()
    }

    /// Embeddings of token ids: `[batch, tokens]` → `[batch, tokens, hidden]`.
    pub fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.embed_tokens.forward(ids)
    }

    /// Positions and masks of a batch, which all layers share.
    fn places(&self, tokens: &TokenBatch, masked_rows: MaskedRows, device: &Device) -> Places {
        if let Some(PlacedTokens { positions, position_limit, .. }) = tokens.tensors() {
            let sizes @ [limit, length] = [*position_limit, tokens.dims()[1]];
            let (rope, causal) = self.tables.get(sizes, device, || {
                let rope = RotaryTable::new(&[(0..limit).collect()], self.head_dim, self.rope_theta, device);
                (rope, causal(length, device))
            });
            return Places { rope: rope.at(positions.clone()), mask: AttentionMask::of(tokens, causal, masked_rows) };
        }
        let attention_mask = tokens.attention_mask().cloned().collect();
        let layout = Layout { positions: tokens.positions().to_vec(), attention_mask, masked_rows };
        self.places.get(layout, device, || Places {
            rope: self.rope(tokens, device),
            mask: AttentionMask::new(tokens, masked_rows, device),
        })
    }

    /// [`Self::forward`] layer by layer, the final norm last: each segment is given what the one before it gave.
    pub(crate) fn segments(&self, tokens: &TokenBatch, masked_rows: MaskedRows, device: &Device) -> Vec<Segment<'_>> {
        let places = Rc::new(self.places(tokens, masked_rows, device));
        let layers = self.layers.iter().map(|layer| {
            let places = Rc::clone(&places);
            Segment::language(move |x| Ok(layer.forward(x, &places.rope, &places.mask, &mut Trace::off())))
        });
        layers.chain([Segment::language(|x| Ok(rms_norm(&self.norm, x)))]).collect()
    }

    /// Final-normed hidden states of the last layer, and of the tapped ones.
    ///
    /// # Shapes
    /// - embeds: `[batch, tokens, hidden]`, laid out as `tokens` says
    /// - output: each `[batch, tokens, hidden]`
    ///
    /// # Panics
    /// When a tapped layer does not exist.
    pub fn forward(
        &self,
        embeds: Tensor<3>,
        tokens: &TokenBatch,
        masked_rows: MaskedRows,
        trace: &mut Trace,
    ) -> (Tensor<3>, Vec<Tensor<3>>) {
        let places = self.places(tokens, masked_rows, &embeds.device());
        for (name, table) in [("rope_cos", &places.rope.cos), ("rope_sin", &places.rope.sin)] {
            trace.record_with(name, || table.clone().squeeze_dim::<3>(1));
        }
        let mut x = embeds;
        let mut outputs = BTreeMap::new();
        for (index, layer) in self.layers.iter().enumerate() {
            x = trace.scope(format_args!("layer.{index}"), |trace| layer.forward(x, &places.rope, &places.mask, trace));
            trace.record(format_args!("layer.{index}"), &x);
            if self.tapped.contains(&(index + 1)) {
                outputs.insert(index + 1, rms_norm(&self.norm, x.clone()));
            }
        }
        let output = |layer| outputs.get(layer).unwrap_or_else(|| panic!("there is no language layer {layer}")).clone();
        let tapped = self.tapped.iter().map(output).collect();
        let x = rms_norm(&self.norm, x);
        trace.record("final_norm", &x);
        (x, tapped)
    }
}
