//! A server in the test's own process, and raw clients of it.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use evo1::{ActionChunk, Observation, View, test_support::frame};
use evo1_serve::{
    Answer, Description, ErrorKind, Model, NamedModel, Request, RequestError, Server, ServerOptions, Stop,
    client::{CallOptions, Client, ClientOptions},
    protocol::{
        Shape,
        json::{self, WireOptions},
    },
};
use tokio_tungstenite::tungstenite::{
    self, Message, WebSocket, client::IntoClientRequest, protocol::CloseFrame, stream::MaybeTlsStream,
};

pub(crate) const HORIZON: usize = 4;

/// A model whose behaviour the instruction decides: `sleep MS`, `nan`, `panic`; anything else is answered at once. The
/// first value of every action is the request's seed.
pub(crate) struct Scripted;

impl Model for Scripted {
    fn shape(&self) -> Shape {
        Shape { views: 3, image_size: 8, state: 24, action: 24, horizon: HORIZON }
    }

    fn description(&self) -> Description {
        Description {
            policy: "scripted".into(),
            profile: "official".into(),
            device: "none".into(),
            steps: 1,
            horizon: HORIZON,
            max_action_dim: 24,
            max_state_dim: 24,
            action_dim: None,
            state_dim: None,
            n_action_steps: HORIZON,
            gripper: None,
            cameras: evo1::config::Cameras::default(),
            views: 3,
            image_size: 8,
            robots: Vec::new(),
        }
    }

    fn sample(&self) -> Request {
        Request::of(Observation::default())
    }

    fn check(&self, request: &Request) -> Result<(), RequestError> {
        match request.observation.instruction.as_str() {
            "refuse" => Err(RequestError { kind: ErrorKind::InvalidRequest, message: "refused".into() }),
            _ => Ok(()),
        }
    }

    fn can_batch(&self, _: &Request, _: &Request) -> bool {
        true
    }

    fn predict(&self, requests: &[&Request]) -> Result<Vec<Answer>, RequestError> {
        let answer = |request: &&Request| {
            let words: Vec<&str> = request.observation.instruction.split(' ').collect();
            let mut value = request.seed.unwrap_or(0) as f32;
            match words.as_slice() {
                ["sleep", ms] => std::thread::sleep(Duration::from_millis(ms.parse().expect("milliseconds"))),
                ["nan"] => value = f32::NAN,
                ["panic"] => panic!("as it was told to"),
                _ => {}
            }
            let chunk = ActionChunk::new(24, vec![value; HORIZON * 24]);
            let (queued, batch) = (Duration::ZERO, requests.len());
            Answer { normalized: chunk.clone(), chunk, times: Default::default(), queued, batch }
        };
        Ok(requests.iter().map(answer).collect())
    }
}

/// A running server; it is stopped when dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    /// Where LeRobot's clients find it.
    pub(crate) lerobot: Option<SocketAddr>,
    stop: Stop,
    thread: Option<JoinHandle<evo1_serve::Result<()>>>,
}

impl Running {
    pub(crate) fn with(model: impl Model, options: ServerOptions) -> Self {
        Self::with_all(vec![NamedModel::of(Arc::new(model))], options)
    }

    pub(crate) fn with_all(models: Vec<NamedModel>, options: ServerOptions) -> Self {
        let options = ServerOptions { bind: SocketAddr::from(([127, 0, 0, 1], 0)), ..options };
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let server = Server::bind_all(models, options).await?;
                server.ready().await?;
                sender
                    .send((server.address(), server.lerobot_address(), server.stop_handle()))
                    .expect("the test waits");
                server.run().await
            })
        });
        let (address, lerobot, stop) = receiver.recv().expect("the server starts");
        Self { address, lerobot, stop, thread: Some(thread) }
    }

    pub(crate) fn scripted(options: ServerOptions) -> Self {
        Self::with(Scripted, options)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    pub(crate) fn stop(&self) {
        self.stop.stop();
    }

    /// Waits for the server's end.
    pub(crate) fn end(mut self) -> evo1_serve::Result<()> {
        self.thread.take().expect("once").join().expect("the server does not panic")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.url(""), ClientOptions { action_dim: Some(24), ..ClientOptions::default() })
            .expect("a connection")
    }

    pub(crate) fn raw(&self, path: &str) -> Raw {
        Raw::connect(&self.url(path))
    }

    /// The status and body of a GET.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        http(self.address, &format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address))
    }

    /// Waits until the metrics have this text: a request is counted when its reply has been sent.
    pub(crate) fn wait_for_metric(&self, text: &str) {
        let start = std::time::Instant::now();
        while !self.get("/metrics").1.contains(text) {
            assert!(start.elapsed() < Duration::from_secs(5), "{text} is not in {}", self.get("/metrics").1);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends the text of an HTTP request and reads the status and the body.
pub(crate) fn http(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a response");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).expect("a status").parse().expect("a number"), body.to_owned())
}

/// A websocket without a client's comforts.
pub(crate) struct Raw(pub(crate) WebSocket<MaybeTlsStream<TcpStream>>);

impl Raw {
    pub(crate) fn connect(url: &str) -> Self {
        let (socket, _) = tungstenite::connect(url.into_client_request().expect("a URL")).expect("a connection");
        if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        }
        Self(socket)
    }

    pub(crate) fn send(&mut self, text: impl Into<String>) {
        self.0.send(Message::text(text.into())).expect("sent");
    }

    /// Sends bytes that need be no whole frame.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        match self.0.get_mut() {
            MaybeTlsStream::Plain(stream) => stream.write_all(bytes).expect("sent"),
            _ => panic!("no TLS here"),
        }
    }

    pub(crate) fn read(&mut self) -> Message {
        self.0.read().expect("a message")
    }

    pub(crate) fn text(&mut self) -> String {
        match self.read() {
            Message::Text(text) => text.to_string(),
            other => panic!("a text was expected, got {other:?}"),
        }
    }

    /// The code and reason with which the server closes.
    pub(crate) fn closed(&mut self) -> (u16, String) {
        loop {
            match self.0.read() {
                Ok(Message::Close(Some(CloseFrame { code, reason }))) => return (code.into(), reason.to_string()),
                Ok(Message::Text(text)) => panic!("a close frame was expected, got {text}"),
                Ok(_) => {}
                Err(error) => panic!("a close frame was expected, got {error}"),
            }
        }
    }
}

/// A frame of a client, with a mask of zeros.
pub(crate) fn frame_bytes(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let head =
        if payload.len() < 126 { vec![first, 0x80 | length[1]] } else { vec![first, 0xfe, length[0], length[1]] };
    [&head[..], &[0; 4], payload].concat()
}

/// The message of an instruction to [`Scripted`].
pub(crate) fn message(instruction: &str, seed: u64) -> String {
    let observation = Observation {
        views: vec![View::Present(frame(1, 8, 8))],
        state: vec![0.0; 8],
        instruction: instruction.into(),
        ..Observation::default()
    };
    json::encode(&observation, &CallOptions { seed: Some(seed), ..CallOptions::default() }, &WireOptions::default())
}

/// A message with a request id.
pub(crate) fn named(instruction: &str, seed: u64) -> String {
    message(instruction, seed).replacen('{', &format!("{{\"request_id\": {seed}, "), 1)
}
