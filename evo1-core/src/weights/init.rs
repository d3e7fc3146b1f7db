//! Seeded initialisation, the same on every device.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Tensor, TensorData},
};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::{Owner, ParamSpec, Position, load::place_in};
use crate::rng;

/// Standard deviation of the class token, as transformers initialises it.
const CLASS_TOKEN_STD: f32 = 0.02;

/// How large parameters start whose size is a matter of choice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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
        Self { embeddings: 0.02, positions: 0.02, layer_scale: 0.1 }
    }
}

/// Gives every parameter a value from `seed`, as PyTorch's defaults do: linear and convolution weights and biases
/// uniform in ±1/√fan_in, norms one and zero, attention projections Xavier-uniform with zero bias, and so each
/// embodiment's weights, which LeRobot draws one by one; embeddings and positions with a deviation of 0.02, layer scales
/// 0.1. Modulations start at zero, as in DiT.
///
/// Every parameter has a stream of its own, named by its path, so that one parameter's shape does not change another's
/// values and the order does not matter. `dtype` gives each parameter's number type.
pub fn initialize<M: Module>(module: M, seed: u64, dtype: impl Fn(&str) -> DType) -> M {
    initialize_scaled(module, seed, InitialScales::default(), dtype)
}

/// [`initialize`] with other scales.
pub fn initialize_scaled<M: Module>(module: M, seed: u64, scales: InitialScales, dtype: impl Fn(&str) -> DType) -> M {
    module.map(&mut Initializer { seed, scales, dtype, position: Position::default(), fan_in: None })
}

/// [`initialize`] for the part `name` of a larger module, which gets the values that it would get within the whole.
pub fn initialize_part<M: Module>(name: &str, module: M, seed: u64, dtype: impl Fn(&str) -> DType) -> M {
    let scales = InitialScales::default();
    module.map(&mut Initializer { seed, scales, dtype, position: Position::inside(name), fan_in: None })
}

struct Initializer<F> {
    seed: u64,
    scales: InitialScales,
    dtype: F,
    position: Position,
    /// Inputs of the layer whose weight was last met, for its bias.
    fan_in: Option<usize>,
}

/// How the values of a parameter are drawn.
enum Draw {
    Constant(f32),
    /// Uniform in ± the bound.
    Uniform(f32),
}

impl<F> Initializer<F> {
    fn draw(&mut self, spec: &ParamSpec) -> Draw {
        let leaf = spec.path.rsplit('.').next().unwrap_or_default();
        let is_attention_input =
            spec.path.contains("cross_attention.q_proj") || spec.path.contains("cross_attention.kv_proj");
        let is_per_category = spec.path.contains(".PerCategory.");
        match (spec.owner, leaf) {
            (Owner::Norm, "gamma") => Draw::Constant(1.0),
            (Owner::Norm, _) => Draw::Constant(0.0),
            (Owner::Embedding, _) => uniform_of_std(self.scales.embeddings),
            (_, "position_embeddings") => uniform_of_std(self.scales.positions),
            (_, "cls_token") => uniform_of_std(CLASS_TOKEN_STD),
            (_, "layer_scale_1" | "layer_scale_2") => Draw::Constant(self.scales.layer_scale),
            (_, "bias") if spec.path.contains("cross_attention.") || is_per_category => Draw::Constant(0.0),
            (Owner::Linear, _) if spec.path.contains(".modulation.") => Draw::Constant(0.0),
            (Owner::Linear, "weight") if is_attention_input => {
                // PyTorch draws q, k and v as one matrix of three times as many outputs as inputs.
                let inputs = spec.shape[0];
                xavier(inputs, 3 * inputs)
            }
            (_, "weight") if is_per_category => xavier(spec.shape[1], spec.shape[2]),
            (_, "weight") => {
                let fan_in = fan_in(spec);
                self.fan_in = Some(fan_in);
                Draw::Uniform(1.0 / (fan_in as f32).sqrt())
            }
            (_, "bias") => Draw::Uniform(1.0 / (self.fan_in.unwrap_or(1) as f32).sqrt()),
            _ => Draw::Constant(0.0),
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

/// Xavier's uniform distribution.
fn xavier(inputs: usize, outputs: usize) -> Draw {
    Draw::Uniform((6.0 / (inputs + outputs) as f32).sqrt())
}

/// A uniform distribution of a given standard deviation.
fn uniform_of_std(std: f32) -> Draw {
    Draw::Uniform(std * 3.0_f32.sqrt())
}

impl<F: Fn(&str) -> DType> ModuleMapper for Initializer<F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.position.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.position.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let spec = self.position.spec(&param.lazy_shape());
        let count = spec.shape.iter().product();
        let values: Vec<f32> = match self.draw(&spec) {
            Draw::Constant(value) => vec![value; count],
            Draw::Uniform(bound) => {
                let mut rng = rng::stream(self.seed, &spec.path);
                (0..count).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound).collect()
            }
        };
        place_in(param, TensorData::new(values, spec.shape).convert_dtype((self.dtype)(&spec.path)))
    }
}
