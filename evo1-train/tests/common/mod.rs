//! Runs of the tiny preset on a fixture's dataset.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{ops::ControlFlow, path::Path};

use burn::tensor::Device;
use evo1::{
    LoadOptions, Policy,
    device::{DeviceName, test_devices},
    test_support::fixture,
};
use evo1_train::{
    CheckpointConfig, DataSource, Event, Finished, OptimizerConfig, PolicySource, Preset, Result, ScheduleConfig,
    TrainConfig, TrainedParts, Trainer,
};
use serde_json::json;

/// A CPU device, which repeats to the bit.
pub(crate) fn cpu() -> Device {
    "flex".parse::<DeviceName>().and_then(DeviceName::open).unwrap_or_else(|_| test_devices().remove(0))
}

pub(crate) fn go_on(_: &Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A run of all parts on the fixture's three episodes, without warm-up.
pub(crate) fn config(output: &Path, steps: u64, learning_rate: f64) -> TrainConfig {
    let dataset = json!({ "path": fixture("lerobot-datasets/v30") });
    TrainConfig {
        output: output.to_owned(),
        policy: PolicySource { preset: Some(Preset::Tiny), ..PolicySource::default() },
        data: DataSource::Inline(json!({ "data_groups": { "arm": { "set": dataset } } })),
        stage: None,
        trained: Some(TrainedParts::all()),
        steps,
        batch_size: 2,
        dropout: Some(0.0),
        optimizer: OptimizerConfig { learning_rate, ..OptimizerConfig::default() },
        schedule: ScheduleConfig { warmup_steps: 0, ..ScheduleConfig::default() },
        checkpoints: CheckpointConfig { every: 100, ..CheckpointConfig::default() },
        ..TrainConfig::default()
    }
}

pub(crate) fn open(config: &TrainConfig) -> Result<Trainer> {
    Trainer::open(config.clone(), &cpu(), |_, _| ())
}

pub(crate) fn run(config: &TrainConfig) -> Finished {
    open(config).expect("a trainer").run(go_on).expect("a run")
}

pub(crate) fn load(folder: &Path) -> Policy {
    Policy::load(folder, &LoadOptions::new(&cpu())).expect("a policy").0
}
