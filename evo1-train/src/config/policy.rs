//! The policy that a run starts from.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use evo1::{
    Components, Evo1, LoadOptions, Policy, byte_tokenizer,
    config::{PolicyConfig, Profile},
    hub::{Repository, logged_progress},
    vlm::{PromptTokenizer, word_tokenizer},
    weights::InitialScales,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result};

/// Where a policy's weights and sizes come from: a policy directory, a base model, or a seed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct PolicySource {
    /// A policy directory to go on from, or `hf://owner/name` on the Hub, with a fresh optimiser: stage 2 starts from one that
    /// stage 1 wrote.
    pub from: Option<PathBuf>,
    /// A PEFT adapter (LoRA) of the policy `from`, a directory or `hf://owner/name`, which is added to its weights.
    pub adapter: Option<PathBuf>,
    /// InternVL3's weights, a directory or `hf://owner/name`; the action expert starts from the seed.
    pub base: Option<PathBuf>,
    /// Sizes of a policy that starts from the seed: `evo1` or `tiny`.
    pub preset: Option<Preset>,
    /// The reference whose semantics are used: `paper`, `official`, `official-flash` or `lerobot`; the policy's own when
    /// `null`.
    pub profile: Option<Profile>,
    /// Refuse a policy or base model with unknown configuration keys or with values that no trained network has, instead of
    /// warning of them: `false`.
    pub strict: bool,
    /// Values of the policy's configuration that are others than the preset's, for example
    /// `{action: {horizon: 8}, max_views: 1}`.
    pub overrides: Value,
    /// The tokenizer of a policy that starts from a preset.
    pub tokenizer: TokenizerSource,
    /// How large the parameters of a preset start whose size is a matter of choice.
    pub scales: InitialScales,
}

/// Sizes of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The published 0.77 B parameters.
    Evo1,
    /// 0.4 M parameters.
    Tiny,
}

/// The tokenizer of a policy that starts from a preset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum TokenizerSource {
    /// InternVL3's for the preset `evo1`, bytes for others.
    #[default]
    Preset,
    /// One id for each word of the data's instructions.
    Words,
    /// A `tokenizer.json`.
    #[serde(untagged)]
    File(PathBuf),
}

impl PolicySource {
    /// Fails unless exactly one origin is given, and a policy directory where the stage needs trained weights.
    pub(super) fn validate(&self, is_stage_2: bool) -> Result<()> {
        let origins = [("from", self.from.is_some()), ("base", self.base.is_some()), ("preset", self.preset.is_some())];
        let given: Vec<&str> = origins.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect();
        if given.len() != 1 {
            let got = if given.is_empty() { "none".into() } else { format!("`{}`", given.join("` and `")) };
            let expected = "exactly one of `from`, `base` and `preset`, the others `null`";
            return Err(Error::config("policy", expected, got));
        }
        if is_stage_2 && self.from.is_none() {
            let expected = "the directory of a policy that stage 1 trained: stage 2 needs weights to start from (use \
                            `stage: null` and `trained` to train everything from a seed)";
            return Err(Error::config("policy.from", expected, "nothing"));
        }
        if self.from.is_some() && !self.overrides.is_null() {
            return Err(Error::config("policy.overrides", "null for a policy that exists", &self.overrides));
        }
        if self.from.is_none() && self.adapter.is_some() {
            return Err(Error::config("policy.adapter", "null where there is no `from`", "an adapter"));
        }
        Ok(())
    }

    /// What the policy is called that adapters are trained on, where its weights are those of one directory.
    pub(super) fn name(&self) -> Option<String> {
        let from = self.from.as_ref().filter(|_| self.adapter.is_none())?.display().to_string();
        Some(from.strip_prefix("hf://").map_or(from.clone(), str::to_owned))
    }

    /// The policy whose weights exist: of a directory, or on a base model. Nothing for a preset.
    pub fn open_existing<C: Components>(&self, seed: u64, device: &Device) -> Result<Option<Policy<C>>> {
        let options = LoadOptions { profile: self.profile, is_strict: self.strict, ..LoadOptions::new(device) };
        let local = |path: &Path| Repository::local(path, logged_progress()).map_err(evo1::Error::from);
        if let Some(directory) = &self.from {
            let adapter = self.adapter.as_deref().map(local).transpose()?;
            let options = LoadOptions { adapter, ..options };
            let (policy, report) = Policy::load_as(&local(directory)?, &options)?;
            report.warn();
            return Ok(Some(policy));
        }
        let Some(base) = &self.base else { return Ok(None) };
        let base = local(base)?;
        let config = PolicyConfig { vlm: Policy::base_config(&base)?, ..PolicyConfig::evo1() };
        let (policy, report) = Policy::from_base_as(&base, self.overridden(config)?, seed, &options)?;
        report.warn();
        Ok(Some(policy))
    }

    /// The configuration of a preset.
    pub fn preset_config(&self) -> Result<PolicyConfig> {
        match self.preset {
            Some(Preset::Evo1) => self.overridden(PolicyConfig::evo1()),
            Some(Preset::Tiny) => self.overridden(PolicyConfig::tiny()),
            None => Err(Error::config("policy.preset", "`evo1` or `tiny`", "nothing")),
        }
    }

    /// A policy of a preset's configuration with weights from the seed. `instructions` are the data's, for a tokenizer of
    /// words.
    pub fn initialize<'a, C: Components>(
        &self,
        mut config: PolicyConfig,
        seed: u64,
        instructions: impl IntoIterator<Item = &'a str>,
        device: &Device,
    ) -> Result<Policy<C>> {
        let tokenizer = self.tokenizer(&mut config, instructions)?;
        C::check(&config, "policy.overrides").map_err(evo1::Error::from)?;
        let network = Evo1::init(&config, device).map_err(evo1::Error::from)?;
        let network = network.initialized(seed, self.scales, |_| DType::F32);
        Ok(Policy::new_as(config, network, tokenizer, None, device))
    }

    fn overridden(&self, config: PolicyConfig) -> Result<PolicyConfig> {
        let config = match self.profile {
            Some(profile) => config.with_profile(profile),
            None => config,
        };
        let mut document = config.document();
        merge(&mut document, &self.overrides, "policy.overrides")?;
        serde_path_to_error::deserialize(document)
            .map_err(|error| Error::config(format!("policy.overrides.{}", error.path()), "of its type", error.inner()))
    }

    fn tokenizer<'a>(
        &self,
        config: &mut PolicyConfig,
        instructions: impl IntoIterator<Item = &'a str>,
    ) -> Result<PromptTokenizer> {
        let length = config.max_text_length;
        let tokenizer = match &self.tokenizer {
            TokenizerSource::Preset if self.preset == Some(Preset::Tiny) => return Ok(byte_tokenizer(length)?),
            TokenizerSource::Preset => PromptTokenizer::internvl3(length),
            TokenizerSource::File(path) => PromptTokenizer::open(path, length),
            TokenizerSource::Words => {
                let json = word_tokenizer(instructions);
                PromptTokenizer::from_bytes(Path::new("the words of the instructions"), json.as_bytes(), length)
            }
        };
        let tokenizer = tokenizer.map_err(evo1::Error::from)?;
        if self.tokenizer != TokenizerSource::Preset {
            config.vlm.language.vocab_size = tokenizer.vocabulary_size();
        }
        Ok(tokenizer)
    }
}

/// Lays the values of `changes` over those of `document`. Keys that the document does not have are refused; what is
/// `null` there may become anything.
fn merge(document: &mut Value, changes: &Value, path: &str) -> Result<()> {
    match (document, changes) {
        (_, Value::Null) => Ok(()),
        (Value::Object(fields), Value::Object(changes)) => changes.iter().try_for_each(|(key, change)| {
            let known = || fields.keys().cloned().collect::<Vec<_>>().join(", ");
            match fields.contains_key(key) {
                true => merge(&mut fields[key], change, &format!("{path}.{key}")),
                false => Err(Error::config(path, format!("made of {}", known()), key)),
            }
        }),
        (document, change) => {
            *document = change.clone();
            Ok(())
        }
    }
}
