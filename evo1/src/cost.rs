//! What a policy costs, component by component: parameters, and floating-point operations of a prediction.
//!
//! Operations are those of matrix products, two for each multiply-add; norms, softmax and activations are left out. An
//! attention is counted in full, its masked half included, as it is computed.

use burn::tensor::Device;
use evo1_core::{
    config::{ActionConfig, Integration, PolicyConfig, PromptLength, StateInput, TimeInput, VelocityHead},
    weights::params,
};

use crate::Evo1;

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

/// The cost of one component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component {
    /// The part of the policy that it belongs to: `vision`, `language` or `action`.
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

/// The components of a policy in the order of the data. Nothing is allocated: sizes alone are looked at.
pub fn components(config: &PolicyConfig, workload: &Workload, device: &Device) -> Vec<Component> {
    let specs = params(&Evo1::init(config, device));
    let parameters = |prefixes: &[&str]| -> u64 {
        let is_part = |path: &str| prefixes.iter().any(|prefix| path.starts_with(prefix));
        let counts = specs.iter().filter(|spec| is_part(&spec.path));
        counts.map(|spec| spec.shape.iter().product::<usize>() as u64).sum()
    };
    let flops = flops(config, workload);
    let component = |part, name, prefixes: &[&str], flops| {
        let parameters = parameters(prefixes);
        Component { part, name, parameters, flops }
    };
    vec![
        component("vision", "tower", &["vlm.vision_tower."], flops.tower),
        component("vision", "projector", &["vlm.projector."], flops.projector),
        component("language", "token embeddings", &["vlm.language_model.embed_tokens."], 0),
        component(
            "language",
            "layers and final norm",
            &["vlm.language_model.layers.", "vlm.language_model.norm."],
            flops.layers,
        ),
        component("action", "state encoder", &["action.state_encoder."], flops.state_encoder),
        component(
            "action",
            "action encoder",
            &["action.action_encoder.", "action.single_action_proj."],
            flops.action_encoder,
        ),
        component("action", "blocks", &["action.blocks.", "action.time_mlp."], flops.blocks),
        component("action", "pooling", &["action.seq_pool_proj."], flops.pooling),
        component("action", "output", &["action.norm_out.", "action.mlp_head."], flops.output),
    ]
}

struct Flops {
    tower: u64,
    projector: u64,
    layers: u64,
    state_encoder: u64,
    action_encoder: u64,
    blocks: u64,
    pooling: u64,
    output: u64,
}

/// Operations of a linear layer on `tokens` tokens.
fn linear(tokens: usize, input: usize, output: usize) -> u64 {
    2 * (tokens * input) as u64 * output as u64
}

/// Operations of scores and weighted values.
fn attention(queries: usize, keys: usize, channels: usize) -> u64 {
    4 * (queries * keys) as u64 * channels as u64
}

fn flops(config: &PolicyConfig, workload: &Workload) -> Flops {
    let Workload { tiles, tokens, steps, keys_values_once } = *workload;
    let (vision, language) = (&config.vlm.vision, &config.vlm.language);
    let patches = config.vlm.patches_per_side().pow(2);
    let (seen, hidden) = (patches + 1, vision.hidden_size);
    let vision_layer = linear(seen, hidden, 4 * hidden)
        + 2 * linear(seen, hidden, vision.intermediate_size)
        + attention(seen, seen, hidden);
    let embedding = linear(patches, 3 * vision.patch_size.pow(2), hidden);

    let (visual, channels) = (config.vlm.tokens_per_tile(), language.hidden_size);
    let unshuffled = hidden * config.vlm.unshuffle_factor().pow(2);
    let projector = linear(visual, unshuffled, channels) + linear(visual, channels, channels);

    let kv_width = language.num_kv_heads * language.head_dim();
    let language_layer = linear(tokens, channels, 2 * channels + 2 * kv_width)
        + 3 * linear(tokens, channels, language.intermediate_size)
        + attention(tokens, tokens, channels);

    let action = &config.action;
    let ActionConfig { embed_dim, hidden_dim, state_hidden_dim, horizon, max_action_dim, max_state_dim, .. } = *action;
    let evaluations = (steps * config.flow.solver.evaluations()) as u64;
    let context = match (config.vlm.return_cls_only, action.design.state) {
        (true, StateInput::Token) => 2,
        (true, _) => 1,
        (false, StateInput::Token) => tokens + 1,
        (false, _) => tokens,
    };
    let state_encoder = match action.design.state {
        StateInput::Absent => 0,
        _ => linear(1, max_state_dim, state_hidden_dim) + linear(1, state_hidden_dim, embed_dim),
    };
    let action_encoder = match horizon {
        1 => linear(1, max_action_dim, embed_dim),
        _ => linear(horizon, max_action_dim + 2 * embed_dim, embed_dim),
    };
    let times_of_keys_values = if keys_values_once { 1 } else { evaluations };
    let blocks = (0..action.num_layers).map(|index| {
        let (of_context, of_actions) = match action.design.integration {
            Integration::MidLayerCross | Integration::LayerWise => (context, 0),
            Integration::Interleaved if index % 2 == 0 => (context, 0),
            Integration::Interleaved => (0, horizon),
            Integration::JointKv => (context, horizon),
        };
        let step = linear(horizon, embed_dim, 2 * embed_dim)
            + linear(of_actions, embed_dim, 2 * embed_dim)
            + attention(horizon, of_context + of_actions, embed_dim)
            + linear(horizon, embed_dim, 8 * embed_dim);
        let modulation = match action.design.time {
            TimeInput::Added => 0,
            TimeInput::AdaLn => linear(1, embed_dim, 6 * embed_dim),
        };
        times_of_keys_values * linear(of_context, embed_dim, 2 * embed_dim) + evaluations * (step + modulation)
    });
    let time = match action.design.time {
        TimeInput::Added => 0,
        TimeInput::AdaLn => linear(1, embed_dim, 2 * embed_dim),
    };
    let (pooling, output) = match action.design.head {
        VelocityHead::SeqPool => (
            if horizon > 1 { linear(horizon, embed_dim, embed_dim) } else { 0 },
            linear(1, embed_dim, hidden_dim) + linear(1, hidden_dim, horizon * max_action_dim),
        ),
        VelocityHead::PerStep => {
            (0, linear(horizon, embed_dim, hidden_dim) + linear(horizon, hidden_dim, max_action_dim))
        }
    };
    Flops {
        tower: tiles as u64 * (embedding + vision.num_layers as u64 * vision_layer),
        projector: tiles as u64 * projector,
        layers: language.num_layers as u64 * language_layer,
        state_encoder,
        action_encoder: evaluations * action_encoder,
        blocks: blocks.sum::<u64>() + evaluations * time,
        pooling: evaluations * pooling,
        output: evaluations * output,
    }
}

#[cfg(test)]
mod tests {
    use evo1_core::{config::Profile, device::test_devices};

    use super::*;

    /// Parameters and operations of the components whose part is `part`, or of all.
    fn total(config: &PolicyConfig, workload: &Workload, part: &str) -> (u64, u64) {
        let device = test_devices().remove(0);
        let components = components(config, workload, &device);
        let of_part = components.iter().filter(|component| part.is_empty() || component.part == part);
        of_part
            .fold((0, 0), |(parameters, flops), component| (parameters + component.parameters, flops + component.flops))
    }

    #[test]
    fn full_size_has_the_published_parameters() {
        let device = test_devices().remove(0);
        let config = PolicyConfig::evo1();
        let counts: Vec<u64> = components(&config, &Workload::of(&config), &device)
            .into_iter()
            .map(|component| component.parameters)
            .collect();
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
        let costs = Integration::ALL.map(|integration| {
            config.action.design.integration = integration;
            total(&config, &workload, "action")
        });
        assert!(costs.iter().all(|cost| cost.0 == costs[0].0));
        let [mid_layer, interleaved, layer_wise, joint] = costs.map(|cost| cost.1);
        assert_eq!(mid_layer, layer_wise);
        assert!(interleaved < mid_layer && mid_layer < joint);
    }
}
