//! The folder of a dataset, and which files in it may be read.

use std::path::{Path, PathBuf};

use super::meta::files_below;
use crate::{Error, Result};

/// A dataset's folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// The folder without links, when files must lie in it.
    boundary: Option<PathBuf>,
}

impl Folder {
    pub(super) fn new(path: &Path, follow_links: bool) -> Result<Self> {
        let boundary = match follow_links {
            true => None,
            false => Some(path.canonicalize().map_err(|reason| Error::io("read", path, reason))?),
        };
        Ok(Self { path: path.to_owned(), boundary })
    }

    /// The path below the folder, unless it leads out of it.
    pub(super) fn inside(&self, relative: &Path) -> Result<PathBuf> {
        let path = self.path.join(relative);
        if let Some(boundary) = &self.boundary {
            let target = path.canonicalize().map_err(|reason| Error::io("read", &path, reason))?;
            if !target.starts_with(boundary) {
                return Err(Error::OutsideDataset { path, root: self.path.clone() });
            }
        }
        Ok(path)
    }

    /// The table files that are there, relative to the folder, in the order of their names; `template` says where they are.
    pub(super) fn tables(&self, template: &str) -> Vec<PathBuf> {
        let mut files = self.files(template);
        files.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
        files
    }

    /// The files that are there, up to two levels below what is fixed in `template`, as [`Self::tables`].
    pub(super) fn files(&self, template: &str) -> Vec<PathBuf> {
        let fixed = template.split('{').next().unwrap_or_default();
        let top = Path::new(fixed.rsplit_once('/').map_or("", |(top, _)| top));
        // Files above the folder are refused where their paths are made.
        if !top.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
            return Vec::new();
        }
        let files = files_below(&self.path.join(top)).unwrap_or_default();
        files.iter().filter_map(|file| file.strip_prefix(&self.path).ok()).map(Path::to_owned).collect()
    }
}
