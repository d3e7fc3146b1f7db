//! The program from outside: runs of it, and what it says when it refuses.
#![allow(dead_code, reason = "each test file uses a part")]

#[cfg(all(unix, feature = "serve"))]
pub(crate) mod server;

use std::{
    fmt::Debug,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

/// The program with arguments, ready to run on the device that it chooses unasked.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evo1"));
    command.args(arguments).env_remove("EVO1_DEVICE");
    command
}

/// Runs the program.
pub(crate) fn evo1(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the program runs")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("the program prints UTF-8")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a run printed, which must have ended well.
#[track_caller]
pub(crate) fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    stdout(output)
}

/// What the program prints for the arguments, with which it must end well.
#[track_caller]
pub(crate) fn done(arguments: &[&str]) -> String {
    let output = evo1(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

/// The JSON that a run printed, which must have ended well.
#[track_caller]
pub(crate) fn document(output: &Output) -> Value {
    serde_json::from_str(&printed(output)).expect("JSON")
}

/// What the program itself wrote to standard error: a graphics driver may write lines on its own account.
pub(crate) fn own_lines(output: &Output) -> String {
    let is_driver = |line: &&str| line.contains("XDG_RUNTIME_DIR") || line.contains("wgpu_hal");
    stderr(output).lines().filter(|line| !is_driver(line)).collect::<Vec<_>>().join("\n")
}

/// The message of a run that must have ended with `code`, one error and no panic; `what` is for the message of a failure.
#[track_caller]
pub(crate) fn refusal(what: impl Debug, output: &Output, code: i32) -> String {
    let message = own_lines(output);
    assert_eq!(output.status.code(), Some(code), "{what:?}: {message}");
    assert!(!message.contains("panicked"), "{what:?}: {message}");
    assert_eq!(message.lines().filter(|line| line.starts_with("error:")).count(), 1, "{what:?}: {message}");
    message
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("the paths of tests are UTF-8")
}
