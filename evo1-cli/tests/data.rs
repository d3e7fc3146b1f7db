//! `evo1 data` and `evo1 stats` from outside.
#![cfg(feature = "data")]

mod support;

use std::{fs, path::Path, process::Stdio};

use evo1::test_support::fixture;
use support::{command, done, evo1, printed, stderr, text};

/// The path of a dataset of the fixtures.
fn dataset(name: &str) -> String {
    text(&fixture("lerobot-datasets").join(name)).to_owned()
}

#[test]
fn data_says_what_a_dataset_holds_and_draws_it() {
    let directory = tempfile::tempdir().expect("directory");
    let plot = directory.path().join("sheet.png");
    for name in ["v21", "v30", "images"] {
        let printed = done(&["data", &dataset(name), "--json", "--plot", text(&plot), "--frames", "3"]);
        let summary: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        assert_eq!(summary["fps"], 10.0);
        assert_eq!(summary["features"]["observation.images.front"]["shape"], serde_json::json!([32, 48, 3]));
        let codec = &summary["features"]["observation.images.front"]["codec"];
        assert_eq!(codec.as_str(), (name != "images").then_some("H.264"));
        let picture = image::load_from_memory(&fs::read(&plot).expect("the plot")).expect("PNG").into_rgb8();
        assert!(picture.width() > 800 && picture.height() > 800, "{:?}", picture.dimensions());
    }
    let output = evo1(&["data", text(directory.path())]);
    assert!(!output.status.success() && stderr(&output).contains("info.json"), "{}", stderr(&output));
}

/// A copy of the metadata of a dataset of the fixtures, without its tables and videos.
fn metadata(name: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("directory");
    fs::create_dir(directory.path().join("meta")).expect("folder");
    for file in ["info.json", "episodes.jsonl", "tasks.jsonl"] {
        let from = fixture("lerobot-datasets").join(name).join("meta").join(file);
        fs::copy(from, directory.path().join("meta").join(file)).expect("copy");
    }
    directory
}

#[test]
fn data_describes_what_cannot_be_used() {
    let shown = |directory: &tempfile::TempDir| -> serde_json::Value {
        serde_json::from_str(&done(&["data", text(directory.path()), "--json"])).expect("JSON")
    };
    // Videos that are not there.
    let summary = shown(&metadata("v21"));
    let codec = summary["features"]["observation.images.front"]["codec"].as_str().expect("a sentence");
    assert!(codec.starts_with("not readable") && codec.contains("episode_000000.mp4"), "{codec}");
    let output = evo1(&["data", &dataset("v21"), "--check"]);
    assert!(printed(&output).ends_with("nothing wrong was found\n"));
    let output = evo1(&["data", text(metadata("v21").path()), "--check"]);
    assert!(!output.status.success() && stderr(&output).contains("9 problems"), "{}", stderr(&output));
    let lines = support::stdout(&output);
    assert!(
        lines.contains("tables: 3 problems; `on_error: skip`") && lines.contains("videos: 6 problems; "),
        "{lines}"
    );
    let output = evo1(&["data", text(metadata("v21").path()), "--check", "--json"]);
    let summary: serde_json::Value = serde_json::from_str(&support::stdout(&output)).expect("JSON");
    assert_eq!(summary["problems"].as_array().map(Vec::len), Some(9));
    assert_eq!((&summary["problems"][0]["kind"], &summary["problems"][0]["episode"]), (&"tables".into(), &0.into()));
    // No cameras, no episodes.
    let directory = metadata("v21");
    let path = directory.path().join("meta/info.json");
    let mut info: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("info")).expect("JSON");
    info["features"].as_object_mut().expect("features").retain(|name, _| !name.starts_with("observation.images"));
    fs::write(&path, info.to_string()).expect("write");
    fs::write(directory.path().join("meta/episodes.jsonl"), "").expect("write");
    let summary = shown(&directory);
    assert_eq!((&summary["episodes"], &summary["frames"]), (&0.into(), &0.into()));
    assert!(summary["disagreements"].as_array().is_some_and(|found| found.len() == 2), "{summary}");
}

#[test]
fn a_repaired_copy_agrees_and_the_warning_names_the_command() {
    let directory = tempfile::tempdir().expect("directory");
    let [from, to] = ["found", "repaired"].map(|name| text(&directory.path().join(name)).to_owned());
    // A copy whose metadata may be edited.
    assert!(!done(&["data", &dataset("v30"), "--repair", &from]).contains("repaired in the copy"));
    let info = Path::new(&from).join("meta/info.json");
    let edited = fs::read_to_string(&info).expect("info").replace("\"total_frames\": 24", "\"total_frames\": 25");
    fs::write(&info, edited).expect("write");
    let output = evo1(&["data", &from, "--repair", &to, "--json"]);
    let message = stderr(&output);
    assert!(message.contains(&format!("`evo1 data {from} --repair OUT`")), "{message}");
    let summary: serde_json::Value = serde_json::from_str(&printed(&output)).expect("JSON");
    assert!(summary["repaired"][0].as_str().is_some_and(|what| what.contains("`total_frames`")), "{summary}");
    assert_eq!(summary["left"], serde_json::json!([]));
    let output = evo1(&["data", &to, "--check"]);
    assert!(!stderr(&output).contains("disagrees") && printed(&output).contains("frames               24"));
    let output = evo1(&["data", &from, "--repair", &to]);
    assert!(!output.status.success() && stderr(&output).contains("must be new or empty"), "{}", stderr(&output));
}

#[test]
fn columns_of_states_and_actions_are_named_on_the_command_line() {
    let directory = tempfile::tempdir().expect("directory");
    let plot = directory.path().join("sheet.png");
    let columns = "observation.state.cartesian_position,observation.state.gripper_position";
    let action = "action.cartesian_position";
    done(&["data", &dataset("v21"), "--plot", text(&plot), "--state-key", columns, "--action-key", action]);
    let output = evo1(&["data", &dataset("v21"), "--plot", text(&plot), "--state-key", "state"]);
    assert!(!output.status.success() && stderr(&output).contains("no column `state`"), "{}", stderr(&output));
}

#[test]
fn an_episode_is_recorded_or_the_feature_for_it_is_named() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("episode.rrd");
    let output = evo1(&["data", &dataset("v21"), "--rrd", text(&path)]);
    if cfg!(feature = "rerun") {
        printed(&output);
        assert!(fs::read(path).expect("written").starts_with(b"RRF2"));
    } else {
        assert!(!output.status.success() && stderr(&output).contains("`--features rerun`"), "{}", stderr(&output));
    }
}

#[test]
fn stats_writes_what_a_policy_reads() {
    let directory = tempfile::tempdir().expect("directory");
    let (config, out) = (directory.path().join("data.yaml"), directory.path().join("norm_stats.json"));
    let groups = format!("data_groups: {{arm: {{set: {{path: {}, process_suite: metaworld}}}}}}\n", dataset("v21"));
    fs::write(&config, groups).expect("write");
    let said = done(&["stats", "--data", text(&config), "--horizon", "4", "--out", text(&out)]);
    // The fixtures' gripper does not move.
    assert!(said.contains("arm/set: dimension ") && said.contains(" in every window"), "{said}");
    let statistics = evo1::normalize::Statistics::read(&out).expect("statistics");
    let names: Vec<String> = statistics.robots().map(|(name, _)| name).collect();
    assert_eq!(names, ["arm/set"]);
}

#[test]
fn stats_are_merged_by_arm_and_written_for_each_dataset() {
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| text(&directory.path().join(name)).to_owned();
    let set = |name: &str, episodes: &str| {
        format!("{name}: {{path: {}, process_suite: metaworld, episodes: \"{episodes}\"}}", dataset("v21"))
    };
    let groups = format!("data_groups: {{arm: {{{}, {}}}}}\n", set("a", "0:1"), set("b", "2:3"));
    fs::write(path("data.yaml"), groups).expect("write");
    let minimum = |path: String| {
        let text = fs::read_to_string(path).expect("written");
        let statistics: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let list = &statistics["action"]["min"];
        list.as_array().expect("a list").iter().map(|value| value.as_f64().expect("a number")).collect::<Vec<_>>()
    };
    let run = |per: &str| {
        let (data, out, folder) = (path("data.yaml"), path("norm_stats.json"), path(per));
        done(&["stats", "--data", &data, "--horizon", "4", "--per", per, "--out", &out, "--stats-dir", &folder]);
    };
    run("dataset");
    let own = ["a", "b"].map(|set| minimum(path(&format!("dataset/arm/{set}/stats.json"))));
    run("arm");
    let merged = minimum(path("arm/arm/stats.json"));
    let expected: Vec<f64> = own[0].iter().zip(&own[1]).map(|(a, b)| a.min(*b)).collect();
    assert_eq!(merged, expected);
    let statistics = evo1::normalize::Statistics::read(Path::new(&path("norm_stats.json"))).expect("statistics");
    for set in ["a", "b"] {
        let key = evo1::StatisticsKey { arm: Some("arm".into()), dataset: Some(set.into()) };
        assert!(statistics.select(&key).is_ok(), "every dataset of the arm finds them");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let dataset = dataset("v21");
    for arguments in [&["data", &dataset][..], &["data", &dataset, "--json"], &["devices"], &["infer"]] {
        let mut child =
            command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        // Closed before anything can be written.
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        let message = stderr(&output);
        assert!(output.status.success() && !message.contains("panicked"), "{arguments:?}: {message}");
    }
}
