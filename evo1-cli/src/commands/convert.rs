//! `evo1 convert`: a policy directory in another format.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use evo1::convert::{Format, convert};
use eyre::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::common::{Common, Dtype};

/// Write a policy in another format, tensor by tensor: it need not fit into memory. Weights keep their number types
/// unless --dtype is given.
#[derive(Args)]
#[command(after_help = "Example:\n  evo1 convert --from CHECKPOINT --to POLICY --format lerobot --dtype bf16")]
pub(crate) struct Convert {
    /// Policy directory: LeRobot's, a checkpoint of the authors' code, or one with burn's file
    #[arg(long, value_name = "PATH")]
    from: PathBuf,

    /// Folder to write to; it may not hold a policy yet
    #[arg(long, value_name = "DIR")]
    to: PathBuf,

    /// What to write
    #[arg(long, value_name = "FORMAT")]
    format: Target,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// A LeRobot policy
    Lerobot,
    /// The names of the authors' code
    Authors,
    /// burn's own format
    Burnpack,
}

impl Convert {
    pub(crate) fn run(self, common: &Common) -> Result<()> {
        let format = match self.format {
            Target::Lerobot => Format::LeRobot,
            Target::Authors => Format::Authors,
            Target::Burnpack => Format::Burnpack,
        };
        let precision = common.dtype.map(Dtype::precision);
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")?);
        let progress = {
            let bar = bar.clone();
            move |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            }
        };
        convert(&self.from, &self.to, format, precision, &common.open_device()?, progress)?;
        bar.finish_and_clear();
        println!("{} written to {}", indicatif::HumanBytes(bar.position()), self.to.display());
        Ok(())
    }
}
