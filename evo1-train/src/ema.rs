//! The exponential moving average of the weights.

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Device, Tensor},
};

/// A network whose trained parameters are the mean of those that another one had, the older the less.
///
/// After step k, counted from 0, `mean ← d · mean + (1 − d) · weights` with `d = min(decay, (1 + k) / (10 + k))`: without the
/// second the first weights, which are worth nothing, would count for `1 / (1 − decay)` steps.
#[derive(Debug, Clone)]
pub(crate) struct Ema<M: Module> {
    pub(crate) network: M,
    decay: f64,
}

impl<M: Module> Ema<M> {
    /// The average of a network in training before its first step, or as it was when it was saved.
    pub(crate) fn new(network: &M, decay: f64) -> Self {
        Self { network: network.valid(), decay }
    }

    /// The same average on another device.
    pub(crate) fn on(&self, device: &Device) -> Self {
        Self { network: self.network.clone().fork(device), decay: self.decay }
    }

    /// Takes the weights after a step into the mean.
    pub(crate) fn update(&mut self, weights: &M, step: u64) {
        let decay = self.decay.min((1.0 + step as f64) / (10.0 + step as f64));
        let mut trained = Trained(GradientsParams::new());
        weights.visit(&mut trained);
        self.network = self.network.clone().map(&mut Mean { weights: trained.0, decay });
    }
}

/// The weights that are trained, by parameter.
struct Trained(GradientsParams);

impl ModuleVisitor for Trained {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.0.register(param.id, param.val().inner());
        }
    }
}

struct Mean {
    weights: GradientsParams,
    decay: f64,
}

impl ModuleMapper for Mean {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.weights.remove::<D>(param.id) {
            Some(weights) => {
                let (id, mean, mapper) = param.consume();
                Param::from_mapped_value(id, mean * self.decay + weights * (1.0 - self.decay), mapper)
            }
            None => param,
        }
    }
}
