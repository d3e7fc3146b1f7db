//! The tasks of a study, each of which can run anywhere and by itself: a training run, and the cells that are measured on what
//! it comes to. A task's key is a hash of everything that its result depends on.

use std::collections::BTreeMap;

use evo1::{files::read_text, hub::Repository, rng::fnv1a};
use evo1_data::{Mixture, Suites};
use evo1_train::{DataSource, StatisticsSource, TokenizerSource};
use eyre::{Result, WrapErr, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::study::{Cell, Study, config};
use crate::common::folder_sum;

/// A training run with a seed.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    pub(crate) key: String,
    pub(crate) seed: u64,
    /// Cells that differ in the evaluation alone, with the keys of their results.
    pub(crate) cells: Vec<(&'a Cell, String)>,
}

/// What is said of a task.
#[derive(Debug, Serialize)]
pub(crate) struct TaskLine<'a> {
    index: usize,
    key: &'a str,
    seed: u64,
    cells: Vec<&'a str>,
    /// Training runs one after the other, and their steps and batches.
    runs: usize,
    steps: u64,
    batch_size: usize,
    /// Goals that evaluators try, for all cells.
    goals: usize,
    /// Whether every result is there; nothing where no folder is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) done: Option<bool>,
}

impl<'a> Task<'a> {
    /// What the task is and what it needs.
    pub(crate) fn line(&'a self, index: usize, study: &Study, done: Option<bool>) -> Result<TaskLine<'a>> {
        let phases = self.cells.first().map(|(cell, _)| cell.phases.as_slice()).unwrap_or_default();
        let configs = phases.iter().map(config).collect::<Result<Vec<_>>>()?;
        let goals = study.measure.as_ref().map_or(0, |measure| measure.tasks.len() * measure.goals.numbers().len());
        Ok(TaskLine {
            index,
            key: &self.key,
            seed: self.seed,
            cells: self.cells.iter().map(|(cell, _)| cell.name.as_str()).collect(),
            runs: configs.len(),
            steps: configs.iter().map(|config| config.steps).sum(),
            batch_size: configs.iter().map(|config| config.batch_size).max().unwrap_or(0),
            goals: goals * self.cells.len(),
            done,
        })
    }
}

impl TaskLine<'_> {
    /// Key, index, seed, what it needs, state and cells, with tabs between them.
    pub(crate) fn text(&self) -> String {
        let Self { index, key, seed, cells, runs, steps, batch_size, goals, done } = self;
        let state = match done {
            Some(true) => "done",
            Some(false) => "missing",
            None => "–",
        };
        let needs = format!("{runs} runs, {steps} steps of {batch_size}, {goals} goals");
        format!("{key}\t{index}\tseed {seed}\t{needs}\t{state}\t{}", cells.join("; "))
    }
}

/// The tasks of a study, always in the same order: seed by seed, in the order of the cells.
///
/// # Errors
/// When something that results depend on cannot be read.
pub(crate) fn tasks<'a>(study: &'a Study, contents: &mut impl Contents) -> Result<Vec<Task<'a>>> {
    let version = env!("CARGO_PKG_VERSION");
    let held_out = json!([study.held_out.batches, contents.data(&study.held_out.data).wrap_err("`held_out.data`")?]);
    let measure = study.measure.as_ref().map(|measure| measure.identity()).transpose().wrap_err("`measure`")?;
    let mut keys = Vec::new();
    for cell in &study.cells {
        let trained: Vec<Value> = cell.phases.iter().map(|phase| contents.training(phase)).collect::<Result<_>>()?;
        let training = json!([version, cell.phases, trained]).to_string();
        let evaluation = json!([cell.evaluation, held_out, measure]).to_string();
        keys.push((cell, fnv1a(training.as_bytes()), fnv1a(evaluation.as_bytes())));
    }
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for &seed in &study.seeds {
        for (cell, training, evaluation) in &keys {
            let key = format!("{training:016x}-{seed}");
            let cell = (*cell, format!("{key}-{evaluation:016x}"));
            match tasks.iter_mut().find(|task| task.key == key) {
                Some(task) => task.cells.push(cell),
                None => tasks.push(Task { key, seed, cells: vec![cell] }),
            }
        }
    }
    Ok(tasks)
}

/// The task that is meant by its key or by its place in the list.
pub(crate) fn find<'a, 'b>(tasks: &'b [Task<'a>], name: &str) -> Result<&'b Task<'a>> {
    let found = match name.parse::<usize>() {
        Ok(index) => tasks.get(index),
        Err(_) => tasks.iter().find(|task| task.key == name),
    };
    ensure!(
        found.is_some(),
        "there is no task `{name}`: give a number below {} or a key that `--list` prints; data, configuration or program may \
         have changed since, and keys with them",
        tasks.len()
    );
    Ok(found.expect("there is one"))
}

/// What results depend on beside the study's text.
pub(crate) trait Contents {
    /// Of a training configuration: data, weights, and other files that it names.
    fn training(&mut self, phase: &Value) -> Result<Value>;

    /// Of a data configuration.
    fn data(&mut self, source: &DataSource) -> Result<Value>;
}

/// What is on the disk.
pub(crate) struct OnDisk<'a> {
    suites: &'a Suites,
    /// Datasets that were looked at, by their configuration: cells share them.
    known: BTreeMap<String, Value>,
}

impl<'a> OnDisk<'a> {
    pub(crate) fn new(suites: &'a Suites) -> Self {
        Self { suites, known: BTreeMap::new() }
    }
}

impl Contents for OnDisk<'_> {
    fn training(&mut self, phase: &Value) -> Result<Value> {
        let config = config(phase)?;
        let mut contents = vec![self.data(&config.data)?];
        if let Some(data) = config.held_out.as_ref().and_then(|held_out| held_out.data.as_ref()) {
            contents.push(self.data(data)?);
        }
        let folders = [&config.policy.from, &config.policy.base];
        for folder in folders.into_iter().flatten().filter(|folder| !Repository::is_named_by(folder)) {
            contents.push(folder_sum(folder)?.into());
        }
        let tokenizer = match &config.policy.tokenizer {
            TokenizerSource::File(path) => Some(path),
            _ => None,
        };
        let statistics = match &config.statistics {
            StatisticsSource::File(path) => Some(path),
            _ => None,
        };
        for file in [tokenizer, statistics].into_iter().flatten() {
            contents.push(evo1::files::sha256(file, |_| ())?.into());
        }
        Ok(contents.into())
    }

    fn data(&mut self, source: &DataSource) -> Result<Value> {
        let written = match source {
            DataSource::File(path) => read_text(path)?,
            DataSource::Inline(value) => value.to_string(),
        };
        // The same text beside other files means other files.
        let known = format!("{}{written}", serde_json::to_value(source)?);
        if let Some(contents) = self.known.get(&known) {
            return Ok(contents.clone());
        }
        let data = source.read()?;
        let mixture = Mixture::open_with(&data, 1, &evo1::config::Cameras::default(), self.suites)?;
        let contents = json!([written, mixture.identity()]);
        self.known.insert(known, contents.clone());
        Ok(contents)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ablate::study::tests::study;

    /// Contents that a test changes.
    #[derive(Default)]
    pub(crate) struct Made {
        pub(crate) training: u64,
        pub(crate) held_out: u64,
    }

    impl Contents for Made {
        fn training(&mut self, _: &Value) -> Result<Value> {
            Ok(self.training.into())
        }

        fn data(&mut self, _: &DataSource) -> Result<Value> {
            Ok(self.held_out.into())
        }
    }

    fn keys(rest: &str, contents: &mut Made) -> Vec<(String, Vec<String>)> {
        let study = study(rest).expect("a study");
        let tasks = tasks(&study, contents).expect("tasks");
        tasks.into_iter().map(|task| (task.key, task.cells.into_iter().map(|(_, key)| key).collect())).collect()
    }

    #[test]
    fn cells_that_differ_in_the_evaluation_alone_are_one_task() {
        let keys = keys("axes: {steps: [1, 8], noise: [uniform, normal]}", &mut Made::default());
        assert_eq!(keys.len(), 4);
        let distinct: BTreeSet<&String> = keys.iter().flat_map(|(_, cells)| cells).collect();
        assert_eq!(distinct.len(), 8);
    }

    #[test]
    fn a_key_changes_with_all_that_the_result_depends_on() {
        const CELL: &str = "axes: {noise: [normal]}";
        let base = keys(CELL, &mut Made::default());
        assert_eq!(base, keys(CELL, &mut Made::default()));
        let trained = keys(CELL, &mut Made { training: 1, held_out: 0 });
        assert_ne!(base[0].0, trained[0].0);
        let measured = keys(CELL, &mut Made { training: 0, held_out: 1 });
        assert_eq!(base[0].0, measured[0].0);
        assert_ne!(base[0].1, measured[0].1);
        let measure = |goals: &str, more: &str| {
            let measure = format!("{CELL}\nmeasure: {{command: try it, tasks: [a], goals: \"{goals}\"{more}}}");
            keys(&measure, &mut Made::default())
        };
        assert_ne!(measure("0:2", "")[0].1, base[0].1);
        assert_ne!(measure("0:2", "")[0].1, measure("0:3", "")[0].1);
        assert_eq!(measure("0:2", "")[0].1, measure("0:2", ", parallel: 4")[0].1);
    }

    #[test]
    fn a_task_is_found_by_key_and_by_number() {
        let study = study("axes: {noise: [uniform, normal]}").expect("a study");
        let tasks = tasks(&study, &mut Made::default()).expect("tasks");
        assert_eq!(find(&tasks, "3").expect("a number").key, tasks[3].key);
        assert_eq!(find(&tasks, &tasks[2].key).expect("a key").seed, 1);
        for wrong in ["4", "-1", "00", ""] {
            // A number with zeros before it is one.
            assert_eq!(find(&tasks, wrong).is_err(), wrong != "00", "{wrong}");
        }
    }
}
