//! Policies, base models and datasets on the Hugging Face Hub: their names, and with the feature `hub` their download into the
//! cache that the Hub's other clients use too.
//!
//! `HF_HOME` or `HF_HUB_CACHE` say where the cache is, `HF_ENDPOINT` which server is asked, `HF_TOKEN` who asks; with
//! `HF_HUB_OFFLINE=1` nothing is asked, and only what is in the cache is found.

#[cfg(feature = "hub")]
mod fetch;

use std::{
    cell::Cell,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

#[cfg(feature = "hub")]
pub use fetch::Snapshot;

use crate::{Error, Result};

/// What a name of a repository starts with.
const SCHEME: &str = "hf://";

/// What the name of a dataset's repository has before its owner.
const DATASETS: &str = "datasets/";

/// A repository on the Hub: `hf://owner/name` holds a policy or base model at its top, `hf://owner/name/folder` in a folder,
/// `hf://datasets/owner/name` a dataset. `@revision` behind it means a branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    is_dataset: bool,
    owner: String,
    name: String,
    /// Names of the folders down to the policy, with slashes between.
    folder: Option<String>,
    revision: Option<String>,
}

/// What hears of the bytes of a download so far and of all there are, where there is no bar: it logs them every five seconds.
pub fn logged_progress() -> impl Fn(u64, u64) {
    const EVERY: Duration = Duration::from_secs(5);
    let said = Cell::new(Instant::now());
    move |done, total| {
        if said.get().elapsed() >= EVERY {
            said.set(Instant::now());
            tracing::info!("{} of {} MB downloaded", done / 1_000_000, total / 1_000_000);
        }
    }
}

impl Repository {
    /// Whether a path is meant as the name of a repository.
    pub fn is_named_by(path: &Path) -> bool {
        path.to_str().is_some_and(|path| path.starts_with(SCHEME))
    }

    /// The repository of a dataset that is written in full or as `owner/name`, with `@revision` or without; nothing where the text
    /// cannot be meant so.
    pub fn of_dataset(text: &str) -> Option<Self> {
        let whole = if text.starts_with(SCHEME) { text.to_owned() } else { format!("{SCHEME}{DATASETS}{text}") };
        whole.parse().ok().filter(|repository: &Self| repository.is_dataset)
    }

    /// The folder that is meant by a path: itself, or the policy or base model that is downloaded from the repository it
    /// names; `progress` hears of the bytes downloaded so far and of all there are.
    ///
    /// # Errors
    /// When the name is none, or the download fails and nothing is in the cache.
    pub fn local(path: &Path, progress: impl Fn(u64, u64)) -> Result<PathBuf> {
        if !Self::is_named_by(path) {
            return Ok(path.to_owned());
        }
        let repository: Self = path.to_string_lossy().parse()?;
        if repository.is_dataset {
            let expected = "a policy or base model, hf://owner/name or hf://owner/name/folder";
            return Err(Error::invalid("repository", "name", expected, repository));
        }
        repository.fetch(progress)
    }

    /// Without the feature `hub` nothing is downloaded.
    #[cfg(not(feature = "hub"))]
    fn fetch(&self, _: impl Fn(u64, u64)) -> Result<PathBuf> {
        Err(self.absent())
    }

    /// What to say where a build downloads nothing.
    #[cfg(not(feature = "hub"))]
    pub fn absent(&self) -> Error {
        let message = "this build downloads nothing".into();
        Error::Hub { repository: self.to_string(), message, remedy: "build with `--features hub`" }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is_dataset, owner, name, folder, revision } = self;
        write!(f, "{SCHEME}{}{owner}/{name}", if *is_dataset { DATASETS } else { "" })?;
        folder.iter().try_for_each(|folder| write!(f, "/{folder}"))?;
        revision.iter().try_for_each(|revision| write!(f, "@{revision}"))
    }
}

impl FromStr for Repository {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let whole = text.strip_prefix(SCHEME)?;
            let (path, revision) = whole.split_once('@').map_or((whole, None), |(path, at)| (path, Some(at)));
            let (is_dataset, path) = path.strip_prefix(DATASETS).map_or((false, path), |path| (true, path));
            let is_name = |name: &str| {
                let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                !name.is_empty() && name.chars().all(is_allowed) && !name.starts_with('.') && !name.contains("..")
            };
            let are_names = |names: &str| names.split('/').all(is_name);
            let (owner, rest) = path.split_once('/')?;
            let (name, folder) = rest.split_once('/').map_or((rest, None), |(name, folder)| (name, Some(folder)));
            // A dataset is a whole repository.
            let is_whole = folder.is_none() || !is_dataset;
            let is_right = is_whole && are_names(path) && revision.is_none_or(are_names);
            is_right.then(|| Self {
                is_dataset,
                owner: owner.to_owned(),
                name: name.to_owned(),
                folder: folder.map(str::to_owned),
                revision: revision.map(str::to_owned),
            })
        };
        parse().ok_or_else(|| {
            let expected =
                "hf://owner/name, hf://owner/name@revision, hf://owner/name/folder or hf://datasets/owner/name";
            Error::invalid("repository", "name", expected, text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for name in [
            "hf://owner/name",
            "hf://o-1/n_2.x@main",
            "hf://o/n@refs/pr/1",
            "hf://o/n/pretrained_model",
            "hf://o/n/checkpoints/last@v1",
            "hf://datasets/o/n@v3.0",
        ] {
            assert_eq!(name.parse::<Repository>().expect(name).to_string(), name);
        }
        for name in [
            "hf://owner",
            "hf:///name",
            "hf://o/n@",
            "hf://o/n/",
            "hf://../n",
            "hf://o/n@../x",
            "o/n",
            "hf://o/a b",
            "hf://datasets/o",
            "hf://datasets/o/n/m",
            "hf://o/n/../m",
        ] {
            let message = name.parse::<Repository>().expect_err(name).to_string();
            assert!(message.contains("hf://owner/name"), "{message}");
        }
        let dataset = |text| Repository::of_dataset(text).map(|repository| repository.to_string());
        assert_eq!(dataset("o/n@v1").as_deref(), Some("hf://datasets/o/n@v1"));
        assert_eq!(dataset("hf://datasets/o/n").as_deref(), Some("hf://datasets/o/n"));
        for text in ["n", "data/o/n", "../n", "hf://o/n", "/o/n"] {
            assert_eq!(dataset(text), None, "{text}");
        }
        let message = Repository::local(Path::new("hf://datasets/o/n"), |_, _| ()).expect_err("no policy").to_string();
        assert!(message.contains("hf://datasets/o/n") && message.contains("a policy or base model"), "{message}");
        assert!(Repository::is_named_by(Path::new("hf://owner/name")) && !Repository::is_named_by(Path::new("owner")));
    }
}
