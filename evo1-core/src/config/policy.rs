//! Configuration of a whole policy.

use burn::tensor::{DType, Device};
use serde::{Deserialize, Serialize};

use super::{
    ActionConfig, Cameras, Design, FlowConfig, FrameCrop, LanguageConfig, Profile, Semantics, TilingConfig,
    VisionConfig, VlmConfig, check_fields,
};
use crate::{
    Error, Result,
    device::require_dtype,
    normalize::{Normalization, RobotStatistics, Statistics},
};

/// Everything that decides what a policy computes, its weights aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// Camera views of a prompt: 3.
    pub max_views: usize,
    /// The robot's cameras, as far as they are known by name.
    #[serde(default)]
    pub cameras: Cameras,
    /// Most tokens of a prompt: 1024.
    pub max_text_length: usize,
    /// Euler steps of a prediction.
    pub num_inference_steps: usize,
    /// Width of the robot's state, where it is known; where it is not, its statistics know it.
    #[serde(default)]
    pub state_dim: Option<usize>,
    /// Width of the robot's action, where it is known: the columns that the network is given, others being masked. Where it
    /// is not known, that of the robot's statistics.
    #[serde(default)]
    pub action_dim: Option<usize>,
    /// Columns of an action that are handed on, where they are fewer than the robot's.
    #[serde(default)]
    pub cropped_action_dim: Option<usize>,
    /// Actions of a chunk that are executed before the next one is asked for; all of them when `None`.
    #[serde(default)]
    pub n_action_steps: Option<usize>,
    /// Which statistics normalise states, and which actions.
    pub normalization: Normalization,
    /// A gripper dimension that is made two-valued after denormalising.
    pub gripper: Option<GripperRule>,
    /// The embodiment used when an observation names none.
    pub default_embodiment: usize,
}

/// Most tiles of a frame.
const MAX_TILES: usize = 1000;
/// Most views of a prompt.
const MAX_VIEWS: usize = 100;
/// Most tokens of a prompt.
const MAX_TEXT_LENGTH: usize = 1_000_000;
/// Most steps of a sampler.
const MAX_STEPS: usize = 100_000;
/// Most steps of a chunk.
const MAX_HORIZON: usize = 100_000;

/// A gripper dimension that is made two-valued.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
            state_dim: None,
            action_dim: None,
            cropped_action_dim: None,
            num_inference_steps: semantics.default_steps,
            vlm,
            action,
            profile,
            semantics,
            crop: None,
            flow: FlowConfig::default(),
            tiling: TilingConfig::default(),
            max_views: 3,
            cameras: Cameras::default(),
            max_text_length: 1024,
            n_action_steps: None,
            normalization: Normalization::default(),
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
        self.cameras.validate(self.max_views, origin)?;
        self.validate_prediction(origin)
    }

    /// Width of the state of a robot with these statistics, where it is known.
    pub fn state_width(&self, robot: Option<&RobotStatistics>) -> Option<usize> {
        self.state_dim.or_else(|| robot.map(|robot| robot.state.width()))
    }

    /// Width of the action of a robot with these statistics, where it is known: the columns that the network is given.
    pub fn action_width(&self, robot: Option<&RobotStatistics>) -> Option<usize> {
        self.action_dim.or_else(|| robot.map(|robot| robot.action.width()))
    }

    /// Columns of an action that are handed on to a robot with these statistics: all of the network's where its width is
    /// unknown.
    pub fn output_width(&self, robot: Option<&RobotStatistics>) -> usize {
        let padded = self.action.max_action_dim;
        let known = self.action_width(robot).map_or(padded, |width| width.min(padded));
        self.cropped_action_dim.map_or(known, |cropped| cropped.min(known))
    }

    /// Fails unless statistics are those of the robot that the configuration describes. `origin` names the policy in the
    /// message.
    ///
    /// # Errors
    /// When a robot's statistics are wider or narrower than its states or actions, wider than the network, lack a list that
    /// the normalisation needs, or end before the gripper.
    pub fn validate_statistics(&self, statistics: &Statistics, origin: &str) -> Result<()> {
        statistics.robots().try_for_each(|(name, robot)| self.validate_robot_statistics(&name, robot, origin))
    }

    fn validate_robot_statistics(&self, name: &str, robot: &RobotStatistics, origin: &str) -> Result<()> {
        for (vector, statistics, kind, width, most) in [
            ("observation.state", &robot.state, self.normalization.state, self.state_dim, self.action.max_state_dim),
            ("action", &robot.action, self.normalization.action, self.action_dim, self.action.max_action_dim),
        ] {
            statistics.require(kind, &format!("{name}.{vector}"), origin)?;
            let got = statistics.width();
            let expected = match width {
                Some(width) if got != width => format!("statistics of the {width} values that the robot has"),
                None if got > most => format!("statistics of at most {most} values, those of the network"),
                _ => continue,
            };
            return Err(Error::invalid(origin, format!("{name}.{vector}"), expected, format!("{got} values")));
        }
        let width = self.output_width(Some(robot));
        match self.gripper {
            Some(rule) if rule.index >= width => {
                let expected = format!("below {width}, the width of the actions of {name}");
                Err(Error::invalid(origin, "gripper_index", expected, rule.index))
            }
            _ => Ok(()),
        }
    }

    /// The robot's widths, its gripper and its embodiment.
    fn validate_robot(&self, origin: &str) -> Result<()> {
        let (padded, max_state) = (self.action.max_action_dim, self.action.max_state_dim);
        let is_in = |width: Option<usize>, most: usize| width.is_none_or(|width| (1..=most).contains(&width));
        let shown = |width: Option<usize>, most: usize| format!("{} for {most}", width.unwrap_or_default());
        let width = self.output_width(None);
        check_fields(
            origin,
            [
                (
                    is_in(self.action_dim, padded),
                    ("output_features.action.shape", "from 1 to max_action_dim", shown(self.action_dim, padded)),
                ),
                (
                    is_in(self.cropped_action_dim, self.action_dim.unwrap_or(padded)),
                    (
                        "postprocess_action_dim",
                        "from 1 to the action's width",
                        shown(self.cropped_action_dim, self.action_dim.unwrap_or(padded)),
                    ),
                ),
                (
                    is_in(self.state_dim, max_state),
                    (
                        "input_features.observation.state.shape",
                        "from 1 to max_state_dim",
                        shown(self.state_dim, max_state),
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

    /// Tiles, views, prompt and steps: they size memory and loops, so that each has a bound far above any model's.
    fn validate_prediction(&self, origin: &str) -> Result<()> {
        let TilingConfig { min_tiles, max_tiles, .. } = self.tiling;
        let tiles = format!("{min_tiles} and {max_tiles}");
        check_fields(
            origin,
            [
                (
                    (1..=max_tiles).contains(&min_tiles) && max_tiles <= MAX_TILES,
                    ("tiling", "1 ≤ min_tiles ≤ max_tiles ≤ 1000", tiles),
                ),
                ((1..=MAX_VIEWS).contains(&self.max_views), ("max_views", "from 1 to 100", self.max_views.to_string())),
                (
                    (1..=MAX_TEXT_LENGTH).contains(&self.max_text_length),
                    ("max_text_length", "from 1 to 1000000", self.max_text_length.to_string()),
                ),
                (
                    (1..=MAX_STEPS).contains(&self.num_inference_steps),
                    ("num_inference_timesteps", "from 1 to 100000", self.num_inference_steps.to_string()),
                ),
                (
                    (1..=MAX_HORIZON).contains(&self.action.horizon),
                    ("chunk_size", "from 1 to 100000", self.action.horizon.to_string()),
                ),
                (
                    self.n_action_steps.is_none_or(|steps| (1..=self.action.horizon).contains(&steps)),
                    (
                        "n_action_steps",
                        "from 1 to the steps of a chunk",
                        format!("{} of {}", self.n_action_steps.unwrap_or_default(), self.action.horizon),
                    ),
                ),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::{NormalizationType, VectorStatistics};

    #[test]
    fn presets_are_valid() {
        PolicyConfig::evo1().validate("evo1").expect("evo1");
        PolicyConfig::tiny().validate("tiny").expect("tiny");
    }

    #[test]
    fn numbers_that_size_memory_or_loops_have_bounds() {
        type Edit = fn(&mut PolicyConfig, usize);
        let message = |edit: Edit, value: usize| {
            let mut config = PolicyConfig::tiny();
            edit(&mut config, value);
            config.validate("evo1.json").expect_err("must be refused").to_string()
        };
        let most = u32::MAX as usize;
        let edits: [(&str, Edit); 5] = [
            ("num_inference_timesteps", |config, value| config.num_inference_steps = value),
            ("max_views", |config, value| config.max_views = value),
            ("max_text_length", |config, value| config.max_text_length = value),
            ("tiling", |config, value| config.tiling.max_tiles = value),
            ("chunk_size", |config, value| config.action.horizon = value),
        ];
        for (field, edit) in edits {
            for value in [0, most] {
                let message = message(edit, value);
                assert!(message.contains(&format!("`{field}`")) && message.contains(&value.to_string()), "{message}");
            }
        }
    }

    #[test]
    fn statistics_are_those_of_the_robot_that_is_described() {
        let vector = |width: usize| VectorStatistics {
            min: Some(vec![0.0; width]),
            max: Some(vec![1.0; width]),
            ..VectorStatistics::default()
        };
        let robot =
            |state, action| Statistics::single(RobotStatistics { state: vector(state), action: vector(action) });
        let gripper = Some(GripperRule { index: 6, threshold: 0.5, above: -1.0, below: 1.0 });
        let config = PolicyConfig { state_dim: Some(8), action_dim: Some(7), gripper, ..PolicyConfig::tiny() };
        let check = |config: &PolicyConfig, statistics: &Statistics| {
            config.validate_statistics(statistics, "policy").map_err(|error| error.to_string())
        };
        assert_eq!(check(&config, &robot(8, 7)), Ok(()));
        let narrow = check(&config, &robot(8, 6)).expect_err("six actions of seven");
        assert!(narrow.contains("`default.action` must be statistics of the 7 values"), "{narrow}");
        let unknown = PolicyConfig { state_dim: None, action_dim: None, ..config.clone() };
        assert_eq!(check(&unknown, &robot(8, 7)), Ok(()));
        let gripper = check(&unknown, &robot(8, 6)).expect_err("a gripper past the end");
        assert!(gripper.contains("`gripper_index` must be below 6"), "{gripper}");
        let wide = check(&unknown, &robot(8, 30)).expect_err("wider than the network");
        assert!(wide.contains("at most 24 values"), "{wide}");
        let quantiles = Normalization { action: NormalizationType::BoundsQ99, ..Normalization::default() };
        let quantiles = PolicyConfig { normalization: quantiles, ..config };
        let missing = check(&quantiles, &robot(8, 7)).expect_err("no quantiles");
        assert!(missing.contains("statistics with `q01` and `q99`, got neither"), "{missing}");
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
