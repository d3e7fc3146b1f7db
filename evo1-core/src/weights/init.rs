//! Seeded initialisation, the same on every device.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Tensor, TensorData},
};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::{Owner, ParamSpec, Position, load::place_in};
use crate::rng;

/// Standard deviation of token embeddings, as transformers initialises them.
const EMBEDDING_STD: f32 = 0.02;

/// How large parameters start whose size is a matter of choice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct InitialScales {
    /// Standard deviation of token embeddings: 0.02, as in transformers.
    pub embeddings: f32,
    /// Standard deviation of the vision tower's position embeddings: 0.02, as in transformers.
    pub positions: f32,
    /// The vision tower's per-channel layer scales: 0.1.
    pub layer_scale: f32,
}

impl Default for InitialScales {
    fn default() -> Self {
        Self { embeddings: EMBEDDING_STD, positions: EMBEDDING_STD, layer_scale: 0.1 }
    }
}

/// How the values of a parameter are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum InitialValue {
    /// All the same.
    Constant(f32),
    /// Uniform in ± the bound.
    Uniform(f32),
}

impl InitialValue {
    /// Xavier's uniform distribution, of a matrix from `inputs` to `outputs`.
    pub fn xavier(inputs: usize, outputs: usize) -> Self {
        Self::Uniform((6.0 / (inputs + outputs) as f32).sqrt())
    }

    /// A uniform distribution of a standard deviation.
    pub fn of_std(std: f32) -> Self {
        Self::Uniform(std * 3.0_f32.sqrt())
    }
}

/// Gives every parameter a value from `seed`: that of `rule`, or, where it has none, PyTorch's default: weights and biases
/// of linear layers and convolutions uniform in ±1/√fan_in, norms one and zero, embeddings with a deviation of 0.02,
/// anything else zero.
///
/// Every parameter has a stream of its own, named by its path, so that one parameter's shape does not change another's
/// values and the order does not matter. `dtype` gives each parameter's number type.
pub fn initialize<M: Module>(
    module: M,
    seed: u64,
    rule: impl Fn(&ParamSpec) -> Option<InitialValue>,
    dtype: impl Fn(&str) -> DType,
) -> M {
    module.map(&mut Initializer { seed, rule, dtype, position: Position::default(), fan_in: None })
}

/// [`initialize`] for the part `name` of a larger module, which gets the values that it would get within the whole.
pub fn initialize_part<M: Module>(
    name: &str,
    module: M,
    seed: u64,
    rule: impl Fn(&ParamSpec) -> Option<InitialValue>,
    dtype: impl Fn(&str) -> DType,
) -> M {
    module.map(&mut Initializer { seed, rule, dtype, position: Position::inside(name), fan_in: None })
}

struct Initializer<R, F> {
    seed: u64,
    rule: R,
    dtype: F,
    position: Position,
    /// Inputs of the layer whose weight was last met, for its bias.
    fan_in: Option<usize>,
}

impl<R: Fn(&ParamSpec) -> Option<InitialValue>, F> Initializer<R, F> {
    fn value(&mut self, spec: &ParamSpec) -> InitialValue {
        if let Some(value) = (self.rule)(spec) {
            return value;
        }
        let leaf = spec.path.rsplit('.').next().unwrap_or_default();
        match (spec.owner, leaf) {
            (Owner::Norm, "gamma") => InitialValue::Constant(1.0),
            (Owner::Norm, _) => InitialValue::Constant(0.0),
            (Owner::Embedding, _) => InitialValue::of_std(EMBEDDING_STD),
            (_, "weight") => {
                let fan_in = fan_in(spec);
                self.fan_in = Some(fan_in);
                InitialValue::Uniform(1.0 / (fan_in as f32).sqrt())
            }
            (_, "bias") => InitialValue::Uniform(1.0 / (self.fan_in.unwrap_or(1) as f32).sqrt()),
            _ => InitialValue::Constant(0.0),
        }
    }
}

/// Inputs of one output: of a linear `[in, out]` or a convolution `[out, in, height, width]`.
fn fan_in(spec: &ParamSpec) -> usize {
    match spec.shape.as_slice() {
        [inputs, _] => *inputs,
        [_, kernel @ ..] => kernel.iter().product(),
        [] => 1,
    }
}

impl<R: Fn(&ParamSpec) -> Option<InitialValue>, F: Fn(&str) -> DType> ModuleMapper for Initializer<R, F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.position.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.position.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let spec = self.position.spec(&param.lazy_shape());
        let count = spec.shape.iter().product();
        let values: Vec<f32> = match self.value(&spec) {
            InitialValue::Constant(value) => vec![value; count],
            InitialValue::Uniform(bound) => {
                let mut rng = rng::stream(self.seed, &spec.path);
                (0..count).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound).collect()
            }
        };
        place_in(param, TensorData::new(values, spec.shape).convert_dtype((self.dtype)(&spec.path)))
    }
}
