//! A dataset in a folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use lru::LruCache;

use super::{
    Column, Episode, Feature, Info, Table, Tasks,
    folder::Folder,
    info::{Layout, fill, numbers},
    meta::{self, Clip, Listing},
    table::TableFile,
};
#[cfg(feature = "hub")]
use crate::Needed;
use crate::{Error, Result, config::Time};

/// Columns of whole numbers that every use of a table needs.
const INDICES: [&str; 4] = ["frame_index", "episode_index", "index", "task_index"];

/// Table files that are kept open.
const MOST_OPEN: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// How a dataset is opened.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenOptions {
    /// Whether files may be links out of the dataset's folder, as they are in a Hugging Face cache.
    pub follow_links: bool,
    /// Bytes of tables kept in memory; those not used for longest make room.
    pub table_cache_bytes: usize,
    /// Columns of the tables that are read beside index and time stamp; all but cameras without it.
    pub columns: Option<BTreeSet<String>>,
    /// How frames are found in videos.
    pub time: Time,
    /// Take episodes whose tables are not there as metadata has them, instead of leaving them out: those tables are elsewhere.
    pub may_lack_tables: bool,
    /// Leave out episodes whose metadata cannot be read, with a warning, instead of refusing the dataset.
    pub skip_unreadable: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            follow_links: false,
            table_cache_bytes: 512 << 20,
            columns: None,
            time: Time::default(),
            may_lack_tables: false,
            skip_unreadable: false,
        }
    }
}

/// A LeRobot dataset. Opening it reads its metadata; tables are read when they are asked for.
#[derive(Debug)]
pub struct Dataset {
    folder: Folder,
    options: OpenOptions,
    info: Info,
    listing: Listing,
    tables: Mutex<Tables>,
    /// Table files that were read last.
    open: Mutex<LruCache<PathBuf, Arc<TableFile>>>,
    /// Whether was warned of instructions that contradict each other.
    has_warned_of_tasks: AtomicBool,
}

/// Where the frames of an episode are.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoClip {
    /// The video.
    pub path: PathBuf,
    /// Seconds into the video at which the episode begins.
    pub start: f64,
    /// Frames of the episodes before it in the same video, where all of them are known.
    pub frames_before: Option<usize>,
    /// Frames of all episodes in the same video, where all of them are known and there may be several.
    pub frames_in_all: Option<usize>,
    /// Frames of the episode.
    pub frames: usize,
}

/// Tables of episodes, least recently used first out.
#[derive(Debug)]
struct Tables {
    cache: LruCache<usize, Arc<Table>>,
    bytes: usize,
    limit: usize,
}

impl Dataset {
    /// Opens the dataset in a folder. Metadata that disagrees with the tables about where episodes are and how many there
    /// are is warned of once, and the tables are believed.
    ///
    /// # Errors
    /// When metadata is missing, is of another version, or contradicts itself.
    pub fn open(root: &Path, options: &OpenOptions) -> Result<Self> {
        let path = root.join("meta").join("info.json");
        let info = Info::read(&path)?;
        let layout = info.layout(&path)?;
        let folder = Folder::new(root, options.follow_links)?;
        let listing = meta::read(&folder, &info, layout, options)?;
        if !listing.disagreements.is_empty() {
            let what = listing.disagreements.join("; ");
            let root = root.display();
            tracing::warn!(
                "{root}: metadata disagrees with the tables, which count: {what}; `evo1 data {root} --repair OUT` makes a copy \
                 in which they agree"
            );
        }
        let tables = Tables { cache: LruCache::unbounded(), bytes: 0, limit: options.table_cache_bytes };
        let open = Mutex::new(LruCache::new(MOST_OPEN));
        Ok(Self {
            folder,
            options: options.clone(),
            info,
            listing,
            tables: Mutex::new(tables),
            open,
            has_warned_of_tasks: AtomicBool::new(false),
        })
    }

    /// The dataset's folder.
    pub fn root(&self) -> &Path {
        &self.folder.path
    }

    /// The dataset's description of itself.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Its episodes that are there, in the order of their numbers, which may have holes.
    pub fn episodes(&self) -> &[Episode] {
        &self.listing.episodes
    }

    /// Where its metadata disagrees with its tables, in sentences.
    pub fn disagreements(&self) -> &[String] {
        &self.listing.disagreements
    }

    /// Whether episodes were looked for in the tables, since metadata disagrees with their footers.
    pub fn is_located(&self) -> bool {
        self.listing.is_located
    }

    /// Episodes that metadata lists and no table holds, with what is missing.
    pub fn left_out(&self) -> &BTreeMap<usize, String> {
        &self.listing.left_out
    }

    /// Its instructions by task index.
    pub fn tasks(&self) -> &Tasks {
        &self.listing.tasks
    }

    /// A column or camera.
    pub fn feature(&self, name: &str) -> Result<&Feature> {
        self.info.features.get(name).ok_or_else(|| {
            let known = self.info.features.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            Error::inconsistent(&self.info_path(), "a feature", format!("one of {known}"), format!("`{name}`"))
        })
    }

    /// The numbers of an episode: the columns of [`OpenOptions::columns`], one row for each frame. A column that cannot be
    /// used is left out with the reason.
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
        self.folder.inside(&self.table_name(episode)?)
    }

    /// The same relative to the folder.
    fn table_name(&self, episode: usize) -> Result<PathBuf> {
        let Episode { index, table, .. } = *self.episode(episode)?;
        if let Some(file) = table.and_then(|table| self.listing.tables.get(table)) {
            return Ok(file.clone());
        }
        let numbers = numbers(index, index / self.info.chunks_size, index);
        fill(&self.info.data_path, &numbers, "", &self.info_path())
    }

    /// The tables and videos of what is needed, relative to the folder.
    #[cfg(feature = "hub")]
    pub(crate) fn files_of(&self, needed: &Needed) -> Result<BTreeSet<PathBuf>> {
        let mut files = BTreeSet::new();
        for &episode in &needed.episodes {
            files.insert(self.table_name(episode)?);
            // A video whose place nobody knows is refused where it is read.
            let videos = needed.cameras.iter().filter(|camera| self.feature(camera).is_ok_and(Feature::is_video));
            files.extend(videos.filter_map(|camera| Some(self.place(episode, camera).ok()?.0)));
        }
        Ok(files)
    }

    /// Where a camera's frames of an episode are.
    ///
    /// # Errors
    /// When the camera does not exist, its frames are not in videos, or nothing says where those of the episode are.
    pub fn clip(&self, episode: usize, camera: &str) -> Result<VideoClip> {
        let (path, clip, frames) = self.place(episode, camera)?;
        let path = self.folder.inside(&path)?;
        let Clip { place, frames_before, frames_in_all } = *clip;
        Ok(VideoClip { path, start: place.start, frames_before, frames_in_all, frames })
    }

    /// Whether the video with a camera's frames of an episode is not there.
    pub(crate) fn lacks_video(&self, episode: usize, camera: &str) -> bool {
        self.place(episode, camera).is_ok_and(|(path, _, _)| !self.root().join(path).exists())
    }

    /// The video of a camera's frames of an episode, relative to the folder, where they are in it, and how many.
    fn place(&self, episode: usize, camera: &str) -> Result<(PathBuf, &Clip, usize)> {
        let mut videos = self.info.features.iter().filter(|(_, feature)| feature.is_video());
        let Some(position) = videos.position(|(name, _)| name == camera) else {
            let expected = format!("a camera with videos, one of {:?}", self.info.cameras().collect::<Vec<_>>());
            return Err(Error::inconsistent(&self.info_path(), "a view", expected, format!("`{camera}`")));
        };
        let episode = self.episode(episode)?;
        let clip = episode.clips[position].as_ref().map_err(|reason| {
            let what = format!("the place of `{camera}` in episode {}", episode.index);
            Error::inconsistent(&self.root().join("meta").join("episodes"), what, "known", reason)
        })?;
        let template = self.info.video_path.as_deref().ok_or_else(|| {
            Error::inconsistent(&self.info_path(), "`video_path`", "there, since there are videos", "nothing")
        })?;
        let numbers = numbers(episode.index, clip.place.file.chunk, clip.place.file.file);
        Ok((fill(template, &numbers, camera, &self.info_path())?, clip, episode.length))
    }

    /// The encoded picture of a camera whose frames stand in the table.
    pub fn picture(&self, episode: usize, frame: usize, camera: &str) -> Result<Vec<u8>> {
        let path = self.table_path(episode)?;
        let row = self.episode(episode)?.first_row + frame;
        let table = self.table_file(&path)?.read(row..row + 1, |name| name == camera)?;
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

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(super) fn options(&self) -> &OpenOptions {
        &self.options
    }

    /// Table files of version 3.
    pub(super) fn tables(&self) -> &[PathBuf] {
        &self.listing.tables
    }

    pub(crate) fn episode(&self, number: usize) -> Result<&Episode> {
        let episodes = &self.listing.episodes;
        if let Ok(place) = episodes.binary_search_by_key(&number, |episode| episode.index) {
            return Ok(&episodes[place]);
        }
        let why = match (self.listing.left_out.get(&number), episodes.first().zip(episodes.last())) {
            (Some(why), _) => why.clone(),
            (None, Some((first, last))) => {
                format!("the dataset has {} episodes from {} to {}", episodes.len(), first.index, last.index)
            }
            (None, None) => "the dataset has no episodes".into(),
        };
        Err(Error::inconsistent(&self.info_path(), format!("episode {number}"), "there", why))
    }

    pub(crate) fn info_path(&self) -> PathBuf {
        self.root().join("meta").join("info.json")
    }

    /// Warns, once, of an episode whose frames have another instruction than those that its metadata lists: which of them was
    /// edited nobody knows, and the frames' counts.
    fn warn_of_tasks(&self, episode: &Episode, table: &Table) {
        let Some(indices) = table.ints("task_index").filter(|_| !episode.tasks.is_empty()) else { return };
        let task = |index: i64| self.tasks().get(&usize::try_from(index).ok()?);
        let unlisted = indices.iter().filter_map(|&index| task(index)).find(|task| !episode.tasks.contains(task));
        if let Some(task) = unlisted.filter(|_| !self.has_warned_of_tasks.swap(true, Ordering::Relaxed)) {
            tracing::warn!(
                "{}: episode {} has frames with the instruction {task:?}, and its metadata lists {:?}: the frames' counts",
                self.root().display(),
                episode.index,
                episode.tasks
            );
        }
    }

    /// An open table file.
    fn table_file(&self, path: &Path) -> Result<Arc<TableFile>> {
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open().get(path) {
            return Ok(file.clone());
        }
        let file = Arc::new(TableFile::open(path)?);
        open().put(path.to_owned(), file.clone());
        Ok(file)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read_table(&self, number: usize) -> Result<Table> {
        const TIME: &str = "timestamp";
        let path = self.table_path(number)?;
        let Episode { length, first_row, .. } = *self.episode(number)?;
        let file = self.table_file(&path)?;
        let is_per_episode = self.info.layout(&path)? == Layout::PerEpisode;
        if is_per_episode && file.rows() != length {
            let what = format!("the number of rows (`evo1 data {} --repair OUT` counts them)", self.root().display());
            return Err(Error::inconsistent(&path, what, length, file.rows()));
        }
        let is_camera = |name: &str| self.info.features.get(name).is_some_and(Feature::is_camera);
        let is_wanted = |name: &str| match &self.options.columns {
            Some(columns) => columns.contains(name) || name == TIME || INDICES.contains(&name),
            None => !is_camera(name),
        };
        let mut table = file.read(first_row..first_row + length, is_wanted)?.for_frames(&INDICES);
        for (name, feature) in self.info.features.iter().filter(|(_, feature)| !feature.is_camera()) {
            if let Some(width) = feature.width() {
                table.check_width(name, width);
            }
        }
        self.warn_of_tasks(self.episode(number)?, &table);
        let check = |name: &str, expected: &dyn Fn(usize) -> i64| -> Result<()> {
            let Some(values) = table.ints(name) else {
                return Err(Error::format(&path, "parquet", table.without(name, "whole numbers")));
            };
            let wrong = values.iter().enumerate().find(|&(row, &value)| value != expected(row));
            wrong.map_or(Ok(()), |(row, &value)| {
                let what = format!("`{name}` of episode {number}, row {row}");
                Err(Error::inconsistent(&path, what, expected(row), value))
            })
        };
        check("frame_index", &|row| row as i64)?;
        check("episode_index", &|_| number as i64)?;
        let first = table.ints("index").and_then(|values| values.first().copied()).unwrap_or_default();
        check("index", &|row| first.saturating_add(row as i64))?;
        let fps = self.info.fps;
        let Some(tolerance) = self.options.time.tolerance(fps) else { return Ok(table) };
        if table.column(TIME).is_none() {
            return match table.reason(TIME) {
                Some(reason) => Err(Error::format(&path, "parquet", reason)),
                None => Ok(table),
            };
        }
        for row in 0..length {
            let time = match table.vector(TIME, row).map_err(|reason| Error::format(&path, "parquet", reason))? {
                &[time] => f64::from(time),
                several => {
                    let got = format!("{} values", several.len());
                    return Err(Error::inconsistent(&path, format!("`{TIME}` in a row"), "one number", got));
                }
            };
            let expected = row as f64 / fps;
            // Not so for NaN, too.
            let is_on_time = (time - expected).abs() <= tolerance;
            if !is_on_time {
                let what = format!("`{TIME}` of episode {number}, row {row}, at {fps} frames per second");
                let got = format!("{time:.4} s (`time` of the dataset's configuration allows more, or goes by frame)");
                return Err(Error::inconsistent(&path, what, format!("{expected:.4} s"), got));
            }
        }
        Ok(table)
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
