//! Datasets on the Hugging Face Hub: only the files that are used are downloaded, into the cache of the Hub's other clients.

use std::path::{Path, PathBuf};

use evo1_core::hub::Repository;

use crate::{Dataset, OpenOptions, Result};

/// What of a dataset is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// Numbers of episodes.
    pub episodes: Vec<usize>,
    /// Cameras.
    pub cameras: Vec<String>,
}

impl Needed {
    /// All episodes and cameras.
    pub fn all(dataset: &Dataset) -> Self {
        Self {
            episodes: dataset.episodes().iter().map(|episode| episode.index).collect(),
            cameras: dataset.info().cameras().map(str::to_owned).collect(),
        }
    }
}

impl Dataset {
    /// Opens the dataset in a folder, or of a repository on the Hub: `hf://datasets/owner/name`, or `owner/name` where there is no such
    /// folder, with `@revision` or without. From there come metadata, and the files of what `needed` says of the dataset.
    ///
    /// # Errors
    /// As [`Dataset::open`]; and when a file cannot be downloaded.
    pub fn open_at(path: &Path, options: &OpenOptions, needed: impl Fn(&Self) -> Result<Needed>) -> Result<Self> {
        match repository(path)? {
            None => Self::open(path, options),
            Some(repository) => open_from_hub(&repository, options, needed),
        }
    }
}

/// The path of a dataset that a file in `folder` names: below the folder, or a repository on the Hub. `owner/name` means the latter
/// where there is no such folder, of which is warned.
pub fn located(folder: &Path, path: &Path) -> PathBuf {
    if Repository::is_named_by(path) {
        return path.to_owned();
    }
    let local = folder.join(path);
    match path.to_str().and_then(Repository::of_dataset).filter(|_| !local.exists()) {
        Some(repository) => {
            tracing::warn!("there is no folder {}: {repository} is meant", local.display());
            repository.to_string().into()
        }
        None => local,
    }
}

/// The repository that a path means; nothing where it means a folder.
fn repository(path: &Path) -> Result<Option<Repository>> {
    let path = located(Path::new(""), path);
    if !Repository::is_named_by(&path) {
        return Ok(None);
    }
    let name = path.to_string_lossy();
    Repository::of_dataset(&name).map(Some).ok_or_else(|| {
        evo1_core::Error::invalid("dataset", "path", "a folder, owner/name or hf://datasets/owner/name", name).into()
    })
}

#[cfg(not(feature = "hub"))]
fn open_from_hub(repository: &Repository, _: &OpenOptions, _: impl Fn(&Dataset) -> Result<Needed>) -> Result<Dataset> {
    Err(repository.absent().into())
}

#[cfg(feature = "hub")]
fn open_from_hub(
    repository: &Repository,
    options: &OpenOptions,
    needed: impl Fn(&Dataset) -> Result<Needed>,
) -> Result<Dataset> {
    let snapshot = repository.open()?;
    let fetch = |wanted: &dyn Fn(&str) -> bool| snapshot.fetch(wanted, evo1_core::hub::logged_progress());
    fetch(&|name| name.starts_with("meta/"))?;
    // Files of the cache are links, and there are only those that were needed so far.
    let options = OpenOptions { follow_links: true, may_lack_tables: true, ..options.clone() };
    let open = || Dataset::open(snapshot.folder(), &options);
    let fetch_needed = |dataset: &Dataset| {
        let files = dataset.files_of(&needed(dataset)?)?;
        Ok::<_, crate::Error>(fetch(&|name| files.contains(Path::new(name)))?)
    };
    let mut dataset = open()?;
    if !dataset.is_located() {
        fetch_needed(&dataset)?;
        dataset = open()?;
    }
    if dataset.is_located() {
        // The episodes may be in other tables than metadata names.
        fetch(&|name| dataset.info().is_in_tables(Path::new(name)))?;
        dataset = open()?;
        fetch_needed(&dataset)?;
    }
    Ok(dataset)
}
