//! One layer of the vision tower.

use burn::{
    module::{Module, Param},
    nn::{Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use evo1_core::{
    Trace,
    config::VisionConfig,
    ops::{layer_norm, linear, linear_gelu, linear_residual},
};

use super::VisionAttention;

/// `x ← x + λ₁ ⊙ Attention(LN₁(x))`, then `x ← x + λ₂ ⊙ MLP(LN₂(x))`.
#[derive(Module, Debug)]
pub struct VisionLayer {
    layernorm_before: LayerNorm,
    attention: VisionAttention,
    layer_scale_1: Param<Tensor<1>>,
    layernorm_after: LayerNorm,
    mlp: VisionMlp,
    layer_scale_2: Param<Tensor<1>>,
    layer_norm_eps: f64,
}

/// `fc2(GELU(fc1(x)))`.
#[derive(Module, Debug)]
struct VisionMlp {
    fc1: Linear,
    fc2: Linear,
}

impl VisionLayer {
    /// An uninitialised layer of the configuration's sizes.
    pub fn init(config: &VisionConfig, device: &Device) -> Self {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let norm = || LayerNormConfig::new(hidden).with_epsilon(config.layer_norm_eps).init(device);
        Self {
            layernorm_before: norm(),
            attention: VisionAttention::init(config, device),
            layer_scale_1: Initializer::Zeros.init([hidden], device),
            layernorm_after: norm(),
            mlp: VisionMlp {
                fc1: LinearConfig::new(hidden, intermediate).init(device),
                fc2: LinearConfig::new(intermediate, hidden).init(device),
            },
            layer_scale_2: Initializer::Zeros.init([hidden], device),
            layer_norm_eps: config.layer_norm_eps,
        }
    }

    /// `x`: `[tiles, tokens, hidden]` → the same shape.
    pub fn forward(&self, x: Tensor<3>, trace: &mut Trace) -> Tensor<3> {
        let normed = layer_norm(&self.layernorm_before, x.clone(), self.layer_norm_eps);
        trace.record("layernorm_before", &normed);
        // The branches are added where they are made, except for a trace, which wants them by themselves.
        let attended = self.attention.attended(normed);
        if trace.is_on() {
            trace.record("attention", &self.attention.project(attended.clone()));
        }
        let x = self.attention.project_residual(attended, self.layer_scale_1.val(), x);

        let normed = layer_norm(&self.layernorm_after, x.clone(), self.layer_norm_eps);
        trace.record("layernorm_after", &normed);
        let activated = linear_gelu(&self.mlp.fc1, normed);
        trace.record("mlp_act", &activated);
        if trace.is_on() {
            trace.record("mlp", &linear(&self.mlp.fc2, activated.clone()));
        }
        linear_residual(&self.mlp.fc2, activated, Some(self.layer_scale_2.val()), x)
    }
}
