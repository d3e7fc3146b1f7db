//! Errors on what is held out during a run, the average of the weights, and parameters with learning rates of their own.

mod common;

use std::{fs, ops::ControlFlow, path::Path};

use evo1::{
    Policy,
    test_support::{Values, fixture},
    weights::{Naming, checkpoint_tensors},
};
use evo1_train::{
    CheckpointConfig, DataSource, Event, HeldOutConfig, OptimizerConfig, OptimizerGroup, TrainConfig, record::Metrics,
};
use serde_json::json;

use common::{cpu, load, open, run};

/// A run of 6 steps.
fn config(output: &Path) -> TrainConfig {
    TrainConfig { log_every: 100, ..common::config(output, 6, 1e-3) }
}

fn weights(policy: &Policy) -> Vec<f64> {
    let tensors = checkpoint_tensors(&policy.network, Naming::LEROBOT, Values);
    tensors.values().flat_map(|data| data.iter::<f64>().collect::<Vec<_>>()).collect()
}

#[test]
fn what_is_held_out_is_looked_at_and_decides_what_is_best() {
    let folder = tempfile::tempdir().expect("a folder");
    let held_out = HeldOutConfig { episodes: 0.34, every: 2, batches: 2, batch_size: 3, ..HeldOutConfig::default() };
    let config = TrainConfig {
        held_out: Some(held_out.clone()),
        checkpoints: CheckpointConfig { every: 3, keep: 9, ..CheckpointConfig::default() },
        ..config(&folder.path().join("run"))
    };
    let finished = run(&config);
    let steps = |metrics: &[Metrics]| metrics.iter().map(|line| line.step).collect::<Vec<_>>();
    assert_eq!(steps(&finished.metrics), [2, 4, 6]);
    let losses: Vec<f64> = finished.metrics.iter().map(|line| line.held_out.expect("errors").loss).collect();
    assert!(losses.iter().all(|loss| loss.is_finite()) && losses[0] != losses[2], "{losses:?}");
    let best = fs::read_to_string(config.output.join("checkpoints/best.json")).expect("the best");
    let best: serde_json::Value = serde_json::from_str(&best).expect("JSON");
    let expected = if best["step"] == 6 { losses[2] } else { best["loss"].as_f64().expect("a loss") };
    assert_eq!(best["loss"].as_f64().expect("a loss"), expected);
    assert!(expected <= losses[2]);
    let report = fs::read_to_string(config.output.join("report.html")).expect("a report");
    assert!(report.contains(&format!("loss {:.4}, action error", losses[2])), "the report's last errors");

    // It changes nothing of the training, but for the episodes that are not trained on.
    let two = json!({ "path": fixture("lerobot-datasets/v30"), "episodes": "0:2" });
    let two = DataSource::Inline(json!({ "data_groups": { "arm": { "set": two } } }));
    let plain = TrainConfig { held_out: None, data: two, ..config.clone() };
    let plain = run(&TrainConfig { output: folder.path().join("plain"), ..plain });
    assert_eq!(weights(&plain.policy), weights(&finished.policy));

    // Other data; and none where batches come from elsewhere.
    let other = HeldOutConfig { data: Some(config.data.clone()), ..held_out };
    let other = TrainConfig { held_out: Some(other), output: folder.path().join("other"), ..config.clone() };
    assert!(run(&other).metrics.iter().all(|line| line.held_out.is_some()));
    for (episodes, every) in [(0.0, 2), (1.0, 2), (0.5, 0)] {
        let held_out = Some(HeldOutConfig { episodes, every, ..HeldOutConfig::default() });
        let refused = open(&TrainConfig { held_out, output: folder.path().join("no"), ..config.clone() }).map(|_| ());
        assert!(refused.expect_err("refused").to_string().contains("`held_out"));
    }
}

#[test]
fn the_average_of_the_weights_is_kept_saved_and_gone_on_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = TrainConfig {
        ema: Some(0.5),
        held_out: Some(HeldOutConfig { every: 3, batches: 1, batch_size: 2, ..HeldOutConfig::default() }),
        checkpoints: CheckpointConfig { every: 1, keep: 9, ..CheckpointConfig::default() },
        ..config(&folder.path().join("whole"))
    };
    let finished = run(&config);
    let of = |step: u64| config.output.join(format!("checkpoints/step-{step:08}"));
    // By its definition, from the weights of every step and those of the start.
    let start = weights(&Policy::tiny(0, &cpu()).expect("a policy"));
    let mut mean = start;
    for step in 0..6_u32 {
        let decay = 0.5_f64.min((1.0 + f64::from(step)) / (10.0 + f64::from(step)));
        let now = weights(&load(&of(u64::from(step) + 1)));
        mean.iter_mut().zip(now).for_each(|(mean, now)| *mean = decay * *mean + (1.0 - decay) * now);
    }
    let got = weights(&load(&of(6).join("ema")));
    let far = got.iter().zip(&mean).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
    assert!(far < 1e-6, "{far}");
    let last = finished.metrics.last().expect("a line");
    assert!(last.held_out_ema.expect("errors").loss != last.held_out.expect("errors").loss);

    // A run that stopped goes on with it.
    let parts = TrainConfig { output: folder.path().join("parts"), ..config.clone() };
    let stop = |event: &Event| match event {
        Event::Step(report) if report.step == 2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let part = open(&parts).expect("a trainer").run(stop).expect("a part");
    assert!(part.is_interrupted && part.steps == 3);
    let rest = run(&parts);
    let saved = |checkpoint: &Path| fs::read(checkpoint.join("ema/model.safetensors")).expect("weights");
    assert!(saved(&rest.checkpoint) == saved(&finished.checkpoint), "another average");
    assert_eq!(rest.metrics.last().expect("a line").held_out_ema, last.held_out_ema);
}

#[test]
fn groups_of_parameters_have_learning_rates_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let run_with = |name: &str, groups: Vec<OptimizerGroup>| {
        let config = config(&folder.path().join(name));
        let optimizer = OptimizerConfig { groups, ..config.optimizer };
        run(&TrainConfig { optimizer, ..config }).policy
    };
    let group = |parameters: &str, learning_rate| OptimizerGroup {
        parameters: parameters.into(),
        learning_rate: Some(learning_rate),
        weight_decay: None,
    };
    let plain = run_with("plain", vec![]);
    // The same rate, told twice.
    assert_eq!(weights(&run_with("same", vec![group("vlm\\.", 1e-3)])), weights(&plain));
    let still = run_with("still", vec![group(".", 1e-2), group("vlm\\.", 0.0)]);
    let start = Policy::tiny(0, &cpu()).expect("a policy");
    let tensors = |policy: &Policy| checkpoint_tensors(&policy.network, Naming::LEROBOT, Values);
    let (before, after, plain) = (tensors(&start), tensors(&still), tensors(&plain));
    for (name, values) in &after {
        let is_action = name.contains("action_head");
        let moved = |after: &burn::tensor::TensorData| {
            let (after, before) = (after.iter::<f64>(), before[name].iter::<f64>());
            after.zip(before).map(|(after, before)| (after - before).abs()).fold(0.0, f64::max)
        };
        if is_action {
            assert!(moved(values) >= moved(&plain[name]), "{name}: ten times the rate moves it no less");
        } else {
            assert_eq!(moved(values), 0.0, "{name}");
        }
    }
    let refused = config(&folder.path().join("no"));
    let optimizer = OptimizerConfig { groups: vec![group("no_such_part", 1.0)], ..refused.optimizer };
    let message = open(&TrainConfig { optimizer, ..refused }).map(|_| ()).expect_err("nothing matches").to_string();
    assert!(message.contains("`optimizer.groups[0].parameters`") && message.contains("no_such_part"), "{message}");
}
