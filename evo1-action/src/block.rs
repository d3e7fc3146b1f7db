//! The block of the action expert: attention, then a feed-forward network.

use burn::{
    module::Module,
    nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use evo1_core::{
    Trace,
    config::{ActionConfig, TimeInput},
    ops::{layer_norm, layer_norm_added, linear, linear_gelu, linear_residual},
};

use crate::attention::{KeyValues, MultiHeadAttention};

/// ε of the action expert's layer norms: PyTorch's default.
pub(crate) const LAYER_NORM_EPS: f64 = 1e-5;

/// Parts of a modulation: shift, scale and gate of attention, and of the feed-forward network.
const MODULATIONS: usize = 6;

/// Block of the action expert (Evo-1 paper, section 3.2.2).
///
/// `x ← x + MHA(LN₁(x), keys, values)`, then `x ← x + FF(LN₂(x) + time)`. Keys and values are those of the context, which
/// is not normed, or what another [integration](crate::integration) takes in its place; the time enters the feed-forward
/// network only.
///
/// With [`TimeInput::AdaLn`]: `x ← x + g₁ ⊙ MHA(LN₁(x) ⊙ (1 + c₁) + s₁, keys, values)`, then
/// `x ← x + g₂ ⊙ FF(LN₂(x) ⊙ (1 + c₂) + s₂)`, where shift s, scale c and gate g are a linear function of the time, zero
/// at first.
#[derive(Module, Debug)]
pub struct ActionBlock {
    norm1: LayerNorm,
    cross_attention: MultiHeadAttention,
    norm2: LayerNorm,
    feed_forward: FeedForward,
    /// Shift, scale and gate of attention and feed-forward network, of the time.
    modulation: Option<Linear>,
}

/// `Linear₂(GELU(Linear₁(x)))`, four times as wide inside.
#[derive(Module, Debug)]
struct FeedForward {
    linear_1: Linear,
    linear_2: Linear,
}

impl ActionBlock {
    /// An uninitialised block of the configuration's sizes.
    pub fn init(config: &ActionConfig, device: &Device) -> Self {
        let embed = config.embed_dim;
        let modulation = || LinearConfig::new(embed, MODULATIONS * embed).init(device);
        Self {
            norm1: LayerNormConfig::new(embed).with_epsilon(LAYER_NORM_EPS).init(device),
            cross_attention: MultiHeadAttention::init(config, device),
            norm2: LayerNormConfig::new(embed).with_epsilon(LAYER_NORM_EPS).init(device),
            feed_forward: FeedForward {
                linear_1: LinearConfig::new(embed, 4 * embed).init(device),
                linear_2: LinearConfig::new(4 * embed, embed).init(device),
            },
            modulation: (config.design.time == TimeInput::AdaLn).then(modulation),
        }
    }

    /// Drops attention weights with another probability while training.
    pub(crate) fn set_dropout(&mut self, probability: f64) {
        self.cross_attention.set_dropout(probability);
    }

    /// The block's attention, which makes keys and values of tokens.
    pub fn attention(&self) -> &MultiHeadAttention {
        &self.cross_attention
    }

    /// What the block makes of the time alone, for [`Self::forward`]: the time as it is, or the block's modulation,
    /// six times as wide.
    pub fn time_input(&self, time: Tensor<3>) -> Tensor<3> {
        match &self.modulation {
            Some(modulation) => linear(modulation, time),
            None => time,
        }
    }

    /// One pass through the block.
    ///
    /// # Shapes
    /// - x: `[batch, horizon, embed]`
    /// - time: `[batch or 1, 1, ..]`, what [`Self::time_input`] made of it
    /// - keys_values: of the normed action tokens, `[batch, horizon, embed]`, what they attend to
    /// - output: `[batch, horizon, embed]`
    pub fn forward(
        &self,
        x: Tensor<3>,
        time: Tensor<3>,
        keys_values: impl FnOnce(&Tensor<3>) -> KeyValues,
        trace: &mut Trace,
    ) -> Tensor<3> {
        let Self { norm1, cross_attention, norm2, feed_forward: FeedForward { linear_1, linear_2 }, modulation } = self;
        let normed = layer_norm(norm1, x.clone(), LAYER_NORM_EPS);
        if modulation.is_none() {
            let keys_values = keys_values(&normed);
            let x = cross_attention.forward_residual(normed, keys_values, x, trace);
            let timed = layer_norm_added(norm2, x.clone(), time, LAYER_NORM_EPS);
            return linear_residual(linear_2, linear_gelu(linear_1, timed), None, x);
        }
        let embed = x.dims()[2];
        let modulation = time;
        let part = |index: usize| modulation.clone().narrow(2, index * embed, embed);
        let modulated = |x: Tensor<3>, shift: usize| x * (part(shift + 1) + 1.0) + part(shift);
        let normed = modulated(normed, 0);
        let keys_values = keys_values(&normed);
        let x = x + part(2) * cross_attention.forward(normed, keys_values, trace);
        let normed = modulated(layer_norm(norm2, x.clone(), LAYER_NORM_EPS), 3);
        x + part(5) * linear(linear_2, linear_gelu(linear_1, normed))
    }
}
