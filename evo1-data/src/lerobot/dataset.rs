//! A dataset in a folder.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use lru::LruCache;

use super::{
    Column, Episode, Feature, Info, Table, Tasks,
    info::{Layout, fill},
    meta,
    table::TableFile,
};
use crate::{Error, Result};

/// How a dataset is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOptions {
    /// Whether files may be links out of the dataset's folder, as they are in a Hugging Face cache.
    pub follow_links: bool,
    /// Bytes of tables kept in memory; those not used for longest make room.
    pub table_cache_bytes: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { follow_links: false, table_cache_bytes: 512 << 20 }
    }
}

/// A LeRobot dataset. Opening it reads its metadata; tables are read when they are asked for.
#[derive(Debug)]
pub struct Dataset {
    root: PathBuf,
    /// The folder without links, when files must lie in it.
    boundary: Option<PathBuf>,
    info: Info,
    episodes: Vec<Episode>,
    tasks: Tasks,
    tables: Mutex<Tables>,
}

/// Where the frames of an episode are.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoClip {
    /// The video.
    pub path: PathBuf,
    /// Seconds into the video at which the episode begins.
    pub start: f64,
}

/// Tables of episodes, least recently used first out.
#[derive(Debug)]
struct Tables {
    cache: LruCache<usize, Arc<Table>>,
    bytes: usize,
    limit: usize,
}

impl Dataset {
    /// Opens the dataset in a folder.
    ///
    /// # Errors
    /// When metadata is missing, is of another version, or contradicts itself.
    pub fn open(root: &Path, options: &OpenOptions) -> Result<Self> {
        let path = root.join("meta").join("info.json");
        let info = Info::read(&path)?;
        let layout = info.layout(&path)?;
        let (episodes, tasks) = meta::read(root, &info, layout)?;
        let boundary = match options.follow_links {
            true => None,
            false => Some(root.canonicalize().map_err(|reason| Error::io("read", root, reason))?),
        };
        let tables = Tables { cache: LruCache::unbounded(), bytes: 0, limit: options.table_cache_bytes };
        Ok(Self { root: root.to_owned(), boundary, info, episodes, tasks, tables: Mutex::new(tables) })
    }

    /// The dataset's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The dataset's description of itself.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Its episodes, by their numbers.
    pub fn episodes(&self) -> &[Episode] {
        &self.episodes
    }

    /// Its instructions by task index.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// A column or camera.
    pub fn feature(&self, name: &str) -> Result<&Feature> {
        self.info.features.get(name).ok_or_else(|| {
            let known = self.info.features.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            Error::inconsistent(&self.info_path(), "a feature", format!("one of {known}"), format!("`{name}`"))
        })
    }

    /// The numbers of an episode: every column that is not a picture, one row for each frame.
    ///
    /// # Errors
    /// When the table does not have the rows that the metadata says, or they are not numbered from 0 without holes.
    pub fn table(&self, episode: usize) -> Result<Arc<Table>> {
        if let Some(table) = self.cache().cache.get(&episode) {
            return Ok(table.clone());
        }
        let table = Arc::new(self.read_table(episode)?);
        self.cache().insert(episode, table.clone());
        Ok(table)
    }

    /// The file with the table of an episode.
    pub fn table_path(&self, episode: usize) -> Result<PathBuf> {
        let episode = self.episode(episode)?;
        let numbers = numbers(episode.index, episode.data.chunk, episode.data.file);
        self.inside(fill(&self.info.data_path, &numbers, "", &self.info_path())?)
    }

    /// Where a camera's frames of an episode are.
    ///
    /// # Errors
    /// When the camera does not exist, or its frames are not in videos.
    pub fn clip(&self, episode: usize, camera: &str) -> Result<VideoClip> {
        let mut videos = self.info.features.iter().filter(|(_, feature)| feature.is_video());
        let Some(position) = videos.position(|(name, _)| name == camera) else {
            let expected = format!("a camera with videos, one of {:?}", self.info.cameras().collect::<Vec<_>>());
            return Err(Error::inconsistent(&self.info_path(), "a view", expected, format!("`{camera}`")));
        };
        let episode = self.episode(episode)?;
        let (file, start) = episode.videos[position];
        let template = self.info.video_path.as_deref().ok_or_else(|| {
            Error::inconsistent(&self.info_path(), "`video_path`", "there, since there are videos", "nothing")
        })?;
        let numbers = numbers(episode.index, file.chunk, file.file);
        Ok(VideoClip { path: self.inside(fill(template, &numbers, camera, &self.info_path())?)?, start })
    }

    /// The encoded picture of a camera whose frames stand in the table.
    pub fn picture(&self, episode: usize, frame: usize, camera: &str) -> Result<Vec<u8>> {
        let path = self.table_path(episode)?;
        let row = self.episode(episode)?.first_row + frame;
        let table = TableFile::open(&path)?.read(row..row + 1, |name| name == camera)?;
        match table.column(camera) {
            Some(Column::Bytes(pictures)) if !pictures[0].is_empty() => Ok(pictures[0].clone()),
            _ => Err(Error::inconsistent(
                &path,
                format!("column `{camera}` of episode {episode}, frame {frame}"),
                "an encoded picture",
                "none",
            )),
        }
    }

    pub(crate) fn episode(&self, episode: usize) -> Result<&Episode> {
        self.episodes.get(episode).ok_or_else(|| {
            let expected = format!("below {}", self.episodes.len());
            Error::inconsistent(&self.info_path(), "an episode's number", expected, episode)
        })
    }

    pub(crate) fn info_path(&self) -> PathBuf {
        self.root.join("meta").join("info.json")
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_table(&self, number: usize) -> Result<Table> {
        let path = self.table_path(number)?;
        let Episode { length, first_row, first_frame, .. } = *self.episode(number)?;
        let file = TableFile::open(&path)?;
        let is_per_episode = self.info.layout(&path)? == Layout::PerEpisode;
        if is_per_episode && file.rows() != length {
            return Err(Error::inconsistent(&path, "the number of rows", length, file.rows()));
        }
        let is_number = |name: &str| self.info.features.get(name).is_none_or(|feature| !feature.is_camera());
        let table = file.read(first_row..first_row + length, is_number)?.narrowed();
        let check = |name: &str, expected: &dyn Fn(usize) -> usize| -> Result<()> {
            let Some(values) = table.ints(name) else {
                return Err(Error::format(&path, "parquet", format!("column `{name}` of whole numbers is missing")));
            };
            let wrong = values.iter().enumerate().find(|&(row, &value)| value != expected(row) as i64);
            wrong.map_or(Ok(()), |(row, &value)| {
                let what = format!("`{name}` of episode {number}, row {row}");
                Err(Error::inconsistent(&path, what, expected(row), value))
            })
        };
        check("frame_index", &|row| row)?;
        check("episode_index", &|_| number)?;
        check("index", &|row| first_frame + row)?;
        let fps = self.info.fps;
        for row in 0..length {
            let Some(&[time]) = table.floats("timestamp", row) else { break };
            let expected = row as f64 / fps;
            // Not so for NaN, too.
            let is_on_time = (f64::from(time) - expected).abs() <= 0.5 / fps;
            if !is_on_time {
                let what = format!("`timestamp` of episode {number}, row {row}, at {fps} frames per second");
                return Err(Error::inconsistent(&path, what, format!("{expected:.4} s"), format!("{time:.4} s")));
            }
        }
        Ok(table)
    }

    /// The path below the dataset's folder, unless it leads out of it.
    fn inside(&self, relative: PathBuf) -> Result<PathBuf> {
        let path = self.root.join(relative);
        if let Some(boundary) = &self.boundary {
            let target = path.canonicalize().map_err(|reason| Error::io("read", &path, reason))?;
            if !target.starts_with(boundary) {
                return Err(Error::OutsideDataset { path, root: self.root.clone() });
            }
        }
        Ok(path)
    }
}

impl Tables {
    fn insert(&mut self, episode: usize, table: Arc<Table>) {
        self.bytes += table.bytes();
        if let Some((_, old)) = self.cache.push(episode, table) {
            self.bytes -= old.bytes();
        }
        while self.bytes > self.limit && self.cache.len() > 1 {
            let Some((_, old)) = self.cache.pop_lru() else { break };
            self.bytes -= old.bytes();
        }
    }
}

/// The numbers that path templates of all versions may name.
fn numbers(episode: usize, chunk: usize, file: usize) -> [(&'static str, usize); 4] {
    [("episode_index", episode), ("episode_chunk", chunk), ("chunk_index", chunk), ("file_index", file)]
}
