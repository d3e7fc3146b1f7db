//! Download through the Hub's own client.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use hf_hub::{
    HFClient, HFClientSync, HFError,
    progress::{DownloadEvent, ProgressEvent, ProgressHandler},
};
use tracing::warn;

use super::Repository;
use crate::{Error, Result};

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

impl Repository {
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
