//! InternVL3: pixels and token ids in, context out. The published vision-language model.

use burn::{
    module::Module,
    tensor::{Bool, DType, Device, Tensor},
};
use evo1_core::{
    Component, Context, Trace,
    config::{PooledToken, Semantics, VlmConfig},
    cost::{Cost, attention_flops, linear_flops},
    weights::{InitialScales, InitialValue, Owner, ParamSpec, pack},
};

use crate::{
    Error, Result, TokenBatch,
    language::Decoder,
    model::{FIELD, VisionLanguageModel, hidden_by_scope},
    projector::Projector,
    segments::Segment,
    splice::splice,
    unshuffle::pixel_unshuffle,
    vision::{self, VisionTower},
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

impl InternVl {
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

    fn check_ids(&self, tokens: &TokenBatch) -> Result<()> {
        if tokens.tensors().is_some() {
            return Ok(());
        }
        let rows = self.language_model.vocab_size();
        match tokens.ids().iter().flatten().find(|id| **id as usize >= rows) {
            Some(&id) => Err(Error::TokenId { id, rows }),
            None => Ok(()),
        }
    }
}

impl Component for InternVl {
    fn names() -> Vec<&'static str> {
        vec!["internvl3"]
    }
}

impl VisionLanguageModel for InternVl {
    fn init(config: &VlmConfig, language_layers: &[usize], device: &Device) -> evo1_core::Result<Self> {
        Self::require(&config.model, FIELD)?;
        config.model.require_plain(FIELD)?;
        Ok(Self {
            vision_tower: VisionTower::init(config, device),
            projector: Projector::init(config, device),
            language_model: Decoder::init(&config.language, device).with_tapped_layers(language_layers.to_vec()),
            unshuffle_factor: config.unshuffle_factor(),
            is_pooled: config.return_cls_only,
        })
    }

    /// The vision tower's patches, `[tiles, side · side, hidden]`.
    fn patches(&self, pixels: Tensor<4>, trace: &mut Trace) -> Tensor<3> {
        let pixels = pixels.cast(self.dtype());
        trace.scope("vision", |trace| self.vision_tower.forward(pixels, trace))
    }

    /// Pixel-unshuffle and projector.
    fn project(&self, patches: Tensor<3>, trace: &mut Trace) -> Tensor<3> {
        let unshuffled = pixel_unshuffle(patches, self.unshuffle_factor);
        trace.scope("vision", |trace| trace.record("pixel_shuffle", &unshuffled));
        trace.scope("projector", |trace| self.projector.forward(unshuffled, trace))
    }

    fn forward(
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

    fn reads_placed_tokens(&self) -> bool {
        true
    }

    fn check_tokens(&self, tokens: &TokenBatch) -> Result<()> {
        self.check_ids(tokens)
    }

    fn context_len(&self, tokens: usize) -> usize {
        if self.is_pooled { 1 } else { tokens }
    }

    fn context(
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

    fn hidden_tokens(&self, tokens: &TokenBatch, semantics: &Semantics, device: &Device) -> Option<Tensor<2, Bool>> {
        if self.is_pooled { None } else { hidden_by_scope(tokens, semantics, device) }
    }

    fn segments<'a>(
        &'a self,
        pixels: Tensor<4>,
        tokens: &'a TokenBatch,
        image_token: u32,
        semantics: &Semantics,
    ) -> Result<Option<Vec<Segment<'a>>>> {
        self.check_ids(tokens)?;
        let device = pixels.device();
        let mut segments = self.vision_tower.segments(pixels.cast(self.dtype()));
        segments.push(Segment::vision(|patches| self.project(patches, &mut Trace::off())));
        let ids = tokens.ids_tensor(&device);
        segments.push(Segment::language(move |visual| {
            let embeds = self.language_model.embed(ids.clone());
            splice(embeds, Some(visual.flatten::<2>(0, 1)), tokens, image_token)
        }));
        segments.extend(self.language_model.segments(tokens, semantics.masked_rows, &device));
        Ok(Some(segments))
    }

    fn costs(&self, config: &VlmConfig, tiles: usize, tokens: usize) -> Vec<Cost> {
        let (vision, language) = (&config.vision, &config.language);
        let patches = config.patches_per_side().pow(2);
        let (with_class, hidden) = (patches + 1, vision.hidden_size);
        let vision_layer = linear_flops(with_class, hidden, 4 * hidden)
            + 2 * linear_flops(with_class, hidden, vision.intermediate_size)
            + attention_flops(with_class, with_class, hidden);
        let embedding = linear_flops(patches, 3 * vision.patch_size.pow(2), hidden);
        let (visual, channels) = (config.tokens_per_tile(), language.hidden_size);
        let unshuffled = hidden * config.unshuffle_factor().pow(2);
        let projector = linear_flops(visual, unshuffled, channels) + linear_flops(visual, channels, channels);
        let kv_width = language.num_kv_heads * language.head_dim();
        let language_layer = linear_flops(tokens, channels, 2 * channels + 2 * kv_width)
            + 3 * linear_flops(tokens, channels, language.intermediate_size)
            + attention_flops(tokens, tokens, channels);
        let tower = tiles as u64 * (embedding + vision.num_layers as u64 * vision_layer);
        let layers = language.num_layers as u64 * language_layer;
        let cost = |part, name, parameters, flops| Cost { part, name, parameters, flops };
        vec![
            cost("vision", "tower", vec!["vision_tower."], tower),
            cost("vision", "projector", vec!["projector."], tiles as u64 * projector),
            cost("language", "token embeddings", vec!["language_model.embed_tokens."], 0),
            cost("language", "layers and final norm", vec!["language_model.layers.", "language_model.norm."], layers),
        ]
    }

    fn is_vision(&self, path: &str) -> bool {
        path.starts_with("vision_tower.") || path.starts_with("projector.")
    }

    fn attention_layers(&self) -> usize {
        self.language_model.layers().len()
    }

    fn packed(self) -> Self {
        pack(self)
    }

    fn dtype(&self) -> DType {
        self.vision_tower.dtype()
    }

    fn initial_value(&self, spec: &ParamSpec, scales: &InitialScales) -> Option<InitialValue> {
        let of_embeddings = (spec.owner == Owner::Embedding).then(|| InitialValue::of_std(scales.embeddings));
        of_embeddings.or_else(|| vision::initial_value(spec, scales))
    }
}

/// One token of each sample: `[batch, tokens, embed]` → `[batch, 1, embed]`.
fn pooled(fused: Tensor<3>, tokens: &TokenBatch, which: PooledToken) -> Tensor<3> {
    let [batch, length, embed] = fused.dims();
    match which {
        PooledToken::First => fused.narrow(1, 0, 1),
        PooledToken::LastValid => {
            let rows = tokens.last_rows_tensor(&fused.device());
            fused.reshape([batch * length, embed]).select(0, rows).reshape([batch, 1, embed])
        }
    }
}
