//! The program on each of the devices that `EVO1_TEST_DEVICES` names, against the program on the CPU.
#![cfg(all(unix, feature = "flex", feature = "serve", feature = "train"))]

mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use evo1::test_support::{assert_within, fixture};
use evo1_serve::client::CallOptions;
use serde_json::Value;
use support::{
    command, document, refusal,
    server::{Serving, sample},
    stderr, stdout,
};

/// Largest difference of normalised numbers in f32.
const TOLERANCE: f64 = 1e-4;

fn devices() -> Vec<String> {
    let names = std::env::var("EVO1_TEST_DEVICES").unwrap_or_else(|_| "flex".into());
    names.split(',').map(str::to_owned).collect()
}

fn evo1(device: &str) -> Command {
    command(&["--device", device])
}

/// The numbers of a document's list of lists.
fn numbers(document: &Value, field: &str) -> Vec<f64> {
    let rows: Vec<Vec<f64>> = serde_json::from_value(document[field].clone()).expect("rows of numbers");
    rows.concat()
}

fn predicted(device: &str) -> Vec<f64> {
    numbers(&document(&evo1(device).args(["infer", "--json", "--seed", "4"]).output().expect("it runs")), "actions")
}

#[test]
fn a_prediction_is_the_cpus() {
    let want = predicted("flex");
    for device in devices() {
        assert_within(&device, &predicted(&device), &want, TOLERANCE);
    }
}

/// A run of two steps.
fn training(device: &str, run: &Path) -> Command {
    let dataset = format!("data.data_groups.default.dataset.path={}", fixture("lerobot-datasets/v30").display());
    let output = format!("output={}", run.display());
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes/tiny.yaml");
    let mut train = evo1(device);
    train.args(["train", "--json", "--config", recipe, "--set", &dataset, "--set", &output]);
    train.args(["--set", "steps=2", "--set", "batch_size=2"]);
    train
}

/// The loss that a run ends with, and its policy's folder.
fn trained(train: &mut Command) -> (f64, PathBuf) {
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
    let dataset = fixture("lerobot-datasets/v30");
    let group = format!("data_groups: {{default: {{dataset: {{path: {}}}}}}}\n", dataset.display());
    std::fs::write(&data, group).expect("written");
    let (loss, policy) = trained(&mut training("flex", &folder.path().join("flex")));
    let want = evaluated("flex", &policy, &data);
    for device in devices().into_iter().filter(|device| device != "flex") {
        let (got, _) = trained(&mut training(&device, &folder.path().join(&device)));
        assert_within(&format!("loss on {device}"), &[got], &[loss], TOLERANCE);
        assert_within(&format!("evaluation on {device}"), &evaluated(&device, &policy, &data), &want, TOLERANCE);
    }
}

/// Two emulated CUDA devices, where the tests run on one: they sum by NCCL where it is found, and through the host without it.
#[test]
fn two_cuda_devices_train_as_one_does() {
    let Some(emulator) = std::env::var_os("CUDAEMU").filter(|_| devices().iter().any(|device| device == "cuda")) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    // The emulated driver without the emulated NCCL.
    let driver = folder.path().join("driver");
    std::fs::create_dir(&driver).expect("a folder");
    std::os::unix::fs::symlink(Path::new(&emulator).join("libcuda.so.1"), driver.join("libcuda.so.1")).expect("linked");
    let libraries = std::env::var("LD_LIBRARY_PATH").expect("the emulator's");
    let with_driver_alone = libraries.replace(&*emulator.to_string_lossy(), &driver.to_string_lossy());
    let state = |name: &str, libraries: &str, share: &str| {
        let mut train = training("cuda", &folder.path().join(name));
        train.env("CUDAEMU_DEVICES", "2").env("LD_LIBRARY_PATH", libraries);
        let (_, checkpoint) = trained(train.args(["--set", share]));
        ["model.safetensors", "training/optimizer.bpk"].map(|file| std::fs::read(checkpoint.join(file)).expect(file))
    };
    let one = state("one", &libraries, "accumulate=2");
    // Of two terms there is one sum.
    for (name, libraries) in [("by NCCL", &libraries), ("through the host", &with_driver_alone)] {
        assert!(state(name, libraries, "devices=[cuda:0, cuda:1]") == one, "{name}: other bits");
    }
}

#[test]
fn a_client_is_served_what_is_predicted() {
    for device in devices() {
        let server = Serving::start(evo1(&device).args(["serve", "--bind", "127.0.0.1:0", "--seed", "4"]));
        let reply = server.client(4).predict(&sample(), &CallOptions::default()).expect("a reply");
        let got: Vec<f64> =
            reply.chunk.steps().flat_map(|action| action[..4].iter().map(|&value| f64::from(value))).collect();
        assert_within(&device, &got, &predicted(&device), TOLERANCE);
    }
}

#[test]
fn what_cuda_compiles_is_kept_for_the_next_process() {
    if !devices().iter().any(|device| device == "cuda") {
        return;
    }
    let cache = tempfile::tempdir().expect("a folder");
    let tuned = evo1("cuda").arg("tune").env("XDG_CACHE_HOME", cache.path()).output().expect("it runs");
    assert_eq!(stdout(&tuned).lines().count(), 3, "a line for each of two numbers of views: {}", stdout(&tuned));
    let kept = std::fs::read_dir(cache.path().join("cubecl")).expect("a folder of kernels");
    assert!(kept.flatten().any(|file| file.metadata().is_ok_and(|metadata| metadata.len() > 100_000)));
    let infer = |device: &str| {
        let mut infer = evo1(device);
        document(&infer.args(["infer", "--json"]).env("XDG_CACHE_HOME", cache.path()).output().expect("it runs"))
    };
    assert_within("kept kernels", &numbers(&infer("cuda"), "actions"), &numbers(&infer("flex"), "actions"), TOLERANCE);
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
        (("CUDA_PATH", "/nowhere"), &["infer"], "from PyPI `nvidia-"),
        (("CUDAEMU_SM", "75"), &["--dtype", "tf32", "infer"], "cannot compute in tf32"),
    ] {
        let output = evo1("cuda").args(arguments).env(name, value).output().expect("it runs");
        refusal(arguments, &output, 1);
        let log = stderr(&output);
        assert!(log.starts_with("error: ") && log.contains(words), "{log}");
    }
}
