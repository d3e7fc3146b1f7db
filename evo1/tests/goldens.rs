//! Every tensor of the PyTorch fixtures, recomputed from their inputs, on every device of the build.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{DType, Device};
use evo1::{
    LoadOptions, Policy,
    config::{Precision, Profile},
    device::test_devices,
    test_support::fixture,
    trace::{self, Stage, Tensors, TraceComparison},
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

fn load(name: &str, device: &Device, profile: Option<Profile>, precision: Precision) -> Policy {
    let options = LoadOptions { profile, precision, ..LoadOptions::new(device) };
    Policy::load(&fixture(name), &options).unwrap_or_else(|error| panic!("{name}: {error}")).0
}

fn assert_equal(what: &str, comparison: &TraceComparison, tolerance: f64) {
    assert!(comparison.missing.is_empty(), "{what}: not computed: {:?}", comparison.missing);
    assert!(!comparison.differences.is_empty(), "{what}: nothing was compared");
    for difference in &comparison.differences {
        assert!(difference.relative <= tolerance, "{what}: {difference:?}");
    }
}

fn inputs(name: &str, file: &str) -> WeightFile {
    WeightFile::open(&fixture(name).join(file)).expect("fixture")
}

fn compared(tensors: &Tensors, file: &WeightFile, profile: Profile) -> TraceComparison {
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

/// Errors of tensors by name: the norm of a tensor's difference from the one that PyTorch recorded in f32, over the norm
/// of that. One rounding more or less moves a tensor's largest difference by half, and its norm by little.
type Errors = BTreeMap<String, f64>;

fn root_mean_square(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value * value, count + 1.0));
    (sum / count).sqrt()
}

fn errors_of(tensors: &Tensors, file: &WeightFile, profile: Profile) -> Errors {
    let error = |name: String| {
        let want = file.read(&name).expect("it was compared");
        let differences = tensors[&name].iter::<f64>().zip(want.iter::<f64>()).map(|(got, want)| got - want);
        let error = root_mean_square(differences) / root_mean_square(want.iter::<f64>());
        (name, error)
    };
    compared(tensors, file, profile).differences.into_iter().map(|found| error(found.name)).collect()
}

/// The errors of a prediction in half precision.
fn errors_in(precision: Precision, name: &str, device: &Device) -> Errors {
    let policy = load(name, device, None, precision);
    let file = inputs(name, "inference.safetensors");
    let mut tensors = trace::inference(&policy, &file, None).expect(name);
    // What PyTorch recorded of another precision is no reference of this one's error.
    tensors.retain(|name, _| !name.starts_with("vlm_bf16."));
    errors_of(&tensors, &file, policy.config.profile)
}

/// PyTorch's errors in half precision, which `scripts/make_half_precision_fixtures.py` measures.
fn errors_of_pytorch(name: &str, dtype: DType) -> Errors {
    let text = std::fs::read_to_string(fixture("half-precision.json")).expect("fixture");
    let recorded: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    serde_json::from_value(recorded["errors"][name][dtype.name()].clone()).expect("errors by tensor")
}

/// PyTorch's errors with a vision-language model in bf16 and an action expert in f32, whose tensors the fixtures hold.
fn errors_of_mixed_pytorch(name: &str) -> Errors {
    let file = inputs(name, "inference.safetensors");
    let recorded = file.names().filter(|name| name.starts_with("vlm_bf16.") && !name.contains(".in."));
    let tensors: Tensors =
        recorded.map(|name| (name.trim_start_matches("vlm_bf16.").to_owned(), file.read(name).expect(name))).collect();
    assert_eq!(tensors.len(), 4, "{name}");
    errors_of(&tensors, &file, Policy::config_of(&fixture(name)).expect(name).profile)
}

/// One number for each tensor of the network, over all steps of the sampler: a single step's is a matter of luck.
fn over_steps(errors: &Errors) -> Errors {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, &error) in errors {
        let name = match name.strip_prefix("head.step.").and_then(|rest| rest.split_once('.')) {
            Some((_, tensor)) => format!("head.step.*.{tensor}"),
            None => name.clone(),
        };
        all.entry(name).or_default().push(error);
    }
    all.into_iter().map(|(name, errors)| (name, root_mean_square(errors.into_iter()))).collect()
}

/// The error of a tensor is at most this much larger than PyTorch's.
const TENSOR: f64 = 1.5;

/// That of the action, over all fixtures: of each it is one draw, as PyTorch's is, at the end of steps that feed on each
/// other.
const ACTION: f64 = 1.2;

/// A number type that PyTorch was measured in.
struct HalfPrecision {
    name: &'static str,
    precision: Precision,
    of_pytorch: fn(&str) -> Errors,
}

const HALF_PRECISIONS: [HalfPrecision; 3] = [
    HalfPrecision {
        name: "bf16",
        precision: Precision { vlm: DType::BF16, action: DType::BF16 },
        of_pytorch: |name| errors_of_pytorch(name, DType::BF16),
    },
    HalfPrecision {
        name: "f16",
        precision: Precision { vlm: DType::F16, action: DType::F16 },
        of_pytorch: |name| errors_of_pytorch(name, DType::F16),
    },
    HalfPrecision {
        name: "mixed",
        precision: Precision { vlm: DType::BF16, action: DType::F32 },
        of_pytorch: errors_of_mixed_pytorch,
    },
];

#[test]
fn half_precision_is_as_close_to_f32_as_pytorch_is() {
    for device in test_devices() {
        for HalfPrecision { name: type_name, precision, of_pytorch } in HALF_PRECISIONS {
            if precision.require(&device).is_err() {
                continue;
            }
            let (mut worst, mut actions) = ((0.0, String::new()), Vec::new());
            for name in FIXTURES {
                let (got, want) = (over_steps(&errors_in(precision, name, &device)), over_steps(&of_pytorch(name)));
                for (tensor, &want) in want.iter().filter(|(tensor, _)| *tensor != "out.action") {
                    let ratio = got[tensor] / want;
                    if ratio > worst.0 {
                        worst = (ratio, format!("{tensor} of {name}: {:.2e}, PyTorch's {want:.2e}", got[tensor]));
                    }
                }
                actions.push((got["out.action"], want["out.action"]));
            }
            let [got, want] = [|pair: &(f64, f64)| pair.0, |pair: &(f64, f64)| pair.1]
                .map(|part| root_mean_square(actions.iter().map(part)));
            let what = format!("{type_name} on {device:?}");
            println!(
                "{what}: the worst tensor is {:.2} × PyTorch's ({}), the action {:.2} ×",
                worst.0,
                worst.1,
                got / want
            );
            assert!(worst.0 <= TENSOR, "{what}: {}", worst.1);
            assert!(got <= ACTION * want, "{what}: the error of the action is {got:.2e}, PyTorch's {want:.2e}");
            for ((got, want), name) in actions.into_iter().zip(FIXTURES) {
                let message = format!("{what}: the error of {name}'s action is {got:.2e}, PyTorch's {want:.2e}");
                assert!(got <= TENSOR * ACTION * want, "{message}");
            }
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
