//! Cells in processes of their own: a crash of one does not end the others.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    time::Instant,
};

use evo1::{CoreError, files::write_atomically};
use evo1_train::DataSource;
use eyre::{Result, bail, eyre};
use serde_json::Value;

use super::{
    results::{Outcome, Results},
    study::{Cell, Study, phase_document},
};
use crate::commands::evaluate::Measured;

/// Where and how a study runs.
pub(crate) struct Runner<'a> {
    pub(crate) study: &'a Study,
    pub(crate) out: &'a Path,
    /// Options that every process gets, such as `--device`.
    pub(crate) options: &'a [String],
}

/// Cells and seeds that share a training run.
struct Job<'a> {
    key: String,
    seed: u64,
    cells: Vec<&'a Cell>,
}

/// Lines of a process' messages that are kept of it.
const LAST_LINES: usize = 8;

impl Runner<'_> {
    /// Runs what has no result yet, `jobs` at a time. `progress` is told of each outcome, and how many
    /// are done.
    pub(crate) fn run(&self, jobs: usize, progress: impl Fn(&Outcome, usize) + Sync) -> Result<Results> {
        let results = Results::open(self.out)?;
        let mut waiting: Vec<Job<'_>> = Vec::new();
        let total = self.study.cells.len() * self.study.seeds.len();
        for &seed in &self.study.seeds {
            for cell in &self.study.cells {
                let is_done = results
                    .of(&cell.name, seed, &self.study.result_key(cell, seed))
                    .is_some_and(|outcome| outcome.measured.is_some());
                if is_done {
                    continue;
                }
                let key = Study::training_key(cell, seed);
                match waiting.iter_mut().find(|job| job.key == key) {
                    Some(job) => job.cells.push(cell),
                    None => waiting.push(Job { key, seed, cells: vec![cell] }),
                }
            }
        }
        let missing: usize = waiting.iter().map(|job| job.cells.len()).sum();
        waiting.reverse();
        let (queue, state) = (Mutex::new(waiting), Mutex::new((results, total - missing)));
        let failed = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let Some(job) = lock(&queue).pop() else { break };
                        for outcome in self.outcomes(&job) {
                            let mut state = lock(&state);
                            state.1 += 1;
                            progress(&outcome, state.1);
                            if let Err(error) = state.0.add(outcome) {
                                lock(&failed).get_or_insert(error);
                                lock(&queue).clear();
                            }
                        }
                    }
                });
            }
        });
        match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).0),
        }
    }

    fn outcomes(&self, job: &Job<'_>) -> Vec<Outcome> {
        let began = Instant::now();
        let trained = self.train(job).map_err(|error| format!("{error:#}"));
        let training = began.elapsed().as_secs_f64();
        let curve = trained.as_ref().map(|checkpoints| curve(checkpoints)).unwrap_or_default();
        let outcome = |cell: &&Cell| {
            let began = Instant::now();
            let measured = match &trained {
                Ok(phases) => match phases.last() {
                    Some((run, checkpoint)) => {
                        self.evaluate(cell, run, checkpoint).map_err(|error| format!("{error:#}"))
                    }
                    None => Err("there is nothing to train".to_owned()),
                },
                Err(error) => Err(error.clone()),
            };
            Outcome {
                cell: cell.name.clone(),
                seed: job.seed,
                key: self.study.result_key(cell, job.seed),
                seconds: training + began.elapsed().as_secs_f64(),
                error: measured.as_ref().err().cloned(),
                measured: measured.ok(),
                curve: curve.clone(),
            }
        };
        job.cells.iter().map(outcome).collect()
    }

    /// Trains every phase that is not done; the folders of the runs and their last checkpoints.
    fn train(&self, job: &Job<'_>) -> Result<Vec<(PathBuf, PathBuf)>> {
        let Some(cell) = job.cells.first() else { return Ok(vec![]) };
        let mut done: Vec<(PathBuf, PathBuf)> = Vec::new();
        for (index, phase) in cell.phases.iter().enumerate() {
            let run = std::path::absolute(self.out.join("runs").join(format!("{}-{index}", job.key)))?;
            let marker = run.join("done.json");
            let checkpoint = match fs::read_to_string(&marker) {
                Ok(text) => serde_json::from_str::<Value>(&text)?,
                Err(_) => {
                    let result =
                        self.train_phase(phase, job.seed, &run, done.last().map(|(_, checkpoint)| checkpoint))?;
                    write_atomically(&marker, result.to_string().as_bytes())?;
                    result
                }
            };
            let checkpoint = checkpoint["checkpoint"].as_str().map(PathBuf::from);
            done.push((run.clone(), checkpoint.ok_or_else(|| eyre!("{} names no checkpoint", marker.display()))?));
        }
        Ok(done)
    }

    fn train_phase(&self, phase: &Value, seed: u64, run: &Path, from: Option<&PathBuf>) -> Result<Value> {
        fs::create_dir_all(run).map_err(|reason| CoreError::io("create", run, reason))?;
        let config = run.join("cell.yaml");
        // JSON is YAML.
        let document = phase_document(phase, seed, run, from)?;
        write_atomically(&config, serde_json::to_string_pretty(&document)?.as_bytes())?;
        // A run that was ended goes on by the same command.
        let arguments = ["train".to_owned(), "--config".into(), config.display().to_string(), "--json".into()];
        self.process(&arguments, &run.join("log.txt"))
    }

    fn evaluate(&self, cell: &Cell, run: &Path, checkpoint: &Path) -> Result<Measured> {
        let data = match &self.study.held_out.data {
            DataSource::File(path) => path.clone(),
            DataSource::Inline(contents) => {
                let path = self.out.join("held_out.yaml");
                write_atomically(&path, contents.to_string().as_bytes())?;
                path
            }
        };
        let settings = &cell.evaluation;
        let mut arguments = vec!["evaluate".to_owned(), "--policy".into(), checkpoint.display().to_string()];
        arguments.extend([
            "--data".into(),
            data.display().to_string(),
            "--batches".into(),
            self.study.held_out.batches.to_string(),
        ]);
        arguments
            .extend(["--weights".into(), serde_json::to_value(settings.weights)?.as_str().unwrap_or("f32").into()]);
        if let Some(steps) = settings.steps {
            arguments.extend(["--steps".into(), steps.to_string()]);
        }
        for (option, choice) in [("--solver", &settings.solver), ("--grid", &settings.grid)] {
            if let Some(choice) = choice {
                arguments.extend([option.into(), choice.to_string()]);
            }
        }
        arguments.push("--json".into());
        Ok(serde_json::from_value(self.process(&arguments, &run.join("evaluate.log"))?)?)
    }

    /// Runs this program with other arguments, its messages in a file; the JSON object that it prints.
    fn process(&self, arguments: &[String], log: &Path) -> Result<Value> {
        let file = fs::File::create(log).map_err(|reason| CoreError::io("create", log, reason))?;
        let output = Command::new(std::env::current_exe()?)
            .args(arguments)
            .args(self.options)
            .stdin(Stdio::null())
            .stderr(file)
            .output()?;
        if !output.status.success() {
            let text = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
            bail!("`evo1 {}` ended with {}: {last}", arguments[0], output.status);
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
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
