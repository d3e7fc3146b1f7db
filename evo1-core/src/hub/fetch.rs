//! Download through the Hub's own client.

use std::{
    env,
    path::{Component, Path, PathBuf},
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::{
        Progress,
        sync::{ApiBuilder, ApiError, ApiRepo},
    },
};
use serde::Deserialize;
use tracing::{info, warn};

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

/// Most bytes of a repository's list of files, of which datasets have hundreds of thousands.
const MAX_LIST_BYTES: u64 = 256 << 20;

/// How often a download that broke off goes on.
const RETRIES: usize = 3;

/// The revision of a name without one.
const DEFAULT_REVISION: &str = "main";

/// The file that every dataset has.
const DATASET_FOUND_BY: &str = "meta/info.json";

/// The files of a repository at one commit, as far as they are in the cache.
#[derive(Debug)]
pub struct Snapshot {
    repository: Repository,
    cache: Cache,
    folder: PathBuf,
    /// Where files come from that are not in the cache; nothing where the Hub is not asked.
    source: Option<Source>,
}

/// A repository at one commit, on the Hub.
#[derive(Debug)]
struct Source {
    commit: String,
    files: Vec<Sibling>,
    api: ApiRepo,
}

impl Repository {
    /// The folder with the policy's or base model's files, which are downloaded unless they are in the cache. Where the
    /// Hub gives no answer, or refuses to, what is in the cache is used with a warning.
    pub(super) fn fetch(&self, progress: impl Fn(u64, u64)) -> Result<PathBuf> {
        let below = |path: &Path| self.folder.as_ref().map_or_else(|| path.to_owned(), |folder| path.join(folder));
        let fetched = self.open().and_then(|snapshot| {
            snapshot.check_policy().map_err(|failure| self.failed(failure))?;
            let prefix = self.prefix();
            let is_wanted = |name: &str| name.strip_prefix(&prefix).is_some_and(is_wanted);
            snapshot.fetch(is_wanted, progress).map(|()| below(snapshot.folder()))
        });
        fetched.or_else(|error| match Self::cache().ok().and_then(|(cache, _)| self.cached(&cache)) {
            // What is there is whole: the file by which it is found comes last.
            Some(folder) => {
                warn!("the cached files are used: {error}");
                Ok(below(&folder))
            }
            None => Err(error),
        })
    }

    /// The files of the repository at the commit that its revision means now. Where the Hub gives no answer, or refuses to, what is
    /// in the cache is used with a warning.
    ///
    /// # Errors
    /// When the Hub cannot be asked, or has no such repository, and nothing is in the cache.
    pub fn open(&self) -> Result<Snapshot> {
        let (cache, home) = Self::cache().map_err(|failure| self.failed(failure))?;
        let cached = |cache| Some((self.cached(&cache)?, cache));
        let (folder, cache) = if is_offline() {
            cached(cache).ok_or_else(|| self.failed(Failure::NotCached))?
        } else {
            match self.ask(&cache, &home) {
                Ok(source) => {
                    let folder = cache.repo(self.at(&source.commit)).pointer_path(&source.commit);
                    return Ok(Snapshot { repository: self.clone(), cache, folder, source: Some(source) });
                }
                Err(failure) => {
                    let message = failure.message();
                    let found = cached(cache).ok_or_else(|| self.failed(failure))?;
                    warn!("{self}: the cached files are used, for the Hub cannot be asked: {message}");
                    found
                }
            }
        };
        Ok(Snapshot { repository: self.clone(), cache, folder, source: None })
    }

    /// The cache, and where the Hub's clients keep what is theirs.
    fn cache() -> Result<(Cache, PathBuf), Failure> {
        let home = home().ok_or(Failure::NoCache)?;
        let cache = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
        Ok((Cache::new(cache.map_or_else(|| home.join("hub"), PathBuf::from)), home))
    }

    /// The repository at a revision, as the client names it.
    fn at(&self, revision: &str) -> Repo {
        let kind = if self.is_dataset { RepoType::Dataset } else { RepoType::Model };
        Repo::with_revision(format!("{}/{}", self.owner, self.name), kind, revision.to_owned())
    }

    /// The revision that is asked for.
    fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }

    /// What the paths of a policy's files start with.
    fn prefix(&self) -> String {
        self.folder.as_ref().map_or_else(String::new, |folder| format!("{folder}/"))
    }

    /// The file that must be there.
    fn found_by(&self) -> String {
        if self.is_dataset { DATASET_FOUND_BY.to_owned() } else { self.prefix() + FOUND_BY }
    }

    /// The folder that an earlier download of this revision, a name or a commit, left in the cache.
    fn cached(&self, cache: &Cache) -> Option<PathBuf> {
        let repository = cache.repo(self.at(self.revision()));
        let named =
            std::fs::read_to_string(cache.path().join(self.at("").folder_name()).join("refs").join(self.revision()));
        let commits = named.ok().into_iter().chain([self.revision().to_owned()]);
        let mut folders = commits.map(|commit| repository.pointer_path(commit.trim()));
        folders.find(|folder| folder.join(self.found_by()).exists())
    }

    fn ask(&self, cache: &Cache, home: &Path) -> Result<Source, Failure> {
        let mut builder =
            ApiBuilder::from_cache(cache.clone()).with_token(token(home)).with_progress(false).with_retries(RETRIES);
        if let Some(endpoint) = variable("HF_ENDPOINT") {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        let api = builder.build()?;
        let Info { sha: commit, siblings: files } = Info::ask(&api.repo(self.at(self.revision())))?;
        // Everything is asked for by its commit, so that a branch that moves meanwhile mixes nothing.
        let api = api.repo(self.at(&commit));
        Ok(Source { commit, files, api })
    }

    fn failed(&self, failure: Failure) -> Error {
        Error::Hub { repository: self.to_string(), message: failure.message(), remedy: failure.remedy() }
    }
}

impl Snapshot {
    /// The folder of the files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Downloads the files for whose paths `wanted` holds, unless they are in the cache; `progress` hears of the bytes
    /// downloaded so far and of all there are. Where the Hub is not asked, what is there has to do.
    ///
    /// # Errors
    /// When a download fails.
    pub fn fetch(&self, wanted: impl Fn(&str) -> bool, progress: impl Fn(u64, u64)) -> Result<()> {
        let Some(source) = &self.source else { return Ok(()) };
        self.download(source, wanted, progress).map_err(|failure| self.repository.failed(failure))
    }

    fn download(
        &self,
        source: &Source,
        wanted: impl Fn(&str) -> bool,
        progress: impl Fn(u64, u64),
    ) -> Result<(), Failure> {
        let is_missing = |name: &str| is_inside(name) && wanted(name) && !self.folder.join(name).exists();
        let mut files: Vec<&Sibling> = source.files.iter().filter(|file| is_missing(&file.rfilename)).collect();
        // The file by which a folder is found comes last, so that what is found is whole.
        let found_by = self.repository.found_by();
        files.sort_by_key(|file| file.rfilename == found_by);
        let total = files.iter().filter_map(|file| file.size).sum();
        if !files.is_empty() {
            info!("{}: downloading {} files, {total} bytes", self.repository, files.len());
        }
        let mut done = 0;
        for file in files {
            let reporter = Reporter { progress: &progress, before: done, total, of_file: 0 };
            source.api.download_with_progress(&file.rfilename, reporter)?;
            done += file.size.unwrap_or(0);
        }
        let named = self.cache.repo(self.repository.at(self.repository.revision()));
        Ok(named.create_ref(&source.commit).map_err(ApiError::from)?)
    }

    /// Fails unless there is a policy or base model where one is meant.
    fn check_policy(&self) -> Result<(), Failure> {
        let Some(source) = &self.source else { return Ok(()) };
        let found_by = self.repository.found_by();
        if source.files.iter().any(|file| file.rfilename == found_by) {
            return Ok(());
        }
        let ending = format!("/{FOUND_BY}");
        let elsewhere = source.files.iter().filter_map(|file| file.rfilename.strip_suffix(&ending));
        let place = self.repository.folder.clone();
        Err(Failure::NoPolicy { place, elsewhere: elsewhere.map(str::to_owned).collect() })
    }
}

/// What the Hub says of a repository.
#[derive(Debug, Deserialize)]
struct Info {
    /// The commit.
    sha: String,
    siblings: Vec<Sibling>,
}

/// A file of a repository.
#[derive(Debug, Deserialize)]
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
        let body = response.body_mut().with_config().limit(MAX_LIST_BYTES);
        let info: Self = body.read_json().map_err(Box::new)?;
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
    /// The repository holds no policy at its top or in a folder, but may in others.
    NoPolicy { place: Option<String>, elsewhere: Vec<String> },
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
            Self::NoPolicy { elsewhere, .. } if elsewhere.is_empty() => format!("it has no `{FOUND_BY}`"),
            Self::NoPolicy { place, elsewhere } => {
                let place = place.as_ref().map_or_else(|| "at its top".to_owned(), |place| format!("in `{place}`"));
                format!("it has no `{FOUND_BY}` {place}, but in `{}`", elsewhere.join("`, `"))
            }
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
            Self::NoPolicy { .. } => "name the folder that holds the policy, as in hf://owner/name/folder",
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

/// Whether the path of a file leads into the folder that it is relative to.
fn is_inside(name: &str) -> bool {
    let is_name = |part: Component<'_>| matches!(part, Component::Normal(_));
    !name.is_empty() && !name.contains('\\') && Path::new(name).components().all(is_name)
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
