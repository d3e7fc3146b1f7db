//! `--policy hf://owner/name` against a server on this machine.
#![cfg(feature = "hub")]

mod support;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    thread,
};

use evo1::test_support;
use support::{command, document, refusal, stderr};
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn fixture() -> PathBuf {
    test_support::fixture("tiny-lerobot")
}

/// As much of the Hub as downloads ask for: `robots/tiny` with a fixture's files, `robots/run` with the same in a folder, and the
/// datasets `robots/old` and `robots/new` in two versions.
struct Hub {
    address: String,
    /// Requests so far, with the range of bytes that they ask for.
    requests: Arc<Mutex<Vec<String>>>,
    /// The status of every answer, unless it is 0.
    refusal: Arc<AtomicU16>,
}

impl Hub {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let refusal = Arc::new(AtomicU16::new(0));
        let (log, status) = (Arc::clone(&requests), Arc::clone(&refusal));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, status) = (Arc::clone(&log), Arc::clone(&status));
                thread::spawn(move || serve(stream.expect("a connection"), &log, &status));
            }
        });
        Self { address, requests, refusal }
    }

    /// How many requests there were so far.
    fn count(&self) -> usize {
        self.requests.lock().expect("log").len()
    }

    /// The files that were downloaded so far, in order. One byte of each is asked for before, to learn how long it is.
    fn downloads(&self) -> Vec<String> {
        let requests = self.requests.lock().expect("log");
        let files = requests.iter().filter_map(|request| request.strip_suffix(" bytes=0-"));
        let name =
            |request: &str| Some(request.split(' ').nth(1)?.split_once(COMMIT)?.1.trim_start_matches('/').to_owned());
        files.filter_map(name).collect()
    }
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, log: &Mutex<Vec<String>>, refusal: &AtomicU16) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let mut writer = stream;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let (mut line, mut range) = (String::new(), String::new());
        while reader.read_line(&mut line).unwrap_or(0) > 2 {
            if let Some((_, value)) = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("range")) {
                range = value.trim().to_owned();
            }
            line.clear();
        }
        log.lock().expect("log").push(format!("{} {range}", request.trim()));
        let target = request.split(' ').nth(1).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let (status, headers, body) = match refusal.load(Ordering::Relaxed) {
            0 => answer(path, &range),
            status => (format!("{status} No"), String::new(), Vec::new()),
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
        writer.write_all(head.as_bytes()).expect("sent");
        writer.write_all(&body).expect("sent");
    }
}

/// The files of a repository by their paths in it, with some that only its list has.
fn files(repository: &str) -> Option<BTreeMap<String, PathBuf>> {
    let (root, prefix, others): (PathBuf, &str, &[&str]) = match repository {
        "models/robots/tiny" => {
            (fixture(), "", &["README.md", "../escaped.json", "images/model.safetensors", "x_optim_states.pt/y"])
        }
        "models/robots/run" => {
            (fixture(), "pretrained_model/", &["training_state/optimizer_state.safetensors", "checkpoint.pt"])
        }
        "datasets/robots/old" => (test_support::fixture("lerobot-datasets/v21"), "", &["README.md"]),
        "datasets/robots/new" => {
            (test_support::fixture("lerobot-datasets/v30"), "", &["README.md", "meta/../../escaped.json"])
        }
        _ => return None,
    };
    let mut files: BTreeMap<String, PathBuf> = others.iter().map(|name| ((*name).to_owned(), PathBuf::new())).collect();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("fixture") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(&root).expect("below").to_str().expect("text").to_owned();
                    files.insert(format!("{prefix}{name}"), path);
                }
            }
        }
    }
    Some(files)
}

fn answer(path: &str, range: &str) -> (String, String, Vec<u8>) {
    let absent = || ("404 Not Found".into(), "X-Error-Message: Repository not found\r\n".into(), Vec::new());
    if let Some((repository, revision)) = path.strip_prefix("/api/").and_then(|path| path.split_once("/revision/")) {
        let Some(files) = files(repository).filter(|_| ["main", "v1"].contains(&revision)) else { return absent() };
        let entry = |(name, path): (&String, &PathBuf)| {
            let size = path.metadata().map_or(3, |file| file.len());
            format!(r#"{{"rfilename":"{name}","size":{size}}}"#)
        };
        let siblings = files.iter().map(entry).collect::<Vec<_>>().join(",");
        let body = format!(r#"{{"id":"x","sha":"{COMMIT}","siblings":[{siblings}]}}"#);
        return ("200 OK".into(), "Content-Type: application/json\r\n".into(), body.into_bytes());
    }
    let Some((repository, name)) = path.split_once(&format!("/resolve/{COMMIT}/")) else { return absent() };
    let repository = match repository.strip_prefix("/datasets/") {
        Some(repository) => format!("datasets/{repository}"),
        None => format!("models{repository}"),
    };
    let Some(Ok(bytes)) = files(&repository).and_then(|files| Some(std::fs::read(files.get(name)?))) else {
        return absent();
    };
    let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("a range");
    let (from, last) = (from.parse::<usize>().expect("a number"), bytes.len() - 1);
    let to = to.parse().unwrap_or(last);
    let headers = format!(
        "ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {from}-{to}/{}\r\n",
        name.replace(['.', '/'], "-"),
        bytes.len()
    );
    ("206 Partial Content".into(), headers, bytes[from..=to].to_vec())
}

/// Runs the binary with a cache of its own.
fn evo1(arguments: &[&str], endpoint: &str, cache: &Path, offline: bool) -> Output {
    let mut command = command(arguments);
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", cache).env("NO_PROXY", "127.0.0.1");
    for variable in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HUGGINGFACE_HUB_CACHE"] {
        command.env_remove(variable);
    }
    if offline {
        command.env("HF_HUB_OFFLINE", "1");
    }
    command.output().expect("the binary runs")
}

fn actions(output: &Output) -> serde_json::Value {
    document(output)["actions"].clone()
}

fn refused(output: &Output, expected: &[&str]) {
    let message = refusal(expected, output, 1);
    for part in expected {
        assert!(message.contains(part), "`{part}` is not in {message}");
    }
}

/// A port on which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", listener.local_addr().expect("bound"))
}

const INFER: [&str; 6] = ["infer", "--json", "--state", "0,0,0,0", "--steps", "1"];

fn infer(policy: &str, endpoint: &str, cache: &TempDir, offline: bool) -> Output {
    evo1(&[&INFER[..], &["--policy", policy]].concat(), endpoint, cache.path(), offline)
}

#[test]
fn a_policy_is_downloaded_once_and_found_without_network() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().expect("cache"));
    let local = evo1(&[&INFER[..], &["--policy", &fixture().to_string_lossy()]].concat(), "", cache.path(), false);
    let expected = actions(&local);
    assert_eq!(actions(&infer("hf://robots/tiny", &hub.address, &cache, false)), expected);
    let downloads = hub.downloads();
    let mut names = downloads.clone();
    names.sort();
    let files = ["config.json", "model.safetensors", "tokenizer.json", "vlm_config.json"];
    assert_eq!(names, files, "configurations, tokenizer and weights, and nothing else");
    assert_eq!(downloads.last().map(String::as_str), Some("config.json"), "by which a whole folder is found");
    assert_eq!(actions(&infer("hf://robots/tiny@v1", &hub.address, &cache, false)), expected);
    assert_eq!(hub.downloads(), downloads, "another name of the same commit");

    let asked = hub.count();
    assert_eq!(actions(&infer("hf://robots/tiny", &hub.address, &cache, true)), expected);
    let at_commit = format!("hf://robots/tiny@{COMMIT}");
    assert_eq!(actions(&infer(&at_commit, &hub.address, &cache, true)), expected);
    assert_eq!(hub.count(), asked, "offline asks nobody");
    let used_in_spite_of = |endpoint: &str, reason: &str| {
        let output = infer("hf://robots/tiny", endpoint, &cache, false);
        assert_eq!(actions(&output), expected);
        let message = stderr(&output);
        assert!(message.contains("the cached files are used") && message.contains(reason), "{message}");
    };
    used_in_spite_of(&nobody(), "refused");
    for status in [401, 429, 503] {
        hub.refusal.store(status, Ordering::Relaxed);
        used_in_spite_of(&hub.address, &format!("the Hub answers {status}"));
    }
    assert!(!cache.path().join("hub/models--robots--tiny/escaped.json").exists());
}

#[test]
fn what_cannot_be_downloaded_says_why() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().expect("cache"));
    refused(&infer("hf://robots", &hub.address, &cache, false), &["hf://owner/name@revision"]);
    refused(
        &infer("hf://robots/other", &hub.address, &cache, false),
        &["hf://robots/other", "404 Repository not found", "check the name"],
    );
    refused(
        &infer("hf://robots/run", &hub.address, &cache, false),
        &["no `config.json` at its top, but in `pretrained_model`", "hf://owner/name/folder"],
    );
    refused(&infer("hf://robots/tiny", &hub.address, &cache, true), &["not in the cache", "HF_HUB_OFFLINE"]);
    refused(&infer("hf://robots/tiny", &nobody(), &cache, false), &["check the network", "HF_ENDPOINT"]);
    hub.refusal.store(429, Ordering::Relaxed);
    refused(&infer("hf://robots/tiny", &hub.address, &cache, false), &["the Hub answers 429", "try again later"]);
}

#[test]
fn a_download_that_broke_off_goes_on() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().expect("cache"));
    let weights = std::fs::read(fixture().join("model.safetensors")).expect("fixture");
    let blobs = cache.path().join("hub/models--robots--tiny/blobs");
    std::fs::create_dir_all(&blobs).expect("a folder");
    std::fs::write(blobs.join("model-safetensors.part"), &weights[..1000]).expect("written");
    actions(&infer("hf://robots/tiny", &hub.address, &cache, false));
    let requests = hub.requests.lock().expect("log");
    assert!(requests.iter().any(|request| request.contains("model.safetensors") && request.ends_with(" bytes=1000-")));
}

#[test]
fn a_policy_may_be_in_a_folder() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().expect("cache"));
    let local = evo1(&[&INFER[..], &["--policy", &fixture().to_string_lossy()]].concat(), "", cache.path(), false);
    let expected = actions(&local);
    let name = "hf://robots/run/pretrained_model";
    assert_eq!(actions(&infer(name, &hub.address, &cache, false)), expected);
    let mut names = hub.downloads();
    names.sort();
    let files = ["config.json", "model.safetensors", "tokenizer.json", "vlm_config.json"];
    assert_eq!(names, files.map(|file| format!("pretrained_model/{file}")), "and nothing of the run");
    assert_eq!(actions(&infer(name, &hub.address, &cache, true)), expected);
    hub.refusal.store(503, Ordering::Relaxed);
    assert_eq!(actions(&infer(name, &hub.address, &cache, false)), expected);
    let other = infer("hf://robots/run/last", &Hub::start().address, &cache, false);
    refused(&other, &["no `config.json` in `last`, but in `pretrained_model`"]);
}

#[cfg(feature = "data")]
mod data {
    use super::*;

    /// A data configuration in the folder of the cache.
    fn configuration(cache: &TempDir, path: &str, more: &str) -> String {
        let file = cache.path().join("data.yaml");
        let text = format!("data_groups: {{arm: {{set: {{path: '{path}', process_suite: metaworld{more}}}}}}}\n");
        std::fs::write(&file, text).expect("write");
        file.to_string_lossy().into_owned()
    }

    /// The statistics that are written for a configuration.
    fn statistics(configuration: &str, endpoint: &str, cache: &TempDir, offline: bool) -> (Output, Option<String>) {
        let out = cache.path().join("norm_stats.json");
        let _ = std::fs::remove_file(&out);
        let arguments = ["stats", "--data", configuration, "--horizon", "4", "--out", &out.to_string_lossy()];
        (evo1(&arguments, endpoint, cache.path(), offline), std::fs::read_to_string(out).ok())
    }

    #[test]
    fn only_the_files_of_a_dataset_that_are_used_are_downloaded() {
        const VIEW: &str = ", view_map: {image_1: observation.images.wrist}";
        let cases = [
            (
                "hf://datasets/robots/old",
                ", episodes: [1]",
                vec![
                    "data/chunk-000/episode_000001.parquet",
                    "videos/chunk-000/observation.images.wrist/episode_000001.mp4",
                ],
            ),
            (
                "robots/new@v1",
                "",
                vec!["data/chunk-000/file-000.parquet", "videos/observation.images.wrist/chunk-000/file-000.mp4"],
            ),
        ];
        for ((path, more, files), local) in cases.into_iter().zip(["v21", "v30"]) {
            let (hub, cache) = (Hub::start(), tempfile::tempdir().expect("cache"));
            let local = test_support::fixture("lerobot-datasets").join(local);
            let more = format!("{VIEW}{more}");
            let same = configuration(&cache, &local.to_string_lossy(), &more);
            let (_, expected) = statistics(&same, &nobody(), &cache, true);
            assert!(expected.is_some());
            let named = configuration(&cache, path, &more);
            let (output, got) = statistics(&named, &hub.address, &cache, false);
            assert_eq!(got, expected, "{}", stderr(&output));
            let downloads = hub.downloads();
            let (meta, used): (Vec<_>, Vec<_>) = downloads.into_iter().partition(|name| name.starts_with("meta/"));
            assert_eq!(used, files);
            assert!(meta.len() >= 4, "{meta:?}");
            let asked = hub.count();
            assert_eq!(statistics(&named, &hub.address, &cache, true).1, expected, "without network");
            assert_eq!(hub.count(), asked);
            hub.refusal.store(429, Ordering::Relaxed);
            let (output, got) = statistics(&named, &hub.address, &cache, false);
            assert_eq!(got, expected);
            assert!(stderr(&output).contains("the cached files are used"), "{}", stderr(&output));
            assert!(!cache.path().join("hub/escaped.json").exists());
        }
    }

    #[test]
    fn what_cannot_be_found_on_the_hub_says_where_it_was_looked_for() {
        let (hub, cache) = (Hub::start(), tempfile::tempdir().expect("cache"));
        let (output, _) = statistics(&configuration(&cache, "robots/none", ""), &hub.address, &cache, false);
        refused(&output, &["there is no folder", "robots/none", "hf://datasets/robots/none", "404"]);
        let (output, _) = statistics(&configuration(&cache, "hf://robots/new", ""), &hub.address, &cache, false);
        refused(&output, &["hf://datasets/owner/name", "hf://robots/new"]);
        refused(&infer("hf://datasets/robots/new", &hub.address, &cache, false), &["a policy or base model"]);
    }

    #[test]
    fn a_dataset_of_the_hub_is_shown_and_checked() {
        let (hub, cache) = (Hub::start(), tempfile::tempdir().expect("cache"));
        let path = "hf://datasets/robots/old";
        let shown = |more: &[&str]| {
            document(&evo1(&[&["data", path, "--json"], more].concat(), &hub.address, cache.path(), false))
        };
        let summary = shown(&[]);
        assert_eq!((&summary["episodes"], &summary["frames"]), (&3.into(), &24.into()));
        assert_eq!(summary["disagreements"], serde_json::json!([]));
        let videos = hub.downloads().iter().filter(|name| name.starts_with("videos/")).count();
        assert_eq!(videos, 2, "those of the first episode");
        let plot = cache.path().join("sheet.png");
        shown(&["--plot", &plot.to_string_lossy(), "--episode", "2"]);
        assert!(plot.exists() && !hub.downloads().iter().any(|name| name.contains("episode_000001")));
        assert_eq!(shown(&["--check"])["problems"], serde_json::json!([]));
        assert_eq!(hub.downloads().iter().filter(|name| name.starts_with("videos/")).count(), 6);
    }

    #[cfg(feature = "train")]
    #[test]
    fn a_run_takes_its_policy_and_its_data_from_the_hub() {
        let (hub, cache) = (Hub::start(), tempfile::tempdir().expect("cache"));
        let output = cache.path().join("run");
        let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes/tiny.yaml");
        let sets = [
            "policy={from: 'hf://robots/run/pretrained_model'}".to_owned(),
            "data={data_groups: {a: {b: {path: robots/new, state_dims: [0, 1, 2, 3], action_dims: [0, 1, 2, 3, 4], view_map: {image_1: observation.images.front, image_2: observation.images.wrist}}}}}".to_owned(),
            "steps=1".to_owned(),
            "batch_size=2".to_owned(),
            format!("output={}", output.display()),
        ];
        let mut arguments = vec!["train", "--config", recipe];
        sets.iter().for_each(|set| arguments.extend(["--set", set]));
        let run = evo1(&arguments, &hub.address, cache.path(), false);
        assert!(run.status.success(), "{}", stderr(&run));
        assert!(output.join("report.html").exists());
        assert!(hub.downloads().iter().any(|name| name == "pretrained_model/model.safetensors"));
    }
}
