//! `evo1 train`: a training run from a configuration file, or one that goes on.

use std::{
    io::IsTerminal,
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use evo1::Components;
use evo1_train::{Alone, Event, Finished, Group, RunOptions, RunStart, TrainConfig, Trainer};
use eyre::{Result, WrapErr, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tracing::{info, warn};

use crate::{
    common::{Common, PROGRESS},
    output::{Interrupted, causes, say},
};

/// Train a policy: the action expert (stage 1), everything (stage 2), or any choice of parts.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  evo1 train --config recipes/tiny.yaml --set steps=20 --set output=runs/first \\\n    --set data=recipes/data/example.yaml\n  evo1 train --resume runs/first\n\nExit codes: 0 finished, 130 interrupted (Ctrl-C, SIGTERM) and saved, 2 wrong use, 1 anything else; then, too, what was done is saved where that is possible. A second Ctrl-C ends at once."
)]
pub(crate) struct Train {
    /// The run's configuration, YAML or TOML; `recipes/README.md` describes every value. Where its folder holds a run of the
    /// same configuration, that one goes on
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// A value of the configuration, for example optimizer.learning_rate=1e-4; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Go on with the run in this folder, from its newest checkpoint and by its own configuration
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    resume: Option<PathBuf>,

    /// Accept that a run goes on with another batch_size, effective_batch, seed, trained (parameters) or data; may be given
    /// several times
    #[arg(long, value_name = "NAME", requires = "resume")]
    allow_change: Vec<String>,

    /// Print the whole configuration, with every value that is not given, and stop
    #[arg(long)]
    print_config: bool,

    /// Open data and policy, say what would be trained, and stop; nothing is written
    #[arg(long)]
    dry_run: bool,

    /// Seconds between two lines of progress where there is no terminal
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    progress_s: u64,

    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

impl Train {
    pub(crate) fn run<C: Components>(self, common: &Common) -> Result<()> {
        if common.dtype.is_some() {
            bail!("the number type of a training run is `compute` of its configuration: use `--set compute=bf16`");
        }
        let config = self.read(common)?;
        if self.print_config {
            return say!("{}", config.to_yaml()?.trim_end());
        }
        let joined = join()?;
        // Kept to the end: where it goes it takes leave of the others, and waits until they do.
        let processes = Arc::clone(&joined.processes);
        let (rank, size) = (processes.rank(), processes.size());
        match self.train::<C>(config, common, joined) {
            // The others may be waiting for this one: its launcher ends them where it ends without taking leave of them.
            Err(report) if size > 1 && !report.is::<Interrupted>() => {
                eprintln!("error: process {rank} of {size}: {}", causes(&report));
                std::process::exit(1)
            }
            done => done,
        }
    }

    fn train<C: Components>(&self, config: TrainConfig, common: &Common, joined: Joined) -> Result<()> {
        let Joined { processes, local_rank } = joined;
        let device = common.open_device_for(local_rank)?;
        // The first process speaks for all.
        let is_silent = common.quiet || processes.rank() > 0;
        let run = config.output.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut shown = Shown::new(run, Duration::from_secs(self.progress_s), is_silent)?;
        let options = RunOptions {
            allow_change: self.allow_change.clone(),
            is_dry: self.dry_run,
            processes: Arc::clone(&processes),
            ..RunOptions::new(&common.suites)
        };
        let trainer = match &self.resume {
            Some(run) if config.has_begun() => Trainer::reopen_as::<C>(config, &device, &options)
                .wrap_err_with(|| format!("cannot go on with the run in {}", run.display()))?,
            // A run that was ended before its first checkpoint begins anew.
            _ => Trainer::open_as::<C>(config, &device, &options, |done, of| shown.reads(done, of))?,
        };
        if self.dry_run {
            if processes.rank() > 0 {
                return Ok(());
            }
            trainer.warnings().iter().for_each(|text| warn!("{text}"));
            return self.print_start(&trainer.start());
        }
        let is_interrupted = Arc::new(AtomicBool::new(false));
        let handler = Arc::clone(&is_interrupted);
        let interrupt = move || {
            if handler.swap(true, Ordering::Relaxed) {
                std::process::exit(Interrupted::CODE.into());
            }
        };
        ctrlc::set_handler(interrupt).wrap_err("cannot listen for Ctrl-C")?;

        let finished = trainer.run(|event| {
            shown.hear(event);
            if is_interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        shown.bar.finish_and_clear();
        if processes.rank() == 0 {
            self.print(&finished)?;
        }
        if finished.is_interrupted { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// The configuration of the run.
    fn read(&self, common: &Common) -> Result<TrainConfig> {
        match (&self.config, &self.resume) {
            (_, Some(run)) => {
                if common.profile.is_some() {
                    bail!("a run goes on with the profile that it began with: leave out `--profile`");
                }
                let config = TrainConfig::of_run(run, &self.set);
                let mut config = config.wrap_err_with(|| format!("cannot go on with the run in {}", run.display()))?;
                config.policy.strict |= common.strict;
                Ok(config)
            }
            (Some(path), None) => {
                let mut config = TrainConfig::read(path, &self.set)?;
                config.policy.strict |= common.strict;
                config.policy.profile = common.profile.or(config.policy.profile);
                Ok(config)
            }
            (None, None) => bail!("give `--config FILE` for a new run, or `--resume DIR` to go on with one"),
        }
    }

    fn print<C: Components>(&self, finished: &Finished<C>) -> Result<()> {
        let Finished { checkpoint, steps, skipped, loss, .. } = finished;
        if self.json {
            let loss = loss.is_finite().then_some(loss);
            say!("{}", json!({ "checkpoint": checkpoint, "steps": steps, "skipped": skipped, "loss": loss }))
        } else {
            say!("{steps} steps, loss {loss:.4}; the policy is in {}", checkpoint.display())
        }
    }

    /// What would be trained.
    fn print_start(&self, start: &RunStart) -> Result<()> {
        let RunStart { step, steps, trained_parameters, parameters, samples, effective_batch, ranks, memory } = start;
        if self.json {
            return say!(
                "{}",
                json!({
                    "step": step,
                    "steps": steps,
                    "trained_parameters": trained_parameters,
                    "parameters": parameters,
                    "samples": samples,
                    "effective_batch": effective_batch,
                    "devices": ranks,
                    "memory": memory,
                })
            );
        }
        say!("steps {step} to {steps} of {effective_batch} samples each, on {ranks} devices")?;
        say!("{trained_parameters} of {parameters} parameters are trained, on {samples} samples")?;
        say!("memory of each device: {memory}")
    }
}

/// The processes that train together.
struct Joined {
    processes: Arc<dyn Group>,
    /// The place of this one among those of its machine.
    local_rank: usize,
}

#[cfg(feature = "mpi")]
fn join() -> Result<Joined> {
    if !evo1_train::mpi::is_launched() {
        return Ok(Joined { processes: Arc::new(Alone), local_rank: 0 });
    }
    let processes = evo1_train::mpi::Processes::join()?;
    Ok(Joined { local_rank: processes.local_rank(), processes })
}

#[cfg(not(feature = "mpi"))]
fn join() -> Result<Joined> {
    if std::env::var("OMPI_COMM_WORLD_SIZE").or_else(|_| std::env::var("PMI_SIZE")).is_ok_and(|size| size != "1") {
        bail!("this build cannot train by several processes: build it with `--features mpi`");
    }
    Ok(Joined { processes: Arc::new(Alone), local_rank: 0 })
}

/// What is seen of a run: a bar on a terminal, lines elsewhere.
struct Shown {
    is_silent: bool,
    bar: ProgressBar,
    run: String,
    /// How long there is no line.
    every: Duration,
    last_line: Instant,
    start: Option<(Instant, RunStart)>,
    loss: f64,
}

impl Shown {
    fn new(run: String, every: Duration, is_silent: bool) -> Result<Self> {
        let bar = if is_silent { ProgressBar::hidden() } else { ProgressBar::new(0) };
        let style = ProgressStyle::with_template("reading statistics {bar:40} {pos} of {len} episodes, {eta} left")?;
        Ok(Self {
            is_silent,
            bar: bar.with_style(style),
            run,
            every,
            last_line: Instant::now(),
            start: None,
            loss: f64::NAN,
        })
    }

    /// Whether it is time for a line, where nobody sees the bar.
    fn is_due(&mut self) -> bool {
        let is_seen = self.is_silent || std::io::stderr().is_terminal();
        let is_due = !is_seen && self.last_line.elapsed() >= self.every;
        if is_due {
            self.last_line = Instant::now();
        }
        is_due
    }

    /// Statistics were made of so many of all episodes.
    fn reads(&mut self, done: usize, of: usize) {
        self.bar.set_length(of as u64);
        self.bar.set_position(done as u64);
        if self.is_due() {
            info!(target: PROGRESS, "{}: statistics of {done} of {of} episodes", self.run);
        }
    }

    fn hear(&mut self, event: &Event) {
        if self.is_silent && !matches!(event, Event::Warning(_)) {
            return;
        }
        match event {
            Event::Started(start) => self.begins(start),
            Event::Step(report) => {
                self.bar.set_position(report.step + 1);
                if self.is_due() {
                    self.say_progress(report.step + 1);
                }
            }
            Event::Logged(line) => {
                self.loss = line.loss;
                self.bar.set_message(format!("loss {:.4}, {:.0} samples/s", line.loss, line.samples_per_second));
                info!("step {}: loss {:.4}; milliseconds of a step: {}", line.step, line.loss, line.times);
                if let Some(errors) = line.held_out {
                    let (run, step) = (&self.run, line.step);
                    self.bar.suspend(
                        || info!(target: PROGRESS, "{run}: step {step}, held out: loss {:.4}, action error {:.4}", errors.loss, errors.mae),
                    );
                }
            }
            Event::Saved(path) => info!("saved {}", path.display()),
            Event::Warning(text) => self.bar.suspend(|| warn!("{}: {text}", self.run)),
        }
    }

    fn begins(&mut self, start: &RunStart) {
        let RunStart { step, steps, trained_parameters, parameters, samples, effective_batch, ranks, memory } = *start;
        if let Ok(style) = ProgressStyle::with_template("{bar:40} step {pos} of {len}, {msg}, {eta} left") {
            self.bar.set_style(style);
        }
        self.bar.set_length(steps);
        self.bar.set_position(step);
        self.bar.reset_eta();
        self.start = Some((Instant::now(), *start));
        if !std::io::stderr().is_terminal() {
            let run = &self.run;
            info!(target: PROGRESS, "{run}: {trained_parameters} of {parameters} parameters, {samples} samples");
            info!(target: PROGRESS, "{run}: steps {step} to {steps}, {effective_batch} samples each on {ranks} devices");
            info!(target: PROGRESS, "{run}: memory of each device: {memory}");
        }
    }

    /// A line of how far the run is.
    fn say_progress(&self, step: u64) {
        let Some((began, start)) = &self.start else { return };
        let (run, loss, steps) = (&self.run, self.loss, start.steps);
        let seconds = began.elapsed().as_secs_f64() / step.saturating_sub(start.step).max(1) as f64;
        let left = indicatif::HumanDuration(Duration::from_secs_f64(seconds * steps.saturating_sub(step) as f64));
        let speed = start.effective_batch as f64 / seconds;
        let loss = if loss.is_finite() { format!("loss {loss:.4}, ") } else { String::new() };
        info!(target: PROGRESS, "{run}: step {step} of {steps}, {loss}{speed:.1} samples/s, {left} left");
    }
}
