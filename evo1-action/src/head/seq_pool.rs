//! The published head: the chunk becomes one token, and that all steps.

use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, Int, Tensor},
};
use evo1_core::{
    Component, Result, Trace,
    config::ActionConfig,
    cost::{Cost, linear_flops},
    ops::linear,
    weights::{InitialValue, ParamSpec, pack},
};

use super::{FIELD, VelocityHead};
use crate::category::{self, CategoryMlp, CategoryMlpConfig, ChosenMlp};

/// `MLP(W · concat(x₁ … x_H))`, as one vector of all steps.
#[derive(Module, Debug)]
pub struct SeqPool {
    /// Makes one token of a whole chunk. Checkpoints have it even where the horizon is 1 and nothing uses it.
    seq_pool_proj: Linear,
    mlp_head: CategoryMlp,
    /// Width of an action.
    width: usize,
}

impl SeqPool {
    /// The weight that pools a chunk into one token, `[horizon · embed, embed]`, a third of the expert's parameters.
    pub fn pooling_weight(&self) -> Tensor<2> {
        self.seq_pool_proj.weight.val()
    }
}

impl Component for SeqPool {
    fn names() -> Vec<&'static str> {
        vec!["seq-pool"]
    }
}

impl VelocityHead for SeqPool {
    type Chosen = ChosenMlp;

    fn init(config: &ActionConfig, device: &Device) -> Result<Self> {
        config.design.head.require_plain(FIELD)?;
        let ActionConfig { embed_dim, hidden_dim, horizon, max_action_dim, num_categories, .. } = *config;
        Ok(Self {
            seq_pool_proj: LinearConfig::new(horizon * embed_dim, embed_dim).init(device),
            mlp_head: CategoryMlpConfig::new(embed_dim, hidden_dim, horizon * max_action_dim, num_categories)
                .init(device),
            width: max_action_dim,
        })
    }

    fn chosen(&self, embodiment: &Tensor<1, Int>) -> ChosenMlp {
        self.mlp_head.chosen(embodiment)
    }

    fn repeat(chosen: ChosenMlp, times: usize) -> ChosenMlp {
        chosen.repeated(times)
    }

    fn velocity(&self, x: Tensor<3>, chosen: &ChosenMlp, trace: &mut Trace) -> Tensor<3> {
        let [batch, horizon, embed] = x.dims();
        let flat = x.reshape([batch, horizon * embed]);
        let pooled = if horizon > 1 { linear(&self.seq_pool_proj, flat) } else { flat };
        trace.record("pooled", &pooled);
        chosen.forward(pooled.unsqueeze_dim(1)).reshape([batch, horizon, self.width])
    }

    fn costs(&self, config: &ActionConfig) -> Vec<Cost> {
        let ActionConfig { embed_dim, hidden_dim, horizon, max_action_dim, .. } = *config;
        let pooling = if horizon > 1 { linear_flops(horizon, embed_dim, embed_dim) } else { 0 };
        let output = linear_flops(1, embed_dim, hidden_dim) + linear_flops(1, hidden_dim, horizon * max_action_dim);
        vec![
            Cost { part: "action", name: "pooling", parameters: vec!["seq_pool_proj."], flops: pooling },
            Cost { part: "action", name: "output", parameters: vec!["mlp_head."], flops: output },
        ]
    }

    fn packed(self) -> Self {
        pack(self)
    }

    fn initial_value(&self, spec: &ParamSpec) -> Option<InitialValue> {
        category::initial_value(spec)
    }
}
