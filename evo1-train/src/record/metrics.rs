//! Lines of `metrics.jsonl`, one for each logged step, and of `warnings.jsonl`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Errors, StepTimes};

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The step, counted from 1: how many have been done.
    pub step: u64,
    /// Mean loss of the steps since the line before; not a number (`null`) when all of them were skipped.
    #[serde(deserialize_with = "number_or_nan")]
    pub loss: f64,
    /// Mean norm of the gradients since the line before, before clipping.
    #[serde(deserialize_with = "number_or_nan")]
    pub gradient_norm: f64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// Observations seen since the run began.
    pub samples: u64,
    /// Observations a second since the line before.
    pub samples_per_second: f64,
    /// Part of that time spent waiting for data.
    pub waiting: f64,
    /// Steps skipped since the run began because loss or gradient were not finite.
    pub skipped: u64,
    /// Seconds since the process began the run or went on with it.
    pub seconds: f64,
    /// Where the time of a step went.
    #[serde(default)]
    pub times: Profile,
    /// Errors on what is held out, where they were computed after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<Errors>,
    /// The same of the average of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_ema: Option<Errors>,
}

/// Mean milliseconds of the parts of a step ([`StepTimes`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Waiting for batches.
    pub data: f64,
    /// From the batches to their losses.
    pub forward: f64,
    /// The gradients.
    pub backward: f64,
    /// Their mean over all ranks.
    pub reduce: f64,
    /// The update of the weights.
    pub update: f64,
}

impl Profile {
    /// The mean of some steps that took `times` together.
    pub(crate) fn of(times: StepTimes, steps: u32) -> Self {
        let mean = |time: Duration| time.as_secs_f64() * 1e3 / f64::from(steps.max(1));
        let StepTimes { data, forward, backward, reduce, update } = times;
        let (data, forward, backward) = (mean(data), mean(forward), mean(backward));
        Self { data, forward, backward, reduce: mean(reduce), update: mean(update) }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data, forward, backward, reduce, update } = self;
        write!(
            f,
            "data {data:.1}, forward {forward:.1}, backward {backward:.1}, reduce {reduce:.1}, update {update:.1}"
        )
    }
}

/// One line of `warnings.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Warned {
    /// Steps that were done.
    pub step: u64,
    /// What whoever trains should know.
    pub text: String,
}

/// JSON has no word for what is not a number and says `null`.
fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}
