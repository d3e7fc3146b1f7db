//! The encoder of noisy actions.

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};
use evo1_core::config::ActionConfig;

use crate::category::{CategoryLinear, CategoryLinearConfig, ChosenLinear};

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
        let linear = |input| CategoryLinearConfig::new(input, embed_dim, num_categories).init(device);
        Self { w1: linear(max_action_dim), w2: linear(embed_dim), w3: linear(embed_dim) }
    }

    /// The encoder of a batch's samples, whose embodiments are `[batch]`; `steps` tells the steps of a chunk apart,
    /// `[1, horizon, embed]`.
    pub fn chosen(&self, embodiment: &Tensor<1, Int>, steps: Tensor<3>) -> ChosenEncoder {
        let [w1, w2, w3] = [&self.w1, &self.w2, &self.w3].map(|layer| layer.chosen(embodiment));
        ChosenEncoder { w1, w2, w3, steps }
    }
}

/// An [`ActionEncoder`] for the samples of a batch.
#[derive(Debug, Clone)]
pub struct ChosenEncoder {
    w1: ChosenLinear,
    w2: ChosenLinear,
    w3: ChosenLinear,
    steps: Tensor<3>,
}

impl ChosenEncoder {
    /// `[batch, horizon, max_action_dim]` → `[batch, horizon, embed]`.
    pub fn forward(&self, actions: Tensor<3>) -> Tensor<3> {
        let x = self.w1.forward_relu(actions) + self.steps.clone();
        self.w3.forward(self.w2.forward_relu(x))
    }

    /// Every sample `times` times in a row.
    pub fn repeated(self, times: usize) -> Self {
        let Self { w1, w2, w3, steps } = self;
        let [w1, w2, w3] = [w1, w2, w3].map(|layer| layer.repeated(times));
        Self { w1, w2, w3, steps }
    }
}
