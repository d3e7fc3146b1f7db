//! `evo1 infer`: one action chunk.

use std::path::PathBuf;

use clap::Args;
use evo1::{ActionChunk, Components, Frame, Noise, Observation, Policy, PredictOptions, View};
use evo1_bench::{StageTimes, predict_timed};
use eyre::Result;
use serde_json::json;
use tracing::info;

use crate::{common::Common, given::Given, output, plot};

/// Predict an action chunk. With nothing given, the embedded policy looks at the embedded sample observation.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  evo1 infer --plot chunk.png\n  evo1 infer --policy evo1/assets/metaworld --image docs/frame.png --image docs/frame-behind.png \\\n    --state 0.01,0.6,0.19,1,0.1,0.67,0.02,0 --prompt \"Push the puck to the goal marker\" --json"
)]
pub(crate) struct Infer {
    /// Policy directory, or hf://owner/name[@revision]; the embedded policy when left out
    #[arg(long, value_name = "DIR")]
    policy: Option<PathBuf>,

    #[command(flatten)]
    given: Given,

    /// Euler steps; the policy's own number when left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: Option<u32>,

    /// Seed of the noise that the flow starts from
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,

    /// Draw the chunk beside the input frames
    #[arg(long, value_name = "FILE.png")]
    plot: Option<PathBuf>,
}

impl Infer {
    pub(crate) fn run<C: Components>(self, common: &Common) -> Result<()> {
        let device = common.open_device()?;
        let policy = common.policy::<C>(self.policy.as_deref(), &device)?.packed();
        let observation = self.given.observation(&policy.config, self.policy.is_none())?;
        let options = PredictOptions {
            steps: self.steps.map(|steps| steps as usize),
            noise: Noise::Seed(self.seed),
            ..PredictOptions::default()
        };
        let (chunk, times) = predict_timed(&policy, &observation, &options)?;
        let shown = Shown { infer: &self, policy: &policy, observation: &observation, chunk: &chunk, times };
        if let Some(path) = &self.plot {
            let frames: Vec<Frame> = observation.views.iter().filter_map(View::frame).cloned().collect();
            plot::chunk_png(path, &chunk, &frames, &observation.instruction)?;
            info!("plotted to {}", path.display());
        }
        let text = if self.json { shown.json()? } else { shown.table(common) };
        output::print(format_args!("{text}"))
    }
}

/// A prediction, ready to be shown.
struct Shown<'a, C: Components> {
    infer: &'a Infer,
    policy: &'a Policy<C>,
    observation: &'a Observation,
    chunk: &'a ActionChunk,
    times: StageTimes,
}

impl<C: Components> Shown<'_, C> {
    fn steps(&self) -> usize {
        self.infer.steps.map_or(self.policy.config.num_inference_steps, |steps| steps as usize)
    }

    fn table(&self, common: &Common) -> String {
        let Self { infer, policy, observation, chunk, times } = self;
        let views = observation.views.len();
        let mut text = format!("policy       {}\n", Common::policy_name(infer.policy.as_deref()));
        text += &format!("device       {:?}, {}\n", policy.device(), common.dtype_name());
        text += &format!("profile      {}, {} Euler steps, seed {}\n", policy.config.profile, self.steps(), infer.seed);
        text += &format!("instruction  {}\n", observation.instruction);
        text += &format!("observation  {views} views, state of {} values\n\n", observation.state.len());
        text += "step";
        for dimension in 0..chunk.width() {
            text += &format!("{:>11}", format!("action {dimension}"));
        }
        for (step, action) in chunk.steps().enumerate() {
            text += &format!("\n{step:>4}");
            for value in action {
                text += &format!("{value:>11.4}");
            }
        }
        let stages = times.stages().into_iter().map(|(name, time)| format!("{name} {:.1}", time.as_secs_f64() * 1e3));
        let stages = stages.collect::<Vec<_>>().join(", ");
        text += &format!("\n\n{:.1} ms ({stages})\n", times.total().as_secs_f64() * 1e3);
        text
    }

    fn json(&self) -> Result<String> {
        let Self { infer, policy, observation, chunk, times } = self;
        let milliseconds: serde_json::Map<String, serde_json::Value> =
            times.stages().into_iter().map(|(name, time)| (name.into(), json!(time.as_secs_f64() * 1e3))).collect();
        let document = json!({
            "policy": Common::policy_name(infer.policy.as_deref()),
            "profile": policy.config.profile,
            "steps": self.steps(),
            "seed": infer.seed,
            "instruction": observation.instruction,
            "horizon": chunk.horizon(),
            "width": chunk.width(),
            "actions": chunk.steps().collect::<Vec<_>>(),
            "milliseconds": milliseconds,
        });
        Ok(serde_json::to_string_pretty(&document)? + "\n")
    }
}
