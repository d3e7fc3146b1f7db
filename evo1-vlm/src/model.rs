//! The whole vision-language model: pixels and token ids in, context out.

use burn::{
    module::Module,
    tensor::{Bool, DType, Device, Int, Tensor, TensorData},
};
use evo1_core::{
    Context, Trace,
    config::{ContextScope, PooledToken, Semantics, VlmConfig},
};

use crate::{
    Error, Result, TokenBatch, language::Decoder, pieces::Piece, projector::Projector, splice::splice,
    unshuffle::pixel_unshuffle, vision::VisionTower,
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
    /// The same model handing on the outputs of single language layers as [`Context::layers`]: entry `l` stands for the
    /// first `l` layers.
    pub fn with_tapped_layers(self, tapped: Vec<usize>) -> Self {
        Self { language_model: self.language_model.with_tapped_layers(tapped), ..self }
    }

    /// The vision tower.
    pub fn vision_tower(&self) -> &VisionTower {
        &self.vision_tower
    }

    /// The projector from vision to language channels.
    pub fn projector(&self) -> &Projector {
        &self.projector
    }

    /// The language model.
    pub fn language_model(&self) -> &Decoder {
        &self.language_model
    }

    /// Visual tokens of normalised tiles: `[tiles, 3, size, size]` → `[tiles, tokens_per_tile, embed]`.
    pub fn visual_tokens(&self, pixels: Tensor<4>, trace: &mut Trace) -> Tensor<3> {
        let patches = self.patches(pixels, trace);
        self.project(patches, trace)
    }

    /// The vision tower's part of [`Self::visual_tokens`]: normalised tiles `[tiles, 3, size, size]` → patches
    /// `[tiles, side · side, hidden]`.
    pub fn patches(&self, pixels: Tensor<4>, trace: &mut Trace) -> Tensor<3> {
        let pixels = pixels.cast(self.dtype());
        trace.scope("vision", |trace| self.vision_tower.forward(pixels, trace))
    }

    /// The rest of [`Self::visual_tokens`], pixel-unshuffle and projector: patches `[tiles, side · side, hidden]` →
    /// `[tiles, tokens_per_tile, embed]`.
    pub fn project(&self, patches: Tensor<3>, trace: &mut Trace) -> Tensor<3> {
        let unshuffled = pixel_unshuffle(patches, self.unshuffle_factor);
        trace.scope("vision", |trace| trace.record("pixel_shuffle", &unshuffled));
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
        self.check_ids(tokens)?;
        let device = self.language_model.device();
        let visual = visual.map(|visual| visual.flatten::<2>(0, 1));
        let (fused, layers) = trace.scope("llm", |trace| {
            let embeds = self.language_model.embed(tokens.ids_tensor(&device));
            trace.record("token_embeds", &embeds);
            let embeds = splice(embeds, visual, tokens, image_token)?;
            trace.record("inputs_embeds", &embeds);
            Ok::<_, Error>(self.language_model.forward(embeds, tokens, semantics.masked_rows, trace))
        })?;
        Ok(self.context(fused, layers, tokens, semantics, &device))
    }

    /// What the action expert is given of the fused tokens, and of the outputs of single layers.
    pub fn context(
        &self,
        fused: Tensor<3>,
        layers: Vec<Tensor<3>>,
        tokens: &TokenBatch,
        semantics: &Semantics,
        device: &Device,
    ) -> Context {
        if self.is_pooled {
            let pooled = |fused| pooled(fused, tokens, semantics.pooled_token);
            let layers = layers.into_iter().map(pooled).collect();
            return Context { tokens: pooled(fused), layers, hidden: None };
        }
        Context { tokens: fused, layers, hidden: self.hidden_tokens(tokens, semantics, device) }
    }

    /// Which tokens of a context the action expert may not see, `[batch, tokens]`; `None` when it may see all.
    pub fn hidden_tokens(
        &self,
        tokens: &TokenBatch,
        semantics: &Semantics,
        device: &Device,
    ) -> Option<Tensor<2, Bool>> {
        let hides = !self.is_pooled && semantics.context_scope == ContextScope::ValidTokens && !tokens.is_all_valid();
        hides.then(|| tokens.masked(device))
    }

    /// [`Self::visual_tokens`] and [`Self::forward`] in pieces, from pixels to fused tokens: the first piece makes
    /// nothing of what it is given, each other is given what the one before it gave.
    pub fn pieces<'a>(
        &'a self,
        pixels: Tensor<4>,
        tokens: &'a TokenBatch,
        image_token: u32,
        semantics: &Semantics,
    ) -> Result<Vec<Piece<'a>>> {
        self.check_ids(tokens)?;
        let device = pixels.device();
        let mut pieces = self.vision_tower.pieces(pixels.cast(self.dtype()));
        pieces.push(Piece::vision(|patches| self.project(patches, &mut Trace::off())));
        let ids = tokens.ids_tensor(&device);
        pieces.push(Piece::language(move |visual| {
            let embeds = self.language_model.embed(ids.clone());
            splice(embeds, Some(visual.flatten::<2>(0, 1)), tokens, image_token)
        }));
        pieces.extend(self.language_model.pieces(tokens, semantics.masked_rows, &device));
        Ok(pieces)
    }

    fn check_ids(&self, tokens: &TokenBatch) -> Result<()> {
        let rows = self.language_model.vocab_size();
        match tokens.ids().iter().flatten().find(|id| **id as usize >= rows) {
            Some(&id) => Err(Error::TokenId { id, rows }),
            None => Ok(()),
        }
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
