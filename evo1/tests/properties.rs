//! What must hold for any weights and inputs, on every device of the build.

use burn::tensor::{DType, Device, Tensor};
use evo1::{
    ActionChunk, Error, Frame, Noise, Observation, Policy, PredictOptions, Trace, VelocityModel, View,
    VisionLanguageModel,
    config::{PolicyConfig, Precision, Profile, TilingConfig},
    convert::Format,
    device::test_devices,
    rng::{RngExt, stream},
    test_support::{assert_within, frame},
    weights::params,
};
use rayon::prelude::*;

fn observation(seed: u64, views: Vec<View>, instruction: &str) -> Observation {
    let mut rng = stream(seed, "state");
    let state = (0..5).map(|_| rng.random::<f32>()).collect();
    Observation { views, state, instruction: instruction.into(), ..Observation::default() }
}

fn two_views(seed: u64) -> Observation {
    observation(seed, vec![View::Present(frame(seed, 80, 60)), View::Present(frame(seed + 100, 64, 64))], "open it")
}

fn policy(profile: Profile, device: &Device) -> Policy {
    Policy::random(PolicyConfig { action_dim: Some(7), ..PolicyConfig::tiny() }.with_profile(profile), 3, device)
        .expect("tiny is valid")
}

fn options(seed: u64) -> PredictOptions {
    PredictOptions { steps: Some(4), noise: Noise::Seed(seed), ..PredictOptions::default() }
}

fn assert_same(what: &str, got: &ActionChunk, want: &ActionChunk) {
    assert_within(what, got, want, 2e-5);
}

fn largest_difference(a: &ActionChunk, b: &ActionChunk) -> f32 {
    a.values().iter().zip(b.values()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_does_not() {
    for device in test_devices() {
        let policy = policy(Profile::LeRobot, &device);
        let predict = |seed| policy.predict(&two_views(1), &options(seed)).expect("a chunk");
        assert_eq!(predict(5), predict(5));
        assert_ne!(predict(5), predict(6));
    }
}

#[test]
fn packed_weights_predict_the_same_and_are_not_saved() {
    for device in test_devices() {
        let plain = policy(Profile::LeRobot, &device);
        let packed = plain.clone().packed();
        let predict = |policy: &Policy| policy.predict(&two_views(1), &options(5)).expect("a chunk");
        assert_same("packed", &predict(&packed), &predict(&plain));
        let folder = tempfile::tempdir().expect("a folder");
        let (saved, path) = (packed.save(folder.path(), Format::LeRobot), folder.path().join("config.json"));
        let was_packed = params(&packed.network) != params(&plain.network);
        assert_eq!((saved.is_err(), path.exists()), (was_packed, !was_packed), "{saved:?}");
    }
}

#[test]
fn a_batch_equals_its_samples_one_by_one() {
    for device in test_devices() {
        for profile in Profile::ALL {
            let policy = policy(profile, &device);
            let observations = [
                two_views(1),
                observation(2, vec![View::Present(frame(3, 40, 90))], "a much longer instruction than the other"),
                observation(4, vec![View::Absent, View::Present(frame(5, 64, 64))], "x"),
            ];
            let batch = policy.predict_batch(&observations, &options(7)).expect("three chunks");
            for (index, (observation, chunk)) in observations.iter().zip(&batch).enumerate() {
                let alone = policy.predict(observation, &options(7 + index as u64)).expect("a chunk");
                assert_same(&format!("{profile}, sample {index}"), chunk, &alone);
            }
        }
    }
}

#[test]
fn a_masked_view_cannot_change_a_lerobot_action_and_does_change_an_official_one() {
    for device in test_devices() {
        let with_masked =
            |seed| observation(1, vec![View::Present(frame(1, 64, 64)), View::Masked(frame(seed, 64, 64))], "go");
        for (profile, skips_unseen) in [(Profile::LeRobot, true), (Profile::LeRobot, false), (Profile::Official, true)]
        {
            let policy = policy(profile, &device);
            let options = PredictOptions { skips_unseen, ..options(1) };
            let predict = |seed| policy.predict(&with_masked(seed), &options).expect("a chunk");
            let difference = largest_difference(&predict(8), &predict(9));
            assert_eq!(difference > 1e-6, profile == Profile::Official, "{profile}: {difference}");
        }
    }
}

#[test]
fn what_is_remembered_of_absent_views_is_what_is_seen_in_them() {
    for device in test_devices() {
        let policy = policy(Profile::Official, &device);
        let absent = [View::Absent, View::Masked(Frame::black(80, 60)), View::Masked(frame(7, 64, 64))];
        for (view, blacks) in absent.into_iter().zip([vec![1, 2], vec![1, 2], vec![2]]) {
            let inputs = policy
                .prepare(&[observation(1, vec![View::Present(frame(1, 64, 64)), view], "go")], true)
                .expect("inputs");
            assert_eq!(inputs.black_tiles, blacks);
            let pixels = inputs.pixels.clone().expect("three views");
            let want = policy.network.vlm.visual_tokens(pixels, &mut Trace::off());
            for _ in 0..2 {
                let got = policy.visual_tokens(&inputs).expect("three views");
                let difference = (got - want.clone()).abs().max().into_scalar::<f32>();
                assert!(difference <= 1e-4, "{difference}");
            }
        }
    }
}

/// The CPU's kernels wait for tasks in the pool that predictions run in, and take up another prediction meanwhile.
#[cfg(feature = "flex")]
#[test]
fn predictions_in_a_pool_of_threads_do_not_wait_for_each_other() {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(8).build().expect("threads");
        let device = Device::flex();
        let mut config = PolicyConfig::tiny().with_profile(Profile::Official);
        // Large enough that its kernels share their work among threads.
        config.vlm.vision.hidden_size = 256;
        config.vlm.vision.intermediate_size = 1024;
        let observation = observation(1, vec![View::Present(frame(1, 64, 64)), View::Absent], "go");
        for seed in 0..50 {
            let policy = Policy::random(config.clone(), seed, &device).expect("valid");
            let predict = |_| policy.predict(&observation, &options(1)).expect("a chunk");
            let chunks: Vec<_> = pool.install(|| (0..32).into_par_iter().map(predict).collect());
            assert!(chunks.iter().all(|chunk| *chunk == chunks[0]));
        }
        done.send(()).expect("somebody waits");
    });
    is_done.recv_timeout(std::time::Duration::from_secs(120)).expect("predictions that end");
}

#[test]
fn skipping_what_nothing_sees_changes_nothing() {
    for device in test_devices() {
        for profile in Profile::ALL {
            let policy = policy(profile, &device);
            let observations = [
                observation(
                    1,
                    vec![View::Present(frame(1, 64, 64)), View::Masked(frame(2, 64, 64))],
                    "a long instruction",
                ),
                observation(2, vec![View::Absent, View::Present(frame(3, 64, 64))], "go"),
            ];
            let predict = |skips_unseen| {
                policy.predict_batch(&observations, &PredictOptions { skips_unseen, ..options(2) }).expect("chunks")
            };
            for (skipping, computing) in predict(true).iter().zip(&predict(false)) {
                assert_same(profile.name(), skipping, computing);
            }
        }
    }
}

/// A masked frame of several tiles keeps all their places, so that later tokens stay where they are.
#[test]
fn skipping_a_masked_view_of_several_tiles_changes_nothing() {
    let device = test_devices().remove(0);
    for thumbnail in [false, true] {
        let tiling = TilingConfig { min_tiles: 1, max_tiles: 4, thumbnail };
        let config = PolicyConfig { action_dim: Some(7), tiling, max_text_length: 512, ..PolicyConfig::tiny() };
        let policy = Policy::random(config, 3, &device).expect("valid");
        let views =
            vec![View::Present(frame(1, 64, 64)), View::Masked(frame(2, 192, 64)), View::Present(frame(3, 64, 64))];
        let observation = observation(1, views, "open it");
        let predict = |skips_unseen| {
            policy.predict(&observation, &PredictOptions { skips_unseen, ..options(2) }).expect("a chunk")
        };
        assert_same("several tiles", &predict(true), &predict(false));
    }
}

#[test]
fn more_padding_cannot_change_a_lerobot_action() {
    for device in test_devices() {
        let policy = policy(Profile::LeRobot, &device);
        let alone = policy.predict(&two_views(1), &options(1)).expect("a chunk");
        let longer = observation(2, vec![View::Present(frame(2, 64, 64))], &"word ".repeat(20));
        for skips_unseen in [true, false] {
            let options = PredictOptions { skips_unseen, ..options(1) };
            let padded = policy.predict_batch(&[two_views(1), longer.clone()], &options).expect("chunks");
            assert_same("padded", &padded[0], &alone);
        }
    }
}

#[test]
fn keys_and_values_computed_once_equal_those_computed_at_every_step() {
    for device in test_devices() {
        let policy = policy(Profile::Official, &device);
        let inputs = policy.prepare(&[two_views(1)], true).expect("inputs");
        let noise = policy.noise(1, &Noise::Seed(1)).expect("noise");
        let steps = 5;
        let context = || policy.fuse(policy.visual_tokens(&inputs), &inputs).expect("context");
        let once = policy.act(context(), &inputs, noise.clone(), Some(steps)).expect("actions");
        let mut x = noise;
        for step in 0..steps {
            let expert = &policy.network.action;
            let trace = &mut evo1::Trace::off();
            let conditioning = expert.condition(context(), inputs.state.clone(), &inputs.embodiment, trace);
            let index = evo1::action::time::step_index(step, steps, policy.config.semantics.time_scale);
            let time = expert.time_conditioning(&[index], &device);
            let velocity = expert.velocity(x.clone() * inputs.action_mask.clone(), &time, &conditioning, trace);
            x = x + velocity / steps as f64;
        }
        let difference = (once - x * inputs.action_mask.clone()).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{difference}");
    }
}

#[test]
fn given_noise_is_used_as_it_is() {
    for device in test_devices() {
        let policy = policy(Profile::LeRobot, &device);
        let noise: Tensor<3> = policy.noise(1, &Noise::Seed(4)).expect("noise");
        let given = Noise::Given(noise.into_data().iter().collect());
        let predict = |noise| policy.predict(&two_views(1), &PredictOptions { noise, ..options(0) }).expect("a chunk");
        assert_eq!(predict(given), predict(Noise::Seed(4)));
    }
}

#[test]
fn half_precision_predicts_much_the_same() {
    for device in test_devices() {
        let config = PolicyConfig { action_dim: Some(7), ..PolicyConfig::tiny() };
        let predict = |dtype| {
            let policy = Policy::random_in(config.clone(), 3, &device, Precision { vlm: dtype, action: dtype })?;
            policy.predict(&two_views(1), &options(1))
        };
        let full = predict(DType::F32).expect("f32 works everywhere");
        for dtype in [DType::BF16, DType::F16] {
            if device.supports_dtype(dtype) {
                let difference = largest_difference(&predict(dtype).expect("supported"), &full);
                assert!(difference < 0.02, "{dtype:?} on {device:?}: {difference}");
            } else {
                let message = predict(dtype).expect_err("unsupported").to_string();
                assert!(message.contains("cannot compute in"), "{message}");
            }
        }
    }
}

#[test]
fn other_dimensions_work() {
    let device = test_devices().remove(0);
    let mut config = PolicyConfig { max_views: 2, ..PolicyConfig::tiny() };
    config.vlm.vision.hidden_size = 48;
    config.vlm.vision.num_heads = 3;
    config.vlm.downsample_ratio = 0.25;
    config.vlm.language.num_kv_heads = 4;
    config.vlm.language.num_layers = 1;
    config.action.num_categories = 4;
    config.action.horizon = 1;
    config.action.num_heads = 8;
    config.action.max_action_dim = 9;
    config.action_dim = Some(2);
    for tiling in [TilingConfig::default(), TilingConfig { min_tiles: 1, max_tiles: 4, thumbnail: true }] {
        for is_pooled in [false, true] {
            config.tiling = tiling;
            config.vlm.return_cls_only = is_pooled;
            for profile in Profile::ALL {
                let policy = Policy::random(config.clone().with_profile(profile), 1, &device).expect("valid");
                let observation = Observation { embodiment: Some(3), ..two_views(1) };
                let chunk = policy.predict(&observation, &options(1)).expect("a chunk");
                assert_eq!((chunk.horizon(), chunk.width()), (1, 2));
            }
        }
    }
}

#[test]
fn frames_of_another_size_than_the_position_grid_work() {
    let device = test_devices().remove(0);
    let mut config = PolicyConfig::tiny();
    config.vlm.image_size = 96;
    let policy = Policy::random(config, 1, &device).expect("valid");
    policy.predict(&two_views(1), &options(1)).expect("a chunk");
}

#[test]
fn observations_that_do_not_fit_are_refused_with_what_would() {
    let device = test_devices().remove(0);
    let policy = policy(Profile::LeRobot, &device);
    let refused = |observation: Observation, options: PredictOptions| {
        policy.predict(&observation, &options).expect_err("must be refused").to_string()
    };
    let view = || View::Present(frame(1, 8, 8));
    let with = |edit: &dyn Fn(&mut Observation)| {
        let mut observation = two_views(1);
        edit(&mut observation);
        refused(observation, options(1))
    };
    assert_eq!(with(&|o| o.views = vec![view(); 4]), "the observation has 4 views, but the model takes at most 3");
    assert!(with(&|o| o.views = vec![View::Absent]).contains("no view"));
    assert_eq!(with(&|o| o.state = vec![0.0; 25]), "the state has 25 values, but the model takes at most 24");
    assert_eq!(with(&|o| o.state[2] = f32::NAN), "state value 2 is NaN: every value must be finite");
    assert!(with(&|o| o.instruction = "<IMG_CONTEXT>".into()).contains("<IMG_CONTEXT>"));
    assert_eq!(with(&|o| o.embodiment = Some(1)), "embodiment 1 does not exist: the model has 1, counted from 0");
    assert!(with(&|o| o.action_mask = Some(vec![true; 30])).contains("action mask has 30 values"));
    let no_steps = PredictOptions { steps: Some(0), ..options(1) };
    assert_eq!(refused(two_views(1), no_steps), "a prediction needs at least 1 Euler step, got 0");
    let noise = PredictOptions { noise: Noise::Given(vec![0.0; 3]), ..options(1) };
    assert!(refused(two_views(1), noise).contains("needs 384"));
    assert!(matches!(policy.predict_batch(&[], &options(1)), Err(Error::EmptyBatch)));

    let config = PolicyConfig { max_text_length: 40, ..PolicyConfig::tiny() };
    let short = Policy::random(config, 1, &device).expect("valid");
    let message = short.predict(&two_views(1), &options(1)).expect_err("too short").to_string();
    assert!(message.contains("tokens for its images, but at most 40"), "{message}");
}

#[test]
fn statistics_check_the_width_of_a_state() {
    let device = test_devices().remove(0);
    let policy = Policy::tiny(0, &device).expect("tiny");
    let message = policy.predict(&two_views(1), &options(1)).expect_err("5 of 8").to_string();
    assert_eq!(message, "state has 5 values, but its statistics have 8");
}
