//! The network of a policy: the vision-language model and the action expert side by side.

use burn::{module::Module, tensor::Device};
use evo1_action::{ActionExpert, init_action_expert};
use evo1_core::config::PolicyConfig;
use evo1_vlm::{InternVl, init_internvl};

/// All weights of a policy. Paths of parameters start with `vlm.` and `action.`.
#[derive(Module, Debug)]
pub struct Evo1 {
    /// Pixels and token ids → context.
    pub vlm: InternVl,
    /// Context, state and noisy actions → velocity.
    pub action: ActionExpert,
}

impl Evo1 {
    /// An uninitialised network of the configuration's sizes: parameters get values when they are loaded, initialised
    /// from a seed, or first used.
    pub fn init(config: &PolicyConfig, device: &Device) -> Self {
        Self {
            vlm: init_internvl(&config.vlm, device).with_tapped_layers(config.context_layers()),
            action: init_action_expert(&config.action, device),
        }
    }
}
