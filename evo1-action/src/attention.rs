//! Multi-head attention of the action expert, with keys and values apart from it.

use burn::{
    module::Module,
    nn::{Dropout, DropoutConfig, Linear, LinearConfig},
    tensor::{Bool, Device, Int, Tensor},
};
use evo1_core::{
    Context, Trace,
    config::ActionConfig,
    ops::{attention, attention_weights, linear, linear_residual, matmul, merge_heads, repeat_samples, split_heads},
};

/// Attention of action tokens to whatever an [integration](crate::integration) makes keys and values of.
#[derive(Module, Debug)]
pub struct MultiHeadAttention {
    q_proj: Linear,
    /// Keys, then values, in one product.
    kv_proj: Linear,
    out_proj: Linear,
    dropout: Dropout,
    heads: usize,
}

/// Keys and values of a block.
///
/// # Shapes
/// - key, value: `[batch, heads, keys, head_dim]`
/// - hidden: `[batch, 1, 1, keys]`, true where a key may not be seen; `None` when every key may
#[derive(Debug, Clone)]
pub struct KeyValues {
    /// Keys.
    pub key: Tensor<4>,
    /// Values.
    pub value: Tensor<4>,
    /// Keys that may not be seen.
    pub hidden: Option<Tensor<4, Bool>>,
}

impl KeyValues {
    /// These keys and values, then `others`, all of which may be seen.
    pub fn followed_by(self, others: Self) -> Self {
        let [batch, _, count, _] = others.key.dims();
        let hidden = self.hidden.map(|hidden| {
            let visible = Tensor::<4, Int>::zeros([batch, 1, 1, count], &hidden.device()).bool();
            Tensor::cat(vec![hidden, visible], 3)
        });
        Self {
            key: Tensor::cat(vec![self.key, others.key], 2),
            value: Tensor::cat(vec![self.value, others.value], 2),
            hidden,
        }
    }

    /// Every sample `times` times in a row.
    pub fn repeated(self, times: usize) -> Self {
        Self {
            key: repeat_samples(self.key, times),
            value: repeat_samples(self.value, times),
            hidden: self.hidden.map(|hidden| repeat_samples(hidden, times)),
        }
    }
}

impl MultiHeadAttention {
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

    /// Drops attention weights with another probability while training.
    pub(crate) fn set_dropout(&mut self, probability: f64) {
        self.dropout.prob = probability;
    }

    /// Keys and values of tokens.
    ///
    /// # Shapes
    /// - tokens: `[batch, keys, embed]`
    /// - hidden: `[batch, keys]`, true where a token may not be seen
    pub fn keys_values(&self, tokens: Tensor<3>, hidden: Option<Tensor<2, Bool>>) -> KeyValues {
        let [batch, keys, embed] = tokens.dims();
        let projected = linear(&self.kv_proj, tokens);
        let heads = |start| split_heads(projected.clone().narrow(2, start, embed), self.heads);
        let hidden = hidden.map(|hidden| hidden.reshape([batch, 1, 1, keys]));
        KeyValues { key: heads(0), value: heads(embed), hidden }
    }

    /// Keys and values of a context's tokens, of which hidden ones stay hidden.
    pub fn of_context(&self, context: &Context) -> KeyValues {
        self.keys_values(context.tokens.clone(), context.hidden.clone())
    }

    /// What x attends to, its heads side by side, before the output projection: `[batch, horizon, embed]` → the same
    /// shape.
    fn heads(&self, x: Tensor<3>, KeyValues { key, value, hidden }: KeyValues, trace: &mut Trace) -> Tensor<3> {
        let query = split_heads(linear(&self.q_proj, x), self.heads);
        trace.record_with("attention_weights", || attention_weights(query.clone(), key.clone(), hidden.clone()));
        merge_heads(if self.dropout.prob > 0.0 && query.device().is_autodiff() {
            matmul(self.dropout.forward(attention_weights(query, key, hidden)), value)
        } else {
            attention(query, key, value, hidden)
        })
    }

    /// Attends: `[batch, horizon, embed]` → the same shape.
    pub fn forward(&self, x: Tensor<3>, keys_values: KeyValues, trace: &mut Trace) -> Tensor<3> {
        linear(&self.out_proj, self.heads(x, keys_values, trace))
    }

    /// `base` plus what x attends to: `[batch, horizon, embed]` → the same shape.
    pub fn forward_residual(
        &self,
        x: Tensor<3>,
        keys_values: KeyValues,
        base: Tensor<3>,
        trace: &mut Trace,
    ) -> Tensor<3> {
        linear_residual(&self.out_proj, self.heads(x, keys_values, trace), None, base)
    }
}
