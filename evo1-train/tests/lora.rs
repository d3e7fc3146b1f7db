//! Runs that train low-rank adapters.

use std::{collections::BTreeMap, fs, ops::ControlFlow, path::Path};

use burn::tensor::{Device, TensorData};
use evo1::{
    LoadOptions, Policy,
    device::{DeviceName, test_devices},
    test_support::{Values, fixture},
    weights::{Naming, WeightFile, checkpoint_tensors},
};
use evo1_train::{
    CheckpointConfig, DataSource, Event, Finished, LoraConfig, OptimizerConfig, PolicySource, Preset, Result,
    ScheduleConfig, TrainConfig, TrainedParts, Trainer,
};
use serde_json::json;

fn config(output: &Path, lora: Option<LoraConfig>) -> TrainConfig {
    let dataset = json!({ "path": fixture("lerobot-datasets/v30") });
    TrainConfig {
        output: output.to_owned(),
        policy: PolicySource { preset: Some(Preset::Tiny), ..PolicySource::default() },
        data: DataSource::Inline(json!({ "data_groups": { "arm": { "set": dataset } } })),
        stage: None,
        trained: Some(TrainedParts::all()),
        steps: 5,
        batch_size: 2,
        dropout: Some(0.0),
        optimizer: OptimizerConfig { learning_rate: 1e-2, ..OptimizerConfig::default() },
        schedule: ScheduleConfig { warmup_steps: 0, ..ScheduleConfig::default() },
        checkpoints: CheckpointConfig { every: 100, ..CheckpointConfig::default() },
        log_every: 1,
        lora,
        ..TrainConfig::default()
    }
}

fn lora(rank: usize, parameters: &[&str]) -> Option<LoraConfig> {
    Some(LoraConfig { rank, alpha: 4.0, parameters: parameters.iter().map(ToString::to_string).collect() })
}

fn device() -> Device {
    "flex".parse::<DeviceName>().and_then(DeviceName::open).unwrap_or_else(|_| test_devices().remove(0))
}

fn open(config: &TrainConfig) -> Result<Trainer> {
    Trainer::open(config.clone(), &device(), |_, _| ())
}

fn run(config: &TrainConfig) -> Finished {
    open(config).expect("a trainer").run(|_| ControlFlow::Continue(())).expect("a run")
}

fn tensors(policy: &Policy) -> BTreeMap<String, TensorData> {
    checkpoint_tensors(&policy.network, Naming::BURN, Values)
}

fn load(checkpoint: &Path) -> Policy {
    Policy::load(checkpoint, &LoadOptions::new(&device())).expect("a policy").0
}

/// Whether `difference`, `[rows, columns]`, is `scale · a b`.
fn is_product(difference: &[f64], a: &TensorData, b: &TensorData, scale: f64) -> bool {
    let [rows, rank, columns] = [a.shape()[0], a.shape()[1], b.shape()[1]];
    let (a, b): (Vec<f64>, Vec<f64>) = (a.iter().collect(), b.iter().collect());
    (0..rows * columns).all(|at| {
        let (row, column) = (at / columns, at % columns);
        let sum: f64 = (0..rank).map(|k| a[row * rank + k] * b[k * columns + column]).sum();
        (difference[at] - scale * sum).abs() < 1e-5
    })
}

#[test]
fn adapters_alone_are_trained_and_the_policy_has_them_merged() {
    let folder = tempfile::tempdir().expect("a folder");
    let plain = run(&config(&folder.path().join("plain"), None));
    for (name, patterns) in [("all", &[][..]), ("action", &["^action\\."][..])] {
        let config = config(&folder.path().join(name), lora(2, patterns));
        let finished = run(&config);
        // The second factor is 0 at first: the network computes what it did.
        assert_eq!(finished.metrics[0].loss, plain.metrics[0].loss, "{name}");
        assert!(finished.metrics[4].loss != plain.metrics[4].loss);

        let kept = WeightFile::open(&finished.checkpoint.join("training/lora.safetensors")).expect("adapters");
        let (before, after) = (tensors(&Policy::tiny(0, &device()).expect("a policy")), tensors(&finished.policy));
        let mut adapted = 0;
        for (path, before) in &before {
            let values = |data: &TensorData| data.iter::<f64>().collect::<Vec<_>>();
            let difference: Vec<f64> =
                values(&after[path]).iter().zip(values(before)).map(|(after, before)| after - before).collect();
            let factors = [".lora.a", ".lora.b"].map(|factor| kept.read(&format!("{path}{factor}")).ok());
            match factors {
                [Some(a), Some(b)] => {
                    adapted += 1;
                    assert!(!path.contains("embed") && (name == "all" || path.starts_with("action.")), "{path}");
                    assert!(kept.read(path).expect("the weight") == *before, "{path}");
                    assert!(is_product(&difference, &a, &b, 2.0), "{path}");
                    assert!(difference.iter().any(|value| *value != 0.0), "{path} did not move");
                }
                _ => assert!(difference.iter().all(|value| *value == 0.0), "{path} moved"),
            }
        }
        assert!(adapted > 5, "{name}: {adapted} matrices");
        assert_eq!(tensors(&load(&finished.checkpoint)), after, "{name}: what is saved is what was trained");
    }
}

#[test]
fn a_run_with_adapters_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let of = |name: &str| TrainConfig { ema: Some(0.9), ..config(&folder.path().join(name), lora(2, &[])) };
    let whole = run(&of("whole"));
    let stop = |event: &Event| match event {
        Event::Step(report) if report.step == 1 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let parts = of("parts");
    assert!(open(&parts).expect("a trainer").run(stop).expect("a part").is_interrupted);
    let rest = run(&parts);
    for file in ["model.safetensors", "ema/model.safetensors", "training/lora.safetensors", "training/optimizer.bpk"] {
        let bytes = |finished: &Finished| fs::read(finished.checkpoint.join(file)).expect(file);
        assert!(bytes(&whole) == bytes(&rest), "{file}: other bytes");
    }
    // Not with adapters of another rank.
    let resumed = Trainer::reopen(TrainConfig { lora: lora(3, &[]), steps: 9, ..parts }, &device()).map(|_| ());
    let message = resumed.expect_err("another rank").to_string();
    assert!(message.contains("lora.a: was [") && message.contains("--allow-change trained"), "{message}");
}

#[test]
fn adapters_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for (lora, expected) in [
        (lora(0, &[]), "`lora.rank` must be at least 1, got 0"),
        (lora(2, &["no_such_part"]), "patterns that match a matrix which is trained, got no_such_part"),
        (lora(2, &["("]), "regular expressions"),
    ] {
        let refused = open(&config(&folder.path().join("run"), lora)).map(|_| ()).expect_err("refused");
        assert!(refused.to_string().contains(expected), "{refused}");
    }
}
