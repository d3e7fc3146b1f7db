//! Every tensor of the PyTorch fixtures, recomputed from their inputs, on every device of the build.

use std::{collections::BTreeSet, path::PathBuf};

use burn::tensor::{DType, Device};
use evo1::{
    LoadOptions, Policy,
    config::{Precision, Profile},
    device::test_devices,
    trace::{self, Comparison, Stage, Tensors},
    weights::WeightFile,
};

/// Largest difference, relative to the tensor's largest magnitude.
const TOLERANCE: f64 = 1e-4;

const FIXTURES: [&str; 6] = [
    "tiny-lerobot",
    "tiny-official",
    "tiny-multiembodiment",
    "tiny-horizon1",
    "tiny-train-lerobot",
    "tiny-train-official",
];

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures")).join(name)
}

fn load(name: &str, device: &Device, profile: Option<Profile>, precision: Precision) -> Policy {
    let options = LoadOptions { profile, precision, ..LoadOptions::new(device) };
    Policy::load(&fixture(name), &options).unwrap_or_else(|error| panic!("{name}: {error}")).0
}

fn assert_equal(what: &str, comparison: &Comparison, tolerance: f64) {
    assert!(comparison.missing.is_empty(), "{what}: not computed: {:?}", comparison.missing);
    assert!(!comparison.differences.is_empty(), "{what}: nothing was compared");
    for difference in &comparison.differences {
        assert!(difference.relative <= tolerance, "{what}: {difference:?}");
    }
}

fn inputs(name: &str, file: &str) -> WeightFile {
    WeightFile::open(&fixture(name).join(file)).expect("fixture")
}

fn compared(tensors: &Tensors, file: &WeightFile, profile: Profile) -> Comparison {
    trace::compare(tensors, file, profile).expect("comparable")
}

#[test]
fn inference_equals_pytorch() {
    for device in test_devices() {
        for name in FIXTURES {
            let policy = load(name, &device, None, Precision::default());
            let file = inputs(name, "inference.safetensors");
            let tensors = trace::inference(&policy, &file, None).expect(name);
            let comparison = compared(&tensors, &file, policy.config.profile);
            assert_equal(name, &comparison, TOLERANCE);

            // Nothing of the fixture may escape the comparison, the bf16 model aside.
            let compared: BTreeSet<&str> = comparison.differences.iter().map(|found| found.name.as_str()).collect();
            let escaped: Vec<&str> = file
                .names()
                .filter(|name| !name.starts_with("in.") && !name.starts_with("vlm_bf16.") && !compared.contains(name))
                .collect();
            assert!(escaped.is_empty(), "{name}: {escaped:?}");
        }
    }
}

#[test]
fn flash_and_paper_profiles_equal_their_tensors() {
    for device in test_devices() {
        for (profile, tensor) in [(Profile::OfficialFlash, "flash.out.action"), (Profile::Paper, "paper.out.action")] {
            let policy = load("tiny-official", &device, Some(profile), Precision::default());
            let file = inputs("tiny-official", "inference.safetensors");
            let tensors = trace::inference(&policy, &file, None).expect("a trace");
            let comparison = compared(&tensors, &file, profile);
            assert_equal(profile.name(), &comparison, TOLERANCE);
            assert!(comparison.differences.iter().any(|found| found.name == tensor), "{tensor}");
        }
    }
}

/// bfloat16 keeps eight bits: its rounding alone moves the action by 0.01 to 0.04, in PyTorch as here.
const BF16_TOLERANCE: f64 = 0.05;

#[test]
fn a_bf16_vision_language_model_is_as_close_as_bf16_can_be() {
    let precision = Precision { vlm: DType::BF16, action: DType::F32 };
    for device in test_devices().into_iter().filter(|device| device.supports_dtype(DType::BF16)) {
        for name in FIXTURES {
            let policy = load(name, &device, None, precision);
            let file = inputs(name, "inference.safetensors");
            let tensors = trace::inference(&policy, &file, None).expect(name);
            let mut comparison = compared(&tensors, &file, policy.config.profile);
            comparison.differences.retain(|found| found.name.starts_with("vlm_bf16."));
            comparison.missing.retain(|found| found.starts_with("vlm_bf16."));
            assert_eq!(comparison.differences.len(), 4, "{name}");
            assert_equal(name, &comparison, BF16_TOLERANCE);
        }
    }
}

#[test]
fn losses_and_gradients_equal_pytorch() {
    for device in test_devices() {
        for name in ["tiny-train-lerobot", "tiny-train-official"] {
            for (stage, file, gradients) in
                [(Stage::Stage1, "train_stage1.safetensors", 42), (Stage::Stage2, "train_stage2.safetensors", 114)]
            {
                let policy = load(name, &device.clone().autodiff(), None, Precision::default());
                let file = inputs(name, file);
                let tensors = trace::training(&policy, &file, stage).expect(name);
                let comparison = compared(&tensors, &file, policy.config.profile);
                assert_equal(&format!("{name} {stage:?}"), &comparison, TOLERANCE);
                let count = comparison.differences.iter().filter(|found| found.name.starts_with("grad.")).count();
                assert_eq!(count, gradients, "{name} {stage:?}");
            }
        }
    }
}
