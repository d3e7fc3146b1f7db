//! Policies and base models on the Hugging Face Hub, downloaded into the cache that its other clients use too.
//!
//! `HF_HOME` or `HF_HUB_CACHE` say where the cache is, `HF_ENDPOINT` which server is asked, `HF_TOKEN` who asks; with
//! `HF_HUB_OFFLINE=1` nothing is asked, and only what is in the cache is found.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use hf_hub::{
    HFClient, HFClientSync, HFError,
    progress::{DownloadEvent, ProgressEvent, ProgressHandler},
};
use tracing::warn;

use crate::{Error, Result};

/// What a name of a repository starts with.
const SCHEME: &str = "hf://";

/// The files of a policy or base model.
const FILES: [&str; 12] = [
    "config.json",
    "vlm_config.json",
    "evo1.json",
    "norm_stats.json",
    "tokenizer.json",
    "policy_*.json",
    "policy_*.safetensors",
    "model*.safetensors",
    "model.safetensors.index.json",
    "model.bpk",
    "*.pt",
    "pytorch_model.bin",
];

/// Files in folders below are not a policy's.
const IN_FOLDERS: &str = "*/*";

/// How often a request that failed is tried again.
const RETRIES: usize = 3;

/// A repository on the Hub, written `hf://owner/name` or `hf://owner/name@revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    owner: String,
    name: String,
    revision: Option<String>,
}

impl Repository {
    /// Whether a path is meant as the name of a repository.
    pub fn is_named_by(path: &Path) -> bool {
        path.to_str().is_some_and(|path| path.starts_with(SCHEME))
    }

    /// The folder with the repository's files, which are downloaded unless they are in the cache; `progress` hears of the
    /// bytes downloaded so far and of all there are. Where the Hub cannot be reached, what is in the cache is used with a
    /// warning.
    pub fn fetch(&self, progress: impl Fn(u64, u64) + Send + Sync + 'static) -> Result<PathBuf> {
        let failed = |error: HFError| self.failed(&error);
        let client = HFClient::builder().retry_max_attempts(RETRIES).build_sync().map_err(failed)?;
        if is_offline() {
            return self.cached(&client).map_err(failed);
        }
        let downloaded = client
            .model(&self.owner, &self.name)
            .snapshot_download()
            .maybe_revision(self.revision.clone())
            .allow_patterns(FILES.map(String::from).to_vec())
            .ignore_patterns(vec![IN_FOLDERS.into()])
            .progress(Reporter { progress, state: Mutex::default() })
            .send();
        match downloaded {
            Err(error @ HFError::Request { .. }) => match self.cached(&client) {
                Ok(folder) => {
                    warn!("{self}: the cached files are used, for the Hub cannot be reached: {error}");
                    Ok(folder)
                }
                Err(_) => Err(self.failed(&error)),
            },
            result => result.map_err(failed),
        }
    }

    fn cached(&self, client: &HFClientSync) -> Result<PathBuf, HFError> {
        let repository = client.model(&self.owner, &self.name);
        repository.snapshot_download().maybe_revision(self.revision.clone()).local_files_only(true).send()
    }

    fn failed(&self, error: &HFError) -> Error {
        let remedy = match error {
            HFError::LocalEntryNotFound { .. } => "it is not in the cache: download it while HF_HUB_OFFLINE is not set",
            HFError::RepoNotFound { .. } | HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
                "check the name, and set HF_TOKEN if the repository is private"
            }
            HFError::RevisionNotFound { .. } => "check the revision: a branch, a tag or a commit",
            HFError::Request { .. } => {
                "check the network, set HF_ENDPOINT to a mirror, or give the directory of a copy of the files"
            }
            _ => "give the directory of a copy of the files",
        };
        Error::Hub { repository: self.to_string(), message: causes(error), remedy }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.owner, self.name)?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Repository {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (repository, revision) = match text.strip_prefix(SCHEME)?.split_once('@') {
                Some((repository, revision)) => (repository, Some(revision)),
                None => (text.strip_prefix(SCHEME)?, None),
            };
            let (owner, name) = repository.split_once('/')?;
            let is_name = |name: &str| {
                let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                !name.is_empty() && name.chars().all(is_allowed) && !name.starts_with('.') && !name.contains("..")
            };
            let is_revision = |revision: &str| revision.split('/').all(is_name);
            (is_name(owner) && is_name(name) && revision.is_none_or(is_revision)).then(|| Self {
                owner: owner.to_owned(),
                name: name.to_owned(),
                revision: revision.map(str::to_owned),
            })
        };
        parse().ok_or_else(|| Error::invalid("repository", "name", "hf://owner/name or hf://owner/name@revision", text))
    }
}

/// Whether the environment forbids asking the Hub.
fn is_offline() -> bool {
    let is_set = |value: String| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str());
    std::env::var("HF_HUB_OFFLINE").is_ok_and(is_set)
}

/// An error with what caused it, each said once.
fn causes(error: &HFError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

/// Adds up what the client reports file by file.
struct Reporter<F> {
    progress: F,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    total: u64,
    files: BTreeMap<String, u64>,
    batch: u64,
}

impl<F: Fn(u64, u64) + Send + Sync> ProgressHandler for Reporter<F> {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            // Single files report a start of their own.
            DownloadEvent::Start { total_bytes, .. } => state.total = state.total.max(*total_bytes),
            DownloadEvent::Progress { files } => {
                state.files.extend(files.iter().map(|file| (file.filename.clone(), file.bytes_completed)));
            }
            DownloadEvent::AggregateProgress { bytes_completed, .. } => state.batch = *bytes_completed,
            DownloadEvent::Complete => {}
        }
        let done = state.files.values().sum::<u64>() + state.batch;
        (self.progress)(done.min(state.total), state.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for name in ["hf://owner/name", "hf://o-1/n_2.x@main", "hf://o/n@refs/pr/1"] {
            assert_eq!(name.parse::<Repository>().expect(name).to_string(), name);
        }
        for name in
            ["hf://owner", "hf:///name", "hf://o/n@", "hf://o/n/m", "hf://../n", "hf://o/n@../x", "o/n", "hf://o/a b"]
        {
            let message = name.parse::<Repository>().expect_err(name).to_string();
            assert!(message.contains("hf://owner/name"), "{message}");
        }
        assert!(Repository::is_named_by(Path::new("hf://owner/name")) && !Repository::is_named_by(Path::new("owner")));
    }
}
