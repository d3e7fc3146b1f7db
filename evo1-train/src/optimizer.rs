//! AdamW over groups of parameters, and the clipping of the global gradient norm.

use std::collections::HashSet;

use burn::{
    module::{Module, ModuleVisitor, Param, ParamGroup, ParamId},
    optim::{AdamWState, AdaptiveMomentumState, GradientsParams, ModuleOptimizer, Optimizer},
    tensor::{Device, Tensor},
};
use evo1::{
    device::read,
    ops::{self, adamw},
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    parameters::{Parameter, parameters, pattern_group},
};

/// AdamW and the norm that gradients are clipped to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// Parameters with values of their own; the last group that a parameter matches counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<OptimizerGroup>,
}

/// Parameters that are trained with other values than the rest, for example
/// `{parameters: 'vlm\\.', learning_rate: 1e-6}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OptimizerGroup {
    /// A regular expression that is found in the parameters' paths.
    pub parameters: String,
    /// Their largest learning rate; the optimiser's when `null`.
    #[serde(default)]
    pub learning_rate: Option<f64>,
    /// Weight decay of those that decay; the optimiser's when `null`.
    #[serde(default)]
    pub weight_decay: Option<f32>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-5,
            betas: (0.9, 0.999),
            epsilon: 1e-8,
            weight_decay: 1e-5,
            clip_norm: Some(1.0),
            groups: Vec::new(),
        }
    }
}

/// Added to the norm before dividing by it, as PyTorch's `clip_grad_norm_` does.
const CLIP_EPSILON: f64 = 1e-6;

impl OptimizerConfig {
    /// An optimiser of `module`, whose parameters decay or do not, each by its group.
    ///
    /// # Errors
    /// When a group's pattern is no regular expression or matches no parameter that is trained.
    pub fn build<M: Module>(&self, module: &M) -> Result<ModuleOptimizer> {
        let adamw = |weight_decay| AdamW { betas: [self.betas.0, self.betas.1], epsilon: self.epsilon, weight_decay };
        let trained: Vec<Parameter> = parameters(module).into_iter().filter(|parameter| parameter.is_trained).collect();
        let mut optimizer = ModuleOptimizer::from(adamw(self.weight_decay));
        for (at, group) in self.groups.iter().enumerate() {
            let pattern = group.pattern()?;
            let matching = trained.iter().filter(|parameter| pattern.matches(&parameter.id, Some(&parameter.path)));
            let ids: Vec<ParamId> = matching.map(|parameter| parameter.id).collect();
            if ids.is_empty() {
                let field = format!("optimizer.groups[{at}].parameters");
                return Err(Error::config(field, "a pattern that matches a trained parameter", &group.parameters));
            }
            let weight_decay = group.weight_decay.unwrap_or(self.weight_decay);
            optimizer = optimizer.with_group(ParamGroup::from_ids(ids), adamw(weight_decay), None);
        }
        let undecayed = trained.into_iter().filter(|parameter| !parameter.decays());
        let ids = undecayed.map(|parameter| parameter.id).collect();
        Ok(optimizer.with_group(ParamGroup::from_ids(ids), adamw(0.0), None))
    }

    /// One step of `optimizer` with learning rates times `factor`: each group's own.
    pub(crate) fn update<M: Module>(
        &self,
        optimizer: &mut ModuleOptimizer,
        factor: f64,
        mut module: M,
        gradients: GradientsParams,
    ) -> M {
        // burn has no way to say the learning rates of several groups at once: each takes the gradients of its parameters.
        let mut rest = gradients;
        let groups = self.groups.iter().filter_map(|group| Some((group.pattern().ok()?, group.learning_rate?)));
        for (pattern, learning_rate) in groups.collect::<Vec<_>>().into_iter().rev() {
            let own = parameters(&module).into_iter();
            let own = own.filter(|parameter| pattern.matches(&parameter.id, Some(&parameter.path)));
            let mut split = Split {
                ids: own.map(|parameter| parameter.id).collect(),
                from: rest,
                own: GradientsParams::new(),
                rest: GradientsParams::new(),
            };
            module.visit(&mut split);
            rest = split.rest;
            module = optimizer.step(learning_rate * factor, module, split.own);
        }
        optimizer.step(self.learning_rate * factor, module, rest)
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

/// AdamW in one pass over a parameter and its state, which is that of burn's.
#[derive(Clone)]
struct AdamW {
    betas: [f32; 2],
    epsilon: f32,
    weight_decay: f32,
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: f64,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let (time, moments) = match state {
            Some(AdamWState { momentum: AdaptiveMomentumState { time, moment_1, moment_2, .. } }) => {
                (time + 1, [moment_1, moment_2])
            }
            None => (1, [tensor.zeros_like(), tensor.zeros_like()]),
        };
        let step = ops::AdamW {
            betas: self.betas,
            corrections: self.betas.map(|beta| 1.0 - beta.powi(time as i32)),
            epsilon: self.epsilon,
            learning_rate: lr as f32,
            kept: (1.0 - lr * f64::from(self.weight_decay)) as f32,
        };
        let (weight, [moment_1, moment_2]) = adamw(tensor, grad, moments, step);
        (weight, Some(AdamWState::new(AdaptiveMomentumState::new(time, moment_1, moment_2))))
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        AdamWState::new(state.momentum.to_device(device))
    }
}

impl OptimizerGroup {
    fn pattern(&self) -> Result<ParamGroup> {
        pattern_group("optimizer.groups.parameters", &self.parameters)
    }
}

/// Takes the gradients of some parameters apart.
struct Split {
    ids: HashSet<ParamId>,
    from: GradientsParams,
    own: GradientsParams,
    rest: GradientsParams,
}

impl ModuleVisitor for Split {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.from.remove::<D>(param.id) else { return };
        let to = if self.ids.contains(&param.id) { &mut self.own } else { &mut self.rest };
        to.register(param.id, gradient);
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

#[cfg(test)]
mod tests {
    use burn::{nn::LinearConfig, optim::AdamWConfig, tensor::Distribution};
    use evo1::device::test_devices;

    use super::*;

    #[test]
    fn steps_are_those_of_burns_adamw() {
        for device in test_devices() {
            let device = device.autodiff();
            let config = OptimizerConfig { weight_decay: 0.1, ..OptimizerConfig::default() };
            // Large enough for several threads.
            let start = LinearConfig::new(300, 200).init(&device);
            let mut own = (start.clone(), config.build(&start).expect("an optimiser"));
            let burns = |weight_decay| AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(weight_decay).build();
            let bias = start.bias.as_ref().expect("a bias").id;
            let burns =
                ModuleOptimizer::from(burns(0.1)).with_group(ParamGroup::from_ids(vec![bias]), burns(0.0), None);
            let mut burns = (start, burns);
            let x = Tensor::<2>::random([4, 300], Distribution::Default, &device);
            for step in 1..=4 {
                for (module, optimizer) in [&mut own, &mut burns] {
                    let loss = module.forward(x.clone()).powi_scalar(2).sum();
                    let gradients = GradientsParams::from_grads(loss.backward(), module);
                    *module = optimizer.step(1e-2 / f64::from(step), module.clone(), gradients);
                }
                let weights = |(module, _): &(burn::nn::Linear, ModuleOptimizer)| {
                    let (weight, bias) = (module.weight.val(), module.bias.as_ref().expect("a bias").val());
                    let bits =
                        |data: burn::tensor::TensorData| data.iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
                    (bits(weight.into_data()), bits(bias.into_data()))
                };
                assert!(weights(&own) == weights(&burns), "{device:?}, step {step}");
            }
        }
    }
}
