//! Low-rank adapters (LoRA, arXiv 2106.09685): instead of a weight `W` of shape `[in, out]`, two factors `A` of shape
//! `[in, rank]` and `B` of shape `[rank, out]` are trained, and the network computes with `W + α / rank · A B`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use burn::{
    module::{Lora, Module, ModuleMapper, Param, ParamGroup, ParamId},
    tensor::{DType, Device, Tensor, TensorData},
};
use evo1::{
    rng,
    weights::{
        Adapter, Factors, LazyTensor, Naming, ParamSpec, WeightFile, base_sum, dequantize, module_tensors, params,
        quantize_bases, quantize_weight, write_safetensors_lazily,
    },
};
use rand_distr::{Distribution, Normal};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    parameters::{Parameter, parameters, paths, pattern_group},
};

/// Adapters that are trained instead of weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of the adapters: 8.
    pub rank: usize,
    /// Their products are scaled by `alpha / rank`: 16.
    pub alpha: f64,
    /// Regular expressions; the matrix of a linear layer of a trained part gets an adapter if one is found in its path. With
    /// none all get one. Everything else stays as it is.
    pub parameters: Vec<String>,
    /// Bits of the weights that have adapters, 8 or 4, with a scale for each 32 inputs (QLoRA, arXiv 2305.14314); as they
    /// are when `null`. The policy is saved with them as they were rounded.
    pub bits: Option<u8>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, parameters: Vec::new(), bits: None }
    }
}

/// The names of a weight's factors below its own, as burn has them.
const FACTORS: [&str; 2] = [".lora.a", ".lora.b"];

impl LoraConfig {
    /// The network with adapters on those of its matrices that are trained, of which the first factor is drawn from
    /// N(0, 1 / rank²) and the second is 0: it computes what it did.
    ///
    /// # Errors
    /// When the rank is 0, a pattern is no regular expression or matches no such matrix, or there is none; and when the
    /// device has no weights of so many bits.
    pub(crate) fn apply<M: Module>(&self, network: M, trained: &[Parameter], seed: u64, device: &Device) -> Result<M> {
        if self.rank == 0 {
            return Err(Error::config("lora.rank", "at least 1", 0));
        }
        let linear = params(&network).into_iter().filter(ParamSpec::is_transposed).map(|spec| spec.path);
        let linear: HashSet<String> = linear.collect();
        let matrices: Vec<&Parameter> = trained.iter().filter(|parameter| linear.contains(&parameter.path)).collect();
        let mut ids: Vec<ParamId> = Vec::new();
        for pattern in &self.parameters {
            let group = pattern_group("lora.parameters", pattern)?;
            let found = matrices.iter().filter(|matrix| group.matches(&matrix.id, Some(&matrix.path)));
            let before = ids.len();
            ids.extend(found.map(|matrix| matrix.id));
            if ids.len() == before {
                return Err(Error::config(
                    "lora.parameters",
                    "patterns that match the matrix of a linear layer which is trained",
                    pattern,
                ));
            }
        }
        if self.parameters.is_empty() {
            ids = matrices.iter().map(|matrix| matrix.id).collect();
        }
        if ids.is_empty() {
            return Err(Error::config("lora", "a matrix that is trained", "none"));
        }
        let network = match self.bits {
            None => network,
            Some(bits @ (8 | 4)) => {
                let adapted = matrices.iter().filter(|matrix| ids.contains(&matrix.id));
                let adapted: HashSet<&str> = adapted.map(|matrix| matrix.path.as_str()).collect();
                quantize_bases(network, bits, device, |path| adapted.contains(path))?
            }
            Some(other) => return Err(Error::config("lora.bits", "8, 4 or null", other)),
        };
        let lora = Lora::new(self.rank, self.alpha).set_param_group(ParamGroup::from_ids(ids));
        let deviation = 1.0 / self.rank as f64;
        Ok(with_values(network.apply_lora(lora), |path, shape| {
            path.ends_with(FACTORS[0]).then(|| {
                let normal = Normal::new(0.0, deviation).expect("a deviation above 0");
                let mut rng = rng::stream(seed, path);
                let values: Vec<f32> = (0..shape.iter().product()).map(|_| normal.sample(&mut rng) as f32).collect();
                TensorData::new(values, shape.to_vec())
            })
        }))
    }
}

/// Writes the adapters and the weights that they belong to, which a policy has only together.
pub(crate) fn save<M: Module>(network: &M, path: &Path) -> Result<()> {
    let tensors = module_tensors(&dequantize(network.valid()), Naming::BURN);
    let adapted = adapted(&tensors);
    let is_kept = |tensor: &LazyTensor| {
        let weight = FACTORS.iter().find_map(|factor| tensor.name.strip_suffix(factor)).unwrap_or(&tensor.name);
        adapted.contains(weight)
    };
    let kept: Vec<LazyTensor> = tensors.into_iter().filter(is_kept).collect();
    Ok(write_safetensors_lazily(path, &kept, |_| ())?)
}

/// Writes the adapters as one of PEFT's for the policy `base`.
pub(crate) fn save_for_peft<M: Module>(
    network: &M,
    config: &LoraConfig,
    base: Option<&str>,
    folder: &Path,
) -> Result<()> {
    let tensors = module_tensors(network, Naming::BURN);
    let (adapted, specs) = (adapted(&tensors), params(network));
    let tensors: HashMap<String, LazyTensor> =
        tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    let scale = config.alpha / config.rank as f64;
    let factors = adapted.iter().map(|weight| {
        let [a, b] = FACTORS.map(|factor| (tensors[&format!("{weight}{factor}")].read)());
        Ok((weight.clone(), Factors { a: a?, b: b?, scale }))
    });
    let factors = factors.collect::<Result<BTreeMap<_, _>>>()?;
    // What was rounded is not what the adapter will be added to.
    let is_sum_known = config.bits.is_none();
    let sum = || base_sum(&specs, |path| adapted.contains(path), |spec| (tensors[&spec.path].read)());
    let sum = is_sum_known.then(sum).transpose()?;
    Ok(Adapter::new(factors, base.map(str::to_owned), sum).write(folder, &specs)?)
}

/// The weights that have adapters.
fn adapted(tensors: &[LazyTensor]) -> HashSet<String> {
    tensors.iter().filter_map(|tensor| Some(tensor.name.strip_suffix(FACTORS[0])?.to_owned())).collect()
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
    Ok(with_values(network, |path, _| tensors.remove(path)))
}

/// The network with other values of parameters, by their paths and shapes.
fn with_values<M: Module>(network: M, value: impl FnMut(&str, &[usize]) -> Option<TensorData>) -> M {
    let paths = paths(&network);
    network.map(&mut Values { paths, value })
}

struct Values<F> {
    paths: HashMap<ParamId, String>,
    value: F,
}

impl<F: FnMut(&str, &[usize]) -> Option<TensorData>> ModuleMapper for Values<F> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.lazy_shape();
        match self.paths.get(&param.id).and_then(|path| (self.value)(path, shape.as_slice())) {
            Some(data) => param.map(|old| match old.dtype() {
                DType::QFloat(scheme) => quantize_weight(Tensor::from_data(data, (&old.device(), DType::F32)), &scheme),
                dtype => Tensor::from_data(data, (&old.device(), dtype)),
            }),
            None => param,
        }
    }
}
