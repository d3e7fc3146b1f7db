//! Tasks in processes of their own: a crash of one does not end the others.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::{Duration, Instant},
};

use evo1::{CoreError, files::write_atomically};
use evo1_train::{DataSource, FileLock};
use eyre::{Result, WrapErr, bail, eyre};
use serde_json::Value;
use tracing::info;

use super::{
    results::{Outcome, Results, measured},
    study::{Cell, Measure, Study, phase_document},
    tasks::Task,
};
use crate::{
    commands::evaluate::Measured,
    common::PROGRESS,
    process::{Log, Process, Signals},
    rollout::Episode,
};

/// Where and how a study runs.
pub(crate) struct Runner<'a> {
    pub(crate) study: &'a Study,
    pub(crate) out: &'a Path,
    /// Devices that tasks side by side take in turn.
    pub(crate) devices: &'a [String],
    /// Further options that every process gets.
    pub(crate) options: &'a [String],
    pub(crate) signals: &'a Signals,
}

/// Between two looks at a task that another process works at.
const LOOK: Duration = Duration::from_secs(1);

/// A task that is this process' alone, and the device that it has.
struct Turn<'a> {
    task: &'a Task<'a>,
    device: &'a str,
    lock: FileLock,
}

impl Runner<'_> {
    /// Sees to it that tasks have their results, `jobs` at a time, and tells `progress` of each and whether it is new. What is
    /// there is not repeated, and what another process works at is waited for.
    ///
    /// # Errors
    /// When a result cannot be written, or a signal came. Whatever else goes wrong with a cell is its outcome.
    pub(crate) fn run(&self, tasks: &[&Task<'_>], jobs: usize, progress: impl Fn(&Outcome, bool) + Sync) -> Result<()> {
        let queue = Mutex::new(tasks.iter().copied().collect::<VecDeque<_>>());
        let failed = Mutex::new(None);
        let (queue, failed, progress) = (&queue, &failed, &progress);
        std::thread::scope(|scope| {
            for slot in 0..jobs.max(1) {
                let device = &self.devices[slot % self.devices.len()];
                scope.spawn(move || {
                    loop {
                        let Some(task) = lock(queue).pop_front() else { break };
                        let done = self.signals.check().and_then(|()| self.take(task, device, progress));
                        match done {
                            Ok(true) => {}
                            Ok(false) => lock(queue).push_back(task),
                            Err(error) => {
                                lock(failed).get_or_insert(error);
                                lock(queue).clear();
                            }
                        }
                    }
                });
            }
        });
        lock(failed).take().map_or(Ok(()), Err)
    }

    /// Sees to a task, unless another process works at it.
    fn take(&self, task: &Task<'_>, device: &str, progress: &impl Fn(&Outcome, bool)) -> Result<bool> {
        let folder = self.out.join("locks");
        fs::create_dir_all(&folder).map_err(|reason| CoreError::io("create", &folder, reason))?;
        match FileLock::try_take(&folder.join(&task.key))? {
            Ok(lock) => self.outcomes(&Turn { task, device, lock }, progress).map(|()| true),
            Err(holder) => {
                info!(target: PROGRESS, "task {} is with {holder}", task.key);
                self.signals.wait(LOOK).map(|()| false)
            }
        }
    }

    /// Sees to the results of a task's cells, and writes each once it is there.
    fn outcomes(&self, turn: &Turn<'_>, progress: &impl Fn(&Outcome, bool)) -> Result<()> {
        let (task, results) = (turn.task, Results::of(self.out));
        let mut outcomes = results.read(task)?;
        let (there, missing): (Vec<_>, Vec<_>) =
            task.cells.iter().partition(|(_, key)| measured(&outcomes, key).is_some());
        there.iter().filter_map(|(_, key)| measured(&outcomes, key)).for_each(|outcome| progress(outcome, false));
        if missing.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let trained = self.train(turn);
        // What did not come about because of a signal is no result.
        self.signals.check()?;
        let trained = trained.map_err(|error| format!("{error:#}"));
        let training = began.elapsed().as_secs_f64();
        let curve = trained.as_ref().map(|checkpoints| curve(checkpoints)).unwrap_or_default();
        for (cell, key) in missing {
            let began = Instant::now();
            let measured = match &trained {
                Ok(phases) => self.measure(turn, cell, key, phases).map_err(|error| format!("{error:#}")),
                Err(error) => Err(error.clone()),
            };
            self.signals.check()?;
            let (measured, episodes, error) = match measured {
                Ok((measured, episodes)) => (Some(measured), episodes, None),
                Err(error) => (None, None, Some(error)),
            };
            let outcome = Outcome {
                cell: cell.name.clone(),
                seed: task.seed,
                key: key.clone(),
                seconds: training + began.elapsed().as_secs_f64(),
                measured,
                episodes,
                error,
                curve: curve.clone(),
            };
            outcomes.retain(|before| before.key != *key);
            progress(&outcome, true);
            outcomes.push(outcome);
            results.write(task, &outcomes)?;
        }
        Ok(())
    }

    /// Measures a cell on what its training came to.
    fn measure(
        &self,
        turn: &Turn<'_>,
        cell: &Cell,
        key: &str,
        phases: &[(PathBuf, PathBuf)],
    ) -> Result<(Measured, Option<Vec<Episode>>)> {
        let (run, checkpoint) = phases.last().ok_or_else(|| eyre!("there is nothing to train"))?;
        let measured = self.evaluate(turn, cell, run, checkpoint)?;
        let tried = |measure| self.try_out(turn, cell, measure, key, run, checkpoint);
        Ok((measured, self.study.measure.as_ref().map(tried).transpose()?))
    }

    /// Trains every phase that is not done; the folders of the runs and their last checkpoints.
    fn train(&self, turn: &Turn<'_>) -> Result<Vec<(PathBuf, PathBuf)>> {
        let task = turn.task;
        let Some((cell, _)) = task.cells.first() else { return Ok(vec![]) };
        let mut done: Vec<(PathBuf, PathBuf)> = Vec::new();
        for (index, phase) in cell.phases.iter().enumerate() {
            let run = std::path::absolute(self.out.join("runs").join(format!("{}-{index}", task.key)))?;
            let marker = run.join("done.json");
            let checkpoint = match fs::read_to_string(&marker) {
                Ok(text) => serde_json::from_str::<Value>(&text)?,
                Err(_) => {
                    let result = self.train_phase(turn, phase, &run, done.last().map(|(_, checkpoint)| checkpoint))?;
                    write_atomically(&marker, result.to_string().as_bytes())?;
                    result
                }
            };
            let checkpoint = checkpoint["checkpoint"].as_str().map(PathBuf::from);
            done.push((run.clone(), checkpoint.ok_or_else(|| eyre!("{} names no checkpoint", marker.display()))?));
        }
        Ok(done)
    }

    fn train_phase(&self, turn: &Turn<'_>, phase: &Value, run: &Path, from: Option<&PathBuf>) -> Result<Value> {
        fs::create_dir_all(run).map_err(|reason| CoreError::io("create", run, reason))?;
        let config = run.join("cell.yaml");
        // JSON is YAML.
        let document = phase_document(phase, turn.task.seed, run, from)?;
        write_atomically(&config, serde_json::to_string_pretty(&document)?.as_bytes())?;
        // A run that was ended goes on by the same command.
        let arguments = ["train".to_owned(), "--config".into(), config.display().to_string(), "--json".into()];
        self.process(turn, &arguments, &run.join("log.txt"))
    }

    fn evaluate(&self, turn: &Turn<'_>, cell: &Cell, run: &Path, checkpoint: &Path) -> Result<Measured> {
        let data = match &self.study.held_out.data {
            DataSource::File(path) => path.clone(),
            DataSource::Inline(contents) => {
                let path = run.join("held_out.yaml");
                write_atomically(&path, contents.to_string().as_bytes())?;
                path
            }
        };
        let mut arguments = evaluation(cell, checkpoint)?;
        let batches = self.study.held_out.batches.to_string();
        arguments.extend(["--data".into(), data.display().to_string(), "--batches".into(), batches]);
        Ok(serde_json::from_value(self.process(turn, &arguments, &run.join("evaluate.log"))?)?)
    }

    /// Tries a cell in closed loop. What there is of it is gone on with.
    fn try_out(
        &self,
        turn: &Turn<'_>,
        cell: &Cell,
        measure: &Measure,
        key: &str,
        run: &Path,
        checkpoint: &Path,
    ) -> Result<Vec<Episode>> {
        let Measure { command, tasks, goals, parallel, serve } = measure;
        let out = run.join(format!("rollout-{}", key.rsplit('-').next().unwrap_or_default()));
        let mut arguments = evaluation(cell, checkpoint)?;
        for (option, value) in [
            ("--rollout", command),
            ("--tasks", &tasks.join(",")),
            ("--goals", &goals.to_string()),
            ("--out", &out.display().to_string()),
            ("--parallel", &parallel.to_string()),
            ("--serve", serve),
        ] {
            arguments.push(format!("{option}={value}"));
        }
        let mut summary = self.process(turn, &arguments, &run.join("rollout.log"))?;
        Ok(serde_json::from_value(summary["episodes"].take())?)
    }

    /// Runs this program with other arguments, its messages in a file; the JSON object that it prints.
    fn process(&self, turn: &Turn<'_>, arguments: &[String], log: &Path) -> Result<Value> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).args(["--device", turn.device]).args(self.options);
        // Where this process is killed, the task stays taken until the child has ended.
        let (log, messages) = Log::open(log)?;
        let process = Process::start(command.stdin(turn.lock.shared()?).stderr(messages), self.signals);
        let mut printed = String::new();
        let status = process.wrap_err("cannot start this program")?.run(|line| {
            printed.push_str(line);
            printed.push('\n');
        })?;
        if !status.success() {
            bail!("`evo1 {}` ended with {status}: {}", arguments[0], log.last_lines());
        }
        Ok(serde_json::from_str(&printed)?)
    }
}

/// The command that evaluates a checkpoint as a cell wants it.
fn evaluation(cell: &Cell, checkpoint: &Path) -> Result<Vec<String>> {
    let settings = &cell.evaluation;
    let mut arguments = vec!["evaluate".to_owned(), "--policy".into(), checkpoint.display().to_string()];
    arguments.extend(["--weights".into(), serde_json::to_value(settings.weights)?.as_str().unwrap_or("f32").into()]);
    if let Some(steps) = settings.steps {
        arguments.extend(["--steps".into(), steps.to_string()]);
    }
    for (option, choice) in [("--solver", &settings.solver), ("--grid", &settings.grid)] {
        if let Some(choice) = choice {
            arguments.extend([option.into(), choice.to_string()]);
        }
    }
    arguments.push("--json".into());
    Ok(arguments)
}

/// Steps and losses of runs, one after the other.
fn curve(phases: &[(PathBuf, PathBuf)]) -> Vec<(f64, f64)> {
    let (mut points, mut start) = (Vec::new(), 0.0);
    for (run, _) in phases {
        let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
        for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if let (Some(step), Some(loss)) = (line["step"].as_f64(), line["loss"].as_f64()) {
                points.push((start + step, loss));
            }
        }
        start = points.last().map_or(start, |point| point.0);
    }
    points
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
