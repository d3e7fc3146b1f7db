//! The observation that a command line gives.

use std::path::PathBuf;

use clap::Args;
use evo1::{Observation, StatisticsKey, View};
use eyre::Result;

use crate::{common::read_frame, sample};

/// An observation; what is left out is the sample's.
#[derive(Args)]
pub(crate) struct Given {
    /// Camera frame, PNG or JPEG, once for each view in the policy's order; the sample's frames when left out
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,

    /// The robot's state in its own units, comma-separated; the sample's when left out
    #[arg(long, value_name = "VALUES", value_delimiter = ',', allow_hyphen_values = true)]
    state: Option<Vec<f32>>,

    /// What the robot shall do; the sample's instruction when left out
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,

    /// The robot's embodiment id
    #[arg(long, value_name = "ID")]
    embodiment: Option<usize>,

    /// Arm whose statistics are used, where the policy has several
    #[arg(long, value_name = "KEY")]
    arm_key: Option<String>,

    /// Data set whose statistics are used, where the arm has several
    #[arg(long, value_name = "KEY")]
    dataset_key: Option<String>,
}

impl Given {
    /// The observation given, with the sample's parts where none was.
    pub(crate) fn observation(&self) -> Result<Observation> {
        let sample = sample::observation()?;
        let views = match self.image.as_slice() {
            [] => sample.views,
            paths => paths.iter().map(|path| Ok(View::Present(read_frame(path)?))).collect::<Result<_>>()?,
        };
        Ok(Observation {
            views,
            state: self.state.clone().unwrap_or(sample.state),
            instruction: self.prompt.clone().unwrap_or(sample.instruction),
            embodiment: self.embodiment,
            statistics: StatisticsKey { arm: self.arm_key.clone(), dataset: self.dataset_key.clone() },
            ..Observation::default()
        })
    }
}
