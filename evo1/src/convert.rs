//! Policy directories from one format to another.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use burn::tensor::Device;
use evo1_core::{
    config::{PolicyConfig, Precision, upstream},
    files::write_atomically,
    weights::{LazyTensor, Naming, WeightFile, converted, params, write_burnpack_lazily, write_safetensors_lazily},
};

use crate::{
    Error, Evo1, Result,
    load::{read_config, weight_file},
};

/// What a policy directory is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As LeRobot writes it: `model.safetensors` under transformers' names.
    LeRobot,
    /// In the names of the authors' code, as `model.safetensors`.
    Authors,
    /// burn's own format, `model.bpk`.
    Burnpack,
}

impl Format {
    fn naming(self) -> Naming {
        match self {
            Self::LeRobot => Naming::LEROBOT,
            Self::Authors => Naming::AUTHORS,
            Self::Burnpack => Naming::BURN,
        }
    }

    fn weight_file(self) -> &'static str {
        match self {
            Self::LeRobot | Self::Authors => "model.safetensors",
            Self::Burnpack => "model.bpk",
        }
    }
}

/// Files of a policy that mean the same in every format.
const COMPANIONS: [&str; 6] = [
    "vlm_config.json",
    "tokenizer.json",
    "norm_stats.json",
    "meta.json",
    "policy_preprocessor.json",
    "policy_postprocessor.json",
];

/// Writes the policy in `from` to the folder `to` in another format, its floats in the number types of `precision` or as
/// they are.
///
/// Tensors are read, converted and written one at a time. `config.json` is written last, so that a folder that was left
/// incomplete is no policy. `progress` hears of the bytes written so far and of all there will be.
///
/// # Errors
/// When `from` is no policy, or `to` holds a policy already.
pub fn convert(
    from: &Path,
    to: &Path,
    format: Format,
    precision: Option<Precision>,
    device: &Device,
    progress: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<()> {
    let config_path = to.join("config.json");
    if config_path.exists() {
        let message = "it holds a policy already, which is not overwritten".into();
        return Err(Error::NotAPolicy { path: to.to_owned(), message });
    }
    let weights = weight_file(from)?;
    let (config, _, _) = read_config(from, None)?;
    let file = WeightFile::open(&weights)?;
    let specs = params(&Evo1::init(&config, device));
    let tensors = converted(&specs, file, config.vlm.language.num_layers, format.naming(), |path| {
        precision.map(|precision| precision.of(path))
    })?;
    fs::create_dir_all(to).map_err(|reason| evo1_core::Error::io("create", to, reason))?;

    let bytes = |tensor: &LazyTensor| (tensor.shape.iter().product::<usize>() * tensor.dtype.size()) as u64;
    let total = tensors.iter().map(bytes).sum();
    let done = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let written = move |bytes: usize| {
        let before = done.fetch_add(bytes as u64, std::sync::atomic::Ordering::Relaxed);
        progress(before + bytes as u64, total);
    };
    let path = to.join(format.weight_file());
    match format {
        Format::Burnpack => write_burnpack_lazily(&path, tensors, written)?,
        Format::LeRobot | Format::Authors => write_safetensors_lazily(&path, &tensors, written)?,
    }
    for file in companions(from)? {
        copy(&from.join(&file), &to.join(&file))?;
    }
    let text = config_text(from, &config, format)?;
    Ok(write_atomically(&config_path, text.as_bytes())?)
}

/// The companion files that a policy has, with the tensors of its processors.
fn companions(from: &Path) -> Result<Vec<PathBuf>> {
    let failed = |reason| evo1_core::Error::io("read", from, reason);
    let mut found: Vec<PathBuf> =
        COMPANIONS.iter().map(PathBuf::from).filter(|name| from.join(name).is_file()).collect();
    for entry in fs::read_dir(from).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("policy_") && text.ends_with(".safetensors") {
            found.push(name.into());
        }
    }
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).map_err(|reason| evo1_core::Error::io("read", from, reason))?;
    Ok(write_atomically(to, &bytes)?)
}

/// The policy's own `config.json` where the format understands it, else the same in the format's keys.
fn config_text(from: &Path, config: &PolicyConfig, format: Format) -> Result<String> {
    let path = from.join("config.json");
    let is_lerobot = upstream::is_lerobot(from)?;
    let document = match (format, is_lerobot) {
        (Format::LeRobot, false) => upstream::lerobot_document(config),
        (Format::Authors, true) => upstream::authors_document(config),
        _ => return Ok(fs::read_to_string(&path).map_err(|reason| evo1_core::Error::io("read", &path, reason))?),
    };
    Ok(format!("{document:#}\n"))
}
