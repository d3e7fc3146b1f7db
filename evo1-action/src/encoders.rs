//! Encoders of the robot's state and of noisy actions.

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor, activation::relu},
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

    /// `[batch, horizon, max_action_dim]` → `[batch, horizon, embed]`.
    pub fn forward(&self, actions: Tensor<3>, embodiment: &Tensor<1, Int>) -> Tensor<3> {
        let x = relu(self.w1.forward(actions, embodiment));
        let [_, horizon, embed] = x.dims();
        let steps: Vec<usize> = (0..horizon).collect();
        let positions = sinusoid(&steps, embed, &x.device()).cast(x.dtype());
        let x = relu(self.w2.forward(x + positions.unsqueeze(), embodiment));
        self.w3.forward(x, embodiment)
    }
}
