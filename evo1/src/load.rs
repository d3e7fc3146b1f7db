//! Loading a policy directory.

use std::path::{Path, PathBuf};

use burn::{module::Module, tensor::Device};
use evo1_action::time::sinusoid_values;
use evo1_core::{
    config::{
        CONFIG_FILE, PolicyConfig, Precision, Profile,
        upstream::{self, Origin},
    },
    files::read_text,
    normalize::{Normalization, Statistics},
    weights::{self, Naming, TABLES, WeightFile, floats},
};
use evo1_vlm::PromptTokenizer;
use tracing::warn;

use crate::{Components, Error, Evo1, Policy, Published, Result};

/// How a policy directory is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where the network lives.
    pub device: Device,
    /// The reference whose semantics are used; taken from what is found when `None`.
    pub profile: Option<Profile>,
    /// Number types of weights and activations.
    pub precision: Precision,
    /// Refuse what is otherwise only reported: unknown keys, and values that no trained network has.
    pub is_strict: bool,
}

/// What loading a policy directory found.
#[derive(Debug, Clone)]
pub struct LoadReport {
    /// Keys of the configuration files that nothing read, as `file: key`.
    pub unknown_keys: Vec<String>,
    /// The tensors read and skipped.
    pub weights: weights::Loaded,
    /// Why the profile is what it is.
    pub profile_source: &'static str,
}

impl LoadReport {
    /// Warns of what loading found that nobody would expect: keys that nothing reads, and values that no trained network
    /// has.
    pub fn warn(&self) {
        for key in &self.unknown_keys {
            warn!("unknown key, ignored: {key}");
        }
        for finding in &self.weights.findings {
            warn!("values that no trained network has: {finding}");
        }
    }
}

impl LoadOptions {
    /// Loading in f32 onto a device, with the profile of what is found.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), profile: None, precision: Precision::default(), is_strict: false }
    }
}

impl Policy {
    /// Loads a policy directory: a LeRobot `evo1` policy, a checkpoint of the authors' code, or what [`Policy::save`] wrote.
    ///
    /// All hold `config.json` and weights, and may hold `vlm_config.json` and `tokenizer.json` (without the former
    /// InternVL3-1B is meant, whose tokenizer is built in), `evo1.json`, which takes the place of the former two, and
    /// statistics, in `norm_stats.json` or in LeRobot's processor files. Weights are taken from the first that is there
    /// of `model.safetensors`, `model.safetensors.index.json`, `model.bpk`, `mp_rank_00_model_states.pt`,
    /// `checkpoint.pt` and `pytorch_model.bin`.
    pub fn load(directory: &Path, options: &LoadOptions) -> Result<(Self, LoadReport)> {
        Self::load_as::<Published>(directory, options)
    }

    /// [`Policy::load`] for a policy that may be made of other components.
    ///
    /// # Errors
    /// When the directory is no policy, or one of components that are not among them.
    pub fn load_as<C: Components>(directory: &Path, options: &LoadOptions) -> Result<(Policy<C>, LoadReport)> {
        let weights = weight_file(directory)?;
        options.precision.require(&options.device)?;
        let mut found = read_config(directory, options.profile)?;
        let file = WeightFile::open(&weights)?;
        found.fit_layers(&file)?;
        let FoundConfig { config, unknown_keys, profile_source, .. } = found;
        if options.is_strict && !unknown_keys.is_empty() {
            return Err(Error::UnknownKeys { keys: unknown_keys });
        }
        C::check(&config, &directory.join(CONFIG_FILE).display().to_string())?;
        let tokenizer = read_tokenizer(directory, &config)?;
        let statistics = read_statistics(directory, &config)?;
        if let Some(statistics) = &statistics {
            config.validate_statistics(statistics, &directory.display().to_string())?;
        }
        check_tables(&config, &file)?;
        let (network, weights) = load_network(Evo1::init(&config, &options.device)?, &file, &config, options)?;
        if !weights.naming.has_action_expert() {
            let message = "its weights are a base model without an action expert".into();
            return Err(Error::NotAPolicy { path: directory.to_owned(), message });
        }
        let policy = Policy::new_as(config, network, tokenizer, statistics, &options.device);
        Ok((policy, LoadReport { unknown_keys, weights, profile_source }))
    }
}

impl Policy {
    /// The configuration of a policy directory, without its weights, which are looked at only for what it leaves open.
    pub fn config_of(directory: &Path) -> Result<PolicyConfig> {
        let mut found = read_config(directory, None)?;
        if let Some(weights) = find_weights(directory) {
            found.fit_layers(&WeightFile::open(&weights)?)?;
        }
        Ok(found.config)
    }
}

/// A network with the weights of a file.
pub(crate) fn load_network<M: Module>(
    network: M,
    file: &WeightFile,
    config: &PolicyConfig,
    options: &LoadOptions,
) -> Result<(M, weights::Loaded)> {
    let options = weights::LoadOptions {
        language_layers: config.vlm.language.num_layers,
        dtype: |path: &str| options.precision.of(path),
        is_strict: options.is_strict,
    };
    Ok(weights::load(network, file, &options)?)
}

/// Names under which the weights of a policy are looked for.
pub(crate) const WEIGHT_FILES: [&str; 6] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "model.bpk",
    "mp_rank_00_model_states.pt",
    "checkpoint.pt",
    "pytorch_model.bin",
];

/// The weights of a policy directory, which must have a `config.json` too.
pub(crate) fn weight_file(directory: &Path) -> Result<PathBuf> {
    let not_a_policy = |message: String| Error::NotAPolicy { path: directory.to_owned(), message };
    if !directory.is_dir() {
        return Err(not_a_policy("there is no such directory".into()));
    }
    if !directory.join("config.json").is_file() {
        return Err(not_a_policy("`config.json` is missing".into()));
    }
    find_weights(directory).ok_or_else(|| not_a_policy(format!("none of `{}` is there", WEIGHT_FILES.join("`, `"))))
}

/// The first of the weight files that is in a directory.
pub(crate) fn find_weights(directory: &Path) -> Option<PathBuf> {
    WEIGHT_FILES.into_iter().map(|name| directory.join(name)).find(|path| path.is_file())
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
pub(crate) fn read_statistics(directory: &Path, config: &PolicyConfig) -> Result<Option<Statistics>> {
    let path = directory.join("norm_stats.json");
    if path.exists() {
        return Ok(Some(Statistics::read(&path)?));
    }
    Ok(Statistics::read_lerobot(directory, config.state_dim, config.action_dim)?)
}

/// The configuration of a policy directory and where it comes from.
pub(crate) struct FoundConfig {
    pub(crate) config: PolicyConfig,
    pub(crate) origin: Origin,
    /// Whether the weights say how many language layers there are.
    has_open_layers: bool,
    /// Files that were read.
    pub(crate) files: Vec<&'static str>,
    pub(crate) unknown_keys: Vec<String>,
    /// Why the profile is what it is.
    pub(crate) profile_source: &'static str,
}

impl FoundConfig {
    /// Takes the number of language layers from the weights where the configuration leaves it open.
    pub(crate) fn fit_layers(&mut self, file: &WeightFile) -> Result<()> {
        if self.has_open_layers {
            self.config.vlm.language.num_layers = Naming::detect(file)?.language_layers(file);
            self.config.validate(&file.path().display().to_string())?;
        }
        Ok(())
    }
}

/// Files of adapters, which change what the weights beside them compute.
const ADAPTER_FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// Largest difference between a stored table and its formula: half precision's rounding of numbers up to 1.
const TABLE_TOLERANCE: f32 = 1.0 / 128.0;

/// Fails unless the tables that a checkpoint carries are those that are computed here.
fn check_tables(config: &PolicyConfig, file: &WeightFile) -> Result<()> {
    let naming = Naming::detect(file)?;
    for table in TABLES {
        let Some(name) = naming.table(table).filter(|name| file.contains(name)) else { continue };
        let stored = file.read(&name)?;
        let channels = config.action.embed_dim;
        let rows = stored.num_elements() / channels.max(1);
        let (stored, computed) = (floats(&stored), sinusoid_values(&(0..rows).collect::<Vec<_>>(), channels));
        let is_same = |(stored, computed): (&f32, &f32)| (stored - computed).abs() <= TABLE_TOLERANCE;
        if stored.len() != computed.len() || !stored.iter().zip(&computed).all(is_same) {
            return Err(Error::OtherTable { path: file.path().to_owned(), tensor: name });
        }
    }
    Ok(())
}

/// Reads the configuration of a policy directory.
pub(crate) fn read_config(directory: &Path, profile: Option<Profile>) -> Result<FoundConfig> {
    for adapter in ADAPTER_FILES {
        if directory.join(adapter).exists() {
            let message = format!(
                "it holds an adapter (`{adapter}`): merge it into the weights first (PEFT's `merge_and_unload`)"
            );
            return Err(Error::NotAPolicy { path: directory.to_owned(), message });
        }
    }
    let upstream::Upstream { origin, mut config, has_open_layers, mut unknown_keys } = upstream::read(directory)?;
    let mut files = vec!["config.json"];
    if directory.join("vlm_config.json").exists() {
        files.push("vlm_config.json");
    }
    let own = directory.join(CONFIG_FILE);
    let is_own = own.exists();
    if is_own {
        let (stored, unknown) = PolicyConfig::read(&own)?;
        config = stored;
        unknown_keys.extend(unknown);
        files.insert(0, CONFIG_FILE);
    } else {
        config.normalization = Normalization::read_lerobot(directory, config.normalization)?;
    }
    let (profile, profile_source) = match (profile, fixture_profile(directory)) {
        (Some(profile), _) => (Some(profile), "chosen"),
        (None, Some(profile)) => (Some(profile), "the flavour in meta.json"),
        (None, None) if is_own => (None, CONFIG_FILE),
        (None, None) => match origin {
            Origin::LeRobot => (None, "a LeRobot policy"),
            Origin::Authors => (None, "a checkpoint of the authors' code, trained with FlashAttention"),
        },
    };
    let config = match profile {
        Some(profile) => config.with_profile(profile),
        None => config,
    };
    Ok(FoundConfig { config, origin, has_open_layers: has_open_layers && !is_own, files, unknown_keys, profile_source })
}

/// The profile of a fixture directory, whose `meta.json` says which reference computed it.
fn fixture_profile(directory: &Path) -> Option<Profile> {
    let text = read_text(&directory.join("meta.json")).ok()?;
    let meta: serde_json::Value = serde_json::from_str(&text).ok()?;
    meta.get("flavour")?.as_str()?.parse().ok()
}
