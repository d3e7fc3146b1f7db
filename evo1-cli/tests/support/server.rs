//! A server as a process of its own, and what it is asked. The tests of the examples use this file too.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use evo1::{Frame, Observation, View};
use evo1_serve::client::{Client, ClientOptions};

/// A program that serves a policy. Its process is ended when this is dropped.
pub(crate) struct Serving {
    pub(crate) process: Child,
    /// Where it listens, `ws://HOST:PORT`.
    pub(crate) address: String,
}

impl Serving {
    /// Starts the program, and waits until it says where it listens.
    pub(crate) fn start(command: &mut Command) -> Self {
        let process = command.stdout(Stdio::piped()).spawn().expect("the program runs");
        let mut serving = Self { process, address: String::new() };
        let mut line = String::new();
        BufReader::new(serving.process.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
        serving.address = line.trim().strip_prefix("listening on ").expect("where it listens").to_owned();
        serving
    }

    /// A client that takes the first `action_dim` columns of an action.
    pub(crate) fn client(&self, action_dim: usize) -> Client {
        let options = ClientOptions { action_dim: Some(action_dim), ..ClientOptions::default() };
        Client::connect(&self.address, options).expect("a connection")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The frame of `evo1-cli/assets/image.png`.
pub(crate) fn sample_frame() -> Frame {
    decoded(include_bytes!("../../assets/image.png"))
}

fn decoded(png: &[u8]) -> Frame {
    let image = image::load_from_memory(png).expect("an image").into_rgb8();
    Frame::new(image.width() as usize, image.height() as usize, image.into_raw()).expect("full")
}

/// The observation that is embedded in the program.
pub(crate) fn sample() -> Observation {
    let frames = [sample_frame(), decoded(include_bytes!("../../assets/behind_gripper.png"))];
    Observation {
        views: frames.into_iter().map(View::Present).collect(),
        state: vec![-0.036_235_336, 0.665_726, 0.287_711_44, 1.0, -0.061_623_827, 0.73, 0.09, 1.0],
        instruction: "Open the drawer".into(),
        ..Observation::default()
    }
}
