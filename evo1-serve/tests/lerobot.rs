//! LeRobot's asynchronous inference from outside: what its client sends is answered as LeRobot's own server does it, and
//! nothing else that comes that way does any harm.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

use evo1::{
    View,
    config::Cameras,
    rng::{self, RngExt},
};
use evo1_serve::{
    ServerOptions,
    protocol::{
        ObservationOptions, Shape,
        lerobot::{self, Timed},
    },
};
use futures_util::{Stream, StreamExt, stream};
use support::{HORIZON, Running};
use tokio::runtime::Runtime;
use tonic::{Code, IntoStreamingRequest, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct Part {
    #[prost(int32, tag = "1")]
    transfer_state: i32,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Data {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
}

/// Longer than anything takes here.
const SOON: Duration = Duration::from_millis(300);

const BEGIN: i32 = 1;
const MIDDLE: i32 = 2;
const END: i32 = 3;

/// What LeRobot's client pickles: written by `scripts/make_lerobot_messages.py`.
macro_rules! recorded {
    ($name:literal) => {
        include_bytes!(concat!("../../fuzz/corpus/lerobot/", $name))
    };
}

/// A robot's end of a connection.
struct Robot {
    runtime: Runtime,
    channel: Channel,
}

impl Robot {
    fn connect(address: SocketAddr) -> Self {
        Self::connect_as(address, &address.to_string())
    }

    /// Connects, and asks for the server by a name.
    fn connect_as(address: SocketAddr, name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("a URL");
        let endpoint = endpoint.origin(format!("http://{name}").parse().expect("a URL"));
        let channel = runtime.block_on(endpoint.connect()).expect("a connection");
        Self { runtime, channel }
    }

    /// Connects and says what LeRobot's client says first.
    fn introduced(server: &Running) -> Self {
        let mut robot = Self::connect(server.lerobot.expect("an address"));
        robot.call("Ready", b"").expect("ready");
        robot.call("SendPolicyInstructions", recorded!("instructions")).expect("instructed");
        robot
    }

    fn call(&mut self, method: &'static str, data: &[u8]) -> Result<Vec<u8>, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        let path = format!("/transport.AsyncInference/{method}").parse().expect("a path");
        let request = tonic::Request::new(Data { data: data.to_vec() });
        self.runtime.block_on(async {
            grpc.ready().await.expect("ready");
            let codec = ProstCodec::<Data, Data>::default();
            grpc.unary(request, path, codec).await.map(|reply| reply.into_inner().data)
        })
    }

    fn send(&mut self, parts: Vec<(i32, &[u8])>) -> Result<(), Status> {
        let parts: Vec<Part> =
            parts.into_iter().map(|(transfer_state, data)| Part { transfer_state, data: data.to_vec() }).collect();
        self.stream(stream::iter(parts))
    }

    fn stream(&mut self, parts: impl Stream<Item = Part> + Send + 'static) -> Result<(), Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        let path = "/transport.AsyncInference/SendObservations".parse().expect("a path");
        self.runtime.block_on(async {
            grpc.ready().await.expect("ready");
            let codec = ProstCodec::<Part, Data>::default();
            grpc.client_streaming(parts.into_streaming_request(), path, codec).await.map(drop)
        })
    }

    fn observe(&mut self, message: &[u8]) -> Result<(), Status> {
        self.send(vec![(END, message)])
    }

    fn actions(&mut self) -> Result<Vec<Action>, Status> {
        self.call("GetActions", b"").map(|data| actions(&data))
    }
}

/// A `TimedAction`.
#[derive(Debug, Clone, PartialEq)]
struct Action {
    timestamp: f64,
    timestep: i64,
    values: Vec<f64>,
}

/// Reads a reply: what Python makes of one is tested by `scripts/check_lerobot_client.py`.
fn actions(mut data: &[u8]) -> Vec<Action> {
    fn after<'a>(data: &'a [u8], name: &str) -> Option<&'a [u8]> {
        let at = data.windows(name.len()).position(|window| window == name.as_bytes())?;
        Some(&data[at + name.len()..])
    }
    let float = |data: &[u8]| f64::from_be_bytes(data[1..9].try_into().expect("eight bytes"));
    let mut actions = Vec::new();
    while let Some(rest) = after(data, "timestamp") {
        let timestamp = float(rest);
        let rest = after(rest, "timestep").expect("a step");
        let timestep = match rest[0] {
            b'J' => i32::from_le_bytes(rest[1..5].try_into().expect("four bytes")).into(),
            _ => i64::from_le_bytes(rest[2..10].try_into().expect("eight bytes")),
        };
        let mut rest = &after(rest, "action").expect("values")[4..];
        let mut values = Vec::new();
        while rest[0] == b'G' {
            values.push(float(rest));
            rest = &rest[9..];
        }
        actions.push(Action { timestamp, timestep, values });
        data = rest;
    }
    actions
}

/// A `TimedObservation` of the recorded robot.
fn observation(timestep: i32, state: [f64; 2], must_go: bool, task: &str) -> Vec<u8> {
    let mut out = b"\x80\x04clerobot.async_inference.helpers\nTimedObservation\n)\x81}(".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend([b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat());
    };
    let float = |out: &mut Vec<u8>, value: f64| out.extend([&b"G"[..], &value.to_be_bytes()].concat());
    let frame = |out: &mut Vec<u8>| {
        out.extend(b"cnumpy._core.numeric\n_frombuffer\n(C\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c");
        out.extend(
            b"cnumpy\ndtype\nX\x02\0\0\0u1\x89\x88\x87R(K\x03X\x01\0\0\0|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb",
        );
        out.extend(b"K\x02K\x02K\x03\x87X\x01\0\0\0CtR");
    };
    text(&mut out, "timestamp");
    float(&mut out, 100.0 + f64::from(timestep));
    text(&mut out, "timestep");
    out.extend([&b"J"[..], &timestep.to_le_bytes()].concat());
    text(&mut out, "observation");
    out.extend(b"}(");
    for (name, value) in [("arm.pos", state[0]), ("hand.pos", state[1])] {
        text(&mut out, name);
        float(&mut out, value);
    }
    for name in ["front", "wrist"] {
        text(&mut out, name);
        frame(&mut out);
    }
    text(&mut out, "task");
    text(&mut out, task);
    out.push(b'u');
    text(&mut out, "must_go");
    out.push(if must_go { 0x88 } else { 0x89 });
    out.extend(b"ub.");
    out
}

fn options() -> ServerOptions {
    ServerOptions {
        lerobot: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        lerobot_fps: 10.0,
        ..ServerOptions::default()
    }
}

fn parsed(message: &[u8], options: &ObservationOptions) -> Timed {
    const SHAPE: Shape = Shape { views: 3, image_size: 8, state: 24, action: 24, horizon: HORIZON };
    let instructions = lerobot::instructions(recorded!("instructions")).expect("a client's own");
    lerobot::parse(message, &instructions, &SHAPE, options, |_, _| true).expect("read").expect("wanted")
}

fn unnamed() -> ObservationOptions {
    ObservationOptions { cameras: Cameras::default(), prompt: None }
}

#[test]
fn what_lerobots_client_pickles_is_read_in_every_form() {
    let expected = parsed(recorded!("observation"), &unnamed());
    assert_eq!(expected.moment.timestamp, 1_700_000_000.5);
    assert_eq!((expected.moment.timestep, expected.moment.must_go), (7, false));
    let observation = &expected.request.observation;
    assert_eq!(observation.state, [0.25, -1.5]);
    assert_eq!(observation.instruction, "fold the towel");
    let frames: Vec<(usize, usize, &[u8])> = observation
        .views
        .iter()
        .filter_map(View::frame)
        .map(|frame| (frame.width(), frame.height(), frame.rgb()))
        .collect();
    let front: Vec<u8> = (0..18).collect();
    assert_eq!(frames, [(3, 2, &front[..]), (2, 1, &[250, 251, 252, 253, 254, 255])]);
    assert_eq!(parsed(recorded!("observation-5"), &unnamed()), expected, "protocol 5");
    assert_eq!(parsed(recorded!("tensors"), &unnamed()), expected, "torch's tensors");
    let numbers =
        parsed(recorded!("numbers"), &ObservationOptions { prompt: Some("fold the towel".into()), ..unnamed() });
    assert_eq!(numbers, expected, "numpy's numbers, columns first, and no task");
    let late = parsed(recorded!("late"), &unnamed()).moment;
    assert_eq!((late.timestep, late.must_go), (1 << 40, true));
}

#[test]
fn cameras_are_the_policys_and_have_its_sizes() {
    let cameras = Cameras {
        sizes: vec![[4, 2], [2, 2]],
        ..Cameras::named(["observation.images.wrist", "observation.images.front"])
    };
    let timed = parsed(recorded!("observation"), &ObservationOptions { cameras, prompt: None });
    let sizes: Vec<_> = timed
        .request
        .observation
        .views
        .iter()
        .filter_map(View::frame)
        .map(|frame| (frame.width(), frame.height()))
        .collect();
    assert_eq!(sizes, [(4, 2), (2, 2)]);
    let cameras = Cameras::named(["observation.images.top"]);
    let instructions = lerobot::instructions(recorded!("instructions")).expect("a client's own");
    let shape = Shape { views: 3, image_size: 8, state: 24, action: 24, horizon: HORIZON };
    let other = ObservationOptions { cameras, prompt: None };
    let error =
        lerobot::parse(recorded!("observation"), &instructions, &shape, &other, |_, _| true).expect_err("lacking");
    assert!(error.message.contains("observation.images.top") && error.message.contains("observation.images.wrist"));
}

#[test]
fn nothing_that_a_pickle_names_is_called() {
    let instructions = lerobot::instructions(recorded!("instructions")).expect("a client's own");
    let shape = Shape { views: 3, image_size: 8, state: 24, action: 24, horizon: HORIZON };
    let parse = |message: &[u8]| {
        let parsed = lerobot::parse(message, &instructions, &shape, &unnamed(), |_, _| true);
        parsed.map(|_| ()).expect_err("refused").message
    };
    assert!(parse(recorded!("hostile")).contains("system` has no place in a message"));
    assert!(parse(recorded!("instructions")).contains("a TimedObservation, got a RemotePolicyConfig"));
    assert!(lerobot::instructions(recorded!("observation")).is_err());
    for (from, to, expected) in [
        (&b"hand.pos"[..], &b"hand.psi"[..], "`hand.pos` is missing"),
        (b"timestep", b"timestop", "`timestep` is missing"),
        (b"must_go", b"must_do", "`must_go` is missing"),
    ] {
        let mut message = recorded!("observation").to_vec();
        let at = message.windows(from.len()).position(|window| window == from).expect("a field");
        message[at..at + to.len()].copy_from_slice(to);
        let error = parse(&message);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_robot_gets_as_many_actions_as_it_asked_for_with_their_times() {
    let server = Running::scripted(options());
    let mut robot = Robot::introduced(&server);
    robot.observe(recorded!("observation")).expect("taken");
    let got = robot.actions().expect("actions");
    let expected = |step: i64, value| Action {
        timestamp: 1_700_000_000.5 + step as f64 * 0.1,
        timestep: 7 + step,
        values: vec![value; 24],
    };
    assert_eq!(got, [0, 1, 2].map(|step| expected(step, 0.0)), "three of four");
    robot.observe(&observation(8, [9.0, 0.0], false, "go")).expect("taken");
    assert_eq!(robot.actions().expect("actions")[0].timestep, 8);
    server.wait_for_metric("evo1_requests_total{protocol=\"lerobot\"} 2");
    let (_, last) = server.get("/last");
    assert!(last.contains("\"go\""), "people see what the robot saw: {last}");
}

#[test]
fn the_newest_observation_that_says_something_is_answered_once() {
    let server = Running::scripted(options());
    let mut robot = Robot::introduced(&server);
    robot.observe(&observation(0, [0.0, 0.0], true, "go")).expect("taken");
    robot.observe(&observation(1, [0.1, 0.0], false, "go")).expect("taken: nothing has been answered yet");
    assert_eq!(robot.actions().expect("actions")[0].timestep, 1);
    let start = Instant::now();
    robot.observe(&observation(1, [5.0, 0.0], false, "go")).expect("left out: the step has actions");
    robot.observe(&observation(2, [0.1, 0.9], false, "go")).expect("left out: too similar");
    assert_eq!(robot.actions().expect("nothing"), []);
    assert!(start.elapsed() >= Duration::from_secs(2));
    robot.observe(&observation(1, [0.1, 0.0], true, "go")).expect("taken: it must go");
    assert_eq!(robot.actions().expect("actions")[0].timestep, 1);
}

#[test]
fn a_failure_is_said_and_the_next_observation_is_answered() {
    let server = Running::scripted(options());
    let mut robot = Robot::introduced(&server);
    robot.observe(&observation(0, [0.0, 0.0], true, "nan")).expect("taken");
    let error = robot.actions().expect_err("not finite");
    assert_eq!((error.code(), error.message()), (Code::Internal, "the prediction is not finite"));
    robot.observe(&observation(0, [0.0, 0.0], false, "go")).expect("taken");
    assert_eq!(robot.actions().expect("actions").len(), 3, "the step has no actions yet");
    let error = robot.observe(&observation(1, [0.0, 0.0], true, "refuse")).expect_err("refused");
    assert_eq!((error.code(), error.message()), (Code::InvalidArgument, "refused"));
}

#[test]
fn who_asks_for_something_else_is_told_what_there_is() {
    let server = Running::scripted(options());
    let mut robot = Robot::connect(server.lerobot.expect("an address"));
    let error = robot.observe(recorded!("observation")).expect_err("a stranger");
    assert!(error.code() == Code::FailedPrecondition && error.message().contains("start the robot's client again"));
    assert_eq!(robot.actions().expect_err("a stranger").code(), Code::FailedPrecondition);
    let error = robot.call("SendPolicyInstructions", recorded!("another-policy")).expect_err("another kind");
    assert!(error.code() == Code::InvalidArgument && error.message().contains("--policy_type=evo1"), "{error}");
    let mut message = recorded!("instructions").to_vec();
    let at = message.windows(8).position(|window| window == b"scripted").expect("a name");
    message[at..at + 8].copy_from_slice(b"stripped");
    let error = robot.call("SendPolicyInstructions", &message).expect_err("another policy");
    assert!(error.message().contains("--pretrained_name_or_path=scripted"), "{error}");
    assert_eq!(robot.call("GetAction", b"").expect_err("no method").code(), Code::Unimplemented);
    let mut stranger = Robot::connect_as(server.lerobot.expect("an address"), "evil.example:1");
    let error = stranger.call("Ready", b"").expect_err("by a name that is not the server's");
    assert!(error.code() == Code::PermissionDenied && error.message().contains("--allow-host"), "{error}");
}

#[test]
fn a_message_comes_in_parts_or_not_at_all() {
    let server = Running::scripted(ServerOptions { max_message: 100_000, max_memory: 20_000_000, ..options() });
    let mut robot = Robot::introduced(&server);
    let message = recorded!("observation");
    let (one, rest) = message.split_at(100);
    let (two, three) = rest.split_at(300);
    robot.send(vec![(BEGIN, one), (MIDDLE, two), (END, three)]).expect("taken");
    assert_eq!(robot.actions().expect("actions").len(), 3);
    robot.send(vec![(BEGIN, three), (BEGIN, one), (MIDDLE, two), (END, three)]).expect("it begins anew");
    for (parts, expected) in [
        (vec![(BEGIN, one), (MIDDLE, two)], "no last part"),
        (vec![(0, &message[..])], "a part of an observation is"),
        (vec![(9, &message[..])], "a part of an observation is"),
        (vec![], "no last part"),
        (vec![(MIDDLE, one)], "no last part"),
        (vec![(END, one)], "not a valid pickle"),
        (vec![(BEGIN, &[0; 60_000][..]), (END, &[0; 60_000])], "a message may have 100000 bytes"),
        (vec![(END, &[0; 5_000_000])], "not a message"),
    ] {
        let error = robot.send(parts).expect_err(expected);
        assert!(error.message().contains(expected), "{expected}: {error}");
    }
    robot.observe(&observation(9, [9.0, 9.0], true, "go")).expect("the connection goes on");
    assert_eq!(robot.actions().expect("actions")[0].timestep, 9);
    drop(robot);
    let freed = (0..100).any(|_| {
        sleep(Duration::from_millis(50));
        server.get("/metrics").1.contains("evo1_request_memory_bytes 0\n")
    });
    assert!(freed, "{}", server.get("/metrics").1);
}

#[test]
fn each_robot_has_its_own_actions_and_one_that_comes_back_goes_on() {
    let server = Running::scripted(options());
    let (mut one, mut other) = (Robot::introduced(&server), Robot::introduced(&server));
    one.observe(&observation(1, [0.0, 0.0], true, "go")).expect("taken");
    other.observe(&observation(2, [0.0, 0.0], true, "go")).expect("taken");
    assert_eq!(one.actions().expect("its own")[0].timestep, 1);
    assert_eq!(other.actions().expect("its own")[0].timestep, 2);
    drop(one);
    let mut again = Robot::connect(server.lerobot.expect("an address"));
    let back = (0..100).any(|_| {
        sleep(Duration::from_millis(50));
        again.observe(&observation(3, [5.0, 0.0], false, "go")).is_ok()
    });
    assert!(back, "the session that was left is its own");
    assert_eq!(again.actions().expect("actions")[0].timestep, 3);
    other.observe(&observation(4, [5.0, 0.0], false, "go")).expect("taken");
    assert_eq!(other.actions().expect("its own")[0].timestep, 4);
}

#[test]
fn a_robot_that_waits_is_told_when_the_server_stops() {
    let server = Running::scripted(options());
    let mut robot = Robot::introduced(&server);
    let waits = spawn(move || robot.actions());
    sleep(Duration::from_millis(300));
    server.stop();
    let answer = waits.join().expect("no panic");
    assert_eq!(answer.expect_err("it ends").code(), Code::Unavailable);
    server.end().expect("a clean end");
}

#[test]
fn a_call_is_answered_when_it_has_ended() {
    let server = Running::scripted(options());
    let mut robot = Robot::introduced(&server);
    // HTTP/2 gives up a connection on which many calls are answered before.
    let part = Part { transfer_state: END, data: observation(1, [0.0, 0.0], true, "go") };
    let end = async {
        tokio::time::sleep(SOON).await;
        None
    };
    let start = Instant::now();
    let parts = stream::iter([Some(part)]).chain(stream::once(end)).filter_map(std::future::ready);
    robot.stream(parts).expect("taken");
    assert!(start.elapsed() >= SOON, "{:?}", start.elapsed());
    assert_eq!(robot.actions().expect("actions").len(), 3);
}

#[test]
fn who_says_nothing_is_not_waited_for() {
    let server = Running::scripted(options());
    let address = server.lerobot.expect("an address");
    // A robot may be idle after it has spoken, others may not.
    let mut robot = Robot::introduced(&server);
    let silent: Vec<TcpStream> = [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]
        .into_iter()
        .map(|bytes| {
            let mut stream = TcpStream::connect(address).expect("a connection");
            stream.write_all(bytes).expect("sent");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
            stream
        })
        .collect();
    for mut stream in silent {
        // The end, or a reset; not the timeout.
        let end = stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
        assert!(matches!(end, Ok(_) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    }
    robot.observe(&observation(1, [0.0, 0.0], true, "go")).expect("taken");
    assert_eq!(robot.actions().expect("actions").len(), 3);
}

/// 10,000 messages that are nearly right, most of them with more than one error, beside a robot that is served.
#[test]
fn hostile_messages_harm_nobody() {
    const MESSAGES: usize = 10_000;
    let server = Running::scripted(ServerOptions { max_memory: 100_000_000, ..options() });
    let address = server.lerobot.expect("an address");
    let hostile = spawn(move || {
        let mut rng = rng::stream(0, "hostile");
        let mut robot = Robot::connect(address);
        robot.call("SendPolicyInstructions", recorded!("instructions")).expect("instructed");
        let seeds: [&[u8]; 6] = [
            recorded!("observation"),
            recorded!("observation-5"),
            recorded!("tensors"),
            recorded!("numbers"),
            recorded!("hostile"),
            recorded!("instructions"),
        ];
        let mut refused = 0;
        for number in 0..MESSAGES {
            let mut message = seeds[number % seeds.len()].to_vec();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..message.len());
                match rng.random_range(0..4) {
                    0 => message[at] = rng.random(),
                    1 => drop(message.splice(at..at, (0..8).map(|_| 0xff))),
                    2 => message.truncate(at.max(1)),
                    _ => drop(message.splice(at..at + 1, b"\x8c\xff\x8d\xff\xff".iter().copied())),
                }
            }
            let sent = match number % seeds.len() {
                5 => robot.call("SendPolicyInstructions", &message).map(drop),
                _ => robot.observe(&message),
            };
            match sent {
                Ok(()) => {}
                Err(error) if error.code() == Code::InvalidArgument => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        refused
    });
    let mut robot = Robot::introduced(&server);
    let (mut times, mut step) = (Vec::new(), 0);
    while !hostile.is_finished() {
        step += 1;
        let start = Instant::now();
        robot.observe(&observation(step, [0.0, 0.0], true, "go")).expect("taken");
        assert_eq!(robot.actions().expect("actions")[0].timestep, i64::from(step));
        times.push(start.elapsed());
        sleep(Duration::from_millis(5));
    }
    let refused = hostile.join().expect("no panic");
    times.sort_unstable();
    let p99 = times[times.len() * 99 / 100];
    println!("{refused} of {MESSAGES} refused, {} answers beside them, p99 {p99:.1?}", times.len());
    assert!(refused > MESSAGES / 2, "{refused}");
    assert!(p99 < Duration::from_millis(500), "{p99:?}");
    let (_, memory) = server.get("/metrics");
    assert!(memory.contains("evo1_connections "), "the server lives");
}
