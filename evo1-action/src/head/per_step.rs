//! A head that makes each step of its own token.

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};
use evo1_core::{
    Component, Result, Trace,
    config::ActionConfig,
    cost::{Cost, linear_flops},
    weights::{InitialValue, ParamSpec, pack},
};

use super::{FIELD, VelocityHead};
use crate::category::{self, CategoryMlp, CategoryMlpConfig, ChosenMlp};

/// `MLP(xᵢ)` for each step i.
#[derive(Module, Debug)]
pub struct PerStep {
    mlp_head: CategoryMlp,
}

impl Component for PerStep {
    fn names() -> Vec<&'static str> {
        vec!["per-step"]
    }
}

impl VelocityHead for PerStep {
    type Chosen = ChosenMlp;

    fn init(config: &ActionConfig, device: &Device) -> Result<Self> {
        config.design.head.require_plain(FIELD)?;
        let ActionConfig { embed_dim, hidden_dim, max_action_dim, num_categories, .. } = *config;
        let mlp_head = CategoryMlpConfig::new(embed_dim, hidden_dim, max_action_dim, num_categories).init(device);
        Ok(Self { mlp_head })
    }

    fn chosen(&self, embodiment: &Tensor<1, Int>) -> ChosenMlp {
        self.mlp_head.chosen(embodiment)
    }

    fn repeat(chosen: ChosenMlp, times: usize) -> ChosenMlp {
        chosen.repeated(times)
    }

    fn velocity(&self, x: Tensor<3>, chosen: &ChosenMlp, _: &mut Trace) -> Tensor<3> {
        chosen.forward(x)
    }

    fn costs(&self, config: &ActionConfig) -> Vec<Cost> {
        let ActionConfig { embed_dim, hidden_dim, horizon, max_action_dim, .. } = *config;
        let output = linear_flops(horizon, embed_dim, hidden_dim) + linear_flops(horizon, hidden_dim, max_action_dim);
        vec![Cost { part: "action", name: "output", parameters: vec!["mlp_head."], flops: output }]
    }

    fn packed(self) -> Self {
        pack(self)
    }

    fn initial_value(&self, spec: &ParamSpec) -> Option<InitialValue> {
        category::initial_value(spec)
    }
}
