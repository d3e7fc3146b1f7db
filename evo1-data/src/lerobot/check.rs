//! What is wrong with a dataset, by kind.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    num::NonZeroUsize,
};

use evo1_core::files::read_text;
use serde_json::Value;

use super::{Column, Dataset, Table, info::Layout};
use crate::{Error, VideoPool};

/// Columns whose values follow from their place.
const PLACES: [&str; 5] = ["timestamp", "frame_index", "episode_index", "index", "task_index"];

/// By how much of its range a number may miss what `meta/stats.json` says, which writers round.
const STATISTICS_TOLERANCE: f64 = 1e-3;

/// Something that is wrong with a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Of which kind it is.
    pub kind: ProblemKind,
    /// The episode, if it is one's.
    pub episode: Option<usize>,
    /// What it is.
    pub message: String,
}

/// What may be wrong with a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// Metadata disagrees with the tables.
    Metadata,
    /// A table cannot be read, or its rows are numbered otherwise.
    Table,
    /// Time stamps do not go at the dataset's frame rate.
    Time,
    /// A video is missing, cannot be decoded, has other frames than its episodes, or an episode starts elsewhere in it.
    Video,
    /// Numbers are not finite.
    Values,
    /// Two episodes have the same numbers.
    Duplicate,
    /// `meta/stats.json` says others than the tables.
    Statistics,
}

impl ProblemKind {
    /// What can be done about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Metadata => {
                "the tables count here; `evo1 data DIR --repair OUT` makes a copy that agrees, for other programs too"
            }
            Self::Table => "`on_error: skip` leaves these episodes out, `episodes` chooses others",
            Self::Time => "`time: by_frame` goes by the frames' numbers, `time: {tolerance_s: …}` allows more",
            Self::Video => {
                "`on_error: skip` leaves out what cannot be read, `missing_video: absent` takes a missing video as an absent view, \
                 `--repair` and `time: by_frame` count frames instead of times"
            }
            Self::Values => "`on_error: skip` leaves out the windows that hold them",
            Self::Duplicate => "`episodes` chooses among them, if they are not meant to count twice",
            Self::Statistics => "`evo1 stats` and `evo1 train` make their own; other programs use what stands there",
        }
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metadata => "metadata",
            Self::Table => "tables",
            Self::Time => "time stamps",
            Self::Video => "videos",
            Self::Values => "values",
            Self::Duplicate => "duplicates",
            Self::Statistics => "statistics",
        })
    }
}

/// Smallest, largest and sum of a column's dimensions, and its rows.
#[derive(Debug, Default)]
struct Summary {
    dimensions: Vec<[f64; 3]>,
    rows: usize,
}

impl Summary {
    fn add(&mut self, width: usize, values: &[f32]) {
        self.dimensions.resize(width, [f64::INFINITY, f64::NEG_INFINITY, 0.0]);
        for row in values.chunks_exact(width) {
            self.rows += 1;
            for ([least, most, sum], &value) in self.dimensions.iter_mut().zip(row) {
                let value = f64::from(value);
                (*least, *most, *sum) = (least.min(value), most.max(value), *sum + value);
            }
        }
    }

    /// The first dimension whose smallest, largest or mean value is another one than said.
    fn differs(&self, said: &Value) -> Option<String> {
        for (dimension, &[least, most, sum]) in self.dimensions.iter().enumerate() {
            for (name, found) in [("min", least), ("max", most), ("mean", sum / self.rows as f64)] {
                let Some(said) = said[name].as_array().filter(|said| said.len() == self.dimensions.len()) else {
                    continue;
                };
                let Some(said) = said[dimension].as_f64() else { continue };
                let is_same = (said - found).abs() <= STATISTICS_TOLERANCE * (most - least).abs().max(1e-3);
                if !is_same {
                    return Some(format!("`{name}` of dimension {dimension} must be {found}, got {said}"));
                }
            }
        }
        None
    }
}

impl Dataset {
    /// What is wrong with the dataset: all tables are read, with the columns of [`crate::OpenOptions::columns`], and the indices of
    /// all videos, whose frames must be in time to half a frame and as many as their episodes'. None is decoded. `progress` is
    /// told how many episodes of how many are done.
    pub fn check(&self, mut progress: impl FnMut(usize, usize)) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        let mut note = |kind, episode, message: String| problems.push(Problem { kind, episode, message });
        self.disagreements().iter().for_each(|what| note(ProblemKind::Metadata, None, what.clone()));
        let videos = VideoPool::new(NonZeroUsize::new(self.info().features.len()).unwrap_or(NonZeroUsize::MIN));
        let (fps, total) = (self.info().fps, self.episodes().len());
        let is_per_episode = self.info().layout(&self.info_path()).is_ok_and(|layout| layout == Layout::PerEpisode);
        let mut summaries: BTreeMap<String, Summary> = BTreeMap::new();
        let mut known: HashMap<u64, usize> = HashMap::new();
        for (done, episode) in self.episodes().iter().enumerate() {
            let number = episode.index;
            match self.read_table(number) {
                Ok(table) => {
                    let values = numbers(&table);
                    if let Some((name, row)) = values.iter().find_map(|(name, values)| not_finite(name, values)) {
                        note(ProblemKind::Values, Some(number), format!("column `{name}` is not finite in row {row}"));
                    }
                    if let Some(first) = fingerprint(&values).and_then(|print| same(&mut known, print, number)) {
                        note(
                            ProblemKind::Duplicate,
                            Some(number),
                            format!("it has the same numbers as episode {first}"),
                        );
                    }
                    for (name, (width, values)) in values {
                        summaries.entry(name.to_owned()).or_default().add(width, values);
                    }
                }
                Err(error) => note(kind_of_table(&error), Some(number), error.to_string()),
            }
            for (camera, _) in self.info().features.iter().filter(|(_, feature)| feature.is_video()) {
                let found = self.clip(number, camera).and_then(|mut clip| {
                    if is_per_episode {
                        clip.frames_in_all = Some(clip.frames);
                    }
                    videos.with(&clip.path, |video| video.check(&clip, 0.5 / fps, fps))
                });
                if let Err(error) = found {
                    note(ProblemKind::Video, Some(number), error.to_string());
                }
            }
            progress(done + 1, total);
        }
        for what in self.wrong_statistics(&summaries) {
            note(ProblemKind::Statistics, None, what);
        }
        problems.sort_by_key(|problem| (problem.kind, problem.episode));
        problems
    }

    /// Where `meta/stats.json`, if there is one, says others than the tables.
    fn wrong_statistics(&self, found: &BTreeMap<String, Summary>) -> Vec<String> {
        let path = self.root().join("meta").join("stats.json");
        if !path.exists() {
            return Vec::new();
        }
        let said = read_text(&path).map_err(|error| error.to_string());
        let said = said.and_then(|text| serde_json::from_str::<Value>(&text).map_err(|error| error.to_string()));
        match said {
            Ok(said) => {
                let wrong = found.iter().filter_map(|(name, summary)| Some((name, summary.differs(&said[name])?)));
                wrong.map(|(name, what)| format!("{}: `{name}`: {what}", path.display())).collect()
            }
            Err(error) => vec![format!("{}: {error}", path.display())],
        }
    }
}

/// The columns of numbers that do not follow from their place: width and values.
fn numbers(table: &Table) -> Vec<(&str, (usize, &[f32]))> {
    let columns = table.names().filter(|name| !PLACES.contains(name));
    let floats = columns.filter_map(|name| match table.column(name) {
        Some(Column::Floats { width, values }) if *width > 0 => Some((name, (*width, &values[..]))),
        _ => None,
    });
    floats.collect()
}

fn not_finite<'a>(name: &'a str, (width, values): &(usize, &[f32])) -> Option<(&'a str, usize)> {
    let at = values.iter().position(|value| !value.is_finite())?;
    Some((name, at / width))
}

/// What two episodes with the same numbers have in common; nothing without numbers.
fn fingerprint(values: &[(&str, (usize, &[f32]))]) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    for (name, (width, values)) in values {
        (name, width, values.len()).hash(&mut hasher);
        values.iter().for_each(|value| value.to_bits().hash(&mut hasher));
    }
    (!values.is_empty()).then(|| hasher.finish())
}

/// The first episode with a fingerprint, if it is another one.
fn same(known: &mut HashMap<u64, usize>, print: u64, episode: usize) -> Option<usize> {
    let first = *known.entry(print).or_insert(episode);
    (first != episode).then_some(first)
}

fn kind_of_table(error: &Error) -> ProblemKind {
    match error {
        Error::Inconsistent { what, .. } if what.starts_with("`timestamp`") => ProblemKind::Time,
        _ => ProblemKind::Table,
    }
}
