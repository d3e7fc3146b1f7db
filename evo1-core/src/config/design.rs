//! Choices that a study varies: the action expert's design, and the flow that it is trained and sampled with.
//!
//! The default of every choice is the published model, whose checkpoints it leaves unchanged.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::check_fields;
use crate::Result;

/// The action expert's design.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Design {
    /// How action tokens meet the context.
    pub integration: Integration,
    /// For [`Integration::LayerWise`]: the number of language layers behind the context of each block. Empty for an even
    /// spread that ends at the last layer ([`Self::context_layers`]).
    pub layer_pairing: Vec<usize>,
    /// How the robot's state enters.
    pub state: StateInput,
    /// How the time of the flow enters.
    pub time: TimeInput,
    /// How a velocity is made of the action tokens.
    pub head: VelocityHead,
}

/// How action tokens meet the context (Evo-1 paper, figure 6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Integration {
    /// A, the published model: every block attends to the language model's output.
    #[default]
    MidLayerCross,
    /// B: blocks attend in turn to the language model's output and to the action tokens.
    Interleaved,
    /// C: every block attends to the output of a language layer of its own.
    LayerWise,
    /// D: every block attends to the language model's output and the action tokens in one softmax.
    JointKv,
}

impl Integration {
    /// Every variant, in the order of the figure.
    pub const ALL: [Self; 4] = [Self::MidLayerCross, Self::Interleaved, Self::LayerWise, Self::JointKv];
}

/// How the robot's state enters the action expert.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateInput {
    /// The published model: as one more token of the context.
    #[default]
    Token,
    /// Its token is added to every action token.
    PerStep,
    /// Not at all.
    Absent,
}

/// How the time of the flow enters a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeInput {
    /// The published model: its embedding is added to the feed-forward network's input.
    #[default]
    Added,
    /// It shifts, scales and gates both parts of a block, as in DiT's adaLN-Zero.
    AdaLn,
}

/// How a velocity is made of the action tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VelocityHead {
    /// The published model: the chunk is pooled into one token, from which all steps are made.
    #[default]
    SeqPool,
    /// Each step is made of its own token.
    PerStep,
}

impl Design {
    /// The number of language layers behind the context of each of `blocks` blocks, when `layers` are kept; empty unless
    /// the integration is layer-wise.
    ///
    /// Without a pairing of its own, block `i` reads layer `⌈(i + 1) · layers / blocks⌉`: the figure leaves it open, and
    /// this spreads the blocks over all layers and gives the last one what the published model gives to all.
    pub fn context_layers(&self, blocks: usize, layers: usize) -> Vec<usize> {
        match self.integration {
            Integration::LayerWise if self.layer_pairing.is_empty() => {
                (1..=blocks).map(|block| (block * layers).div_ceil(blocks)).collect()
            }
            Integration::LayerWise => self.layer_pairing.clone(),
            Integration::MidLayerCross | Integration::Interleaved | Integration::JointKv => Vec::new(),
        }
    }

    /// Fails unless the pairing fits `blocks` blocks and `layers` language layers.
    pub(super) fn validate(&self, origin: &str, blocks: usize, layers: usize) -> Result<()> {
        let pairing = &self.layer_pairing;
        let is_layer_wise = self.integration == Integration::LayerWise;
        let field = "design.layer_pairing";
        let expected_layers = format!("language layers from 1 to {layers}");
        let expected_count = format!("one language layer for each of the {blocks} blocks, or empty");
        for (holds, expected) in [
            (is_layer_wise || pairing.is_empty(), "empty unless the integration is layer-wise"),
            (pairing.is_empty() || pairing.len() == blocks, expected_count.as_str()),
            (pairing.iter().all(|layer| (1..=layers).contains(layer)), expected_layers.as_str()),
        ] {
            if !holds {
                return Err(crate::Error::invalid(origin, field, expected, format!("{pairing:?}")));
            }
        }
        Ok(())
    }
}

/// The flow: what it starts from, at which times it is trained, and how it is integrated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowConfig {
    /// What ε is drawn from, in training and sampling.
    pub noise: NoiseKind,
    /// What τ is drawn from while training.
    pub time_draw: TimeDraw,
    /// How the velocity field is integrated.
    pub solver: Solver,
}

/// What the noise ε is drawn from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseKind {
    /// The published model: uniform in [−1, 1).
    #[default]
    Uniform,
    /// Normal, as most flow-matching policies draw it.
    Normal,
}

/// What the time τ is drawn from while training; it is then clamped to [0.02, 0.98]. In files it is written as it is
/// displayed: `beta(2, 2)`, `uniform`, `logit-normal(0, 1)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum TimeDraw {
    /// Beta(α, β); the published model's is Beta(2, 2).
    Beta {
        /// α.
        alpha: f32,
        /// β.
        beta: f32,
    },
    /// Uniform.
    Uniform,
    /// The logistic function of a normal variable.
    LogitNormal {
        /// Its mean.
        mean: f32,
        /// Its standard deviation.
        std: f32,
    },
}

impl Default for TimeDraw {
    fn default() -> Self {
        Self::Beta { alpha: 2.0, beta: 2.0 }
    }
}

impl Display for TimeDraw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beta { alpha, beta } => write!(f, "beta({alpha}, {beta})"),
            Self::Uniform => f.write_str("uniform"),
            Self::LogitNormal { mean, std } => write!(f, "logit-normal({mean}, {std})"),
        }
    }
}

impl From<TimeDraw> for String {
    fn from(draw: TimeDraw) -> Self {
        draw.to_string()
    }
}

impl TryFrom<String> for TimeDraw {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parameters = |name: &str| {
            let inside = text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')?;
            let (first, second) = inside.split_once(',')?;
            Some((first.trim().parse().ok()?, second.trim().parse().ok()?))
        };
        if text == "uniform" {
            return Ok(Self::Uniform);
        }
        let beta = parameters("beta").map(|(alpha, beta)| Self::Beta { alpha, beta });
        let logit_normal = || parameters("logit-normal").map(|(mean, std)| Self::LogitNormal { mean, std });
        beta.or_else(logit_normal)
            .ok_or_else(|| format!("expected `beta(a, b)`, `uniform` or `logit-normal(mean, std)`, got `{text}`"))
    }
}

/// How the velocity field is integrated from noise to actions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Solver {
    /// The published model: one evaluation a step.
    #[default]
    Euler,
    /// The mean of the velocities at a step's start and at Euler's end: second order, two evaluations a step.
    Heun,
    /// The velocity in the middle of a step: second order, two evaluations a step.
    Midpoint,
}

impl Solver {
    /// Evaluations of the velocity field in a step.
    pub fn evaluations(self) -> usize {
        match self {
            Self::Euler => 1,
            Self::Heun | Self::Midpoint => 2,
        }
    }
}

impl FlowConfig {
    /// Fails unless every distribution has parameters that it can have.
    pub(super) fn validate(&self, origin: &str) -> Result<()> {
        let positive = |value: f32| value.is_finite() && value > 0.0;
        let got = |value: &dyn Display| value.to_string();
        match self.time_draw {
            TimeDraw::Uniform => Ok(()),
            TimeDraw::Beta { alpha, beta } => check_fields(
                origin,
                [
                    (positive(alpha), ("flow.time_draw", "beta(a, b) with a above 0", got(&alpha))),
                    (positive(beta), ("flow.time_draw", "beta(a, b) with b above 0", got(&beta))),
                ],
            ),
            TimeDraw::LogitNormal { mean, std } => check_fields(
                origin,
                [
                    (mean.is_finite(), ("flow.time_draw", "logit-normal with a finite mean", got(&mean))),
                    (positive(std), ("flow.time_draw", "logit-normal with a deviation above 0", got(&std))),
                ],
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PolicyConfig;

    fn layer_wise(layer_pairing: Vec<usize>) -> Design {
        Design { integration: Integration::LayerWise, layer_pairing, ..Design::default() }
    }

    #[test]
    fn blocks_are_spread_over_all_layers_and_end_at_the_last() {
        assert_eq!(layer_wise(vec![]).context_layers(8, 14), [2, 4, 6, 7, 9, 11, 13, 14]);
        assert_eq!(layer_wise(vec![]).context_layers(4, 2), [1, 1, 2, 2]);
        assert_eq!(layer_wise(vec![3, 1]).context_layers(2, 14), [3, 1]);
        assert!(Design::default().context_layers(8, 14).is_empty());
    }

    #[test]
    fn a_pairing_that_does_not_fit_is_refused() {
        let message = |design: Design| {
            let mut config = PolicyConfig::tiny();
            config.action.design = design;
            config.validate("run").expect_err("must be refused").to_string()
        };
        assert!(message(layer_wise(vec![1])).contains("one language layer for each of the 2 blocks"));
        assert!(message(layer_wise(vec![1, 3])).contains("language layers from 1 to 2, got [1, 3]"));
        let other = Design { integration: Integration::JointKv, ..layer_wise(vec![1, 2]) };
        assert!(message(other).contains("empty unless the integration is layer-wise"));
    }

    #[test]
    fn a_distribution_that_is_none_is_refused() {
        let mut config = PolicyConfig::tiny();
        config.flow.time_draw = TimeDraw::Beta { alpha: 0.0, beta: 1.0 };
        let message = config.validate("run").expect_err("must be refused").to_string();
        assert_eq!(message, "run: `flow.time_draw` must be beta(a, b) with a above 0, got 0");
    }

    #[test]
    fn choices_are_written_as_in_the_documentation() {
        let flow: FlowConfig = serde_json::from_str(r#"{"noise":"normal","time_draw":"uniform"}"#).expect("flow");
        assert_eq!(
            flow,
            FlowConfig { noise: NoiseKind::Normal, time_draw: TimeDraw::Uniform, ..FlowConfig::default() }
        );
        for draw in [TimeDraw::default(), TimeDraw::Uniform, TimeDraw::LogitNormal { mean: -0.5, std: 1.0 }] {
            assert_eq!(TimeDraw::try_from(draw.to_string()), Ok(draw));
        }
        let error =
            serde_json::from_str::<FlowConfig>(r#"{"time_draw":"gamma(1, 2)"}"#).expect_err("unknown").to_string();
        assert!(error.contains("`logit-normal(mean, std)`, got `gamma(1, 2)`"), "{error}");
        let error = serde_json::from_str::<Design>(r#"{"integration":"mid"}"#).expect_err("unknown").to_string();
        assert!(error.contains("`mid-layer-cross`, `interleaved`, `layer-wise`, `joint-kv`"), "{error}");
    }
}
