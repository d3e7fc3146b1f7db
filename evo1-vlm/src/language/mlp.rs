//! The gated MLP of the language model.

use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use evo1_core::{
    config::LanguageConfig,
    ops::{linear, linear_residual, swiglu},
};

/// SwiGLU: `down(SiLU(gate(x)) ⊙ up(x))`, without biases.
#[derive(Module, Debug)]
pub struct GatedMlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl GatedMlp {
    /// An uninitialised MLP of the configuration's sizes.
    pub fn init(config: &LanguageConfig, device: &Device) -> Self {
        let linear = |input, output| LinearConfig::new(input, output).with_bias(false).init(device);
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        Self {
            gate_proj: linear(hidden, intermediate),
            up_proj: linear(hidden, intermediate),
            down_proj: linear(intermediate, hidden),
        }
    }

    /// `SiLU(gate(x)) ⊙ up(x)`: `[batch, tokens, hidden]` → `[batch, tokens, intermediate]`.
    pub fn gated(&self, x: Tensor<3>) -> Tensor<3> {
        swiglu(linear(&self.gate_proj, x.clone()), linear(&self.up_proj, x))
    }

    /// The down projection of [`Self::gated`], `[batch, tokens, hidden]`.
    pub fn project(&self, gated: Tensor<3>) -> Tensor<3> {
        linear(&self.down_proj, gated)
    }

    /// `base` + [`Self::project`], both `[batch, tokens, hidden]`.
    pub fn project_residual(&self, gated: Tensor<3>, base: Tensor<3>) -> Tensor<3> {
        linear_residual(&self.down_proj, gated, None, base)
    }
}
