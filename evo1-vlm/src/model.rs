//! The whole vision-language model: pixels and token ids in, context out.

use burn::{
    module::Module,
    tensor::{DType, Device, Int, Tensor, TensorData},
};
use evo1_core::{
    Context, Trace,
    config::{ContextScope, PooledToken, Semantics, VlmConfig},
};

use crate::{
    Error, Result, TokenBatch, language::Decoder, projector::Projector, splice::splice, unshuffle::pixel_unshuffle,
    vision::VisionTower,
};

/// InternVL3: vision tower, projector and language model.
#[derive(Module, Debug)]
pub struct InternVl {
    vision_tower: VisionTower,
    projector: Projector,
    language_model: Decoder,
    unshuffle_factor: usize,
    is_pooled: bool,
}

/// An uninitialised model of the configuration's sizes.
pub fn init_internvl(config: &VlmConfig, device: &Device) -> InternVl {
    InternVl {
        vision_tower: VisionTower::init(config, device),
        projector: Projector::init(config, device),
        language_model: Decoder::init(&config.language, device),
        unshuffle_factor: config.unshuffle_factor(),
        is_pooled: config.return_cls_only,
    }
}

impl InternVl {
    /// Visual tokens of normalised tiles: `[tiles, 3, size, size]` → `[tiles, tokens_per_tile, embed]`.
    pub fn visual_tokens(&self, pixels: Tensor<4>, trace: &mut Trace) -> Tensor<3> {
        let pixels = pixels.cast(self.dtype());
        let unshuffled = trace.scope("vision", |trace| {
            let patches = self.vision_tower.forward(pixels, trace);
            let unshuffled = pixel_unshuffle(patches, self.unshuffle_factor);
            trace.record("pixel_shuffle", &unshuffled);
            unshuffled
        });
        trace.scope("projector", |trace| self.projector.forward(unshuffled, trace))
    }

    /// The context of a batch of prompts whose image tokens are `visual`, in the order of their appearance.
    ///
    /// # Shapes
    /// - visual: `[tiles, tokens_per_tile, embed]`, `None` for prompts without images
    /// - output: tokens `[batch, tokens, embed]`, or `[batch, 1, embed]` for a model that pools
    pub fn forward(
        &self,
        visual: Option<Tensor<3>>,
        tokens: &TokenBatch,
        image_token: u32,
        semantics: &Semantics,
        trace: &mut Trace,
    ) -> Result<Context> {
        let rows = self.language_model.vocab_size();
        if let Some(&id) = tokens.ids().iter().flatten().find(|id| **id as usize >= rows) {
            return Err(Error::TokenId { id, rows });
        }
        let device = self.language_model.device();
        let visual = visual.map(|visual| visual.flatten::<2>(0, 1));
        let fused = trace.scope("llm", |trace| {
            let embeds = self.language_model.embed(tokens.ids_tensor(&device));
            trace.record("token_embeds", &embeds);
            let embeds = splice(embeds, visual, tokens, image_token)?;
            trace.record("inputs_embeds", &embeds);
            Ok::<_, Error>(self.language_model.forward(embeds, tokens, semantics.masked_rows, trace))
        })?;
        if self.is_pooled {
            return Ok(Context { tokens: pooled(fused, tokens, semantics.pooled_token), hidden: None });
        }
        let hidden = match semantics.context_scope {
            ContextScope::ValidTokens if !tokens.is_all_valid() => Some(tokens.masked(&device)),
            _ => None,
        };
        Ok(Context { tokens: fused, hidden })
    }

    /// The number type of the weights.
    pub fn dtype(&self) -> DType {
        self.vision_tower.dtype()
    }
}

/// One token of each sample: `[batch, tokens, embed]` → `[batch, 1, embed]`.
fn pooled(fused: Tensor<3>, tokens: &TokenBatch, which: PooledToken) -> Tensor<3> {
    let [batch, length, embed] = fused.dims();
    match which {
        PooledToken::First => fused.narrow(1, 0, 1),
        PooledToken::LastValid => {
            let rows: Vec<i32> =
                tokens.last_valid().into_iter().enumerate().map(|(row, at)| (row * length + at) as i32).collect();
            let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [batch]), &fused.device());
            fused.reshape([batch * length, embed]).select(0, rows).reshape([batch, 1, embed])
        }
    }
}
