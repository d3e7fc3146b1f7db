//! `evo1 evaluate`: the loss and the action error of a policy on recorded data.

use std::path::PathBuf;

use clap::Args;
use evo1::{
    Choice, Components,
    cost::{Workload, costs_as},
};
use evo1_train::{DataSource, Errors, Evaluation, EvaluationConfig, evaluate_with};
use eyre::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::{
    common::{Common, parse_choice},
    output::say,
};

/// Measure a policy on recorded demonstrations, usually ones that it was not trained on: the training loss, and how far
/// predicted actions are from those recorded.
///
/// Observations, times and noise come from the seed: the same command gives the same numbers.
#[derive(Args)]
#[command(
    after_help = "Example:\n  evo1 evaluate --policy runs/first/checkpoints/step-00000200 --data recipes/data/metaworld.yaml"
)]
pub(crate) struct Evaluate {
    /// Policy directory
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,

    /// Data configuration, as training reads it; its augmentation and its noise on states are left out
    #[arg(long, value_name = "FILE")]
    data: PathBuf,

    /// Batches of 32 observations
    #[arg(long, value_name = "N", default_value_t = 8)]
    batches: usize,

    /// Seed of what is drawn
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Steps of the sampler; the policy's own number when left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: Option<u32>,

    /// The solver, for example euler, heun or midpoint; the policy's own when left out
    #[arg(long, value_parser = parse_choice)]
    solver: Option<Choice>,

    /// The times between which the sampler steps, for example uniform, shifted(3) or cosine; the policy's own when left out
    #[arg(long, value_parser = parse_choice)]
    grid: Option<Choice>,

    /// Number type of the weights of linear layers
    #[arg(long, value_enum, default_value_t)]
    weights: WeightType,

    /// Print JSON instead of lines
    #[arg(long)]
    json: bool,
}

/// The number type of the weights while predicting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WeightType {
    /// Single precision.
    #[default]
    F32,
    /// Linear layers in eight bits.
    Int8,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// The training loss.
    pub(crate) loss: f64,
    /// Root of the mean squared difference of predicted and recorded actions, normalised.
    pub(crate) rmse: f64,
    /// Mean absolute difference of predicted and recorded actions, normalised.
    pub(crate) mae: f64,
    /// Observations.
    pub(crate) samples: usize,
    /// Median time from prepared inputs of one observation to its actions.
    pub(crate) milliseconds: f64,
    /// Parameters of the policy.
    pub(crate) parameters: u64,
    /// Floating-point operations of a prediction.
    pub(crate) flops: u64,
}

impl Evaluate {
    pub(crate) fn run<C: Components>(self, common: &Common) -> Result<()> {
        let device = common.open_device()?;
        let mut policy = common.load::<C>(&self.policy, &device)?;
        if let Some(solver) = self.solver {
            policy.config.flow.solver = solver;
        }
        if let Some(grid) = self.grid {
            policy.config.flow.grid = grid;
        }
        if let Some(steps) = self.steps {
            policy.config.num_inference_steps = steps as usize;
        }
        let policy = match self.weights {
            WeightType::F32 => policy.packed(),
            WeightType::Int8 => policy.quantized()?,
        };
        let config = EvaluationConfig {
            batches: self.batches,
            seed: self.seed,
            ..EvaluationConfig::new(DataSource::File(self.data))
        };
        let bar = ProgressBar::new(config.batches as u64)
            .with_style(ProgressStyle::with_template("{bar:40} batch {pos} of {len}, {eta} left")?);
        let evaluation = evaluate_with(&policy, &config, &common.suites, |done| bar.set_position(done as u64))?;
        bar.finish_and_clear();
        let Evaluation { errors: Errors { loss, rmse, mae }, samples, milliseconds } = evaluation;
        let costs = costs_as::<C>(&policy.config, &Workload::of(&policy.config))?;
        let parameters = costs.iter().map(|component| component.parameters).sum();
        let flops = costs.iter().map(|component| component.flops).sum();
        let measured = Measured { loss, rmse, mae, samples, milliseconds, parameters, flops };
        if self.json {
            return say!("{}", serde_json::to_string(&measured)?);
        }
        say!("observations   {samples}")?;
        say!("loss           {loss:.5}")?;
        say!("action error   {rmse:.5} root mean square, {mae:.5} mean absolute, in normalised units")?;
        say!("one prediction {milliseconds:.2} ms, {:.3} GFLOP", flops as f64 / 1e9)
    }
}
