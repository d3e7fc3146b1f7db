//! Stage 1 with the outputs of the frozen vision-language model kept on disk.

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use burn::tensor::{Device, Tensor, TensorData};
use evo1::{
    Frame, Observation, Policy, View,
    device::test_devices,
    rng::{self, RngExt},
    weights::{WeightFile, write_safetensors},
};
use evo1_train::{
    Batch, Batches, CheckpointConfig, Error, Finished, OptimizerConfig, Result, ScheduleConfig, TrainConfig, Trained,
    Trainer,
};

/// Samples there are; every batch has two of them, with prompts of different lengths.
const SAMPLES: u64 = 6;
const BATCH: usize = 2;

struct Cycle {
    policy: Policy,
    device: Device,
}

impl Batches for Cycle {
    fn batch(&mut self, index: u64) -> Result<Batch> {
        let samples = (0..BATCH as u64).map(|at| (index * BATCH as u64 + at) % SAMPLES);
        let observation = |sample: u64| {
            let grey = 40 * sample as u8;
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
        let inputs = self.policy.prepare(&observations, true)?;
        let shape = [BATCH, self.policy.config.action.horizon, self.policy.config.action.max_action_dim];
        let mut rng = rng::stream(index, "batch");
        let actions: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random()).collect();
        let actions = Tensor::from_data(TensorData::new(actions, shape), &self.device);
        Ok(Batch { mask: inputs.action_mask.clone(), inputs, actions })
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

fn run(output: &Path, cache: Option<&Path>, seed: u64) -> Finished {
    let device = test_devices().remove(0);
    let policy = Policy::tiny(seed, &device).expect("a policy");
    let batches = Box::new(Cycle { policy: policy.clone(), device });
    let trainer = Trainer::new(config(output, cache), policy, batches).expect("a trainer");
    trainer.run(|_| ControlFlow::Continue(())).expect("a run")
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

#[test]
fn kept_outputs_change_no_bit_of_the_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let cache = at("cache");
    let without = weights(&run(&at("without"), None, 0));
    assert!(weights(&run(&at("first"), Some(&cache), 0)) == without, "while they are made");
    let files: Vec<PathBuf> = kept(&cache).into_values().flatten().collect();
    assert_eq!(files.len(), SAMPLES as usize);
    assert!(weights(&run(&at("second"), Some(&cache), 0)) == without, "while they are read");

    // A file that was cut is made anew.
    let whole = fs::read(&files[0]).expect("a file");
    fs::write(&files[0], &whole[..whole.len() / 2]).expect("a file");
    assert!(weights(&run(&at("third"), Some(&cache), 0)) == without, "after one was cut");
    assert!(fs::read(&files[0]).expect("a file") == whole);

    // They are what is used: one that is not a number shows.
    let file = WeightFile::open(&files[0]).expect("a file");
    let tokens = file.read("tokens").expect("tokens");
    let spoilt = TensorData::new(vec![f32::NAN; tokens.num_elements()], tokens.shape().clone());
    write_safetensors(&files[0], &[("tokens".to_owned(), spoilt)].into()).expect("a file");
    assert_eq!(run(&at("fourth"), Some(&cache), 0).skipped, 3);
}

#[test]
fn other_weights_do_not_meet() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    for seed in [0, 1] {
        run(&folder.path().join(format!("{seed}")), Some(&cache), seed);
    }
    let kept = kept(&cache);
    assert_eq!(kept.values().map(Vec::len).collect::<Vec<_>>(), [SAMPLES as usize; 2]);
}

#[test]
fn nothing_is_kept_of_what_is_trained() {
    let output = Path::new("nowhere");
    let config = TrainConfig {
        stage: None,
        trained: Some(Trained { language: true, ..Trained::stage1() }),
        ..config(output, Some(output))
    };
    let Err(Error::Config { field, got, .. }) = config.validate() else { panic!("it is accepted") };
    assert_eq!((field.as_str(), got.as_str()), ("cache_frozen", "true, and the language model is"));
}
