//! Training by several processes, as `mpirun` starts them. Skipped where there is no `mpirun`.
#![cfg(all(unix, feature = "mpi", feature = "flex"))]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use evo1::{rng::RngExt, test_support::fixture};
use support::stderr;

/// A run of the tiny recipe on a dataset, by some processes; the program's own where it is one.
fn command(processes: usize, arguments: &[&str]) -> Command {
    let program = env!("CARGO_BIN_EXE_evo1");
    let mut command = Command::new(if processes == 1 { program } else { "mpirun" });
    if processes > 1 {
        command.args(["-n", &processes.to_string(), "--oversubscribe", "--allow-run-as-root", program]);
    }
    command.args(["train", "--device", "flex"]).args(arguments);
    command
}

fn train(processes: usize, arguments: &[&str]) -> Output {
    command(processes, arguments).output().expect("the program runs")
}

/// Settings of a run that ends after 6 steps of 8 observations, in batches of 2.
fn settings(dataset: &Path, run: &Path, accumulate: usize) -> Vec<String> {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/tiny.yaml");
    let mut arguments = vec!["--config".to_owned(), recipe.display().to_string()];
    for set in [
        format!("data.data_groups.default.dataset.path={}", dataset.display()),
        format!("output={}", run.display()),
        format!("accumulate={accumulate}"),
        "batch_size=2".to_owned(),
        "steps=6".to_owned(),
        "checkpoints.every=2".to_owned(),
        "schedule.warmup_steps=1".to_owned(),
    ] {
        arguments.extend(["--set".to_owned(), set]);
    }
    arguments
}

fn run(processes: usize, dataset: &Path, run: &Path, accumulate: usize) -> Output {
    let settings = settings(dataset, run, accumulate);
    train(processes, &settings.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Weights and optimiser of a run's step.
fn state(run: &Path, step: u64) -> [Vec<u8>; 2] {
    let checkpoint = run.join(format!("checkpoints/step-{step:08}"));
    ["model.safetensors", "training/optimizer.bpk"].map(|file| std::fs::read(checkpoint.join(file)).expect(file))
}

fn has_mpirun() -> bool {
    let found = Command::new("mpirun").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: there is no mpirun");
    }
    found
}

fn dataset() -> PathBuf {
    fixture("lerobot-datasets/v30")
}

#[test]
fn processes_do_to_the_bit_what_one_does_and_go_on_for_each_other() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for (processes, name, accumulate) in [(1, "one", 4), (2, "two", 2), (4, "four", 1)] {
        let output = run(processes, &dataset(), &at(name), accumulate);
        assert!(output.status.success(), "{processes}: {}", stderr(&output));
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text.matches("6 steps, loss").count(), 1, "one process speaks: {text}");
        assert!(state(&at(name), 6) == state(&at("one"), 6), "{processes} processes: other bits");
    }
    // The run of two goes on with one, and then with four.
    for (processes, accumulate) in [(1, "accumulate=4"), (4, "accumulate=1")] {
        let two = at("two").display().to_string();
        let (step, steps) = (6 + processes as u64, format!("steps={}", 6 + processes));
        let output = train(processes, &["--resume", &two, "--set", accumulate, "--set", &steps]);
        assert!(output.status.success(), "{}", stderr(&output));
        let output = train(1, &["--resume", &at("one").display().to_string(), "--set", &steps]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(state(&at("two"), step) == state(&at("one"), step), "with {processes}: other bits");
    }
    // Not with another effective batch.
    let two = at("two").display().to_string();
    let refused = train(4, &["--resume", &two, "--set", "steps=20", "--set", "accumulate=4"]);
    assert!(!refused.status.success());
    assert!(stderr(&refused).contains("effective_batch: was 8, is 32"), "{}", stderr(&refused));
}

#[test]
fn a_process_that_fails_ends_all_and_what_was_done_is_saved() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (data, run_folder) = (folder.path().join("data"), folder.path().join("run"));
    copy(&dataset(), &data);
    let videos = files(&data).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "mp4"));
    let video = videos.max().expect("a video");
    let bytes = std::fs::read(&video).expect("a video");
    let half = bytes.len() / 2;
    let damaged = bytes.iter().enumerate().map(|(at, &byte)| if at > half && at < half + 400 { 0 } else { byte });
    std::fs::write(&video, damaged.collect::<Vec<u8>>()).expect("written");
    let output = run(2, &data, &run_folder, 2);
    assert!(!output.status.success(), "a damaged video was read");
    let said = stderr(&output);
    assert!(said.contains(&*video.file_name().expect("a name").to_string_lossy()), "{said}");
}

#[test]
fn a_process_that_cannot_begin_keeps_nobody_waiting() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let run_folder = folder.path().join("run");
    std::fs::create_dir(&run_folder).expect("a folder");
    let held = std::fs::File::create(run_folder.join("run.lock")).expect("a file");
    held.lock().expect("this test has it");
    // Of the two the first one alone looks for it.
    let output = run(2, &dataset(), &run_folder, 2);
    assert!(!output.status.success());
    let said = stderr(&output);
    assert!(said.contains("error: process 0 of 2") && said.contains("no other process trains in"), "{said}");
}

#[test]
fn an_interrupted_run_is_saved_by_all() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut arguments = settings(&dataset(), &folder.path().join("run"), 2);
    arguments.extend(["--set".into(), "steps=100000".into(), "--set".into(), "checkpoints.every=100000".into()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut running = command(2, &arguments).stdout(std::process::Stdio::null()).spawn().expect("it starts");
    let metrics = folder.path().join("run/metrics.jsonl");
    while std::fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() < 1) || !metrics.exists() {
        assert!(running.try_wait().expect("a state").is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(50));
    }
    let killed = Command::new("kill").args(["-INT", &running.id().to_string()]).status();
    assert!(killed.expect("kill").success());
    assert!(!running.wait().expect("it ends").success());
    let saved = std::fs::read_dir(folder.path().join("run/checkpoints")).expect("checkpoints");
    assert!(
        saved.map(|entry| entry.expect("entry").file_name()).any(|name| name.to_string_lossy().starts_with("step-"))
    );
}

/// The processes that `parent` has started.
fn children(parent: u32) -> Vec<u32> {
    let is_child = |process: &u32| {
        // After the name, which may hold anything, the state and then the parent.
        let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        text.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(&parent.to_string())
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

fn runs_killed_end_with_the_same_bytes(kills: u64) {
    if !has_mpirun() || !Path::new("/proc/self/stat").exists() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let began = std::time::Instant::now();
    assert!(run(2, &dataset(), &whole, 2).status.success());
    let longest = began.elapsed().as_secs_f64();
    let arguments = settings(&dataset(), &killed, 2);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut rng = evo1::rng::stream(kills, "kill");
    let end = |process: u32| {
        let _ = Command::new("kill").args(["-KILL", &process.to_string()]).stderr(std::process::Stdio::null()).status();
    };
    for kill in 0..kills {
        let mut running = command(2, &arguments);
        let running = running.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
        let mut running = running.expect("it starts");
        std::thread::sleep(Duration::from_secs_f64(longest * f64::from(rng.random::<f32>())));
        let ranks = children(running.id());
        // The machine fails, or one process does and the launcher ends the others.
        match kill % 3 {
            0 => {
                end(running.id());
                ranks.iter().copied().for_each(end);
            }
            which => end(ranks.get(which as usize - 1).copied().unwrap_or(running.id())),
        }
        running.wait().expect("it ends");
        let is_there = |process: &u32| Path::new(&format!("/proc/{process}")).exists();
        while ranks.iter().any(is_there) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if killed.join("checkpoints/step-00000006").is_dir() {
            assert!(state(&killed, 6) == state(&whole, 6), "after {kill} kills: other bits");
            std::fs::remove_dir_all(&killed).expect("it begins anew");
        }
    }
    let output = train(2, &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(state(&killed, 6) == state(&whole, 6), "other bits");
}

#[test]
fn killed_processes_end_with_the_same_bytes() {
    runs_killed_end_with_the_same_bytes(2);
}

#[test]
#[ignore = "40 kills take minutes"]
fn processes_killed_forty_times_end_with_the_same_bytes() {
    runs_killed_end_with_the_same_bytes(40);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("below it"));
        std::fs::create_dir_all(target.parent().expect("a folder")).expect("made");
        std::fs::copy(&file, target).expect("copied");
    }
}
