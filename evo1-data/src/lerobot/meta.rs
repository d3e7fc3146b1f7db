//! Episodes and tasks, from JSON lines (versions 2) or parquet (version 3).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Column, Table,
    info::{Info, Layout},
    table::TableFile,
};
use crate::{Error, Result};

/// Instructions by task index.
pub type Tasks = BTreeMap<usize, String>;

/// One recorded run of the robot.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// Its number in the dataset.
    pub index: usize,
    /// Frames.
    pub length: usize,
    /// Instructions that occur in it.
    pub tasks: Vec<String>,
    /// Number of its first frame in the dataset.
    pub first_frame: usize,
    /// Which table file it is in.
    pub(super) data: FileNumber,
    /// Row of the table file at which it begins.
    pub(super) first_row: usize,
    /// For each video the file, and the time in it at which the episode begins; in the order of [`Info::cameras`].
    pub(super) videos: Vec<(FileNumber, f64)>,
}

/// Which of the numbered files of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileNumber {
    pub(super) chunk: usize,
    pub(super) file: usize,
}

/// Reads `meta/` below the dataset's folder.
pub(super) fn read(root: &Path, info: &Info, layout: Layout) -> Result<(Vec<Episode>, Tasks)> {
    let meta = root.join("meta");
    let (mut episodes, tasks) = match layout {
        Layout::PerEpisode => (episode_lines(&meta, info)?, task_lines(&meta)?),
        Layout::Shared => (episode_tables(&meta, info)?, task_table(&meta)?),
    };
    let path = meta.join("info.json");
    if tasks.is_empty() {
        return Err(Error::inconsistent(&path, "the number of tasks", "at least 1", 0));
    }
    if episodes.len() != info.total_episodes {
        return Err(Error::inconsistent(&path, "`total_episodes`", episodes.len(), info.total_episodes));
    }
    episodes.sort_by_key(|episode| episode.index);
    let mut first = 0;
    for (position, episode) in episodes.iter_mut().enumerate() {
        if episode.index != position {
            let what = format!("episode {position} of the list of episodes");
            return Err(Error::inconsistent(
                &path,
                what,
                "there: numbers have no holes",
                format!("number {}", episode.index),
            ));
        }
        if layout == Layout::PerEpisode {
            episode.first_frame = first;
        } else if episode.first_frame != first {
            let what = format!("`dataset_from_index` of episode {position}");
            return Err(Error::inconsistent(&path, what, first, episode.first_frame));
        }
        first += episode.length;
    }
    if first != info.total_frames {
        return Err(Error::inconsistent(&path, "`total_frames`", first, info.total_frames));
    }
    if layout == Layout::Shared {
        // Rows of a file count from its first episode.
        let mut starts = BTreeMap::new();
        for episode in &mut episodes {
            let start = *starts.entry(episode.data).or_insert(episode.first_frame);
            episode.first_row = episode.first_frame - start;
        }
    }
    Ok((episodes, tasks))
}

#[derive(Deserialize)]
struct EpisodeLine {
    episode_index: usize,
    length: usize,
    #[serde(default)]
    tasks: Vec<String>,
}

#[derive(Deserialize)]
struct TaskLine {
    task_index: usize,
    task: String,
}

fn episode_lines(meta: &Path, info: &Info) -> Result<Vec<Episode>> {
    let cameras = info.features.values().filter(|feature| feature.is_video()).count();
    Ok(lines::<EpisodeLine>(&meta.join("episodes.jsonl"))?
        .into_iter()
        .map(|EpisodeLine { episode_index: index, length, tasks }| {
            let data = FileNumber { chunk: index / info.chunks_size, file: index };
            Episode { index, length, tasks, first_frame: 0, data, first_row: 0, videos: vec![(data, 0.0); cameras] }
        })
        .collect())
}

fn task_lines(meta: &Path) -> Result<Tasks> {
    Ok(lines::<TaskLine>(&meta.join("tasks.jsonl"))?.into_iter().map(|line| (line.task_index, line.task)).collect())
}

fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(path).map_err(|reason| Error::io("read", path, reason))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            serde_json::from_str(line)
                .map_err(|error| Error::format(path, "JSON lines", format!("line {}: {error}", number + 1)))
        })
        .collect()
}

fn episode_tables(meta: &Path, info: &Info) -> Result<Vec<Episode>> {
    let mut episodes = Vec::new();
    let videos: Vec<&str> =
        info.features.iter().filter(|(_, feature)| feature.is_video()).map(|(name, _)| name.as_str()).collect();
    for path in parquet_files(&meta.join("episodes"))? {
        let file = TableFile::open(&path)?;
        // Statistics of every episode stand beside what is needed here.
        let table = file.read(0..file.rows(), |name| !name.starts_with("stats/"))?;
        let numbers = |name: &str| counts(&path, &table, name);
        let (index, length, first) = (numbers("episode_index")?, numbers("length")?, numbers("dataset_from_index")?);
        let (chunk, number) = (numbers("data/chunk_index")?, numbers("data/file_index")?);
        let tasks = match table.column("tasks") {
            Some(Column::TextLists(tasks)) => tasks.clone(),
            _ => return Err(missing(&path, "tasks")),
        };
        let mut clips = vec![Vec::new(); table.rows()];
        for video in &videos {
            let chunk = numbers(&format!("videos/{video}/chunk_index"))?;
            let number = numbers(&format!("videos/{video}/file_index"))?;
            let name = format!("videos/{video}/from_timestamp");
            let start = table.doubles(&name).ok_or_else(|| missing(&path, &name))?;
            for (row, clips) in clips.iter_mut().enumerate() {
                clips.push((FileNumber { chunk: chunk[row], file: number[row] }, start[row]));
            }
        }
        for (row, (videos, tasks)) in clips.into_iter().zip(tasks).enumerate() {
            episodes.push(Episode {
                index: index[row],
                length: length[row],
                tasks,
                first_frame: first[row],
                data: FileNumber { chunk: chunk[row], file: number[row] },
                first_row: 0,
                videos,
            });
        }
    }
    Ok(episodes)
}

fn task_table(meta: &Path) -> Result<Tasks> {
    let path = meta.join("tasks.parquet");
    let file = TableFile::open(&path)?;
    let table = file.read(0..file.rows(), |_| true)?;
    let numbers = counts(&path, &table, "task_index")?;
    // The instruction is the table's index, which writers name differently.
    let names = table.names().find_map(|name| match table.column(name) {
        Some(Column::Text(names)) => Some(names.clone()),
        _ => None,
    });
    Ok(numbers.into_iter().zip(names.ok_or_else(|| missing(&path, "task"))?).collect())
}

fn missing(path: &Path, column: &str) -> Error {
    Error::format(path, "parquet", format!("column `{column}` is missing"))
}

/// A column of whole numbers that are not negative.
fn counts(path: &Path, table: &Table, name: &str) -> Result<Vec<usize>> {
    let values = table.ints(name).ok_or_else(|| missing(path, name))?;
    values
        .iter()
        .map(|&value| usize::try_from(value).map_err(|_| Error::inconsistent(path, name, "at least 0", value)))
        .collect()
}

/// All parquet files below a folder, two levels deep, in the order of their names.
fn parquet_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = |folder: &Path| -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(folder).map_err(|reason| Error::io("read", folder, reason))?;
        let mut paths = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|reason| Error::io("read", folder, reason))?;
        paths.sort();
        Ok(paths)
    };
    let mut files = Vec::new();
    for chunk in list(folder)? {
        if chunk.is_dir() {
            files.extend(list(&chunk)?);
        } else {
            files.push(chunk);
        }
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    Ok(files)
}
