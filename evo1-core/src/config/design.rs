//! Choices that a study varies: the action expert's design, and the flow that it is trained and sampled with.
//!
//! The default of every choice is the published model, whose checkpoints it leaves unchanged. What is a [`Choice`] may be
//! a component of a program's own as well; which names there are is known where the components are.

use serde::{Deserialize, Serialize};

use crate::Choice;

/// The design of the published action expert, the diffusion transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Design {
    /// How action tokens meet the context (Evo-1 paper, figure 6): `mid-layer-cross`, `interleaved`, `layer-wise`,
    /// `joint-kv`.
    pub integration: Choice,
    /// For `layer-wise`: the number of language layers behind the context of each block. Empty for an even spread that
    /// ends at the last layer.
    pub layer_pairing: Vec<usize>,
    /// How the robot's state enters.
    pub state: StateInput,
    /// How the time of the flow enters.
    pub time: TimeInput,
    /// How a velocity is made of the action tokens: `seq-pool`, `per-step`.
    pub head: Choice,
}

impl Default for Design {
    fn default() -> Self {
        Self {
            integration: Choice::new("mid-layer-cross"),
            layer_pairing: Vec::new(),
            state: StateInput::default(),
            time: TimeInput::default(),
            head: Choice::new("seq-pool"),
        }
    }
}

/// How the robot's state enters the action expert.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum TimeInput {
    /// The published model: its embedding is added to the feed-forward network's input.
    #[default]
    Added,
    /// It shifts, scales and gates both parts of a block, as in DiT's adaLN-Zero.
    AdaLn,
}

/// The flow: what it starts from, at which times it is trained, at which it is integrated, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct FlowConfig {
    /// What the noise ε is drawn from, in training and sampling: `uniform`, `normal`.
    pub noise: Choice,
    /// What the time τ is drawn from while training, before it is clamped to [0.02, 0.98]: `beta(2, 2)`, any `beta(a, b)`,
    /// `uniform`, `logit-normal(mean, std)`.
    pub time_draw: Choice,
    /// The times between which the sampler steps: `uniform`, `shifted(s)`, `cosine`, `given(0, …, 1)`.
    pub grid: Choice,
    /// How the velocity field is integrated: `euler`, `heun`, `midpoint`.
    pub solver: Choice,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self {
            noise: Choice::new("uniform"),
            time_draw: Choice::with_numbers("beta", &[2.0, 2.0]),
            grid: Choice::new("uniform"),
            solver: Choice::new("euler"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_written_as_in_the_documentation() {
        let flow: FlowConfig = serde_json::from_str(r#"{"noise":"normal","time_draw":"uniform"}"#).expect("flow");
        let expected =
            FlowConfig { noise: Choice::new("normal"), time_draw: Choice::new("uniform"), ..FlowConfig::default() };
        assert_eq!(flow, expected);
        let written = serde_json::to_value(FlowConfig::default()).expect("JSON");
        assert_eq!(written["time_draw"], "beta(2, 2)");
        assert_eq!(serde_json::from_value::<FlowConfig>(written).expect("flow"), FlowConfig::default());
    }
}
