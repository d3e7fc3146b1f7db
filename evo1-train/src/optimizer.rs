//! AdamW over two groups of parameters, and the clipping of the global gradient norm.

use burn::{
    module::{Module, ModuleVisitor, Param, ParamGroup},
    optim::{AdamWConfig, GradientsParams, ModuleOptimizer},
    tensor::Tensor,
};
use evo1::device::read;
use serde::{Deserialize, Serialize};

use crate::{Result, parameters::parameters};

/// AdamW and the norm that gradients are clipped to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// The largest learning rate, reached at the end of the warm-up: 1e-5.
    pub learning_rate: f64,
    /// Decay of the first and of the second moment: 0.9 and 0.999.
    pub betas: (f32, f32),
    /// Added to the root of the second moment: 1e-8.
    pub epsilon: f32,
    /// Decoupled weight decay of weights: 1e-5. Biases, one-dimensional parameters and norms have none.
    pub weight_decay: f32,
    /// Gradients whose norm over all trained parameters is larger are scaled down to it: 1. With `null` nothing is
    /// clipped.
    pub clip_norm: Option<f64>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self { learning_rate: 1e-5, betas: (0.9, 0.999), epsilon: 1e-8, weight_decay: 1e-5, clip_norm: Some(1.0) }
    }
}

/// Added to the norm before dividing by it, as PyTorch's `clip_grad_norm_` does.
const CLIP_EPSILON: f64 = 1e-6;

impl OptimizerConfig {
    /// An optimiser of `module` with two groups: parameters that decay and those that do not.
    pub fn build<M: Module>(&self, module: &M) -> ModuleOptimizer {
        let adamw = |weight_decay| {
            AdamWConfig::new()
                .with_beta_1(self.betas.0)
                .with_beta_2(self.betas.1)
                .with_epsilon(self.epsilon)
                .with_weight_decay(weight_decay)
                .build()
        };
        let undecayed = parameters(module).into_iter().filter(|parameter| !parameter.decays());
        let ids = undecayed.map(|parameter| parameter.id).collect();
        ModuleOptimizer::from(adamw(self.weight_decay)).with_group(ParamGroup::from_ids(ids), adamw(0.0), None)
    }

    /// Scales gradients of norm `norm` down to the largest one allowed: by `min(1, clip_norm / (norm + 1e-6))`.
    pub fn clip<M: Module>(&self, gradients: GradientsParams, norm: f64, module: &M) -> GradientsParams {
        let factor = self.clip_norm.map_or(1.0, |largest| largest / (norm + CLIP_EPSILON));
        if factor >= 1.0 {
            return gradients;
        }
        let mut scale = Scale { from: gradients, to: GradientsParams::new(), factor };
        module.visit(&mut scale);
        scale.to
    }
}

/// The norm of all gradients together.
///
/// # Errors
/// When the device failed to compute them.
pub fn global_norm<M: Module>(gradients: &GradientsParams, module: &M) -> Result<f64> {
    let mut sum = SquareSum { gradients, squares: Vec::new() };
    module.visit(&mut sum);
    if sum.squares.is_empty() {
        return Ok(0.0);
    }
    // One read from the device, whatever the number of parameters.
    let squares = read(Tensor::cat(sum.squares, 0))?;
    Ok(squares.iter::<f64>().sum::<f64>().sqrt())
}

struct SquareSum<'a> {
    gradients: &'a GradientsParams,
    squares: Vec<Tensor<1>>,
}

impl ModuleVisitor for SquareSum<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.squares.push(gradient.square().sum());
        }
    }
}

struct Scale {
    from: GradientsParams,
    to: GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.from.remove::<D>(param.id) {
            self.to.register(param.id, gradient * self.factor);
        }
    }
}
