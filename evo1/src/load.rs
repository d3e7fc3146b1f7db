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
    weights::{self, ADAPTER_FILES, Adapter, Naming, ParamSpec, TABLES, WeightFile, floats, params},
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
    /// A folder with a PEFT adapter of the policy, which is added to its weights.
    pub adapter: Option<PathBuf>,
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
        Self { device: device.clone(), profile: None, precision: Precision::default(), is_strict: false, adapter: None }
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
        let network = Evo1::init(&config, &options.device)?;
        let file = with_adapter(file, options.adapter.as_deref(), &params(&network))?;
        let (network, weights) = load_network(network, &file, &config, options)?;
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
    refuse_adapters(directory)?;
    let missing = |message: String| not_a_policy(format!("{message}{}", what_is_there(directory)));
    if !directory.join("config.json").is_file() {
        return Err(missing("`config.json` is missing".into()));
    }
    find_weights(directory).ok_or_else(|| missing(format!("none of `{}` is there", WEIGHT_FILES.join("`, `"))))
}

/// How deep below a folder, and among how many folders, a policy is looked for that somebody may have meant.
const SEARCH_DEPTH: usize = 3;
const MOST_FOLDERS: usize = 1000;

/// What is in a folder that is no policy, for messages: a policy below it, as in a training run's folder, or weights in a
/// form that has to be converted first.
fn what_is_there(directory: &Path) -> String {
    let names = |folder: &Path| -> Vec<PathBuf> {
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        entries.sort();
        entries
    };
    let ends = |path: &PathBuf, ending: &str| path.to_string_lossy().ends_with(ending);
    let here = names(directory);
    if here.iter().any(|path| ends(path, "mp_rank_00_model_states.pt") || ends(path, "_optim_states.pt")) {
        return "; it holds shards of DeepSpeed's ZeRO-3: put them together with its `zero_to_fp32.py`".into();
    }
    if here.iter().any(|path| ends(path, "pytorch_model.bin.index.json")) {
        return "; its weights are shards of PyTorch's: save them as safetensors".into();
    }
    let mut level = vec![directory.to_owned()];
    for _ in 0..SEARCH_DEPTH {
        level = level.iter().flat_map(|folder| names(folder)).filter(|path| path.is_dir()).take(MOST_FOLDERS).collect();
        // Of a run's checkpoints the newest, which sorts last.
        let policy = level.iter().rev().find(|path| path.join("config.json").is_file() && find_weights(path).is_some());
        if let Some(policy) = policy {
            return format!("; `{}` is a policy", policy.display());
        }
    }
    String::new()
}

/// The first of the weight files that is in a directory.
pub(crate) fn find_weights(directory: &Path) -> Option<PathBuf> {
    WEIGHT_FILES.into_iter().map(|name| directory.join(name)).find(|path| path.is_file())
}

/// The policy's tokenizer; InternVL3-1B's where it brings none and is built on that model.
pub(crate) fn read_tokenizer(directory: &Path, config: &PolicyConfig) -> Result<PromptTokenizer> {
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

/// The weights of a policy with the parameters `specs`, to which those of an adapter are added.
pub(crate) fn with_adapter(file: WeightFile, adapter: Option<&Path>, specs: &[ParamSpec]) -> Result<WeightFile> {
    match adapter {
        None => Ok(file),
        Some(folder) => Ok(Adapter::open(folder, specs)?.merged(file, specs)?),
    }
}

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

/// Fails where a directory holds an adapter, naming what it adapts.
pub(crate) fn refuse_adapters(directory: &Path) -> Result<()> {
    let Some(adapter) = ADAPTER_FILES.into_iter().find(|file| directory.join(file).exists()) else { return Ok(()) };
    let base = || {
        let text = read_text(&directory.join(ADAPTER_FILES[0])).ok()?;
        let config: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(format!(" of `{}`", config.get("base_model_name_or_path")?.as_str()?))
    };
    let of_base = base().unwrap_or_default();
    let message = format!(
        "it holds an adapter{of_base} (`{adapter}`), not a policy: `evo1 convert --from POLICY --adapter {}` merges them",
        directory.display()
    );
    Err(Error::NotAPolicy { path: directory.to_owned(), message })
}

/// Reads the configuration of a policy directory.
pub(crate) fn read_config(directory: &Path, profile: Option<Profile>) -> Result<FoundConfig> {
    refuse_adapters(directory)?;
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
        unknown_keys.extend(config.cameras.read_lerobot_aliases(directory)?);
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
