//! `evo1 train`: a training run from a configuration file, or one that goes on.

use std::{
    io::IsTerminal,
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;
use evo1::Components;
use evo1_train::{Event, Finished, RunStart, TrainConfig, Trainer};
use eyre::{Result, WrapErr, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tracing::{info, warn};

use crate::{common::Common, output::say};

/// Train a policy: the action expert (stage 1), everything (stage 2), or any choice of parts.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  evo1 train --config recipes/tiny.yaml --set steps=200 --set output=runs/first\n  evo1 train --resume runs/first"
)]
pub(crate) struct Train {
    /// The run's configuration, YAML or TOML; `recipes/README.md` describes every value
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// A value of the configuration, for example optimizer.learning_rate=1e-4; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Go on with the run in this folder, from its newest checkpoint and by its own configuration
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    resume: Option<PathBuf>,

    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

impl Train {
    pub(crate) fn run<C: Components>(self, common: &Common) -> Result<()> {
        if common.dtype.is_some() {
            bail!("the number type of a training run is `compute` of its configuration: use `--set compute=bf16`");
        }
        let device = common.open_device()?;
        let trainer = match (&self.config, &self.resume) {
            (_, Some(run)) => {
                let context = || format!("cannot go on with the run in {}", run.display());
                if common.profile.is_some() {
                    bail!("a run goes on with the profile that it began with: leave out `--profile`");
                }
                let mut config = TrainConfig::of_run(run, &self.set).wrap_err_with(context)?;
                config.policy.strict |= common.strict;
                Trainer::reopen_as::<C>(config, &device, &common.suites).wrap_err_with(context)?
            }
            (Some(path), None) => {
                let mut config = TrainConfig::read(path, &self.set)?;
                config.policy.strict |= common.strict;
                config.policy.profile = common.profile.or(config.policy.profile);
                let bar = bar("reading statistics {bar:40} {pos} of {len} episodes, {eta} left")?;
                let progress = |done, of| {
                    bar.set_length(of as u64);
                    bar.set_position(done as u64);
                };
                let trainer = Trainer::open_as::<C>(config, &device, &common.suites, progress)?;
                bar.finish_and_clear();
                trainer
            }
            (None, None) => bail!("give `--config FILE` for a new run, or `--resume DIR` to go on with one"),
        };
        let is_interrupted = Arc::new(AtomicBool::new(false));
        let handler = Arc::clone(&is_interrupted);
        ctrlc::set_handler(move || handler.store(true, Ordering::Relaxed)).wrap_err("cannot listen for Ctrl-C")?;

        let bar = bar("{bar:40} step {pos} of {len}, {msg}, {eta} left")?;
        let finished = trainer.run(|event| {
            show(&bar, event);
            if is_interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        bar.finish_and_clear();
        self.print(&finished)
    }

    fn print<C: Components>(&self, finished: &Finished<C>) -> Result<()> {
        let Finished { checkpoint, steps, skipped, loss, .. } = finished;
        if self.json {
            let loss = loss.is_finite().then_some(loss);
            say!("{}", json!({ "checkpoint": checkpoint, "steps": steps, "skipped": skipped, "loss": loss }))?;
        } else {
            say!("{steps} steps, loss {loss:.4}; the policy is in {}", checkpoint.display())?;
        }
        Ok(())
    }
}

/// A progress bar, drawn where standard error is a terminal.
fn bar(template: &str) -> Result<ProgressBar> {
    Ok(ProgressBar::new(0).with_style(ProgressStyle::with_template(template)?))
}

/// Shows what happens in a run: on the bar, and as lines where there is no terminal.
fn show(bar: &ProgressBar, event: &Event) {
    match event {
        Event::Started(RunStart { step, steps, trained_parameters, parameters, samples, effective_batch }) => {
            bar.set_length(*steps);
            bar.set_position(*step);
            info!("{trained_parameters} of {parameters} parameters are trained on {samples} samples");
            info!("steps {step} to {steps}, {effective_batch} samples each");
        }
        Event::Step(report) => bar.set_position(report.step + 1),
        Event::Logged(line) => {
            let (loss, speed) = (line.loss, line.samples_per_second);
            bar.set_message(format!("loss {loss:.4}, {speed:.0} samples/s"));
            if !std::io::stderr().is_terminal() {
                info!(
                    "step {}: loss {loss:.4}, {speed:.1} samples/s, {:.0} % waiting",
                    line.step,
                    100.0 * line.waiting
                );
            }
        }
        Event::Saved(path) => info!("saved {}", path.display()),
        Event::Warning(text) => bar.suspend(|| warn!("{text}")),
    }
}
