//! Episodes and tasks, from JSON lines (versions 2) or parquet (version 3), and where in the tables episodes really are.
//!
//! What metadata says of tables is compared with what their footers say. Where the two disagree, the tables are read and
//! believed, and what was wrong is kept to be told.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::{Path, PathBuf},
};

use evo1_core::files::read_text;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Column, OpenOptions, Table,
    folder::Folder,
    info::{FileNumber, Info, Layout, fill, numbers},
    table::{MOST_EXACT, TableFile},
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
    /// Which table file it is in, of those of the dataset; without it the one of its number.
    pub(super) table: Option<usize>,
    /// Row of the table file at which it begins.
    pub(super) first_row: usize,
    /// Where its frames are, for each video in the order of [`Info::cameras`]; the reason where nothing says it.
    pub(super) clips: Vec<Result<Clip, String>>,
}

/// Which video an episode's frames are in, and where.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    pub(super) file: FileNumber,
    /// Seconds into the video.
    pub(super) start: f64,
}

/// Where an episode's frames are in a video.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Clip {
    pub(super) place: Place,
    /// Frames of the episodes before it in the same video, where all of them are known.
    pub(super) frames_before: Option<usize>,
    /// Frames of all episodes in the same video, where all of them are known and there may be several.
    pub(super) frames_in_all: Option<usize>,
}

/// What `meta/` and the tables say.
#[derive(Debug)]
pub(super) struct Listing {
    /// By their numbers, which may have holes.
    pub(super) episodes: Vec<Episode>,
    pub(super) tasks: Tasks,
    /// Table files of version 3, relative to the dataset's folder.
    pub(super) tables: Vec<PathBuf>,
    /// Episodes that metadata lists and no table holds, with what is missing.
    pub(super) left_out: BTreeMap<usize, String>,
    /// Whether episodes were looked for in the tables themselves.
    pub(super) is_located: bool,
    /// Where metadata disagrees with the tables.
    pub(super) disagreements: Vec<String>,
}

/// Reads `meta/` below the dataset's folder, and compares it with the tables.
pub(super) fn read(folder: &Folder, info: &Info, layout: Layout, options: &OpenOptions) -> Result<Listing> {
    let meta = folder.path.join("meta");
    let path = meta.join("info.json");
    let mut listing = match layout {
        Layout::PerEpisode => per_episode(folder, &meta, info, options)?,
        Layout::Shared => shared(folder, &meta, info, options)?,
    };
    let (episodes, frames) = (listing.episodes.len(), listing.episodes.iter().map(|episode| episode.length).sum());
    for (what, said, found) in
        [("total_episodes", info.total_episodes, episodes), ("total_frames", info.total_frames, frames)]
    {
        if said != found {
            listing.disagreements.push(format!("`{what}` of {} is {said}, but there are {found}", path.display()));
        }
    }
    if !listing.left_out.is_empty() {
        let some: Vec<_> = listing.left_out.iter().take(3).map(|(episode, why)| format!("{episode} ({why})")).collect();
        let count = listing.left_out.len();
        listing.disagreements.push(format!("{count} listed episodes are left out, first {}", some.join(", ")));
    }
    Ok(listing)
}

/// Tables of versions 2 that are looked at when a dataset is opened; of more only where its metadata contradicts itself.
const MOST_LOOKED_AT: usize = 2000;

/// Versions 2: a table and a video of each camera for each episode.
fn per_episode(folder: &Folder, meta: &Path, info: &Info, options: &OpenOptions) -> Result<Listing> {
    let info_path = meta.join("info.json");
    let tasks = lines::<TaskLine>(&meta.join("tasks.jsonl"))?;
    let tasks = tasks.into_iter().map(|line| (line.task_index, line.task)).collect();
    let name = |index: usize| fill(&info.data_path, &numbers(index, index / info.chunks_size, index), "", &info_path);
    let present: BTreeSet<PathBuf> = folder.tables(&info.data_path).into_iter().collect();
    let (mut disagreements, mut left_out) = (Vec::new(), BTreeMap::new());
    let list = meta.join("episodes.jsonl");
    let mut lines = match list.exists() {
        true => lines::<EpisodeLine>(&list)?,
        false => {
            let lines = lines_of_tables(folder, &present, name)?;
            if lines.is_empty() {
                let reason = std::io::Error::from(std::io::ErrorKind::NotFound);
                return Err(Error::io("read", &list, reason));
            }
            disagreements.push(format!("{} is missing; the episodes are those of the tables", list.display()));
            lines
        }
    };
    lines.sort_by_key(|line| line.episode_index);
    let mut listed = Vec::with_capacity(lines.len());
    for line in lines {
        let path = name(line.episode_index)?;
        if !present.contains(&path) {
            left_out.insert(line.episode_index, format!("{} is not there", path.display()));
        }
        listed.push(line);
    }
    // With no table at all there is nothing to go by: whoever asks for one is told.
    if left_out.len() == listed.len() || options.may_lack_tables {
        left_out.clear();
    }
    listed.retain(|line| !left_out.contains_key(&line.episode_index));
    let total: usize = listed.iter().map(|line| line.length).sum();
    let contradicts_itself = (info.total_episodes, info.total_frames) != (listed.len(), total);
    if contradicts_itself || listed.len() <= MOST_LOOKED_AT {
        disagreements.extend(take_lengths(folder, &mut listed, name)?);
    }
    let tables = listed.iter().map(|line| name(line.episode_index)).collect::<Result<BTreeSet<_>>>()?;
    let unlisted = present.difference(&tables).count();
    if unlisted > 0 {
        disagreements.push(format!(
            "{unlisted} tables are of episodes that meta/episodes.jsonl does not list, and are not used"
        ));
    }
    let cameras = info.features.values().filter(|feature| feature.is_video()).count();
    let mut first = 0;
    let mut episodes: Vec<Episode> = Vec::with_capacity(listed.len());
    for EpisodeLine { episode_index: index, length, tasks } in listed {
        if episodes.last().is_some_and(|last| last.index == index) {
            return Err(Error::inconsistent(&list, format!("episode {index}"), "listed once", "twice"));
        }
        let clip = Clip {
            place: Place { file: FileNumber { chunk: index / info.chunks_size, file: index }, start: 0.0 },
            frames_before: Some(0),
            frames_in_all: None,
        };
        let clips = vec![Ok(clip); cameras];
        episodes.push(Episode { index, length, tasks, first_frame: first, table: None, first_row: 0, clips });
        first += length;
    }
    Ok(Listing { episodes, tasks, tables: Vec::new(), left_out, is_located: false, disagreements })
}

/// Gives the episodes of a list the lengths of their tables. Returns what was wrong.
fn take_lengths(
    folder: &Folder,
    lines: &mut [EpisodeLine],
    name: impl Fn(usize) -> Result<PathBuf>,
) -> Result<Option<String>> {
    let paths = lines.iter().map(|line| name(line.episode_index)).collect::<Result<Vec<_>>>()?;
    // What cannot be read is refused where its rows are needed.
    let lengths = in_parallel(&paths, |path| TableFile::count_rows(&folder.inside(path).ok()?).ok());
    let mut wrong = 0;
    for (line, length) in lines.iter_mut().zip(lengths) {
        let length = length.unwrap_or(line.length);
        wrong += usize::from(line.length != length);
        line.length = length;
    }
    Ok((wrong > 0).then(|| wrong_lengths(wrong, lines.len())))
}

/// What to say of lengths that are not those of the tables.
pub(super) fn wrong_lengths(wrong: usize, of: usize) -> String {
    format!("meta/episodes.jsonl names another `length` for {wrong} of {of} episodes")
}

/// What a function gives for each of some things, on a few threads: files are waited for.
pub(super) fn in_parallel<T: Sync, R: Send>(things: &[T], of: impl Fn(&T) -> R + Sync) -> Vec<R> {
    const THREADS: usize = 4;
    let part = things.len().div_ceil(THREADS).max(1);
    std::thread::scope(|scope| {
        let of = &of;
        let parts: Vec<_> =
            things.chunks(part).map(|part| scope.spawn(move || part.iter().map(of).collect::<Vec<R>>())).collect();
        parts
            .into_iter()
            .flat_map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// The episodes that tables hold, where no list names them.
fn lines_of_tables(
    folder: &Folder,
    present: &BTreeSet<PathBuf>,
    name: impl Fn(usize) -> Result<PathBuf>,
) -> Result<Vec<EpisodeLine>> {
    let mut lines = Vec::new();
    for relative in present {
        let path = folder.inside(relative)?;
        let file = TableFile::open(&path)?;
        let table = file.read(0..file.rows().min(1), |name| name == EPISODE)?;
        let number = counts(&path, &table, EPISODE)?.first().copied();
        if let Some(index) = number.filter(|&index| name(index).is_ok_and(|expected| expected == *relative)) {
            lines.push(EpisodeLine { episode_index: index, length: file.rows(), tasks: Vec::new() });
        }
    }
    Ok(lines)
}

/// Version 3: many episodes in a file.
fn shared(folder: &Folder, meta: &Path, info: &Info, options: &OpenOptions) -> Result<Listing> {
    let info_path = meta.join("info.json");
    let mut disagreements = Vec::new();
    let mut claims = Vec::new();
    for path in parquet_files(&meta.join("episodes"))? {
        match claims_of(&path, info) {
            Ok(found) => claims.extend(found),
            Err(error) if options.skip_unreadable => disagreements.push(format!("episodes are left out: {error}")),
            Err(error) => return Err(error),
        }
    }
    claims.sort_by_key(|(episode, _)| episode.index);
    if let Some(pair) = claims.windows(2).find(|pair| pair[0].0.index == pair[1].0.index) {
        let what = format!("episode {}", pair[0].0.index);
        return Err(Error::inconsistent(&meta.join("episodes"), what, "listed once", "twice"));
    }
    let tasks = task_table(meta)?;
    let mut tables = Tables::look(folder, &info.data_path);
    for (episode, claimed) in &mut claims {
        let Some(claimed) = claimed else { continue };
        let path = fill(&info.data_path, &numbers(episode.index, claimed.chunk, claimed.file), "", &info_path)?;
        episode.table = Some(tables.number(path));
    }
    let mut episodes: Vec<Episode> = claims.into_iter().map(|(episode, _)| episode).collect();
    let mut left_out = BTreeMap::new();
    let is_located = !tables.agree_with(&mut episodes, options.may_lack_tables);
    if is_located {
        let (moved, found) = tables.locate(folder, episodes, options.may_lack_tables, &mut left_out)?;
        episodes = found;
        disagreements.extend(moved);
    }
    count_frames_before(&mut episodes);
    let tables = tables.files.into_iter().map(|file| file.path).collect();
    Ok(Listing { episodes, tasks, tables, left_out, is_located, disagreements })
}

/// The column that says which episode a row belongs to.
pub(super) const EPISODE: &str = "episode_index";

/// The column that says which row of a dataset an episode begins at.
pub(super) const FIRST: &str = "dataset_from_index";

/// The column that numbers the rows of a dataset.
const INDEX: &str = "index";

/// The table files of a dataset of version 3.
#[derive(Debug)]
struct Tables {
    files: Vec<TableSummary>,
    numbers: BTreeMap<PathBuf, usize>,
}

/// What a table's footer says.
#[derive(Debug)]
struct TableSummary {
    path: PathBuf,
    /// Nothing where the file is not there or not readable.
    rows: Option<usize>,
    episodes: Option<(f64, f64)>,
    indices: Option<(f64, f64)>,
}

/// Consecutive rows of an episode in a table.
#[derive(Debug, Clone, Copy)]
struct Rows {
    table: usize,
    first: usize,
    count: usize,
    /// Number of the first row in the dataset.
    index: usize,
}

impl Tables {
    /// Reads the footers of all table files.
    fn look(folder: &Folder, template: &str) -> Self {
        let mut tables = Self { files: Vec::new(), numbers: BTreeMap::new() };
        for path in folder.tables(template) {
            let number = tables.number(path.clone());
            // What cannot be read is refused where its rows are needed.
            let Ok(whole) = folder.inside(&path) else { continue };
            if let Ok(file) = TableFile::open(&whole) {
                let (episodes, indices) = (file.range(EPISODE), file.range(INDEX));
                tables.files[number] = TableSummary { path, rows: Some(file.rows()), episodes, indices };
            }
        }
        tables
    }

    /// The number of a file, also of one that is not there.
    fn number(&mut self, path: PathBuf) -> usize {
        match self.numbers.entry(path) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                let path = place.key().clone();
                self.files.push(TableSummary { path, rows: None, episodes: None, indices: None });
                *place.insert(self.files.len() - 1)
            }
        }
    }

    /// Whether the footers say what metadata says; then the episodes are given their first rows. With no footer at all
    /// there is nothing to go by: whoever asks for a table is told.
    fn agree_with(&self, episodes: &mut [Episode], may_lack: bool) -> bool {
        if self.files.iter().all(|file| file.rows.is_none()) {
            return true;
        }
        let mut filled = vec![0; self.files.len()];
        let (mut first, mut next) = (0, 0);
        while next < episodes.len() {
            let Some(number) = episodes[next].table else { return false };
            let is_elsewhere = may_lack && self.files[number].rows.is_none();
            if is_elsewhere || may_lack && next == 0 {
                // Tables that are not there may stand before this one, too.
                first = episodes[next].first_frame;
            }
            let (start, first_index) = (next, first);
            if filled[number] > 0 {
                return false;
            }
            while next < episodes.len() && episodes[next].table == Some(number) {
                let episode = &mut episodes[next];
                if episode.first_frame != first {
                    return false;
                }
                episode.first_row = filled[number];
                filled[number] += episode.length;
                first += episode.length;
                next += 1;
            }
            let range = |least: usize, end: usize| (least as f64, end as f64 - 1.0);
            let file = &self.files[number];
            let agrees = is_elsewhere
                || file.rows == Some(filled[number])
                    && file.episodes == Some((episodes[start].index as f64, episodes[next - 1].index as f64))
                    && file.indices == Some(range(first_index, first));
            if !agrees {
                return false;
            }
        }
        self.files.iter().zip(filled).all(|(file, rows)| file.rows.is_none_or(|found| found == rows))
    }

    /// Looks for the rows of the episodes in the tables themselves. Gives what was found to be wrong, and the episodes that
    /// there are.
    fn locate(
        &self,
        folder: &Folder,
        episodes: Vec<Episode>,
        may_lack: bool,
        left_out: &mut BTreeMap<usize, String>,
    ) -> Result<(Vec<String>, Vec<Episode>)> {
        let mut places: BTreeMap<usize, Vec<Rows>> = BTreeMap::new();
        let mut unreadable = BTreeSet::new();
        for (number, file) in self.files.iter().enumerate() {
            match file.rows.map(|rows| self.rows_of(folder, number, rows)) {
                Some(Ok(rows)) => {
                    rows.into_iter().for_each(|(episode, rows)| places.entry(episode).or_default().push(rows));
                }
                Some(Err(_)) => _ = unreadable.insert(number),
                None if folder.path.join(&file.path).exists() => _ = unreadable.insert(number),
                None => {}
            }
        }
        let (mut moved, mut lengths) = (0, 0);
        let mut found = Vec::with_capacity(episodes.len());
        for mut episode in episodes {
            let claimed = episode.table;
            let rows = places.remove(&episode.index).unwrap_or_default();
            let own: Vec<Rows> = rows.iter().filter(|rows| Some(rows.table) == claimed).copied().collect();
            let place = match (&rows[..], &own[..]) {
                ([place], _) | (_, [place]) => *place,
                ([], _)
                    if claimed.is_some_and(|table| {
                        unreadable.contains(&table) || may_lack && self.files[table].rows.is_none()
                    }) =>
                {
                    // Whoever asks for its table is told what is wrong with it.
                    found.push(episode);
                    continue;
                }
                ([], _) => {
                    let reason = match claimed {
                        Some(table) => {
                            format!("neither {} nor another table has rows of it", self.files[table].path.display())
                        }
                        None => "no table has rows of it".into(),
                    };
                    left_out.insert(episode.index, reason);
                    continue;
                }
                (several, _) => {
                    let tables: Vec<_> =
                        several.iter().map(|rows| self.files[rows.table].path.display().to_string()).collect();
                    left_out.insert(episode.index, format!("its rows are not together: {}", tables.join(", ")));
                    continue;
                }
            };
            lengths += usize::from(place.count != episode.length);
            moved += usize::from(Some(place.table) != claimed || place.index != episode.first_frame);
            episode.table = Some(place.table);
            (episode.first_row, episode.length, episode.first_frame) = (place.first, place.count, place.index);
            found.push(episode);
        }
        let mut wrong = Vec::new();
        for (count, what) in [
            (
                moved,
                "other files or rows than the tables (`data/chunk_index`, `data/file_index`, `dataset_from_index`)",
            ),
            (lengths, "another `length`"),
        ] {
            if count > 0 {
                wrong.push(format!("meta/episodes names {what} for {count} of {} episodes", found.len()));
            }
        }
        if !places.is_empty() {
            wrong.push(format!("the tables hold {} episodes that meta/episodes does not list", places.len()));
        }
        Ok((wrong, found))
    }

    /// The episodes of a table, each as long as it goes on.
    fn rows_of(&self, folder: &Folder, table: usize, rows: usize) -> Result<Vec<(usize, Rows)>> {
        let path = folder.inside(&self.files[table].path)?;
        let read = TableFile::open(&path)?.read(0..rows, |name| [EPISODE, INDEX].contains(&name))?;
        let (episodes, indices) = (counts(&path, &read, EPISODE)?, counts(&path, &read, INDEX)?);
        let mut found: Vec<(usize, Rows)> = Vec::new();
        for (row, (&episode, &index)) in episodes.iter().zip(&indices).enumerate() {
            match found.last_mut() {
                Some((last, rows)) if *last == episode => rows.count += 1,
                _ => found.push((episode, Rows { table, first: row, count: 1, index })),
            }
        }
        Ok(found)
    }
}

/// For each clip the frames before it in its video and those in all: those of the episodes whose frames stand there, as long as none is
/// missing between them.
fn count_frames_before(episodes: &mut [Episode]) {
    let cameras = episodes.first().map_or(0, |episode| episode.clips.len());
    for camera in 0..cameras {
        let mut frames: BTreeMap<FileNumber, Option<usize>> = BTreeMap::new();
        // The number after that of the last episode whose place in the videos is known.
        let mut next = 0;
        for episode in episodes.iter_mut() {
            let is_next = episode.index == next;
            let Ok(clip) = &mut episode.clips[camera] else { continue };
            let before = frames.entry(clip.place.file).or_insert(Some(0));
            if !is_next {
                *before = None;
            }
            clip.frames_before = *before;
            *before = before.map(|before| before + episode.length);
            next = episode.index + 1;
        }
        for clip in episodes.iter_mut().filter_map(|episode| episode.clips[camera].as_mut().ok()) {
            clip.frames_in_all = frames.get(&clip.place.file).copied().flatten();
        }
    }
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

pub(super) fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = read_text(path)?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            serde_json::from_str(line)
                .map_err(|error| Error::format(path, "JSON lines", format!("line {}: {error}", number + 1)))
        })
        .collect()
}

/// The episodes that a file of metadata lists, and the table files that it names. Where it names none, or no length or first
/// row, the tables say it.
fn claims_of(path: &Path, info: &Info) -> Result<Vec<(Episode, Option<FileNumber>)>> {
    const NUMBERS: [&str; 5] = [EPISODE, "length", FIRST, "data/chunk_index", "data/file_index"];
    let file = TableFile::open(path)?;
    // Statistics of every episode stand beside what is needed here.
    let is_needed = |name: &str| name == "tasks" || NUMBERS.contains(&name) || name.starts_with("videos/");
    let table = file.read(0..file.rows(), is_needed)?;
    let index = counts(path, &table, EPISODE)?;
    let said = |name: &str| -> Result<Vec<Option<usize>>> {
        Ok(each_whole(&file, &table, name)?.into_iter().map(Result::ok).collect())
    };
    let (length, first) = (said("length")?, said(FIRST)?);
    let (chunk, number) = (said("data/chunk_index")?, said("data/file_index")?);
    let mut clips = vec![Vec::new(); table.rows()];
    for (video, _) in info.features.iter().filter(|(_, feature)| feature.is_video()) {
        let places = places(&file, &table, video)?;
        for (clips, place) in clips.iter_mut().zip(places) {
            clips.push(place.map(|place| Clip { place, frames_before: None, frames_in_all: None }));
        }
    }
    let mut claims = Vec::with_capacity(table.rows());
    for (row, clips) in clips.into_iter().enumerate() {
        let tasks = match table.column("tasks") {
            Some(Column::TextLists(tasks)) => tasks[row].clone(),
            Some(Column::Text(tasks)) => vec![tasks[row].clone()],
            _ => Vec::new(),
        };
        let (index, length) = (index[row], length[row].unwrap_or_default());
        let first_frame = first[row].unwrap_or_default();
        let claimed = chunk[row].zip(number[row]).map(|(chunk, file)| FileNumber { chunk, file });
        claims.push((Episode { index, length, tasks, first_frame, table: None, first_row: 0, clips }, claimed));
    }
    Ok(claims)
}

/// Where a camera's frames of the episodes of a file of metadata are; for each the reason where it is not said.
fn places(file: &TableFile, table: &Table, video: &str) -> Result<Vec<Result<Place, String>>> {
    let name = |part: &str| format!("videos/{video}/{part}");
    let chunks = each_whole(file, table, &name("chunk_index"))?;
    let numbers = each_whole(file, table, &name("file_index"))?;
    let starts = each(file, table, &name("from_timestamp"))?;
    let places = chunks.into_iter().zip(numbers).zip(starts);
    Ok(places
        .map(|((chunk, file), start)| Ok(Place { file: FileNumber { chunk: chunk?, file: file? }, start: start? }))
        .collect())
}

/// The numbers of a column of metadata, each of which may be missing.
fn each(file: &TableFile, table: &Table, name: &str) -> Result<Vec<Result<f64, String>>> {
    match table.doubles(name) {
        Ok(values) => Ok(values.into_iter().map(Ok).collect()),
        Err(reason) if table.reason(name).is_none() => Ok(vec![Err(reason); table.rows()]),
        Err(_) => file.each(name),
    }
}

/// The same of whole numbers that are not negative.
fn each_whole(file: &TableFile, table: &Table, name: &str) -> Result<Vec<Result<usize, String>>> {
    let whole = |value: f64| {
        let is_count = value >= 0.0 && value.fract() == 0.0 && value <= MOST_EXACT;
        is_count.then_some(value as usize).ok_or_else(|| format!("`{name}` must hold numbers of files, got {value}"))
    };
    Ok(each(file, table, name)?.into_iter().map(|value| value.and_then(whole)).collect())
}

fn task_table(meta: &Path) -> Result<Tasks> {
    let path = meta.join("tasks.parquet");
    let file = TableFile::open(&path)?;
    let table = file.read(0..file.rows(), |_| true)?;
    let numbers = counts(&path, &table, "task_index")?;
    let text = |name: &str| match table.column(name) {
        Some(Column::Text(texts)) => Some(texts.clone()),
        _ => None,
    };
    // The instruction was the index of a data frame, which writers name or do not name.
    let named = ["task", "__index_level_0__"].into_iter().find_map(text);
    let texts = named.map_or_else(|| only(table.names().filter_map(text)), Ok).map_err(|got| {
        let expected = "`task`, `__index_level_0__`, or the only one of text";
        Error::inconsistent(&path, "the column of instructions", expected, format!("{got} columns of text"))
    })?;
    Ok(numbers.into_iter().zip(texts).collect())
}

/// The only one, or how many there are.
fn only<T>(all: impl Iterator<Item = T>) -> Result<T, usize> {
    let mut all: Vec<T> = all.collect();
    match all.len() {
        1 => Ok(all.remove(0)),
        count => Err(count),
    }
}

/// A column of whole numbers that are not negative.
pub(super) fn counts(path: &Path, table: &Table, name: &str) -> Result<Vec<usize>> {
    let values = table.whole(name).map_err(|reason| Error::format(path, "parquet", reason))?;
    values
        .into_iter()
        .map(|value| usize::try_from(value).map_err(|_| Error::inconsistent(path, name, "at least 0", value)))
        .collect()
}

/// All parquet files below a folder, two levels deep, in the order of their names.
pub(super) fn parquet_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = files_below(folder)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    Ok(files)
}

/// All files below a folder, two levels deep, in the order of their names.
pub(super) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
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
    Ok(files)
}
