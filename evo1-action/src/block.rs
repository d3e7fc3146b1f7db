//! The block of the action expert: attention, then a feed-forward network.

use burn::{
    module::Module,
    nn::{Dropout, DropoutConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig},
    tensor::{Bool, Device, Int, Tensor},
};
use evo1_core::{
    Trace,
    config::{ActionConfig, TimeInput},
    ops::{
        attention, attention_weights, layer_norm, linear, linear_gelu, linear_residual, matmul, merge_heads,
        repeat_samples, split_heads,
    },
};

/// ε of the action expert's layer norms: PyTorch's default.
pub(crate) const LAYER_NORM_EPS: f64 = 1e-5;

/// Block of the action expert (Evo-1 paper, section 3.2.2).
///
/// `x ← x + MHA(LN₁(x), context)`, then `x ← x + FF(LN₂(x) + time)`. The context is not normed, and the time enters the
/// feed-forward network only. What takes the context's place in other integrations is [`Attended`].
///
/// With [`TimeInput::AdaLn`]: `x ← x + g₁ ⊙ MHA(LN₁(x) ⊙ (1 + c₁) + s₁, context)`, then
/// `x ← x + g₂ ⊙ FF(LN₂(x) ⊙ (1 + c₂) + s₂)`, where shift s, scale c and gate g are a linear function of the time, zero
/// at first.
#[derive(Module, Debug)]
pub struct CrossAttentionBlock {
    norm1: LayerNorm,
    cross_attention: CrossAttention,
    norm2: LayerNorm,
    feed_forward: FeedForward,
    /// Shift, scale and gate of attention and feed-forward network, of the time.
    modulation: Option<Linear>,
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

/// What the action tokens of a block attend to, as far as it stays the same over the steps of the sampler.
#[derive(Debug, Clone)]
pub enum Attended {
    /// The context.
    Context(KeyValues),
    /// The block's own normed action tokens.
    Actions,
    /// The context, then the block's own normed action tokens, in one softmax.
    ContextAndActions(KeyValues),
}

/// Keys and values of a block.
///
/// # Shapes
/// - key, value: `[batch, heads, keys, head_dim]`
/// - hidden: `[batch, 1, 1, keys]`, true where a key may not be seen
#[derive(Debug, Clone)]
pub struct KeyValues {
    key: Tensor<4>,
    value: Tensor<4>,
    hidden: Option<Tensor<4, Bool>>,
}

/// Parts of a modulation: shift, scale and gate of attention, and of the feed-forward network.
const MODULATIONS: usize = 6;

impl Attended {
    /// Every sample `times` times in a row.
    pub(crate) fn repeated(self, times: usize) -> Self {
        match self {
            Self::Context(context) => Self::Context(context.repeated(times)),
            Self::Actions => Self::Actions,
            Self::ContextAndActions(context) => Self::ContextAndActions(context.repeated(times)),
        }
    }
}

impl KeyValues {
    /// These keys and values, then `others`, all of which may be seen.
    fn followed_by(self, others: Self) -> Self {
        let [batch, _, count, _] = others.key.dims();
        let hidden = self.hidden.map(|hidden| {
            let seen = Tensor::<4, Int>::zeros([batch, 1, 1, count], &hidden.device()).bool();
            Tensor::cat(vec![hidden, seen], 3)
        });
        Self {
            key: Tensor::cat(vec![self.key, others.key], 2),
            value: Tensor::cat(vec![self.value, others.value], 2),
            hidden,
        }
    }

    /// Every sample `times` times in a row.
    fn repeated(self, times: usize) -> Self {
        Self {
            key: repeat_samples(self.key, times),
            value: repeat_samples(self.value, times),
            hidden: self.hidden.map(|hidden| repeat_samples(hidden, times)),
        }
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

    /// Keys and values of tokens.
    ///
    /// # Shapes
    /// - tokens: `[batch, keys, embed]`
    /// - hidden: `[batch, 1, 1, keys]`, true where a token may not be seen
    pub fn keys_values(&self, tokens: Tensor<3>, hidden: Option<Tensor<4, Bool>>) -> KeyValues {
        let embed = tokens.dims()[2];
        let projected = linear(&self.kv_proj, tokens);
        let heads = |start| split_heads(projected.clone().narrow(2, start, embed), self.heads);
        KeyValues { key: heads(0), value: heads(embed), hidden }
    }

    /// What x attends to, its heads side by side, before the output projection: `[batch, horizon, embed]` → the same
    /// shape.
    fn heads(&self, x: Tensor<3>, attended: &Attended, trace: &mut Trace) -> Tensor<3> {
        let KeyValues { key, value, hidden } = match attended {
            Attended::Context(context) => context.clone(),
            Attended::Actions => self.keys_values(x.clone(), None),
            Attended::ContextAndActions(context) => context.clone().followed_by(self.keys_values(x.clone(), None)),
        };
        let query = split_heads(linear(&self.q_proj, x), self.heads);
        trace.record_with("attention_weights", || attention_weights(query.clone(), key.clone(), hidden.clone()));
        merge_heads(if self.dropout.prob > 0.0 && query.device().is_autodiff() {
            matmul(self.dropout.forward(attention_weights(query, key, hidden)), value)
        } else {
            attention(query, key, value, hidden)
        })
    }

    /// Attends: `[batch, horizon, embed]` → the same shape.
    pub fn forward(&self, x: Tensor<3>, attended: &Attended, trace: &mut Trace) -> Tensor<3> {
        linear(&self.out_proj, self.heads(x, attended, trace))
    }

    /// `base` plus what x attends to: `[batch, horizon, embed]` → the same shape.
    pub fn forward_residual(&self, x: Tensor<3>, attended: &Attended, base: Tensor<3>, trace: &mut Trace) -> Tensor<3> {
        linear_residual(&self.out_proj, self.heads(x, attended, trace), None, base)
    }
}

impl CrossAttentionBlock {
    /// An uninitialised block of the configuration's sizes.
    pub fn init(config: &ActionConfig, device: &Device) -> Self {
        let embed = config.embed_dim;
        let modulation = || LinearConfig::new(embed, MODULATIONS * embed).init(device);
        Self {
            norm1: LayerNormConfig::new(embed).with_epsilon(LAYER_NORM_EPS).init(device),
            cross_attention: CrossAttention::init(config, device),
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
        self.cross_attention.dropout.prob = probability;
    }

    /// This block's keys and values of a context; see [`CrossAttention::keys_values`].
    pub fn keys_values(&self, context: Tensor<3>, hidden: Option<Tensor<4, Bool>>) -> KeyValues {
        self.cross_attention.keys_values(context, hidden)
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
    /// - output: `[batch, horizon, embed]`
    pub fn forward(&self, x: Tensor<3>, time: Tensor<3>, attended: &Attended, trace: &mut Trace) -> Tensor<3> {
        let Self { norm1, cross_attention, norm2, feed_forward: FeedForward { linear_1, linear_2 }, modulation } = self;
        let normed = layer_norm(norm1, x.clone(), LAYER_NORM_EPS);
        if modulation.is_none() {
            let x = cross_attention.forward_residual(normed, attended, x, trace);
            let timed = layer_norm(norm2, x.clone(), LAYER_NORM_EPS) + time;
            return linear_residual(linear_2, linear_gelu(linear_1, timed), None, x);
        }
        let embed = x.dims()[2];
        let modulation = time;
        let part = |index: usize| modulation.clone().narrow(2, index * embed, embed);
        let modulated = |x: Tensor<3>, shift: usize| x * (part(shift + 1) + 1.0) + part(shift);
        let x = x + part(2) * cross_attention.forward(modulated(normed, 0), attended, trace);
        let normed = modulated(layer_norm(norm2, x.clone(), LAYER_NORM_EPS), 3);
        x + part(5) * linear(linear_2, linear_gelu(linear_1, normed))
    }
}
