//! `evo1 stats`: normalisation statistics of training data.

use std::path::PathBuf;

use clap::Args;
use evo1_data::{DataConfig, Mixture};
use eyre::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Compute the statistics that normalise states and actions, over exactly the windows that training sees.
#[derive(Args)]
#[command(after_help = "Example:\n  evo1 stats --data data.yaml --horizon 50 --out norm_stats.json")]
pub(crate) struct Stats {
    /// The data configuration
    #[arg(long, value_name = "CONFIG")]
    data: PathBuf,

    /// Actions of a window
    #[arg(long, value_name = "N", default_value_t = 50)]
    horizon: usize,

    /// Where to write them
    #[arg(long, value_name = "FILE", default_value = "norm_stats.json")]
    out: PathBuf,
}

impl Stats {
    pub(crate) fn run(self) -> Result<()> {
        let mixture = Mixture::open(&DataConfig::read(&self.data)?, self.horizon)?;
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::with_template("{bar:40} {pos} of {len} episodes, {eta} left")?);
        let statistics = mixture.statistics(|done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        statistics.write(&self.out)?;
        println!("statistics of {} windows written to {}", mixture.len(), self.out.display());
        Ok(())
    }
}
