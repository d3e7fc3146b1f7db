//! The optimiser steps that the PyTorch fixtures record, reproduced by the trainer's own step.

use std::{collections::BTreeMap, sync::Arc};

use burn::tensor::{DType, Device, Tensor};
use evo1::{
    HostInputs, LoadOptions, Policy, VelocityModel,
    device::test_devices,
    test_support::{Values, assert_close, fixture},
    vlm::{TokenBatch, frame::Pixels},
    weights::{Naming, WeightFile, checkpoint_tensors, floats},
};
use evo1_train::{
    Alone, Decay, Draw, Learner, LearnerConfig, OptimizerConfig, Schedule, TrainBatch, TrainedParts, parameters,
};

/// Largest difference, relative to the tensor's largest magnitude.
const TOLERANCE: f64 = 1e-4;

/// Adam's first step is the gradient's sign: gradients smaller than this part of their norm are rounding noise.
const NOISE: f64 = 1e-5;

struct Fixture {
    file: WeightFile,
    device: Device,
}

impl Fixture {
    fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        Tensor::from_data(self.file.read(name).expect(name).convert_dtype(DType::F32), &self.device)
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        self.file.read(name).expect(name).iter().collect()
    }

    fn batch(&self) -> TrainBatch {
        let rows = |name: &str| {
            let length = self.file.shape(name).expect(name)[1];
            let values = self.numbers(name);
            values.chunks(length).map(<[f64]>::to_vec).collect::<Vec<_>>()
        };
        let ids = rows("in.input_ids").into_iter().map(|row| row.into_iter().map(|id| id as u32).collect()).collect();
        let mask = rows("in.attention_mask").into_iter().map(|row| row.into_iter().map(|id| id != 0.0).collect());
        TrainBatch {
            inputs: HostInputs {
                pixels: Pixels::Normalized(self.values("in.pixel_values")),
                black_tiles: Vec::new(),
                tokens: TokenBatch::new(ids, mask.collect()),
                state: self.values("in.padded_state"),
                embodiment: self.numbers("in.embodiment_id").into_iter().map(|id| id as usize).collect(),
                action_mask: self.values("in.action_mask"),
            },
            actions: self.values("in.actions"),
            mask: self.values("in.action_mask"),
            samples: Vec::new(),
        }
    }

    fn values(&self, name: &str) -> Vec<f32> {
        floats(&self.file.read(name).expect(name))
    }

    fn draw(&self, step: usize) -> Draw {
        Draw { time: self.values(&format!("step{step}.t")), noise: self.tensor(&format!("step{step}.noise_raw")) }
    }

    fn config(&self, trained: TrainedParts) -> LearnerConfig {
        let hyper = self.numbers("hyper.lr_wd_clip_beta1_beta2_eps");
        let optimizer = OptimizerConfig {
            learning_rate: hyper[0],
            weight_decay: hyper[1] as f32,
            clip_norm: Some(hyper[2]),
            betas: (hyper[3] as f32, hyper[4] as f32),
            epsilon: hyper[5] as f32,
            groups: Vec::new(),
        };
        LearnerConfig::new(trained, optimizer, Schedule { warmup: 0, total: 2, decay: Decay::Constant })
    }

    /// Compares the trained parameters with those that PyTorch had after `step` steps, and gives how many were compared.
    fn assert_parameters(&self, policy: &Policy, step: usize) -> usize {
        let ours = checkpoint_tensors(&policy.network, Naming::LEROBOT, Values);
        let prefix = format!("param_after_step{step}.");
        let norm = self.numbers("step0.grad_norm")[0];
        let mut compared = 0;
        for name in self.file.names().filter_map(|name| name.strip_prefix(&prefix)) {
            let got: Vec<f64> = ours.get(name).expect(name).iter().collect();
            let want = self.numbers(&format!("{prefix}{name}"));
            let gradient = self.numbers(&format!("grad.{name}"));
            let scale = want.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
            assert_eq!(got.len(), want.len(), "{name}");
            for ((got, want), gradient) in got.iter().zip(&want).zip(gradient) {
                let difference = (got - want).abs();
                if gradient.abs() > NOISE * norm {
                    assert!(difference <= TOLERANCE * scale, "{name} after step {step}: got {got}, want {want}");
                }
            }
            compared += 1;
        }
        compared
    }
}

fn assert_equal(what: &str, got: f64, want: f64) {
    assert_close(what, &got, &want, TOLERANCE);
}

#[test]
fn optimizer_steps_equal_pytorch() {
    for device in test_devices() {
        for (name, loss) in [("tiny-train-lerobot", "loss_lerobot"), ("tiny-train-official", "loss_official")] {
            for (stage, trained, parameters_after) in
                [("stage1", TrainedParts::stage1(), [42, 42]), ("stage2", TrainedParts::all(), [114, 0])]
            {
                let (policy, _) = Policy::load(&fixture(name), &LoadOptions::new(&device)).expect(name);
                let file = WeightFile::open(&fixture(name).join(format!("train_{stage}.safetensors"))).expect(stage);
                let fixture = Fixture { file, device: device.clone() };
                let batch = fixture.batch();
                let mut learner = Learner::new(policy, fixture.config(trained)).expect("a learner");
                for (step, parameters) in parameters_after.into_iter().enumerate() {
                    let report = learner.step_with(&batch, fixture.draw(step)).expect("a step");
                    let what = |value: &str| format!("{name} {stage}: step{step}.{value}");
                    assert!(!report.is_skipped);
                    assert_equal(&what(loss), report.loss, fixture.numbers(&format!("step{step}.{loss}"))[0]);
                    let norm = fixture.numbers(&format!("step{step}.grad_norm"))[0];
                    assert_equal(&what("grad_norm"), report.gradient_norm, norm);
                    let compared = fixture.assert_parameters(&learner.policy(), step + 1);
                    assert_eq!(compared, parameters, "{}", what("parameters"));
                }
            }
        }
    }
}

#[test]
fn decay_groups_equal_pytorch() {
    let device = test_devices().remove(0);
    let (policy, _) = Policy::load(&fixture("tiny-train-lerobot"), &LoadOptions::new(&device)).expect("policy");
    let file = WeightFile::open(&fixture("tiny-train-lerobot").join("train_stage2.safetensors")).expect("stage 2");
    let decaying: BTreeMap<String, bool> =
        parameters(&policy.network).into_iter().map(|parameter| (parameter.path.clone(), parameter.decays())).collect();
    let ours: Vec<String> = evo1::weights::params(&policy.network)
        .iter()
        .filter(|spec| decaying[&spec.path])
        .filter_map(|spec| Naming::LEROBOT.place(spec))
        .map(|place| place.name)
        .collect();
    let theirs: Vec<&str> = file.names().filter_map(|name| name.strip_prefix("decay_group.")).collect();
    for name in &theirs {
        assert!(ours.iter().any(|ours| ours == name), "{name} decays in PyTorch only");
    }
    for name in &ours {
        assert!(theirs.contains(&name.as_str()), "{name} decays here only");
    }
}

#[test]
fn schedules_equal_pytorch() {
    let file = WeightFile::open(&fixture("tiny-train-lerobot").join("train_stage1.safetensors")).expect("fixture");
    let numbers = |name: &str| file.read(name).expect(name).iter::<f64>().collect::<Vec<_>>();
    let probes = numbers("lr_schedule.probe_steps");
    for (name, warmup, total, steps) in [
        ("lr_schedule.warmup5_total20", 5, 20, (0..21).map(f64::from).collect()),
        ("lr_schedule.warmup300_total5000", 300, 5000, probes),
    ] {
        let schedule = Schedule { warmup, total, decay: Decay::Cosine };
        for (step, want) in steps.into_iter().zip(numbers(name)) {
            let got = schedule.factor(step as u64);
            assert!((got - want).abs() <= 1e-15, "{name}, step {step}: got {got}, want {want}");
        }
    }
}

/// A learner of a tiny policy, without warm-up.
fn tiny(device: &Device) -> Learner {
    let policy = Policy::tiny(3, device).expect("policy");
    let schedule = Schedule { warmup: 0, total: 4, decay: Decay::Constant };
    let optimizer = OptimizerConfig { learning_rate: 1e-3, ..OptimizerConfig::default() };
    let config = LearnerConfig { seed: 1, ..LearnerConfig::new(TrainedParts::all(), optimizer, schedule) };
    Learner::new(policy, config).expect("learner")
}

#[test]
fn batches_of_a_step_count_like_one_batch_of_all_their_samples() {
    for device in test_devices() {
        let policy = Policy::tiny(3, &device).expect("policy");
        let (mut split, mut whole) = (tiny(&device), tiny(&device));
        let one = split.step(&[synthetic(&policy, &[0.1, 0.4]), synthetic(&policy, &[-0.3, 0.8])]).expect("step");
        let all = whole.step(&[synthetic(&policy, &[0.1, 0.4, -0.3, 0.8])]).expect("step");
        assert_equal("loss", one.loss, all.loss);
        assert_equal("norm", one.gradient_norm, all.gradient_norm);
        assert_eq!((one.observations, all.observations), (4, 4));
    }
}

#[test]
fn devices_that_share_a_step_do_what_one_does() {
    let devices = test_devices();
    for pair in devices.windows(2) {
        let policy = Policy::tiny(3, &pair[0]).expect("policy");
        let step = |number: u64| {
            let value = |at: u64| 0.1 * (4 * number + at) as f32 - 0.5;
            [synthetic(&policy, &[value(0), value(1)]), synthetic(&policy, &[value(2), value(3)])]
        };
        let run = |mut learner: Learner| {
            let losses: Vec<f64> = (0..3).map(|number| learner.step(&step(number)).expect("step").loss).collect();
            (losses, parameters_of(&learner))
        };
        let shared = || run(tiny(&pair[0]).on_devices(pair, Arc::new(Alone)).expect("devices"));
        let ((losses, got), (expected_losses, expected)) = (shared(), run(tiny(&pair[0])));
        // Devices of one kind compute the same bits.
        let kind = |device: &Device| format!("{device:?}").split_once('(').map(|(kind, _)| kind.to_owned());
        if kind(&pair[0]) == kind(&pair[1]) {
            assert!(losses == expected_losses && got == expected, "{pair:?}: other bits");
        }
        for (loss, expected) in losses.iter().zip(&expected_losses) {
            assert_equal("loss", *loss, *expected);
        }
        assert_eq!(shared().0, losses, "{pair:?}: a second run has other losses");
    }
    let device = &devices[0];
    let twice = tiny(device).on_devices(&[device.clone(), device.clone()], Arc::new(Alone)).map(|_| ());
    let message = twice.expect_err("one device twice").to_string();
    assert!(message.contains("`devices` must be different devices"), "{message}");
}

/// A learner of the training fixture's policy, its batch and its first draw.
fn learner(device: &Device, change: impl FnOnce(&mut LearnerConfig)) -> (Learner, TrainBatch, Draw) {
    let (policy, _) = Policy::load(&fixture("tiny-train-lerobot"), &LoadOptions::new(device)).expect("policy");
    let file = WeightFile::open(&fixture("tiny-train-lerobot").join("train_stage2.safetensors")).expect("stage 2");
    let fixture = Fixture { file, device: device.clone() };
    let mut config = fixture.config(TrainedParts::all());
    change(&mut config);
    (Learner::new(policy, config).expect("learner"), fixture.batch(), fixture.draw(0))
}

fn parameters_of(learner: &Learner) -> Vec<f64> {
    let tensors = checkpoint_tensors(&learner.policy().network, Naming::LEROBOT, Values);
    tensors.values().flat_map(|data| data.iter::<f64>().collect::<Vec<_>>()).collect()
}

#[test]
fn running_layers_again_changes_no_gradient() {
    for device in test_devices() {
        for trained in [TrainedParts::all(), TrainedParts { vision: false, ..TrainedParts::all() }] {
            let run = |gradient_checkpointing| {
                let (mut learner, batch, draw) = learner(&device, |config| {
                    config.trained = trained.clone();
                    config.gradient_checkpointing = gradient_checkpointing;
                });
                let report = learner.step_with(&batch, draw).expect("step");
                (report, parameters_of(&learner))
            };
            let ((plain, expected), (pieces, got)) = (run(false), run(true));
            assert_equal("loss", pieces.loss, plain.loss);
            assert_equal("norm", pieces.gradient_norm, plain.gradient_norm);
            let far = got.iter().zip(&expected).filter(|(got, want)| (*got - *want).abs() > 1e-4).count();
            // Adam's first step is the gradient's sign, which rounding decides where the gradient is nothing else.
            assert!(far * 1000 < got.len(), "{far} of {} parameters differ", got.len());
        }
    }
}

#[test]
fn bfloat16_computes_close_to_single_precision_and_keeps_its_weights() {
    for device in test_devices().into_iter().filter(|device| device.supports_dtype(DType::BF16)) {
        let (mut single, batch, draw) = learner(&device, |_| ());
        let (mut half, ..) = learner(&device, |config| config.compute = DType::BF16);
        let expected = single.step_with(&batch, draw.clone()).expect("step");
        let got = half.step_with(&batch, draw).expect("step");
        assert!((got.loss - expected.loss).abs() < 0.05 * expected.loss, "{got:?} {expected:?}");
        assert!((got.gradient_norm - expected.gradient_norm).abs() < 0.1 * expected.gradient_norm, "{got:?}");
        assert_eq!(half.policy().network.action.dtype(), DType::F32);
    }
}

#[test]
fn draws_share_one_context() {
    for device in test_devices() {
        let (mut several, batch, _) = learner(&device, |config| config.draws = 3);
        let Draw { time, noise } = several.drawn(0, 2);
        let expected: f64 = (0..3)
            .map(|draw| {
                let (mut one, ..) = learner(&device, |_| ());
                let rows = [draw, 3 + draw];
                let noise = Tensor::cat(rows.map(|row| noise.clone().narrow(0, row, 1)).to_vec(), 0);
                let draw = Draw { time: rows.map(|row| time[row]).to_vec(), noise };
                one.step_with(&batch, draw).expect("step").loss / 3.0
            })
            .sum();
        assert_equal("loss", several.step(std::slice::from_ref(&batch)).expect("step").loss, expected);
    }
}

/// Observations whose state and actions are one number each.
fn synthetic(policy: &Policy, samples: &[f32]) -> TrainBatch {
    let observations: Vec<evo1::Observation> = samples
        .iter()
        .map(|&value| evo1::Observation {
            views: vec![evo1::View::Present(evo1::Frame::black(64, 64))],
            state: vec![value; 8],
            instruction: "Open the drawer".into(),
            ..evo1::Observation::default()
        })
        .collect();
    let inputs = policy.preparer().prepare_on_host(&observations, true).expect("inputs");
    let [horizon, width] = [policy.config.action.horizon, policy.config.action.max_action_dim];
    let actions = samples.iter().flat_map(|&value| vec![value; horizon * width]).collect();
    TrainBatch {
        mask: inputs.action_mask.clone(),
        inputs,
        actions,
        samples: samples.iter().map(ToString::to_string).collect(),
    }
}
