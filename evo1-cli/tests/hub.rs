//! `--policy hf://owner/name` against a server on this machine.
#![cfg(feature = "hub")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
};

use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn fixture() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/tiny-lerobot"))
}

/// As much of the Hub as a download asks for: one repository, `robots/tiny`, with a fixture's files.
struct Hub {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let log = Arc::clone(&log);
                thread::spawn(move || serve(stream.expect("a connection"), &log));
            }
        });
        Self { address, requests }
    }

    /// Requests so far that hold this text.
    fn count(&self, text: &str) -> usize {
        self.requests.lock().expect("log").iter().filter(|request| request.contains(text)).count()
    }
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let mut writer = stream;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap_or(0) > 2 {
            line.clear();
        }
        log.lock().expect("log").push(request.trim().to_owned());
        let mut words = request.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = target.split('?').next().unwrap_or_default();
        let (status, headers, body) = answer(path);
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
        writer.write_all(head.as_bytes()).expect("sent");
        if method != "HEAD" {
            writer.write_all(&body).expect("sent");
        }
    }
}

fn answer(path: &str) -> (&'static str, String, Vec<u8>) {
    let json = |text: String| ("200 OK", "Content-Type: application/json\r\n".to_owned(), text.into_bytes());
    let info = ["main", "v1"].map(|revision| format!("/api/models/robots/tiny/revision/{revision}"));
    if info.iter().any(|known| known == path) {
        return json(format!(r#"{{"id":"robots/tiny","sha":"{COMMIT}"}}"#));
    }
    if path == format!("/api/models/robots/tiny/tree/{COMMIT}") {
        let entry =
            |path: &str, size: u64| format!(r#"{{"type":"file","oid":"{path}","size":{size},"path":"{path}"}}"#);
        let files = std::fs::read_dir(fixture()).expect("fixture").map(|file| {
            let file = file.expect("a file");
            entry(&file.file_name().to_string_lossy(), file.metadata().expect("a size").len())
        });
        let others = [entry("README.md", 3), entry("../escaped.json", 3), entry("images/model.safetensors", 3)];
        return json(format!("[{}]", files.chain(others).collect::<Vec<_>>().join(",")));
    }
    let name = path.strip_prefix(&format!("/robots/tiny/resolve/{COMMIT}/"));
    match name.map(|name| (name, std::fs::read(fixture().join(name)))) {
        Some((name, Ok(bytes))) => {
            ("200 OK", format!("ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n", name.replace('.', "-")), bytes)
        }
        _ => ("404 Not Found", "X-Error-Code: RepoNotFound\r\n".to_owned(), Vec::new()),
    }
}

/// Runs the binary with a cache of its own.
fn evo1(arguments: &[&str], endpoint: &str, cache: &Path, offline: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evo1"));
    command.args(arguments).env("HF_ENDPOINT", endpoint).env("HF_HOME", cache).env("NO_PROXY", "127.0.0.1");
    for variable in ["EVO1_DEVICE", "HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HUGGINGFACE_HUB_CACHE"] {
        command.env_remove(variable);
    }
    if offline {
        command.env("HF_HUB_OFFLINE", "1");
    }
    command.output().expect("the binary runs")
}

fn actions(output: &Output) -> serde_json::Value {
    let mut stderr = String::new();
    output.stderr.as_slice().read_to_string(&mut stderr).expect("UTF-8");
    assert!(output.status.success(), "{stderr}");
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    printed["actions"].clone()
}

fn refused(output: &Output, expected: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    for part in expected {
        assert!(message.contains(part), "`{part}` is not in {message}");
    }
    assert_eq!(message.lines().filter(|line| line.starts_with("error:")).count(), 1, "{message}");
    assert!(!message.contains("panicked"), "{message}");
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
    assert_eq!(hub.count("GET /robots/tiny/resolve"), 4, "configurations, tokenizer and weights, and nothing else");
    assert_eq!(actions(&infer("hf://robots/tiny@v1", &hub.address, &cache, false)), expected);
    assert_eq!(hub.count("GET /robots/tiny/resolve"), 4, "another name of the same commit");

    let asked = hub.count("");
    assert_eq!(actions(&infer("hf://robots/tiny", &hub.address, &cache, true)), expected);
    assert_eq!(hub.count(""), asked, "offline asks nobody");
    let output = infer("hf://robots/tiny", &nobody(), &cache, false);
    assert_eq!(actions(&output), expected);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the cached files are used"));
    assert!(!cache.path().join("hub/models--robots--tiny/escaped.json").exists());
}

#[test]
fn what_cannot_be_downloaded_says_why() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().expect("cache"));
    refused(&infer("hf://robots", &hub.address, &cache, false), &["hf://owner/name@revision"]);
    refused(&infer("hf://robots/other", &hub.address, &cache, false), &["hf://robots/other", "check the"]);
    refused(&infer("hf://robots/tiny", &hub.address, &cache, true), &["not in the cache", "HF_HUB_OFFLINE"]);
    refused(&infer("hf://robots/tiny", &nobody(), &cache, false), &["check the network", "HF_ENDPOINT"]);
}
