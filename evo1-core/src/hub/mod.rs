//! Policies and base models on the Hugging Face Hub: their names, and with the feature `hub` their download into the cache
//! that the Hub's other clients use too.
//!
//! `HF_HOME` or `HF_HUB_CACHE` say where the cache is, `HF_ENDPOINT` which server is asked, `HF_TOKEN` who asks; with
//! `HF_HUB_OFFLINE=1` nothing is asked, and only what is in the cache is found.

#[cfg(feature = "hub")]
mod fetch;

use std::{fmt, path::Path, str::FromStr};

use crate::{Error, Result};

/// What a name of a repository starts with.
const SCHEME: &str = "hf://";

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
