//! The block of the action expert: cross-attention to the context, then a feed-forward network.

use burn::{
    module::Module,
    nn::{Dropout, DropoutConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig},
    tensor::{Bool, Device, Tensor},
};
use evo1_core::{
    config::ActionConfig,
    ops::{
        attention, attention_weights, layer_norm, linear, linear_gelu, linear_residual, merge_heads, repeat_samples,
        split_heads,
    },
};

/// ε of the action expert's layer norms: PyTorch's default.
pub(crate) const LAYER_NORM_EPS: f64 = 1e-5;

/// Cross-attention block of the action expert (Evo-1 paper, section 3.2.2).
///
/// `x ← x + MHA(LN₁(x), context)`, then `x ← x + FF(LN₂(x) + time)`. The context is not normed, and the time enters the
/// feed-forward network only.
#[derive(Module, Debug)]
pub struct CrossAttentionBlock {
    norm1: LayerNorm,
    cross_attention: CrossAttention,
    norm2: LayerNorm,
    feed_forward: FeedForward,
}

/// Multi-head attention of action tokens to the context.
#[derive(Module, Debug)]
pub struct CrossAttention {
    q_proj: Linear,
    /// Keys and values in one projection: the first half of the output are the keys.
    kv_proj: Linear,
    out_proj: Linear,
    /// Drops attention weights, while training only.
    dropout: Dropout,
    heads: usize,
}

/// `Linear₂(GELU(Linear₁(x)))`, four times as wide inside.
#[derive(Module, Debug)]
struct FeedForward {
    linear_1: Linear,
    linear_2: Linear,
}

/// A block's keys and values of the context. They do not change over the steps of the sampler.
///
/// # Shapes
/// - key, value: `[batch, heads, context_len, head_dim]`
#[derive(Debug, Clone)]
pub struct KeyValues {
    key: Tensor<4>,
    value: Tensor<4>,
}

impl KeyValues {
    /// Every sample `times` times in a row.
    pub(crate) fn repeated(self, times: usize) -> Self {
        Self { key: repeat_samples(self.key, times), value: repeat_samples(self.value, times) }
    }
}

impl CrossAttention {
    /// Uninitialised attention of the configuration's sizes.
    pub fn init(config: &ActionConfig, device: &Device) -> Self {
        let linear = |output| LinearConfig::new(config.embed_dim, output).init(device);
        Self {
            q_proj: linear(config.embed_dim),
            kv_proj: linear(2 * config.embed_dim),
            out_proj: linear(config.embed_dim),
            dropout: DropoutConfig::new(config.dropout).init(),
            heads: config.num_heads,
        }
    }

    /// Keys and values of the context, `[batch, context_len, embed]`.
    pub fn keys_values(&self, context: Tensor<3>) -> KeyValues {
        let embed = context.dims()[2];
        let projected = linear(&self.kv_proj, context);
        let heads = |start| split_heads(projected.clone().narrow(2, start, embed), self.heads);
        KeyValues { key: heads(0), value: heads(embed) }
    }

    /// `base` plus what x attends to in a context.
    ///
    /// # Shapes
    /// - x, base: `[batch, horizon, embed]`
    /// - hidden: `[batch, 1, 1, context_len]`, true where the context may not be seen
    /// - output: `[batch, horizon, embed]`
    pub fn forward_residual(
        &self,
        x: Tensor<3>,
        context: &KeyValues,
        hidden: Option<&Tensor<4, Bool>>,
        base: Tensor<3>,
    ) -> Tensor<3> {
        let query = split_heads(linear(&self.q_proj, x), self.heads);
        let KeyValues { key, value } = context.clone();
        let hidden = hidden.cloned();
        let attended = if self.dropout.prob > 0.0 && query.device().is_autodiff() {
            self.dropout.forward(attention_weights(query, key, hidden)).matmul(value)
        } else {
            attention(query, key, value, hidden)
        };
        linear_residual(&self.out_proj, merge_heads(attended), None, base)
    }
}

impl CrossAttentionBlock {
    /// An uninitialised block of the configuration's sizes.
    pub fn init(config: &ActionConfig, device: &Device) -> Self {
        let embed = config.embed_dim;
        Self {
            norm1: LayerNormConfig::new(embed).with_epsilon(LAYER_NORM_EPS).init(device),
            cross_attention: CrossAttention::init(config, device),
            norm2: LayerNormConfig::new(embed).with_epsilon(LAYER_NORM_EPS).init(device),
            feed_forward: FeedForward {
                linear_1: LinearConfig::new(embed, 4 * embed).init(device),
                linear_2: LinearConfig::new(4 * embed, embed).init(device),
            },
        }
    }

    /// Drops attention weights with another probability while training.
    pub(crate) fn set_dropout(&mut self, probability: f64) {
        self.cross_attention.dropout.prob = probability;
    }

    /// This block's keys and values of the context, `[batch, context_len, embed]`.
    pub fn keys_values(&self, context: Tensor<3>) -> KeyValues {
        self.cross_attention.keys_values(context)
    }

    /// One pass through the block.
    ///
    /// # Shapes
    /// - x: `[batch, horizon, embed]`
    /// - time: `[batch or 1, 1, embed]`
    /// - hidden: `[batch, 1, 1, context_len]`
    /// - output: `[batch, horizon, embed]`
    pub fn forward(
        &self,
        x: Tensor<3>,
        time: Tensor<3>,
        context: &KeyValues,
        hidden: Option<&Tensor<4, Bool>>,
    ) -> Tensor<3> {
        let normed = layer_norm(&self.norm1, x.clone(), LAYER_NORM_EPS);
        let x = self.cross_attention.forward_residual(normed, context, hidden, x);
        let timed = layer_norm(&self.norm2, x.clone(), LAYER_NORM_EPS) + time;
        let activated = linear_gelu(&self.feed_forward.linear_1, timed);
        linear_residual(&self.feed_forward.linear_2, activated, None, x)
    }
}
