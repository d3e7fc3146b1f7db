//! The references that Evo-1 exists in, as presets over independent choices.
//!
//! A [`Profile`] names a reference; its [`Semantics`] are the choices it made. A study may mix them freely.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, View};

/// A reference implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The authors' code at the time of the paper.
    Paper,
    /// The authors' present code without FlashAttention.
    Official,
    /// The authors' present code with FlashAttention, which is how their checkpoints were trained.
    OfficialFlash,
    /// The port in the LeRobot library.
    #[serde(rename = "lerobot", alias = "le-robot")]
    LeRobot,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 4] = [Self::Paper, Self::Official, Self::OfficialFlash, Self::LeRobot];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Official => "official",
            Self::OfficialFlash => "official-flash",
            Self::LeRobot => "lerobot",
        }
    }

    /// The choices of this reference.
    pub fn semantics(self) -> Semantics {
        let official = Semantics {
            time_scale: 999.0,
            prompt_length: PromptLength::Fixed,
            context_scope: ContextScope::AllTokens,
            pooled_token: PooledToken::First,
            masked_rows: MaskedRows::Attend,
            result_mask: ResultMask::Masked,
            target_mask: TargetMask::Unmasked,
            loss: LossKind::MeanOfMaskedPair,
            default_steps: 50,
            frames: FramePreprocessing::FloatBicubic,
            state_clamp: StateClamp::Unit,
            state_padding: StatePadding::AfterNormalizing,
            range_epsilon: RangeEpsilon::Added,
            absent_views: AbsentViews::KeepPlace,
        };
        match self {
            Self::Official => official,
            Self::OfficialFlash => Semantics { masked_rows: MaskedRows::ZeroAttention, ..official },
            Self::Paper => Semantics {
                time_scale: 1000.0,
                result_mask: ResultMask::Unmasked,
                loss: LossKind::MeanOfMaskedPrediction,
                default_steps: 32,
                frames: FramePreprocessing::PilBicubic,
                state_padding: StatePadding::BeforeNormalizing,
                ..official
            },
            Self::LeRobot => Semantics {
                prompt_length: PromptLength::LongestOfBatch,
                context_scope: ContextScope::ValidTokens,
                pooled_token: PooledToken::LastValid,
                target_mask: TargetMask::Masked,
                loss: LossKind::SumOverMask,
                default_steps: 32,
                frames: FramePreprocessing::TruncatedBicubic,
                state_clamp: StateClamp::Off,
                range_epsilon: RangeEpsilon::WhenConstant,
                absent_views: AbsentViews::Last,
                ..official
            },
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name).ok_or_else(|| {
            let expected = Self::ALL.map(Self::name).join(", ");
            Error::invalid("profile", "profile", format_args!("one of {expected}"), name)
        })
    }
}

/// The choices in which the references differ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Semantics {
    /// κ: the time t ∈ [0, 1] reads row `⌊κ·t⌋` of the 1000-row time table.
    pub time_scale: f64,
    /// How long a prompt is padded to be.
    pub prompt_length: PromptLength,
    /// What the action expert attends to.
    pub context_scope: ContextScope,
    /// The token that stands for the sequence in a model that pools.
    pub pooled_token: PooledToken,
    /// What the language model computes in the rows of masked tokens.
    pub masked_rows: MaskedRows,
    /// Whether the predicted chunk is zero in its padded columns.
    pub result_mask: ResultMask,
    /// Whether the true actions are masked while training.
    pub target_mask: TargetMask,
    /// The training loss.
    pub loss: LossKind,
    /// Euler steps when nothing else is said.
    pub default_steps: usize,
    /// How a frame is scaled and quantised.
    pub frames: FramePreprocessing,
    /// Whether a normalised state is clamped.
    pub state_clamp: StateClamp,
    /// When a state is padded.
    pub state_padding: StatePadding,
    /// How a range of zero is kept from dividing.
    pub range_epsilon: RangeEpsilon,
    /// Where views are in the prompt that are not present.
    #[serde(default)]
    pub absent_views: AbsentViews,
}

impl Semantics {
    /// Which views of an observation the places of the prompt show.
    pub fn prompt_order(&self, views: &[View]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..views.len()).collect();
        if self.absent_views == AbsentViews::Last {
            order.sort_by_key(|&view| !views[view].is_present());
        }
        order
    }
}

/// How long a prompt is padded to be, on the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PromptLength {
    /// The configured maximum: 1024.
    Fixed,
    /// The longest prompt of the batch.
    LongestOfBatch,
}

/// What the action expert attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ContextScope {
    /// Every position, padding and masked views included.
    AllTokens,
    /// Valid tokens and the state token.
    ValidTokens,
}

/// The token that stands for the sequence in a model that pools (`return_cls_only`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PooledToken {
    /// The first one.
    First,
    /// The last one that is not masked.
    LastValid,
}

/// What the language model computes in the rows of masked tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum MaskedRows {
    /// They attend like any other row.
    Attend,
    /// Their attention output is zero in every layer, as FlashAttention's variable-length path leaves it.
    ZeroAttention,
}

/// Whether the predicted chunk is zero in its padded columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ResultMask {
    /// Padded columns keep what the integration left in them.
    Unmasked,
    /// Padded columns are zero.
    Masked,
}

/// Whether the true actions are multiplied by the mask while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum TargetMask {
    /// They are used as given; steps past the end of the episode count.
    Unmasked,
    /// They are masked, and so are steps past the end of the episode.
    Masked,
}

/// The training loss, of velocity v, target u and mask m.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// `mean((v·m − u)²) · numel / (Σm + 1e-8)`.
    MeanOfMaskedPrediction,
    /// `mean((v·m − u·m)²) · numel / (Σm + 1e-8)`.
    MeanOfMaskedPair,
    /// `Σ((v − u)²·m) / Σm`.
    SumOverMask,
}

/// How a frame is scaled to the tower's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FramePreprocessing {
    /// Pillow's bicubic on 8-bit RGB, bit for bit.
    PilBicubic,
    /// Bicubic with antialias in float, neither clamped nor rounded; a frame of the right size is only normalised.
    FloatBicubic,
    /// Truncated to 8 bit, bicubic with antialias, clamped and rounded.
    TruncatedBicubic,
}

/// Whether a normalised state is clamped.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StateClamp {
    /// To [−1, 1].
    Unit,
    /// To ± a limit, which no reference does.
    Within(f32),
    /// Not at all.
    Off,
}

/// When a state is padded with zeros to the model's width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StatePadding {
    /// State and statistics are padded first, so that padded dimensions become −1: a bug of the paper-era server,
    /// kept because its checkpoints were evaluated that way.
    BeforeNormalizing,
    /// Padded dimensions are 0.
    AfterNormalizing,
}

/// How a range of zero is kept from dividing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RangeEpsilon {
    /// 1e-8 is added to every range.
    Added,
    /// A range of zero is replaced by 1e-8.
    WhenConstant,
}

/// Where views are in the prompt that are not present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AbsentViews {
    /// Where their camera is in the order of the policy's.
    #[default]
    KeepPlace,
    /// Behind those that are present, which move to the front.
    Last,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_found_by_its_name() {
        for profile in Profile::ALL {
            assert_eq!(profile.name().parse::<Profile>().expect("a profile"), profile);
        }
        assert!("Official".parse::<Profile>().is_err());
    }

    #[test]
    fn flash_differs_from_official_in_masked_rows_only() {
        let flash = Semantics { masked_rows: MaskedRows::Attend, ..Profile::OfficialFlash.semantics() };
        assert_eq!(flash, Profile::Official.semantics());
    }
}
