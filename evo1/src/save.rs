//! Writing policy directories.

use std::{fs, path::Path};

use evo1_action::{
    VelocityModel,
    time::{TIME_ROWS, sinusoid},
};
use evo1_core::{
    Error as CoreError,
    config::{
        ActionConfig, CONFIG_FILE, PolicyConfig,
        upstream::{self, Origin, authors_document, lerobot_document, vlm_document},
    },
    files::write_atomically,
    normalize::Statistics,
    weights::{LazyTensor, Naming, TABLES, module_tensors, params, write_burnpack_lazily, write_safetensors_lazily},
};
use tracing::warn;

use crate::{Components, Error, Evo1, Policy, Result, components::require_built_in};

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
    /// LeRobot's, or burn's for a policy with components that LeRobot does not know.
    pub fn of(config: &PolicyConfig) -> Self {
        if require_built_in(config).is_ok() { Self::LeRobot } else { Self::Burnpack }
    }

    pub(crate) fn naming(self) -> Naming {
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

impl<C: Components> Policy<C> {
    /// Writes the policy as a directory that [`Policy::load`] reads: weights in their number types, configuration,
    /// tokenizer and statistics. As [`Format::LeRobot`] LeRobot itself loads it, strictly.
    ///
    /// Every file is written under a temporary name and renamed, `config.json` last: a new directory that was left
    /// incomplete is no policy. To replace a policy as a whole, save to a new directory and rename that.
    ///
    /// # Errors
    /// When the configuration describes another network, a file cannot be written, or a format of the references is asked
    /// for a policy with components that they do not know.
    pub fn save(&self, directory: &Path, format: Format) -> Result<()> {
        if format != Format::Burnpack {
            require_built_in(&self.config)?;
        }
        self.check_shapes()?;
        create(directory)?;
        let naming = format.naming();
        let mut tensors = module_tensors(&self.network, naming);
        tensors.extend(self.tables(naming));
        write_weights(directory, format, tensors, |_| {})?;
        write_atomically(&directory.join("tokenizer.json"), self.tokenizer.to_json()?.as_bytes())?;
        if let Some(statistics) = &self.statistics {
            write_statistics(directory, format, statistics, &self.config)?;
        }
        ConfigFiles::of(&self.config, format, self.tokenizer.image_context()).write(directory)
    }

    /// The network's tensors must be those of the configuration.
    fn check_shapes(&self) -> Result<()> {
        let described = params(&Evo1::<C::Vlm, C::Action>::init(&self.config, &self.device)?);
        for (param, want) in params(&self.network).into_iter().zip(described) {
            if param.shape != want.shape {
                return Err(Error::OtherNetwork { tensor: param.path, want: want.shape, got: param.shape });
            }
        }
        Ok(())
    }

    /// The constant tables that checkpoints carry.
    fn tables(&self, naming: Naming) -> Vec<LazyTensor> {
        let config = &self.config.action;
        if config.expert != ActionConfig::published_expert() {
            return Vec::new();
        }
        TABLES
            .into_iter()
            .zip([TIME_ROWS, config.horizon])
            // A chunk of one action has no place in itself.
            .filter(|(table, _)| config.horizon > 1 || *table == TABLES[0])
            .filter_map(|(table, rows)| Some(self.table(naming.table(table)?, rows)))
            .collect()
    }

    /// The sinusoidal table of the first `rows` positions, `[1, rows, embed_dim]`.
    fn table(&self, name: String, rows: usize) -> LazyTensor {
        let (dtype, embed, device) = (self.network.action.dtype(), self.config.action.embed_dim, self.device.clone());
        let read = move || {
            let positions: Vec<usize> = (0..rows).collect();
            Ok(sinusoid(&positions, embed, &device).unsqueeze::<3>().cast(dtype).into_data())
        };
        LazyTensor { name, dtype, shape: vec![1, rows, embed], read: Box::new(read) }
    }
}

/// Creates a folder and those above it.
pub(crate) fn create(directory: &Path) -> Result<()> {
    Ok(fs::create_dir_all(directory).map_err(|reason| CoreError::io("create", directory, reason))?)
}

/// Writes the weights of a policy directory; `written` hears of the bytes of each tensor.
pub(crate) fn write_weights(
    directory: &Path,
    format: Format,
    tensors: Vec<LazyTensor>,
    written: impl Fn(usize) + Send + Sync + 'static,
) -> Result<()> {
    let path = directory.join(format.weight_file());
    match format {
        Format::Burnpack => write_burnpack_lazily(&path, tensors, written)?,
        Format::LeRobot | Format::Authors => write_safetensors_lazily(&path, &tensors, written)?,
    }
    Ok(())
}

/// Writes statistics: as `norm_stats.json`, and for LeRobot as the processors that it loads, which know one robot only.
pub(crate) fn write_statistics(
    directory: &Path,
    format: Format,
    statistics: &Statistics,
    config: &PolicyConfig,
) -> Result<()> {
    statistics.write(&directory.join("norm_stats.json"))?;
    match (format, statistics.only()) {
        (Format::LeRobot, Some(robot)) => robot.write_lerobot(directory, config)?,
        (Format::LeRobot, None) => {
            let robots = statistics.robots().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
            warn!("there are statistics of several robots ({robots}): LeRobot's processors hold one, none are written");
        }
        _ => {}
    }
    Ok(())
}

/// The configuration files of a policy directory.
pub(crate) struct ConfigFiles {
    /// `config.json`.
    pub(crate) config: String,
    /// `vlm_config.json`, where the vision-language model is not the one that is meant without.
    pub(crate) vlm: Option<String>,
    /// `evo1.json`, where the other two cannot say all.
    pub(crate) own: Option<String>,
}

impl ConfigFiles {
    /// The files that say what `config` does; `image_token` is the tokenizer's, which the model's own file names.
    pub(crate) fn of(config: &PolicyConfig, format: Format, image_token: u32) -> Self {
        let document = match format {
            Format::Authors => authors_document(config),
            Format::LeRobot | Format::Burnpack => lerobot_document(config),
        };
        Self::completed(format!("{document:#}\n"), None, config, image_token)
    }

    /// The files that say what `config` does, of which the first two are given as far as they are there.
    pub(crate) fn completed(text: String, vlm: Option<String>, config: &PolicyConfig, image_token: u32) -> Self {
        let read = |vlm: Option<&str>| upstream::parse(Path::new("policy"), &text, vlm).ok().map(|read| read.config);
        let is_meant = vlm.is_some() || read(None).is_some_and(|read| read.vlm == config.vlm);
        let vlm = if is_meant { vlm } else { Some(format!("{:#}\n", vlm_document(&config.vlm, image_token))) };
        let is_said = read(vlm.as_deref()).is_some_and(|mut read| {
            // LeRobot must be told sizes of frames; where none are known they are the model's.
            if config.cameras.sizes.is_empty() {
                read.cameras.sizes.clear();
            }
            read == *config
        });
        let own = (!is_said).then(|| format!("{:#}\n", config.document()));
        Self { config: text, vlm, own }
    }

    /// Writes the files, `config.json` last.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let files = [("vlm_config.json", &self.vlm), (CONFIG_FILE, &self.own)];
        for (name, text) in files.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
            write_atomically(&directory.join(name), text.as_bytes())?;
        }
        Ok(write_atomically(&directory.join("config.json"), self.config.as_bytes())?)
    }
}

/// Whether a format's `config.json` has the keys of `origin`.
pub(crate) fn keeps_keys(format: Format, origin: Origin) -> bool {
    match format {
        Format::LeRobot => origin == Origin::LeRobot,
        Format::Authors => origin == Origin::Authors,
        Format::Burnpack => true,
    }
}
