//! Record pairs of request and reply of a policy server, and replay them.

use std::{error::Error, io::Write};

use evo1::{Frame, Observation, View};
use evo1_serve::{
    client::{CallOptions, Client, ClientOptions, read_reply},
    protocol::json::{self, WireOptions},
};
use serde_json::Value;

/// Largest difference of a replayed chunk, relative to its largest value.
const TOLERANCE: f32 = 1e-4;

const USAGE: &str = "usage: record_replay record URL FILE [COUNT], or record_replay replay URL FILE";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["record", url, file] => record(url, file, 10),
        ["record", url, file, count] => record(url, file, count.parse()?),
        ["replay", url, file] => replay(url, file),
        _ => Err(USAGE.into()),
    }
}

/// Asks for chunks of made-up observations and writes what went over the wire.
fn record(url: &str, file: &str, count: u64) -> Result<(), Box<dyn Error>> {
    let mut client = Client::connect(url, ClientOptions::default())?;
    let wire = WireOptions { action_dim: Some(4), ..WireOptions::default() };
    let mut out = std::io::BufWriter::new(std::fs::File::create(file)?);
    for number in 0..count {
        let (width, height) = (160, 120);
        let level = |i: usize| (i as u64 * (number + 3) / 7) as u8;
        let frame = Frame::new(width, height, (0..width * height * 3).map(level).collect())?;
        let observation = Observation {
            views: vec![View::Present(frame)],
            state: (0..8).map(|i| (number as f32 + i as f32) / 20.0).collect(),
            instruction: "Open the drawer".into(),
            ..Observation::default()
        };
        let request = json::encode(&observation, &CallOptions { seed: Some(number), ..Default::default() }, &wire);
        let reply = client.exchange(&request)?;
        read_reply(&reply)?;
        writeln!(out, "{{\"request\": {request}, \"reply\": {reply}}}")?;
    }
    out.flush()?;
    println!("{count} pairs recorded in {file}");
    Ok(())
}

/// Sends the requests of a file and compares the replies.
fn replay(url: &str, file: &str) -> Result<(), Box<dyn Error>> {
    let mut client = Client::connect(url, ClientOptions::default())?;
    let mut worst = 0.0_f32;
    for (number, line) in std::fs::read_to_string(file)?.lines().enumerate() {
        let pair: Value = serde_json::from_str(line)?;
        let before = read_reply(&pair["reply"].to_string())?.chunk;
        let now = read_reply(&client.exchange(&pair["request"].to_string())?)?.chunk;
        if (before.horizon(), before.width()) != (now.horizon(), now.width()) {
            return Err(format!("pair {number}: the chunks differ in shape").into());
        }
        let largest = before.values().iter().fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
        let pairs = before.values().iter().zip(now.values());
        let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
        println!("pair {number:4}  {:6.1} ms  relative difference {difference:.1e}", total(&pair["reply"]));
        worst = worst.max(difference);
    }
    if worst > TOLERANCE { Err(format!("the largest relative difference is {worst:.1e}").into()) } else { Ok(()) }
}

/// How long the recorded reply took.
fn total(reply: &Value) -> f64 {
    reply["milliseconds"]["total"].as_f64().unwrap_or(0.0)
}
