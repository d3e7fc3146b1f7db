//! A copy of a dataset whose metadata agrees with its tables and videos.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, UInt64Array};
use arrow_schema::{Field, Schema};
use arrow_select::{concat::concat_batches, take::take_record_batch};
use evo1_core::files::{read_text, write_atomically};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use serde_json::{Value, json};

use super::{
    Dataset, OpenOptions, Table,
    info::{FileNumber, Layout, fill, numbers, numbers_in},
    meta::{self, EPISODE, FIRST, Place, counts, in_parallel, parquet_files, wrong_lengths},
    table::TableFile,
};
use crate::{Error, Result, video::frame_times};

const INFO: &str = "meta/info.json";
const EPISODE_LINES: &str = "meta/episodes.jsonl";
const STATISTICS_LINES: &str = "meta/episodes_stats.jsonl";
const EPISODE_TABLES: &str = "meta/episodes";

/// What became of a dataset that was repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// What was wrong and is right in the copy, in sentences.
    pub repaired: Vec<String>,
    /// What is still wrong in the copy, in sentences.
    pub left: Vec<String>,
}

/// Files of the copy that are not where they are in the original, or not there.
#[derive(Debug, Default)]
struct Moved {
    /// New places of table files, by their old ones.
    tables: BTreeMap<PathBuf, PathBuf>,
    /// Files that are left out.
    dropped: BTreeSet<PathBuf>,
}

impl Dataset {
    /// Makes a copy of the dataset in a new or empty folder, with metadata that agrees with its tables: totals, the list of
    /// episodes, their lengths, first rows and files, and where they start in videos whose frames are as many as their
    /// episodes'. All other files are hard links to the original's, or copies where these cannot be made; hidden ones, and tables
    /// without an episode, are left out. Nothing in the original changes.
    ///
    /// # Errors
    /// When the folder is not empty or lies in the dataset, or a file cannot be read or written.
    pub fn repair(&self, to: &Path) -> Result<Repair> {
        self.check_target(to)?;
        let mut repaired = self.disagreements().to_vec();
        let layout = self.info().layout(&self.info_path())?;
        let (places, moved) = match layout {
            Layout::PerEpisode => (Vec::new(), self.unlisted_tables()),
            Layout::Shared => (self.places(&mut repaired), self.moved_tables()?),
        };
        let lengths = self.lengths(layout, &mut repaired);
        self.link(Path::new(""), to, &moved)?;
        self.write_info(to, lengths.iter().sum())?;
        match layout {
            Layout::PerEpisode => self.write_lines(to, &lengths)?,
            Layout::Shared => self.write_tables(to, &places, &moved)?,
        }
        let copy = Dataset::open(to, &OpenOptions { skip_unreadable: true, ..self.options().clone() })?;
        Ok(Repair { repaired, left: copy.disagreements().to_vec() })
    }

    fn check_target(&self, to: &Path) -> Result<()> {
        let bad =
            |expected: &str| Error::inconsistent(to, "the folder of the repaired dataset", expected, "another one");
        fs::create_dir_all(to).map_err(|reason| Error::io("make the folder", to, reason))?;
        let mut entries = fs::read_dir(to).map_err(|reason| Error::io("read", to, reason))?;
        if entries.next().is_some() {
            return Err(bad("new or empty"));
        }
        let whole = |path: &Path| path.canonicalize().map_err(|reason| Error::io("read", path, reason));
        if whole(to)?.starts_with(whole(self.root())?) {
            // Made above, and empty.
            let _ = fs::remove_dir(to);
            return Err(bad("outside of the dataset"));
        }
        Ok(())
    }

    /// Tables of versions 2 that no episode of the list has.
    fn unlisted_tables(&self) -> Moved {
        let tables = self.folder().tables(&self.info().data_path).into_iter();
        let is_used = |path: &PathBuf| {
            let number = numbers_in(&self.info().data_path, path).map(|number| number.file);
            number.is_some_and(|number| self.episode(number).is_ok())
        };
        Moved { dropped: tables.filter(|path| !is_used(path)).collect(), ..Moved::default() }
    }

    /// Places of the tables of version 3 in the copy: their own where these follow the order of the rows and metadata can name
    /// them, new ones otherwise.
    fn moved_tables(&self) -> Result<Moved> {
        let template = &self.info().data_path;
        let mut used: Vec<&PathBuf> = Vec::new();
        let mut by_row: Vec<_> = self.episodes().iter().collect();
        by_row.sort_by_key(|episode| episode.first_frame);
        for table in by_row.iter().filter_map(|episode| self.tables().get(episode.table?)) {
            if used.last() != Some(&table) {
                used.push(table);
            }
        }
        let mut moved = Moved::default();
        let is_kept = used.windows(2).all(|pair| pair[0] < pair[1])
            && used.iter().all(|path| numbers_in(template, path).is_some());
        for path in used {
            let number = moved.tables.len();
            let new = match is_kept {
                true => path.clone(),
                false => {
                    let (chunk, file) = (number / self.info().chunks_size, number % self.info().chunks_size);
                    fill(template, &numbers(0, chunk, file), "", &self.info_path())?
                }
            };
            moved.tables.entry(path.clone()).or_insert(new);
        }
        moved.dropped = self.tables().iter().filter(|path| !moved.tables.contains_key(*path)).cloned().collect();
        Ok(moved)
    }

    /// Links the files below a folder of the dataset, and makes its folders.
    fn link(&self, folder: &Path, to: &Path, moved: &Moved) -> Result<()> {
        let from = self.root().join(folder);
        let entries = fs::read_dir(&from).map_err(|reason| Error::io("read", &from, reason))?;
        for entry in entries {
            let entry = entry.map_err(|reason| Error::io("read", &from, reason))?;
            let path = folder.join(entry.file_name());
            let is_rewritten =
                [INFO, EPISODE_LINES, STATISTICS_LINES, EPISODE_TABLES].iter().any(|own| path == Path::new(own));
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if is_rewritten || is_hidden || moved.dropped.contains(&path) {
                continue;
            }
            if entry.path().is_dir() {
                self.link(&path, to, moved)?;
                continue;
            }
            // The file that a link leads to, where it may.
            let file = self.folder().inside(&path)?;
            let file = file.canonicalize().map_err(|reason| Error::io("read", &file, reason))?;
            let new = to.join(moved.tables.get(&path).unwrap_or(&path));
            make_parent(&new)?;
            if fs::hard_link(&file, &new).is_err() {
                fs::copy(&file, &new).map_err(|reason| Error::io("write", &new, reason))?;
            }
        }
        Ok(())
    }

    /// The rows that the tables of the episodes have; `said` is told where metadata has others.
    fn lengths(&self, layout: Layout, said: &mut Vec<String>) -> Vec<usize> {
        let listed: Vec<usize> = self.episodes().iter().map(|episode| episode.length).collect();
        if layout == Layout::Shared {
            return listed;
        }
        let rows = in_parallel(self.episodes(), |episode| {
            self.table_path(episode.index).and_then(|path| TableFile::count_rows(&path)).unwrap_or(episode.length)
        });
        let wrong = rows.iter().zip(&listed).filter(|(found, listed)| found != listed).count();
        if wrong > 0 {
            said.push(wrong_lengths(wrong, listed.len()));
        }
        rows
    }

    fn write_info(&self, to: &Path, frames: usize) -> Result<()> {
        let path = self.info_path();
        let mut info: Value =
            serde_json::from_str(&read_text(&path)?).map_err(|error| Error::format(&path, "info.json", error))?;
        let episodes = self.episodes().len();
        let videos = self.info().features.values().filter(|feature| feature.is_video()).count();
        info["total_episodes"] = episodes.into();
        info["total_frames"] = frames.into();
        info["total_tasks"] = self.tasks().len().into();
        if info.get("total_videos").is_some() {
            info["total_videos"] = (episodes * videos).into();
        }
        // Splits of its own are for its owner to say.
        if info
            .get("splits")
            .and_then(Value::as_object)
            .is_none_or(|splits| splits.keys().all(|split| split == "train"))
        {
            info["splits"] = json!({ "train": format!("0:{episodes}") });
        }
        let text = serde_json::to_string_pretty(&info).map_err(|error| Error::format(&path, "info.json", error))?;
        let new = to.join(INFO);
        make_parent(&new)?;
        Ok(write_atomically(&new, (text + "\n").as_bytes())?)
    }

    /// The lists of versions 2.
    fn write_lines(&self, to: &Path, lengths: &[usize]) -> Result<()> {
        let lines = self.lines(EPISODE_LINES)?;
        let known: BTreeMap<u64, Value> =
            lines.into_iter().filter_map(|line| Some((line[EPISODE].as_u64()?, line))).collect();
        let mut text = String::new();
        for (episode, &length) in self.episodes().iter().zip(lengths) {
            let mut line = match known.get(&(episode.index as u64)) {
                Some(line) => line.clone(),
                None => json!({ EPISODE: episode.index, "tasks": self.tasks_of(episode.index)? }),
            };
            line["length"] = length.into();
            text.push_str(&format!("{line}\n"));
        }
        write_atomically(&to.join(EPISODE_LINES), text.as_bytes())?;
        if !self.root().join(STATISTICS_LINES).exists() {
            return Ok(());
        }
        let is_there = |line: &Value| {
            let number = line[EPISODE].as_u64().and_then(|number| usize::try_from(number).ok());
            number.is_some_and(|number| self.episode(number).is_ok())
        };
        let lines = self.lines(STATISTICS_LINES)?;
        let text: String = lines.iter().filter(|line| is_there(line)).map(|line| format!("{line}\n")).collect();
        Ok(write_atomically(&to.join(STATISTICS_LINES), text.as_bytes())?)
    }

    /// The lines of a list, if there is one.
    fn lines(&self, name: &str) -> Result<Vec<Value>> {
        let path = self.root().join(name);
        if path.exists() { meta::lines(&path) } else { Ok(Vec::new()) }
    }

    /// The instructions that the rows of an episode have.
    fn tasks_of(&self, episode: usize) -> Result<Vec<&str>> {
        let table = self.table(episode)?;
        let tasks: BTreeSet<i64> = table.ints("task_index").unwrap_or_default().iter().copied().collect();
        let text = |task: i64| self.tasks().get(&usize::try_from(task).ok()?).map(String::as_str);
        Ok(tasks.into_iter().filter_map(text).collect())
    }

    /// The tables of episodes of version 3: each as it is, without episodes that are not there and with what they are.
    fn write_tables(&self, to: &Path, places: &[Vec<Option<Place>>], moved: &Moved) -> Result<()> {
        let cameras: Vec<&String> =
            self.info().features.iter().filter(|(_, feature)| feature.is_video()).map(|(name, _)| name).collect();
        for path in parquet_files(&self.root().join(EPISODE_TABLES))? {
            // One that cannot be read was left out with a word when the dataset was opened.
            let Ok(file) = TableFile::open(&path) else { continue };
            let table = file.read(0..file.rows(), |name| name == EPISODE)?;
            let rows = self.rows_of(&path, &table)?;
            if rows.is_empty() {
                continue;
            }
            let mut batch = batch_of(&path, &rows.iter().map(|&(row, _)| row).collect::<Vec<_>>())?;
            let episodes: Vec<_> = rows.iter().map(|&(_, place)| &self.episodes()[place]).collect();
            let whole = |of: &dyn Fn(usize) -> usize| -> ArrayRef {
                Arc::new(Int64Array::from_iter_values((0..episodes.len()).map(|at| of(at) as i64)))
            };
            let tables: Vec<FileNumber> = episodes
                .iter()
                .map(|episode| {
                    let table = episode.table.and_then(|table| moved.tables.get(self.tables().get(table)?));
                    table.and_then(|table| numbers_in(&self.info().data_path, table)).unwrap_or_default()
                })
                .collect();
            let mut columns = vec![
                ("length".to_owned(), whole(&|at| episodes[at].length)),
                (FIRST.to_owned(), whole(&|at| episodes[at].first_frame)),
                ("dataset_to_index".to_owned(), whole(&|at| episodes[at].first_frame + episodes[at].length)),
                ("data/chunk_index".to_owned(), whole(&|at| tables[at].chunk)),
                ("data/file_index".to_owned(), whole(&|at| tables[at].file)),
            ];
            for (camera, name) in cameras.iter().enumerate() {
                let places: Vec<Option<Place>> = rows.iter().map(|&(_, place)| places[place][camera]).collect();
                let part = |part: &str| format!("videos/{name}/{part}");
                let numbers = |of: &dyn Fn(Place) -> usize| -> ArrayRef {
                    Arc::new(Int64Array::from_iter(places.iter().map(|place| place.map(|place| of(place) as i64))))
                };
                let times = |of: &dyn Fn(usize, Place) -> f64| -> ArrayRef {
                    Arc::new(Float64Array::from_iter(
                        places.iter().enumerate().map(|(at, place)| place.map(|place| of(at, place))),
                    ))
                };
                let seconds = |at: usize| episodes[at].length as f64 / self.info().fps;
                columns.extend([
                    (part("chunk_index"), numbers(&|place| place.file.chunk)),
                    (part("file_index"), numbers(&|place| place.file.file)),
                    (part("from_timestamp"), times(&|_, place| place.start)),
                    (part("to_timestamp"), times(&|at, place| place.start + seconds(at))),
                ]);
            }
            for (name, column) in columns {
                batch = with_column(&path, &batch, &name, column)?;
            }
            let relative = path.strip_prefix(self.root()).unwrap_or(&path);
            write_batch(&to.join(relative), &batch)?;
        }
        Ok(())
    }

    /// Rows of a table of episodes with the places of their episodes in the list, in its order.
    fn rows_of(&self, path: &Path, table: &Table) -> Result<Vec<(usize, usize)>> {
        let place = |number: usize| self.episodes().binary_search_by_key(&number, |episode| episode.index).ok();
        let numbers = counts(path, table, EPISODE)?.into_iter().enumerate();
        let mut rows: Vec<_> = numbers.filter_map(|(row, number)| Some((row, place(number)?))).collect();
        rows.sort_by_key(|&(_, place)| place);
        Ok(rows)
    }

    /// Where each episode's frames are, for each camera with videos of version 3; `said` is told what metadata has wrong.
    fn places(&self, said: &mut Vec<String>) -> Vec<Vec<Option<Place>>> {
        let total = self.episodes().len();
        let mut all: Vec<Vec<Option<Place>>> = vec![Vec::new(); total];
        let cameras = self.info().features.iter().filter(|(_, feature)| feature.is_video());
        for (camera, (name, _)) in cameras.enumerate() {
            let claims: Vec<Option<Place>> = self
                .episodes()
                .iter()
                .map(|episode| episode.clips[camera].as_ref().ok().map(|clip| clip.place))
                .collect();
            let mut videos = Videos { dataset: self, camera: name, times: BTreeMap::new() };
            // Where frames are not as many as the episodes' nobody knows better than the claims.
            let counted = videos.counted_in_claimed(&claims).or_else(|| videos.counted_in_order());
            let found: Vec<Option<Place>> =
                counted.map_or_else(|| claims.clone(), |places| places.into_iter().map(Some).collect());
            let is_same = |(claim, found): &(&Option<Place>, &Option<Place>)| match (claim, found) {
                (Some(claim), Some(found)) => claim.file == found.file && (claim.start - found.start).abs() < SAME_TIME,
                (claim, found) => claim == found,
            };
            let wrong = claims.iter().zip(&found).filter(|pair| !is_same(pair)).count();
            if wrong > 0 {
                said.push(format!(
                    "meta/episodes names other files or times than the videos of `{name}` for {wrong} of {total} episodes"
                ));
            }
            all.iter_mut().zip(found).for_each(|(places, place)| places.push(place));
        }
        all
    }
}

/// Seconds by which LeRobot's reader lets a frame miss its time.
const SAME_TIME: f64 = 1e-4;

/// The videos of a camera.
struct Videos<'a> {
    dataset: &'a Dataset,
    camera: &'a str,
    times: BTreeMap<FileNumber, Option<Arc<[f64]>>>,
}

impl Videos<'_> {
    /// When the frames of a video are shown, if it can be read.
    fn times(&mut self, file: FileNumber) -> Option<Arc<[f64]>> {
        let (dataset, camera) = (self.dataset, self.camera);
        let known = self.times.entry(file).or_insert_with(|| {
            let template = dataset.info().video_path.as_deref()?;
            let path = fill(template, &numbers(0, file.chunk, file.file), camera, &dataset.info_path()).ok()?;
            let path = dataset.folder().inside(&path).ok()?;
            frame_times(&path).ok().map(Into::into)
        });
        known.clone()
    }

    /// Where the frames of the episodes are, if every video has as many as the episodes that are said to be in it.
    fn counted_in_claimed(&mut self, claims: &[Option<Place>]) -> Option<Vec<Place>> {
        let mut filled: BTreeMap<FileNumber, usize> = BTreeMap::new();
        let mut places = Vec::with_capacity(claims.len());
        for (claim, episode) in claims.iter().zip(self.dataset.episodes()) {
            let file = claim.as_ref()?.file;
            let before = filled.entry(file).or_default();
            places.push(Place { file, start: *self.times(file)?.get(*before)? });
            *before += episode.length;
        }
        let is_full =
            filled.into_iter().all(|(file, frames)| self.times(file).is_some_and(|times| times.len() == frames));
        is_full.then_some(places)
    }

    /// Where the frames of the episodes are, if the camera's videos, in the order of their numbers, have as many as the episodes in
    /// theirs, and each episode is in one of them.
    fn counted_in_order(&mut self) -> Option<Vec<Place>> {
        let template = self.dataset.info().video_path.as_deref()?.replace("{video_key}", self.camera);
        let files: BTreeSet<FileNumber> =
            self.dataset.folder().files(&template).iter().filter_map(|path| numbers_in(&template, path)).collect();
        let mut places = Vec::new();
        let mut episodes = self.dataset.episodes().iter();
        for file in files {
            let times = self.times(file)?;
            let mut before = 0;
            while before < times.len() {
                places.push(Place { file, start: times[before] });
                before += episodes.next()?.length;
            }
            if before != times.len() {
                return None;
            }
        }
        episodes.next().is_none().then_some(places)
    }
}

fn make_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|reason| Error::io("make the folder", folder, reason))
}

/// Some rows of a parquet file, with the types and notes that it has.
fn batch_of(path: &Path, rows: &[usize]) -> Result<RecordBatch> {
    let bad = |error: &dyn Display| Error::format(path, "parquet", error);
    let (file, _) = evo1_core::files::open(path)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| bad(&error))?;
    let schema = builder.schema().clone();
    let reader = builder.build().map_err(|error| bad(&error))?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|error| bad(&error))?;
    let rows = UInt64Array::from_iter_values(rows.iter().map(|&row| row as u64));
    let whole = concat_batches(&schema, &batches);
    whole.and_then(|whole| take_record_batch(&whole, &rows)).map_err(|error| bad(&error))
}

/// The same with a column that is another one, or new.
fn with_column(path: &Path, batch: &RecordBatch, name: &str, column: ArrayRef) -> Result<RecordBatch> {
    let schema = batch.schema();
    let (mut fields, mut columns) = (schema.fields().to_vec(), batch.columns().to_vec());
    let field = Arc::new(Field::new(name, column.data_type().clone(), true));
    match schema.index_of(name) {
        Ok(at) => (fields[at], columns[at]) = (field, column),
        Err(_) => {
            fields.push(field);
            columns.push(column);
        }
    }
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    RecordBatch::try_new(Arc::new(schema), columns).map_err(|error| Error::format(path, "parquet", error))
}

fn write_batch(path: &Path, batch: &RecordBatch) -> Result<()> {
    let bad = |error: &dyn Display| Error::format(path, "parquet", error);
    make_parent(path)?;
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).map_err(|error| bad(&error))?;
    writer.write(batch).map_err(|error| bad(&error))?;
    writer.close().map_err(|error| bad(&error))?;
    Ok(write_atomically(path, &bytes)?)
}
