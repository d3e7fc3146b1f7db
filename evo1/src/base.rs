//! A new policy on a base model.

use std::path::{Path, PathBuf};

use evo1_core::{
    Error as CoreError,
    config::{
        LanguageConfig, PolicyConfig, VlmConfig,
        upstream::{KEPT_LANGUAGE_LAYERS, read_base},
    },
    weights::{Naming, WeightFile},
};
use evo1_vlm::PromptTokenizer;
use serde_json::Value;

use crate::{
    Components, Error, Evo1, LoadOptions, LoadReport, Policy, Published, Result,
    load::{WEIGHT_FILES, find_weights, load_network},
};

impl Policy {
    /// A new policy: the vision-language model of `base` and an action expert with weights from `seed`, drawn as PyTorch's
    /// defaults are. It has no statistics yet.
    ///
    /// `base` is InternVL3 in its original layout, in that of transformers' own class (in both spellings of its names), as
    /// a weight file or as a directory that holds one beside `config.json` and `tokenizer.json` (without the latter
    /// InternVL3's own tokenizer, which is built in, is meant). Only the language layers that `config` keeps are read.
    /// [`Policy::base_config`] gives the `config.vlm` that fits.
    ///
    /// # Errors
    /// When `config` describes another vision-language model than `base`, or `base` has an action expert already.
    pub fn from_base(
        base: &Path,
        config: PolicyConfig,
        seed: u64,
        options: &LoadOptions,
    ) -> Result<(Self, LoadReport)> {
        Self::from_base_as::<Published>(base, config, seed, options)
    }

    /// [`Policy::from_base`] for a policy that may be made of other components; the vision-language model is InternVL3.
    ///
    /// # Errors
    /// As there, or when `config` names components that are not among them.
    pub fn from_base_as<C: Components>(
        base: &Path,
        config: PolicyConfig,
        seed: u64,
        options: &LoadOptions,
    ) -> Result<(Policy<C>, LoadReport)> {
        C::check(&config, "configuration")?;
        if let Some(adapter) = &options.adapter {
            let expected = "none where a policy begins from a base model";
            return Err(CoreError::invalid("loading", "adapter", expected, adapter.display()).into());
        }
        options.precision.require(&options.device)?;
        let (config, profile_source) = match options.profile {
            Some(profile) => (config.with_profile(profile), "chosen"),
            None => (config, "the configuration"),
        };
        let path = weights_of(base)?;
        check_config(base, &config.vlm)?;
        let tokenizer = tokenizer_of(base, &config)?;
        let file = WeightFile::open(&path)?;
        if Naming::detect(&file)?.has_action_expert() {
            return Err(not_a_base(base, "it has an action expert already: load it as a policy"));
        }
        let network = Evo1::<C::Vlm, C::Action>::init(&config, &options.device)?;
        let (network, weights) = load_network(network, &file, &config, options)?;
        let network = network.with_initialized_action(seed, |path| options.precision.of(path));
        let policy = Policy::new_as(config, network, tokenizer, None, &options.device);
        Ok((policy, LoadReport { unknown_keys: Vec::new(), weights, profile_source }))
    }

    /// The vision-language model of `base` with the language layers that Evo-1 keeps: what a directory's `config.json`
    /// says, InternVL3-1B where there is none.
    pub fn base_config(base: &Path) -> Result<VlmConfig> {
        if !base.join("config.json").is_file() {
            return Ok(VlmConfig::internvl3_1b());
        }
        let config = read_base(base)?;
        let num_layers = config.language.num_layers.min(KEPT_LANGUAGE_LAYERS);
        Ok(VlmConfig { language: LanguageConfig { num_layers, ..config.language }, ..config })
    }
}

/// The weight file of a base model.
fn weights_of(base: &Path) -> Result<PathBuf> {
    if !base.is_dir() {
        return Ok(base.to_owned());
    }
    find_weights(base).ok_or_else(|| not_a_base(base, &format!("none of `{}` is there", WEIGHT_FILES.join("`, `"))))
}

/// Fails unless the vision-language model is the one that the base model's own configuration describes, cut language
/// layers and another tile size aside.
fn check_config(base: &Path, config: &VlmConfig) -> Result<()> {
    let path = base.join("config.json");
    if !path.is_file() {
        return Ok(());
    }
    let own = read_base(base)?;
    let kept = config.language.num_layers;
    if kept > own.language.num_layers {
        let expected = format!("at most {}, the layers that there are", own.language.num_layers);
        return Err(CoreError::invalid(path.display(), "num_hidden_layers", expected, kept).into());
    }
    let expected = VlmConfig {
        image_size: config.image_size,
        return_cls_only: config.return_cls_only,
        language: LanguageConfig { num_layers: kept, ..own.language },
        ..own
    };
    match first_difference("", &json(&expected), &json(config)) {
        Some((field, expected, got)) => Err(CoreError::invalid(path.display(), field, expected, got).into()),
        None => Ok(()),
    }
}

fn json(config: &VlmConfig) -> Value {
    serde_json::to_value(config).unwrap_or_default()
}

/// The first field in which two configurations differ, and its values.
fn first_difference(prefix: &str, expected: &Value, got: &Value) -> Option<(String, Value, Value)> {
    let (Value::Object(expected), Value::Object(got)) = (expected, got) else {
        return (expected != got).then(|| (prefix.trim_end_matches('.').to_owned(), expected.clone(), got.clone()));
    };
    expected.iter().find_map(|(key, value)| {
        first_difference(&format!("{prefix}{key}."), value, got.get(key).unwrap_or(&Value::Null))
    })
}

/// The base model's tokenizer; InternVL3's where it brings none and has that vocabulary.
fn tokenizer_of(base: &Path, config: &PolicyConfig) -> Result<PromptTokenizer> {
    let path = base.join("tokenizer.json");
    if path.is_file() {
        return Ok(PromptTokenizer::open(&path, config.max_text_length)?);
    }
    if config.vlm.language.vocab_size < VlmConfig::internvl3_1b().language.vocab_size {
        return Err(not_a_base(
            base,
            "`tokenizer.json` is missing, and InternVL3's own has more tokens than the model",
        ));
    }
    Ok(PromptTokenizer::internvl3(config.max_text_length)?)
}

fn not_a_base(path: &Path, message: &str) -> Error {
    Error::NotABase { path: path.to_owned(), message: message.to_owned() }
}
