//! One layer of the language model.

use burn::{
    module::Module,
    nn::{RmsNorm, RmsNormConfig},
    tensor::{Device, Tensor},
};
use evo1_core::{Trace, config::LanguageConfig, ops::rms_norm};

use super::{AttentionMask, GatedMlp, LanguageAttention, RotaryTable};

/// `x ← x + Attention(RMS₁(x))`, then `x ← x + MLP(RMS₂(x))`.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: LanguageAttention,
    post_attention_layernorm: RmsNorm,
    mlp: GatedMlp,
}

impl DecoderLayer {
    /// An uninitialised layer of the configuration's sizes.
    pub fn init(config: &LanguageConfig, device: &Device) -> Self {
        let norm = || RmsNormConfig::new(config.hidden_size).with_epsilon(config.rms_norm_eps).init(device);
        Self {
            input_layernorm: norm(),
            self_attn: LanguageAttention::init(config, device),
            post_attention_layernorm: norm(),
            mlp: GatedMlp::init(config, device),
        }
    }

    /// `x`: `[batch, tokens, hidden]` → the same shape.
    pub fn forward(&self, x: Tensor<3>, rope: &RotaryTable, mask: &AttentionMask, trace: &mut Trace) -> Tensor<3> {
        let normed = rms_norm(&self.input_layernorm, x.clone());
        trace.record("input_layernorm", &normed);
        let attended = self.self_attn.forward(normed, rope, mask, trace);
        trace.record("self_attn", &attended);
        let x = x + attended;

        let normed = rms_norm(&self.post_attention_layernorm, x.clone());
        trace.record("post_attention_layernorm", &normed);
        let gated = self.mlp.gated(normed);
        if trace.is_on() {
            trace.record("mlp", &self.mlp.project(gated.clone()));
        }
        self.mlp.project_residual(gated, x)
    }
}
