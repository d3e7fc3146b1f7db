//! Policy directories from one format to another.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use evo1_core::{
    Error as CoreError,
    config::{PolicyConfig, Precision, Profile, upstream::Origin},
    files::{self, read_text, write_atomically},
    normalize::Statistics,
    weights::{WeightFile, converted, params},
};
use tracing::warn;

pub use crate::save::Format;
use crate::{
    Error, Evo1, Result,
    components::require_built_in,
    load::{FoundConfig, read_config, read_statistics, read_tokenizer, weight_file, with_adapter},
    save::{ConfigFiles, create, keeps_keys, write_statistics, write_weights},
};

/// How a policy is converted.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// What is written.
    pub format: Format,
    /// Number types of the weights; their own when `None`.
    pub precision: Option<Precision>,
    /// Refuse values that no trained network has, instead of warning of them.
    pub is_strict: bool,
    /// A folder with a PEFT adapter of the policy, which is added to its weights.
    pub adapter: Option<PathBuf>,
}

/// Files of a policy that mean the same in every format.
const COMPANIONS: [&str; 3] = ["tokenizer.json", "policy_preprocessor.json", "policy_postprocessor.json"];

/// Writes the policy in `from` to the folder `to` in another format, in which it computes the same.
///
/// Tensors are read, converted and written one at a time. `config.json` is written last, so that a folder that was left
/// incomplete is no policy. What the format's files cannot say is kept in `evo1.json` beside them. Statistics that were in
/// one place only are written to the format's own. `progress` hears of the bytes written so far and of all there will be.
///
/// # Errors
/// When `from` is no policy, or `to` holds a policy already.
pub fn convert(
    from: &Path,
    to: &Path,
    options: &ConvertOptions,
    progress: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<()> {
    let format = options.format;
    if to.join("config.json").exists() {
        let message = "it holds a policy already, which is not overwritten".into();
        return Err(Error::NotAPolicy { path: to.to_owned(), message });
    }
    let weights = weight_file(from)?;
    let file = WeightFile::open(&weights)?;
    let mut found = read_config(from, None)?;
    found.fit_layers(&file)?;
    let FoundConfig { config, origin, .. } = found;
    let statistics = read_statistics(from, &config)?;
    let config = of_robot(config, origin, format, statistics.as_ref());
    require_built_in(&config)?;
    let specs = params(&<Evo1>::init(&config, &Default::default())?);
    let file = with_adapter(file, options.adapter.as_deref(), &specs)?;
    let layers = config.vlm.language.num_layers;
    let tensors = converted(&specs, file, layers, format.naming(), options.is_strict, |path| {
        options.precision.map(|precision| precision.of(path))
    })?;
    create(to)?;

    let total = tensors.iter().map(|tensor| tensor.byte_len() as u64).sum();
    let done = Arc::new(AtomicU64::new(0));
    let written = move |bytes: usize| {
        let before = done.fetch_add(bytes as u64, Ordering::Relaxed);
        progress(before + bytes as u64, total);
    };
    write_weights(to, format, tensors, written)?;
    for file in companions(from)? {
        copy(&from.join(&file), &to.join(&file))?;
    }
    let (own_statistics, pipelines) = (to.join("norm_stats.json"), to.join("policy_preprocessor.json"));
    if from.join("norm_stats.json").is_file() {
        copy(&from.join("norm_stats.json"), &own_statistics)?;
    }
    if let Some(statistics) = &statistics
        && !(own_statistics.exists() && (format != Format::LeRobot || pipelines.exists()))
    {
        write_statistics(to, format, statistics, &config)?;
    }
    if format == Format::LeRobot && config.profile != Profile::LeRobot {
        warn!("LeRobot computes with the semantics of its own profile; here the policy stays `{}`", config.profile);
    }
    let image_token = read_tokenizer(from, &config)?.image_context();
    config_files(from, &config, origin, format, image_token)?.write(to)
}

/// The configuration with the robot's own widths, where the authors' says the padded ones and LeRobot wants to know.
fn of_robot(config: PolicyConfig, origin: Origin, format: Format, statistics: Option<&Statistics>) -> PolicyConfig {
    let robot = statistics.and_then(Statistics::only);
    let Some(robot) = robot.filter(|_| origin == Origin::Authors && format == Format::LeRobot) else { return config };
    PolicyConfig { state_dim: config.state_width(Some(robot)), action_dim: config.action_width(Some(robot)), ..config }
}

/// The companion files that a policy has, with the tensors of its processors.
fn companions(from: &Path) -> Result<Vec<PathBuf>> {
    let failed = |reason| CoreError::io("read", from, reason);
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
    Ok(write_atomically(to, &files::read(from)?)?)
}

/// The policy's own configuration files where the format understands them, else the same in the format's keys.
fn config_files(
    from: &Path,
    config: &PolicyConfig,
    origin: Origin,
    format: Format,
    image_token: u32,
) -> Result<ConfigFiles> {
    let vlm = from.join("vlm_config.json");
    let vlm = vlm.exists().then(|| read_text(&vlm)).transpose()?;
    if keeps_keys(format, origin) {
        let text = read_text(&from.join("config.json"))?;
        return Ok(ConfigFiles::completed(text, vlm, config, image_token));
    }
    Ok(ConfigFiles::completed(ConfigFiles::of(config, format, image_token).config, vlm, config, image_token))
}
