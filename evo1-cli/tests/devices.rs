//! The program on each of the devices that `EVO1_TEST_DEVICES` names, against the program on the CPU.
#![cfg(all(unix, feature = "flex", feature = "serve", feature = "train"))]

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use evo1::{Observation, View};
use evo1_serve::client::{CallOptions, Client, ClientOptions};
use serde_json::Value;

/// Largest difference of normalised numbers in f32.
const TOLERANCE: f64 = 1e-4;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn devices() -> Vec<String> {
    let names = std::env::var("EVO1_TEST_DEVICES").unwrap_or_else(|_| "flex".into());
    names.split(',').map(str::to_owned).collect()
}

fn evo1(device: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evo1"));
    command.args(["--device", device]);
    command
}

fn document(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The numbers of a document's list of lists.
fn numbers(document: &Value, field: &str) -> Vec<f64> {
    let rows: Vec<Vec<f64>> = serde_json::from_value(document[field].clone()).expect("rows of numbers");
    rows.concat()
}

fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= tolerance, "{what}: {got} is not {want}");
    }
}

fn predicted(device: &str) -> Vec<f64> {
    numbers(&document(&evo1(device).args(["infer", "--json", "--seed", "4"]).output().expect("it runs")), "actions")
}

#[test]
fn a_prediction_is_the_cpus() {
    let want = predicted("flex");
    for device in devices() {
        assert_close(&device, &predicted(&device), &want, TOLERANCE);
    }
}

/// A run of two steps, and its policy's folder.
fn trained(device: &str, folder: &Path) -> (f64, PathBuf) {
    let dataset = format!("data.data_groups.default.dataset.path={ROOT}/fixtures/lerobot-datasets/v30");
    let output = format!("output={}", folder.join(device).display());
    let recipe = format!("{ROOT}/recipes/tiny.yaml");
    let mut train = evo1(device);
    train.args(["train", "--json", "--config", &recipe, "--set", &dataset, "--set", &output]);
    train.args(["--set", "steps=2", "--set", "batch_size=2"]);
    let result = document(&train.output().expect("it runs"));
    (result["loss"].as_f64().expect("a loss"), result["checkpoint"].as_str().expect("a path").into())
}

fn evaluated(device: &str, policy: &Path, data: &Path) -> Vec<f64> {
    let mut evaluate = evo1(device);
    evaluate.args(["evaluate", "--json", "--batches", "1", "--steps", "2", "--policy"]);
    let result = document(&evaluate.arg(policy).arg("--data").arg(data).output().expect("it runs"));
    ["loss", "rmse", "mae"].map(|field| result[field].as_f64().expect("a number")).to_vec()
}

#[test]
fn a_run_and_its_evaluation_are_the_cpus() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data.yaml");
    let group = format!("data_groups: {{default: {{dataset: {{path: {ROOT}/fixtures/lerobot-datasets/v30}}}}}}\n");
    std::fs::write(&data, group).expect("written");
    let (loss, policy) = trained("flex", folder.path());
    let want = evaluated("flex", &policy, &data);
    for device in devices().into_iter().filter(|device| device != "flex") {
        let (got, _) = trained(&device, folder.path());
        assert_close(&format!("loss on {device}"), &[got], &[loss], TOLERANCE);
        assert_close(&format!("evaluation on {device}"), &evaluated(&device, &policy, &data), &want, TOLERANCE);
    }
}

/// Ends a process that a failed test leaves.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_client_is_served_what_is_predicted() {
    for device in devices() {
        let mut serve = evo1(&device);
        serve.args(["serve", "--bind", "127.0.0.1:0", "--seed", "4"]).stdout(Stdio::piped());
        let mut running = Running(serve.spawn().expect("it runs"));
        let mut line = String::new();
        BufReader::new(running.0.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").expect("where it listens").to_owned();

        let bytes = include_bytes!("../assets/image.png");
        let image = image::load_from_memory(bytes).expect("an image").into_rgb8();
        let (width, height) = (image.width() as usize, image.height() as usize);
        let frame = evo1::Frame::new(width, height, image.into_raw()).expect("full");
        let observation = Observation {
            views: vec![View::Present(frame)],
            state: vec![0.001_889_564, 0.666_399_5, 0.287_608_56, 1.0, 0.008_976_636, 0.73, 0.09, 1.0],
            instruction: "Open the drawer".into(),
            ..Observation::default()
        };
        let options = ClientOptions { action_dim: 4, ..ClientOptions::default() };
        let mut client = Client::connect(&address, options).expect("a connection");
        let reply = client.predict(&observation, &CallOptions::default()).expect("a reply");
        let got: Vec<f64> =
            reply.chunk.steps().flat_map(|action| action[..4].iter().map(|&value| f64::from(value))).collect();
        assert_close(&device, &got, &predicted(&device), TOLERANCE);
    }
}

/// On an emulated CUDA device with other settings, where the tests run on one.
#[test]
fn what_a_cuda_device_lacks_is_an_error_in_its_words() {
    if std::env::var_os("CUDAEMU").is_none() || !devices().iter().any(|device| device == "cuda") {
        return;
    }
    let bench = ["--dtype", "bf16", "bench", "--preset", "evo1", "--repeat", "1", "--steps", "1"];
    for ((name, value), arguments, words) in [
        (("CUDAEMU_MEMORY_GB", "1"), &bench[..], "out of device memory"),
        (("CUDAEMU_OLD", "1"), &["infer"], "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"),
        (("CUDA_PATH", "/nowhere"), &["infer"], "nvidia-nvvm"),
        (("CUDAEMU_SM", "75"), &["--dtype", "tf32", "infer"], "cannot compute in tf32"),
    ] {
        let output = evo1("cuda").args(arguments).env(name, value).output().expect("it runs");
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.starts_with("error: ") && !log.contains("panicked"), "{log}");
        assert!(log.contains(words), "{log}");
    }
}
