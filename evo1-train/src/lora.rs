//! Low-rank adapters (LoRA, arXiv 2106.09685): instead of a weight `W` of shape `[in, out]`, two factors `A` of shape
//! `[in, rank]` and `B` of shape `[rank, out]` are trained, and the network computes with `W + α / rank · A B`.

use std::{collections::BTreeMap, path::Path};

use burn::{
    module::{Lora, Module, ModuleMapper, ModuleVisitor, Param, ParamGroup, ParamId},
    tensor::{Tensor, TensorData},
};
use evo1::{
    CoreError,
    device::read,
    rng,
    weights::{WeightFile, write_safetensors},
};
use rand_distr::{Distribution, Normal};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    parameters::{Parameter, parameters, pattern_group},
};

/// Adapters that are trained instead of weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of the adapters: 8.
    pub rank: usize,
    /// Their products are scaled by `alpha / rank`: 16.
    pub alpha: f64,
    /// Regular expressions; a matrix of a trained part gets an adapter if one is found in its path. With none all matrices
    /// get one but tables of embeddings. Everything else stays as it is.
    pub parameters: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, parameters: Vec::new() }
    }
}

/// The names of a weight's factors below its own, as burn has them.
const FACTORS: [&str; 2] = [".lora.a", ".lora.b"];

impl LoraConfig {
    /// The network with adapters on those of its matrices that are trained, of which the first factor is drawn from
    /// N(0, 1 / rank²) and the second is 0: it computes what it did.
    ///
    /// # Errors
    /// When the rank is 0, a pattern is no regular expression or matches no such matrix, or there is none.
    pub(crate) fn apply<M: Module>(&self, network: M, trained: &[Parameter], seed: u64) -> Result<M> {
        if self.rank == 0 {
            return Err(Error::config("lora.rank", "at least 1", 0));
        }
        let matrices: Vec<&Parameter> = trained.iter().filter(|parameter| parameter.shape.len() == 2).collect();
        let mut ids: Vec<ParamId> = Vec::new();
        for pattern in &self.parameters {
            let group = pattern_group("lora.parameters", pattern)?;
            let found = matrices.iter().filter(|matrix| group.matches(&matrix.id, Some(&matrix.path)));
            let before = ids.len();
            ids.extend(found.map(|matrix| matrix.id));
            if ids.len() == before {
                return Err(Error::config("lora.parameters", "patterns that match a matrix which is trained", pattern));
            }
        }
        if self.parameters.is_empty() {
            let is_table = |matrix: &&&Parameter| matrix.path.contains("embed");
            ids = matrices.iter().filter(|matrix| !is_table(matrix)).map(|matrix| matrix.id).collect();
        }
        if ids.is_empty() {
            return Err(Error::config("lora", "a matrix that is trained", "none"));
        }
        let lora = Lora::new(self.rank, self.alpha).set_param_group(ParamGroup::from_ids(ids));
        let deviation = 1.0 / self.rank as f64;
        Ok(network.apply_lora(lora).map(&mut Values::new(|path, shape| {
            path.ends_with(FACTORS[0]).then(|| {
                let normal = Normal::new(0.0, deviation).expect("a deviation above 0");
                let mut rng = rng::stream(seed, path);
                let values: Vec<f32> = (0..shape.iter().product()).map(|_| normal.sample(&mut rng) as f32).collect();
                TensorData::new(values, shape.to_vec())
            })
        })))
    }
}

/// Writes the adapters and the weights that they belong to, which a policy has only together.
pub(crate) fn save<M: Module>(network: &M, path: &Path) -> Result<()> {
    let factors: Vec<String> = parameters(network).into_iter().map(|parameter| parameter.path).collect();
    let has_factors = |path: &str| factors.iter().any(|factor| *factor == format!("{path}{}", FACTORS[0]));
    let is_factor = |path: &str| FACTORS.iter().any(|factor| path.ends_with(factor));
    let mut reader = Reader {
        path: Vec::new(),
        is_wanted: &|path| is_factor(path) || has_factors(path),
        found: Ok(BTreeMap::new()),
    };
    network.visit(&mut reader);
    Ok(write_safetensors(path, &reader.found?)?)
}

/// The network, without gradients, with adapters and weights that were saved.
///
/// # Errors
/// When the file is not of the same ones.
pub(crate) fn load<M: Module>(network: M, path: &Path) -> Result<M> {
    let file = WeightFile::open(path)?;
    let own = parameters(&network);
    let mut tensors = BTreeMap::new();
    for name in file.names() {
        let Some(parameter) = own.iter().find(|parameter| parameter.path == name) else {
            return Err(Error::checkpoint(path, format!("it has `{name}`, which the run does not adapt")));
        };
        let data = file.read(name)?;
        if data.shape().as_slice() != parameter.shape {
            let message = format!("`{name}` must have shape {:?}, got {:?}", parameter.shape, data.shape().as_slice());
            return Err(Error::checkpoint(path, message));
        }
        tensors.insert(name.to_owned(), data);
    }
    let lacking = own.iter().find(|parameter| {
        FACTORS.iter().any(|factor| parameter.path.ends_with(factor)) && !tensors.contains_key(&parameter.path)
    });
    if let Some(Parameter { path: name, .. }) = lacking {
        return Err(Error::checkpoint(path, format!("it has no `{name}`")));
    }
    Ok(network.map(&mut Values::new(|path, _| tensors.remove(path))))
}

/// Reads parameters by their paths.
struct Reader<'a> {
    path: Vec<String>,
    is_wanted: &'a dyn Fn(&str) -> bool,
    found: Result<BTreeMap<String, TensorData>, CoreError>,
}

impl ModuleVisitor for Reader<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        let Ok(found) = &mut self.found else { return };
        if (self.is_wanted)(&path) {
            match read(param.val()) {
                Ok(data) => {
                    found.insert(path, data);
                }
                Err(error) => self.found = Err(error),
            }
        }
    }
}

/// Gives parameters other values, by their paths and shapes.
struct Values<F> {
    path: Vec<String>,
    value: F,
}

impl<F: FnMut(&str, &[usize]) -> Option<TensorData>> Values<F> {
    fn new(value: F) -> Self {
        Self { path: Vec::new(), value }
    }
}

impl<F: FnMut(&str, &[usize]) -> Option<TensorData>> ModuleMapper for Values<F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.lazy_shape();
        match (self.value)(&self.path.join("."), shape.as_slice()) {
            Some(data) => param.map(|old| Tensor::from_data(data, (&old.device(), old.dtype()))),
            None => param,
        }
    }
}
