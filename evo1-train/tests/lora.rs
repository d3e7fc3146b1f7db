//! Runs that train low-rank adapters.

mod common;

use std::{collections::BTreeMap, fs, ops::ControlFlow, path::Path};

use burn::tensor::TensorData;
use evo1::{
    LoadOptions, Policy,
    convert::{ConvertOptions, Format, convert},
    test_support::Values,
    weights::{Naming, WeightFile, checkpoint_tensors, write_safetensors},
};
use evo1_train::{Compute, Event, Finished, LoraConfig, PolicySource, TrainConfig, Trainer};
use serde_json::{Value, json};

use common::{cpu, load, open, run};

/// A run of 5 steps.
fn config(output: &Path, lora: Option<LoraConfig>) -> TrainConfig {
    TrainConfig { log_every: 1, lora, ..common::config(output, 5, 1e-2) }
}

fn lora(rank: usize, parameters: &[&str]) -> Option<LoraConfig> {
    Some(LoraConfig { rank, alpha: 4.0, parameters: parameters.iter().map(ToString::to_string).collect(), bits: None })
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
fn adapters_are_trained_over_rounded_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    let of = |name: &str, bits| {
        let lora = lora(2, &[]).map(|lora| LoraConfig { bits, ..lora });
        TrainConfig { ema: Some(0.9), ..config(&folder.path().join(name), lora) }
    };
    let dense = run(&of("dense", None));
    let before = tensors(&Policy::tiny(0, &cpu()).expect("a policy"));
    for (name, bits, half_step) in [("eight", 8, 0.5 / 127.0), ("four", 4, 0.5 / 7.0)] {
        let finished = run(&of(name, Some(bits)));
        // Rounded weights compute something else, a little.
        let [first, exact] = [&finished, &dense].map(|run| run.metrics[0].loss);
        assert!(first != exact && (first / exact - 1.0).abs() < 0.1, "{name}: {first} for {exact}");
        let last = finished.metrics[4].loss;
        assert!(last.is_finite() && (last - first).abs() > 1e-4, "{name}: {first} stays");

        let kept = WeightFile::open(&finished.checkpoint.join("training/lora.safetensors")).expect("adapters");
        let after = tensors(&finished.policy);
        let (mut rounded, mut adapted) = (0, 0);
        for path in before.keys().filter(|path| kept.contains(path)) {
            let base = kept.read(path).expect("the weight");
            let [a, b] = [".lora.a", ".lora.b"].map(|factor| kept.read(&format!("{path}{factor}")).expect("a factor"));
            let pairs = |a: &TensorData, b: &TensorData| -> Vec<f64> {
                a.iter::<f64>().zip(b.iter::<f64>()).map(|(a, b)| a - b).collect()
            };
            assert!(is_product(&pairs(&after[path], &base), &a, &b, 2.0), "{name}: {path}");
            let error = pairs(&base, &before[path]).into_iter().map(f64::abs).fold(0.0, f64::max);
            let largest = before[path].iter::<f64>().map(f64::abs).fold(0.0, f64::max);
            assert!(error <= 1.01 * half_step * largest, "{name}: {path} is off by {error}");
            rounded += usize::from(error > 0.0);
            adapted += 1;
        }
        assert!(2 * rounded > adapted, "{name}: {rounded} of {adapted} weights are rounded");

        // It goes on to the bit, from the rounded weights.
        let parts = of(&format!("{name}-parts"), Some(bits));
        let stop = |event: &Event| match event {
            Event::Step(report) if report.step == 2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        assert!(open(&parts).expect("a trainer").run(stop).expect("a part").is_interrupted);
        let rest = run(&parts);
        for file in ["model.safetensors", "ema/model.safetensors", "training/lora.safetensors"] {
            let bytes = |finished: &Finished| fs::read(finished.checkpoint.join(file)).expect(file);
            assert!(bytes(&finished) == bytes(&rest), "{name}, {file}: other bytes");
        }
    }
    let refused = open(&of("five", Some(5))).map(|_| ()).expect_err("refused").to_string();
    assert!(refused.contains("`lora.bits` must be 8, 4 or null, got 5"), "{refused}");
}

#[test]
fn adapters_compute_in_half_precision_too() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bits) in [("dense", None), ("rounded", Some(8))] {
        let lora = lora(2, &[]).map(|lora| LoraConfig { bits, ..lora });
        let config = TrainConfig { compute: Compute::Bf16, ..config(&folder.path().join(name), lora) };
        let losses: Vec<f64> = run(&config).metrics.iter().map(|line| line.loss).collect();
        assert!(losses.iter().all(|loss| loss.is_finite()) && losses[0] != losses[4], "{name}: {losses:?}");
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
        (
            lora(2, &["no_such_part"]),
            "patterns that match the matrix of a linear layer which is trained, got no_such_part",
        ),
        (lora(2, &["("]), "regular expressions"),
    ] {
        let refused = open(&config(&folder.path().join("run"), lora)).map(|_| ()).expect_err("refused");
        assert!(refused.to_string().contains(expected), "{refused}");
    }
    let alone = PolicySource { adapter: Some("adapter".into()), ..common::config(folder.path(), 1, 1e-2).policy };
    let refused =
        open(&TrainConfig { policy: alone, ..config(folder.path(), None) }).map(|_| ()).expect_err("no policy");
    assert!(refused.to_string().contains("`policy.adapter` must be null where there is no `from`"), "{refused}");
}

/// A policy directory with an adapter in its weights.
fn with_adapter(base: &Path, adapter: &Path) -> Result<Policy, String> {
    let options = LoadOptions { adapter: Some(adapter.to_owned()), ..LoadOptions::new(&cpu()) };
    Policy::load(base, &options).map(|(policy, _)| policy).map_err(|error| error.to_string())
}

fn assert_same(got: &Policy, want: &Policy, what: &str) {
    let (got, want) = (tensors(got), tensors(want));
    for (path, want) in &want {
        let differences = got[path].iter::<f64>().zip(want.iter::<f64>()).map(|(got, want)| (got - want).abs());
        assert!(differences.fold(0.0, f64::max) < 1e-6, "{what}: {path}");
    }
}

/// A run from the policy in a folder.
fn run_from(base: &Path, output: &Path, patterns: &[&str]) -> Finished {
    let policy = PolicySource { from: Some(base.to_owned()), ..PolicySource::default() };
    run(&TrainConfig { policy, ema: Some(0.5), ..config(output, lora(2, patterns)) })
}

#[test]
fn an_adapter_for_peft_makes_of_the_base_what_was_trained() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = folder.path().join("base");
    Policy::tiny(3, &cpu()).expect("a policy").save(&base, Format::LeRobot).expect("saved");
    // One of two projections that PyTorch keeps in one tensor, both, the output's alone, and everything.
    for (name, patterns) in
        [("some", &["q_proj", "mlp"][..]), ("joint", &["blocks\\.0.*kv_proj", "blocks\\.1.*out_proj"]), ("all", &[])]
    {
        let finished = run_from(&base, &folder.path().join(name), patterns);
        let adapter = finished.checkpoint.join("adapter");
        assert_same(&with_adapter(&base, &adapter).expect("a policy"), &finished.policy, name);
        let average = load(&finished.checkpoint.join("ema"));
        let of_average = with_adapter(&base, &finished.checkpoint.join("ema/adapter"));
        assert_same(&of_average.expect("a policy"), &average, name);
        // Whatever format the base is in and becomes.
        for (at, (from, to)) in
            [(Format::Authors, Format::LeRobot), (Format::Burnpack, Format::Authors)].into_iter().enumerate()
        {
            let there = folder.path().join(format!("{name}-{at}-base"));
            let merged = folder.path().join(format!("{name}-{at}"));
            let options = |format, adapter| ConvertOptions { format, precision: None, is_strict: true, adapter };
            convert(&base, &there, &options(from, None), |_, _| ()).expect("converted");
            convert(&there, &merged, &options(to, Some(adapter.clone())), |_, _| ()).expect("merged");
            assert_same(&load(&merged), &finished.policy, name);
        }
        // A run may begin where adapters ended.
        let adapted = PolicySource { from: Some(base.clone()), adapter: Some(adapter), ..PolicySource::default() };
        let policy = adapted.open_existing(0, &cpu()).expect("a policy").expect("of a directory");
        assert_same(&policy, &finished.policy, name);
    }
}

#[test]
fn an_adapter_that_is_not_the_policys_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let [base, other, wider] = ["base", "other", "wider"].map(|name| folder.path().join(name));
    let tiny = |seed| Policy::tiny(seed, &cpu()).expect("a policy");
    tiny(3).save(&base, Format::LeRobot).expect("saved");
    tiny(4).save(&other, Format::LeRobot).expect("saved");
    let adapter = run_from(&base, &folder.path().join("run"), &[]).checkpoint.join("adapter");
    let refused = |base: &Path, adapter: &Path, expected: &str| {
        let message = with_adapter(base, adapter).map(|_| ()).expect_err(expected);
        assert!(message.contains(expected), "`{expected}` is not in: {message}");
    };
    refused(&other, &adapter, "the adapter was trained on other weights than those of");
    let mut config = tiny(3).config;
    config.action.hidden_dim += 1;
    Policy::random(config, 3, &cpu()).expect("a policy").save(&wider, Format::LeRobot).expect("saved");
    refused(&wider, &adapter, "must have shape [");
    let mut shallow = tiny(3).config;
    shallow.action.num_layers -= 1;
    Policy::random(shallow, 3, &cpu()).expect("a policy").save(&other, Format::LeRobot).expect("saved");
    refused(&other, &adapter, "have no place in the model");
    refused(&adapter, &adapter, "it holds an adapter of `");
    refused(&base, &base, "adapter_config.json");

    let text = fs::read_to_string(adapter.join("adapter_config.json")).expect("a configuration");
    let changed = |name: &str, value: Value| {
        let mut document: Value = serde_json::from_str(&text).expect("JSON");
        document[name] = value;
        fs::write(adapter.join("adapter_config.json"), document.to_string()).expect("written");
    };
    for (name, value, expected) in [
        ("peft_type", json!("LOHA"), "`peft_type` must be \"LORA\", got \"LOHA\""),
        ("r", json!(0), "`r` must be a number above 0, got 0"),
        ("r", json!(3), "must have shape [3, "),
        ("lora_alpha", json!("much"), "`lora_alpha` must be a number"),
        ("rank_pattern", json!({ "(": 2 }), "`rank_pattern` must be regular expressions"),
        ("use_dora", json!(true), "`use_dora` must be off"),
        ("modules_to_save", json!(["action_head"]), "`modules_to_save` must be off"),
        ("bias", json!("all"), "`bias` must be \"none\""),
        ("init_lora_weights", json!("pissa"), "`init_lora_weights` must be"),
    ] {
        changed(name, value);
        refused(&base, &adapter, expected);
    }
    fs::write(adapter.join("adapter_config.json"), &text).expect("written");
    let file = WeightFile::open(&adapter.join("adapter_model.safetensors")).expect("an adapter");
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    let read = |name: &String| (name.clone(), file.read(name).expect("a tensor"));
    let whole: BTreeMap<String, TensorData> = names.iter().map(read).collect();
    let write = |tensors: &BTreeMap<String, TensorData>| {
        write_safetensors(&adapter.join("adapter_model.safetensors"), tensors).expect("written");
    };
    let [mut more, mut less] = [whole.clone(), whole.clone()];
    more.insert("base_model.model.model.no_such_part.lora_A.weight".into(), TensorData::from([[1.0_f32]]));
    write(&more);
    refused(&base, &adapter, "no_such_part");
    let half = names.iter().find(|name| name.ends_with("lora_B.weight")).expect("a factor");
    less.remove(half);
    write(&less);
    refused(&base, &adapter, half);
    write(&whole);
    with_adapter(&base, &adapter).expect("as it was");
}

#[test]
fn biases_of_embodiments_have_no_adapters() {
    let folder = tempfile::tempdir().expect("a folder");
    let policy = PolicySource {
        overrides: json!({ "action": { "num_categories": 3 } }),
        ..common::config(folder.path(), 1, 1e-2).policy
    };
    let finished = run(&TrainConfig { policy, ..config(&folder.path().join("run"), lora(2, &[])) });
    let kept = WeightFile::open(&finished.checkpoint.join("training/lora.safetensors")).expect("adapters");
    assert!(kept.names().all(|name| name.contains("weight")), "{:?}", kept.names().collect::<Vec<_>>());
}
