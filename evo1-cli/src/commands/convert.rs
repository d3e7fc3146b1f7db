//! `evo1 convert`: a policy directory in another format.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use evo1::convert::{ConvertOptions, Format, convert};
use eyre::{Result, bail};

use crate::{
    common::{Common, Dtype, byte_bar, local},
    output::say,
};

/// Write a policy in another format, tensor by tensor: it need not fit into memory. Weights keep their number types
/// unless --dtype is given.
#[derive(Args)]
#[command(
    after_help = "Example:\n  evo1 convert --from fixtures/tiny-authors --to policy --format lerobot --dtype bf16"
)]
pub(crate) struct Convert {
    /// Policy directory: LeRobot's, a checkpoint of the authors' code, or one with burn's file; or hf://owner/name
    #[arg(long, value_name = "PATH")]
    from: PathBuf,

    /// Folder to write to; it may not hold a policy yet
    #[arg(long, value_name = "DIR")]
    to: PathBuf,

    /// What to write
    #[arg(long, value_name = "FORMAT")]
    format: Target,

    /// Folder of a PEFT adapter of the policy (LoRA), or hf://owner/name, which is added to its weights
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
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
        if common.dtype == Some(Dtype::Tf32) {
            bail!("tf32 is how products are computed, not a number type of files: use `--dtype f32`");
        }
        let format = match self.format {
            Target::Lerobot => Format::LeRobot,
            Target::Authors => Format::Authors,
            Target::Burnpack => Format::Burnpack,
        };
        let options = ConvertOptions {
            format,
            precision: common.dtype.map(Dtype::precision),
            is_strict: common.strict,
            adapter: self.adapter.as_deref().map(local).transpose()?,
        };
        let from = local(&self.from)?;
        let bar = byte_bar()?;
        let progress = {
            let bar = bar.clone();
            move |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            }
        };
        convert(&from, &self.to, &options, progress)?;
        bar.finish_and_clear();
        say!("{} written to {}", indicatif::HumanBytes(bar.position()), self.to.display())?;
        Ok(())
    }
}
