//! `--policy hf://owner/name` against a server on this machine.
#![cfg(feature = "hub")]

mod support;

use std::{
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

/// As much of the Hub as a download asks for: one repository, `robots/tiny`, with a fixture's files.
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
        files.filter_map(|request| request.split(' ').nth(1)?.rsplit('/').next().map(str::to_owned)).collect()
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

fn answer(path: &str, range: &str) -> (String, String, Vec<u8>) {
    let info = ["main", "v1"].map(|revision| format!("/api/models/robots/tiny/revision/{revision}"));
    if info.iter().any(|known| known == path) {
        let entry = |path: &str, size: u64| format!(r#"{{"rfilename":"{path}","size":{size}}}"#);
        let files = std::fs::read_dir(fixture()).expect("fixture").map(|file| {
            let file = file.expect("a file");
            entry(&file.file_name().to_string_lossy(), file.metadata().expect("a size").len())
        });
        let others = [entry("README.md", 3), entry("../escaped.json", 3), entry("images/model.safetensors", 3)];
        let siblings = files.chain(others).collect::<Vec<_>>().join(",");
        let body = format!(r#"{{"id":"robots/tiny","sha":"{COMMIT}","siblings":[{siblings}]}}"#);
        return ("200 OK".into(), "Content-Type: application/json\r\n".into(), body.into_bytes());
    }
    if path == "/api/models/robots/run/revision/main" {
        let file = r#"{"rfilename":"pretrained_model/config.json","size":3}"#;
        let body = format!(r#"{{"id":"robots/run","sha":"{COMMIT}","siblings":[{file}]}}"#);
        return ("200 OK".into(), "Content-Type: application/json\r\n".into(), body.into_bytes());
    }
    let name = path.strip_prefix(&format!("/robots/tiny/resolve/{COMMIT}/"));
    match name.map(|name| (name, std::fs::read(fixture().join(name)))) {
        Some((name, Ok(bytes))) => {
            let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("a range");
            let (from, last) = (from.parse::<usize>().expect("a number"), bytes.len() - 1);
            let to = to.parse().unwrap_or(last);
            let headers = format!(
                "ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {from}-{to}/{}\r\n",
                name.replace('.', "-"),
                bytes.len()
            );
            ("206 Partial Content".into(), headers, bytes[from..=to].to_vec())
        }
        _ => ("404 Not Found".into(), "X-Error-Message: Repository not found\r\n".into(), Vec::new()),
    }
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
        &["no `config.json` at its top, but in `pretrained_model`", "download the folder"],
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
