//! Parameters of a network by path: which are trained, which decay, and ids that outlive a process.

use std::collections::HashMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamGroup, ParamId},
    tensor::Tensor,
};
use evo1::{Evo1, VelocityModel, VisionLanguageModel, rng::fnv1a};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which parts of a policy are trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TrainedParts {
    /// The vision tower and the projector: what a vision-language model calls its vision part.
    pub vision: bool,
    /// The rest of the vision-language model: the language model.
    pub language: bool,
    /// The action expert with its state encoder.
    pub action: bool,
    /// Regular expressions; parameters whose path one of them matches stay frozen, for example
    /// `vlm\.language_model\.embed_tokens` or `vision_tower\.layers\.[0-9]\.`.
    pub frozen: Vec<String>,
}

impl Default for TrainedParts {
    fn default() -> Self {
        Self::stage1()
    }
}

impl TrainedParts {
    /// Stage 1: the action expert; the vision-language model is frozen.
    pub fn stage1() -> Self {
        Self { vision: false, language: false, action: true, frozen: Vec::new() }
    }

    /// Stage 2: everything.
    pub fn all() -> Self {
        Self { vision: true, language: true, ..Self::stage1() }
    }

    /// Freezes what is not trained.
    ///
    /// # Errors
    /// When a pattern is no regular expression or matches no parameter, or nothing is left to train.
    pub fn apply<V: VisionLanguageModel, A: VelocityModel>(&self, network: Evo1<V, A>) -> Result<Evo1<V, A>> {
        let is_frozen = |parameter: &Parameter| match parameter.path.strip_prefix("vlm.") {
            Some(path) if network.vlm.is_vision(path) => !self.vision,
            Some(_) => !self.language,
            None => !self.action,
        };
        let frozen = parameters(&network).into_iter().filter(is_frozen);
        let ids = frozen.map(|parameter| parameter.id).collect();
        let mut network = network.freeze_group(ParamGroup::from_ids(ids));
        for pattern in &self.frozen {
            let group = pattern_group("trained.frozen", pattern)?;
            if !parameters(&network).iter().any(|parameter| group.matches(&parameter.id, Some(&parameter.path))) {
                return Err(Error::config("trained.frozen", "patterns that match a parameter", pattern));
            }
            network = network.freeze_group(group);
        }
        if !parameters(&network).iter().any(|parameter| parameter.is_trained) {
            return Err(Error::config("trained", "at least one part that is trained", "none"));
        }
        Ok(network)
    }
}

/// The parameters in whose paths a regular expression is found, which `field` of the configuration gives.
///
/// # Errors
/// When it is none.
pub(crate) fn pattern_group(field: &str, pattern: &str) -> Result<ParamGroup> {
    ParamGroup::from_regex(pattern).map_err(|error| Error::config(field, "regular expressions", format!("{error:?}")))
}

/// A parameter of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// What gradients and the optimiser's state are kept under.
    pub id: ParamId,
    /// Its dotted path.
    pub path: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Whether it has gradients.
    pub is_trained: bool,
}

impl Parameter {
    /// Number of values.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether weight decay acts on it: not on biases, one-dimensional parameters and those of norms.
    pub fn decays(&self) -> bool {
        self.shape.len() > 1 && !self.path.ends_with("bias") && !self.path.contains("norm")
    }
}

/// The parameters of a network in the order of its fields.
pub fn parameters<M: Module>(module: &M) -> Vec<Parameter> {
    let mut lister = Lister::default();
    module.visit(&mut lister);
    lister.found
}

#[derive(Default)]
struct Lister {
    path: Vec<String>,
    found: Vec<Parameter>,
}

impl ModuleVisitor for Lister {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push(Parameter {
            id: param.id,
            path: self.path.join("."),
            shape: param.lazy_shape().to_vec(),
            is_trained: param.is_require_grad(),
        });
    }
}

/// The paths of a network's parameters.
pub(crate) fn paths<M: Module>(module: &M) -> HashMap<ParamId, String> {
    parameters(module).into_iter().map(|parameter| (parameter.id, parameter.path)).collect()
}

/// The network with ids made from its parameters' paths.
///
/// burn keeps an optimiser's state by parameter id and draws ids at random; these are the same in every process, so that
/// a saved state finds its parameter again whatever format the weights are in.
pub fn with_stable_ids<M: Module>(module: M) -> M {
    let paths = paths(&module);
    module.map(&mut StableIds(paths))
}

struct StableIds(HashMap<ParamId, String>);

impl ModuleMapper for StableIds {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(path) = self.0.get(&param.id) else { return param };
        let (_, value, mapper) = param.consume();
        Param::from_mapped_value(ParamId::from(fnv1a(path.as_bytes())), value, mapper)
    }
}
