//! Upstream configuration files, read unchanged.
//!
//! A LeRobot policy has a `config.json` (the policy) and may have a `vlm_config.json` (the InternVL model; without it
//! InternVL3-1B is meant); a checkpoint of the authors' code has a `config.json` in other keys, and a base model has
//! InternVL's own. Keys that this crate does not know are reported, not refused: a newer version may add some.

mod authors;
mod document;
mod internvl;
mod lerobot;

use std::path::Path;

pub use authors::{KEPT_LANGUAGE_LAYERS, authors_document};
pub use internvl::{is_base, read_base, vlm_document};
pub use lerobot::lerobot_document;
pub(crate) use lerobot::{modes, normalization_of};

use super::PolicyConfig;
use crate::{Result, files::read_text};
use document::Document;

/// A configuration and the keys of its files that nothing read.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Whose keys the configuration has.
    pub origin: Origin,
    /// The policy that the files describe.
    pub config: PolicyConfig,
    /// Whether the files leave open how many language layers there are, so that the weights say it.
    pub has_open_layers: bool,
    /// `file: key` for every key that this crate does not know.
    pub unknown_keys: Vec<String>,
}

/// Whose configuration files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// LeRobot's.
    LeRobot,
    /// The authors' code's.
    Authors,
}

/// Reads the configuration of the policy in `directory`: `config.json`, and `vlm_config.json` where there is one.
pub fn read(directory: &Path) -> Result<Upstream> {
    let vlm = directory.join("vlm_config.json");
    let vlm = vlm.exists().then(|| read_text(&vlm)).transpose()?;
    parse(directory, &read_text(&directory.join("config.json"))?, vlm.as_deref())
}

/// Reads a configuration from the text of its files; `directory` stands for theirs in messages.
pub fn parse(directory: &Path, config: &str, vlm_config: Option<&str>) -> Result<Upstream> {
    let policy = Document::parse(&directory.join("config.json"), config)?;
    let vlm = vlm_config.map(|text| Document::parse(&directory.join("vlm_config.json"), text)).transpose()?;
    let (origin, config, without_effect) = if lerobot::is_lerobot(&policy) {
        (Origin::LeRobot, lerobot::read(&policy, vlm.as_ref())?, &lerobot::KEYS_WITHOUT_EFFECT[..])
    } else {
        (Origin::Authors, authors::read(&policy, vlm.as_ref())?, &authors::KEYS_WITHOUT_EFFECT[..])
    };
    // The authors' code cuts the language model before it saves it, and LeRobot when it loads it.
    let has_open_layers = origin == Origin::Authors && policy.root().value("vlm_num_layers").is_none();
    config.validate(&policy.name())?;
    let mut unknown_keys = policy.unread_keys(without_effect);
    unknown_keys.extend(vlm.iter().flat_map(|vlm| vlm.unread_keys(&internvl::KEYS_WITHOUT_EFFECT)));
    Ok(Upstream { origin, config, has_open_layers, unknown_keys })
}
