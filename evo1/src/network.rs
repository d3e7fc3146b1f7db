//! The network of a policy: the vision-language model and the action expert side by side.

use std::collections::BTreeMap;

use burn::{
    module::Module,
    tensor::{DType, Device},
};
use evo1_action::{ActionExpert, VelocityModel};
use evo1_core::{
    Result,
    config::PolicyConfig,
    weights::{InitialScales, InitialValue, ParamSpec, initialize, initialize_part, params},
};
use evo1_vlm::{InternVl, VisionLanguageModel};

/// All weights of a policy. Paths of parameters start with `vlm.` and `action.`.
#[derive(Module, Debug)]
pub struct Evo1<V: Module = InternVl, A: Module = ActionExpert> {
    /// Pixels and token ids → context.
    pub vlm: V,
    /// Context, state and noisy actions → velocity.
    pub action: A,
}

impl<V: VisionLanguageModel, A: VelocityModel> Evo1<V, A> {
    /// An uninitialised network of the configuration's sizes: parameters get values when they are loaded, initialised
    /// from a seed, or first used.
    ///
    /// # Errors
    /// When the configuration names components that there are not, or settings that are not theirs.
    pub fn init(config: &PolicyConfig, device: &Device) -> Result<Self> {
        let action = A::init(&config.action, device)?;
        let layers = action.language_layers(config.vlm.language.num_layers)?;
        Ok(Self { vlm: V::init(&config.vlm, &layers, device)?, action })
    }

    /// The network with values from a seed, as each component starts. `dtype` gives each parameter's number type.
    pub fn initialized(self, seed: u64, scales: InitialScales, dtype: impl Fn(&str) -> DType) -> Self {
        let values = self.values(&scales);
        initialize(self, seed, |spec| values.get(&spec.path).copied(), dtype)
    }

    /// The network with an action expert that has the values it has in [`Self::initialized`]; the rest stays as it is.
    pub(crate) fn with_initialized_action(self, seed: u64, dtype: impl Fn(&str) -> DType) -> Self {
        let values = self.values(&InitialScales::default());
        let action = initialize_part("action", self.action, seed, |spec| values.get(&spec.path).copied(), dtype);
        Self { action, ..self }
    }

    /// How parameters start that components have a rule for, by path. All are asked before any is replaced.
    fn values(&self, scales: &InitialScales) -> BTreeMap<String, InitialValue> {
        params(self).into_iter().filter_map(|spec| Some((spec.path.clone(), self.value(spec, scales)?))).collect()
    }

    /// How a parameter starts, by the component that it belongs to.
    fn value(&self, spec: ParamSpec, scales: &InitialScales) -> Option<InitialValue> {
        let (component, path) = spec.path.split_once('.')?;
        let within = ParamSpec { path: path.to_owned(), ..spec.clone() };
        match component {
            "vlm" => self.vlm.initial_value(&within, scales),
            _ => self.action.initial_value(&within),
        }
    }
}
