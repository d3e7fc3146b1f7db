//! What a policy costs, component by component: parameters, and floating-point operations of a prediction.
//!
//! Operations are those of matrix products, two for each multiply-add; norms, softmax and activations are left out. An
//! attention is counted in full, its masked half included, as it is computed.

use burn::tensor::Device;
use evo1_action::VelocityModel;
pub use evo1_core::cost::{ActionWorkload, Cost, attention_flops, linear_flops};
use evo1_core::{
    config::{PolicyConfig, PromptLength},
    weights::{ParamSpec, params},
};
use evo1_vlm::VisionLanguageModel;

use crate::{Components, Evo1, Published, Result};

/// What is predicted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Tiles of all views together.
    pub tiles: usize,
    /// Tokens of the prompt, padding included.
    pub tokens: usize,
    /// Steps of the sampler.
    pub steps: usize,
    /// Whether the context's keys and values are computed once, as here, or in every step, as in the references.
    pub keys_values_once: bool,
}

/// The cost of a part of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartCost {
    /// What of the policy it belongs to: `vision`, `language` or `action`.
    pub part: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Parameters.
    pub parameters: u64,
    /// Floating-point operations of one prediction.
    pub flops: u64,
}

/// Tokens of a prompt for one view, its visual ones aside: `Image-1: <img>`, `</img>` and a line break.
const VIEW_TOKENS: usize = 8;

/// Tokens of an instruction, where none is given.
const INSTRUCTION_TOKENS: usize = 30;

impl Workload {
    /// A prediction of `config` with all of its views present, one tile each, and an instruction of 30 tokens.
    pub fn of(config: &PolicyConfig) -> Self {
        let prompt = config.max_views * (config.vlm.tokens_per_tile() + VIEW_TOKENS) + INSTRUCTION_TOKENS;
        let tokens = match config.semantics.prompt_length {
            PromptLength::Fixed => config.max_text_length,
            PromptLength::LongestOfBatch => prompt.min(config.max_text_length),
        };
        let steps = config.num_inference_steps;
        Self { tiles: config.max_views, tokens, steps, keys_values_once: true }
    }
}

/// The parts of a policy in the order of the data. Nothing is allocated: sizes alone are looked at.
///
/// # Errors
/// When the configuration names components that there are not.
pub fn costs(config: &PolicyConfig, workload: &Workload) -> Result<Vec<PartCost>> {
    costs_as::<Published>(config, workload)
}

/// [`costs`] of a policy that may be made of other components.
///
/// # Errors
/// As there.
pub fn costs_as<C: Components>(config: &PolicyConfig, workload: &Workload) -> Result<Vec<PartCost>> {
    let Evo1 { vlm, action } = Evo1::<C::Vlm, C::Action>::init(config, &Device::default())?;
    let Workload { tiles, tokens, steps, keys_values_once } = *workload;
    let stages = C::flow(&config.flow)?.solver.stages().len();
    let of_action = ActionWorkload {
        context_len: vlm.context_len(tokens),
        evaluations: (steps * stages) as u64,
        conditions_once: keys_values_once,
    };
    let mut parts = counted(vlm.costs(&config.vlm, tiles, tokens), &params(&vlm));
    parts.extend(counted(action.costs(&config.action, &of_action), &params(&action)));
    Ok(parts)
}

/// Costs with the parameters whose paths they name.
fn counted(costs: Vec<Cost>, specs: &[ParamSpec]) -> Vec<PartCost> {
    let count = |starts: &[&str]| -> u64 {
        let is_meant = |spec: &&ParamSpec| starts.iter().any(|start| spec.path.starts_with(start));
        specs.iter().filter(is_meant).map(|spec| spec.shape.iter().product::<usize>() as u64).sum()
    };
    let part = |cost: Cost| PartCost {
        part: cost.part,
        name: cost.name,
        parameters: count(&cost.parameters),
        flops: cost.flops,
    };
    costs.into_iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use evo1_core::{Choice, config::Profile};

    use super::*;

    /// Parameters and operations of the components whose part is `part`, or of all.
    fn total(config: &PolicyConfig, workload: &Workload, part: &str) -> (u64, u64) {
        let costs = costs(config, workload).expect("built in");
        let of_part = costs.iter().filter(|cost| part.is_empty() || cost.part == part);
        of_part.fold((0, 0), |(parameters, flops), cost| (parameters + cost.parameters, flops + cost.flops))
    }

    #[test]
    fn full_size_has_the_published_parameters() {
        let config = PolicyConfig::evo1();
        let costs = costs(&config, &Workload::of(&config)).expect("built in");
        let counts: Vec<u64> = costs.into_iter().map(|cost| cost.parameters).collect();
        assert_eq!(
            counts,
            [
                304_012_288,
                4_482_816,
                135_899_904,
                208_774_272,
                944_000,
                1_629_824,
                77_163_520,
                40_141_696,
                2_148_528 + 1_792
            ]
        );
        assert_eq!(counts.iter().sum::<u64>(), 775_198_640);
    }

    /// GFLOP counted with PyTorch's reference: vision, language, action (keys and values in every step, once).
    const REFERENCE: [(usize, usize, [f64; 4]); 3] = [
        (1024, 32, [2177.7, 480.1, 1103.1, 286.8]),
        (1024, 50, [2177.7, 480.1, 1723.6, 433.3]),
        (822, 32, [2177.7, 377.1, 927.8, 272.3]),
    ];

    #[test]
    fn full_size_operations_are_the_references() {
        let config = PolicyConfig::evo1();
        for (tokens, steps, [vision, language, every_step, once]) in REFERENCE {
            let workload = Workload { tiles: 3, tokens, steps, keys_values_once: true };
            let per_step = Workload { keys_values_once: false, ..workload };
            for (part, workload, expected) in [
                ("vision", workload, vision),
                ("language", workload, language),
                ("action", workload, once),
                ("action", per_step, every_step),
            ] {
                let gflop = total(&config, &workload, part).1 as f64 / 1e9;
                assert!((gflop / expected - 1.0).abs() < 0.01, "{part}: {gflop} for {expected}");
            }
        }
    }

    #[test]
    fn a_workload_has_the_prompt_of_its_profile() {
        let config = PolicyConfig::evo1();
        assert_eq!(Workload::of(&config).tokens, 1024);
        let lerobot = PolicyConfig { num_inference_steps: 32, ..config }.with_profile(Profile::LeRobot);
        assert_eq!(Workload::of(&lerobot), Workload { tiles: 3, tokens: 822, steps: 32, keys_values_once: true });
    }

    #[test]
    fn variants_of_the_integration_have_the_same_parameters() {
        let mut config = PolicyConfig::evo1();
        let workload = Workload::of(&config);
        let costs = ["mid-layer-cross", "interleaved", "layer-wise", "joint-kv"].map(|integration| {
            config.action.design.integration = Choice::new(integration);
            total(&config, &workload, "action")
        });
        assert!(costs.iter().all(|cost| cost.0 == costs[0].0));
        let [mid_layer, interleaved, layer_wise, joint] = costs.map(|cost| cost.1);
        assert_eq!(mid_layer, layer_wise);
        assert!(interleaved < mid_layer && mid_layer < joint);
    }
}
