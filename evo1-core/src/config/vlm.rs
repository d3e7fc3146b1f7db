//! Dimensions of the vision-language model.

use serde::{Deserialize, Serialize};

use super::{MAX_LAYERS, check_fields};
use crate::{Choice, Result};

/// InternVL3: vision tower, projector and the trimmed language model.
///
/// A model of another name has settings of its own beside its name, and uses of the other fields what it needs: tiles are
/// `image_size` pixels wide, prompts have [`Self::tokens_per_tile`] image tokens for each, and `language.hidden_size` is the
/// width of a context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VlmConfig {
    /// Which vision-language model: `internvl3`, the published one.
    #[serde(default = "VlmConfig::published_model")]
    pub model: Choice,
    /// The vision tower.
    pub vision: VisionConfig,
    /// The language model.
    pub language: LanguageConfig,
    /// Side length of a tile in pixels, as the tower sees it: 448. Positions are interpolated when it is not the
    /// tower's own [`VisionConfig::image_size`].
    pub image_size: usize,
    /// Pixel-unshuffle ratio: 0.5 makes one token of 2 × 2 patches.
    pub downsample_ratio: f64,
    /// Hand on one pooled token instead of the whole sequence.
    pub return_cls_only: bool,
}

/// InternViT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VisionConfig {
    /// Side length in pixels that the position embeddings belong to.
    pub image_size: usize,
    /// Side length of a patch in pixels.
    pub patch_size: usize,
    /// Channels of a patch token.
    pub hidden_size: usize,
    /// Channels inside the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// ε of the layer norms.
    pub layer_norm_eps: f64,
}

/// Qwen2, cut to its first layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LanguageConfig {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Channels of a token.
    pub hidden_size: usize,
    /// Channels inside the MLP.
    pub intermediate_size: usize,
    /// Layers kept; the base model has more.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads, shared by groups of query heads.
    pub num_kv_heads: usize,
    /// ε of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary position embedding.
    pub rope_theta: f64,
}

/// How a frame becomes tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TilingConfig {
    /// Fewest tiles of a frame: 1.
    pub min_tiles: usize,
    /// Most tiles of a frame, the thumbnail not counted: 1.
    pub max_tiles: usize,
    /// Add the whole frame as a last tile when there is more than one.
    pub thumbnail: bool,
}

impl Default for TilingConfig {
    fn default() -> Self {
        Self { min_tiles: 1, max_tiles: 1, thumbnail: false }
    }
}

impl VlmConfig {
    /// InternVL3-1B with the first 14 of its 24 language layers.
    pub fn internvl3_1b() -> Self {
        Self {
            model: Self::published_model(),
            vision: VisionConfig {
                image_size: 448,
                patch_size: 14,
                hidden_size: 1024,
                intermediate_size: 4096,
                num_layers: 24,
                num_heads: 16,
                layer_norm_eps: 1e-6,
            },
            language: LanguageConfig {
                vocab_size: 151_674,
                hidden_size: 896,
                intermediate_size: 4864,
                num_layers: 14,
                num_heads: 14,
                num_kv_heads: 2,
                rms_norm_eps: 1e-6,
                rope_theta: 1e6,
            },
            image_size: 448,
            downsample_ratio: 0.5,
            return_cls_only: false,
        }
    }

    /// The name of the published vision-language model.
    pub fn published_model() -> Choice {
        Choice::new("internvl3")
    }

    /// Patches along one side of a tile.
    pub fn patches_per_side(&self) -> usize {
        self.image_size / self.vision.patch_size
    }

    /// Patches along one side of the square that becomes one visual token.
    pub fn unshuffle_factor(&self) -> usize {
        (1.0 / self.downsample_ratio).round() as usize
    }

    /// Visual tokens of one tile.
    pub fn tokens_per_tile(&self) -> usize {
        (self.patches_per_side() / self.unshuffle_factor()).pow(2)
    }

    /// Fails unless the dimensions fit together. `origin` names the file in the message.
    pub fn validate(&self, origin: &str) -> Result<()> {
        let VisionConfig { patch_size, hidden_size, num_heads, intermediate_size, .. } = self.vision;
        let factor = 1.0 / self.downsample_ratio;
        let positive = "a whole number of at least 1";
        check_fields(
            origin,
            [
                (patch_size > 0, ("vision.patch_size", positive, patch_size.to_string())),
                (
                    (1..=MAX_LAYERS).contains(&self.vision.num_layers),
                    ("vision.num_hidden_layers", "from 1 to 1000", self.vision.num_layers.to_string()),
                ),
                (intermediate_size > 0, ("vision.intermediate_size", positive, "0".into())),
                (
                    num_heads > 0 && hidden_size > 0 && hidden_size.is_multiple_of(num_heads),
                    (
                        "vision.num_attention_heads",
                        "a divisor of hidden_size",
                        format!("{num_heads} for {hidden_size}"),
                    ),
                ),
                (
                    self.downsample_ratio > 0.0 && self.downsample_ratio <= 1.0 && factor.fract() == 0.0,
                    ("downsample_ratio", "1/n for a whole n", self.downsample_ratio.to_string()),
                ),
            ],
        )?;
        for (field, size) in [("image_resolution", self.image_size), ("vision.image_size", self.vision.image_size)] {
            check_fields(
                origin,
                [(
                    size > 0 && size.is_multiple_of(patch_size),
                    (field, "a multiple of vision.patch_size", format!("{size} for patches of {patch_size}")),
                )],
            )?;
        }
        let side = self.patches_per_side();
        check_fields(
            origin,
            [(
                side.is_multiple_of(self.unshuffle_factor()),
                (
                    "downsample_ratio",
                    "one that divides the patch grid",
                    format!("1/{factor} for {side} × {side} patches"),
                ),
            )],
        )?;
        self.language.validate(origin)
    }
}

impl LanguageConfig {
    /// Channels of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    fn validate(&self, origin: &str) -> Result<()> {
        let Self { hidden_size, num_heads, num_kv_heads, .. } = *self;
        let positive = "a whole number of at least 1";
        check_fields(
            origin,
            [
                (self.vocab_size > 0, ("text.vocab_size", positive, "0".into())),
                (self.intermediate_size > 0, ("text.intermediate_size", positive, "0".into())),
                (
                    (1..=MAX_LAYERS).contains(&self.num_layers),
                    ("vlm_num_layers", "from 1 to 1000", self.num_layers.to_string()),
                ),
                (
                    num_heads > 0 && hidden_size > 0 && hidden_size.is_multiple_of(num_heads),
                    ("text.num_attention_heads", "a divisor of hidden_size", format!("{num_heads} for {hidden_size}")),
                ),
                (
                    num_kv_heads > 0 && num_heads.is_multiple_of(num_kv_heads),
                    (
                        "text.num_key_value_heads",
                        "a divisor of num_attention_heads",
                        format!("{num_kv_heads} for {num_heads}"),
                    ),
                ),
            ],
        )?;
        check_fields(
            origin,
            [
                (
                    self.head_dim().is_multiple_of(2),
                    ("text.hidden_size", "an even head size, for RoPE", format!("heads of {}", self.head_dim())),
                ),
                (self.rope_theta > 0.0, ("text.rope_theta", "above 0", self.rope_theta.to_string())),
            ],
        )
    }
}
