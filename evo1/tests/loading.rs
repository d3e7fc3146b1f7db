//! What a checkpoint file may hold, and what must be said about the rest.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, Device, TensorData};
use evo1::{
    Frame, LoadOptions, Observation, Policy, PredictOptions, Result, View,
    config::{Precision, Profile},
    device::test_devices,
    test_support::{Values, fixture},
    trace,
    weights::{Naming, WeightFile, checkpoint_tensors, floats, write_safetensors},
};
use tempfile::TempDir;

fn lerobot() -> PathBuf {
    fixture("tiny-lerobot")
}

fn weights() -> BTreeMap<String, TensorData> {
    let file = WeightFile::open(&lerobot().join("model.safetensors")).expect("fixture");
    file.names().map(|name| (name.to_owned(), file.read(name).expect("tensor"))).collect()
}

/// The fixture's policy with other weights.
fn policy_with(tensors: &BTreeMap<String, TensorData>) -> TempDir {
    let directory = tempfile::tempdir().expect("directory");
    for file in ["config.json", "vlm_config.json", "tokenizer.json"] {
        std::fs::copy(lerobot().join(file), directory.path().join(file)).expect("copy");
    }
    write_safetensors(&directory.path().join("model.safetensors"), tensors).expect("write");
    directory
}

fn load(directory: &Path, device: &Device) -> Result<(Policy, evo1::LoadReport)> {
    Policy::load(directory, &LoadOptions::new(device))
}

fn refused(tensors: &BTreeMap<String, TensorData>) -> String {
    let directory = policy_with(tensors);
    let message = load(directory.path(), &test_devices().remove(0)).expect_err("must be refused").to_string();
    message.replace(&directory.path().display().to_string(), "DIR")
}

const NORM: &str = "model.action_head.norm_out.weight";

#[test]
fn layers_above_those_kept_and_the_output_head_are_never_read() {
    let mut tensors = weights();
    // Reading any of these would fail: they hold NaN.
    let poison = TensorData::new(vec![f32::NAN; 3], [3]);
    for name in ["layers.2.mlp.up_proj.weight", "layers.23.input_layernorm.weight", "lm_head.weight"] {
        tensors.insert(format!("model.embedder.model.language_model.{name}"), poison.clone());
    }
    let directory = policy_with(&tensors);
    let (_, report) = load(directory.path(), &test_devices().remove(0)).expect("the rest is whole");
    assert_eq!(report.weights.skipped.len(), 3 + 2, "and the two constant tables");
    assert_eq!(report.weights.read.len(), weights().len() - 2);
}

#[test]
fn a_tensor_without_a_place_is_named() {
    let mut tensors = weights();
    tensors.insert("model.action_head.extra.weight".into(), TensorData::from([1.0_f32]));
    assert!(refused(&tensors).contains(
        "1 tensors have no place in the model that the configuration describes: `model.action_head.extra.weight`"
    ));
}

#[test]
fn missing_misshapen_and_mistyped_tensors_are_named() {
    let mut tensors = weights();
    let norm = tensors.remove(NORM).expect("fixture");
    assert!(refused(&tensors).contains(&format!("1 of the model's tensors are missing: `{NORM}`")));
    tensors.insert(NORM.into(), TensorData::new(floats(&norm), [48, 1]));
    assert!(refused(&tensors).contains(&format!("tensor `{NORM}` must have shape [48], got [48, 1]")));
    tensors.insert(NORM.into(), TensorData::new(vec![1_i64; 48], [48]));
    assert!(refused(&tensors).contains(&format!("tensor `{NORM}` must hold floating-point numbers, got i64")));
}

#[test]
fn values_that_no_trained_network_has_are_reported_and_refused_when_strict() {
    let device = test_devices().remove(0);
    let mut tensors = weights();
    let mut norm = vec![1.0_f32; 48];
    norm[0] = f32::INFINITY;
    norm[1] = f32::NAN;
    norm[2] = 1e37;
    tensors.insert(NORM.into(), TensorData::new(norm, [48]));
    let directory = policy_with(&tensors);
    let (_, report) = load(directory.path(), &device).expect("reported only");
    let findings: Vec<String> = report.weights.findings.iter().map(ToString::to_string).collect();
    assert_eq!(findings, [format!("`{NORM}` (1 NaN, 1 infinite, 1 up to 1.0e37)")]);
    let strict = LoadOptions { is_strict: true, ..LoadOptions::new(&device) };
    let message = Policy::load(directory.path(), &strict).expect_err("strict").to_string();
    assert!(
        message.contains("1 tensors hold values that no trained network has: `model.action_head.norm_out"),
        "{message}"
    );
    let (_, report) = Policy::load(&lerobot(), &strict).expect("nothing is wrong");
    assert_eq!(report.weights.findings, []);
}

#[test]
fn unknown_keys_are_reported_and_refused_when_strict() {
    let device = test_devices().remove(0);
    let directory = policy_with(&weights());
    let path = directory.path().join("config.json");
    let text = std::fs::read_to_string(&path).expect("config").replacen('{', r#"{"new_option": 1,"#, 1);
    std::fs::write(&path, text).expect("write");
    let (_, report) = load(directory.path(), &device).expect("reported only");
    assert_eq!(report.unknown_keys, [format!("{}: new_option", path.display())]);
    let strict = LoadOptions { is_strict: true, ..LoadOptions::new(&device) };
    let message = Policy::load(directory.path(), &strict).expect_err("strict").to_string();
    assert!(message.contains("keys that nothing reads") && message.contains("new_option"), "{message}");
}

#[test]
fn a_value_too_large_for_the_number_type_is_refused() {
    let mut tensors = weights();
    tensors.insert(NORM.into(), TensorData::new(vec![1e6_f32; 48], [48]));
    let directory = policy_with(&tensors);
    for device in test_devices().into_iter().filter(|device| device.supports_dtype(DType::F16)) {
        let options = LoadOptions { precision: Precision::all(DType::F16), ..LoadOptions::new(&device) };
        let message = Policy::load(directory.path(), &options).expect_err("1e6 is no f16").to_string();
        assert!(message.contains("not finite"), "{message}");
    }
}

#[test]
fn half_precision_files_load_and_compute_in_single_precision() {
    let inputs = WeightFile::open(&lerobot().join("inference.safetensors")).expect("fixture");
    for device in test_devices() {
        for (dtype, tolerance) in [(DType::BF16, 0.1), (DType::F16, 0.01)] {
            let half = weights().into_iter().map(|(name, data)| (name, data.convert_dtype(dtype))).collect();
            let (policy, _) = load(policy_with(&half).path(), &device).expect("half precision");
            let tensors = trace::inference(&policy, &inputs, None).expect("a trace");
            let comparison = trace::compare(&tensors, &inputs, policy.config.profile).expect("comparable");
            let action = comparison.differences.iter().find(|found| found.name == "out.action").expect("an action");
            assert!(action.relative < tolerance && action.relative > 1e-5, "{dtype:?}: {action:?}");
        }
    }
}

#[test]
fn a_checkpoint_of_the_authors_computes_what_pytorch_does() {
    let inputs = WeightFile::open(&fixture("tiny-official/inference.safetensors")).expect("fixture");
    for device in test_devices() {
        for (profile, name) in [(None, "flash.out.action"), (Some(Profile::Official), "paper.out.action")] {
            let options = LoadOptions { profile, ..LoadOptions::new(&device) };
            let (policy, report) = Policy::load(&fixture("tiny-authors"), &options).expect("a checkpoint");
            assert_eq!(report.unknown_keys, Vec::<String>::new());
            assert_eq!(report.weights.naming, Naming::AUTHORS);
            assert_eq!(policy.config.profile, profile.unwrap_or(Profile::OfficialFlash));
            let tensors = trace::inference(&policy, &inputs, None).expect("a trace");
            let comparison = trace::compare(&tensors, &inputs, policy.config.profile).expect("comparable");
            assert!(comparison.is_within(1e-4), "{comparison:?}");
            assert!(comparison.differences.iter().any(|found| found.name == name));
        }
    }
}

#[test]
fn both_namings_hold_the_same_weights() {
    let device = test_devices().remove(0);
    let load = |name| Policy::load(&fixture(name), &LoadOptions::new(&device)).expect(name).0;
    let all = |policy: Policy| checkpoint_tensors(&policy.network, Naming::LEROBOT, Values);
    assert_eq!(all(load("tiny-authors")), all(load("tiny-official")));
}

#[test]
fn a_base_model_without_an_action_expert_is_no_policy() {
    let (prefix, base) = ("model.embedder.model.", "model.");
    let tensors = weights()
        .into_iter()
        .filter_map(|(name, data)| Some((format!("{base}{}", name.strip_prefix(prefix)?), data)))
        .collect();
    assert!(refused(&tensors).contains("a base model without an action expert"));
}

#[test]
fn names_of_no_known_kind_are_shown() {
    let tensors = BTreeMap::from([("encoder.weight".into(), TensorData::from([1.0_f32]))]);
    assert!(refused(&tensors).contains("named like no Evo-1 or InternVL3 checkpoint: `encoder.weight`"));
}

#[test]
fn writing_and_reading_changes_no_bit() {
    let tensors = weights();
    let directory = policy_with(&tensors);
    let file = WeightFile::open(&directory.path().join("model.safetensors")).expect("written");
    assert_eq!(file.names().count(), tensors.len());
    for (name, data) in &tensors {
        assert_eq!(&file.read(name).expect("tensor"), data, "{name}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).expect("directory").count(), 4, "no temporary file is left");
}

#[test]
fn the_embedded_policy_is_its_directory_and_looks() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/metaworld");
    for device in test_devices() {
        let embedded = Policy::embedded(&LoadOptions::new(&device)).expect("embedded");
        let (read, report) = load(&folder, &device).expect("a policy directory");
        assert!(report.unknown_keys.is_empty() && report.weights.findings.is_empty(), "{report:?}");
        let frame = |level: u8| Frame::new(224, 224, vec![level; 224 * 224 * 3]).expect("full");
        let observation = |level: u8, instruction: &str| Observation {
            views: vec![View::Present(frame(level))],
            state: vec![0.0, 0.6, 0.2, 1.0, 0.0, 0.7, 0.02, 0.0],
            instruction: instruction.into(),
            ..Observation::default()
        };
        let options = PredictOptions::default();
        let predict =
            |policy: &Policy, observation: &Observation| policy.predict(observation, &options).expect("a chunk");
        let reach = observation(100, "Move the gripper to the red target point");
        let chunk = predict(&embedded, &reach);
        assert_eq!((chunk.horizon(), chunk.width()), (8, 4));
        assert_eq!(chunk, predict(&read, &reach));
        assert_ne!(chunk, predict(&embedded, &observation(200, &reach.instruction)), "another frame");
        assert_ne!(chunk, predict(&embedded, &observation(100, "Open the drawer")), "another instruction");
    }
}
