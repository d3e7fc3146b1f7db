//! The projector from vision to language channels (`mlp1` in the original layout).

use burn::{
    module::Module,
    nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use evo1_core::{
    Trace,
    config::VlmConfig,
    ops::{layer_norm, linear, linear_gelu},
};

/// `Linear₂(GELU(Linear₁(LN(x))))`.
#[derive(Module, Debug)]
pub struct Projector {
    layer_norm: LayerNorm,
    linear_1: Linear,
    linear_2: Linear,
}

/// ε of the projector's layer norm: PyTorch's default, not the tower's.
const LAYER_NORM_EPS: f64 = 1e-5;

impl Projector {
    /// An uninitialised projector of the configuration's widths.
    pub fn init(config: &VlmConfig, device: &Device) -> Self {
        let input = config.vision.hidden_size * config.unshuffle_factor().pow(2);
        let output = config.language.hidden_size;
        Self {
            layer_norm: LayerNormConfig::new(input).with_epsilon(LAYER_NORM_EPS).init(device),
            linear_1: LinearConfig::new(input, output).init(device),
            linear_2: LinearConfig::new(output, output).init(device),
        }
    }

    /// Maps unshuffled tokens to visual tokens.
    ///
    /// # Shapes
    /// - tokens: `[tiles, tokens, channels · factor²]`
    /// - output: `[tiles, tokens, embed]`
    pub fn forward(&self, tokens: Tensor<3>, trace: &mut Trace) -> Tensor<3> {
        let x = layer_norm(&self.layer_norm, tokens, LAYER_NORM_EPS);
        trace.record("layer_norm", &x);
        let x = linear(&self.linear_2, linear_gelu(&self.linear_1, x));
        trace.record("out", &x);
        x
    }
}
