//! `evo1 ablate`: an ablation study from a file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use evo1::{Components, CoreError, device::DeviceName};
use eyre::{Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    ablate::{AXES, Changes, OnDisk, Outcome, Results, Runner, Study, Task, find, summary, tasks, write},
    common::{Common, parse_device},
    output::say,
    process::Signals,
};

/// Train and measure every combination of some axes over some seeds, and write what came of it.
///
/// A study is made of tasks: a training run with a seed, and the cells that are measured on it. Each runs in processes of its own
/// (`evo1 train`, `evo1 evaluate`): one that fails does not end the others. What is done is not repeated when the same command
/// runs again, here or beside this one on the same folder, and a training run that was stopped goes on from its newest checkpoint.
/// What was measured of other data, another configuration or another version of the program is measured anew. The folder gets
/// `results/KEY.json` for each task, and from these `results.csv`, `results.md`, `error.png`, `curves.png`, `success.png`,
/// `episodes.csv` and `report.html`, which shows all of it by itself.
///
/// Any scheduler can run the tasks (`--list`, `--task`, `--collect`): `ablations/README.md` has commands for SLURM, HyperQueue and GNU
/// parallel.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  evo1 ablate ablations/example.yaml --check\n  evo1 ablate ablations/example.yaml --list\n  evo1 ablate ablations/example.yaml --out runs/example\n  evo1 ablate --axes\n\nExit codes: 0 every result is there, 130 interrupted (what was done is kept), 2 wrong use, 1 anything else: results that are missing, for example"
)]
pub(crate) struct Ablate {
    /// The study; `ablations/README.md` describes what is in it
    #[arg(value_name = "FILE", required_unless_present = "axes")]
    study: Option<PathBuf>,

    /// Folder for the runs and the results
    #[arg(long, value_name = "DIR", required_unless_present_any = ["axes", "check", "list"])]
    out: Option<PathBuf>,

    /// Another training configuration than the study's `base`; the study's `set` is left out
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,

    /// A value of the base, for example steps=200; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Tasks side by side; each takes the memory of one, and those of a device share it. As many as there are `--devices`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,

    /// Devices that the tasks side by side take in turn, instead of `--device` for all: cuda:0,cuda:1
    #[arg(long, value_name = "DEVICES", value_delimiter = ',', value_parser = parse_device)]
    devices: Vec<DeviceName>,

    /// Check the study, list its cells, open its data, and run nothing
    #[arg(long)]
    check: bool,

    /// List the tasks, one in a line: key, number, seed, what it needs, whether it is done (with `--out`), cells
    #[arg(long, conflicts_with = "check")]
    list: bool,

    /// With `--list`, a JSON object in each line
    #[arg(long, requires = "list")]
    json: bool,

    /// Run one task, by its key or its number in the list, and write its results alone. Where another process works at it,
    /// that one is waited for
    #[arg(long, value_name = "KEY|NUMBER", conflicts_with_all = ["check", "list", "collect", "jobs"])]
    task: Option<String>,

    /// Run nothing, and write tables and report from the results that are there
    #[arg(long, conflicts_with_all = ["check", "list"])]
    collect: bool,

    /// List the axes
    #[arg(long, conflicts_with = "study")]
    axes: bool,
}

impl Ablate {
    pub(crate) fn run<C: Components>(self, common: &Common) -> Result<()> {
        if self.axes {
            return AXES.iter().try_for_each(|axis| say!("{:14} {}", axis.name, axis.values));
        }
        if common.dtype.is_some() || common.profile.is_some() {
            bail!("a study says itself what it computes in: use `--set compute=bf16`, `--set policy.profile=official`");
        }
        let Some(path) = &self.study else { bail!("give the file of a study") };
        let study = Study::read::<C>(path, &Changes { base: self.base.clone(), set: self.set.clone() })?;
        if self.check {
            say!("{} cells, {} seeds", study.cells.len(), study.seeds.len())?;
            study.cells.iter().try_for_each(|cell| say!("{}", cell.name))?;
            return tasks(&study, &mut OnDisk::new(&common.suites)).map(drop);
        }
        let tasks = tasks(&study, &mut OnDisk::new(&common.suites))?;
        if self.list {
            return self.print_list(&study, &tasks);
        }
        let Some(out) = &self.out else { bail!("give `--out DIR`, the folder for the results") };
        fs::create_dir_all(out).map_err(|reason| CoreError::io("create", out, reason))?;
        match (&self.task, self.collect) {
            (Some(name), _) => {
                let task = find(&tasks, name)?;
                self.run_tasks(common, &study, out, &[task])?;
                let of = task.cells.len();
                ensure!(
                    Results::of(out).has(task)?,
                    "of {of} results of the task some are missing; it can be run again"
                );
                Ok(())
            }
            (None, true) => collect(&study, &tasks, out),
            (None, false) => {
                self.run_tasks(common, &study, out, &tasks.iter().collect::<Vec<_>>())?;
                collect(&study, &tasks, out)
            }
        }
    }

    fn print_list(&self, study: &Study, tasks: &[Task<'_>]) -> Result<()> {
        for (index, task) in tasks.iter().enumerate() {
            let done = self.out.as_deref().map(|out| Results::of(out).has(task)).transpose()?;
            let line = task.line(index, study, done)?;
            if self.json { say!("{}", serde_json::to_string(&line)?)? } else { say!("{}", line.text())? }
        }
        Ok(())
    }

    /// Sees to it that tasks have their results.
    fn run_tasks(&self, common: &Common, study: &Study, out: &Path, tasks: &[&Task<'_>]) -> Result<()> {
        let devices = if self.devices.is_empty() { std::slice::from_ref(&common.device) } else { &self.devices };
        let devices: Vec<String> = devices.iter().map(ToString::to_string).collect();
        let results: usize = tasks.iter().map(|task| task.cells.len()).sum();
        let bar = if common.quiet { ProgressBar::hidden() } else { ProgressBar::new(results as u64) };
        let style = ProgressStyle::with_template("{bar:40} {pos} of {len} results, {elapsed} so far, {eta} left")?;
        let bar = bar.with_style(style);
        bar.enable_steady_tick(std::time::Duration::from_secs(1));
        let signals = Signals::listen()?;
        let runner = Runner { study, out, devices: &devices, options: &common.options(), signals: &signals };
        let jobs = self.jobs.map_or(devices.len(), usize::from);
        let done = runner.run(tasks, jobs, |outcome, is_new| {
            if is_new {
                bar.suspend(|| eprintln!("{}", line(outcome)));
            }
            bar.inc(1);
        });
        bar.finish_and_clear();
        done
    }
}

/// Writes and prints what came of the tasks, as far as they have results.
fn collect(study: &Study, tasks: &[Task<'_>], out: &Path) -> Result<()> {
    let rows = summary(study, tasks, &Results::of(out))?;
    say!("{}\nreport in {}", write(out, study, &rows)?, out.join("report.html").display())?;
    let missing: usize = rows.iter().map(|row| row.missing.len()).sum();
    let of = study.cells.len() * study.seeds.len();
    ensure!(
        missing == 0,
        "{missing} of {of} results are missing, which the report names; the same command tries them again"
    );
    Ok(())
}

/// What is said of an outcome while the study runs.
fn line(outcome: &Outcome) -> String {
    let Outcome { cell, seed, seconds, measured, episodes, error, .. } = outcome;
    let success = episodes.as_ref().map_or_else(String::new, |episodes| {
        let successes = episodes.iter().filter(|episode| episode.success).count();
        format!("{successes} of {} goals, ", episodes.len())
    });
    match measured {
        Some(measured) => format!(
            "{cell}, seed {seed}: {success}action error {:.4}, loss {:.4}, {seconds:.0} s",
            measured.rmse, measured.loss
        ),
        None => format!("{cell}, seed {seed}: failed: {}", error.as_deref().unwrap_or("unknown")),
    }
}
