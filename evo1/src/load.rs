//! Loading a policy directory.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use evo1_core::{
    config::{PolicyConfig, Precision, Profile, upstream},
    normalize::Statistics,
    weights::{self, WeightFile},
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
    /// Loads a policy directory: a LeRobot `evo1` policy, or a checkpoint of the authors' code.
    ///
    /// Both hold `config.json` and weights, and may hold `vlm_config.json` and `tokenizer.json` (without the former
    /// InternVL3-1B is meant, whose tokenizer is built in) and statistics, in `norm_stats.json` or in LeRobot's processor files. Weights are taken from the
    /// first that is there of `model.safetensors`, `model.safetensors.index.json`, `model.bpk`,
    /// `mp_rank_00_model_states.pt` and `checkpoint.pt`.
    pub fn load(directory: &Path, options: &LoadOptions) -> Result<(Self, LoadReport)> {
        let not_a_policy = |message: String| Error::NotAPolicy { path: directory.to_owned(), message };
        let weights = weight_file(directory)?;
        options.precision.require(&options.device)?;
        let (config, unknown_keys, profile_source) = read_config(directory, options.profile)?;
        let tokenizer = read_tokenizer(directory, &config)?;
        let statistics = read_statistics(directory, &config)?;
        let file = WeightFile::open(&weights)?;
        let load_options = weights::LoadOptions {
            language_layers: config.vlm.language.num_layers,
            dtype: |path: &str| options.precision.of(path),
        };
        let (network, weights) = weights::load(Evo1::init(&config, &options.device), &file, &load_options)?;
        if !weights.naming.has_action_expert() {
            return Err(not_a_policy("its weights are a base model without an action expert".into()));
        }
        let policy = Self::new(config, network, tokenizer, statistics, &options.device);
        Ok((policy, LoadReport { unknown_keys, weights, profile_source }))
    }
}

/// Names under which the weights of a policy are looked for.
const WEIGHT_FILES: [&str; 5] =
    ["model.safetensors", "model.safetensors.index.json", "model.bpk", "mp_rank_00_model_states.pt", "checkpoint.pt"];

/// The weights of a policy directory, which must have a `config.json` too.
pub(crate) fn weight_file(directory: &Path) -> Result<PathBuf> {
    let not_a_policy = |message: String| Error::NotAPolicy { path: directory.to_owned(), message };
    if !directory.is_dir() {
        return Err(not_a_policy("there is no such directory".into()));
    }
    if !directory.join("config.json").is_file() {
        return Err(not_a_policy("`config.json` is missing".into()));
    }
    WEIGHT_FILES
        .into_iter()
        .map(|name| directory.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| not_a_policy(format!("none of `{}` is there", WEIGHT_FILES.join("`, `"))))
}

/// The policy's tokenizer; InternVL3-1B's where it brings none and is built on that model.
fn read_tokenizer(directory: &Path, config: &PolicyConfig) -> Result<PromptTokenizer> {
    let path = directory.join("tokenizer.json");
    if !path.is_file() && !directory.join("vlm_config.json").is_file() {
        return Ok(PromptTokenizer::internvl3(config.max_text_length)?);
    }
    Ok(PromptTokenizer::open(&path, config.max_text_length)?)
}

/// Statistics in the authors' file, else in LeRobot's.
fn read_statistics(directory: &Path, config: &PolicyConfig) -> Result<Option<Statistics>> {
    let path = directory.join("norm_stats.json");
    if path.exists() {
        return Ok(Some(Statistics::read(&path)?));
    }
    Ok(Statistics::read_lerobot(directory, config.state_dim, config.action_dim)?)
}

/// The configuration of a policy directory, its unknown keys, and why its profile is what it is.
pub(crate) fn read_config(
    directory: &Path,
    profile: Option<Profile>,
) -> Result<(PolicyConfig, Vec<String>, &'static str)> {
    let is_lerobot = upstream::is_lerobot(directory)?;
    let upstream::Upstream { config, unknown_keys } =
        if is_lerobot { upstream::read_lerobot(directory)? } else { upstream::read_authors(directory)? };
    let (profile, source) = match (profile, fixture_profile(directory)) {
        (Some(profile), _) => (profile, "chosen"),
        (None, Some(profile)) => (profile, "the flavour in meta.json"),
        (None, None) if is_lerobot => (config.profile, "a LeRobot policy"),
        (None, None) => (config.profile, "a checkpoint of the authors' code, trained with FlashAttention"),
    };
    Ok((config.with_profile(profile), unknown_keys, source))
}

/// The profile of a fixture directory, whose `meta.json` says which reference computed it.
fn fixture_profile(directory: &Path) -> Option<Profile> {
    let text = std::fs::read_to_string(directory.join("meta.json")).ok()?;
    let meta: serde_json::Value = serde_json::from_str(&text).ok()?;
    meta.get("flavour")?.as_str()?.parse().ok()
}
