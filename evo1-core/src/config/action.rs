//! Dimensions of the action expert.

use serde::{Deserialize, Serialize};

use super::{Design, MAX_LAYERS, check_fields};
use crate::{Choice, Result};

/// The action expert: what makes a velocity of noisy actions, a time, a context and a state.
///
/// An action expert of another name has settings of its own beside its name, and uses of the other fields what it needs:
/// `embed_dim`, `horizon`, the padded widths and `num_categories` describe what it is given and what it has to give.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ActionConfig {
    /// Which action expert: `diffusion-transformer`, the published one.
    #[serde(default = "ActionConfig::published_expert")]
    pub expert: Choice,
    /// Channels of a token, equal to the language model's: 896.
    pub embed_dim: usize,
    /// Channels inside the velocity head: 1024.
    pub hidden_dim: usize,
    /// Channels inside the state encoder: 1024.
    pub state_hidden_dim: usize,
    /// Attention heads: 8.
    pub num_heads: usize,
    /// Cross-attention blocks: 8.
    pub num_layers: usize,
    /// Steps of an action chunk: 50.
    pub horizon: usize,
    /// Padded width of one action: 24.
    pub max_action_dim: usize,
    /// Padded width of the state: 24.
    pub max_state_dim: usize,
    /// Embodiments with weights of their own; 0 and 1 both mean one shared set.
    pub num_categories: usize,
    /// Probability with which attention weights are dropped while training: 0.2 in the recipe.
    pub dropout: f64,
    /// How it is built: as published, unless a study varies it.
    #[serde(default)]
    pub design: Design,
}

impl ActionConfig {
    /// The published action expert.
    pub fn evo1() -> Self {
        Self {
            expert: Self::published_expert(),
            embed_dim: 896,
            hidden_dim: 1024,
            state_hidden_dim: 1024,
            num_heads: 8,
            num_layers: 8,
            horizon: 50,
            max_action_dim: 24,
            max_state_dim: 24,
            num_categories: 1,
            dropout: 0.2,
            design: Design::default(),
        }
    }

    /// The name of the published action expert.
    pub fn published_expert() -> Choice {
        Choice::new("diffusion-transformer")
    }

    /// Fails unless the dimensions fit together. `origin` names the file in the message.
    pub fn validate(&self, origin: &str) -> Result<()> {
        let Self { embed_dim, num_heads, .. } = *self;
        let positive = "a whole number of at least 1";
        check_fields(
            origin,
            [
                (self.horizon > 0, ("chunk_size", positive, "0".into())),
                (
                    (1..=MAX_LAYERS).contains(&self.num_layers),
                    ("num_layers", "from 1 to 1000", self.num_layers.to_string()),
                ),
                (self.hidden_dim > 0, ("hidden_dim", positive, "0".into())),
                (self.state_hidden_dim > 0, ("state_hidden_dim", positive, "0".into())),
                (self.max_action_dim > 0, ("max_action_dim", positive, "0".into())),
                (self.max_state_dim > 0, ("max_state_dim", positive, "0".into())),
                (
                    num_heads > 0 && embed_dim > 0 && embed_dim.is_multiple_of(num_heads),
                    ("num_heads", "a divisor of embed_dim", format!("{num_heads} for {embed_dim}")),
                ),
                (embed_dim.is_multiple_of(2), ("embed_dim", "even, for the sinusoids", embed_dim.to_string())),
                ((0.0..1.0).contains(&self.dropout), ("dropout", "from 0 to below 1", self.dropout.to_string())),
            ],
        )
    }
}
