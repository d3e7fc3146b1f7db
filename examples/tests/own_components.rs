//! Components of one's own go through everything: train, save, load, predict, serve, measure, ablate, beside the built-in
//! ones. Each program is `evo1` with one component more, by the published interface alone.
#![cfg(unix)]

#[path = "../../evo1-cli/tests/support/server.rs"]
mod server;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use evo1::{Observation, View, test_support::fixture};
use evo1_serve::client::CallOptions;
use serde_json::Value;
use server::{Serving, sample_frame};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A program with a component, and how configurations name it.
struct Own {
    program: &'static str,
    /// A value of the policy's configuration that names the component.
    set: &'static str,
    /// The axis of a study on which it stands, its value there, and the built-in value beside it.
    axis: (&'static str, &'static str, &'static str),
    /// What `evo1.json` says of it.
    stored: (&'static str, &'static str),
    /// The file of a checkpoint's weights.
    weights: &'static str,
}

const OWN: [Own; 4] = [
    Own {
        program: env!("CARGO_BIN_EXE_own_action_head"),
        set: "policy.overrides.action.expert={name: mlp, width: 32}",
        axis: ("expert", "{name: mlp, width: 32}", "diffusion-transformer"),
        stored: ("/action/expert", r#"{"name":"mlp","width":32}"#),
        weights: "model.bpk",
    },
    Own {
        program: env!("CARGO_BIN_EXE_own_integration"),
        set: "policy.overrides.action.design.integration={name: registers, count: 3}",
        axis: ("integration", "{name: registers, count: 3}", "mid-layer-cross"),
        stored: ("/action/design/integration", r#"{"count":3,"name":"registers"}"#),
        weights: "model.bpk",
    },
    Own {
        program: env!("CARGO_BIN_EXE_own_vlm"),
        set: "policy.overrides.vlm.model=conv-words",
        axis: ("vlm", "conv-words", "internvl3"),
        stored: ("/vlm/model", r#""conv-words""#),
        weights: "model.bpk",
    },
    Own {
        program: env!("CARGO_BIN_EXE_own_time_grid"),
        set: "policy.overrides.flow={noise: triangular, time_draw: early, grid: {name: power, exponent: 0.5}}",
        axis: ("grid", "{name: power, exponent: 2}", "uniform"),
        stored: ("/flow/grid", r#"{"exponent":0.5,"name":"power"}"#),
        weights: "model.safetensors",
    },
];

/// Runs a program of ours on the CPU.
fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["--device", "flex"]).args(arguments);
    command
}

fn run(program: &str, arguments: &[&str]) -> Output {
    command(program, arguments).output().expect("it runs")
}

fn done(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn refused(program: &str, arguments: &[&str], expected: &str) {
    let output = run(program, arguments);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
    assert!(message.contains(expected) && !message.contains("panicked"), "{arguments:?}: {message}");
}

fn document(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn dataset() -> String {
    text(&fixture("lerobot-datasets/v30")).to_owned()
}

/// Arguments of a run of three steps in a folder.
fn training(folder: &Path, sets: &[&str]) -> Vec<String> {
    let mut arguments =
        vec!["train".to_owned(), "--json".into(), "--config".into(), format!("{ROOT}/recipes/tiny.yaml")];
    let dataset = format!("data.data_groups.default.dataset.path={}", dataset());
    let output = format!("output={}", folder.join("run").display());
    for set in [&dataset, &output, "steps=3", "batch_size=2"].into_iter().chain(sets.iter().copied()) {
        arguments.extend(["--set".into(), set.to_owned()]);
    }
    arguments
}

fn trained(program: &str, folder: &Path, sets: &[&str]) -> PathBuf {
    let arguments = training(folder, sets);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = document(&done(program, &arguments));
    assert_eq!(result["steps"], 3);
    result["checkpoint"].as_str().expect("a path").into()
}

const STATE: [f32; 8] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];

fn image() -> PathBuf {
    Path::new(ROOT).join("evo1-cli/assets/image.png")
}

/// The actions that `infer` gives for the sample frame from both cameras.
fn predicted(program: &str, policy: &Path) -> Vec<f64> {
    let state = STATE.map(|value| value.to_string()).join(",");
    let arguments = ["infer", "--json", "--seed", "4", "--policy", text(policy)];
    let image = image();
    let rest = ["--image", text(&image), "--image", text(&image), "--state", &state, "--prompt", "go"];
    let chunk = document(&done(program, &[&arguments[..], &rest].concat()));
    let rows = chunk["actions"].as_array().expect("rows").iter().flat_map(|row| row.as_array().expect("a row").clone());
    rows.map(|value| value.as_f64().expect("a number")).collect()
}

/// The actions that a server of the policy gives for the same.
fn served(program: &str, policy: &Path, width: usize) -> Vec<f64> {
    let arguments = ["serve", "--bind", "127.0.0.1:0", "--seed", "4", "--policy", text(policy)];
    let server = Serving::start(&mut command(program, &arguments));
    let observation = Observation {
        views: vec![View::Present(sample_frame()); 2],
        state: STATE.to_vec(),
        instruction: "go".into(),
        ..Observation::default()
    };
    let reply = server.client(width).predict(&observation, &CallOptions::default()).expect("a reply");
    reply.chunk.steps().flat_map(|action| action[..width].to_vec()).map(f64::from).collect()
}

#[test]
fn own_components_are_trained_saved_loaded_served_and_measured() {
    for Own { program, set, stored: (pointer, value), weights, .. } in OWN {
        let folder = tempfile::tempdir().expect("a folder");
        let policy = trained(program, folder.path(), &[set]);
        let config = document(&std::fs::read_to_string(policy.join("evo1.json")).expect("evo1.json"));
        assert_eq!(config.pointer(pointer), Some(&document(value)), "{program}");
        assert!(policy.join(weights).is_file(), "{program}: {weights}");

        let first = predicted(program, &policy);
        assert!(
            first.iter().all(|value| value.is_finite()) && first.iter().any(|value| *value != first[0]),
            "{program}"
        );
        assert_eq!(first, predicted(program, &policy), "{program} repeats");
        let width = first.len() / 16;
        let difference = |other: Vec<f64>| first.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(difference(served(program, &policy, width)) < 1e-4, "{program} serves what it predicts");

        // A run goes on from its checkpoint, and what it then predicts is something else.
        let run = folder.path().join("run");
        done(program, &["train", "--resume", text(&run), "--set", "steps=5"]);
        assert!(difference(predicted(program, &run.join("checkpoints/step-00000005"))) > 0.0, "{program}");

        let flops = document(&done(program, &["inspect", "--flops", "--json", text(&policy)]));
        let parts = flops["components"].as_array().expect("components");
        let counted: u64 = parts.iter().filter_map(|part| part["parameters"].as_u64()).sum();
        let inspected = document(&done(program, &["inspect", "--json", text(&policy)]));
        assert_eq!(inspected["misfit"], Value::Null, "{program}: {inspected}");
        assert!(counted > 0 && parts.iter().all(|part| part["flops"].is_u64()), "{program}: {flops}");
        done(program, &["bench", "--policy", text(&policy), "--repeat", "1", "--steps", "2"]);
    }
}

#[test]
fn the_plain_program_refuses_what_it_does_not_know() {
    let plain = env!("CARGO_BIN_EXE_own_suite");
    for Own { program, set, stored: (pointer, _), .. } in OWN {
        let folder = tempfile::tempdir().expect("a folder");
        let field = pointer[1..].replace('/', ".");
        let arguments = training(folder.path(), &[set]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        refused(plain, &arguments, "must be one of");
        let policy = trained(program, folder.path(), &[set]);
        refused(plain, &["infer", "--policy", text(&policy)], if field == "flow.grid" { "`flow." } else { &field });
    }
}

#[test]
fn settings_are_those_of_the_component() {
    let Own { program, .. } = OWN[0];
    let folder = tempfile::tempdir().expect("a folder");
    for (set, expected) in [
        ("policy.overrides.action.expert={name: mlp, widht: 32}", "unknown field `widht`"),
        ("policy.overrides.action.expert=mlp", "missing field `width`"),
        ("policy.overrides.action.expert=perceptron", "one of mlp, diffusion-transformer, got perceptron"),
    ] {
        let arguments = training(folder.path(), &[set]);
        refused(program, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn own_components_are_cells_of_a_study_beside_the_built_in_ones() {
    for Own { program, axis: (axis, own, built_in), .. } in OWN {
        let folder = tempfile::tempdir().expect("a folder");
        let study = folder.path().join("study.yaml");
        let contents = format!(
            "title: Own\nbase: {ROOT}/recipes/tiny.yaml\nset:\n  data.data_groups.default.dataset.path: {path}\n  steps: 2\n  \
             batch_size: 2\naxes: {{{axis}: [{built_in}, {own}]}}\nseeds: [0]\nheld_out:\n  batches: 1\n  data:\n    \
             data_groups:\n      default: {{dataset: {{path: {path}}}}}\n",
            path = dataset()
        );
        std::fs::write(&study, contents).expect("written");
        let out = folder.path().join("out");
        done(program, &["ablate", text(&study), "--out", text(&out)]);
        let results = std::fs::read_to_string(out.join("results.csv")).expect("results");
        let errors: Vec<&str> = results.lines().skip(1).filter_map(|line| line.rsplit(',').nth(5)).collect();
        assert!(errors.len() == 2 && errors[0] != errors[1], "{program}: {results}");
    }
}

#[test]
fn an_own_integration_has_attention_maps() {
    let Own { program, set, .. } = OWN[1];
    let folder = tempfile::tempdir().expect("a folder");
    let policy = trained(program, folder.path(), &[set]);
    let out = folder.path().join("maps");
    let image = image();
    let views = ["--image", text(&image), "--image", text(&image), "--state", "0,0,0,0,0,0,0,0"];
    let rest = ["--prompt", "go", "--out", text(&out)];
    done(program, &[&["attention", "--policy", text(&policy)], &views[..], &rest].concat());
    // What records no attention is said.
    let folder = tempfile::tempdir().expect("a folder");
    let policy = trained(OWN[0].program, folder.path(), &[OWN[0].set]);
    let arguments = [&["attention", "--policy", text(&policy)], &views[..], &rest].concat();
    refused(OWN[0].program, &arguments, "record no attention");
}

#[test]
fn an_own_suite_reads_the_data_of_a_run() {
    let program = env!("CARGO_BIN_EXE_own_suite");
    let folder = tempfile::tempdir().expect("a folder");
    let suite = ["data.data_groups.default.dataset.process_suite=first_joints"];
    let joints = "data.data_groups.default.dataset.suite_config={joints: 3}";
    let policy = trained(program, folder.path(), &[suite[0], joints]);
    let config = document(&std::fs::read_to_string(policy.join("config.json")).expect("config.json"));
    assert_eq!(config.pointer("/output_features/action/shape/0"), Some(&3.into()), "{config}");
    let arguments = training(&folder.path().join("other"), &suite);
    refused(program, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), "`joints` must be");
}
