//! `evo1 ablate`: studies run whole, task by task, by several workers, and after whatever ended them.
#![cfg(feature = "ablate")]

mod support;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use evo1::test_support::fixture;
use serde_json::Value;
use support::{printed, refusal, stderr, stdout, text};
use tempfile::TempDir;

/// A study on a copy of the fixtures' dataset.
struct Study {
    folder: TempDir,
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let copy = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy_folder(&path, &copy),
            false => assert!(std::fs::copy(&path, &copy).is_ok()),
        }
    }
}

impl Study {
    fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        copy_folder(&fixture("lerobot-datasets/v30"), &folder.path().join("data"));
        let study = Self { folder };
        study.write(more);
        study
    }

    fn write(&self, more: &str) {
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/tiny.yaml");
        let contents = format!(
            "title: Some cells\nbase: {}\nset:\n  data: {folder}/train.yaml\n  steps: 4\n  batch_size: 4\n  log_every: 2\n\
             {more}\nheld_out: {{batches: 1, data: {folder}/held-out.yaml}}\n",
            recipe.display(),
            folder = self.folder.path().display(),
        );
        std::fs::write(self.file(), contents).expect("study");
        for name in ["train.yaml", "held-out.yaml"] {
            let data = "data_groups: {default: {dataset: {path: data}}}\n";
            std::fs::write(self.path(name), data).expect("data");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("study.yaml")
    }

    fn command(&self, out: &str, arguments: &[&str]) -> Command {
        let (file, out) = (self.file(), self.path(out));
        let mut command = support::command(&["ablate", text(&file), "--device", "flex", "--out", text(&out)]);
        command.args(arguments);
        command
    }

    fn run(&self, out: &str, arguments: &[&str]) -> Output {
        self.command(out, arguments).output().expect("the program runs")
    }

    fn list(&self, out: &str) -> Vec<Value> {
        let lines = printed(&self.run(out, &["--list", "--json"]));
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The outcomes of all tasks by cell and seed.
    fn outcomes(&self, out: &str) -> BTreeMap<(String, u64), Value> {
        let mut outcomes = BTreeMap::new();
        for task in self.list(out) {
            let file = self.path(out).join(format!("results/{}.json", task["key"].as_str().expect("a key")));
            let Ok(text) = std::fs::read_to_string(file) else { continue };
            let of_task: Vec<Value> = serde_json::from_str(&text).expect("JSON");
            for outcome in of_task {
                let cell = outcome["cell"].as_str().expect("a cell").to_owned();
                outcomes.insert((cell, outcome["seed"].as_u64().expect("a seed")), outcome);
            }
        }
        outcomes
    }

    /// The report, but for times.
    fn report(&self, out: &str) -> String {
        let read = |name: &str| std::fs::read_to_string(self.path(out).join(name)).unwrap_or_default();
        let mut report = String::new();
        for line in read("results.md").lines() {
            let cells: Vec<&str> = line.split('|').collect();
            let is_first_table = cells.len() == 11;
            let shown = cells.into_iter().enumerate().filter(|(at, _)| !is_first_table || *at != 4);
            report += &shown.map(|(_, cell)| cell).collect::<Vec<_>>().join("|");
            report.push('\n');
        }
        for line in read("results.csv").lines() {
            let columns: Vec<&str> = line.split(',').collect();
            let time = columns.len() - 3;
            let kept = columns.iter().enumerate().filter(|(at, _)| *at != time).map(|(_, column)| *column);
            report += &(kept.collect::<Vec<_>>().join(",") + "\n");
        }
        report + &read("episodes.csv")
    }
}

#[test]
fn a_study_measures_every_cell_and_repeats_nothing() {
    let cells = "cells:\n- {name: base, solver: euler}\n- {name: Heun, solver: heun}\n- {name: joint, integration: joint-kv, \
                 stages: two}\n- {name: too much, batch_size: 100000}\nseeds: [0, 1]";
    let study = Study::new(cells);
    let missing = |arguments: &[&str]| {
        let message = refusal(arguments, &study.run("out", arguments), 1);
        assert!(message.contains("2 of 8 results are missing"), "{message}");
        message
    };
    missing(&[]);
    let first = study.outcomes("out");
    assert_eq!(first.len(), 8);
    for ((cell, _), outcome) in &first {
        let is_refused = cell == "too much";
        assert_eq!(outcome["measured"]["rmse"].as_f64().is_some_and(f64::is_finite), !is_refused, "{outcome}");
        assert_eq!(outcome["error"].as_str().is_some_and(|error| error.contains("`batch_size` must be")), is_refused);
    }
    // Base and Heun share their training, and the two stages are two runs.
    let runs = std::fs::read_dir(study.path("out/runs")).expect("runs").count();
    assert_eq!(runs, 2 * (1 + 2 + 1));
    let report = std::fs::read_to_string(study.path("out/report.html")).expect("report");
    assert!(report.contains("Some cells") && report.contains("too much") && report.contains("base64"));
    let table = std::fs::read_to_string(study.path("out/results.md")).expect("table");
    assert!(table.contains("| Heun |") && table.contains(" ± ") && table.contains("too much, seed 1: "), "{table}");

    // What was measured stays; what failed is tried again; messages of before stay too.
    let said = missing(&["--jobs", "2"]);
    assert_eq!(said.matches("too much, seed").count(), 2, "{said}");
    assert!(!said.contains("base, seed"), "{said}");
    let second = study.outcomes("out");
    for (key, outcome) in first.iter().filter(|((cell, _), _)| cell != "too much") {
        assert_eq!(&second[key], outcome);
    }
    let failed = study.list("out")[2]["key"].as_str().expect("a key").to_owned();
    let log = std::fs::read_to_string(study.path(&format!("out/runs/{failed}-0/log.txt"))).expect("a log");
    assert_eq!(log.matches("`batch_size` must be").count(), 2, "{log}");
}

#[test]
fn a_study_that_cannot_run_is_refused_before_anything_runs() {
    let study = Study::new("");
    let refuse = |more: &str, expected: &str| {
        study.write(more);
        let message = refusal(more, &study.run("out", &[]), 1);
        assert!(message.contains(expected), "{message}");
        assert!(!study.path("out").exists(), "{more}");
    };
    refuse("seeds: [0]\naxes: {integraton: [joint-kv]}", "there is no axis `integraton`; the axes are");
    refuse("seeds: [0]\naxes: {integration: [joint]}", "mid-layer-cross, interleaved, layer-wise, joint-kv");
    refuse("seeds: [0]\naxes: {noise: [uniform]}\nsead: 1", "unknown field `sead`");
    std::fs::remove_dir_all(study.path("data/meta")).expect("removed");
    refuse("seeds: [0]\naxes: {noise: [uniform]}", "data");
    let message = refusal("dtype", &study.run("out", &["--dtype", "bf16"]), 1);
    assert!(message.contains("--set compute=bf16"), "{message}");
    for name in ["integration", "layers", "steps", "two-stage"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let file = root.join("ablations").join(format!("{name}.yaml"));
        let checked = support::command(&["ablate", text(&file), "--check"]).current_dir(&root).output();
        let checked = checked.expect("the program runs");
        let cells = String::from_utf8_lossy(&checked.stdout);
        assert!(cells.contains("3 seeds"), "{name}: {cells}");
        // All but the data, which have to be collected.
        let message = refusal(name, &checked, 1);
        assert!(message.contains("data/metaworld"), "{name}: {message}");
    }
}

#[test]
fn tasks_run_one_by_one_and_what_became_stale_is_measured_anew() {
    let study = Study::new("seeds: [0, 1]\naxes: {noise: [uniform, normal], solver: [euler, heun]}");
    let list = study.list("out");
    assert_eq!(list.len(), 4);
    let cells = |at: usize| list[at]["cells"].as_array().expect("cells").len();
    assert_eq!((cells(0), &list[0]["seed"], &list[3]["seed"], &list[0]["steps"]), (2, &0.into(), &1.into(), &4.into()));
    assert!(list.iter().all(|task| task["done"] == false));
    let key = list[1]["key"].as_str().expect("a key");
    let lines = printed(&study.run("out", &["--list"]));
    let line = lines.lines().nth(1).expect("a line");
    assert!(line.starts_with(&format!("{key}\t1\tseed 0\t1 runs, 4 steps of 4, 0 goals\tmissing\t")), "{line}");

    printed(&study.run("out", &["--task", key]));
    let file = study.path(&format!("out/results/{key}.json"));
    let written = std::fs::metadata(&file).expect("a result").modified().expect("a time");
    // Once more, by its number: it is done.
    printed(&study.run("out", &["--task", "1"]));
    assert_eq!(std::fs::metadata(&file).expect("a result").modified().expect("a time"), written);
    let collected = study.run("out", &["--collect"]);
    let message = refusal("collect", &collected, 1);
    assert!(message.contains("6 of 8 results are missing"), "{message}");
    let table = std::fs::read_to_string(study.path("out/results.md")).expect("table");
    let other = list[2]["key"].as_str().expect("a key");
    assert!(table.contains(&format!("seed 1: task {other} has not run")), "{table}");
    assert_eq!(study.list("out").iter().filter(|task| task["done"] == true).count(), 1);
    let message = refusal("no task", &study.run("out", &["--task", "4"]), 1);
    assert!(message.contains("there is no task `4`: give a number below 4"), "{message}");

    // Held-out data that are others concern the measurement alone.
    let held_out = "data_groups: {default: {dataset: {path: data, episodes: [0]}}}\n";
    std::fs::write(study.path("held-out.yaml"), held_out).expect("other data");
    let again = study.list("out");
    assert_eq!((&again[1]["key"], &again[1]["done"]), (&list[1]["key"], &false.into()));
    // The text of the training data's file, and the data themselves, concern the training.
    let train = "state_noise: 0.1\ndata_groups: {default: {dataset: {path: data}}}\n";
    std::fs::write(study.path("train.yaml"), train).expect("other data");
    let train_key = study.list("out")[1]["key"].clone();
    assert_ne!(train_key, list[1]["key"], "the data's file");
    let videos = std::fs::read_dir(study.path("data/videos/observation.images.front/chunk-000")).expect("videos");
    let video = videos.map(|entry| entry.expect("a video").path()).min().expect("one");
    let bytes = std::fs::read(&video).expect("a video");
    std::fs::write(&video, &bytes).expect("the same");
    assert_eq!(study.list("out")[1]["key"], train_key, "the same bytes are the same data");
    std::fs::write(&video, [&bytes[..], &[0]].concat()).expect("other bytes");
    assert_ne!(study.list("out")[1]["key"], train_key, "the data");
}

/// Waits until something is so.
fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(180), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(unix)]
fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &process.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

#[cfg(unix)]
#[test]
fn four_workers_of_which_two_are_killed_come_to_what_one_comes_to() {
    // The evaluator's goals depend on its number and the task alone, and some of them on the policy's server being there.
    let script = "for seed in $(echo $EVO1_SEEDS | tr , ' '); do [ $((seed % 3)) = 0 ] && won=true || won=false; echo \
                  \"{\\\"task\\\": \\\"$EVO1_TASK\\\", \\\"seed\\\": $seed, \\\"success\\\": $won, \\\"steps\\\": 7}\"; done";
    let study = Study::new("");
    std::fs::write(study.path("evaluator.sh"), script).expect("an evaluator");
    let evaluator = study.path("evaluator.sh");
    study.write(&format!(
        "seeds: [0, 1]\naxes: {{noise: [uniform, normal], steps: [1, 2]}}\nmeasure: {{command: sh {}, tasks: [a, b], goals: \
         \"0:4\", parallel: 2}}",
        evaluator.display()
    ));
    printed(&study.run("one", &[]));

    let number = study.list("four").len();
    assert_eq!(number, 4);
    let start = |task: usize| {
        let mut command = study.command("four", &["--task", &task.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program runs")
    };
    let mut workers: Vec<Child> = (0..number).map(start).collect();
    // Two are killed in the midst of their work: what they started works on by itself, and is not disturbed.
    let keys: Vec<String> =
        study.list("four").iter().map(|task| task["key"].as_str().expect("a key").to_owned()).collect();
    for (worker, key) in workers.iter_mut().zip(&keys).take(2) {
        wait_for("a task under way", || study.path(&format!("four/runs/{key}-0/log.txt")).exists());
        signal(worker, "-KILL");
        assert!(!worker.wait().expect("ended").success());
    }
    // As a scheduler does that tries again what was killed; and another machine has the plain command.
    workers.extend((0..2).map(start));
    printed(&study.run("four", &["--jobs", "2"]));
    for mut worker in workers.into_iter().skip(2) {
        assert!(worker.wait().expect("ended").success());
    }
    let collected = printed(&study.run("four", &["--collect"]));
    assert!(collected.contains("no difference shown"), "{collected}");
    let (one, four) = (study.report("one"), study.report("four"));
    assert!(one.contains("\"normal, steps 2\",1,\"b\",3,true,7") && one.contains("50.0 % (28.0–72.0)"), "{one}");
    assert_eq!(one, four);
    assert!(study.list("four").iter().all(|task| task["done"] == true));
}

#[cfg(not(feature = "cuda"))]
#[test]
fn tasks_side_by_side_take_the_devices_in_turn() {
    let study = Study::new("seeds: [0]\naxes: {noise: [uniform, normal]}");
    let message = refusal("devices", &study.run("out", &["--devices", "flex,cuda:1"]), 1);
    assert!(message.contains("1 of 2 results are missing"), "{message}");
    let outcomes = study.outcomes("out");
    let errors: Vec<&str> = outcomes.values().filter_map(|outcome| outcome["error"].as_str()).collect();
    assert!(errors.len() == 1 && errors[0].contains("cuda"), "{errors:?}");
    printed(&study.run("out", &[]));
    refusal("no device", &study.run("out", &["--devices", "flex,toaster"]), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn sigterm_ends_what_a_study_started() {
    let study = Study::new("seeds: [0]\naxes: {noise: [uniform]}");
    let mut command = study.command("out", &["--set", "steps=100000"]);
    let worker = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let runs = study.path("out/runs");
    let run = || std::fs::read_dir(&runs).ok()?.next()?.ok().map(|entry| entry.path());
    wait_for("a step", || run().is_some_and(|run| run.join("metrics.jsonl").exists()));
    let children = || {
        let is_meant = |entry: std::io::Result<std::fs::DirEntry>| {
            let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
            String::from_utf8_lossy(&line).contains(text(&runs)).then_some(())
        };
        std::fs::read_dir("/proc").expect("processes").filter_map(is_meant).count()
    };
    assert_eq!(children(), 1);
    signal(&worker, "-TERM");
    let output = worker.wait_with_output().expect("ended");
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert_eq!(children(), 0);
    assert!(stdout(&output).is_empty() && !study.path("out/results").exists());
    let checkpoints = run().expect("a run").join("checkpoints");
    assert!(std::fs::read_dir(checkpoints).expect("checkpoints").count() > 0, "what was trained is saved");
}
