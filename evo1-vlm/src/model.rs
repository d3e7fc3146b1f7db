//! What every vision-language model is: what the action expert is given of frames and instruction.

use std::fmt::Debug;

use burn::{
    module::{Module, ModuleDisplay},
    tensor::{Bool, DType, Device, Tensor},
};
use evo1_core::{
    Component, Context, OneOf, Trace,
    config::{ContextScope, Semantics, VlmConfig},
    cost::Cost,
    one_of,
    weights::{InitialScales, InitialValue, ParamSpec, number_type},
};

use crate::{Result, TokenBatch, segments::Segment};

/// Pixels and token ids → [`Context`].
///
/// Preparation of frames and prompts, action expert, trainer and server work with any. What an implementor owes:
///
/// - Tiles of `config.image_size` pixels become [`VlmConfig::tokens_per_tile`] visual tokens each, in the order of the
///   tiles: prompts hold as many image tokens.
/// - A context is `config.language.hidden_size` wide, which is the action expert's `embed_dim`, and
///   [`Self::context_len`] long.
/// - Hidden tokens of a prompt (padding, views that are not present) change nothing of those that stay visible where the
///   semantics say so, and are hidden in the context ([`Self::hidden_tokens`]).
/// - Samples do not see each other; results are differentiable with respect to parameters.
/// - It computes in the number type of its weights, and takes pixels of any.
/// - Its parameters are found by their paths in files of burn's format, and start as [`Self::initial_value`] says.
///
/// Its settings are those of its name in [`VlmConfig::model`].
pub trait VisionLanguageModel: Component + Module + ModuleDisplay + Debug + Send + Sync + 'static {
    /// An uninitialised model, whose contexts hold the outputs of some language layers ([`Context::layers`]): entry `l`
    /// stands for the first `l` layers.
    ///
    /// # Errors
    /// When the settings are not the model's, or it has no such layers.
    fn init(config: &VlmConfig, language_layers: &[usize], device: &Device) -> evo1_core::Result<Self>;

    /// What the vision part makes of normalised tiles: `[tiles, 3, size, size]` → `[tiles, patches, channels]`.
    fn patches(&self, pixels: Tensor<4>, trace: &mut Trace) -> Tensor<3>;

    /// From patches to visual tokens: `[tiles, patches, channels]` → `[tiles, tokens_per_tile, hidden_size]`. Nothing where
    /// the vision part gives visual tokens already.
    fn project(&self, patches: Tensor<3>, trace: &mut Trace) -> Tensor<3> {
        let _ = trace;
        patches
    }

    /// Visual tokens of normalised tiles: `[tiles, 3, size, size]` → `[tiles, tokens_per_tile, hidden_size]`.
    fn visual_tokens(&self, pixels: Tensor<4>, trace: &mut Trace) -> Tensor<3> {
        let patches = self.patches(pixels, trace);
        self.project(patches, trace)
    }

    /// The context of a batch of prompts whose image tokens are `visual`, in the order of their appearance.
    ///
    /// # Shapes
    /// - visual: `[tiles, tokens_per_tile, hidden_size]`, `None` for prompts without images
    /// - output: tokens `[batch, context_len, hidden_size]`
    ///
    /// # Errors
    /// When prompts and visual tokens do not fit together.
    fn forward(
        &self,
        visual: Option<Tensor<3>>,
        tokens: &TokenBatch,
        image_token: u32,
        semantics: &Semantics,
        trace: &mut Trace,
    ) -> Result<Context>;

    /// Whether [`Self::forward`] reads a batch that is [placed](TokenBatch::placed) by its tensors alone, so that its work can
    /// be recorded once and repeated with other prompts: what it takes from the host then is that of the first. Not by
    /// default, and such a model's predictions are never recorded.
    fn reads_placed_tokens(&self) -> bool {
        false
    }

    /// Fails when [`Self::forward`] could not be given these prompts, for whoever repeats recorded work.
    ///
    /// # Errors
    /// When the model does not know one of the tokens.
    fn check_tokens(&self, tokens: &TokenBatch) -> Result<()> {
        let _ = tokens;
        Ok(())
    }

    /// Tokens of the context of a prompt of some tokens: as many, unless the model pools them.
    fn context_len(&self, tokens: usize) -> usize {
        tokens
    }

    /// Which tokens of a context the action expert may not see, `[batch, context_len]`; `None` when it may see all.
    fn hidden_tokens(&self, tokens: &TokenBatch, semantics: &Semantics, device: &Device) -> Option<Tensor<2, Bool>> {
        hidden_by_scope(tokens, semantics, device)
    }

    /// The context of fused tokens and of the outputs of single layers.
    fn context(
        &self,
        fused: Tensor<3>,
        layers: Vec<Tensor<3>>,
        tokens: &TokenBatch,
        semantics: &Semantics,
        device: &Device,
    ) -> Context {
        Context { tokens: fused, layers, hidden: self.hidden_tokens(tokens, semantics, device) }
    }

    /// [`Self::visual_tokens`] and [`Self::forward`] in segments, from pixels to fused tokens, for gradient checkpointing: the
    /// first segment makes nothing of what it is given, each other is given what the one before it gave. `None` when the
    /// model is not divided.
    ///
    /// # Errors
    /// When prompts and pixels do not fit together.
    fn segments<'a>(
        &'a self,
        pixels: Tensor<4>,
        tokens: &'a TokenBatch,
        image_token: u32,
        semantics: &Semantics,
    ) -> Result<Option<Vec<Segment<'a>>>> {
        let _ = (pixels, tokens, image_token, semantics);
        Ok(None)
    }

    /// What a prediction of some tiles and tokens of a prompt costs. The parts' parameters are all of the model's.
    fn costs(&self, config: &VlmConfig, tiles: usize, tokens: usize) -> Vec<Cost>;

    /// Whether a parameter belongs to the vision part, which is trained or frozen by itself. `path` is that within the
    /// model.
    fn is_vision(&self, path: &str) -> bool;

    /// Layers that record the weights of their attention under `llm.layer.{layer}.attention_weights`, of all tokens of a
    /// prompt to all.
    fn attention_layers(&self) -> usize {
        0
    }

    /// The same model with weights that only predict in the order in which products read them ([`pack`]), where all of
    /// its linear layers go through [`ops`](evo1_core::ops): burn's own cannot read those. As it is by default.
    ///
    /// [`pack`]: evo1_core::weights::pack
    fn packed(self) -> Self {
        self
    }

    /// The number type of the weights.
    fn dtype(&self) -> DType {
        number_type(self)
    }

    /// How a parameter starts; as PyTorch would draw it when `None`.
    fn initial_value(&self, spec: &ParamSpec, scales: &InitialScales) -> Option<InitialValue> {
        let _ = (spec, scales);
        None
    }
}

/// The hidden tokens of a prompt, where the semantics keep them from the action expert.
pub(crate) fn hidden_by_scope(tokens: &TokenBatch, semantics: &Semantics, device: &Device) -> Option<Tensor<2, Bool>> {
    let hides = semantics.context_scope == ContextScope::ValidTokens && !tokens.is_all_visible();
    hides.then(|| tokens.hidden(device))
}

/// The field of the configuration that chooses the vision-language model.
pub const FIELD: &str = "vlm.model";

impl<First: VisionLanguageModel, Rest: VisionLanguageModel> VisionLanguageModel for OneOf<First, Rest> {
    fn init(config: &VlmConfig, language_layers: &[usize], device: &Device) -> evo1_core::Result<Self> {
        Self::choose(
            &config.model,
            FIELD,
            || First::init(config, language_layers, device),
            || Rest::init(config, language_layers, device),
        )
    }

    fn patches(&self, pixels: Tensor<4>, trace: &mut Trace) -> Tensor<3> {
        one_of!(self, model => model.patches(pixels, trace))
    }

    fn project(&self, patches: Tensor<3>, trace: &mut Trace) -> Tensor<3> {
        one_of!(self, model => model.project(patches, trace))
    }

    fn visual_tokens(&self, pixels: Tensor<4>, trace: &mut Trace) -> Tensor<3> {
        one_of!(self, model => model.visual_tokens(pixels, trace))
    }

    fn forward(
        &self,
        visual: Option<Tensor<3>>,
        tokens: &TokenBatch,
        image_token: u32,
        semantics: &Semantics,
        trace: &mut Trace,
    ) -> Result<Context> {
        one_of!(self, model => model.forward(visual, tokens, image_token, semantics, trace))
    }

    fn reads_placed_tokens(&self) -> bool {
        one_of!(self, model => model.reads_placed_tokens())
    }

    fn check_tokens(&self, tokens: &TokenBatch) -> Result<()> {
        one_of!(self, model => model.check_tokens(tokens))
    }

    fn context_len(&self, tokens: usize) -> usize {
        one_of!(self, model => model.context_len(tokens))
    }

    fn hidden_tokens(&self, tokens: &TokenBatch, semantics: &Semantics, device: &Device) -> Option<Tensor<2, Bool>> {
        one_of!(self, model => model.hidden_tokens(tokens, semantics, device))
    }

    fn context(
        &self,
        fused: Tensor<3>,
        layers: Vec<Tensor<3>>,
        tokens: &TokenBatch,
        semantics: &Semantics,
        device: &Device,
    ) -> Context {
        one_of!(self, model => model.context(fused, layers, tokens, semantics, device))
    }

    fn segments<'a>(
        &'a self,
        pixels: Tensor<4>,
        tokens: &'a TokenBatch,
        image_token: u32,
        semantics: &Semantics,
    ) -> Result<Option<Vec<Segment<'a>>>> {
        one_of!(self, model => model.segments(pixels, tokens, image_token, semantics))
    }

    fn costs(&self, config: &VlmConfig, tiles: usize, tokens: usize) -> Vec<Cost> {
        one_of!(self, model => model.costs(config, tiles, tokens))
    }

    fn is_vision(&self, path: &str) -> bool {
        one_of!(self, model => model.is_vision(path))
    }

    fn attention_layers(&self) -> usize {
        one_of!(self, model => model.attention_layers())
    }

    fn packed(self) -> Self {
        match self {
            Self::First(model) => Self::First(model.packed()),
            Self::Rest(model) => Self::Rest(model.packed()),
        }
    }

    fn dtype(&self) -> DType {
        one_of!(self, model => model.dtype())
    }

    fn initial_value(&self, spec: &ParamSpec, scales: &InitialScales) -> Option<InitialValue> {
        one_of!(self, model => model.initial_value(spec, scales))
    }
}
