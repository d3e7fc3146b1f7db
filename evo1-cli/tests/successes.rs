//! `evo1 evaluate --rollout` with evaluators that need no simulator.
#![cfg(all(unix, feature = "train", feature = "serve"))]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use evo1_serve::client::{CallOptions, Client, ClientOptions};
use serde_json::Value;
use support::{command, document, printed, refusal, server::sample, stderr, text};
use tempfile::TempDir;

/// A folder with an evaluator: a shell script that is told of `$EVO1_TASK` and of each goal as `$seed`.
struct Trial {
    folder: TempDir,
    more: Vec<String>,
}

impl Trial {
    fn new(each: &str) -> Self {
        let trial = Self { folder: tempfile::tempdir().expect("folder"), more: Vec::new() };
        trial.write(each);
        trial
    }

    fn write(&self, each: &str) {
        let script = format!(
            "echo started >> '{folder}/calls'\nfor seed in $(echo $EVO1_SEEDS | tr , ' '); do\n{each}\ndone\n",
            folder = self.folder.path().display()
        );
        std::fs::write(self.path("evaluator.sh"), script).expect("script");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, rollout: &str, arguments: &[&str]) -> Command {
        let out = self.path("out");
        let mut command = command(&["evaluate", "--device", "flex", "--steps", "2", "--rollout", rollout, "--out"]);
        command.arg(out).args(arguments).args(&self.more);
        command
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        let rollout = format!("sh '{}'", text(&self.path("evaluator.sh")));
        self.command(&rollout, arguments).output().expect("the program runs")
    }

    /// How many evaluators were started.
    fn calls(&self) -> usize {
        std::fs::read_to_string(self.path("calls")).unwrap_or_default().lines().count()
    }

    fn summary(&self) -> Value {
        let text = std::fs::read_to_string(self.path("out/success.json")).expect("a summary");
        serde_json::from_str(&text).expect("JSON")
    }
}

/// Prints the result of a goal: even ones succeed.
const RESULT: &str = r#"[ $((seed % 2)) = 0 ] && success=true || success=false
echo "{\"task\": \"$EVO1_TASK\", \"seed\": $seed, \"success\": $success, \"steps\": $((seed + 10)), \"group\": \"g-$EVO1_TASK\"}""#;

const TASKS: [&str; 4] = ["--tasks", "reach,push the puck", "--goals", "0:4,7"];

#[test]
fn successes_are_counted_and_nothing_is_tried_twice() {
    let trial = Trial::new(&format!("echo some words\n{RESULT}"));
    let output = trial.run(&TASKS);
    let table = printed(&output);
    assert!(table.contains("40.0 % (11.8–76.9)") && table.contains("4 of 10"), "{table}");
    assert!(table.contains("g-push the puck") && table.contains("mean of the groups: 40.0 %"), "{table}");
    assert!(stderr(&output).contains("goal 10 of 10, 40.0 % successful"), "{}", stderr(&output));
    let summary = trial.summary();
    assert_eq!((summary["all"]["episodes"].as_u64(), summary["all"]["successes"].as_u64()), (Some(10), Some(4)));
    assert_eq!(summary["tasks"][1]["mean_steps"].as_f64(), Some(11.0));
    for file in ["success.png", "success.csv", "episodes.jsonl", "logs/push-the-puck.log"] {
        assert!(trial.path("out").join(file).is_file(), "{file}");
    }
    // The same again needs no evaluator; more goals need them for those alone, and a cut line is no result.
    let calls = trial.calls();
    printed(&trial.run(&TASKS));
    assert_eq!((trial.calls(), trial.summary()), (calls, summary));
    let episodes = std::fs::read_to_string(trial.path("out/episodes.jsonl")).expect("episodes");
    std::fs::write(trial.path("out/episodes.jsonl"), &episodes[..episodes.len() - 9]).expect("cut");
    let more =
        document(&trial.run(&["--tasks", "reach,push the puck", "--goals", "0:4,7,8", "--json", "--parallel", "3"]));
    assert_eq!((more["all"]["episodes"].as_u64(), more["all"]["successes"].as_u64()), (Some(12), Some(6)));
    let lines = std::fs::read_to_string(trial.path("out/episodes.jsonl")).expect("episodes");
    assert_eq!(lines.lines().count(), 13, "{lines}");
}

#[test]
fn results_of_another_policy_or_command_are_refused() {
    let trial = Trial::new(RESULT);
    printed(&trial.run(&TASKS));
    let calls = trial.calls();
    let seed = [&TASKS[..], &["--seed", "1"]].concat();
    let message = refusal("seed", &trial.run(&seed), 1);
    assert!(message.contains("holds results of something else: `settings` was"), "{message}");
    trial.write(&format!("{RESULT} # changed"));
    let message = refusal("script", &trial.run(&TASKS), 1);
    assert!(message.contains("evaluator.sh` was") && message.contains("--fresh"), "{message}");
    assert_eq!(trial.calls(), calls);
    printed(&trial.run(&[&TASKS[..], &["--fresh"]].concat()));
    assert!(trial.calls() > calls);
}

#[test]
fn a_crash_is_tried_once_more_and_what_is_still_missing_is_said() {
    // Goal 1 crashes always, goal 3 the first time.
    let once = r#"if [ $seed = 1 ]; then echo "cannot do it" >&2; exit 3; fi
if [ $seed = 3 ] && [ ! -e "$0.$EVO1_TASK" ]; then touch "$0.$EVO1_TASK"; kill -9 $$; fi"#;
    let mut trial = Trial::new(&format!("{once}\n{RESULT}"));
    trial.more = vec!["--parallel".into(), "2".into()];
    let output = trial.run(&["--tasks", "a,b", "--goals", "0:12"]);
    let message = refusal("crash", &output, 1);
    assert!(message.contains("2 of 24 goals have no result") && message.contains("cannot do it"), "{message}");
    let summary = trial.summary();
    assert_eq!(summary["missing"], serde_json::json!([["a", 1], ["b", 1]]));
    assert_eq!((summary["all"]["episodes"].as_u64(), summary["all"]["missing"].as_u64()), (Some(22), Some(2)));
    assert!(support::stdout(&output).contains("1 missing"), "{}", support::stdout(&output));

    // A crash after all results is said, and costs nothing.
    let late = Trial::new(RESULT);
    let script = std::fs::read_to_string(late.path("evaluator.sh")).expect("script");
    std::fs::write(late.path("evaluator.sh"), script + "exit 7\n").expect("script");
    let output = late.run(&["--tasks", "a", "--goals", "0:2"]);
    printed(&output);
    assert!(stderr(&output).contains("every goal has a result, but of the evaluator: it ended"), "{}", stderr(&output));

    // What never gives anything is not tried goal by goal.
    let broken = Trial::new("echo nothing works >&2; exit 1");
    let message = refusal("broken", &broken.run(&["--tasks", "a", "--goals", "0:40"]), 1);
    assert!(message.contains("40 of 40 goals") && message.contains("nothing works"), "{message}");
    assert_eq!(broken.calls(), 4);
}

#[test]
fn what_an_evaluator_must_not_print_is_no_result() {
    for (line, expected) in [
        (r#"echo "{\"task\": \"other\", \"seed\": $seed, \"success\": true, \"steps\": 1}""#, "not asked for"),
        (r#"echo "{\"task\": \"a\", \"seed\": 99, \"success\": true, \"steps\": 1}""#, "not asked for"),
        (r#"echo "{\"task\": \"a\", \"seed\": $seed, \"success\": 1, \"steps\": 1}""#, "expected a boolean"),
        (r#"echo "{\"task\": \"a\", \"seed\": $seed, \"steps\": 1}""#, "missing field `success`"),
        ("true", "it gave no result"),
    ] {
        let trial = Trial::new(line);
        let message = refusal(line, &trial.run(&["--tasks", "a", "--goals", "0:2"]), 1);
        assert!(message.contains(expected) && message.contains("2 of 2 goals have no result"), "{message}");
    }
}

#[test]
fn what_cannot_be_tried_is_refused() {
    let trial = Trial::new(RESULT);
    let refuse = |rollout: &str, arguments: &[&str], code: i32, expected: &str| {
        let output = trial.command(rollout, arguments).output().expect("the program runs");
        let message = refusal(rollout, &output, code);
        assert!(message.contains(expected), "{message}");
    };
    refuse("no-such-program", &TASKS, 1, "cannot start `no-such-program`");
    refuse("'unfinished", &TASKS, 1, "--rollout: expected a program");
    refuse("sh", &["--tasks", "a", "--goals", "4:1"], 1, "--goals: it names no goal");
    refuse("sh", &["--tasks", "a,a", "--goals", "1"], 1, "a task is named twice");
    refuse("sh", &["--tasks", "a"], 2, "--goals <GOALS>");
    refuse("sh", &[&TASKS[..], &["--serve", "--bind 0.0.0.0:1"]].concat(), 1, "--serve: --bind is no option");
    refuse("sh", &[&TASKS[..], &["--serve", "--smothing 1"]].concat(), 1, "--smothing");
    refuse("sh", &[&TASKS[..], &["--data", "x.yaml"]].concat(), 2, "cannot be used with");
    let fixture = evo1::test_support::fixture("tiny-official");
    let missing = trial.command("sh", &[&TASKS[..], &["--policy", text(&fixture)]].concat()).output();
    let message = refusal("statistics", &missing.expect("the program runs"), 1);
    assert!(message.contains("no statistics"), "{message}");
}

/// Processes whose command line has a text in it.
fn running(needle: &str) -> usize {
    let is_meant = |entry: std::io::Result<std::fs::DirEntry>| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (line.starts_with("sh ") && line.contains(needle)).then_some(())
    };
    std::fs::read_dir("/proc").expect("processes").filter_map(is_meant).count()
}

#[cfg(target_os = "linux")]
#[test]
fn sigterm_ends_the_evaluators_and_keeps_what_there_is() {
    let trial = Trial::new(&format!("[ $seed = 2 ] && sleep 600\n{RESULT}"));
    let script = trial.path("evaluator.sh");
    let rollout = format!("sh '{}'", text(&script));
    let mut tried = trial.command(&rollout, &["--tasks", "a", "--goals", "0:4", "--parallel", "4"]);
    let mut process = tried.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the program runs");
    let lines = || std::fs::read_to_string(trial.path("out/episodes.jsonl")).unwrap_or_default().lines().count();
    let began = Instant::now();
    // The others have given their results and ended.
    while lines() < 4 || running(text(&script)) != 1 {
        assert!(began.elapsed() < Duration::from_secs(120), "no results");
        std::thread::sleep(Duration::from_millis(50));
    }
    let id = process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    assert_eq!(process.wait().expect("ended").code(), Some(130));
    assert_eq!((running(text(&script)), lines()), (0, 4));
    trial.write(RESULT);
    let all = trial.run(&["--tasks", "a", "--goals", "0:4", "--fresh"]);
    assert!(printed(&all).contains("2 of 4"));
}

/// Not a test but an evaluator over the authors' protocol, which the test below has the program start.
#[test]
#[ignore = "an evaluator"]
fn evaluator() {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    println!();
    for seed in variable("EVO1_SEEDS").split(',').filter(|seed| !seed.is_empty()) {
        let options = ClientOptions { action_dim: Some(4), ..ClientOptions::default() };
        let mut client = Client::connect(&variable("EVO1_URL"), options).expect("a connection");
        let reply = client.predict(&sample(), &CallOptions::default()).expect("an answer");
        let (task, steps) = (variable("EVO1_TASK"), reply.chunk.horizon());
        println!("{{\"task\": \"{task}\", \"seed\": {seed}, \"success\": true, \"steps\": {steps}}}");
    }
}

#[test]
fn an_evaluator_talks_to_the_policy() {
    let trial = Trial::new(RESULT);
    let itself = std::env::current_exe().expect("this program");
    let rollout = format!("'{}' evaluator --exact --ignored --nocapture", text(&itself));
    let output = trial.command(&rollout, &["--tasks", "a", "--goals", "0:6", "--parallel", "2", "--json"]).output();
    let summary = document(&output.expect("the program runs"));
    assert_eq!(summary["all"]["successes"].as_u64(), Some(6));
    assert_eq!(summary["all"]["mean_steps"].as_f64(), Some(8.0));
    assert!(Path::new(&trial.path("out/success.csv")).is_file());
}
