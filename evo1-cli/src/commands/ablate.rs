//! `evo1 ablate`: an ablation study from a file.

use std::{fs, path::PathBuf};

use clap::Args;
use evo1::{Components, CoreError};
use eyre::{Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    ablate::{AXES, Changes, Outcome, Runner, Study, summary, write},
    common::Common,
    output::say,
};

/// Train and measure every combination of some axes over some seeds, and write what came of it.
///
/// Each cell runs in processes of its own (`evo1 train`, `evo1 evaluate`): one that fails does not end the others. What is
/// done is not repeated when the same command runs again, and a training run that was stopped goes on from its newest
/// checkpoint. The folder gets `results.jsonl`, `results.csv`, `results.md`, `error.png`, `curves.png` and `report.html`,
/// which shows all of it by itself.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  evo1 ablate ablations/integration.yaml --out runs/integration\n  evo1 ablate --axes"
)]
pub(crate) struct Ablate {
    /// The study; `ablations/README.md` describes what is in it
    #[arg(value_name = "FILE", required_unless_present = "axes")]
    study: Option<PathBuf>,

    /// Folder for the runs and the results
    #[arg(long, value_name = "DIR", required_unless_present_any = ["axes", "check"])]
    out: Option<PathBuf>,

    /// Another training configuration than the study's `base`; the study's `set` is left out
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,

    /// A value of the base, for example steps=200; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Training runs side by side; each takes the memory of one, and together they share the processor
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,

    /// Check the study and list its cells, and run nothing
    #[arg(long)]
    check: bool,

    /// List the axes
    #[arg(long, conflicts_with = "study")]
    axes: bool,
}

impl Ablate {
    pub(crate) fn run<C: Components>(self, common: &Common) -> Result<()> {
        if self.axes {
            return AXES.iter().try_for_each(|axis| say!("{:14} {}", axis.name, axis.values));
        }
        let Some(path) = &self.study else { bail!("give the file of a study") };
        let study = Study::read::<C>(path, &Changes { base: self.base, set: self.set })?;
        let (cells, seeds) = (study.cells.len(), study.seeds.len());
        if self.check {
            say!("{cells} cells, {seeds} seeds")?;
            return study.cells.iter().try_for_each(|cell| say!("{}", cell.name));
        }
        let Some(out) = self.out else { bail!("give `--out DIR`, the folder for the results") };
        fs::create_dir_all(&out).map_err(|reason| CoreError::io("create", &out, reason))?;
        let bar = ProgressBar::new((cells * seeds) as u64)
            .with_style(ProgressStyle::with_template("{bar:40} {pos} of {len} results, {elapsed} so far, {eta} left")?);
        bar.enable_steady_tick(std::time::Duration::from_secs(1));
        let options = common.options();
        let runner = Runner { study: &study, out: &out, options: &options };
        let results = runner.run(self.jobs.into(), |outcome, done| {
            bar.suspend(|| eprintln!("{}", line(outcome)));
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        let rows = summary(&study, &results);
        say!("{}\nreport in {}", write(&out, &study, &rows)?, out.join("report.html").display())?;
        let failed = rows.iter().map(|row| row.errors.len()).sum::<usize>();
        ensure!(failed == 0, "{failed} of {} results are missing; the same command tries them again", cells * seeds);
        Ok(())
    }
}

/// What is said of an outcome while the study runs.
fn line(outcome: &Outcome) -> String {
    let Outcome { cell, seed, seconds, measured, error, .. } = outcome;
    match measured {
        Some(measured) => {
            format!("{cell}, seed {seed}: action error {:.4}, loss {:.4}, {seconds:.0} s", measured.rmse, measured.loss)
        }
        None => format!("{cell}, seed {seed}: failed: {}", error.as_deref().unwrap_or("unknown")),
    }
}
