//! Configuration of a whole policy.

use burn::tensor::{DType, Device};
use serde::{Deserialize, Serialize};

use super::{
    ActionConfig, Design, FlowConfig, FrameCrop, LanguageConfig, Profile, Semantics, TilingConfig, VisionConfig,
    VlmConfig, check_fields,
};
use crate::{Result, device::require_dtype, normalize::NormalizationType};

/// Everything that decides what a policy computes, its weights aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyConfig {
    /// The vision-language model.
    pub vlm: VlmConfig,
    /// The action expert.
    pub action: ActionConfig,
    /// The reference whose semantics are used.
    pub profile: Profile,
    /// The choices in which references differ; the profile's unless a study mixes them.
    pub semantics: Semantics,
    /// The part of a frame that is looked at; the whole frame when `None`.
    #[serde(default)]
    pub crop: Option<FrameCrop>,
    /// The flow's noise, times and solver: as published, unless a study varies them.
    #[serde(default)]
    pub flow: FlowConfig,
    /// How a frame becomes tiles.
    pub tiling: TilingConfig,
    /// Camera views of a prompt: 3. Views that are absent keep their place.
    pub max_views: usize,
    /// Most tokens of a prompt: 1024.
    pub max_text_length: usize,
    /// Euler steps of a prediction.
    pub num_inference_steps: usize,
    /// Width of the robot's state; [`ActionConfig::max_state_dim`] when nothing is known.
    pub state_dim: usize,
    /// Width of the robot's action; [`ActionConfig::max_action_dim`] when nothing is known.
    pub action_dim: usize,
    /// Which statistics normalise state and action.
    pub normalization: NormalizationType,
    /// A gripper dimension that is made two-valued after denormalising.
    pub gripper: Option<GripperRule>,
    /// The embodiment used when an observation names none.
    pub default_embodiment: usize,
}

/// A gripper dimension that is made two-valued.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GripperRule {
    /// The column of the action.
    pub index: usize,
    /// Values above it become [`Self::above`], all others [`Self::below`].
    pub threshold: f32,
    /// The value above the threshold.
    pub above: f32,
    /// The value at and below the threshold.
    pub below: f32,
}

/// Number types of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// Of the vision-language model.
    pub vlm: DType,
    /// Of the action expert.
    pub action: DType,
}

impl Default for Precision {
    fn default() -> Self {
        Self { vlm: DType::F32, action: DType::F32 }
    }
}

impl Precision {
    /// One number type for everything.
    pub fn all(dtype: DType) -> Self {
        Self { vlm: dtype, action: dtype }
    }

    /// The number type of a parameter of the policy's network.
    pub fn of(self, path: &str) -> DType {
        if path.starts_with("vlm.") { self.vlm } else { self.action }
    }

    /// Fails unless the device computes in both number types.
    pub fn require(self, device: &Device) -> Result<()> {
        require_dtype(device, self.vlm)?;
        require_dtype(device, self.action)
    }
}

impl PolicyConfig {
    /// The published model: InternVL3-1B and the 122 M-parameter action expert, 775,198,640 parameters.
    pub fn evo1() -> Self {
        Self::of(VlmConfig::internvl3_1b(), ActionConfig::evo1(), Profile::OfficialFlash)
    }

    /// A model small enough to be embedded and to run in tests: 64 × 64 frames, 0.4 M parameters, every component in
    /// the same arrangement as [`Self::evo1`].
    pub fn tiny() -> Self {
        let vlm = VlmConfig {
            model: VlmConfig::published_model(),
            vision: VisionConfig {
                image_size: 64,
                patch_size: 8,
                hidden_size: 64,
                intermediate_size: 128,
                num_layers: 2,
                num_heads: 4,
                layer_norm_eps: 1e-6,
            },
            language: LanguageConfig {
                vocab_size: 260,
                hidden_size: 64,
                intermediate_size: 128,
                num_layers: 2,
                num_heads: 4,
                num_kv_heads: 2,
                rms_norm_eps: 1e-6,
                rope_theta: 1e6,
            },
            image_size: 64,
            downsample_ratio: 0.5,
            return_cls_only: false,
        };
        let action = ActionConfig {
            expert: ActionConfig::published_expert(),
            embed_dim: 64,
            hidden_dim: 64,
            state_hidden_dim: 64,
            num_heads: 4,
            num_layers: 2,
            horizon: 16,
            max_action_dim: 24,
            max_state_dim: 24,
            num_categories: 1,
            dropout: 0.0,
            design: Design::default(),
        };
        Self { max_text_length: 256, ..Self::of(vlm, action, Profile::LeRobot) }
    }

    /// A policy of these parts, with the reference's choices and nothing known of the robot.
    pub fn of(vlm: VlmConfig, action: ActionConfig, profile: Profile) -> Self {
        let semantics = profile.semantics();
        Self {
            state_dim: action.max_state_dim,
            action_dim: action.max_action_dim,
            num_inference_steps: semantics.default_steps,
            vlm,
            action,
            profile,
            semantics,
            crop: None,
            flow: FlowConfig::default(),
            tiling: TilingConfig::default(),
            max_views: 3,
            max_text_length: 1024,
            normalization: NormalizationType::Bounds,
            gripper: None,
            default_embodiment: 0,
        }
    }

    /// The same policy under the semantics of another reference; the number of Euler steps stays.
    pub fn with_profile(self, profile: Profile) -> Self {
        Self { profile, semantics: profile.semantics(), ..self }
    }

    /// Fails unless the parts fit together, whatever the components that are chosen by name say of their own settings.
    /// `origin` names the file in the message.
    pub fn validate(&self, origin: &str) -> Result<()> {
        self.vlm.validate(origin)?;
        self.action.validate(origin)?;
        if let Some(crop) = &self.crop {
            crop.validate(origin)?;
        }
        let (embed, hidden) = (self.action.embed_dim, self.vlm.language.hidden_size);
        check_fields(
            origin,
            [(embed == hidden, ("embed_dim", "the language model's hidden_size", format!("{embed} for {hidden}")))],
        )?;
        self.validate_robot(origin)?;
        self.validate_prediction(origin)
    }

    /// The robot's widths, its gripper and its embodiment.
    fn validate_robot(&self, origin: &str) -> Result<()> {
        let (width, padded) = (self.action_dim, self.action.max_action_dim);
        let (state, max_state) = (self.state_dim, self.action.max_state_dim);
        check_fields(
            origin,
            [
                (
                    (1..=padded).contains(&width),
                    ("output_features.action.shape", "from 1 to max_action_dim", format!("{width} for {padded}")),
                ),
                (
                    (1..=max_state).contains(&state),
                    (
                        "input_features.observation.state.shape",
                        "from 1 to max_state_dim",
                        format!("{state} for {max_state}"),
                    ),
                ),
                (
                    self.default_embodiment < self.action.num_categories.max(1),
                    ("default_embodiment_id", "below num_categories", self.default_embodiment.to_string()),
                ),
                (
                    self.gripper.is_none_or(|rule| rule.index < width),
                    (
                        "gripper_index",
                        "below the action's width",
                        format!("{:?} for {width}", self.gripper.map(|rule| rule.index)),
                    ),
                ),
            ],
        )
    }

    /// Tiles, views, prompt and steps.
    fn validate_prediction(&self, origin: &str) -> Result<()> {
        let TilingConfig { min_tiles, max_tiles, .. } = self.tiling;
        let positive = "a whole number of at least 1";
        check_fields(
            origin,
            [
                (
                    (1..=max_tiles).contains(&min_tiles),
                    ("tiling", "1 ≤ min_tiles ≤ max_tiles", format!("{min_tiles} and {max_tiles}")),
                ),
                (self.max_views > 0, ("max_views", positive, "0".into())),
                (self.max_text_length > 0, ("max_text_length", positive, "0".into())),
                (self.num_inference_steps > 0, ("num_inference_timesteps", positive, "0".into())),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid() {
        PolicyConfig::evo1().validate("evo1").expect("evo1");
        PolicyConfig::tiny().validate("tiny").expect("tiny");
    }

    #[test]
    fn full_size_has_256_tokens_per_tile() {
        assert_eq!(PolicyConfig::evo1().vlm.tokens_per_tile(), 256);
    }

    #[test]
    fn an_odd_patch_grid_is_refused() {
        let mut config = PolicyConfig::tiny();
        config.vlm.image_size = 72;
        let message = config.validate("config.json").expect_err("9 × 9 patches").to_string();
        assert_eq!(
            message,
            "config.json: `downsample_ratio` must be one that divides the patch grid, got 1/2 for 9 × 9 patches"
        );
    }
}
