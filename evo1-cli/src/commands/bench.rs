//! `evo1 bench`: how long a prediction takes, by stage.

use clap::{Args, ValueEnum};
use evo1::{
    Frame, Observation, Policy, PredictOptions, View,
    config::{PolicyConfig, Profile},
};
use evo1_bench::{StageTimes, peak_memory, predict_timed};
use eyre::Result;
use serde_json::json;

use crate::common::Common;

/// Time predictions of a preset with random weights, by stage. Nothing is downloaded.
#[derive(Args)]
#[command(after_help = "Example:\n  evo1 bench --preset evo1 --steps 32 --repeat 5")]
pub(crate) struct Bench {
    /// Size of the model
    #[arg(long, default_value = "tiny")]
    preset: Preset,

    /// Camera views that are present
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3))]
    views: u32,

    /// Euler steps
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,

    /// Timed predictions, after one that is not counted
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,

    /// Seed of the weights
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Sizes of a model.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Preset {
    /// The published model, 775 M parameters.
    Evo1,
    /// The tiny one.
    Tiny,
}

impl Bench {
    pub(crate) fn run(self, common: &Common) -> Result<()> {
        let config = match self.preset {
            Preset::Evo1 => PolicyConfig::evo1(),
            Preset::Tiny => PolicyConfig::tiny(),
        };
        let config = config.with_profile(common.profile.unwrap_or(Profile::LeRobot));
        let (size, profile) = (config.vlm.image_size, config.profile);
        let device = common.open_device()?;
        let policy = Policy::random_in(config, self.seed, &device, common.precision())?;
        let observation = Observation {
            views: (0..self.views).map(|_| View::Present(Frame::black(size, size))).collect(),
            state: vec![0.0; 8],
            instruction: "pick up the red block and put it into the bowl".into(),
            ..Observation::default()
        };
        let options = PredictOptions { steps: Some(self.steps as usize), ..PredictOptions::default() };
        let mut runs = Vec::new();
        for run in 0..=self.repeat {
            let (_, times) = predict_timed(&policy, &observation, &options)?;
            if run > 0 {
                runs.push(times);
            }
        }
        let rows = summary(&runs);
        let memory = peak_memory();
        if self.json {
            let stages: serde_json::Map<String, serde_json::Value> = rows
                .iter()
                .map(|(name, min, median)| ((*name).into(), json!({ "min": min, "median": median })))
                .collect();
            let document = json!({
                "preset": format!("{:?}", self.preset).to_lowercase(),
                "profile": profile,
                "device": format!("{device:?}"),
                "dtype": common.dtype_name(),
                "views": self.views,
                "steps": self.steps,
                "repeat": self.repeat,
                "milliseconds": stages,
                "peak_memory_bytes": memory,
            });
            println!("{}", serde_json::to_string_pretty(&document)?);
            return Ok(());
        }
        println!("{:?} on {device:?}, {}, profile {profile}", self.preset, common.dtype_name());
        println!("{} views, {} steps, {} runs\n", self.views, self.steps, self.repeat);
        println!("{:10} {:>10} {:>10}", "stage", "min ms", "median ms");
        for (name, min, median) in rows {
            println!("{name:10} {min:>10.1} {median:>10.1}");
        }
        if let Some(bytes) = memory {
            println!("\npeak memory {:.2} GB", bytes as f64 / 1e9);
        }
        Ok(())
    }
}

/// Minimum and median of every stage and of the whole, in milliseconds.
fn summary(runs: &[StageTimes]) -> Vec<(&'static str, f64, f64)> {
    let all = |run: &StageTimes| {
        let mut stages = run.stages().to_vec();
        stages.push(("total", run.total()));
        stages
    };
    let names: Vec<&'static str> =
        runs.first().map(all).unwrap_or_default().into_iter().map(|(name, _)| name).collect();
    names
        .into_iter()
        .enumerate()
        .map(|(stage, name)| {
            let mut times: Vec<f64> = runs.iter().map(|run| all(run)[stage].1.as_secs_f64() * 1e3).collect();
            times.sort_by(f64::total_cmp);
            (name, times[0], times[times.len() / 2])
        })
        .collect()
}
