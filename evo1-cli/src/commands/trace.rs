//! `evo1 trace`: every intermediate tensor, and how far it is from PyTorch's.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use evo1::{
    Components,
    trace::{Stage, TraceComparison, compare, inference, training},
    weights::{WeightFile, write_safetensors},
};
use eyre::{Result, bail};
use tracing::info;

use crate::{common::Common, output};

/// Write every intermediate tensor of a policy on given inputs, under the names of the PyTorch fixtures.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  evo1 trace --policy fixtures/tiny-lerobot --inputs fixtures/tiny-lerobot/inference.safetensors \\\n    --against fixtures/tiny-lerobot/inference.safetensors\n  evo1 trace --policy fixtures/tiny-lerobot --inputs fixtures/tiny-lerobot/inference.safetensors --out trace.safetensors"
)]
#[command(group(clap::ArgGroup::new("result").required(true).multiple(true).args(["out", "against"])))]
pub(crate) struct Trace {
    /// Policy directory, or hf://owner/name[@revision]
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,

    /// File whose `in.*` tensors are the inputs; with --train also `step0.t` and `step0.noise_raw`
    #[arg(long, value_name = "FILE.safetensors")]
    inputs: PathBuf,

    /// File to write the tensors to
    #[arg(long, value_name = "FILE.safetensors")]
    out: Option<PathBuf>,

    /// Trace the training objective and its gradients instead of a prediction
    #[arg(long, value_name = "STAGE")]
    train: Option<TrainingStage>,

    /// Reference to compare with: prints the differences per tensor
    #[arg(long, value_name = "FILE.safetensors")]
    against: Option<PathBuf>,

    /// Largest difference allowed, relative to the reference's largest magnitude
    #[arg(long, value_name = "X", default_value_t = 1e-4)]
    tolerance: f64,

    /// Euler steps; the policy's own number when left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: Option<u32>,
}

/// What is trained.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum TrainingStage {
    /// The action expert.
    Stage1,
    /// Everything.
    Stage2,
}

impl Trace {
    pub(crate) fn run<C: Components>(self, common: &Common) -> Result<()> {
        let device = common.open_device()?;
        let inputs = WeightFile::open(&self.inputs)?;
        let (tensors, profile) = match self.train {
            None => {
                let policy = common.load::<C>(&self.policy, &device)?;
                (inference(&policy, &inputs, self.steps.map(|steps| steps as usize))?, policy.config.profile)
            }
            Some(stage) => {
                let policy = common.load::<C>(&self.policy, &device.autodiff())?;
                let stage = match stage {
                    TrainingStage::Stage1 => Stage::Stage1,
                    TrainingStage::Stage2 => Stage::Stage2,
                };
                (training(&policy, &inputs, stage)?, policy.config.profile)
            }
        };
        if let Some(path) = &self.out {
            write_safetensors(path, &tensors)?;
            info!("{} tensors written to {}", tensors.len(), path.display());
        }
        let Some(reference) = &self.against else { return Ok(()) };
        let comparison = compare(&tensors, &WeightFile::open(reference)?, profile)?;
        output::print(format_args!("{}", table(&comparison, self.tolerance)))?;
        if comparison.differences.is_empty() {
            bail!("{} shares no tensor with the trace: is it a reference of this model?", reference.display());
        }
        if !comparison.is_within(self.tolerance) {
            bail!("the trace differs from {} by more than {:e}", reference.display(), self.tolerance);
        }
        Ok(())
    }
}

fn table(comparison: &TraceComparison, tolerance: f64) -> String {
    let names = comparison.differences.iter().map(|found| &found.name).chain(&comparison.missing);
    let width = names.map(String::len).max().unwrap_or(0).max("tensor".len());
    let mut text = format!("{:width$}  {:>9}  {:>9}\n", "tensor", "absolute", "relative");
    for found in &comparison.differences {
        let mark = if found.relative <= tolerance { "" } else { "  too far" };
        text += &format!("{:width$}  {:9.2e}  {:9.2e}{mark}\n", found.name, found.absolute, found.relative);
    }
    for name in &comparison.missing {
        text += &format!("{name:width$}  not computed, or of another shape\n");
    }
    text
}
