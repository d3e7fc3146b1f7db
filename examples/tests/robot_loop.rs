//! The loop keeps its rate while connections are cut and the server is started again, and goes on afterwards.
#![cfg(unix)]

use std::process::Command;

#[test]
fn a_loop_keeps_its_rate_whatever_the_network_does() {
    let output = Command::new(env!("CARGO_BIN_EXE_robot_loop")).arg("14").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let numbers: Vec<f64> =
        text.split(|c: char| !(c.is_ascii_digit() || c == '.')).filter_map(|word| word.parse().ok()).collect();
    println!("{text}");
    // The two after the chunks are percentiles, each with its number.
    let [ticks, late, holds, chunks, .., failed, restored, cuts, restarts] = numbers[..] else {
        panic!("{text}");
    };
    assert!((400.0..=425.0).contains(&ticks), "30 a second: {text}");
    assert!(late < ticks / 20.0, "{text}");
    assert!(restarts >= 2.0 && cuts >= 3.0, "the network is bad: {text}");
    assert!(failed >= restarts && restored >= restarts, "the loop notices: {text}");
    assert!(chunks >= 10.0 && holds < ticks / 3.0, "the robot moves: {text}");
}
