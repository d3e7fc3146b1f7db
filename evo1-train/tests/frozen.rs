//! Stage 1 with the outputs of the frozen vision-language model kept on disk.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::SystemTime,
};

use burn::tensor::TensorData;
use evo1::{
    Choice, Frame, Observation, Policy, View,
    config::{PolicyConfig, Profile},
    device::DeviceName,
    rng::{self, RngExt},
    weights::{WeightFile, write_safetensors},
};
use evo1_train::{
    BatchSource, CheckpointConfig, Compute, DataSource, Error, Event, Finished, Learner, LearnerConfig,
    OptimizerConfig, Result, ScheduleConfig, TrainBatch, TrainConfig, TrainedParts, Trainer,
};
use sha2::{Digest, Sha256};

use common::{cpu, go_on};

/// Samples there are; every batch has two of them, each time other two, with prompts of different lengths.
const SAMPLES: u64 = 5;
const BATCH: usize = 2;

/// The same few samples again and again.
struct Cycle {
    policy: Policy,
    /// Grey level of the first sample's frames.
    darkest: u8,
}

impl BatchSource for Cycle {
    fn batch(&mut self, first: u64) -> Result<TrainBatch> {
        let samples = (0..BATCH as u64).map(|at| (first + at) % SAMPLES);
        let observation = |sample: u64| {
            let grey = self.darkest + 40 * sample as u8;
            let frame = || Frame::new(64, 64, vec![grey; 3 * 64 * 64]).expect("a frame");
            let view = if sample.is_multiple_of(2) { View::Absent } else { View::Present(frame()) };
            Observation {
                views: vec![View::Present(frame()), view],
                state: vec![0.1 * sample as f32; 8],
                instruction: ["Open the drawer", "Push the puck to the goal marker"][sample as usize % 2].into(),
                ..Observation::default()
            }
        };
        let observations: Vec<Observation> = samples.map(observation).collect();
        let inputs = self.policy.preparer().prepare_on_host(&observations, true)?;
        let shape = [BATCH, self.policy.config.action.horizon, self.policy.config.action.max_action_dim];
        let mut rng = rng::stream(first, "batch");
        let actions: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random()).collect();
        Ok(TrainBatch { mask: inputs.action_mask.clone(), inputs, actions, samples: vec![] })
    }

    fn batch_size(&self) -> usize {
        BATCH
    }

    fn samples(&self) -> usize {
        SAMPLES as usize
    }
}

fn config(output: &Path, cache: Option<&Path>) -> TrainConfig {
    TrainConfig {
        output: output.to_owned(),
        policy: evo1_train::PolicySource { preset: Some(evo1_train::Preset::Tiny), ..Default::default() },
        steps: 9,
        batch_size: BATCH,
        cache_frozen: cache.is_some(),
        cache_folder: cache.map(Path::to_owned),
        optimizer: OptimizerConfig { learning_rate: 1e-3, ..OptimizerConfig::default() },
        schedule: ScheduleConfig { warmup_steps: 2, ..ScheduleConfig::default() },
        checkpoints: CheckpointConfig { every: 100, ..CheckpointConfig::default() },
        ..TrainConfig::default()
    }
}

fn policy(seed: u64, profile: Profile) -> Policy {
    let Policy { config, network, tokenizer, statistics, .. } = Policy::tiny(seed, &cpu()).expect("a policy");
    Policy::new(config.with_profile(profile), network, tokenizer, statistics, &cpu())
}

fn batches(policy: &Policy) -> Box<Cycle> {
    Box::new(Cycle { policy: policy.clone(), darkest: 0 })
}

fn run_of(policy: Policy, config: TrainConfig) -> Finished {
    let batches = batches(&policy);
    Trainer::new(config, policy, batches).expect("a trainer").run(go_on).expect("a run")
}

fn run(output: &Path, cache: Option<&Path>, seed: u64) -> Finished {
    run_of(policy(seed, Profile::LeRobot), config(output, cache))
}

fn weights(finished: &Finished) -> Vec<u8> {
    fs::read(finished.checkpoint.join("model.safetensors")).expect("weights")
}

/// The kept files, by the folder of their weights.
fn kept(cache: &Path) -> BTreeMap<PathBuf, Vec<PathBuf>> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
    };
    let files = |folder: PathBuf| {
        let files = entries(&folder).iter().flat_map(|part| entries(part)).collect();
        (folder, files)
    };
    entries(cache).into_iter().map(files).collect()
}

/// All kept files.
fn files(cache: &Path) -> Vec<PathBuf> {
    kept(cache).into_values().flatten().collect()
}

fn losses(finished: &Finished) -> Vec<f64> {
    finished.metrics.iter().map(|line| line.loss).collect()
}

/// Writes tokens in the place of those that were kept, with their sum.
fn replace(file: &Path, tokens: TensorData) {
    let name = file.file_stem().expect("a name").to_string_lossy();
    let mut sum = Sha256::new_with_prefix(name.as_bytes());
    sum.update(format!("tokens {} {:?}", tokens.dtype().name(), tokens.shape().as_slice()));
    sum.update(tokens.as_bytes());
    let sum = TensorData::new(sum.finalize().to_vec(), [32]);
    write_safetensors(file, &[("tokens".to_owned(), tokens), ("sha256".to_owned(), sum)].into()).expect("a file");
}

#[test]
fn kept_outputs_change_no_bit_of_the_weights() {
    let variant = |change: fn(&mut PolicyConfig)| {
        let mut config = policy(0, Profile::LeRobot).config;
        change(&mut config);
        Policy::random(config, 0, &cpu()).expect("a policy")
    };
    let mut policies: Vec<(String, Policy)> =
        Profile::ALL.iter().map(|&profile| (format!("{profile:?}"), policy(0, profile))).collect();
    policies.push((
        "layer by layer".into(),
        variant(|config| config.action.design.integration = Choice::new("layer-wise")),
    ));
    policies.push(("pooled".into(), variant(|config| config.vlm.return_cls_only = true)));
    for (variant, policy) in policies {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let run = |name: &str, cache: Option<&Path>| run_of(policy.clone(), config(&at(name), cache));
        let cache = at("cache");
        let without = run("without", None);
        for (name, what) in [("first", "while they are made"), ("second", "while they are read")] {
            let with = run(name, Some(&cache));
            assert_eq!(losses(&with), losses(&without), "{variant}, {what}");
            assert!(weights(&with) == weights(&without), "{variant}, {what}");
        }
        assert_eq!(files(&cache).len(), SAMPLES as usize, "{variant}: one a sample, whatever is in its batches");
    }
}

#[test]
fn nor_do_they_where_it_is_computed_in_half_precision() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    let run = |name: &str, cache: Option<&Path>| {
        let config = TrainConfig { compute: Compute::Bf16, ..config(&folder.path().join(name), cache) };
        weights(&run_of(policy(0, Profile::LeRobot), config))
    };
    let without = run("without", None);
    assert!(run("first", Some(&cache)) == without, "while they are made");
    assert!(run("second", Some(&cache)) == without, "while they are read");
    // Those of another number type are others.
    self::run(&folder.path().join("single"), Some(&cache), 0);
    assert_eq!(kept(&cache).len(), 2);
}

#[test]
fn what_was_kept_is_used_and_what_was_damaged_is_made_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let cache = at("cache");
    let without = weights(&run(&at("without"), None, 0));
    run(&at("first"), Some(&cache), 0);
    let file = &files(&cache)[0];
    let whole = fs::read(file).expect("a file");
    let mut flipped = whole.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let other = fs::read(&files(&cache)[1]).expect("a file");
    let damages =
        [("cut", whole[..whole.len() / 2].to_vec()), ("flipped", flipped), ("empty", vec![]), ("moved", other)];
    for (damage, bytes) in damages {
        fs::write(file, bytes).expect("a file");
        assert!(weights(&run(&at(damage), Some(&cache), 0)) == without, "{damage}");
        assert!(fs::read(file).expect("a file") == whole, "{damage}");
    }

    // One that is not a number shows: in every step that draws its sample.
    let tokens = WeightFile::open(file).and_then(|file| file.read("tokens")).expect("tokens");
    replace(file, TensorData::new(vec![f32::NAN; tokens.num_elements()], tokens.shape().clone()));
    let skipped = run(&at("spoilt"), Some(&cache), 0).skipped;
    assert!((3..=4).contains(&skipped), "{skipped} steps");
}

#[test]
fn a_resumed_run_goes_on_with_what_was_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let without = run(&whole, None, 0);

    // Three steps have drawn every sample. The outputs lie in the run's own folder.
    let configured = TrainConfig { cache_frozen: true, dropout: Some(0.0), ..config(&parts, None) };
    let policy = policy(0, Profile::LeRobot);
    let stop = |event: &Event| match event {
        Event::Step(report) if report.step == 2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let trainer = Trainer::new(configured.clone(), policy.clone(), batches(&policy)).expect("a trainer");
    assert_eq!(trainer.run(stop).expect("a part").steps, 3);
    let cache = parts.join("frozen");
    let times = || -> Vec<SystemTime> {
        let time = |file: &PathBuf| fs::metadata(file).and_then(|file| file.modified()).expect("a file");
        files(&cache).iter().map(time).collect()
    };
    let before = times();
    assert_eq!(before.len(), SAMPLES as usize);

    let resumed = Trainer::resume(configured, batches(&policy), &cpu()).expect("a trainer").run(go_on).expect("a run");
    assert!(weights(&resumed) == weights(&without), "other weights");
    assert_eq!(times(), before, "nothing is written again");
}

#[test]
fn other_data_finds_nothing_of_this() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let cache = at("cache");
    let run_on_other = |name: &str, cache: Option<&Path>| {
        let policy = policy(0, Profile::LeRobot);
        let batches = Box::new(Cycle { darkest: 1, ..*batches(&policy) });
        weights(&Trainer::new(config(&at(name), cache), policy, batches).expect("a trainer").run(go_on).expect("a run"))
    };
    run(&at("this"), Some(&cache), 0);
    assert!(run_on_other("with", Some(&cache)) == run_on_other("without", None), "other weights");
    assert_eq!(files(&cache).len(), 2 * SAMPLES as usize);
}

#[test]
fn devices_share_what_was_kept() {
    let names = ["flex", "ndarray"];
    if names.iter().any(|name| name.parse::<DeviceName>().and_then(DeviceName::open).is_err()) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    let run = |name: &str, cache: Option<&Path>| {
        let devices = names.map(str::to_owned).to_vec();
        let config = TrainConfig { devices, dropout: Some(0.0), ..config(&folder.path().join(name), cache) };
        losses(&run_of(policy(0, Profile::LeRobot), config))
    };
    let (with, without) = (run("with", Some(&cache)), run("without", None));
    assert_eq!(with.len(), without.len());
    // Which of the two makes an output is left to chance, and so is its rounding.
    assert!(with.iter().zip(&without).all(|(with, without)| (with - without).abs() < 1e-5 * without), "{with:?}");
    assert_eq!(files(&cache).len(), SAMPLES as usize);
}

#[test]
fn a_frozen_model_keeps_its_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = policy(0, Profile::LeRobot);
    for cache in [None, Some(folder.path().join("cache"))] {
        let output = folder.path().join(format!("cached-{}", cache.is_some()));
        let finished = run_of(start.clone(), config(&output, cache.as_deref()));
        start.save(&folder.path().join("start"), evo1::convert::Format::LeRobot).expect("saved");
        let open = |path: &Path| WeightFile::open(&path.join("model.safetensors")).expect("weights");
        let (before, after) = (open(&folder.path().join("start")), open(&finished.checkpoint));
        let (action, frozen): (Vec<&str>, Vec<&str>) = before.names().partition(|name| name.contains("action_head"));
        assert!(!action.is_empty() && !frozen.is_empty());
        let changed = |name: &&str| before.read(name).expect("before") != after.read(name).expect("after");
        assert!(!frozen.iter().any(changed), "a frozen weight");
        assert!(action.iter().any(changed), "no weight of the action head");
    }
}

#[test]
fn other_weights_or_semantics_do_not_meet_and_another_action_head_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    let runs = [(0, Profile::LeRobot), (1, Profile::LeRobot), (0, Profile::Official), (0, Profile::OfficialFlash)];
    for (at, (seed, profile)) in runs.into_iter().enumerate() {
        run_of(policy(seed, profile), config(&folder.path().join(format!("{at}")), Some(&cache)));
    }
    let folders = kept(&cache);
    assert_eq!(folders.values().map(Vec::len).collect::<Vec<_>>(), [SAMPLES as usize; 4]);

    let other = TrainConfig { dropout: Some(0.5), draws: 2, ..config(&folder.path().join("other"), Some(&cache)) };
    run_of(policy(0, Profile::LeRobot), other);
    assert_eq!(kept(&cache), folders);
}

#[test]
fn nothing_is_kept_of_what_is_trained() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = &folder.path().join("run");
    for (vision, language, part) in [
        (true, false, "the vision tower with the projector is"),
        (false, true, "the language model is"),
        (true, true, "vision tower, projector and language model are"),
    ] {
        let trained = TrainedParts { vision, language, ..TrainedParts::stage1() };
        let config = TrainConfig { stage: None, trained: Some(trained), ..config(output, Some(output)) };
        let refused = |result: Result<()>| {
            let Err(Error::Config { field, got, .. }) = result else { panic!("it is accepted") };
            assert_eq!((field.as_str(), got), ("cache_frozen", format!("true, and {part}")));
        };
        refused(config.validate());
        let learner: LearnerConfig = config.learner().expect("a learner's");
        refused(Learner::new(policy(0, Profile::LeRobot), learner).map(|_| ()));
        assert!(!output.exists());
    }
}

#[test]
fn nothing_is_kept_of_augmented_frames() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = &folder.path().join("run");
    let data = serde_json::json!({
        "data_groups": { "arm": { "name": { "path": "nowhere" } } },
        "augmentation": "recipe",
    });
    let config = TrainConfig { data: DataSource::Inline(data), ..config(output, Some(output)) };
    for opened in [Trainer::open(config.clone(), &cpu(), |_, _| ()), Trainer::reopen(config, &cpu())] {
        let Err(Error::Config { field, expected, .. }) = opened else { panic!("it is accepted") };
        assert_eq!(field, "cache_frozen");
        assert!(expected.contains("augmented"), "{expected}");
    }
}

#[test]
fn what_has_no_room_is_computed_each_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let without = weights(&run(&at("without"), None, 0));
    run(&at("all"), Some(&at("whole")), 0);
    let size = fs::metadata(&files(&at("whole"))[0]).expect("a file").len();
    // Room for two outputs and a half beside what lies there already.
    let cache = at("cache");
    let fill = || {
        fs::create_dir_all(cache.join("other")).expect("a folder");
        fs::write(cache.join("other/file"), vec![0; (1 << 20) - (5 * size / 2) as usize]).expect("a file");
    };
    fill();
    let limited = |name: &str, limit| {
        let config = TrainConfig { cache_mb: Some(limit), ..config(&at(name), Some(&cache)) };
        let mut warnings = Vec::new();
        let policy = policy(0, Profile::LeRobot);
        let batches = batches(&policy);
        let finished = Trainer::new(config, policy, batches).expect("a trainer").run(|event| {
            if let Event::Warning(text) = event {
                warnings.push(text.clone());
            }
            ControlFlow::Continue(())
        });
        (weights(&finished.expect("a run")), warnings)
    };
    let kept = || -> Vec<PathBuf> {
        fs::remove_dir_all(cache.join("other")).expect("a folder");
        let kept = files(&cache);
        fill();
        kept
    };
    assert!(limited("limited", 1).0 == without, "the run is the same");
    let count = kept().len();
    assert!((1..SAMPLES as usize).contains(&count), "{count} are kept");
    let bytes: u64 = kept().iter().map(|file| fs::metadata(file).expect("a file").len()).sum();
    assert!(bytes <= 5 * size / 2, "{bytes} bytes");
    // What was kept is used, and nothing is added.
    assert!(limited("again", 1).0 == without, "the run is the same");
    assert_eq!(kept().len(), count);
    let (bytes, warnings) = limited("none", 0);
    assert!(bytes == without && kept().len() == count);
    assert!(warnings.iter().any(|text| text.contains("`cache_mb` of 0 has no room for what")), "{warnings:?}");
}
