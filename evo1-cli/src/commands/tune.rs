//! `evo1 tune`: a policy's kernels, compiled before they are needed.

use std::{path::PathBuf, time::Instant};

use clap::Args;
use evo1::{Components, Frame, Observation, PredictOptions, View};
use eyre::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{common::Common, output::say};

/// Compile the kernels of a policy's predictions, with every number of views that it takes, so that later processes find
/// them: on CUDA devices, which keep them in the user's cache. It is done once for a machine, a policy's sizes and a
/// number type.
#[derive(Args)]
#[command(after_help = "Examples:\n  evo1 tune\n  evo1 tune --device cuda --dtype bf16 --policy evo1/assets/metaworld")]
pub(crate) struct Tune {
    /// Policy directory, or hf://owner/name[@revision]; the embedded policy when left out
    #[arg(long, value_name = "DIR")]
    policy: Option<PathBuf>,
}

impl Tune {
    pub(crate) fn run<C: Components>(self, common: &Common) -> Result<()> {
        let device = common.open_device()?;
        let mut policy = common.policy::<C>(self.policy.as_deref(), &device)?.packed();
        // What a robot's units are is nothing to kernels.
        policy.statistics = None;
        let (size, views) = (policy.config.vlm.image_size, policy.config.max_views);
        let state = vec![0.0; policy.config.state_dim.unwrap_or(1)];
        // The kernels are the same for any number of steps.
        let options = PredictOptions { steps: Some(1), ..PredictOptions::default() };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} numbers of views, {elapsed}")?;
        let bar = ProgressBar::new(views as u64).with_style(style);
        say!("views  first prediction, s  next, s")?;
        for count in 1..=views {
            let present = (0..count).map(|_| View::Present(Frame::black(size, size)));
            let observation = Observation {
                views: present.collect(),
                state: state.clone(),
                instruction: "pick up the red block".to_owned(),
                ..Observation::default()
            };
            let mut seconds = [0.0; 2];
            for seconds in &mut seconds {
                let start = Instant::now();
                policy.predict(&observation, &options)?;
                *seconds = start.elapsed().as_secs_f64();
            }
            bar.inc(1);
            bar.suspend(|| say!("{count:>5}  {:>19.2}  {:>7.2}", seconds[0], seconds[1]))?;
        }
        bar.finish_and_clear();
        Ok(())
    }
}
