//! Download through the Hub's own client.

use std::{
    env,
    path::{Path, PathBuf},
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::{
        Progress,
        sync::{ApiBuilder, ApiError, ApiRepo},
    },
};
use serde::Deserialize;
use tracing::warn;

use super::Repository;
use crate::{Error, Result};

/// The file that every policy and base model has.
const FOUND_BY: &str = "config.json";

/// The files of a policy or base model; a `*` stands for any text. Files in folders below are not a policy's.
const FILES: [&str; 12] = [
    FOUND_BY,
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

/// How often a download that broke off goes on.
const RETRIES: usize = 3;

/// The revision of a name without one.
const DEFAULT_REVISION: &str = "main";

impl Repository {
    /// The folder with the repository's files, which are downloaded unless they are in the cache; `progress` hears of the
    /// bytes downloaded so far and of all there are. Where the Hub gives no answer, or refuses to, what is in the cache is
    /// used with a warning.
    pub fn fetch(&self, progress: impl Fn(u64, u64)) -> Result<PathBuf> {
        let home = home().ok_or_else(|| self.failed(Failure::NoCache))?;
        let cache = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
        let cache = Cache::new(cache.map_or_else(|| home.join("hub"), PathBuf::from));
        if is_offline() {
            return self.cached(&cache).ok_or_else(|| self.failed(Failure::NotCached));
        }
        match self.download(&cache, &home, progress) {
            Ok(folder) => Ok(folder),
            Err(failure) => match self.cached(&cache) {
                Some(folder) => {
                    warn!("{self}: the cached files are used, for the Hub cannot be asked: {}", failure.message());
                    Ok(folder)
                }
                None => Err(self.failed(failure)),
            },
        }
    }

    /// The repository at a revision, as the client names it.
    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(format!("{}/{}", self.owner, self.name), RepoType::Model, revision.to_owned())
    }

    /// The revision that is asked for.
    fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }

    /// The folder that an earlier download of this revision, a name or a commit, left in the cache.
    fn cached(&self, cache: &Cache) -> Option<PathBuf> {
        let repository = cache.repo(self.at(self.revision()));
        let commit = || Some(repository.pointer_path(self.revision()).join(FOUND_BY)).filter(|path| path.exists());
        repository.get(FOUND_BY).or_else(commit)?.parent().map(Path::to_owned)
    }

    fn download(&self, cache: &Cache, home: &Path, progress: impl Fn(u64, u64)) -> Result<PathBuf, Failure> {
        let mut builder =
            ApiBuilder::from_cache(cache.clone()).with_token(token(home)).with_progress(false).with_retries(RETRIES);
        if let Some(endpoint) = variable("HF_ENDPOINT") {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        let api = builder.build()?;
        let Info { sha, siblings } = Info::ask(&api.repo(self.at(self.revision())))?;
        if !siblings.iter().any(|file| file.rfilename == FOUND_BY) {
            let ending = format!("/{FOUND_BY}");
            let below = siblings.iter().filter_map(|file| file.rfilename.strip_suffix(&ending)).map(str::to_owned);
            return Err(Failure::NoPolicy { below: below.collect() });
        }
        let folder = cache.repo(self.at(&sha)).pointer_path(&sha);
        let mut wanted: Vec<Sibling> = siblings
            .into_iter()
            .filter(|file| is_wanted(&file.rfilename) && !folder.join(&file.rfilename).exists())
            .collect();
        // The file by which a folder is found comes last, so that what is found is whole.
        wanted.sort_by_key(|file| file.rfilename == FOUND_BY);
        // Everything is asked for by its commit, so that a branch that moves meanwhile mixes nothing.
        let pinned = api.repo(self.at(&sha));
        let total = wanted.iter().filter_map(|file| file.size).sum();
        let mut done = 0;
        for file in wanted {
            let reporter = Reporter { progress: &progress, before: done, total, of_file: 0 };
            pinned.download_with_progress(&file.rfilename, reporter)?;
            done += file.size.unwrap_or(0);
        }
        cache.repo(self.at(self.revision())).create_ref(&sha).map_err(ApiError::from)?;
        Ok(folder)
    }

    fn failed(&self, failure: Failure) -> Error {
        Error::Hub { repository: self.to_string(), message: failure.message(), remedy: failure.remedy() }
    }
}

/// What the Hub says of a repository.
#[derive(Deserialize)]
struct Info {
    /// The commit.
    sha: String,
    siblings: Vec<Sibling>,
}

/// A file of a repository.
#[derive(Deserialize)]
struct Sibling {
    /// Its path in the repository.
    rfilename: String,
    size: Option<u64>,
}

impl Info {
    fn ask(repository: &ApiRepo) -> Result<Self, Failure> {
        let request = repository.info_request().query("blobs", "true");
        let mut response = request.config().http_status_as_error(false).build().call().map_err(Box::new)?;
        let status = response.status();
        if !status.is_success() {
            let reason = response.headers().get("X-Error-Message").and_then(|reason| reason.to_str().ok());
            let reason = reason.or(status.canonical_reason()).unwrap_or_default();
            return Err(Failure::Refused { status: status.as_u16(), reason: reason.to_owned() });
        }
        let info: Self = response.body_mut().read_json().map_err(Box::new)?;
        // The commit names a folder.
        if info.sha.is_empty() || !info.sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Failure::Commit(info.sha));
        }
        Ok(info)
    }
}

/// Why there is no folder.
enum Failure {
    /// Nothing says where the cache is.
    NoCache,
    /// Nothing may be asked, and nothing is in the cache.
    NotCached,
    /// The Hub answered with an error.
    Refused { status: u16, reason: String },
    /// The repository holds no policy at its top, but may in folders below.
    NoPolicy { below: Vec<String> },
    /// What the Hub calls a commit is none.
    Commit(String),
    /// The Hub cannot be reached, or a download failed.
    Client(ApiError),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::RequestError(error) => Self::from(error),
            error => Self::Client(error),
        }
    }
}

impl From<Box<ureq::Error>> for Failure {
    fn from(error: Box<ureq::Error>) -> Self {
        match *error {
            ureq::Error::StatusCode(status) => Self::Refused { status, reason: String::new() },
            _ => Self::Client(ApiError::RequestError(error)),
        }
    }
}

impl Failure {
    fn message(&self) -> String {
        match self {
            Self::NoCache => "there is no home directory for its cache".into(),
            Self::NotCached => "it is not in the cache".into(),
            Self::Refused { status, reason } => format!("the Hub answers {status} {reason}").trim_end().into(),
            Self::NoPolicy { below } if below.is_empty() => format!("it has no `{FOUND_BY}`"),
            Self::NoPolicy { below } => format!("it has no `{FOUND_BY}` at its top, but in `{}`", below.join("`, `")),
            Self::Commit(sha) => format!("the Hub names a commit `{sha}`"),
            Self::Client(error) => error.to_string(),
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::NoCache => "set HF_HOME",
            Self::NotCached => "download it while HF_HUB_OFFLINE is not set",
            Self::Refused { status: 401 | 403 | 404, .. } => {
                "check the name and the revision, and set HF_TOKEN if the repository is private"
            }
            Self::Refused { .. } => "try again later, or give the directory of a copy of the files",
            Self::NoPolicy { .. } => "download the folder that holds the policy, and give its directory",
            Self::Commit(_) => "check HF_ENDPOINT",
            Self::Client(_) => {
                "check the network, set HF_ENDPOINT to a mirror, or give the directory of a copy of the files"
            }
        }
    }
}

fn is_wanted(name: &str) -> bool {
    let matches = |pattern: &str| match pattern.split_once('*') {
        Some((start, end)) => name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end),
        None => name == pattern,
    };
    !name.contains(['/', '\\']) && FILES.into_iter().any(matches)
}

/// An environment variable that is set to something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where the Hub's clients keep what is theirs.
fn home() -> Option<PathBuf> {
    let cache = || variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cache")));
    variable("HF_HOME").map(PathBuf::from).or_else(|| Some(cache()?.join("huggingface")))
}

/// Who asks: `HF_TOKEN`, or what the Hub's command line has stored.
fn token(home: &Path) -> Option<String> {
    let stored = || {
        let path = variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        std::fs::read_to_string(path).ok()
    };
    let token = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN")).or_else(stored)?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// Whether the environment forbids asking the Hub.
fn is_offline() -> bool {
    variable("HF_HUB_OFFLINE").is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str()))
}

/// Adds what the client reports of a file to what is there of those before it.
struct Reporter<'a, F> {
    progress: &'a F,
    before: u64,
    total: u64,
    of_file: u64,
}

impl<F: Fn(u64, u64)> Progress for Reporter<'_, F> {
    /// A download that goes on begins anew, and is then told of what is there.
    fn init(&mut self, _size: usize, _name: &str) {
        self.of_file = 0;
    }

    fn update(&mut self, size: usize) {
        self.of_file += size as u64;
        (self.progress)((self.before + self.of_file).min(self.total), self.total);
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::is_wanted;

    #[test]
    fn only_a_policys_files_are_wanted() {
        for name in ["config.json", "policy_preprocessor.json", "model-00001-of-00002.safetensors", "checkpoint.pt"] {
            assert!(is_wanted(name), "{name}");
        }
        for name in ["README.md", "../config.json", "images/model.safetensors", "policy_.jso", "xconfig.json", ""] {
            assert!(!is_wanted(name), "{name}");
        }
    }
}
