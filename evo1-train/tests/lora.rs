//! Runs that train low-rank adapters.

mod common;

use std::{collections::BTreeMap, fs, ops::ControlFlow, path::Path};

use burn::tensor::TensorData;
use evo1::{
    Policy,
    test_support::Values,
    weights::{Naming, WeightFile, checkpoint_tensors},
};
use evo1_train::{Event, Finished, LoraConfig, TrainConfig, Trainer};

use common::{cpu, load, open, run};

/// A run of 5 steps.
fn config(output: &Path, lora: Option<LoraConfig>) -> TrainConfig {
    TrainConfig { log_every: 1, lora, ..common::config(output, 5, 1e-2) }
}

fn lora(rank: usize, parameters: &[&str]) -> Option<LoraConfig> {
    Some(LoraConfig { rank, alpha: 4.0, parameters: parameters.iter().map(ToString::to_string).collect() })
}

fn tensors(policy: &Policy) -> BTreeMap<String, TensorData> {
    checkpoint_tensors(&policy.network, Naming::BURN, Values)
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
        let (before, after) = (tensors(&Policy::tiny(0, &cpu()).expect("a policy")), tensors(&finished.policy));
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
    let resumed = Trainer::reopen(TrainConfig { lora: lora(3, &[]), steps: 9, ..parts }, &cpu()).map(|_| ());
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
