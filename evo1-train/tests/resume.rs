//! Runs that stop, are killed, cannot save or diverge.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use burn::tensor::{Device, Tensor, TensorData};
use evo1::{
    Frame, Observation, Policy, View,
    device::{DeviceName, test_devices},
    rng::{self, RngExt},
};
use evo1_train::{
    BatchSource, CheckpointConfig, Event, OptimizerConfig, Result, ScheduleConfig, TrainBatch, TrainConfig,
    TrainedParts, Trainer,
};

/// Batches of random states and actions, each a function of its index.
struct Synthetic {
    policy: Policy,
    device: Device,
    /// Batches whose actions are not a number.
    broken: fn(u64) -> bool,
}

const BATCH: usize = 2;

impl BatchSource for Synthetic {
    fn batch(&mut self, index: u64) -> Result<TrainBatch> {
        let mut rng = rng::stream(index, "batch");
        let observations: Vec<Observation> = (0..BATCH)
            .map(|_| Observation {
                views: vec![View::Present(Frame::black(64, 64))],
                state: (0..8).map(|_| rng.random::<f32>()).collect(),
                instruction: "Open the drawer".into(),
                ..Observation::default()
            })
            .collect();
        let inputs = self.policy.prepare(&observations, true)?;
        let shape = [BATCH, self.policy.config.action.horizon, self.policy.config.action.max_action_dim];
        let value = |number: f32| if (self.broken)(index) { f32::NAN } else { number };
        let actions: Vec<f32> = (0..shape.iter().product()).map(|_| value(rng.random::<f32>())).collect();
        Ok(TrainBatch {
            mask: inputs.action_mask.clone(),
            inputs,
            actions: Tensor::from_data(TensorData::new(actions, shape), &self.device),
        })
    }

    fn batch_size(&self) -> usize {
        BATCH
    }

    fn samples(&self) -> usize {
        100
    }
}

fn config(output: &Path, steps: u64) -> TrainConfig {
    TrainConfig {
        output: output.to_owned(),
        policy: evo1_train::PolicySource { preset: Some(evo1_train::Preset::Tiny), ..Default::default() },
        stage: None,
        trained: Some(TrainedParts::all()),
        steps,
        batch_size: BATCH,
        dropout: Some(0.2),
        optimizer: OptimizerConfig { learning_rate: 1e-3, weight_decay: 0.01, ..OptimizerConfig::default() },
        schedule: ScheduleConfig { warmup_steps: 2, ..ScheduleConfig::default() },
        checkpoints: CheckpointConfig { every: 2, ..CheckpointConfig::default() },
        log_every: 1,
        ..TrainConfig::default()
    }
}

/// burn's CPU device has one generator for the whole process, which dropout draws from: one run at a time.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static RUN: Mutex<()> = Mutex::new(());
    RUN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cpu() -> Device {
    "flex".parse::<DeviceName>().and_then(DeviceName::open).unwrap_or_else(|_| test_devices().remove(0))
}

fn batches(device: &Device, broken: fn(u64) -> bool) -> Box<Synthetic> {
    Box::new(Synthetic { policy: Policy::tiny(0, device).expect("policy"), device: device.clone(), broken })
}

fn start(output: &Path, steps: u64, broken: fn(u64) -> bool) -> Trainer {
    let device = cpu();
    let policy = Policy::tiny(0, &device).expect("policy");
    Trainer::new(config(output, steps), policy, batches(&device, broken)).expect("a trainer")
}

fn resume(output: &Path, steps: u64) -> Trainer {
    let device = cpu();
    Trainer::resume(config(output, steps), batches(&device, |_| false), &device).expect("a trainer")
}

fn go_on(_: &Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The weights of the newest checkpoint.
fn weights(output: &Path) -> Vec<u8> {
    fs::read(newest(output).join("model.safetensors")).expect("weights")
}

fn newest(output: &Path) -> PathBuf {
    let entries = fs::read_dir(output.join("checkpoints")).expect("checkpoints");
    let folders = entries.map(|entry| entry.expect("entry").path()).filter(|path| path.is_dir());
    folders.max().expect("a checkpoint")
}

#[test]
fn a_run_that_stopped_goes_on_bit_for_bit() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("folder");
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let finished = start(&whole, 6, |_| false).run(go_on).expect("a run");
    assert_eq!((finished.steps, finished.metrics.len()), (6, 6));

    let stop = |event: &Event| match event {
        Event::Step(report) if report.step == 2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    assert_eq!(start(&parts, 6, |_| false).run(stop).expect("a part").steps, 3);
    let resumed = resume(&parts, 6).run(go_on).expect("the rest");
    assert!(weights(&parts) == weights(&whole), "other weights");
    let losses = |metrics: &[evo1_train::record::Metrics]| metrics.iter().map(|line| line.loss).collect::<Vec<_>>();
    assert_eq!(losses(&resumed.metrics), losses(&finished.metrics));
    for file in ["config.yaml", "metrics.jsonl", "curves.png", "report.html", "checkpoints/best.json"] {
        assert!(parts.join(file).is_file(), "{file}");
    }
    // The policy that is written is the one that was trained, and the next stage can begin from it.
    let (policy, _) = Policy::load(&newest(&parts), &evo1::LoadOptions::new(&cpu())).expect("a policy");
    assert_eq!(policy.config, resumed.policy.config);
    assert_eq!(policy.config.action.dropout, 0.2);
}

#[test]
fn only_the_newest_the_best_and_the_wanted_checkpoints_are_kept() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("folder");
    let config = TrainConfig {
        checkpoints: CheckpointConfig { every: 1, keep: 2, keep_every: Some(3), keep_best: false },
        ..config(folder.path(), 8)
    };
    let device = cpu();
    let policy = Policy::tiny(0, &device).expect("policy");
    Trainer::new(config, policy, batches(&device, |_| false)).expect("a trainer").run(go_on).expect("a run");
    let mut names: Vec<String> = fs::read_dir(folder.path().join("checkpoints"))
        .expect("checkpoints")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["step-00000003", "step-00000006", "step-00000007", "step-00000008"]);
}

#[test]
fn steps_that_are_not_finite_are_skipped_and_too_many_end_the_run() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("folder");
    let finished = start(&folder.path().join("some"), 8, |index| index % 3 == 1).run(go_on).expect("a run");
    assert_eq!(finished.skipped, 3);
    assert!(finished.metrics[1].loss.is_nan() && finished.metrics[2].loss.is_finite());
    let error = start(&folder.path().join("all"), 20, |index| index > 1).run(go_on).expect_err("diverged");
    let message = error.to_string();
    assert!(message.contains("6 steps in a row") && message.contains("step 7"), "{message}");
    assert_eq!(newest(&folder.path().join("all")).file_name().expect("name"), "step-00000006");
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_old_one_and_the_run() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("folder");
    let blocked = folder.path().join("checkpoints").join(".unfinished-4");
    let mut warnings = Vec::new();
    let finished = start(folder.path(), 6, |_| false)
        .run(|event| {
            match event {
                // A file in the way, as a full disk would be.
                Event::Step(report) if report.step == 2 => fs::write(&blocked, "in the way").expect("written"),
                Event::Step(report) if report.step == 4 => fs::remove_file(&blocked).expect("removed"),
                Event::Warning(text) => warnings.push(text.clone()),
                _ => {}
            }
            ControlFlow::Continue(())
        })
        .expect("a run");
    assert_eq!(finished.steps, 6);
    assert!(warnings.len() == 1 && warnings[0].starts_with("no checkpoint at step 4"), "{warnings:?}");
    assert_eq!(newest(folder.path()).file_name().expect("name"), "step-00000006");
}

#[test]
fn wrong_configurations_are_refused_before_anything_is_done() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("folder");
    let device = cpu();
    let refused = |config: TrainConfig| {
        let policy = Policy::tiny(0, &device).expect("policy");
        let made = Trainer::new(config, policy, batches(&device, |_| false));
        made.map(|_| ()).expect_err("must be refused").to_string()
    };
    let valid = || config(&folder.path().join("run"), 4);
    let no_weights = TrainConfig { stage: Some(2), trained: None, ..valid() };
    assert!(refused(no_weights).contains("`policy.from` must be the directory of a policy that stage 1 trained"));
    assert!(refused(TrainConfig { draws: 0, ..valid() }).contains("`draws` must be at least 1, got 0"));
    let trained = TrainedParts { frozen: vec!["no_such_part".into()], ..TrainedParts::all() };
    assert!(refused(TrainConfig { trained: Some(trained), ..valid() }).contains("match a parameter, got no_such_part"));
    start(&folder.path().join("run"), 2, |_| false).run(go_on).expect("a run");
    assert!(refused(valid()).contains("`output` must be a folder without a run in it"));
    let optimizer = newest(&folder.path().join("run")).join("training/optimizer.bpk");
    fs::write(&optimizer, "not a record").expect("written");
    let resumed = Trainer::resume(valid(), batches(&device, |_| false), &device).map(|_| ());
    let message = resumed.expect_err("must be refused").to_string();
    assert!(message.contains("optimizer.bpk"), "{message}");
}

/// Where a child process that shall be killed trains.
const CHILD: &str = "EVO1_TRAIN_CHILD";

/// Not a test: what the child process of the next ones does.
#[test]
fn child() {
    let Some(output) = std::env::var_os(CHILD) else { return };
    let output = PathBuf::from(output);
    let has_checkpoint = output.join("checkpoints").is_dir()
        && fs::read_dir(output.join("checkpoints"))
            .expect("checkpoints")
            .any(|entry| entry.expect("entry").file_name().to_string_lossy().starts_with("step-"));
    if !has_checkpoint {
        let _ = fs::remove_dir_all(&output);
        start(&output, 12, |_| false).run(go_on).expect("a run");
    } else {
        resume(&output, 12).run(go_on).expect("a run");
    }
}

fn killed_runs_end_with_the_same_weights(kills: u64) {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("folder");
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let mut rng = rng::stream(kills, "kill");
    let began = std::time::Instant::now();
    start(&whole, 12, |_| false).run(go_on).expect("a run");
    let longest = began.elapsed();
    let child = || {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["child", "--exact"]).env(CHILD, &killed).stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        command
    };
    for _ in 0..kills {
        let mut running = child().spawn().expect("a child");
        std::thread::sleep(Duration::from_secs_f64(longest.as_secs_f64() * f64::from(rng.random::<f32>())));
        running.kill().expect("killed");
        running.wait().expect("ended");
    }
    assert!(child().status().expect("a child").success());
    assert!(weights(&killed) == weights(&whole), "other weights");
}

#[test]
fn a_killed_run_ends_with_the_same_weights() {
    killed_runs_end_with_the_same_weights(2);
}

#[test]
#[ignore = "20 kills take minutes"]
fn a_run_killed_twenty_times_ends_with_the_same_weights() {
    killed_runs_end_with_the_same_weights(20);
}
