//! `evo1 serve` as a process: its answers are those of `evo1 infer`, signals end it, and hostile traffic does not.
#![cfg(all(unix, feature = "serve"))]

mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

use evo1::{
    Frame, Observation, Policy, View,
    convert::Format,
    device::DeviceName,
    rng::{self, RngExt},
    test_support::fixture,
};
use evo1_serve::{
    client::{CallOptions, Client, ClientOptions, Reply, read_reply},
    protocol::json::{self, WireOptions},
};
use support::{
    command, document, evo1, refusal,
    server::{Serving, sample},
};
use tokio_tungstenite::tungstenite::{self, Message, stream::MaybeTlsStream};

/// `evo1 serve` with the embedded policy.
fn serving(arguments: &[&str]) -> Serving {
    let serve = ["serve", "--device", "flex", "--bind", "127.0.0.1:0", "--steps", "2"];
    Serving::start(command(&serve).args(arguments).stderr(Stdio::piped()))
}

impl Serving {
    fn socket_address(&self) -> SocketAddr {
        self.address.trim_start_matches("ws://").parse().expect("an address")
    }

    /// A number of `/proc/PID/status` in bytes.
    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
        line.split_whitespace().nth(0).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Sends SIGTERM and returns the exit code and what was logged.
    fn terminate(mut self) -> (Option<i32>, String) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        let start = Instant::now();
        while self.process.try_wait().expect("a status").is_none() {
            if start.elapsed() > Duration::from_secs(60) {
                self.process.kill().expect("killed");
                panic!("SIGTERM did not end the server");
            }
            sleep(Duration::from_millis(20));
        }
        let mut log = String::new();
        self.process.stderr.take().expect("piped").read_to_string(&mut log).expect("UTF-8");
        (self.process.wait().expect("a status").code(), log)
    }
}

fn infer(seed: &str) -> Vec<Vec<f32>> {
    let output = evo1(&["infer", "--device", "flex", "--json", "--steps", "2", "--seed", seed]);
    serde_json::from_value(document(&output)["actions"].clone()).expect("actions")
}

fn columns(reply: &Reply, width: usize) -> Vec<Vec<f32>> {
    reply.chunk.steps().map(|action| action[..width].to_vec()).collect()
}

#[test]
fn answers_are_those_of_infer_to_the_bit_and_sigterm_ends_with_0() {
    let server = serving(&["--seed", "4"]);
    let mut client = server.client(4);
    let reply = client.predict(&sample(), &CallOptions::default()).expect("a reply");
    assert_eq!(columns(&reply, 4), infer("4"));
    let call = CallOptions { seed: Some(3), ..CallOptions::default() };
    let reply = client.predict(&sample(), &call).expect("a reply");
    assert_eq!(columns(&reply, 4), infer("3"));
    let (code, log) = server.terminate();
    assert_eq!(code, Some(0), "{log}");
}

#[cfg(feature = "otel")]
#[test]
fn traces_reach_the_collector_that_the_environment_names() {
    let collector = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", collector.local_addr().expect("bound"));
    let received = spawn(move || {
        let (mut stream, _) = collector.accept().expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("set");
        let (mut request, mut part) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = stream.read(&mut part) {
            request.extend(&part[..read]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").expect("answered");
        String::from_utf8_lossy(&request).into_owned()
    });
    let serve = ["serve", "--device", "flex", "--bind", "127.0.0.1:0", "--steps", "2", "--traces"];
    let mut command = command(&serve);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("NO_PROXY", "127.0.0.1").stderr(Stdio::piped());
    let server = Serving::start(&mut command);
    server.client(4).predict(&sample(), &CallOptions::default()).expect("a reply");
    let (code, log) = server.terminate();
    assert_eq!(code, Some(0), "{log}");
    let request = received.join().expect("received");
    assert!(request.starts_with("POST /v1/traces"), "{request}");
    for name in ["evo1", "predict", "queue", "vision", "evo1.protocol", "json"] {
        assert!(request.contains(name), "`{name}` is not in {request}");
    }
}

#[test]
fn wrong_use_is_refused_with_the_remedy() {
    let refused = |arguments: &[&str], code: i32, expected: &str| {
        let message = refusal(arguments, &evo1(&[&["serve"], arguments].concat()), code);
        assert!(message.contains(expected), "{expected}: {message}");
    };
    refused(&["--bind", "0.0.0.0:0"], 1, "--insecure");
    refused(&["--bind", "here"], 2, "--bind");
    refused(&["--tls-cert", "x.pem"], 2, "--tls-key");
    refused(&["--tls-cert", "no.pem", "--tls-key", "no.pem"], 1, "no.pem");
    refused(&["--gripper", "1:2"], 2, "COLUMN:THRESHOLD:ABOVE:BELOW");
    refused(&["--policy", "/no/such/policy"], 1, "/no/such/policy");
    refused(&["--policy", "a=x", "--policy", "y"], 1, "NAME=DIR");
    refused(&["--policy", "a=/no/such/policy"], 1, "/no/such/policy");
    refused(&["--protocol", "pi"], 2, "openpi");
    refused(&["--token", ""], 1, "--token: the token is empty");
    refused(&["--token-file", "no.tokens"], 1, "no.tokens");
    refused(&["--max-in-flight", "0"], 1, "--max-in-flight");
    refused(&["--lerobot", "0.0.0.0:0"], 1, "neither tokens nor TLS");
    refused(&["--lerobot", "127.0.0.1:0", "--token", "x"], 1, "--insecure");
    refused(&["--lerobot-fps", "10"], 2, "--lerobot");
    refused(&["--allow-host", "http://robot"], 1, "--allow-host");
    refused(&["--allow-origin", "robot.example"], 1, "SCHEME://HOST");
}

#[test]
fn policies_have_names_and_sighup_takes_what_their_directories_hold_now() {
    let device = "flex".parse::<DeviceName>().expect("a name").open().expect("the CPU");
    let folder = tempfile::tempdir().expect("a folder");
    let save = |name: &str, seed| {
        let policy = Policy::tiny(seed, &device).expect("tiny");
        policy.save(&folder.path().join(name), Format::Burnpack).expect("saved");
    };
    save("one", 1);
    save("two", 2);
    let directory = |name: &str| format!("{name}={}", folder.path().join(name).display());
    let (one, two) = (directory("one"), directory("two"));
    let server = serving(&["--policy", &one, "--policy", &two, "--normalized"]);
    let predict = |client: &mut Client| {
        let call = CallOptions { seed: Some(1), ..CallOptions::default() };
        client.predict(&sample(), &call).expect("a reply").chunk
    };
    let connect = |path: &str| {
        let options = ClientOptions { action_dim: Some(4), ..ClientOptions::default() };
        Client::connect(&format!("{}{path}", server.address), options).expect("a connection")
    };
    let (mut first, mut second) = (connect(""), connect("/policy/two"));
    let (old, other) = (predict(&mut first), predict(&mut second));
    assert_ne!(old, other);
    save("one", 2);
    assert_eq!(predict(&mut first), old, "files alone change nothing");
    let id = server.process.id().to_string();
    assert!(Command::new("kill").args(["-HUP", &id]).status().expect("kill runs").success());
    let start = Instant::now();
    while predict(&mut first) == old {
        assert!(start.elapsed() < Duration::from_secs(60), "SIGHUP changed nothing");
        sleep(Duration::from_millis(50));
    }
    assert_eq!(predict(&mut first), other, "on the same connection");
    assert_eq!(predict(&mut second), other);
    let (code, log) = server.terminate();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn openpi_is_served_at_the_root_and_a_silent_client_elsewhere_is_noted_once() {
    let server = serving(&["--protocol", "openpi", "--prompt", "Open the drawer", "--allow-host", "robot"]);
    let (mut socket, _) = tungstenite::connect(server.address.as_str()).expect("a connection");
    assert!(matches!(socket.read().expect("a message"), Message::Binary(_)), "metadata come first");
    // Eight numbers and a picture of one pixel, and no prompt.
    let image = b"\xa5image\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x03\x01\x02\x03\xc4\x05dtype\xa3|u1\xc4\x05shape\x93\x01\x01\x03";
    let request = [&b"\x82\xa5state\x98"[..], &[0; 8], image].concat();
    socket.send(Message::binary(request)).expect("sent");
    let reply = socket.read().expect("a message");
    assert!(matches!(reply, Message::Binary(_)), "a chunk was expected, got {reply:?}");
    let (code, log) = server.terminate();
    assert!(code == Some(0) && !log.contains("has sent nothing"), "{log}");

    let server = serving(&[]);
    let (silent, mut speaks) = (tungstenite::connect(server.address.as_str()), server.client(4));
    speaks.predict(&small(), &CallOptions::default()).expect("a reply");
    sleep(Duration::from_secs(7));
    drop(silent);
    let (_, log) = server.terminate();
    assert_eq!(log.matches("has sent nothing for 5 s").count(), 1, "{log}");
    assert!(log.contains("--protocol openpi"), "{log}");
}

/// Memory that hostile traffic may add to the server: its limit on messages, connections, and the allocator's slack.
const MEMORY_GROWTH: u64 = 300_000_000;

/// Hostile messages; `HOSTILE_MESSAGES=10000` is the whole programme, with a thousand idle connections and bodies of 200 MB.
const FEW: usize = 400;

#[test]
fn hostile_traffic_neither_ends_nor_misleads_the_server() {
    let messages: usize = std::env::var("HOSTILE_MESSAGES").ok().map_or(FEW, |n| n.parse().expect("a number"));
    let is_whole = messages > FEW;
    let idle = if is_whole { 1000 } else { 40 };
    rlimit::increase_nofile_limit(4096).expect("enough files");
    let server = serving(&["--transfer-timeout-s", "10", "--max-memory", "200000000"]);
    let (address, url) = (server.socket_address(), server.address.clone());
    let mut client = server.client(4);
    let call = CallOptions { seed: Some(1), ..CallOptions::default() };
    let expected = client.predict(&small(), &call).expect("a reply").chunk;
    let before = server.memory("VmRSS:");

    let ends = Arc::new(AtomicBool::new(false));
    let honest = {
        let ends = ends.clone();
        spawn(move || {
            let mut latencies = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let start = Instant::now();
                let reply = client.predict(&small(), &call).expect("honest requests are answered");
                assert_eq!(reply.chunk, expected, "and answered rightly");
                latencies.push(start.elapsed());
                sleep(Duration::from_millis(5));
            }
            latencies.sort();
            latencies
        })
    };
    let idlers: Vec<_> = (0..idle).map(|_| tungstenite::connect(url.as_str()).expect("room for the idle").0).collect();
    // Half-open sockets: nothing, half a request line, and half a handshake.
    let half: Vec<TcpStream> = (0..idle / 4)
        .map(|i| {
            let mut stream = TcpStream::connect(address).expect("a connection");
            let start = ["", "GE", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"][i % 3];
            stream.write_all(start.as_bytes()).expect("sent");
            stream
        })
        .collect();
    let (sent, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let attackers: Vec<_> = (0..4)
        .map(|attacker| {
            let sent = sent.clone();
            spawn(move || {
                let mut rng = rng::stream(attacker, "hostile traffic");
                while sent.fetch_add(1, Ordering::Relaxed) < messages {
                    attack(address, &mut rng);
                }
            })
        })
        .collect();
    if is_whole {
        (0..3).for_each(|_| oversized(address, 200_000_000));
    } else {
        oversized(address, 120_000_000);
    }
    while attackers.iter().any(|attacker| !attacker.is_finished()) {
        peak.fetch_max(server.memory("VmRSS:") as usize, Ordering::Relaxed);
        sleep(Duration::from_millis(20));
    }
    attackers.into_iter().for_each(|attacker| attacker.join().expect("attackers do not panic"));
    sleep(Duration::from_millis(500));
    ends.store(true, Ordering::Relaxed);
    let latencies = honest.join().expect("the honest client is served");
    drop((idlers, half));
    let after = server.memory("VmRSS:");
    let growth = (peak.load(Ordering::Relaxed) as u64).saturating_sub(before);
    println!(
        "{messages} hostile messages, {idle} idle connections: {} honest replies, all right, p50 {:?}, p99 {:?}, worst {:?}; \
         memory {} MB before, {} MB more at the peak, {} MB after",
        latencies.len(),
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
        latencies[latencies.len() - 1],
        before / 1_000_000,
        growth / 1_000_000,
        after / 1_000_000,
    );
    assert!(growth < MEMORY_GROWTH, "{growth} bytes more");
    let (code, log) = server.terminate();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_policy_without_statistics_is_served_only_where_that_is_said_and_info_describes_the_robot() {
    let policy = fixture("tiny-lerobot");
    let serve = ["serve", "--policy", policy.to_str().expect("text"), "--bind", "127.0.0.1:0", "--device", "flex"];
    let message = refusal(serve, &evo1(&serve), 1);
    assert!(message.contains("no statistics") && message.contains("--normalized"), "{message}");
    let server = Serving::start(command(&serve).arg("--normalized").stderr(Stdio::piped()));
    let mut stream = TcpStream::connect(server.socket_address()).expect("a connection");
    stream.write_all(b"GET /info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a reply");
    let info: serde_json::Value = serde_json::from_str(reply.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
    assert_eq!(info["cameras"]["names"], serde_json::json!(["observation.images.cam0", "observation.images.cam1"]));
    assert_eq!((&info["action_dim"], &info["n_action_steps"]), (&4.into(), &4.into()));
}

/// An observation of small frames, so that thousands of them take little time.
fn small() -> Observation {
    let frame = Frame::new(16, 16, (0..16 * 16 * 3).map(|i| (i * 7 % 251) as u8).collect()).expect("full");
    Observation { views: vec![View::Present(frame)], ..sample() }
}

/// One message that no honest client sends. What comes back does not matter, only that the connection ends or answers.
fn attack(address: SocketAddr, rng: &mut rng::ChaCha8Rng) {
    let kind = rng.random_range(0..12);
    if kind < 3 {
        return attack_socket(address, rng, kind);
    }
    let path = if kind < 6 { "/openpi" } else { "/?errors=json" };
    let Ok((mut socket, _)) = tungstenite::connect(format!("ws://{address}{path}")) else { return };
    if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    }
    if kind < 6 {
        let _ = socket.read();
    }
    let text = json::encode(&small(), &CallOptions::default(), &WireOptions::default());
    let message = match kind {
        3 => Message::binary((0..rng.random_range(0..2000)).map(|_| rng.random()).collect::<Vec<u8>>()),
        4 => Message::binary([&[0xdf, 0xff, 0xff, 0xff, 0xff][..], &[0xc0; 5000]].concat()),
        5 => Message::binary(vec![0x91; 100_000]),
        6 => Message::text("[".repeat(rng.random_range(1..500_000))),
        7 => Message::text(text[..rng.random_range(0..text.len())].to_owned()),
        8 => Message::text(text.replace("\"state\": [", "\"state\": [NaN, Infinity, 1e999, ")),
        9 => {
            let (field, value) = WRONG[rng.random_range(0..WRONG.len())];
            Message::text(text.replace(&format!("\"{field}\": "), &format!("\"{field}\": {value}, \"_\": ")))
        }
        _ => {
            let mut bytes = text.into_bytes();
            for _ in 0..rng.random_range(1..10) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            Message::binary(bytes)
        }
    };
    if socket.send(message).is_ok()
        && rng.random_range(0..4) > 0
        && let Ok(Message::Text(reply)) = socket.read()
        && path != "/openpi"
    {
        // A change may have left the message a right one.
        assert!(reply.starts_with('[') || read_reply(&reply).is_err(), "{reply}");
    }
}

/// Fields with values of a wrong type or size.
const WRONG: [(&str, &str); 10] = [
    ("image", "[[[0]]]"),
    ("image", "\"pixels\""),
    ("image", "[[], [], []]"),
    ("image", "[[[[1e9, 0, 0]]], [[[0, 0, 0]]], [[[0, 0, 0]]]]"),
    ("image_mask", "[1, 1, 1, 1, 1, 1]"),
    ("action_mask", "{\"a\": 1}"),
    ("state", "[[[[0]]]]"),
    ("state", "\"0\""),
    ("prompt", "[\"a\"]"),
    ("arm_key", "\"../../etc/passwd\""),
];

/// Bytes that are no websocket, or frames that are cut off or lie about their length.
fn attack_socket(address: SocketAddr, rng: &mut rng::ChaCha8Rng, kind: u32) {
    if kind == 0 {
        let Ok(mut stream) = TcpStream::connect(address) else { return };
        let garbage: Vec<u8> = (0..rng.random_range(1..4000)).map(|_| rng.random()).collect();
        let _ = stream.write_all(&garbage);
        return;
    }
    let Ok((mut socket, _)) = tungstenite::connect(format!("ws://{address}")) else { return };
    let MaybeTlsStream::Plain(stream) = socket.get_mut() else { return };
    let length: u64 = if kind == 1 { 90_000_000 } else { rng.random() };
    let mut frame = vec![if rng.random() { 0x81 } else { rng.random() }, 0xff];
    frame.extend(length.to_be_bytes());
    frame.extend((0..rng.random_range(0..3000)).map(|_| rng.random::<u8>()));
    let _ = stream.write_all(&frame);
}

/// A body that is larger than any message may be, sent to its end or until the server has had enough.
fn oversized(address: SocketAddr, size: u64) {
    let Ok((mut socket, _)) = tungstenite::connect(format!("ws://{address}")) else { return };
    let MaybeTlsStream::Plain(stream) = socket.get_mut() else { return };
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut head = vec![0x81, 0xff];
    head.extend(size.to_be_bytes());
    head.extend([0; 4]);
    let (chunk, mut left) = (vec![b' '; 1 << 20], size);
    let mut alive = stream.write_all(&head).is_ok();
    while alive && left > 0 {
        alive = stream.write_all(&chunk).is_ok();
        left = left.saturating_sub(chunk.len() as u64);
    }
}
