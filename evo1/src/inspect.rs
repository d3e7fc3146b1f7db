//! What is in a policy, a base model or a weight file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use burn::tensor::Device;
use evo1_core::{
    Error as CoreError,
    config::{
        PolicyConfig, Profile, VlmConfig,
        upstream::{Origin, is_base, read_base},
    },
    files::sha256,
    weights::{Audit, Finding, ModelPart, Naming, ParamSpec, WeightFile, check, params},
};
use rayon::prelude::*;
use serde::Serialize;

use crate::{
    Components, Error, Evo1, Published, Result,
    load::{WEIGHT_FILES, find_weights, read_config, refuse_adapters},
};

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// What was looked at.
    pub path: PathBuf,
    /// The configuration; `None` for a weight file alone.
    pub config: Option<ConfigFacts>,
    /// Whose names the tensors have; `None` when they are of no known kind.
    pub naming: Option<&'static str>,
    /// The files of the weights.
    pub files: Vec<FileFacts>,
    /// The components of the model.
    pub components: Vec<ComponentFacts>,
    /// Tensors that loading skips: cut layers, output head, constant tables.
    pub skipped: TensorFacts,
    /// Tensors that belong to no component.
    pub other: TensorFacts,
    /// Why the weights do not fit the configuration; `None` when they do, or when there is no configuration.
    pub misfit: Option<String>,
    /// Tensors with values that no trained network has.
    pub findings: Vec<Finding>,
}

/// A configuration and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConfigFacts {
    /// What the directory is.
    pub kind: Kind,
    /// The files that were read.
    pub files: Vec<&'static str>,
    /// The reference whose semantics are used; `None` for a base model.
    pub profile: Option<Profile>,
    /// Why the profile is what it is.
    pub profile_source: Option<&'static str>,
    /// Keys that nothing reads, as `file: key`.
    pub unknown_keys: Vec<String>,
    /// The configuration itself; of a base model only the vision-language model's.
    pub vlm: VlmConfig,
    /// The rest of a policy's configuration.
    pub policy: Option<PolicyConfig>,
}

/// What a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A LeRobot policy.
    LeRobot,
    /// A checkpoint of the authors' code.
    Authors,
    /// An InternVL3 base model.
    Base,
}

/// A file on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileFacts {
    /// Its path.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 sum.
    pub sha256: String,
}

/// Some of the tensors of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TensorFacts {
    /// How many.
    pub tensors: u64,
    /// Their values, all together.
    pub parameters: u64,
    /// Values by number type.
    pub dtypes: BTreeMap<String, u64>,
}

/// The tensors of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentFacts {
    /// Which.
    pub component: ModelPart,
    /// What the file has of it.
    #[serde(flatten)]
    pub found: TensorFacts,
    /// Parameters that the configuration asks for.
    pub expected: Option<u64>,
}

/// Looks into a policy directory, a base model's directory or a weight file, of which every value is read; `progress`
/// hears of the bytes read so far and of all there are.
///
/// # Errors
/// When there is nothing that can be read. What keeps a readable file from being loaded is reported instead.
pub fn inspect(path: &Path, progress: impl Fn(u64, u64) + Sync) -> Result<Inspection> {
    inspect_as::<Published>(path, progress)
}

/// [`inspect`] for policies that may be made of other components.
///
/// # Errors
/// As there.
pub fn inspect_as<C: Components>(path: &Path, progress: impl Fn(u64, u64) + Sync) -> Result<Inspection> {
    let (weights, has_config) = if path.is_dir() {
        refuse_adapters(path)?;
        let nothing = || Error::NotAPolicy {
            path: path.to_owned(),
            message: format!("none of `{}` is there", WEIGHT_FILES.join("`, `")),
        };
        let weights = find_weights(path).ok_or_else(nothing)?;
        (weights, path.join("config.json").is_file())
    } else {
        (path.to_owned(), false)
    };
    let file = WeightFile::open(&weights)?;
    let config = has_config.then(|| config_facts(path, &file)).transpose()?;
    let sizes: Vec<u64> = file.files().iter().map(|path| size_of(path)).collect::<Result<_>>()?;
    let tensors: Vec<&str> = file.names().filter(|name| file.dtype(name).is_ok()).collect();
    let values: u64 = tensors.iter().map(|name| file.byte_len(name).unwrap_or(0) as u64).sum();
    let (done, total) = (AtomicU64::new(0), values + sizes.iter().sum::<u64>());
    let read = |bytes: usize| progress(done.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64, total);

    let (sums, findings) = rayon::join(
        || file.files().iter().map(|path| sha256(path, read)).collect::<Result<Vec<_>, _>>(),
        || audited(&file, &tensors, read),
    );
    let files = file.files().iter().zip(sizes).zip(sums?);
    let naming = Naming::detect(&file).ok();
    let mut inspection = Inspection {
        path: path.to_owned(),
        naming: naming.map(Naming::description),
        files: files.map(|((path, bytes), sha256)| FileFacts { path: path.clone(), bytes, sha256 }).collect(),
        components: Vec::new(),
        skipped: TensorFacts::default(),
        other: TensorFacts::default(),
        misfit: None,
        findings: findings?,
        config,
    };
    inspection.count::<C>(&file, naming);
    Ok(inspection)
}

impl Inspection {
    /// Whether nothing is wrong: the weights fit, no key is unknown, and every value is plausible.
    pub fn is_clean(&self) -> bool {
        let knows_all = self.config.as_ref().is_none_or(|config| config.unknown_keys.is_empty());
        self.misfit.is_none() && knows_all && self.findings.is_empty()
    }

    /// Counts the tensors by part of the model, beside what the configuration asks for.
    fn count<C: Components>(&mut self, file: &WeightFile, naming: Option<Naming>) {
        let described = self.config.as_ref().map(Described::of::<C>).transpose();
        let layers = described.as_ref().ok().and_then(Option::as_ref).map_or(usize::MAX, |described| described.layers);
        let found = self.sort(file, naming, layers);
        let expected = |part| Some(described.as_ref().ok()?.as_ref()?.parameters_of(part));
        let is_asked = |part: &ModelPart| found.contains_key(part) || self.asks_for(*part);
        let facts = |part| {
            let of_part = found.get(&part).cloned().unwrap_or_default();
            ComponentFacts { component: part, found: of_part, expected: expected(part) }
        };
        let components = ModelPart::ALL.into_iter().filter(is_asked).map(facts).collect();
        self.components = components;
        self.misfit = match described {
            Ok(described) => described.and_then(|Described { specs, layers }| check(&specs, file, layers).err()),
            Err(error) => Some(error),
        }
        .map(|error| error.to_string());
    }

    /// The tensors of each part; those that loading skips, and those of no part, are counted apart.
    fn sort(&mut self, file: &WeightFile, naming: Option<Naming>, layers: usize) -> BTreeMap<ModelPart, TensorFacts> {
        let mut found: BTreeMap<ModelPart, TensorFacts> = BTreeMap::new();
        for name in file.names() {
            let part = naming.and_then(|naming| naming.component(name));
            let is_skipped = naming.is_some_and(|naming| naming.is_expected_extra(name, layers));
            match part {
                _ if is_skipped => self.skipped.add(file, name),
                Some(part) => found.entry(part).or_default().add(file, name),
                None => self.other.add(file, name),
            }
        }
        found
    }

    /// Whether the configuration has a part: a base model has no action expert, and a weight file alone says for itself
    /// what it has.
    fn asks_for(&self, part: ModelPart) -> bool {
        self.config.as_ref().is_some_and(|config| config.kind != Kind::Base || part != ModelPart::ActionExpert)
    }
}

/// What a configuration describes.
struct Described {
    specs: Vec<ParamSpec>,
    /// Language layers that are kept.
    layers: usize,
}

impl Described {
    fn of<C: Components>(config: &ConfigFacts) -> Result<Self, CoreError> {
        let of_base = || PolicyConfig { vlm: config.vlm.clone(), ..PolicyConfig::evo1() };
        let policy = config.policy.clone().unwrap_or_else(of_base);
        let network = Evo1::<C::Vlm, C::Action>::init(&policy, &Device::default())?;
        Ok(Self { specs: params(&network), layers: policy.vlm.language.num_layers })
    }

    fn parameters_of(&self, part: ModelPart) -> u64 {
        let of_part = self.specs.iter().filter(|spec| ModelPart::of(&spec.path) == Some(part));
        of_part.map(|spec| product(&spec.shape)).fold(0, u64::saturating_add)
    }
}

impl TensorFacts {
    fn add(&mut self, file: &WeightFile, name: &str) {
        let parameters = file.shape(name).map_or(0, product);
        let dtype = file.dtype_name(name);
        self.tensors += 1;
        self.parameters = self.parameters.saturating_add(parameters);
        let of_dtype = self.dtypes.entry(dtype).or_default();
        *of_dtype = of_dtype.saturating_add(parameters);
    }
}

fn product(shape: &[usize]) -> u64 {
    shape.iter().fold(1, |all: u64, size| all.saturating_mul(*size as u64))
}

fn size_of(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).map_err(|reason| CoreError::io("read", path, reason))?.len())
}

/// The configuration of a directory.
fn config_facts(directory: &Path, file: &WeightFile) -> Result<ConfigFacts> {
    if is_base(directory)? {
        return Ok(ConfigFacts {
            kind: Kind::Base,
            files: vec!["config.json"],
            profile: None,
            profile_source: None,
            unknown_keys: Vec::new(),
            vlm: read_base(directory)?,
            policy: None,
        });
    }
    let mut found = read_config(directory, None)?;
    found.fit_layers(file)?;
    Ok(ConfigFacts {
        kind: match found.origin {
            Origin::LeRobot => Kind::LeRobot,
            Origin::Authors => Kind::Authors,
        },
        files: found.files,
        profile: Some(found.config.profile),
        profile_source: Some(found.profile_source),
        unknown_keys: found.unknown_keys,
        vlm: found.config.vlm.clone(),
        policy: Some(found.config),
    })
}

/// The tensors with values that no trained network has.
fn audited(file: &WeightFile, tensors: &[&str], read: impl Fn(usize) + Sync) -> Result<Vec<Finding>> {
    let found: Vec<Option<Finding>> = tensors
        .par_iter()
        .map(|name| {
            let data = file.read(name)?;
            read(data.as_bytes().len());
            let audit = Audit::of(&data);
            Ok((!audit.is_plausible()).then(|| Finding { tensor: (*name).to_owned(), audit }))
        })
        .collect::<Result<_, CoreError>>()?;
    Ok(found.into_iter().flatten().collect())
}
