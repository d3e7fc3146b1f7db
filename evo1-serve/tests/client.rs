//! The client where the network, the server or the clock is against it.

mod support;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, Instant},
};

use evo1::{ActionChunk, Frame, Observation, View, config::Cameras, test_support::frame};
use evo1_serve::{
    Answer, Description, Model, Request, RequestError, RequestId, ServerOptions, Tokens,
    client::{CallOptions, Client, ClientError, ClientOptions, ConnectionEvent, Listener, Reconnect},
    protocol::{Protocol, Shape},
};
use serde_json::{Value, json};
use support::{HORIZON, Running, Scripted, message};
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

const SHORT: Duration = Duration::from_millis(300);

fn options() -> ClientOptions {
    ClientOptions { action_dim: Some(24), ..ClientOptions::default() }
}

fn observation(instruction: &str) -> Observation {
    Observation {
        views: vec![View::Present(frame(1, 8, 8))],
        state: vec![0.0; 8],
        instruction: instruction.into(),
        ..Observation::default()
    }
}

fn seeded(seed: u64) -> CallOptions {
    CallOptions { seed: Some(seed), ..CallOptions::default() }
}

/// A server that does with each of its connections what the test says.
fn scripted(connections: Vec<Box<dyn FnOnce(TcpStream) + Send>>) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("an address"));
    let thread = spawn(move || {
        for connection in connections {
            connection(listener.accept().expect("a client").0);
        }
    });
    (url, thread)
}

fn accepted(stream: TcpStream) -> WebSocket<TcpStream> {
    tungstenite::accept(stream).expect("a handshake")
}

/// The request that a client has sent.
fn request(socket: &mut WebSocket<TcpStream>) -> Value {
    serde_json::from_str(socket.read().expect("a message").to_text().expect("text")).expect("JSON")
}

fn reply(id: &Value, value: f32) -> Message {
    Message::text(json!({"request_id": id, "actions": [[value]], "batch": 1, "milliseconds": {}}).to_string())
}

/// Answers one request rightly.
fn honest(stream: TcpStream) {
    let mut socket = accepted(stream);
    let request = request(&mut socket);
    socket.send(reply(&request["request_id"], request["seed"].as_f64().expect("a seed") as f32)).expect("sent");
}

#[test]
fn after_a_timeout_no_late_reply_is_taken_for_a_new_one() {
    let server = Running::scripted(ServerOptions::default());
    let options = ClientOptions { read_timeout: SHORT, ..options() };
    let mut client = Client::connect(&server.url(""), options).expect("a connection");
    let late = client.predict(&observation("sleep 800"), &seeded(1)).expect_err("too late");
    assert!(matches!(late, ClientError::Timeout { what: "no reply", .. }), "{late}");
    let mut answered = 0;
    for seed in 2..12 {
        match client.predict(&observation("go"), &seeded(seed)) {
            Ok(reply) => {
                assert_eq!(reply.chunk.values()[0], seed as f32, "the reply to another request");
                answered += 1;
            }
            Err(error) => assert!(matches!(error, ClientError::Timeout { .. }), "{error}"),
        }
    }
    assert!(answered >= 5, "{answered}");
}

#[test]
fn requests_have_ids_of_their_own_and_replies_of_others_are_passed_over() {
    let (url, server) = scripted(vec![Box::new(|stream| {
        let (mut socket, mut ids) = (accepted(stream), Vec::new());
        for number in 0..3_u8 {
            let id = request(&mut socket)["request_id"].clone();
            for (other, value) in [(json!("stale"), 100.0), (json!(999), 100.0), (id.clone(), number.into())] {
                socket.send(reply(&other, value)).expect("sent");
            }
            assert!(!ids.contains(&id), "{id} again");
            ids.push(id);
        }
        // The authors' server names no request.
        request(&mut socket);
        socket.send(Message::text("[[7.0]]")).expect("sent");
    })]);
    let mut client = Client::connect(&url, options()).expect("a connection");
    let mut first = |call: &CallOptions| client.predict(&observation("go"), call).expect("a reply").chunk.values()[0];
    assert_eq!((first(&seeded(1)), first(&seeded(2))), (0.0, 1.0));
    let named = CallOptions { request_id: Some(RequestId::Text("mine".into())), ..seeded(3) };
    assert_eq!((first(&named), first(&seeded(4))), (2.0, 7.0));
    server.join().expect("the server is content");
}

#[test]
fn a_connection_that_has_ended_is_made_anew_with_pauses_and_told_of() {
    let (url, server) =
        scripted(vec![Box::new(honest), Box::new(drop), Box::new(drop), Box::new(honest), Box::new(honest)]);
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = events.clone();
    let listener = Listener::new(move |event| {
        let event = match event {
            ConnectionEvent::Lost(_) => "lost".to_owned(),
            ConnectionEvent::Failed { tries, .. } => format!("failed {tries}"),
            ConnectionEvent::Restored { tries } => format!("restored {tries}"),
            _ => "unknown".to_owned(),
        };
        told.lock().expect("whole").push(event);
    });
    let reconnect = Reconnect { tries: 3, pause: Duration::from_millis(40), longest_pause: Duration::from_millis(60) };
    let options = ClientOptions { listener: Some(listener), reconnect, ..options() };
    let mut client = Client::connect(&url, options.clone()).expect("a connection");
    let mut predict = |seed| client.predict(&observation("go"), &seeded(seed));
    assert_eq!(predict(1).expect("a reply").chunk.values(), [1.0]);
    assert!(matches!(predict(2), Err(ClientError::Connection { .. })), "the server has left");
    let start = Instant::now();
    assert_eq!(predict(3).expect("the third try").chunk.values(), [3.0]);
    assert!(start.elapsed() >= Duration::from_millis(100), "pauses of 40 and 60 ms: {:?}", start.elapsed());
    assert_eq!(*events.lock().expect("whole"), ["lost", "failed 1", "failed 2", "restored 3"]);

    let stays = ClientOptions { reconnect: Reconnect { tries: 0, ..reconnect }, listener: None, ..options };
    let mut client = Client::connect(&url, stays).expect("a connection");
    client.predict(&observation("go"), &seeded(1)).expect("a reply");
    server.join().expect("the server is content");
    for _ in 0..2 {
        assert!(client.predict(&observation("go"), &seeded(2)).is_err());
    }
}

#[test]
fn why_a_connection_is_refused_is_said() {
    let mut tokens = Tokens::default();
    tokens.add("robot", "secret").expect("a token");
    let server = Running::scripted(ServerOptions { tokens, ..Default::default() });
    let error = Client::connect(&server.url(""), options()).err().expect("no token").to_string();
    assert!(error.contains("401") && error.contains("a token is needed"), "{error}");
}

#[test]
fn a_refusal_leaves_the_connection_as_it_is() {
    let server = Running::scripted(ServerOptions::default());
    let stays = Reconnect { tries: 0, ..Reconnect::default() };
    let mut client =
        Client::connect(&server.url(""), ClientOptions { reconnect: stays, ..options() }).expect("a connection");
    let error = client.predict(&observation("refuse"), &seeded(1)).expect_err("refused");
    assert!(matches!(error, ClientError::Refused { .. }), "{error}");
    assert_eq!(client.predict(&observation("go"), &seeded(2)).expect("a reply").chunk.values()[0], 2.0);
}

#[test]
fn nothing_is_waited_for_longer_than_it_may_take() {
    let within = |what: &str, error: ClientError, start: Instant| {
        assert!(
            matches!(error, ClientError::Timeout { what: got, limit: SHORT, .. } if got == what),
            "{what}: {error}"
        );
        assert!(start.elapsed() < 4 * SHORT, "{what}: {:?}", start.elapsed());
    };
    /// Sends a byte at a time, for as long as somebody listens.
    fn drip(mut stream: impl Write) {
        while stream.write_all(b"H").is_ok() {
            sleep(Duration::from_millis(30));
        }
    }
    let short = ClientOptions { connect_timeout: SHORT, write_timeout: SHORT, read_timeout: SHORT, ..options() };

    let silent = |mut stream: TcpStream| drop(stream.read_to_end(&mut Vec::new()));
    let slow = |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nX: ").expect("sent");
        drip(stream);
    };
    let (url, server) = scripted(vec![Box::new(silent), Box::new(slow)]);
    for _ in 0..2 {
        let start = Instant::now();
        within("no connection", Client::connect(&url, short.clone()).err().expect("no handshake"), start);
    }
    server.join().expect("the server is content");

    let (url, server) = scripted(vec![
        Box::new(|stream| {
            let mut socket = accepted(stream);
            request(&mut socket);
            let stream = socket.get_mut();
            stream.write_all(&[0x81, 0x7e, 0x40, 0x00]).expect("sent");
            drip(stream);
        }),
        Box::new(|stream| {
            let socket = accepted(stream);
            sleep(3 * SHORT);
            drop(socket);
        }),
    ]);
    let mut client = Client::connect(&url, short.clone()).expect("a connection");
    let start = Instant::now();
    within("no reply", client.predict(&observation("go"), &seeded(1)).expect_err("a drip"), start);
    let mut client = Client::connect(&url, short).expect("a connection");
    let start = Instant::now();
    let large = " ".repeat(64_000_000);
    within("the message was not sent", client.exchange(&large).expect_err("nobody reads"), start);
    server.join().expect("the server is content");
}

#[test]
fn a_path_of_another_protocol_is_told() {
    let server = Running::scripted(ServerOptions { protocol: Protocol::OpenPi, ..Default::default() });
    let mut client = server.client();
    let error = client.exchange(&message("go", 1)).expect_err("openpi's").to_string();
    assert!(error.contains("/evo1"), "{error}");
    let mut client = Client::connect(&server.url("/evo1"), options()).expect("a connection");
    assert_eq!(client.predict(&observation("go"), &seeded(4)).expect("a reply").chunk.values()[0], 4.0);
}

#[test]
fn what_the_server_says_when_a_client_connects_is_how_it_speaks() {
    let cameras = Cameras::named(["observation.images.front", "observation.images.wrist"]);
    let described = move |swaps_channels| {
        let model = Described { cameras: cameras.clone() };
        Running::with(model, ServerOptions { swaps_channels, ..ServerOptions::default() })
    };
    for swaps_channels in [true, false] {
        let server = described(swaps_channels);
        let mut client = Client::connect(&server.url(""), ClientOptions::default()).expect("a connection");
        let info = client.info().expect("this server's own").clone();
        assert_eq!((info.horizon, info.action_dim, info.swaps_channels), (HORIZON, Some(7), swaps_channels));
        let red = Frame::new(1, 1, vec![255, 0, 0]).expect("a frame");
        let given = vec![("wrist".to_owned(), red.clone()), ("front".to_owned(), Frame::black(1, 1))];
        let views = info.cameras.arrange(given).expect("both cameras");
        let views = views.into_iter().map(|frame| frame.map_or(View::Absent, View::Present)).collect();
        let observation = Observation { views, ..observation("what is seen") };
        let chunk = client.predict(&observation, &CallOptions::default()).expect("a reply").chunk;
        assert_eq!(chunk.values()[..3], [255.0, 0.0, 0.0], "the second view, as RGB");
        assert_eq!(chunk.values()[3], 7.0, "columns that are the robot's");
    }
    // The authors' server says nothing.
    let (url, server) = scripted(vec![Box::new(honest)]);
    let mut client = Client::connect(&url, options()).expect("a connection");
    assert!(client.info().is_none());
    client.predict(&observation("go"), &seeded(3)).expect("a reply");
    server.join().expect("no panic");
}

/// Answers with the second view's first pixel, and how many columns of the action are real.
struct Described {
    cameras: Cameras,
}

impl Model for Described {
    fn shape(&self) -> Shape {
        Shape { image_size: 1, ..Scripted.shape() }
    }

    fn description(&self) -> Description {
        Description { action_dim: Some(7), cameras: self.cameras.clone(), ..Scripted.description() }
    }

    fn sample(&self) -> Request {
        Scripted.sample()
    }

    fn check(&self, _: &Request) -> Result<(), RequestError> {
        Ok(())
    }

    fn can_batch(&self, _: &Request, _: &Request) -> bool {
        false
    }

    fn predict(&self, requests: &[&Request]) -> Result<Vec<Answer>, RequestError> {
        let answers = Scripted.predict(requests)?;
        let answer = |(request, answer): (&&Request, Answer)| {
            let observation = &request.observation;
            let mut values = answer.chunk.values().to_vec();
            let pixel = observation.views.get(1).and_then(View::frame).map(|frame| &frame.rgb()[..3]);
            for (value, level) in values.iter_mut().zip(pixel.into_iter().flatten()) {
                *value = (*level).into();
            }
            values[3] = observation.action_mask.iter().flatten().filter(|real| **real).count() as f32;
            Answer { chunk: ActionChunk::new(24, values), ..answer }
        };
        Ok(requests.iter().zip(answers).map(answer).collect())
    }
}
