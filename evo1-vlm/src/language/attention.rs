//! Grouped-query causal self-attention of the language model.

use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Bool, DType, Device, Tensor},
};
use evo1_core::{
    Trace,
    config::{LanguageConfig, MaskedRows},
    ops::{attention, attention_weights, linear, merge_heads, split_heads},
};

use super::RotaryTable;
use crate::TokenBatch;

/// Multi-head attention whose key and value heads serve groups of query heads. q, k and v have a bias, the output has
/// none.
#[derive(Module, Debug)]
pub struct LanguageAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    heads: usize,
    kv_heads: usize,
}

/// Who may attend to whom in a batch.
#[derive(Debug, Clone)]
pub struct AttentionMask {
    /// True where a query may not see a key: later tokens and hidden ones. `[batch or 1, 1, tokens, tokens]`
    pub hidden: Tensor<4, Bool>,
    /// 0 in the rows whose attention output is to be zero, 1 elsewhere. `[batch, tokens, 1]`
    pub row_scale: Option<Tensor<3>>,
}

impl AttentionMask {
    /// The mask of a batch: causal, and no hidden key.
    pub fn new(tokens: &TokenBatch, masked_rows: MaskedRows, device: &Device) -> Self {
        Self::of(tokens, causal(tokens.dims()[1], device), masked_rows)
    }

    /// [`Self::new`] with the mask of [`causal`] attention for as many tokens.
    pub(super) fn of(tokens: &TokenBatch, causal: Tensor<4, Bool>, masked_rows: MaskedRows) -> Self {
        let [batch, length] = tokens.dims();
        if tokens.is_all_visible() {
            return Self { hidden: causal, row_scale: None };
        }
        let hidden = tokens.hidden(&causal.device());
        let keys = hidden.clone().reshape([batch, 1, 1, length]).expand([batch, 1, length, length]);
        let row_scale = match masked_rows {
            MaskedRows::Attend => None,
            MaskedRows::ZeroAttention => Some(hidden.bool_not().float().cast(DType::F32).reshape([batch, length, 1])),
        };
        Self { hidden: causal.expand([batch, 1, length, length]).bool_or(keys), row_scale }
    }
}

/// True where a query may not see a key because it comes later, `[1, 1, tokens, tokens]`.
pub(super) fn causal(tokens: usize, device: &Device) -> Tensor<4, Bool> {
    Tensor::<2, Bool>::tril_mask([tokens, tokens], 0, device).unsqueeze()
}

impl LanguageAttention {
    /// Uninitialised attention of the configuration's sizes.
    pub fn init(config: &LanguageConfig, device: &Device) -> Self {
        let LanguageConfig { hidden_size, num_heads, num_kv_heads, .. } = *config;
        let linear = |output| LinearConfig::new(hidden_size, output).init(device);
        let kv_width = num_kv_heads * config.head_dim();
        Self {
            q_proj: linear(hidden_size),
            k_proj: linear(kv_width),
            v_proj: linear(kv_width),
            o_proj: LinearConfig::new(hidden_size, hidden_size).with_bias(false).init(device),
            heads: num_heads,
            kv_heads: num_kv_heads,
        }
    }

    /// `x`: `[batch, tokens, hidden]` → the same shape.
    pub fn forward(&self, x: Tensor<3>, rope: &RotaryTable, mask: &AttentionMask, trace: &mut Trace) -> Tensor<3> {
        let query = linear(&self.q_proj, x.clone());
        let key = linear(&self.k_proj, x.clone());
        let value = linear(&self.v_proj, x);
        trace.record("q_proj", &query);
        trace.record("k_proj", &key);
        trace.record("v_proj", &value);

        let query = rope.rotate(split_heads(query, self.heads));
        let key = rope.rotate(split_heads(key, self.kv_heads));
        let value = split_heads(value, self.kv_heads);
        trace.record_with("attention_weights", || {
            attention_weights(query.clone(), shared(key.clone(), self.heads), Some(mask.hidden.clone()))
        });
        let attended = merge_heads(attention(query, key, value, Some(mask.hidden.clone())));
        let attended = match &mask.row_scale {
            Some(scale) => attended.clone() * scale.clone().cast(attended.dtype()),
            None => attended,
        };
        linear(&self.o_proj, attended)
    }
}

/// Key heads repeated for the query heads of their group: head `h` serves queries `h·g .. (h + 1)·g`.
fn shared(key: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, kv_heads, tokens, head_dim] = key.dims();
    key.unsqueeze_dim::<5>(2)
        .expand([batch, kv_heads, heads / kv_heads, tokens, head_dim])
        .reshape([batch, heads, tokens, head_dim])
}
