//! Statistics as a LeRobot policy keeps them: in tensors beside its processor pipelines.
//!
//! `policy_preprocessor.json` lists the steps before the network, `policy_postprocessor.json` those after it. Their
//! normaliser steps name a safetensors file with `observation.state.min`, `action.max` and so on, padded to the model's
//! widths in newer versions and not in older ones.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::tensor::TensorData;
use serde::Deserialize;
use serde_json::json as value;

use super::{Normalization, NormalizationType, RobotStatistics, Statistics, VectorStatistics};
use crate::{
    Error, Result,
    config::{
        Cameras, PolicyConfig,
        upstream::{lerobot_document, modes, normalization_of},
    },
    files::write_atomically,
    json,
    weights::{WeightFile, floats, write_safetensors},
};

const PREPROCESSOR: &str = "policy_preprocessor";
const POSTPROCESSOR: &str = "policy_postprocessor";
const RENAMER: &str = "rename_observations_processor";
const NORMALIZER: &str = "normalizer_processor";
const UNNORMALIZER: &str = "unnormalizer_processor";

#[derive(Deserialize)]
struct Pipeline {
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    registry_name: Option<String>,
    state_file: Option<PathBuf>,
    #[serde(default)]
    config: StepConfig,
}

/// What a step says beside its tensors.
#[derive(Default, Deserialize)]
#[serde(default)]
struct StepConfig {
    eps: Option<f64>,
    norm_map: BTreeMap<String, String>,
    rename_map: BTreeMap<String, String>,
}

/// The ε of LeRobot's normalisers, which ours have too.
const EPSILON: f64 = 1e-8;

impl Statistics {
    /// The statistics of the LeRobot policy in `directory`, cut to the robot's widths; `None` when its pipelines keep
    /// none.
    pub fn read_lerobot(directory: &Path, state_dim: Option<usize>, action_dim: Option<usize>) -> Result<Option<Self>> {
        let state = state_file(directory, PREPROCESSOR, NORMALIZER)?;
        let action = state_file(directory, POSTPROCESSOR, UNNORMALIZER)?;
        let (Some(state), Some(action)) = (state.as_ref(), action.as_ref().or(state.as_ref())) else { return Ok(None) };
        let robot = RobotStatistics {
            state: vector(state, "observation.state", state_dim)?,
            action: vector(action, "action", action_dim)?,
        };
        robot.validate(state.path(), "statistics")?;
        Ok(Some(Self::single(robot)))
    }
}

impl Normalization {
    /// What the pipelines of the LeRobot policy in `directory` normalise with, which is what LeRobot obeys, whatever the
    /// policy's configuration says; `configured` where there is no pipeline.
    ///
    /// # Errors
    /// When a pipeline asks for a normalisation that there is not.
    pub fn read_lerobot(directory: &Path, configured: Self) -> Result<Self> {
        let of = |pipeline, step, feature: &str, configured| -> Result<NormalizationType> {
            let Some((path, step)) = step_of(directory, pipeline, step)? else { return Ok(configured) };
            if step.config.norm_map.is_empty() {
                return Ok(configured);
            }
            let mode = step.config.norm_map.get(feature).map_or("IDENTITY", String::as_str);
            let unknown =
                || Error::invalid(path.display(), format!("norm_map.{feature}"), format!("one of {}", modes()), mode);
            normalization_of(mode).ok_or_else(unknown)
        };
        Ok(Self {
            state: of(PREPROCESSOR, NORMALIZER, "STATE", configured.state)?,
            action: of(POSTPROCESSOR, UNNORMALIZER, "ACTION", configured.action)?,
        })
    }
}

impl Cameras {
    /// The names by which the pipeline of the LeRobot policy in `directory` lets observations call these cameras too, and
    /// `file: key` for every other name that it changes, which is not changed here.
    pub fn read_lerobot_aliases(&mut self, directory: &Path) -> Result<Vec<String>> {
        let Some((path, step)) = step_of(directory, PREPROCESSOR, RENAMER)? else { return Ok(Vec::new()) };
        let (aliases, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            step.config.rename_map.into_iter().partition(|(_, name)| self.names.contains(name));
        self.aliases = aliases;
        Ok(others.into_keys().map(|name| format!("{}: rename_map.{name}", path.display())).collect())
    }
}

/// A step of a pipeline, and the pipeline's file.
///
/// # Errors
/// When it has another ε than ours.
fn step_of(directory: &Path, pipeline: &str, step: &str) -> Result<Option<(PathBuf, Step)>> {
    let path = directory.join(format!("{pipeline}.json"));
    if !path.exists() {
        return Ok(None);
    }
    let Pipeline { steps } = json::read(&path)?;
    let Some(step) = steps.into_iter().find(|found| found.registry_name.as_deref() == Some(step)) else {
        return Ok(None);
    };
    match step.config.eps.filter(|&eps| eps != EPSILON) {
        Some(eps) => Err(Error::invalid(path.display(), format!("{NORMALIZER}.eps"), EPSILON, eps)),
        None => Ok(Some((path, step))),
    }
}

/// The tensors of a pipeline's normaliser.
fn state_file(directory: &Path, pipeline: &str, step: &str) -> Result<Option<WeightFile>> {
    let Some((path, Step { state_file: Some(file), .. })) = step_of(directory, pipeline, step)? else {
        return Ok(None);
    };
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

impl RobotStatistics {
    /// Writes the pipelines of a LeRobot `evo1` policy and their tensors, as that library does: padded to the model's
    /// widths with a range of −1 to 1.
    pub fn write_lerobot(&self, directory: &Path, config: &PolicyConfig) -> Result<()> {
        let (state, action) = (config.action.max_state_dim, config.action.max_action_dim);
        let mut tensors = self.state.padded("observation.state", state);
        tensors.extend(self.action.padded("action", action));
        let policy = lerobot_document(config);
        let (norm_map, action_feature) =
            (&policy["normalization_mapping"], value!({ "type": "ACTION", "shape": [action] }));
        let mut features = policy["input_features"].clone();
        features["observation.state"] = value!({ "type": "STATE", "shape": [state] });
        features["action"] = action_feature.clone();
        let before = value!([
            { "registry_name": "rename_observations_processor", "config": { "rename_map": config.cameras.aliases } },
            { "registry_name": "to_batch_processor", "config": {} },
            { "registry_name": "evo1_pad_state_processor", "config": { "max_state_dim": state } },
            { "registry_name": "evo1_pad_action_processor", "config": { "max_action_dim": action } },
            {
                "registry_name": NORMALIZER,
                "config": { "eps": 1e-8, "features": features, "norm_map": norm_map },
                "state_file": format!("{PREPROCESSOR}_step_4_{NORMALIZER}.safetensors"),
            },
            { "registry_name": "device_processor", "config": { "device": "cpu", "float_dtype": null } },
        ]);
        let after = value!([
            {
                "registry_name": UNNORMALIZER,
                "config": { "eps": 1e-8, "features": { "action": action_feature }, "norm_map": norm_map },
                "state_file": format!("{POSTPROCESSOR}_step_0_{UNNORMALIZER}.safetensors"),
            },
            {
                "registry_name": "evo1_action_processor",
                "config": {
                    "action_dim": config.output_width(Some(self)),
                    "binarize_gripper": policy["binarize_gripper"],
                    "gripper_index": policy["gripper_index"],
                    "gripper_threshold": policy["gripper_threshold"],
                    "gripper_below_threshold_value": policy["gripper_below_threshold_value"],
                    "gripper_above_threshold_value": policy["gripper_above_threshold_value"],
                },
            },
            { "registry_name": "device_processor", "config": { "device": "cpu", "float_dtype": "float32" } },
        ]);
        for (name, steps) in [(PREPROCESSOR, before), (POSTPROCESSOR, after)] {
            let state_file = steps.as_array().into_iter().flatten().find_map(|step| step["state_file"].as_str());
            if let Some(file) = state_file {
                write_safetensors(&directory.join(file), &tensors)?;
            }
            let text = format!("{:#}\n", value!({ "name": name, "steps": steps }));
            write_atomically(&directory.join(format!("{name}.json")), text.as_bytes())?;
        }
        Ok(())
    }
}

impl VectorStatistics {
    /// The lists as tensors of `width`, with what LeRobot pads them with: statistics that leave a padded zero at zero.
    fn padded(&self, vector: &str, width: usize) -> BTreeMap<String, TensorData> {
        self.lists()
            .into_iter()
            .map(|(name, list)| {
                let padding = match name {
                    "min" | "q01" | "q10" => -1.0,
                    "mean" => 0.0,
                    _ => 1.0,
                };
                let mut list = list.to_vec();
                list.resize(width.max(list.len()), padding);
                let width = list.len();
                (format!("{vector}.{name}"), TensorData::new(list, [width]))
            })
            .collect()
    }
}

/// The statistics of one vector, of which the first `width` dimensions are the robot's; all of them where that is unknown.
fn vector(file: &WeightFile, name: &str, width: Option<usize>) -> Result<VectorStatistics> {
    let list = |statistic: &str| -> Result<Option<Vec<f32>>> {
        let tensor = format!("{name}.{statistic}");
        if !file.contains(&tensor) {
            return Ok(None);
        }
        let mut values = floats(&file.read(&tensor)?);
        values.truncate(width.unwrap_or(usize::MAX));
        Ok(Some(values))
    };
    Ok(VectorStatistics {
        min: list("min")?,
        max: list("max")?,
        mean: list("mean")?,
        std: list("std")?,
        q01: list("q01")?,
        q99: list("q99")?,
        q10: list("q10")?,
        q90: list("q90")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{StatisticsKey, config::upstream};

    const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/lerobot-processors");

    #[test]
    fn padded_statistics_are_cut_to_the_robot() {
        let statistics =
            Statistics::read_lerobot(Path::new(FIXTURE), Some(4), Some(4)).expect("readable").expect("there");
        let robot = statistics.select(&StatisticsKey::default()).expect("one robot");
        assert_eq!(robot.state.min.as_deref(), Some(&[-1.0, -2.0, -3.0, -4.0][..]));
        assert_eq!(robot.action.max.as_deref(), Some(&[0.1, 0.2, 0.3, 0.4][..]));
        assert_eq!((robot.state.width(), robot.action.width()), (4, 4));
        assert!(robot.state.q01.is_none());
    }

    #[test]
    fn what_is_written_is_what_lerobot_writes() {
        let fixture = |name: &str| Path::new(FIXTURE).join(name);
        let statistics =
            Statistics::read_lerobot(Path::new(FIXTURE), Some(4), Some(4)).expect("readable").expect("there");
        let config = include_str!("../../../fixtures/tiny-lerobot/config.json");
        let vlm = include_str!("../../../fixtures/tiny-lerobot/vlm_config.json");
        let config = upstream::parse(Path::new("policy"), config, Some(vlm)).expect("fixture").config;
        let directory = tempfile::tempdir().expect("directory");
        statistics.only().expect("one robot").write_lerobot(directory.path(), &config).expect("written");
        let again = Statistics::read_lerobot(directory.path(), Some(4), Some(4)).expect("readable").expect("there");
        assert_eq!(again, statistics);
        for pipeline in [PREPROCESSOR, POSTPROCESSOR] {
            let json = |path: &Path| -> Value { json::read(path).expect("JSON") };
            let file = format!("{pipeline}.json");
            let (written, expected) = (json(&directory.path().join(&file)), json(&fixture(&file)));
            assert_eq!(written, expected, "{pipeline}");
        }
        for file in std::fs::read_dir(FIXTURE).expect("fixture").map(|entry| entry.expect("entry").file_name()) {
            if Path::new(&file).extension().is_some_and(|extension| extension == "safetensors") {
                let tensors = |path: &Path| {
                    let file = WeightFile::open(path).expect("tensors");
                    file.names().map(|name| (name.to_owned(), file.read(name).expect(name))).collect::<Vec<_>>()
                };
                assert_eq!(tensors(&directory.path().join(&file)), tensors(&Path::new(FIXTURE).join(&file)));
            }
        }
    }

    #[test]
    fn a_policy_without_pipelines_has_no_statistics() {
        let directory = tempfile::tempdir().expect("directory");
        assert_eq!(Statistics::read_lerobot(directory.path(), Some(4), Some(4)).expect("nothing to read"), None);
    }

    #[test]
    fn a_state_file_elsewhere_is_refused() {
        let directory = tempfile::tempdir().expect("directory");
        let step = r#"{"steps":[{"registry_name":"normalizer_processor","state_file":"../secret"}]}"#;
        std::fs::write(directory.path().join("policy_preprocessor.json"), step).expect("write");
        let message = Statistics::read_lerobot(directory.path(), Some(4), Some(4)).expect_err("outside").to_string();
        assert!(message.contains("`state_file` must be the name of a file in the same folder"), "{message}");
    }
}
