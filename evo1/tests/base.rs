//! A policy on a base model has its vision-language model and a fresh action expert.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::tensor::{Device, TensorData};
use evo1::{
    LoadOptions, Policy,
    config::PolicyConfig,
    convert::Format,
    device::test_devices,
    test_support::{self, Values},
    weights::{Naming, WeightFile, checkpoint_tensors, floats, write_safetensors},
};
use tempfile::TempDir;

type Tensors = BTreeMap<String, TensorData>;

/// A layout of a base model: how its names follow from those of a policy's file, and its `config.json`.
struct Layout {
    file: &'static str,
    rename: fn(&str) -> Option<String>,
    language: &'static str,
    head: &'static str,
    config: fn() -> String,
}

const ORIGINAL: Layout = Layout {
    file: "model_original_layout.safetensors",
    rename: |name| Some(name.strip_prefix("embedder.model.")?.to_owned()),
    language: "language_model.model.",
    head: "language_model.lm_head.weight",
    config: original_config,
};

const CONVERTED: Layout = Layout {
    file: "model.safetensors",
    rename: |name| {
        let rest = name.strip_prefix("model.embedder.model.")?;
        Some(match rest.strip_prefix("language_model.") {
            Some(rest) => format!("language_model.model.{rest}"),
            None => rest.to_owned(),
        })
    },
    head: "language_model.lm_head.weight",
    config: native_config,
    ..ORIGINAL
};

const NATIVE: Layout = Layout {
    rename: |name| Some(format!("model.{}", name.strip_prefix("model.embedder.model.")?)),
    language: "model.language_model.",
    head: "lm_head.weight",
    ..CONVERTED
};

fn fixture(name: &str) -> PathBuf {
    test_support::fixture("tiny-official").join(name)
}

fn native_config() -> String {
    std::fs::read_to_string(fixture("vlm_config.json")).expect("fixture")
}

/// The fixture's model in the keys of InternVL's original code.
fn original_config() -> String {
    let native: serde_json::Value = serde_json::from_str(&native_config()).expect("JSON");
    let mut vision = native["vision_config"].clone();
    for (ours, theirs) in [("attention_bias", "qkv_bias"), ("use_qk_norm", "qk_normalization")] {
        vision[theirs] = vision[ours].clone();
    }
    vision["image_size"] = vision["image_size"][0].clone();
    vision["patch_size"] = vision["patch_size"][0].clone();
    let mut language = native["text_config"].clone();
    language["rope_theta"] = language["rope_parameters"]["rope_theta"].clone();
    serde_json::json!({
        "architectures": ["InternVLChatModel"],
        "downsample_ratio": native["downsample_ratio"],
        "force_image_size": vision["image_size"],
        "llm_config": language,
        "ps_version": "v2",
        "select_layer": -1,
        "vision_config": vision,
    })
    .to_string()
}

/// A base model's directory with more language layers than are kept, which hold what must not be read.
fn base(layout: &Layout) -> TempDir {
    let file = WeightFile::open(&fixture(layout.file)).expect("fixture");
    let mut tensors: Tensors =
        file.names().filter_map(|name| Some(((layout.rename)(name)?, file.read(name).expect("tensor")))).collect();
    let poison = TensorData::new(vec![f32::NAN; 3], [3]);
    for layer in 2..24 {
        for leaf in ["self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight"] {
            tensors.insert(format!("{}layers.{layer}.{leaf}", layout.language), poison.clone());
        }
    }
    tensors.insert(layout.head.into(), poison);
    let directory = tempfile::tempdir().expect("directory");
    write_safetensors(&directory.path().join("model.safetensors"), &tensors).expect("write");
    std::fs::write(directory.path().join("config.json"), (layout.config)()).expect("write");
    std::fs::copy(fixture("tokenizer.json"), directory.path().join("tokenizer.json")).expect("copy");
    directory
}

/// A policy on the base model with the tiny preset's action expert.
fn config(base: &Path) -> PolicyConfig {
    let mut vlm = Policy::base_config(base).expect("a configuration");
    vlm.language.num_layers = 2;
    let mut config = PolicyConfig { vlm, ..PolicyConfig::tiny() };
    config.action.embed_dim = config.vlm.language.hidden_size;
    config
}

fn weights(policy: &Policy) -> Tensors {
    checkpoint_tensors(&policy.network, Naming::LEROBOT, Values)
}

fn action_expert(weights: Tensors) -> Tensors {
    weights.into_iter().filter(|(name, _)| name.contains("action_head")).collect()
}

#[test]
fn every_layout_gives_the_same_policy() {
    let expected = WeightFile::open(&fixture("model.safetensors")).expect("fixture");
    for device in test_devices() {
        for layout in [ORIGINAL, CONVERTED, NATIVE] {
            let base = base(&layout);
            let config = config(base.path());
            let options = LoadOptions { is_strict: true, ..LoadOptions::new(&device) };
            let (policy, report) = Policy::from_base(base.path(), config.clone(), 7, &options).expect("a base model");
            assert_eq!(report.weights.skipped.len(), 22 * 3 + 1);
            let weights = weights(&policy);
            for (name, data) in weights.iter().filter(|(name, _)| !name.contains("action_head")) {
                assert_eq!(data, &expected.read(name).expect("a tensor of the policy"), "{name}");
            }
            let random = Policy::random(config, 7, &device).expect("random");
            assert_eq!(action_expert(weights), action_expert(self::weights(&random)), "fresh from the seed");
        }
    }
}

#[test]
fn a_weight_file_alone_is_enough_where_the_configuration_is_known() {
    let device = test_devices().remove(0);
    let base = base(&NATIVE);
    let config = config(base.path());
    let file = base.path().join("model.safetensors");
    // The file alone is taken for InternVL3, whose tokenizer has more tokens than this model.
    let message = Policy::from_base(&file, config, 0, &LoadOptions::new(&device)).expect_err("tiny").to_string();
    assert!(message.contains("`tokenizer.json` is missing"), "{message}");
    assert_eq!(Policy::base_config(&file).expect("InternVL3-1B"), PolicyConfig::evo1().vlm);
}

#[test]
fn what_does_not_fit_is_named() {
    let device = test_devices().remove(0);
    let base = base(&ORIGINAL);
    let refused = |path: &Path, edit: fn(&mut PolicyConfig)| {
        let mut config = config(base.path());
        edit(&mut config);
        Policy::from_base(path, config, 0, &LoadOptions::new(&device)).expect_err("must be refused").to_string()
    };
    let message = refused(base.path(), |config| config.vlm.language.rope_theta = 1e4);
    assert!(message.contains("`language.rope_theta` must be 1000000.0, got 10000.0"), "{message}");
    let message = refused(base.path(), |config| config.vlm.language.num_layers = 4);
    assert!(message.contains("`num_hidden_layers` must be at most 3"), "{message}");
    let message = refused(&fixture(""), |_| {});
    assert!(message.contains("field `vision_config` is missing"), "{message}");
    let message = refused(&fixture("model.safetensors"), |_| {});
    assert!(message.contains("`tokenizer.json` is missing"), "{message}");
    let empty = tempfile::tempdir().expect("directory");
    assert!(refused(empty.path(), |_| {}).contains("none of `model.safetensors`"));
}

/// PyTorch's defaults: linear layers uniform in ±1/√inputs, attention inputs Xavier, its biases zero, norms one and zero;
/// per-embodiment weights Xavier, each for itself.
#[test]
fn a_fresh_action_expert_is_drawn_as_pytorch_draws_it() {
    let device = test_devices().remove(0);
    let head = |categories: usize| {
        let mut config = PolicyConfig::tiny();
        config.action.num_categories = categories;
        config.default_embodiment = 0;
        weights(&Policy::random(config, 3, &device).expect("random"))
    };
    let shared = head(1);
    let uniform = |weights: &Tensors, name: &str, bound: f32| {
        let values = floats(&weights[&format!("model.action_head.{name}")]);
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        assert!(largest <= bound && largest > 0.9 * bound, "{name}: {largest} for {bound}");
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let deviation = (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt();
        assert!(mean.abs() < 0.2 * bound && (deviation / (bound / 3.0_f32.sqrt()) - 1.0).abs() < 0.25, "{name}");
    };
    let (embed, horizon) = (64.0_f32, 16.0);
    uniform(&shared, "seq_pool_proj.weight", 1.0 / (embed * horizon).sqrt());
    uniform(&shared, "seq_pool_proj.bias", 1.0 / (embed * horizon).sqrt());
    uniform(&shared, "transformer_blocks.0.ff.2.weight", 1.0 / (4.0 * embed).sqrt());
    uniform(&shared, "transformer_blocks.0.attn.in_proj_weight", (6.0 / (4.0 * embed)).sqrt());
    uniform(&shared, "transformer_blocks.0.attn.out_proj.weight", 1.0 / embed.sqrt());
    uniform(&shared, "action_encoder.W1.linear.weight", 1.0 / 24.0_f32.sqrt());
    let constant = |name: &str, value: f32| {
        assert!(floats(&shared[&format!("model.action_head.{name}")]).iter().all(|got| *got == value), "{name}");
    };
    constant("transformer_blocks.1.attn.in_proj_bias", 0.0);
    constant("transformer_blocks.1.attn.out_proj.bias", 0.0);
    constant("norm_out.weight", 1.0);
    constant("norm_out.bias", 0.0);
    let separate = head(3);
    uniform(&separate, "action_encoder.W1.weight", (6.0 / (24.0 + embed)).sqrt());
    assert!(floats(&separate["model.action_head.action_encoder.W1.bias"]).iter().all(|value| *value == 0.0));
}

#[test]
fn a_saved_policy_is_the_same_policy() {
    for device in test_devices() {
        for (config, name) in [(PolicyConfig::tiny(), "tiny"), (other(), "other")] {
            let mut policy = Policy::random(config, 5, &device).expect("random");
            policy.statistics = Policy::tiny(0, &device).expect("tiny").statistics;
            (policy.config.state_dim, policy.config.action_dim) = (Some(8), Some(4));
            for format in [Format::LeRobot, Format::Authors, Format::Burnpack] {
                let directory = tempfile::tempdir().expect("directory");
                let path = directory.path().join("new/policy");
                policy.save(&path, format).expect("saved");
                let options = LoadOptions { is_strict: true, ..LoadOptions::new(&device) };
                let (again, report) = Policy::load(&path, &options).expect("loaded");
                assert_eq!(report.weights.skipped.len(), 2, "the constant tables");
                assert_eq!(again.config, policy.config, "{name} as {format:?}");
                assert_eq!(again.statistics, policy.statistics);
                assert_eq!(weights(&again), weights(&policy));
                assert_eq!(again.tokenizer.ids("lift it").expect("ids"), policy.tokenizer.ids("lift it").expect("ids"));
                policy.save(&path, format).expect("saved again in its place");
            }
        }
    }
}

/// What LeRobot's keys cannot say.
fn other() -> PolicyConfig {
    let mut config = PolicyConfig::tiny();
    config.semantics.time_scale = 500.0;
    config.tiling.max_tiles = 4;
    config
}

#[test]
fn only_what_upstream_files_cannot_say_is_said_in_ours() {
    let device: Device = test_devices().remove(0);
    for (config, expected) in [(PolicyConfig::tiny(), false), (other(), true)] {
        let directory = tempfile::tempdir().expect("directory");
        Policy::random(config, 5, &device).expect("random").save(directory.path(), Format::LeRobot).expect("saved");
        assert_eq!(directory.path().join("evo1.json").exists(), expected);
        assert!(directory.path().join("vlm_config.json").exists());
    }
}
