//! Encoders of the robot's state and of noisy actions.

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};
use evo1_core::config::ActionConfig;

use crate::{
    category::{CategoryLinear, CategoryMlp},
    time::sinusoid,
};

/// The state encoder: an MLP that makes one token of a padded state, `[batch, max_state_dim]` → `[batch, embed]`.
pub fn init_state_encoder(config: &ActionConfig, device: &Device) -> CategoryMlp {
    let ActionConfig { max_state_dim, state_hidden_dim, embed_dim, num_categories, .. } = *config;
    CategoryMlp::init(max_state_dim, state_hidden_dim, embed_dim, num_categories, device)
}

/// What tells the steps of a chunk apart: `[1, horizon, embed]`.
pub fn step_table(horizon: usize, embed: usize, device: &Device) -> Tensor<3> {
    let steps: Vec<usize> = (0..horizon).collect();
    sinusoid(&steps, embed, device).unsqueeze()
}

/// The encoder of an action chunk: `W₃(ReLU(W₂(ReLU(W₁(a)) + sinusoid(step))))`, each step by itself.
#[derive(Module, Debug)]
pub struct ActionEncoder {
    w1: CategoryLinear,
    w2: CategoryLinear,
    w3: CategoryLinear,
}

impl ActionEncoder {
    /// An uninitialised encoder of the configuration's sizes.
    pub fn init(config: &ActionConfig, device: &Device) -> Self {
        let ActionConfig { max_action_dim, embed_dim, num_categories, .. } = *config;
        let linear = |input| CategoryLinear::init(input, embed_dim, num_categories, device);
        Self { w1: linear(max_action_dim), w2: linear(embed_dim), w3: linear(embed_dim) }
    }

    /// `[batch, horizon, max_action_dim]` → `[batch, horizon, embed]`; `steps` is [`step_table`] for the horizon.
    pub fn forward(&self, actions: Tensor<3>, steps: Tensor<3>, embodiment: &Tensor<1, Int>) -> Tensor<3> {
        let x = self.w1.forward_relu(actions, embodiment) + steps;
        let x = self.w2.forward_relu(x, embodiment);
        self.w3.forward(x, embodiment)
    }
}
