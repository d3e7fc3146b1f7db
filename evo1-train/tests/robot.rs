//! A policy takes the robot of the data that it is trained on: its widths, its cameras and its statistics.

use std::{fs, ops::ControlFlow, path::Path};

use evo1::{Policy, config::PolicyConfig, device::test_devices, test_support::fixture};
use evo1_train::{DataSource, Finished, PolicySource, Preset, Result, StatisticsSource, TrainConfig, Trainer};
use serde_json::{Value, json};
use tempfile::TempDir;

const CAMERAS: [&str; 2] = ["observation.images.front", "observation.images.wrist"];

fn run(output: &Path, policy: PolicySource, statistics: StatisticsSource, dataset: Value) -> Result<Finished> {
    let config = TrainConfig {
        output: output.to_owned(),
        policy,
        statistics,
        data: DataSource::Inline(json!({ "data_groups": { "arm": { "set": dataset } } })),
        steps: 1,
        batch_size: 2,
        ..TrainConfig::default()
    };
    Trainer::open(config, &test_devices().remove(0), |_, _| ())?.run(|_| ControlFlow::Continue(()))
}

fn dataset() -> Value {
    json!({ "path": fixture("lerobot-datasets/v21") })
}

/// A policy that was trained on the fixture's robot, with 8 states, 7 actions and two cameras, and its folder.
fn first(folder: &TempDir) -> Finished {
    let preset = PolicySource { preset: Some(Preset::Tiny), ..PolicySource::default() };
    run(&folder.path().join("first"), preset, StatisticsSource::default(), dataset()).expect("a run")
}

fn from(checkpoint: &Path) -> PolicySource {
    PolicySource { from: Some(checkpoint.to_owned()), ..PolicySource::default() }
}

fn names(config: &PolicyConfig) -> Vec<&str> {
    config.cameras.names.iter().map(String::as_str).collect()
}

#[test]
fn what_is_saved_names_the_cameras_that_were_trained_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let Finished { policy, checkpoint, .. } = first(&folder);
    assert_eq!(names(&policy.config), CAMERAS);
    let read =
        |file: &str| -> Value { serde_json::from_slice(&fs::read(checkpoint.join(file)).expect(file)).expect("JSON") };
    let features: Vec<String> =
        read("config.json")["input_features"].as_object().expect("features").keys().cloned().collect();
    assert_eq!(features, [CAMERAS[0], CAMERAS[1], "observation.state"]);
    assert!(!checkpoint.join("evo1.json").exists(), "LeRobot's files say all");
    assert_eq!(names(&Policy::config_of(&checkpoint).expect("a policy")), CAMERAS);
}

#[test]
fn another_robot_brings_its_widths_cameras_and_statistics() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = first(&folder).checkpoint;
    let mut arms = dataset();
    arms["suite_config"] = json!({ "state_key": "observation.state.arms", "action_key": "action.arms" });
    // In the order of the text, which is not that of the alphabet.
    arms["view_map"] = json!({ "wrist": CAMERAS[1], "front": CAMERAS[0] });
    let output = folder.path().join("second");
    let finished = run(&output, from(&checkpoint), StatisticsSource::default(), arms.clone()).expect("a run");
    let config = &finished.policy.config;
    assert_eq!((config.state_dim, config.action_dim), (Some(14), Some(14)));
    assert_eq!(names(config), [CAMERAS[1], CAMERAS[0]]);
    let robot = finished.policy.statistics.as_ref().and_then(|statistics| statistics.only()).expect("one robot");
    assert_eq!((robot.state.width(), robot.action.width()), (14, 14));

    let output = folder.path().join("third");
    let refused = run(&output, from(&checkpoint), StatisticsSource::Policy, arms).expect_err("7 actions for 14");
    assert!(refused.to_string().contains("`statistics: data`"), "{refused}");
}

#[test]
fn cameras_of_the_data_find_the_views_of_the_policy_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = first(&folder).checkpoint;
    let config = checkpoint.join("config.json");
    let text = fs::read_to_string(&config).expect("a configuration");
    let swapped = text.replace("images.front", "images.xx").replace("images.wrist", "images.front");
    fs::write(&config, swapped.replace("images.xx", "images.wrist")).expect("written");
    let output = folder.path().join("second");
    let finished = run(&output, from(&checkpoint), StatisticsSource::default(), dataset()).expect("a run");
    assert_eq!(names(&finished.policy.config), [CAMERAS[1], CAMERAS[0]], "the policy's order");

    fs::write(&config, text.replace("images.front", "images.top")).expect("written");
    let output = folder.path().join("third");
    let finished = run(&output, from(&checkpoint), StatisticsSource::default(), dataset()).expect("a run");
    assert_eq!(names(&finished.policy.config), CAMERAS, "another robot's cameras, in the order of its data");
}
