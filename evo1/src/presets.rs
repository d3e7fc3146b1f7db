//! Policies that need no files: with random weights, and the one that is part of the library.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use evo1_core::{
    config::{PolicyConfig, Precision},
    normalize::Statistics,
    weights::{InitialScales, WeightFile, params},
};
use evo1_vlm::PromptTokenizer;

use crate::{
    Components, Evo1, LoadOptions, Policy, Published, Result,
    load::{load_network, with_adapter},
};

/// A byte-level tokenizer with InternVL's image tokens: 260 ids, no merges.
const BYTE_TOKENIZER: &[u8] = include_bytes!("../assets/byte_tokenizer.json");

const EMBEDDED_CONFIG: &str = include_str!("../assets/metaworld/evo1.json");
const EMBEDDED_TOKENIZER: &[u8] = include_bytes!("../assets/metaworld/tokenizer.json");
const EMBEDDED_STATISTICS: &str = include_str!("../assets/metaworld/norm_stats.json");
const EMBEDDED_WEIGHTS: &[u8] = include_bytes!("../assets/metaworld/model.safetensors");

/// The byte-level tokenizer of policies without one of their own.
pub fn byte_tokenizer(max_length: usize) -> Result<PromptTokenizer> {
    Ok(PromptTokenizer::from_bytes(Path::new("byte_tokenizer.json"), BYTE_TOKENIZER, max_length)?)
}

fn embedded_statistics() -> Result<Statistics> {
    Ok(Statistics::parse(Path::new("embedded/norm_stats.json"), EMBEDDED_STATISTICS)?)
}

impl Policy {
    /// A policy of any size with weights from a seed and a byte-level tokenizer, in f32, for tests and timings.
    pub fn random(config: PolicyConfig, seed: u64, device: &Device) -> Result<Self> {
        Self::random_in(config, seed, device, Precision::default())
    }

    /// [`Self::random`] in other number types.
    pub fn random_in(config: PolicyConfig, seed: u64, device: &Device, precision: Precision) -> Result<Self> {
        Self::random_as::<Published>(config, seed, device, precision)
    }

    /// [`Self::random_in`] for a policy that may be made of other components.
    ///
    /// # Errors
    /// When the configuration cannot be used, or names components that are not among them.
    pub fn random_as<C: Components>(
        config: PolicyConfig,
        seed: u64,
        device: &Device,
        precision: Precision,
    ) -> Result<Policy<C>> {
        C::check(&config, "configuration")?;
        // A robot that nobody has described is as wide as the network.
        let mut config = config;
        config.state_dim.get_or_insert(config.action.max_state_dim);
        config.action_dim.get_or_insert(config.action.max_action_dim);
        precision.require(device)?;
        let network = Evo1::init(&config, device)?;
        let network = network.initialized(seed, InitialScales::default(), |path| precision.of(path));
        let tokenizer = byte_tokenizer(config.max_text_length)?;
        Ok(Policy::new_as(config, network, tokenizer, None, device))
    }

    /// The tiny preset with weights from a seed and Meta-World's statistics, in f32, for tests.
    pub fn tiny(seed: u64, device: &Device) -> Result<Self> {
        let config = PolicyConfig { state_dim: Some(8), action_dim: Some(4), ..PolicyConfig::tiny() };
        Ok(Self { statistics: Some(embedded_statistics()?), ..Self::random(config, seed, device)? })
    }

    /// The policy that is part of the library: 1.1 M parameters, trained by `recipes/metaworld-tiny.yaml` to reach, push,
    /// open a drawer and press a button in Meta-World. Two views, the 8 numbers of the state, 8 steps of 4 actions.
    pub fn embedded(options: &LoadOptions) -> Result<Self> {
        Self::embedded_as::<Published>(options)
    }

    /// [`Policy::embedded`] as a policy of a program's components, the built-in ones among them.
    ///
    /// # Errors
    /// When the device cannot hold it, or the components lack the built-in ones.
    pub fn embedded_as<C: Components>(options: &LoadOptions) -> Result<Policy<C>> {
        let file = |name: &str| PathBuf::from(format!("embedded/{name}"));
        let (mut config, _) = PolicyConfig::parse(&file("evo1.json"), EMBEDDED_CONFIG)?;
        if let Some(profile) = options.profile {
            config = config.with_profile(profile);
        }
        options.precision.require(&options.device)?;
        let tokenizer =
            PromptTokenizer::from_bytes(&file("tokenizer.json"), EMBEDDED_TOKENIZER, config.max_text_length)?;
        let weights = WeightFile::from_bytes(&file("model.safetensors"), EMBEDDED_WEIGHTS)?;
        let network = Evo1::init(&config, &options.device)?;
        let weights = with_adapter(weights, options.adapter.as_deref(), &params(&network))?;
        let (network, _) = load_network(network, &weights, &config, options)?;
        Ok(Policy::new_as(config, network, tokenizer, Some(embedded_statistics()?), &options.device))
    }
}
