//! The server from outside: order, overload, deadlines, errors, limits and its end.

mod support;

use std::{
    io::Write,
    net::TcpStream,
    thread::sleep,
    time::{Duration, Instant},
};

use evo1_serve::{
    Error, ServerOptions, Tokens,
    client::{Client, ClientError, ClientOptions},
    protocol::Protocol,
};
use serde_json::Value;
use support::{HORIZON, Raw, Running, frame_bytes, http, message, named};
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};

fn first_value(reply: &str) -> f64 {
    let rows: Vec<Vec<f64>> = serde_json::from_str(reply).expect("a list of lists");
    assert_eq!((rows.len(), rows[0].len()), (HORIZON, 24));
    rows[0][0]
}

fn error_kind(reply: &str) -> String {
    let reply: Value = serde_json::from_str(reply).expect("an object");
    reply["error"]["kind"].as_str().expect("a kind").to_owned()
}

#[test]
fn replies_come_in_the_order_of_requests_and_binary_messages_are_read() {
    let server = Running::scripted(ServerOptions::default());
    let mut raw = server.raw("/any/path?x=1");
    for seed in 0..5 {
        raw.send(message("sleep 5", seed));
    }
    raw.0.send(Message::binary(message("go", 5).into_bytes())).expect("sent");
    for seed in 0..6 {
        assert_eq!(first_value(&raw.text()), f64::from(seed));
    }
}

#[test]
fn pings_are_answered_during_an_inference() {
    let server = Running::scripted(ServerOptions::default());
    let mut raw = server.raw("/");
    raw.send(message("sleep 1500", 1));
    let start = Instant::now();
    for _ in 0..3 {
        raw.0.send(Message::Ping(vec![1].into())).expect("sent");
        assert!(matches!(raw.read(), Message::Pong(_)));
    }
    assert!(start.elapsed() < Duration::from_secs(1), "pongs came after {:?}", start.elapsed());
    assert_eq!(first_value(&raw.text()), 1.0);
}

#[test]
fn one_request_too_many_is_refused_at_once() {
    let server = Running::scripted(ServerOptions { queue: 1, ..ServerOptions::default() });
    let (mut busy, mut waiting, mut refused) = (server.raw("/"), server.raw("/"), server.raw("/?errors=json"));
    busy.send(message("sleep 800", 1));
    sleep(Duration::from_millis(200));
    waiting.send(message("go", 2));
    sleep(Duration::from_millis(100));
    let start = Instant::now();
    refused.send(message("go", 3));
    assert_eq!(error_kind(&refused.text()), "overloaded");
    assert!(start.elapsed() < Duration::from_millis(300), "{:?}", start.elapsed());
    let mut closed = server.raw("/");
    closed.send(message("go", 4));
    let (code, reason) = closed.closed();
    assert!(code == 1011 && reason.starts_with("overloaded"), "{code}: {reason}");
    assert_eq!(first_value(&busy.text()), 1.0);
    assert_eq!(first_value(&waiting.text()), 2.0);
    refused.send(message("go", 5));
    assert_eq!(first_value(&refused.text()), 5.0);
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let server = Running::scripted(ServerOptions { queue: 1, ..ServerOptions::default() });
    let (mut busy, mut leaving) = (server.raw("/"), server.raw("/"));
    busy.send(message("sleep 800", 1));
    sleep(Duration::from_millis(200));
    leaving.send(message("go", 2));
    sleep(Duration::from_millis(100));
    drop(leaving);
    sleep(Duration::from_millis(100));
    let mut next = server.raw("/");
    next.send(message("go", 3));
    assert_eq!(first_value(&next.text()), 3.0);
    assert_eq!(first_value(&busy.text()), 1.0);
}

#[test]
fn the_newest_request_wins_where_that_is_asked_for() {
    let server = Running::scripted(ServerOptions::default());
    let mut raw = server.raw("/?queue=latest");
    raw.send(message("sleep 500", 1));
    sleep(Duration::from_millis(150));
    raw.send(named("go", 2));
    raw.send(message("go", 3));
    raw.send(message("go", 4));
    assert_eq!(first_value(&raw.text()), 1.0);
    assert_eq!(error_kind(&raw.text()), "superseded");
    assert_eq!(first_value(&raw.text()), 4.0, "3 asked for no error object and gets nothing");
    let (status, _) = server.get("/?queue=latest");
    assert_eq!(status, 200);
    assert!(tungstenite::connect(server.url("/?queue=newest")).is_err(), "an unknown value is refused");
}

#[test]
fn deadlines_are_kept_while_waiting_and_while_computing() {
    let server = Running::scripted(ServerOptions::default());
    let mut raw = server.raw("/?errors=json");
    let with_deadline = |text: String| text.replacen('{', "{\"deadline_ms\": 150, ", 1);
    let start = Instant::now();
    raw.send(with_deadline(message("sleep 1000", 1)));
    raw.send(with_deadline(message("go", 2)));
    assert_eq!(error_kind(&raw.text()), "deadline_exceeded");
    assert_eq!(error_kind(&raw.text()), "deadline_exceeded");
    assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
    raw.send(message("go", 3));
    assert_eq!(first_value(&raw.text()), 3.0);
}

#[test]
fn errors_close_the_connection_unless_objects_are_asked_for() {
    let server = Running::scripted(ServerOptions::default());
    for (text, expected) in [
        ("{".to_owned(), "not valid JSON"),
        (message("go", 1).replace("\"state\"", "\"stat\""), "`state` is missing"),
        (message("refuse", 1), "refused"),
        ("[]".to_owned(), "not valid JSON"),
    ] {
        let mut raw = server.raw("/");
        raw.send(text);
        let (code, reason) = raw.closed();
        assert!(code == 1008 && reason.contains(expected), "{expected}: {code} {reason}");
    }
    let mut raw = server.raw("/");
    raw.send(named("refuse", 7));
    let reply: Value = serde_json::from_str(&raw.text()).expect("an object");
    assert_eq!((&reply["request_id"], &reply["error"]["kind"]), (&7.into(), &"invalid_request".into()));
    raw.send(message("go", 8));
    assert_eq!(first_value(&raw.text()), 8.0, "the connection goes on");
    let mut client = server.client();
    let refused = client.exchange(&message("refuse", 1)).expect("an object");
    assert!(matches!(evo1_serve::client::read_reply(&refused), Err(ClientError::Refused { .. })));
}

#[test]
fn what_is_not_finite_is_never_sent() {
    let server = Running::scripted(ServerOptions::default());
    let mut raw = server.raw("/");
    raw.send(message("nan", 1));
    let (code, reason) = raw.closed();
    assert!(code == 1011 && reason.contains("not finite"), "{code}: {reason}");
    let mut raw = server.raw("/");
    raw.send(message("go", 1).replacen("0.0", "NaN", 1));
    assert_eq!(raw.closed().0, 1008);
}

#[test]
fn too_large_a_message_is_refused_before_it_is_read() {
    let server = Running::scripted(ServerOptions { max_message: 10_000, ..ServerOptions::default() });
    let mut raw = server.raw("/");
    // The server closes while this is being sent, which may end the sending.
    let _ = raw.0.send(Message::text("x".repeat(2_000_000)));
    let (code, reason) = raw.closed();
    assert!(code == 1008 && reason.contains("2000000"), "{code}: {reason}");
    // In fragments, each below the limit.
    let mut raw = server.raw("/");
    let fragment = |first: bool| {
        use tungstenite::protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        };
        let kind = if first { Data::Text } else { Data::Continue };
        Message::Frame(Frame::message(vec![b' '; 6_000], OpCode::Data(kind), false))
    };
    raw.0.send(fragment(true)).expect("sent");
    raw.0.send(fragment(false)).expect("sent");
    assert_eq!(raw.closed().0, 1008);
}

#[test]
fn messages_of_all_clients_share_a_limit() {
    let options = ServerOptions { max_memory: 300_000, ..ServerOptions::default() };
    let server = Running::scripted(options);
    let mut hog = server.raw("/");
    let head = [0x81, 0xff, 0, 0, 0, 0, 0, 0x04, 0, 0, 1, 2, 3, 4];
    let stream = match hog.0.get_mut() {
        tungstenite::stream::MaybeTlsStream::Plain(stream) => stream,
        _ => panic!("no TLS here"),
    };
    stream.write_all(&head).and_then(|()| stream.write_all(&[0; 200_000])).expect("sent");
    sleep(Duration::from_millis(300));
    let mut raw = server.raw("/");
    let _ = raw.0.send(Message::text(" ".repeat(200_000)));
    let (code, reason) = raw.closed();
    assert!(code == 1011 && reason.starts_with("overloaded"), "{code}: {reason}");
    let mut small = server.raw("/");
    small.send(message("go", 3));
    assert_eq!(first_value(&small.text()), 3.0);
    drop(hog);
    sleep(Duration::from_millis(300));
    let (_, metrics) = server.get("/metrics");
    assert!(metrics.contains("evo1_request_memory_bytes 0"), "{metrics}");
}

#[test]
fn a_message_that_drips_is_cut_off() {
    let server = Running::scripted(ServerOptions { transfer_timeout: Duration::from_secs(1), ..Default::default() });
    let mut raw = server.raw("/");
    if let tungstenite::stream::MaybeTlsStream::Plain(stream) = raw.0.get_mut() {
        stream.write_all(&[0x81, 0xfe, 0x10, 0, 1, 2, 3, 4, b'{']).expect("sent");
    }
    let (code, reason) = raw.closed();
    assert!(code == 1008 && reason.contains("within 1 s"), "{code}: {reason}");
    let mut idle = server.raw("/");
    sleep(Duration::from_millis(1800));
    idle.send(message("go", 1));
    assert_eq!(first_value(&idle.text()), 1.0, "a connection may be idle");
}

#[test]
fn pings_give_an_unfinished_message_neither_time_nor_memory() {
    let server = Running::scripted(ServerOptions { transfer_timeout: Duration::from_secs(1), ..Default::default() });
    let (mut raw, start) = (server.raw("/"), Instant::now());
    raw.send_bytes(&frame_bytes(0x01, &[b' '; 30_000]));
    raw.0.send(Message::Ping(vec![1].into())).expect("sent");
    assert!(matches!(raw.read(), Message::Pong(_)));
    let (_, metrics) = server.get("/metrics");
    assert!(metrics.contains("evo1_request_memory_bytes 30008"), "{metrics}");
    let (code, reason) = loop {
        let ping = raw.0.send(Message::Ping(vec![1].into()));
        match raw.0.read() {
            Ok(Message::Pong(_)) if start.elapsed() < Duration::from_secs(5) => sleep(Duration::from_millis(100)),
            Ok(Message::Close(Some(frame))) => break (u16::from(frame.code), frame.reason.to_string()),
            other => panic!("a close frame was expected, got {other:?} after {ping:?}"),
        }
    };
    assert!(code == 1008 && reason.contains("within 1 s"), "{code}: {reason}");
}

#[test]
fn a_connection_has_so_many_requests_under_way_and_others_their_turn() {
    let server = Running::scripted(ServerOptions { queue: 4, max_in_flight: 3, ..Default::default() });
    let (mut greedy, mut other) = (server.raw("/"), server.raw("/"));
    for seed in 0..10 {
        greedy.send(message("sleep 200", seed));
    }
    sleep(Duration::from_millis(60));
    for seed in 0..4 {
        let start = Instant::now();
        other.send(message("go", seed));
        assert_eq!(first_value(&other.text()), seed as f64);
        assert!(start.elapsed() < Duration::from_millis(390), "behind one request, not three: {:?}", start.elapsed());
    }
    for seed in 0..10 {
        assert_eq!(first_value(&greedy.text()), f64::from(seed), "what is not read at once is not lost");
    }
}

#[test]
fn a_client_whose_socket_is_not_read_is_not_called_slow() {
    let limits = ServerOptions { max_in_flight: 1, transfer_timeout: Duration::from_secs(1), ..Default::default() };
    let server = Running::scripted(limits);
    let mut raw = server.raw("/");
    let next = frame_bytes(0x81, message("go", 2).as_bytes());
    let (begin, rest) = next.split_at(100);
    raw.send_bytes(&[&frame_bytes(0x81, message("sleep 2500", 1).as_bytes()), begin].concat());
    assert_eq!(first_value(&raw.text()), 1.0);
    raw.send_bytes(rest);
    assert_eq!(first_value(&raw.text()), 2.0);
}

#[test]
fn a_page_that_gives_the_server_a_name_is_refused_and_one_that_is_allowed_is_not() {
    let options = ServerOptions {
        allow_hosts: vec!["robot.local".into()],
        allow_origins: vec!["https://panel.example".into(), "null".into()],
        ..Default::default()
    };
    let server = Running::scripted(options);
    let port = server.address.port();
    let get = |path: &str, host: &str| {
        http(server.address, &format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"))
    };
    for path in ["/", "/info", "/metrics", "/last", "/last/view/0"] {
        let (status, body) = get(path, "evil.example");
        assert!(status == 403 && body.contains("`evil.example:") && body.contains("--allow-host"), "{path}: {body}");
        assert_ne!(get(path, "robot.local").0, 403, "{path}");
    }
    let upgrade = |host: String, origin: &str| {
        let mut request = server.url("/").into_client_request().expect("a URL");
        request.headers_mut().insert("Host", host.parse().expect("a header"));
        request.headers_mut().insert("Origin", origin.parse().expect("a header"));
        tungstenite::connect(request).is_ok()
    };
    let evil = format!("evil.example:{port}");
    assert!(!upgrade(evil.clone(), &format!("http://{evil}")), "its own name for the server");
    let own = server.address.to_string();
    for (origin, expected) in
        [("http://evil.example", false), ("https://panel.example", true), ("null", true), ("file://", false)]
    {
        assert_eq!(upgrade(own.clone(), origin), expected, "{origin}");
    }
    let local = format!("localhost:{port}");
    assert!(upgrade(local.clone(), &format!("http://{local}")));
}

#[test]
fn openpi_is_spoken_at_the_root_where_that_is_asked_for() {
    let server = Running::scripted(ServerOptions { protocol: Protocol::OpenPi, ..Default::default() });
    for path in ["/", "/any/path", "/openpi", "/openpi:9000"] {
        assert!(matches!(server.raw(path).read(), Message::Binary(_)), "metadata come first at {path}");
    }
    let mut json = server.raw("/evo1");
    json.send(message("go", 3));
    assert_eq!(first_value(&json.text()), 3.0);
    assert_eq!(server.get("/").0, 200, "the page is where it was");
    let server = Running::scripted(ServerOptions::default());
    assert!(matches!(server.raw("/openpi:9000").read(), Message::Binary(_)), "a URL and a port, joined");
}

#[test]
fn a_panic_of_the_model_ends_the_server_with_an_error() {
    let server = Running::scripted(ServerOptions::default());
    assert_eq!(server.get("/readyz"), (200, "ready\n".into()));
    let (mut raw, mut other) = (server.raw("/"), server.raw("/"));
    raw.send(message("panic", 1));
    let (code, reason) = raw.closed();
    assert!(code == 1011 && reason.contains("stopped"), "{code}: {reason}");
    assert_eq!(other.closed().0, 1001);
    assert!(matches!(server.end(), Err(Error::WorkerStopped)));
}

#[test]
fn a_prediction_that_takes_far_too_long_makes_the_server_unready_for_as_long() {
    let server = Running::scripted(ServerOptions::default());
    let (mut raw, start) = (server.raw("/"), Instant::now());
    for text in
        [message("sleep 5", 0), message("sleep 5", 1), message("sleep 1300", 2).replacen('{', "{\"steps\": 900, ", 1)]
    {
        raw.send(text);
        raw.text();
    }
    assert!(start.elapsed() > Duration::from_millis(1300));
    assert!(server.get("/metrics").1.contains("evo1_stalls_total 0"), "it was asked for 900 times the steps");
    raw.send(message("sleep 3000", 2));
    sleep(Duration::from_millis(300));
    assert_eq!(server.get("/readyz").0, 200, "a short delay is none");
    sleep(Duration::from_millis(1500));
    let (status, text) = server.get("/readyz");
    assert!(status == 503 && text.contains("has been running for"), "{status}: {text}");
    assert_eq!(server.get("/healthz").0, 200);
    assert!(server.get("/metrics").1.contains("evo1_prediction_stalled 1"));
    raw.text();
    assert_eq!(server.get("/readyz"), (200, "ready\n".into()));
    let (_, metrics) = server.get("/metrics");
    for line in ["evo1_prediction_stalled 0", "evo1_stalls_total 1", "evo1_prediction_seconds 0"] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[test]
fn stopping_answers_what_is_under_way() {
    let server = Running::scripted(ServerOptions::default());
    let (mut busy, mut idle) = (server.raw("/"), server.raw("/"));
    busy.send(message("sleep 600", 1));
    sleep(Duration::from_millis(200));
    server.stop();
    assert_eq!(idle.closed().0, 1001);
    busy.send(named("go", 2));
    assert_eq!(first_value(&busy.text()), 1.0);
    assert_eq!(error_kind(&busy.text()), "shutting_down");
    assert!(TcpStream::connect(server.address).is_err(), "no more connections");
    drop(busy);
    server.end().expect("a clean end");
}

#[test]
fn simultaneous_requests_are_computed_together() {
    let options = ServerOptions { max_batch: 4, batch_wait: Duration::from_millis(100), ..Default::default() };
    let server = Running::scripted(options);
    let mut clients: Vec<Raw> = (0..4).map(|_| server.raw("/?reply=object")).collect();
    for (seed, raw) in clients.iter_mut().enumerate() {
        raw.send(named("go", seed as u64));
    }
    for (seed, raw) in clients.iter_mut().enumerate() {
        let reply: Value = serde_json::from_str(&raw.text()).expect("an object");
        assert_eq!((&reply["batch"], &reply["request_id"]), (&4.into(), &seed.into()));
        assert_eq!(reply["actions"][0][0].as_f64(), Some(seed as f64));
    }
}

#[test]
fn a_token_is_demanded_of_everybody() {
    let mut tokens = Tokens::default();
    tokens.add("robot", "secret").expect("a token");
    let server = Running::scripted(ServerOptions { tokens, ..Default::default() });
    assert!(tungstenite::connect(server.url("/")).is_err());
    assert!(tungstenite::connect(server.url("/?token=wrong")).is_err());
    for header in ["Bearer secret", "Api-Key secret"] {
        let mut request = server.url("/").into_client_request().expect("a URL");
        request.headers_mut().insert("Authorization", header.parse().expect("a header"));
        tungstenite::connect(request).expect("the token is right");
    }
    let options = ClientOptions { token: Some("secret".into()), action_dim: Some(24), ..Default::default() };
    Client::connect(&server.url(""), options).expect("the token is right").close();
    let statuses = ["/healthz", "/readyz", "/", "/metrics", "/info", "/last", "/last/view/0", "/info?token=secret"];
    let got: Vec<u16> = statuses.iter().map(|path| server.get(path).0).collect();
    assert_eq!(got, [200, 200, 200, 401, 401, 401, 401, 200]);
}

#[test]
fn holders_of_tokens_are_told_apart_in_the_metrics() {
    let mut tokens = Tokens::default();
    tokens.add("arm-1", "s3cret-1").and_then(|()| tokens.add("arm-2", "s3cret-2")).expect("two tokens");
    let server = Running::scripted(ServerOptions { tokens, ..Default::default() });
    let mut first = server.raw("/?token=s3cret-1");
    let mut second = [server.raw("/?token=s3cret-2"), server.raw("/?token=s3cret-2")];
    for raw in std::iter::once(&mut first).chain(&mut second) {
        raw.send(message("go", 1));
        raw.text();
    }
    drop(first);
    sleep(Duration::from_millis(200));
    let (_, metrics) = server.get("/metrics?token=s3cret-1");
    for line in [
        "evo1_token_connections{token=\"arm-1\"} 0",
        "evo1_token_connections{token=\"arm-2\"} 2",
        "evo1_token_requests_total{token=\"arm-1\"} 1",
        "evo1_token_requests_total{token=\"arm-2\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(!metrics.contains("s3cret"), "secrets are not shown");
}

#[test]
fn tls_is_spoken_with_those_who_trust_the_certificate() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let certificate = here.join("localhost.cert.pem");
    let tls = Some((certificate.clone(), here.join("localhost.key.pem")));
    let server = Running::scripted(ServerOptions { tls, ..Default::default() });
    let url = format!("wss://localhost:{}", server.address.port());
    let options = ClientOptions { certificate: Some(certificate), action_dim: Some(24), ..Default::default() };
    let mut client = Client::connect(&url, options).expect("the certificate is trusted");
    assert!(client.exchange(&message("go", 3)).expect("a reply").contains("\"actions\":[[3.0"));
    assert!(Client::connect(&url, ClientOptions::default()).is_err(), "the system does not trust it");
}

#[test]
fn a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let folder = std::env::temp_dir().join(format!("evo1-renewal-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (chain, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let put = |name: &str| {
        std::fs::copy(here.join(format!("{name}.key.pem")), &key).expect("copied");
        std::fs::copy(here.join(format!("{name}.cert.pem")), &chain).expect("copied");
    };
    put("localhost");
    let tls = Some((chain.clone(), key.clone()));
    let server = Running::scripted(ServerOptions { tls, tls_renewal: Duration::from_millis(50), ..Default::default() });
    let url = format!("wss://localhost:{}", server.address.port());
    let connect = |name: &str| {
        let certificate = Some(here.join(format!("{name}.cert.pem")));
        Client::connect(&url, ClientOptions { certificate, action_dim: Some(24), ..Default::default() })
    };
    let mut before = connect("localhost").expect("the first certificate");
    put("renewed");
    sleep(Duration::from_millis(500));
    assert!(connect("localhost").is_err());
    connect("renewed").expect("the second certificate");
    std::fs::write(&chain, "no certificate").expect("written");
    sleep(Duration::from_millis(500));
    connect("renewed").expect("what was there before");
    assert!(before.exchange(&message("go", 3)).is_ok(), "a connection stays as it is");
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn http_tells_what_the_server_is_and_does() {
    let server = Running::scripted(ServerOptions::default());
    assert_eq!(server.get("/healthz"), (200, "OK\n".into()));
    assert_eq!(server.get("/last"), (200, "null".into()));
    assert_eq!(server.get("/nothing").0, 404);
    assert_eq!(server.get("/openpi").0, 426);
    assert_eq!(server.get("/last/view/0").0, 404);
    let (_, info) = server.get("/info");
    assert!(info.contains("\"scripted\"") && info.contains("\"swaps_channels\":true"), "{info}");
    let mut raw = server.raw("/");
    raw.send(message("look", 2));
    raw.text();
    let mut page = server.raw("/?client=page");
    page.send(message("page", 2));
    page.text();
    let last: Value = serde_json::from_str(&server.get("/last").1).expect("JSON");
    assert_eq!(last["prompt"], "look", "the page is no robot");
    assert_eq!(last["views"][0]["width"], 8);
    server.wait_for_metric("evo1_requests_total{protocol=\"json\"} 2");
    server.wait_for_metric("evo1_stage_seconds_count{stage=\"total\"} 2");
    let recent: Value = serde_json::from_str(&server.get("/recent").1).expect("JSON");
    assert_eq!(recent["chunks"].as_array().map(Vec::len), Some(1), "{recent}");
    assert_eq!(recent["chunks"][0]["actions"].as_array().map(Vec::len), Some(HORIZON));
    assert!(recent["latency"]["p99"].as_f64().is_some_and(|time| time > 0.0), "{recent}");
    assert_eq!(server.get("/recent?after=1").1.matches("actions").count(), 0, "each chunk is told once");
    let mut refused = server.raw("/?errors=json");
    refused.send(message("refuse", 1));
    refused.text();
    let recent: Value = serde_json::from_str(&server.get("/recent").1).expect("JSON");
    assert_eq!(recent["errors"], serde_json::json!({ "invalid_request": 1 }));
    let host = server.address;
    let post = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert_eq!(http(host, &post).0, 405);
    let mut foreign = server.url("/").into_client_request().expect("a URL");
    foreign.headers_mut().insert("Origin", "http://evil.example".parse().expect("a header"));
    assert!(tungstenite::connect(foreign).is_err(), "pages of other sites are refused");
}

#[test]
fn the_page_loads_nothing_from_elsewhere() {
    let server = Running::scripted(ServerOptions::default());
    let (status, page) = server.get("/");
    assert_eq!(status, 200);
    assert!(page.contains("<title>evo1"));
    let foreign: Vec<&str> = page.match_indices("http").map(|(at, _)| &page[at..(at + 30).min(page.len())]).collect();
    let allowed = ["http://www.w3.org/2000/svg", "https:'"];
    assert!(foreign.iter().all(|text| allowed.iter().any(|start| text.starts_with(start))), "{foreign:?}");
}

#[test]
fn the_access_log_has_a_line_for_each_request_and_no_secrets() {
    let path = std::env::temp_dir().join(format!("evo1-access-{}.jsonl", std::process::id()));
    let mut tokens = Tokens::default();
    tokens.add("arm-1", "s3cret").expect("a token");
    let server =
        Running::scripted(ServerOptions { tokens, access_log: Some(path.clone()), ..ServerOptions::default() });
    let mut raw = server.raw("/?token=s3cret&errors=json");
    raw.send(message("sleep 30", 1));
    raw.text();
    raw.send(message("refuse", 1));
    raw.text();
    assert_eq!(server.get("/metrics").0, 401);
    drop(server);
    let text = std::fs::read_to_string(&path).expect("a log");
    std::fs::remove_file(path).expect("removed");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |protocol: &str| lines.iter().filter(|line| line["protocol"] == protocol).cloned().collect::<Vec<Value>>();
    let [answered, refused] = &of("json")[..] else { panic!("{text}") };
    assert_eq!(
        (&answered["result"], &answered["token"], &answered["policy"]),
        (&"ok".into(), &"arm-1".into(), &"scripted".into())
    );
    assert!(answered["total_ms"].as_f64().is_some_and(|time| (30.0..5000.0).contains(&time)), "{answered}");
    assert!(answered["bytes"].as_u64().is_some_and(|bytes| bytes > 100) && answered["time"].as_f64() > Some(1.7e9));
    assert!(answered["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")));
    assert_eq!(refused["result"], "invalid_request");
    let pages: Vec<_> = of("http").iter().map(|line| (line["path"].clone(), line["status"].clone())).collect();
    assert_eq!(pages, [("/".into(), 101.into()), ("/metrics".into(), 401.into())]);
    assert!(!text.contains("s3cret"), "{text}");
}
