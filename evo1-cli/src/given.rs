//! The observation that a command line gives.

use std::{convert::Infallible, path::PathBuf, str::FromStr};

use clap::Args;
use evo1::{Observation, StatisticsKey, View, config::PolicyConfig};
use eyre::{Result, ensure};
use tracing::warn;

use crate::{common::read_frame, sample};

/// An observation; what is left out is the sample's.
#[derive(Args)]
pub(crate) struct Given {
    /// Camera frame, PNG or JPEG: once for each camera by its name, or once for each view in the policy's order, which is
    /// printed; the sample's frames when left out
    #[arg(long, value_name = "[CAMERA=]FILE")]
    image: Vec<GivenImage>,

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

/// A camera frame on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GivenImage {
    camera: Option<String>,
    file: PathBuf,
}

impl FromStr for GivenImage {
    type Err = Infallible;

    /// `CAMERA=FILE`, or `FILE` where a file is called so or there is no `=`.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.split_once('=') {
            Some((camera, file)) if !PathBuf::from(text).exists() => {
                Self { camera: Some(camera.into()), file: file.into() }
            }
            _ => Self { camera: None, file: text.into() },
        })
    }
}

impl Given {
    /// The observation given to a policy, with the sample's parts where none was; said where the policy is not the embedded one.
    pub(crate) fn observation(&self, policy: &PolicyConfig, is_embedded: bool) -> Result<Observation> {
        let sample = sample::observation()?;
        let parts = [
            ("frames", self.image.is_empty()),
            ("state", self.state.is_none()),
            ("instruction", self.prompt.is_none()),
        ];
        let left_out: Vec<&str> =
            parts.into_iter().filter(|(_, is_left_out)| *is_left_out).map(|(part, _)| part).collect();
        if !(is_embedded || left_out.is_empty()) {
            warn!(
                "{} of the embedded sample, which another robot's camera saw, since none was given",
                left_out.join(", ")
            );
        }
        let views = if self.image.is_empty() { sample.views } else { self.views(policy)? };
        Ok(Observation {
            views,
            state: self.state.clone().unwrap_or(sample.state),
            instruction: self.prompt.clone().unwrap_or(sample.instruction),
            embodiment: self.embodiment,
            statistics: StatisticsKey { arm: self.arm_key.clone(), dataset: self.dataset_key.clone() },
            ..Observation::default()
        })
    }

    /// The frames given as views: by the names of their cameras, or in the order in which they come.
    fn views(&self, policy: &PolicyConfig) -> Result<Vec<View>> {
        let frame = |image: &GivenImage| Ok(View::Present(read_frame(&image.file)?));
        let named = self.image.iter().filter_map(|image| Some((image.camera.clone()?, image))).collect::<Vec<_>>();
        let cameras = &policy.cameras;
        if named.is_empty() {
            for (view, camera) in cameras.names.iter().enumerate() {
                let file = self.image.get(view).map_or("absent".into(), |image| image.file.display().to_string());
                eprintln!("view {}: {camera}: {file}", view + 1);
            }
            let views = self.image.iter().map(frame).collect::<Result<Vec<_>>>()?;
            cameras.ensure_one_each(&views)?;
            return Ok(views);
        }
        ensure!(
            named.len() == self.image.len(),
            "every `--image` names its camera, or none does: got {} with a name and {} without",
            named.len(),
            self.image.len() - named.len()
        );
        ensure!(
            !cameras.is_unknown(),
            "the policy does not know what its cameras are called: give frames without names, in the order of its views"
        );
        let arranged = cameras.arrange(named)?;
        arranged.into_iter().map(|image| image.map_or(Ok(View::Absent), frame)).collect()
    }
}
