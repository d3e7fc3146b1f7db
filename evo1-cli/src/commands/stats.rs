//! `evo1 stats`: normalisation statistics of training data.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use evo1::config::Cameras;
use evo1_data::{DataConfig, Mixture, StatisticsPer};
use eyre::{Result, WrapErr};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{common::Common, output::say};

/// Compute the statistics that normalise states and actions, over exactly the windows that training sees.
#[derive(Args)]
#[command(after_help = "Example:\n  evo1 stats --data recipes/data/example.yaml --horizon 16 --out norm_stats.json")]
pub(crate) struct Stats {
    /// The data configuration
    #[arg(long, value_name = "CONFIG")]
    data: PathBuf,

    /// Actions of a window
    #[arg(long, value_name = "N", default_value_t = 50)]
    horizon: usize,

    /// What has statistics of its own: every dataset, or every arm with all its datasets together
    #[arg(long, value_enum, default_value = "dataset")]
    per: Per,

    /// Where to write the statistics of all arms and datasets, as a policy has them
    #[arg(long, value_name = "FILE", default_value = "norm_stats.json")]
    out: PathBuf,

    /// Write the statistics of each by itself, too: DIR/ARM/DATASET/stats.json
    #[arg(long, value_name = "DIR")]
    stats_dir: Option<PathBuf>,
}

/// [`StatisticsPer`] on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Per {
    Dataset,
    Arm,
}

impl Stats {
    pub(crate) fn run(self, common: &Common) -> Result<()> {
        let mixture =
            Mixture::open_with(&DataConfig::read(&self.data)?, self.horizon, &Cameras::default(), &common.suites)?;
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::with_template("{bar:40} {pos} of {len} episodes, {eta} left")?);
        let per = match self.per {
            Per::Dataset => StatisticsPer::Dataset,
            Per::Arm => StatisticsPer::Arm,
        };
        let statistics = mixture.statistics_per(per, |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        statistics.write(&self.out)?;
        for skipped in mixture.skipped() {
            say!("skipped {skipped}")?;
        }
        say!("statistics of {} windows written to {}", mixture.len(), self.out.display())?;
        for (name, robot) in statistics.robots() {
            for (what, vector) in [("state", &robot.state), ("action", &robot.action)] {
                let bounds = vector.min.iter().flatten().zip(vector.max.iter().flatten()).enumerate();
                for (dimension, (value, _)) in bounds.filter(|(_, (min, max))| min == max) {
                    say!("{name}: dimension {dimension} of the {what} is {value} in every window")?;
                }
            }
            let Some(folder) = self.stats_dir.as_ref().map(|folder| folder.join(&name)) else { continue };
            std::fs::create_dir_all(&folder)
                .wrap_err_with(|| format!("cannot make the folder {}", folder.display()))?;
            robot.write(&folder.join("stats.json"))?;
            say!("those of {name} written to {}", folder.join("stats.json").display())?;
        }
        Ok(())
    }
}
