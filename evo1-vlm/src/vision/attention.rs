//! Self-attention of the vision tower.

use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use evo1_core::{
    config::VisionConfig,
    ops::{attention, linear, linear_residual, merge_heads, split_heads},
};

/// Multi-head self-attention over the tokens of one tile, all projections with bias, no norm on q and k.
#[derive(Module, Debug)]
pub struct VisionAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    output: Linear,
    heads: usize,
}

impl VisionAttention {
    /// Uninitialised attention of the configuration's sizes.
    pub fn init(config: &VisionConfig, device: &Device) -> Self {
        let linear = || LinearConfig::new(config.hidden_size, config.hidden_size).init(device);
        Self { q_proj: linear(), k_proj: linear(), v_proj: linear(), output: linear(), heads: config.num_heads }
    }

    /// What the heads attend to, before the output projection; `x`: `[tiles, tokens, hidden]` → the same shape.
    pub fn attended(&self, x: Tensor<3>) -> Tensor<3> {
        let heads = |projection: &Linear| split_heads(linear(projection, x.clone()), self.heads);
        merge_heads(attention(heads(&self.q_proj), heads(&self.k_proj), heads(&self.v_proj), None))
    }

    /// The output projection of [`Self::attended`].
    pub fn project(&self, attended: Tensor<3>) -> Tensor<3> {
        linear(&self.output, attended)
    }

    /// `base + scale ⊙` [`Self::project`], all `[tiles, tokens, hidden]`.
    pub fn project_residual(&self, attended: Tensor<3>, scale: Tensor<1>, base: Tensor<3>) -> Tensor<3> {
        linear_residual(&self.output, attended, Some(scale), base)
    }
}
