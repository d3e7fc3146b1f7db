//! Statistics as a LeRobot policy keeps them: in tensors beside its processor pipelines.
//!
//! `policy_preprocessor.json` lists the steps before the network, `policy_postprocessor.json` those after it. Their
//! normaliser steps name a safetensors file with `observation.state.min`, `action.max` and so on, padded to the model's
//! widths in newer versions and not in older ones.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{RobotStatistics, Statistics, VectorStatistics};
use crate::{
    Error, Result,
    weights::{WeightFile, floats},
};

#[derive(Deserialize)]
struct Pipeline {
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    registry_name: Option<String>,
    state_file: Option<PathBuf>,
}

impl Statistics {
    /// The statistics of the LeRobot policy in `directory`, cut to the robot's widths; `None` when its pipelines keep
    /// none.
    pub fn read_lerobot(directory: &Path, state_dim: usize, action_dim: usize) -> Result<Option<Self>> {
        let state = state_file(directory, "policy_preprocessor.json", "normalizer_processor")?;
        let action = state_file(directory, "policy_postprocessor.json", "unnormalizer_processor")?;
        let (Some(state), Some(action)) = (state.as_ref(), action.as_ref().or(state.as_ref())) else { return Ok(None) };
        let robot = RobotStatistics {
            state: vector(state, "observation.state", state_dim)?,
            action: vector(action, "action", action_dim)?,
        };
        robot.validate(state.path(), "statistics")?;
        Ok(Some(Self::single(robot)))
    }
}

/// The tensors of a pipeline's normaliser.
fn state_file(directory: &Path, pipeline: &str, step: &str) -> Result<Option<WeightFile>> {
    let path = directory.join(pipeline);
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(|reason| Error::io("read", &path, reason))?;
    let Pipeline { steps } =
        serde_json::from_str(&text).map_err(|error| Error::Json { path: path.clone(), message: error.to_string() })?;
    let file =
        steps.into_iter().find(|found| found.registry_name.as_deref() == Some(step)).and_then(|step| step.state_file);
    let Some(file) = file else { return Ok(None) };
    if file.components().count() != 1 || file.is_absolute() {
        return Err(Error::invalid(
            path.display(),
            "state_file",
            "the name of a file in the same folder",
            file.display(),
        ));
    }
    WeightFile::open(&directory.join(file)).map(Some)
}

/// The statistics of one vector, of which the first `width` dimensions are the robot's.
fn vector(file: &WeightFile, name: &str, width: usize) -> Result<VectorStatistics> {
    let list = |statistic: &str| -> Result<Option<Vec<f32>>> {
        let tensor = format!("{name}.{statistic}");
        if !file.contains(&tensor) {
            return Ok(None);
        }
        let mut values = floats(&file.read(&tensor)?);
        values.truncate(width);
        Ok(Some(values))
    };
    Ok(VectorStatistics {
        min: list("min")?,
        max: list("max")?,
        mean: list("mean")?,
        std: list("std")?,
        q01: list("q01")?,
        q99: list("q99")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StatisticsKey;

    const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/lerobot-processors");

    #[test]
    fn padded_statistics_are_cut_to_the_robot() {
        let statistics = Statistics::read_lerobot(Path::new(FIXTURE), 4, 4).expect("readable").expect("there");
        let robot = statistics.select(&StatisticsKey::default()).expect("one robot");
        assert_eq!(robot.state.min.as_deref(), Some(&[-1.0, -2.0, -3.0, -4.0][..]));
        assert_eq!(robot.action.max.as_deref(), Some(&[0.1, 0.2, 0.3, 0.4][..]));
        assert_eq!((robot.state.width(), robot.action.width()), (4, 4));
        assert!(robot.state.q01.is_none());
    }

    #[test]
    fn a_policy_without_pipelines_has_no_statistics() {
        let directory = tempfile::tempdir().expect("directory");
        assert_eq!(Statistics::read_lerobot(directory.path(), 4, 4).expect("nothing to read"), None);
    }

    #[test]
    fn a_state_file_elsewhere_is_refused() {
        let directory = tempfile::tempdir().expect("directory");
        let step = r#"{"steps":[{"registry_name":"normalizer_processor","state_file":"../secret"}]}"#;
        std::fs::write(directory.path().join("policy_preprocessor.json"), step).expect("write");
        let message = Statistics::read_lerobot(directory.path(), 4, 4).expect_err("outside").to_string();
        assert!(message.contains("`state_file` must be the name of a file in the same folder"), "{message}");
    }
}
