//! Policies with random weights.

use std::path::Path;

use burn::tensor::Device;
use evo1_core::{
    config::{PolicyConfig, Precision},
    normalize::Statistics,
    weights::initialize,
};
use evo1_vlm::PromptTokenizer;

use crate::{Evo1, Policy, Result};

/// A byte-level tokenizer with InternVL's image tokens: 260 ids, no merges.
const BYTE_TOKENIZER: &[u8] = include_bytes!("../assets/byte_tokenizer.json");

/// Statistics of Meta-World demonstrations: 8 state and 4 action dimensions.
const METAWORLD_STATISTICS: &str = include_str!("../assets/metaworld_norm_stats.json");

/// The byte-level tokenizer of policies without one of their own.
pub fn byte_tokenizer(max_length: usize) -> Result<PromptTokenizer> {
    Ok(PromptTokenizer::from_bytes(Path::new("byte_tokenizer.json"), BYTE_TOKENIZER, max_length)?)
}

impl Policy {
    /// A policy of any size with weights from a seed and a byte-level tokenizer, in f32, for tests and timings.
    pub fn random(config: PolicyConfig, seed: u64, device: &Device) -> Result<Self> {
        Self::random_in(config, seed, device, Precision::default())
    }

    /// [`Self::random`] in other number types.
    pub fn random_in(config: PolicyConfig, seed: u64, device: &Device, precision: Precision) -> Result<Self> {
        config.validate("configuration")?;
        precision.require(device)?;
        let network = initialize(Evo1::init(&config, device), seed, |path| precision.of(path));
        let tokenizer = byte_tokenizer(config.max_text_length)?;
        Ok(Self::new(config, network, tokenizer, None, device))
    }

    /// The tiny preset with weights from a seed and Meta-World's statistics.
    pub fn tiny(seed: u64, device: &Device) -> Result<Self> {
        Self::tiny_in(seed, device, Precision::default())
    }

    /// [`Self::tiny`] in other number types.
    pub fn tiny_in(seed: u64, device: &Device, precision: Precision) -> Result<Self> {
        let config = PolicyConfig { action_dim: 4, ..PolicyConfig::tiny() };
        let statistics = Statistics::parse(Path::new("metaworld_norm_stats.json"), METAWORLD_STATISTICS)?;
        Ok(Self { statistics: Some(statistics), ..Self::random_in(config, seed, device, precision)? })
    }
}
