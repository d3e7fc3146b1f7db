//! Loading a policy directory.

use std::path::Path;

use burn::tensor::Device;
use evo1_core::{
    config::{PolicyConfig, Precision, Profile, upstream},
    normalize::Statistics,
    weights::{self, Naming, WeightFile},
};
use evo1_vlm::PromptTokenizer;

use crate::{Error, Evo1, Policy, Result};

/// How a policy directory is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where the network lives.
    pub device: Device,
    /// The reference whose semantics are used; taken from what is found when `None`.
    pub profile: Option<Profile>,
    /// Number types of weights and activations.
    pub precision: Precision,
}

/// What loading a policy directory found.
#[derive(Debug, Clone)]
pub struct LoadReport {
    /// Keys of the configuration files that nothing read.
    pub unknown_keys: Vec<String>,
    /// The tensors read and skipped.
    pub weights: weights::Loaded,
    /// Why the profile is what it is.
    pub profile_source: &'static str,
}

impl LoadOptions {
    /// Loading in f32 onto a device, with the profile of what is found.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), profile: None, precision: Precision::default() }
    }
}

impl Policy {
    /// Loads a LeRobot `evo1` policy directory: `config.json`, `model.safetensors`, `tokenizer.json`, and, where they
    /// are there, `vlm_config.json` and `norm_stats.json`.
    pub fn load(directory: &Path, options: &LoadOptions) -> Result<(Self, LoadReport)> {
        let not_a_policy = |message: String| Error::NotAPolicy { path: directory.to_owned(), message };
        if !directory.is_dir() {
            return Err(not_a_policy("there is no such directory".into()));
        }
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            if !directory.join(file).is_file() {
                return Err(not_a_policy(format!("`{file}` is missing")));
            }
        }
        options.precision.require(&options.device)?;
        let (config, unknown_keys, profile_source) = read_config(directory, options.profile)?;
        let tokenizer = PromptTokenizer::open(&directory.join("tokenizer.json"), config.max_text_length)?;
        let statistics_path = directory.join("norm_stats.json");
        let statistics = statistics_path.exists().then(|| Statistics::read(&statistics_path)).transpose()?;
        let file = WeightFile::open(&directory.join("model.safetensors"))?;
        let load_options = weights::LoadOptions {
            naming: Naming::LeRobot,
            language_layers: config.vlm.language.num_layers,
            dtype: |path: &str| options.precision.of(path),
        };
        let (network, weights) = weights::load(Evo1::init(&config, &options.device), &file, &load_options)?;
        let policy = Self::new(config, network, tokenizer, statistics, &options.device);
        Ok((policy, LoadReport { unknown_keys, weights, profile_source }))
    }
}

/// The configuration of a policy directory, its unknown keys, and why its profile is what it is.
pub(crate) fn read_config(
    directory: &Path,
    profile: Option<Profile>,
) -> Result<(PolicyConfig, Vec<String>, &'static str)> {
    let upstream::Upstream { config, unknown_keys } = upstream::read_lerobot(directory)?;
    let (profile, source) = match (profile, fixture_profile(directory)) {
        (Some(profile), _) => (profile, "chosen"),
        (None, Some(profile)) => (profile, "the flavour in meta.json"),
        (None, None) => (config.profile, "the naming of a LeRobot policy"),
    };
    Ok((config.with_profile(profile), unknown_keys, source))
}

/// The profile of a fixture directory, whose `meta.json` says which reference computed it.
fn fixture_profile(directory: &Path) -> Option<Profile> {
    let text = std::fs::read_to_string(directory.join("meta.json")).ok()?;
    let meta: serde_json::Value = serde_json::from_str(&text).ok()?;
    meta.get("flavour")?.as_str()?.parse().ok()
}
