//! A vision-language model in InternVL3's place: a convolution over each tile, and a bag of words.

use burn::{
    module::Module,
    nn::{
        Embedding, EmbeddingConfig,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor, activation::gelu},
};
use evo1::{
    Component, Context, CoreError, Trace, VisionLanguageModel,
    config::{Semantics, VlmConfig},
    cost::{Cost, linear_flops},
    vlm::{self, TokenBatch, model::FIELD, splice::splice},
    weights::number_type,
};

/// Visual tokens are patches of a tile through one convolution; every token of the prompt is its embedding plus the mean
/// of all visible ones.
#[derive(Module, Debug)]
pub(crate) struct ConvWords {
    encoder: Conv2d,
    words: Embedding,
}

impl Component for ConvWords {
    fn names() -> Vec<&'static str> {
        vec!["conv-words"]
    }
}

/// Side length in pixels of what becomes one visual token.
fn stride(config: &VlmConfig) -> usize {
    config.vision.patch_size * config.unshuffle_factor()
}

impl VisionLanguageModel for ConvWords {
    fn init(config: &VlmConfig, language_layers: &[usize], device: &Device) -> Result<Self, CoreError> {
        config.model.require_plain(FIELD)?;
        if !language_layers.is_empty() {
            let got = format!("{language_layers:?}");
            return Err(CoreError::invalid("configuration", FIELD, "a model with language layers", got));
        }
        let (stride, channels) = (stride(config), config.language.hidden_size);
        let encoder = Conv2dConfig::new([3, channels], [stride, stride]).with_stride([stride, stride]);
        let words = EmbeddingConfig::new(config.language.vocab_size, channels);
        Ok(Self { encoder: encoder.init(device), words: words.init(device) })
    }

    fn patches(&self, pixels: Tensor<4>, _: &mut Trace) -> Tensor<3> {
        let patches = gelu(self.encoder.forward(pixels.cast(number_type(self))));
        patches.flatten::<3>(2, 3).swap_dims(1, 2)
    }

    fn forward(
        &self,
        visual: Option<Tensor<3>>,
        tokens: &TokenBatch,
        image_token: u32,
        semantics: &Semantics,
        _: &mut Trace,
    ) -> vlm::Result<Context> {
        let device = self.words.weight.device();
        let words = self.words.forward(tokens.ids_tensor(&device));
        let visual = visual.map(|visual| visual.flatten::<2>(0, 1));
        let embeds = splice(words, visual, tokens, image_token)?;
        let visible = tokens.hidden(&device).bool_not().float().cast(embeds.dtype()).unsqueeze_dim::<3>(2);
        let bag = (embeds.clone() * visible.clone()).sum_dim(1) / visible.sum_dim(1).clamp_min(1.0);
        Ok(self.context(embeds + bag, vec![], tokens, semantics, &device))
    }

    fn costs(&self, config: &VlmConfig, tiles: usize, _: usize) -> Vec<Cost> {
        let patch = 3 * stride(config).pow(2);
        let flops = linear_flops(tiles * config.tokens_per_tile(), patch, config.language.hidden_size);
        vec![
            Cost { part: "vision", name: "convolution", parameters: vec!["encoder."], flops },
            Cost { part: "language", name: "words", parameters: vec!["words."], flops: 0 },
        ]
    }

    fn is_vision(&self, path: &str) -> bool {
        path.starts_with("encoder.")
    }
}
