//! What a policy's files say of its robot: widths, statistics, normalisation, and what of them is refused.

use std::{fs, path::Path};

use burn::tensor::TensorData;
use evo1::{
    ActionChunk, Frame, LoadOptions, Noise, Observation, Policy, PredictOptions, View,
    config::{Cameras, GripperRule, PolicyConfig, Profile},
    convert::{ConvertOptions, Format, convert},
    device::test_devices,
    normalize::{Normalization, NormalizationType, RobotStatistics, Statistics, VectorStatistics},
    rng::{RngExt, stream},
    test_support::{fixture, frame},
    weights::{WeightFile, write_safetensors},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Statistics of a seed with every list that a normalisation may ask for.
fn statistics(width: usize, seed: u64) -> VectorStatistics {
    let mut rng = stream(seed, "statistics");
    let mut list = |low: f32, high: f32| Some((0..width).map(|_| rng.random_range(low..high)).collect());
    VectorStatistics {
        min: list(-3.0, -2.0),
        max: list(2.0, 3.0),
        mean: list(-0.5, 0.5),
        std: list(0.5, 1.5),
        q01: list(-2.0, -1.5),
        q99: list(1.5, 2.0),
        q10: list(-1.5, -1.0),
        q90: list(1.0, 1.5),
    }
}

fn robot(state: usize, action: usize) -> Statistics {
    Statistics::single(RobotStatistics { state: statistics(state, 1), action: statistics(action, 2) })
}

fn observation(state: usize, size: usize) -> Observation {
    Observation {
        views: vec![View::Present(frame(3, size, size))],
        state: (0..state).map(|at| 0.1 * at as f32).collect(),
        instruction: "open the drawer".into(),
        ..Observation::default()
    }
}

fn options() -> PredictOptions {
    PredictOptions { steps: Some(3), ..PredictOptions::default() }
}

fn load(directory: &Path) -> evo1::Result<Policy> {
    Ok(Policy::load(directory, &LoadOptions::new(&test_devices().remove(0)))?.0)
}

fn refused(directory: &Path) -> String {
    load(directory).expect_err("must be refused").to_string()
}

fn predicted(policy: &Policy, observation: &Observation) -> ActionChunk {
    policy.predict(observation, &options()).expect("a chunk")
}

/// A copy of a fixture's policy, to be changed.
fn copied(name: &str) -> TempDir {
    let directory = tempfile::tempdir().expect("a folder");
    for file in fs::read_dir(fixture(name)).expect("fixture").map(|entry| entry.expect("entry").path()) {
        fs::copy(&file, directory.path().join(file.file_name().expect("a name"))).expect("copied");
    }
    directory
}

fn edited(directory: &Path, file: &str, edit: impl FnOnce(&mut Value)) {
    let path = directory.join(file);
    let mut document: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
    edit(&mut document);
    fs::write(path, document.to_string()).expect("written");
}

/// The masks of observations without one, normalisation and widths are the same whatever a policy is written as.
#[test]
fn every_format_predicts_the_same_of_any_robot_without_a_mask() {
    let device = test_devices().remove(0);
    let kinds = [
        NormalizationType::Bounds,
        NormalizationType::BoundsQ99,
        NormalizationType::BoundsQ90,
        NormalizationType::Normal,
        NormalizationType::Identity,
    ];
    for case in 0..12_u64 {
        let mut rng = stream(case, "robot");
        let (state, action) = (rng.random_range(1..=24), rng.random_range(1..=24));
        let normalization =
            Normalization { state: kinds[rng.random_range(0..5)], action: kinds[rng.random_range(0..5)] };
        let is_known = rng.random::<bool>();
        let views = rng.random_range(0..=3);
        let config = PolicyConfig {
            cameras: Cameras {
                names: (0..views).map(|view| format!("observation.images.camera_{}", (view + case) % 3)).collect(),
                optional: if views > 1 { rng.random_range(0..2) } else { 0 },
                sizes: (0..views as usize).map(|view| [640 + view, 480]).collect(),
                ..Cameras::default()
            },
            n_action_steps: rng.random::<bool>().then_some(7),
            profile: Profile::LeRobot,
            state_dim: is_known.then_some(state),
            action_dim: is_known.then_some(action),
            normalization,
            ..PolicyConfig::tiny()
        };
        let mut policy = Policy::random(config.clone(), case, &device).expect("valid");
        // A random policy is as wide as its network, unless it is said how wide.
        (policy.config.state_dim, policy.config.action_dim) = (config.state_dim, config.action_dim);
        policy.statistics = (!is_known || rng.random::<bool>()).then(|| robot(state, action));
        let mut observation = observation(state, 64);
        // One camera, or as many as the policy knows, the first of which may be lacking.
        if views > 0 {
            observation.views = (0..views).map(|view| View::Present(frame(view, 64, 64))).collect();
        }
        if views > 1 && policy.config.cameras.optional > 0 {
            observation.views[0] = View::Absent;
        }
        let want = predicted(&policy, &observation);
        assert_eq!(want.width(), action, "case {case}");
        let folder = tempfile::tempdir().expect("a folder");
        for format in [Format::LeRobot, Format::Authors, Format::Burnpack] {
            let directory = folder.path().join(format!("{format:?}"));
            policy.save(&directory, format).expect("saved");
            let loaded = load(&directory).unwrap_or_else(|error| panic!("case {case}, {format:?}: {error}"));
            assert_eq!(predicted(&loaded, &observation), want, "case {case}, {format:?}");
            let (found, kept) = (&loaded.config, &policy.config);
            assert_eq!(
                (&found.cameras, found.n_action_steps),
                (&kept.cameras, kept.n_action_steps),
                "case {case}, {format:?}"
            );
        }
    }
}

#[test]
fn a_checkpoint_of_the_authors_is_masked_by_its_statistics_and_converted_unchanged() {
    let directory = copied("tiny-authors");
    robot(4, 3).write(&directory.path().join("norm_stats.json")).expect("written");
    let policy = load(directory.path()).expect("a policy");
    assert_eq!(policy.config.action_dim, None);
    let size = policy.config.vlm.image_size;
    let (without, mut with) = (observation(4, size), observation(4, size));
    with.action_mask = Some(vec![true; 3]);
    let want = predicted(&policy, &with);
    assert_eq!(predicted(&policy, &without), want);
    for format in [Format::LeRobot, Format::Authors, Format::Burnpack] {
        let to = directory.path().join(format!("{format:?}"));
        let options = ConvertOptions { format, precision: None, is_strict: true, adapter: None };
        convert(directory.path(), &to, &options, |_, _| {}).expect("converted");
        assert_eq!(predicted(&load(&to).expect("a policy"), &without), want, "{format:?}");
    }
}

#[test]
fn a_width_that_is_known_nowhere_is_asked_for() {
    let directory = copied("tiny-authors");
    let policy = load(directory.path()).expect("a policy");
    let observation = observation(4, policy.config.vlm.image_size);
    let message = policy.predict(&observation, &options()).expect_err("unknown").to_string();
    assert!(message.contains("known nowhere") && message.contains("norm_stats.json"), "{message}");
    let masked = Observation { action_mask: Some(vec![true; 3]), ..observation };
    assert_eq!(predicted(&policy, &masked).width(), policy.config.action.max_action_dim);
}

#[test]
fn a_cropped_action_is_the_beginning_of_the_whole_one() {
    let directory = copied("tiny-lerobot");
    let whole = load(directory.path()).expect("a policy");
    edited(directory.path(), "config.json", |config| config["postprocess_action_dim"] = 3.into());
    let cropped = load(directory.path()).expect("a policy");
    let observation = observation(4, whole.config.vlm.image_size);
    let (whole, cropped) = (predicted(&whole, &observation), predicted(&cropped, &observation));
    assert_eq!((whole.width(), cropped.width()), (4, 3));
    for (whole, cropped) in whole.steps().zip(cropped.steps()) {
        assert_eq!(whole[..3], *cropped);
    }
}

#[test]
fn statistics_of_another_robot_are_refused() {
    let directory = copied("tiny-lerobot");
    robot(4, 3).write(&directory.path().join("norm_stats.json")).expect("written");
    let message = refused(directory.path());
    assert!(message.contains("`default.action` must be statistics of the 4 values that the robot has"), "{message}");
}

/// Statistics of several robots, one of which has no gripper.
#[test]
fn a_gripper_past_the_end_of_an_action_changes_no_other_joint() {
    let device = test_devices().remove(0);
    let gripper = Some(GripperRule { index: 6, threshold: 0.5, above: -1.0, below: 1.0 });
    let mut policy = Policy::random(PolicyConfig { gripper, ..PolicyConfig::tiny() }, 1, &device).expect("valid");
    (policy.config.state_dim, policy.config.action_dim) = (None, None);
    policy.statistics = Some(robot(8, 6));
    let message = policy.predict(&observation(8, 64), &options()).expect_err("no gripper").to_string();
    assert!(message.contains("column 6, counted from 0, of actions that have 6"), "{message}");
    let directory = tempfile::tempdir().expect("a folder");
    policy.save(directory.path(), Format::Burnpack).expect("saved");
    assert!(refused(directory.path()).contains("`gripper_index` must be below 6"));
}

fn processors() -> TempDir {
    let directory = copied("tiny-lerobot");
    for file in fs::read_dir(fixture("lerobot-processors")).expect("fixture").map(|entry| entry.expect("entry").path())
    {
        fs::copy(&file, directory.path().join(file.file_name().expect("a name"))).expect("copied");
    }
    directory
}

fn normalizer(directory: &Path, pipeline: &str, edit: impl FnOnce(&mut Value)) {
    edited(directory, pipeline, |document| {
        let steps = document["steps"].as_array_mut().expect("steps");
        let is_normalizer =
            |step: &&mut Value| step["registry_name"].as_str().is_some_and(|name| name.contains("normalizer"));
        edit(&mut steps.iter_mut().find(is_normalizer).expect("a normaliser")["config"]);
    });
}

#[test]
fn the_pipelines_of_a_lerobot_policy_are_obeyed_or_refused() {
    let directory = processors();
    assert_eq!(load(directory.path()).expect("a policy").config.normalization, Normalization::default());
    normalizer(directory.path(), "policy_preprocessor.json", |config| {
        config["norm_map"] = json!({ "ACTION": "MIN_MAX" });
    });
    normalizer(directory.path(), "policy_postprocessor.json", |config| {
        config["norm_map"]["ACTION"] = "IDENTITY".into();
    });
    let identity = Normalization::both(NormalizationType::Identity);
    assert_eq!(load(directory.path()).expect("a policy").config.normalization, identity);

    let directory = processors();
    normalizer(directory.path(), "policy_preprocessor.json", |config| config["norm_map"]["STATE"] = "QUANTILES".into());
    assert!(refused(directory.path()).contains("statistics with `q01` and `q99`"), "{}", refused(directory.path()));
    normalizer(directory.path(), "policy_preprocessor.json", |config| config["norm_map"]["STATE"] = "LOUD".into());
    assert!(refused(directory.path()).contains("MEAN_STD, IDENTITY, got LOUD"), "{}", refused(directory.path()));

    let directory = processors();
    normalizer(directory.path(), "policy_preprocessor.json", |config| config["eps"] = 0.5.into());
    assert!(refused(directory.path()).contains("eps` must be"), "{}", refused(directory.path()));
}

/// A policy of LeRobot's with named cameras, its weights being those of `tiny-lerobot`.
fn lerobot_robot() -> TempDir {
    let directory = copied("lerobot-robot");
    for file in ["model.safetensors", "vlm_config.json", "tokenizer.json"] {
        fs::copy(fixture("tiny-lerobot").join(file), directory.path().join(file)).expect("copied");
    }
    directory
}

/// States and actions are normalised each in its way, one camera comes under another name, and the first one is lacking.
#[test]
fn a_robot_with_named_cameras_gets_the_actions_that_lerobot_gives_it() {
    let (directory, recorded) =
        (lerobot_robot(), WeightFile::open(&fixture("lerobot-robot/observations.safetensors")).expect("fixture"));
    let policy = load(directory.path()).expect("a policy");
    let read = |name: &str| recorded.read(name).expect(name);
    let floats = |name: &str| -> Vec<f32> { read(name).iter().collect() };
    let names = ["observation.images.wrist", "observation.images.cam_high"];
    for case in 0..2 {
        let given = names.map(|camera| {
            let data = read(&format!("{case}.{camera}"));
            let [height, width, _] = data.shape().dims();
            let frame = Frame::new(width, height, data.iter().collect()).expect("a frame");
            (camera.to_owned(), View::Present(frame))
        });
        let views = policy.config.cameras.arrange(given.into()).expect("its cameras");
        assert!(views[0].is_none(), "the first camera is lacking");
        let observation = Observation {
            views: views.into_iter().map(|view| view.unwrap_or(View::Absent)).collect(),
            state: floats(&format!("{case}.state")),
            instruction: "push the block".into(),
            ..Observation::default()
        };
        let options =
            PredictOptions { noise: Noise::Given(floats(&format!("{case}.noise"))), ..PredictOptions::default() };
        let got = policy.predict(&observation, &options).expect("a chunk");
        let want = floats(&format!("{case}.actions"));
        assert_eq!(got.values().len(), want.len());
        for (got, want) in got.values().iter().zip(want) {
            assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "case {case}: {got} for {want}");
        }
    }
    let alone = vec![("front".to_owned(), ())];
    let message = policy.config.cameras.arrange(alone).expect_err("LeRobot refuses it too").to_string();
    assert!(
        message.contains("`observation.images.empty_camera_0`, `observation.images.wrist` is lacking"),
        "{message}"
    );
}

#[test]
fn cameras_of_a_lerobot_policy_are_known_by_name_and_in_order() {
    let directory = lerobot_robot();
    let cameras = |directory: &Path| load(directory).expect("a policy").config.cameras;
    let found = cameras(directory.path());
    let names = ["empty_camera_0", "wrist", "front"].map(|name| format!("observation.images.{name}"));
    assert_eq!((&found.names[..], found.optional), (&names[..], 1));
    assert_eq!(found.view("observation.images.cam_high"), Some(2), "the pipeline's rename_map");

    edited(directory.path(), "config.json", |config| config["max_views"] = 2.into());
    assert!(refused(directory.path()).contains("`cameras.names` must be at most max_views, got 3 for 2"));
    edited(directory.path(), "config.json", |config| {
        config["max_views"] = 3.into();
        config["input_features"] = json!({
            "observation.images.view0": { "type": "VISUAL", "shape": [3, 56, 56] },
            "observation.images.view1": { "type": "VISUAL", "shape": [3, 56, 56] },
        });
        config["empty_cameras"] = 0.into();
    });
    assert!(cameras(directory.path()).is_unknown(), "names that are written where there are none");
    let report = Policy::load(directory.path(), &LoadOptions::new(&test_devices().remove(0))).expect("a policy").1;
    let renamed = |key: &String| key.contains("rename_map.observation.images.cam_high");
    assert!(report.unknown_keys.iter().any(renamed), "{:?}", report.unknown_keys);
}

#[test]
fn a_folder_that_is_no_policy_says_what_is_in_it() {
    let directory = tempfile::tempdir().expect("a folder");
    let nested = directory.path().join("checkpoints/005000/pretrained_model");
    fs::create_dir_all(&nested).expect("made");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture("tiny-lerobot").join(file), nested.join(file)).expect("copied");
    }
    let message = refused(directory.path());
    assert!(message.contains("005000/pretrained_model` is a policy"), "{message}");
    let shards = directory.path().join("shards");
    fs::create_dir(&shards).expect("made");
    fs::write(shards.join("zero_pp_rank_0_mp_rank_00_model_states.pt"), "").expect("written");
    assert!(refused(&shards).contains("zero_to_fp32.py"));

    let adapter = directory.path().join("adapter");
    fs::create_dir(&adapter).expect("made");
    let base = r#"{"base_model_name_or_path": "robots/base"}"#;
    fs::write(adapter.join("adapter_config.json"), base).expect("written");
    assert!(refused(&adapter).contains("it holds an adapter of `robots/base`"));

    let renamed = copied("tiny-lerobot");
    let file = WeightFile::open(&renamed.path().join("model.safetensors")).expect("weights");
    let wrapped = file.names().map(|name| (format!("_orig_mod.{name}"), file.read(name).expect("read"))).collect();
    write_safetensors(&renamed.path().join("model.safetensors"), &wrapped).expect("written");
    assert!(refused(renamed.path()).contains("every name begins with `_orig_mod.`"), "{}", refused(renamed.path()));

    let other = copied("tiny-lerobot");
    fs::remove_file(other.path().join("vlm_config.json")).expect("removed");
    edited(other.path(), "config.json", |config| config["vlm_model_name"] = "OpenGVLab/InternVL3-2B-hf".into());
    assert!(refused(other.path()).contains("`vlm_model_name` must be InternVL3-1B, of 896 channels"));
}

#[test]
fn the_authors_normalisation_is_obeyed() {
    let directory = copied("tiny-authors");
    for (name, kind) in [("normal", NormalizationType::Normal), ("bounds_q99", NormalizationType::BoundsQ99)] {
        edited(directory.path(), "config.json", |config| config["normalization_type"] = name.into());
        let policy = load(directory.path()).expect("a policy");
        assert_eq!(policy.config.normalization, Normalization::both(kind));
    }
    edited(directory.path(), "config.json", |config| config["normalization_type"] = "loud".into());
    assert!(refused(directory.path()).contains("one of bounds, bounds_q99, normal, got loud"));
}

#[test]
fn an_adapter_that_is_not_merged_is_refused() {
    let directory = copied("tiny-lerobot");
    fs::write(directory.path().join("adapter_model.safetensors"), []).expect("written");
    assert!(refused(directory.path()).contains("`evo1 convert --from POLICY --adapter"));
    let directory = copied("tiny-lerobot");
    edited(directory.path(), "config.json", |config| config["use_peft"] = true.into());
    assert!(refused(directory.path()).contains("`use_peft` must be false"));
}

fn rewritten(path: &Path, edit: impl Fn(&str, TensorData) -> Option<TensorData>) {
    let file = WeightFile::open(path).expect("weights");
    let tensors = file.names().filter_map(|name| Some((name.to_owned(), edit(name, file.read(name).expect(name))?)));
    write_safetensors(path, &tensors.collect()).expect("written");
}

#[test]
fn a_stored_table_that_is_another_is_refused() {
    let directory = copied("tiny-lerobot");
    rewritten(&directory.path().join("model.safetensors"), |name, data| {
        let halved = || data.iter::<f32>().map(|value| value / 2.0).collect::<Vec<_>>();
        Some(if name.ends_with("time_pos_enc.pe") { TensorData::new(halved(), data.shape().clone()) } else { data })
    });
    assert!(refused(directory.path()).contains("time_pos_enc.pe` is another table"), "{}", refused(directory.path()));
}

#[test]
fn a_checkpoint_of_the_authors_has_as_many_language_layers_as_its_weights() {
    let device = test_devices().remove(0);
    for layers in [1, 3] {
        let mut config = PolicyConfig::tiny();
        config.vlm.language.num_layers = layers;
        let policy = Policy::random(config, 1, &device).expect("valid");
        let directory = tempfile::tempdir().expect("a folder");
        policy.save(directory.path(), Format::Authors).expect("saved");
        fs::remove_file(directory.path().join("evo1.json")).expect("it says what the authors' file cannot");
        edited(directory.path(), "config.json", |config| {
            config.as_object_mut().expect("keys").remove("vlm_num_layers");
        });
        let loaded = load(directory.path()).expect("a policy");
        assert_eq!(loaded.config.vlm.language.num_layers, layers);
    }
}

#[test]
fn an_adapter_is_added_wherever_a_policy_comes_from_or_refused() {
    let device = test_devices().remove(0);
    let nowhere = Some("no adapter".into());
    let options = LoadOptions { adapter: nowhere, ..LoadOptions::new(&device) };
    let embedded = Policy::embedded(&options).map(|_| ()).expect_err("there is none").to_string();
    assert!(embedded.contains("no adapter"), "{embedded}");
    let config = PolicyConfig::evo1();
    let base =
        Policy::from_base(fixture("tiny-lerobot").as_path(), config, 0, &options).map(|_| ()).expect_err("refused");
    assert!(base.to_string().contains("`adapter` must be none where a policy begins from a base model"), "{base}");
}
