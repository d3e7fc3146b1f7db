//! One training sample.

use std::{fmt, sync::Arc};

use evo1_core::Observation;

/// What a sample is: a window of a recorded episode.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Where it is from.
    pub id: SampleId,
    /// What the robot saw, felt and was told in its first frame.
    pub observation: Observation,
    /// The actions in the robot's units, `[horizon, action_width]`, row-major.
    pub actions: Vec<f32>,
    /// Values of an action.
    pub action_width: usize,
    /// Which of the actions lie past the episode's end, where the last one is repeated.
    pub action_is_pad: Vec<bool>,
}

/// Where a sample is from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SampleId {
    /// Arm and dataset key, `arm/dataset`.
    pub dataset: Arc<str>,
    /// The episode.
    pub episode: usize,
    /// The frame within the episode.
    pub frame: usize,
}

impl fmt::Display for SampleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dataset, episode, frame } = self;
        write!(f, "{dataset}, episode {episode}, frame {frame}")
    }
}
