//! Runs that stop, are killed, cannot save or diverge.

mod common;

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use burn::tensor::Device;
use evo1::{
    Frame, Observation, Policy, View,
    rng::{self, RngExt},
};
use evo1_train::{
    BatchSource, CheckpointConfig, Error, Event, OptimizerConfig, Result, RunOptions, ScheduleConfig, TrainBatch,
    TrainConfig, TrainedParts, Trainer,
};

use common::{cpu, go_on};

/// Batches of random states and actions, each a function of its index.
struct Synthetic {
    policy: Policy,
    /// Batches whose actions are not a number.
    broken: fn(u64) -> bool,
    /// The batch that cannot be read.
    unreadable: Option<u64>,
}

const BATCH: usize = 2;

impl BatchSource for Synthetic {
    fn batch(&mut self, first: u64) -> Result<TrainBatch> {
        let index = first / BATCH as u64;
        if self.unreadable == Some(index) {
            return Err(Error::config("data", "readable", format!("batch {index}")));
        }
        let mut rng = rng::stream(index, "batch");
        let observations: Vec<Observation> = (0..BATCH)
            .map(|_| Observation {
                views: vec![View::Present(Frame::black(64, 64))],
                state: (0..8).map(|_| rng.random::<f32>()).collect(),
                instruction: "Open the drawer".into(),
                ..Observation::default()
            })
            .collect();
        let inputs = self.policy.preparer().prepare_on_host(&observations, true)?;
        let shape = [BATCH, self.policy.config.action.horizon, self.policy.config.action.max_action_dim];
        let value = |number: f32| if (self.broken)(index) { f32::NAN } else { number };
        let actions: Vec<f32> = (0..shape.iter().product()).map(|_| value(rng.random::<f32>())).collect();
        let samples = (0..BATCH).map(|at| format!("sample {}", first + at as u64)).collect();
        Ok(TrainBatch { mask: inputs.action_mask.clone(), inputs, actions, samples })
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

fn batches(device: &Device, broken: fn(u64) -> bool) -> Box<Synthetic> {
    Box::new(Synthetic { policy: Policy::tiny(0, device).expect("policy"), broken, unreadable: None })
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
    let last = |metrics: &[evo1_train::record::Metrics]| *metrics.last().expect("a line");
    assert_eq!(last(&resumed.metrics).samples, last(&finished.metrics).samples);
    assert!(resumed.metrics.is_sorted_by(|one, next| one.seconds < next.seconds), "{:?}", resumed.metrics);
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
    // What was reached is saved, the skipped steps with it.
    assert_eq!(newest(&folder.path().join("all")).file_name().expect("name"), "step-00000008");
    assert!(message.contains("sample 14; sample 15"), "{message}");
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

#[test]
fn a_batch_that_cannot_be_read_costs_no_step() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("folder");
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    start(&whole, 8, |_| false).run(go_on).expect("a run");
    let device = cpu();
    let unreadable = Box::new(Synthetic { unreadable: Some(5), ..*batches(&device, |_| false) });
    let configured =
        TrainConfig { checkpoints: CheckpointConfig { every: 100, ..Default::default() }, ..config(&parts, 8) };
    let policy = Policy::tiny(0, &device).expect("policy");
    let failed = Trainer::new(configured.clone(), policy.clone(), unreadable).expect("a trainer").run(go_on);
    let message = failed.map(|_| ()).expect_err("it cannot be read").to_string();
    assert!(message.contains("batch 5"), "{message}");
    assert_eq!(newest(&parts).file_name().expect("name"), "step-00000005");
    Trainer::resume(configured, batches(&device, |_| false), &device).expect("a trainer").run(go_on).expect("the rest");
    assert!(weights(&parts) == weights(&whole), "other weights");

    // Where nothing was done, nothing is left.
    let first = folder.path().join("first");
    let unreadable = Box::new(Synthetic { unreadable: Some(0), ..*batches(&device, |_| false) });
    let trainer = Trainer::new(config(&first, 8), policy, unreadable).expect("a trainer");
    assert!(trainer.run(go_on).is_err());
    assert_eq!(fs::read_dir(first.join("checkpoints")).expect("a folder").count(), 0);
}

#[test]
fn a_folder_is_for_one_process_and_what_was_never_saved_is_no_run() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("folder");
    fs::create_dir_all(folder.path().join("checkpoints/.unfinished-2/training")).expect("what a killed process left");
    let first = start(folder.path(), 2, |_| false);
    let device = cpu();
    let policy = Policy::tiny(0, &device).expect("policy");
    let second = Trainer::new(config(folder.path(), 2), policy, batches(&device, |_| false)).map(|_| ());
    let message = second.expect_err("the first one has it").to_string();
    let holder = format!("which process {}", std::process::id());
    assert!(message.contains("no other process trains in") && message.contains(&holder), "{message}");
    first.run(go_on).expect("a run");
    assert!(!folder.path().join("checkpoints/.unfinished-2").exists());
    resume(folder.path(), 3).run(go_on).expect("nobody has it any more");
}

#[test]
fn a_run_goes_on_as_the_run_that_it_was() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("folder");
    start(folder.path(), 2, |_| false).run(go_on).expect("a run");
    let device = cpu();
    let valid = config(folder.path(), 4);
    let suites = evo1_data::Suites::default();
    let go_on_with = |config: &TrainConfig, allowed: &[&str]| {
        let allow_change = allowed.iter().map(ToString::to_string).collect();
        let options = RunOptions { allow_change, ..RunOptions::new(&suites) };
        Trainer::<evo1::Published>::resume_as(config.clone(), batches(&device, |_| false), &device, &options)
    };
    let parts = TrainedParts { vision: false, ..TrainedParts::all() };
    for (changed, name, text) in [
        (TrainConfig { seed: 7, ..valid.clone() }, "seed", "seed: was 0, is 7"),
        (TrainConfig { accumulate: 2, ..valid.clone() }, "effective_batch", "effective_batch: was 2, is 4"),
        (TrainConfig { trained: Some(parts), ..valid.clone() }, "trained", "is not there"),
    ] {
        let message = go_on_with(&changed, &[]).map(|_| ()).expect_err("another run").to_string();
        assert!(message.contains(text) && message.contains(&format!("--allow-change {name}")), "{message}");
    }
    let message = go_on_with(&valid, &["speed"]).map(|_| ()).expect_err("no such thing").to_string();
    assert!(message.contains("one of batch_size, effective_batch, seed, trained, data, got speed"), "{message}");

    // What is accepted is said, and stays in the record.
    let changed = TrainConfig { seed: 7, ..valid };
    let mut warnings = Vec::new();
    let note = |event: &Event| {
        if let Event::Warning(text) = event {
            warnings.push(text.clone());
        }
        ControlFlow::Continue(())
    };
    go_on_with(&changed, &["seed"]).expect("accepted").run(note).expect("a run");
    assert_eq!(warnings, ["the run goes on as another one: seed: was 0, is 7"]);
    let record = fs::read_to_string(newest(folder.path()).join("training/run.json")).expect("a record");
    assert!(record.contains("seed: was 0, is 7"), "{record}");
    go_on_with(&TrainConfig { steps: 6, ..changed }, &[]).expect("as before").run(go_on).expect("a run");
    let report = fs::read_to_string(folder.path().join("report.html")).expect("a report");
    assert!(report.contains("before step 2: seed: was 0, is 7"), "{report}");
}

#[test]
fn an_optimizer_of_other_parameters_is_refused() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("folder");
    let (narrow, wide) = (folder.path().join("narrow"), folder.path().join("wide"));
    start(&wide, 2, |_| false).run(go_on).expect("a run");
    let device = cpu();
    let stage1 = TrainConfig { trained: Some(TrainedParts::stage1()), ..config(&narrow, 2) };
    let policy = Policy::tiny(0, &device).expect("policy");
    Trainer::new(stage1.clone(), policy, batches(&device, |_| false)).expect("a trainer").run(go_on).expect("a run");
    let record = |run: &Path| newest(run).join("training/optimizer.bpk");
    fs::copy(record(&wide), record(&narrow)).expect("copied");
    let resumed = Trainer::resume(stage1, batches(&device, |_| false), &device).map(|_| ());
    let message = resumed.expect_err("another optimiser").to_string();
    assert!(message.contains("of a parameter that is not trained"), "{message}");
}

/// A file system of a few megabytes, as root may have one.
#[cfg(target_os = "linux")]
struct SmallDisk(PathBuf);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn mount(folder: &Path, megabytes: usize) -> Option<Self> {
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).output();
        mounted.is_ok_and(|done| done.status.success()).then(|| Self(folder.to_owned()))
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_costs_no_step_and_no_room() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("folder");
    let (whole, disk) = (folder.path().join("whole"), folder.path().join("disk"));
    fs::create_dir(&disk).expect("a folder");
    start(&whole, 30, |_| false).run(go_on).expect("a run");
    let size: u64 = files(&newest(&whole)).iter().map(|file| fs::metadata(file).expect("a file").len()).sum();
    // Room for one checkpoint and for most of another one.
    let Some(_mounted) = SmallDisk::mount(&disk, (18 * size / 10).div_ceil(1 << 20) as usize) else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    let (run, filler) = (disk.join("run"), disk.join("filler"));
    let configured =
        TrainConfig { checkpoints: CheckpointConfig { keep: 1, every: 10, ..Default::default() }, ..config(&run, 30) };
    let device = cpu();
    let policy = Policy::tiny(0, &device).expect("policy");
    let mut warnings = Vec::new();
    let trainer = Trainer::new(configured, policy, batches(&device, |_| false)).expect("a trainer");
    let finished = trainer.run(|event| {
        match event {
            Event::Step(report) if report.step == 12 => {
                // Not a byte is left, for metrics neither.
                let _ = fs::write(&filler, vec![0; 64 << 20]);
            }
            Event::Warning(text) => {
                warnings.push(text.clone());
                assert_eq!(fs::read_dir(run.join("checkpoints")).expect("checkpoints").count(), 2, "one, and the best");
                if text.starts_with("the last step") {
                    fs::remove_dir_all(run.join("checkpoints/step-00000010")).expect("somebody makes room");
                    fs::remove_file(&filler).expect("and more");
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    assert_eq!(finished.expect("a run").steps, 30);
    let told = |start: &str| warnings.iter().filter(|text| text.starts_with(start)).count();
    assert_eq!(told("no checkpoint at step 20, will be tried again"), 1, "{warnings:?}");
    assert_eq!(told("metrics are not written"), 1, "{warnings:?}");
    assert_eq!(told("the last step cannot be saved"), 1, "{warnings:?}");
    assert!(weights(&run) == weights(&whole), "other weights");
}

/// All files below a folder.
#[cfg(target_os = "linux")]
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Where a child process that shall be killed trains.
const CHILD: &str = "EVO1_TRAIN_CHILD";

/// Not a test: what the child process of the next ones does.
#[test]
fn child() {
    let Some(output) = std::env::var_os(CHILD) else { return };
    let output = PathBuf::from(output);
    let trainer = if config(&output, 12).has_begun() { resume(&output, 12) } else { start(&output, 12, |_| false) };
    trainer.run(go_on).expect("a run");
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
    let optimizer = |run: &Path| fs::read(newest(run).join("training/optimizer.bpk")).expect("a record");
    assert!(optimizer(&killed) == optimizer(&whole), "another state of the optimiser");
}

#[test]
fn a_killed_run_ends_with_the_same_weights() {
    killed_runs_end_with_the_same_weights(2);
}

#[test]
#[ignore = "40 kills take half a minute"]
fn a_run_killed_forty_times_ends_with_the_same_weights() {
    killed_runs_end_with_the_same_weights(40);
}
