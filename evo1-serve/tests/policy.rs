//! A real policy behind the server gives its own answers, in every form of a request.

mod support;

use std::time::Duration;

use evo1::{
    ActionWidth, FinishOptions, Noise, Observation, Policy, PredictOptions, Prediction, StatisticsKey, View,
    action::flow::{GuidanceConfig, GuidanceMethod},
    chunk::{ChunkGuidance, rest_of},
    config::Profile,
    device::DeviceName,
    test_support::{assert_within, frame, largest},
};
use evo1_serve::{
    PolicyModel, Rtc, ServerOptions,
    client::{CallOptions, Client, ClientOptions},
    protocol::{
        Scaling,
        json::{self, WireOptions},
    },
};
use support::Running;
use tokio_tungstenite::tungstenite::Message;

fn policy() -> Policy {
    let device = "flex".parse::<DeviceName>().expect("a name").open().expect("the CPU");
    Policy::tiny(3, &device).expect("tiny")
}

fn model(policy: &Policy) -> PolicyModel {
    let rollout = policy.clone().into();
    PolicyModel { rollout, name: "tiny".into(), seed: 5, steps: Some(4), smoothing: None }
}

fn options() -> ServerOptions {
    ServerOptions { scaling: Some(Scaling::Policy), ..ServerOptions::default() }
}

fn observation(seed: u64) -> Observation {
    Observation {
        views: vec![View::Present(frame(seed, 40, 40)), View::Masked(frame(seed + 1, 64, 64)), View::Absent],
        state: vec![0.1, 0.6, 0.2, 1.0, 0.0, 0.7, 0.02, 0.5],
        instruction: "Press the button".into(),
        ..Observation::default()
    }
}

/// What the library predicts, as wide as a robot's actions.
fn predicted(policy: &Policy, observation: &Observation, seed: u64) -> Vec<f32> {
    let options = PredictOptions { steps: Some(4), noise: Noise::Seed(seed), ..PredictOptions::default() };
    policy.predict(observation, &options).expect("a chunk").values().to_vec()
}

/// The robot's columns of a reply of 24.
fn robot_columns(rows: &[f32]) -> Vec<f32> {
    rows.chunks_exact(24).flat_map(|row| row[..4].to_vec()).collect()
}

fn client_options() -> ClientOptions {
    ClientOptions { action_dim: Some(4), ..ClientOptions::default() }
}

#[test]
fn answers_are_the_librarys_to_the_bit_in_every_form_of_a_request() {
    let policy = policy();
    let server = Running::with(model(&policy), options());
    let observation = observation(1);
    let mut client = Client::connect(&server.url(""), client_options()).expect("a connection");
    let reply = client.predict(&observation, &CallOptions::default()).expect("a reply");
    assert_eq!(reply.chunk.width(), 24);
    assert_eq!(robot_columns(reply.chunk.values()), predicted(&policy, &observation, 5), "the server's seed");
    assert!(reply.chunk.steps().all(|action| action[4..].iter().all(|value| (value - 5e-9).abs() < 1e-12)));
    let next = client.predict(&observation, &CallOptions::default()).expect("a reply");
    assert_eq!(
        robot_columns(next.chunk.values()),
        predicted(&policy, &observation, 6),
        "fresh noise for the next request"
    );
    let call = CallOptions { seed: Some(9), ..CallOptions::default() };
    let seeded = client.predict(&observation, &call).expect("a reply");
    assert_eq!(robot_columns(seeded.chunk.values()), predicted(&policy, &observation, 9), "the request's seed");

    let keyed = Observation {
        statistics: StatisticsKey { arm: Some("sawyer".into()), dataset: Some("clean".into()) },
        ..observation.clone()
    };
    let text =
        json::encode(&keyed, &CallOptions::default(), &WireOptions { action_dim: Some(4), ..WireOptions::default() });
    let mask = "\"action_mask\": [1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]";
    assert!(text.contains(mask), "{}", &text[text.len() - 400..]);
    let inner = mask.trim_start_matches("\"action_mask\": ");
    let forms = [
        text.clone(),
        text.replace(mask, &format!("\"action_mask\": [{inner}]")),
        text.replace(mask, &format!("\"action_mask\": [{}]", vec![inner; 16].join(","))),
        text.replace("[1,0,0]", "[[1,0,0]]"),
    ];
    for form in forms {
        let mut raw = server.raw("/");
        raw.send(form);
        let rows: Vec<Vec<f32>> = serde_json::from_str(&raw.text()).expect("a bare list");
        assert_eq!(rows.concat(), reply.chunk.values());
    }
}

#[test]
fn without_the_swap_images_are_taken_as_they_come() {
    let policy = policy();
    let server = Running::with(model(&policy), ServerOptions { swaps_channels: false, ..options() });
    let client_options = ClientOptions { swaps_channels: Some(false), ..client_options() };
    let mut client = Client::connect(&server.url(""), client_options).expect("a connection");
    let reply = client.predict(&observation(2), &CallOptions::default()).expect("a reply");
    assert_eq!(robot_columns(reply.chunk.values()), predicted(&policy, &observation(2), 5));
}

#[test]
fn a_padded_state_is_taken_and_a_short_one_refused() {
    let mut policy = policy();
    policy.config = policy.config.with_profile(Profile::Official);
    let server = Running::with(model(&policy), options());
    let mut client = Client::connect(&server.url(""), client_options()).expect("a connection");
    let mut padded = observation(1);
    padded.state.resize(24, 0.0);
    let reply = client.predict(&padded, &CallOptions::default()).expect("a reply");
    padded.state_is_padded = true;
    assert_eq!(robot_columns(reply.chunk.values()), predicted(&policy, &padded, 5));
    assert_ne!(robot_columns(reply.chunk.values()), predicted(&policy, &observation(1), 5), "−1 is not 0");
    padded.state.truncate(7);
    let error = client.predict(&padded, &CallOptions::default()).expect_err("short").to_string();
    assert!(error.contains("7 values") && error.contains('8'), "{error}");
    let unknown =
        Observation { statistics: StatisticsKey { arm: Some("leg".into()), dataset: None }, ..observation(1) };
    let error = client.predict(&unknown, &CallOptions::default()).expect_err("unknown arm").to_string();
    assert!(error.contains("arm key `leg`"), "{error}");
}

#[test]
fn batched_answers_are_those_of_one_by_one() {
    let policy = policy();
    let batching = ServerOptions { max_batch: 4, batch_wait: Duration::from_secs(2), ..options() };
    let server = Running::with(model(&policy), batching);
    let threads: Vec<_> = (0..4_u64)
        .map(|index| {
            let url = server.url("");
            std::thread::spawn(move || {
                let mut client = Client::connect(&url, client_options()).expect("a connection");
                let mut observation = observation(index);
                observation.instruction.push_str(&" now".repeat(index as usize));
                let call = CallOptions { seed: Some(index), ..CallOptions::default() };
                let text =
                    json::encode(&observation, &call, &WireOptions { action_dim: Some(4), ..WireOptions::default() });
                let reply = client.exchange(&text).expect("a reply");
                let batch = serde_json::from_str::<serde_json::Value>(&reply).expect("JSON")["batch"].as_u64();
                (observation, index, batch, evo1_serve::client::read_reply(&reply).expect("a reply"))
            })
        })
        .collect();
    for thread in threads {
        let (observation, seed, batch, reply) = thread.join().expect("a client");
        assert_eq!(batch, Some(4), "computed together");
        let (got, want) = (robot_columns(reply.chunk.values()), predicted(&policy, &observation, seed));
        assert_within(&format!("seed {seed}"), &got, &want, 1e-5 * largest(&want).max(1.0));
    }
}

#[test]
fn chunks_are_guided_over_the_wire_as_in_the_library() {
    let policy = policy();
    let server = Running::with(model(&policy), options());
    for method in [GuidanceMethod::Identity, GuidanceMethod::Jacobian] {
        let config = GuidanceConfig { method, execution_horizon: 8, ..GuidanceConfig::default() };
        let predict = |observation: &Observation, seed, guidance| -> Prediction {
            let finish = FinishOptions { width: ActionWidth::Padded, ..FinishOptions::default() };
            let mask = Some((0..24).map(|column| column < 4).collect());
            let observation = Observation { action_mask: mask, ..observation.clone() };
            let noise = Noise::Seed(seed);
            let options = PredictOptions { steps: Some(4), noise, guidance, finish, ..PredictOptions::default() };
            policy.predict_batch_timed(&[observation], &options).expect("a chunk").0.remove(0)
        };
        let first = predict(&observation(1), 1, None);
        let left_over = rest_of(&first.normalized, 5).expect("eleven actions are left");
        let second = predict(&observation(2), 2, Some(ChunkGuidance { config, left_over, delay: 2 }));
        let free = predict(&observation(2), 2, None);

        let mut client = Client::connect(&server.url(""), client_options()).expect("a connection");
        let rtc = Some(Rtc { executed: 5, delay: 2, config });
        let call = |seed| CallOptions { seed: Some(seed), rtc, ..CallOptions::default() };
        let reply = client.predict(&observation(1), &call(1)).expect("a reply");
        assert_eq!(reply.chunk, first.chunk, "a connection's first chunk is free");
        let reply = client.predict(&observation(2), &call(2)).expect("a reply");
        assert_eq!(reply.chunk, second.chunk, "{method:?}");
        assert_ne!(reply.chunk, free.chunk, "{method:?}");
    }
}

#[test]
fn openpi_clients_get_the_librarys_answers() {
    let policy = policy();
    let server = Running::with(model(&policy), options());
    let mut raw = server.raw("/openpi");
    let Message::Binary(metadata) = raw.read() else { panic!("metadata come first") };
    let metadata: serde_json::Value = rmp_serde::from_slice(&metadata).expect("msgpack");
    assert_eq!(metadata["horizon"], 16);
    let image = frame(1, 40, 40);
    let observation = Observation { views: vec![View::Present(image.clone())], ..observation(1) };
    let mut bytes = Vec::new();
    let state: Vec<u8> = observation.state.iter().flat_map(|value| value.to_le_bytes()).collect();
    let key = |out: &mut Vec<u8>, key: &str| rmp::encode::write_str(out, key).expect("memory");
    rmp::encode::write_map_len(&mut bytes, 3).expect("memory");
    key(&mut bytes, "observation/image");
    array(&mut bytes, "|u1", &[40, 40, 3], image.rgb());
    key(&mut bytes, "observation/state");
    array(&mut bytes, "<f4", &[8], &state);
    key(&mut bytes, "prompt");
    key(&mut bytes, &observation.instruction);
    for seed in [5, 6] {
        raw.0.send(Message::binary(bytes.clone())).expect("sent");
        let Message::Binary(reply) = raw.read() else { panic!("a reply is binary") };
        let want = predicted(&policy, &observation, seed);
        let data: Vec<u8> = want.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(reply.windows(data.len()).any(|window| window == data), "the actions are in the reply, to the bit");
        assert!(reply.windows(13).any(|window| window == b"server_timing"));
    }
    raw.0.send(Message::binary(vec![0x80])).expect("sent");
    assert!(raw.text().contains("no `prompt`"));
    assert_eq!(raw.closed().0, 1008);
}

fn array(out: &mut Vec<u8>, dtype: &str, shape: &[u64], data: &[u8]) {
    use rmp::encode::{write_array_len, write_bin, write_bool, write_map_len, write_str, write_uint};
    write_map_len(out, 4).expect("memory");
    write_bin(out, b"__ndarray__").expect("memory");
    write_bool(out, true).expect("memory");
    write_bin(out, b"data").expect("memory");
    write_bin(out, data).expect("memory");
    write_bin(out, b"dtype").expect("memory");
    write_str(out, dtype).expect("memory");
    write_bin(out, b"shape").expect("memory");
    write_array_len(out, shape.len() as u32).expect("memory");
    for size in shape {
        write_uint(out, *size).expect("memory");
    }
}
