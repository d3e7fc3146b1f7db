//! Datasets as they are found: each is read right, or refused with what is wrong.

use std::{
    fs::{self, File},
    num::NonZeroUsize,
    path::Path,
    sync::Arc,
};

use arrow_array::{
    Array, ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    UInt32Array,
    builder::{Float32Builder, Int64Builder, ListBuilder},
    cast::AsArray,
    types::{Float32Type, Int32Type, Int64Type},
};
use arrow_schema::{Field, Schema};
use evo1::Policy;
use evo1_core::View;
use evo1_data::{
    DataConfig, Dataset, DatasetConfig, Episodes, Exclusion, Loader, LoaderOptions, MissingVideo, Mixture, OnError,
    OpenOptions, Position, Sample, Time, VideoPool,
};
use indexmap::IndexMap;
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};

mod common;

use common::{HORIZON, copied, fixture};

const PUSH: &str = "Push the red block.";
const OPEN: &str = "Open the drawer.";
const FRONT: &str = "observation.images.front";
const WRIST: &str = "observation.images.wrist";
const EPISODES: &str = "meta/episodes/chunk-000/file-000.parquet";
const DATA: &str = "data/chunk-000/file-000.parquet";
const LENGTHS: [usize; 3] = [7, 12, 5];

fn table_of(episode: usize) -> String {
    format!("data/chunk-000/episode_{episode:06}.parquet")
}

fn video_of(camera: &str, episode: usize) -> String {
    format!("videos/chunk-000/{camera}/episode_{episode:06}.mp4")
}

fn new_video(camera: &str) -> String {
    format!("videos/{camera}/chunk-000/file-000.mp4")
}

/// All rows of a parquet file.
fn rows(path: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("file")).expect("parquet");
    let batches: Vec<RecordBatch> = reader.build().expect("reader").map(|batch| batch.expect("batch")).collect();
    assert_eq!(batches.len(), 1);
    batches.into_iter().next().expect("one")
}

fn write(path: &Path, batch: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(File::create(path).expect("file"), batch.schema(), None).expect("writer");
    writer.write(batch).expect("write");
    writer.close().expect("close");
}

/// Writes a table again with a column that is new, another one, or gone.
fn put(path: &Path, name: &str, column: Option<ArrayRef>) {
    let batch = rows(path);
    let (schema, old) = (batch.schema(), batch.columns());
    let named = schema.fields().iter().map(|field| field.as_ref().clone()).zip(old.iter().cloned());
    let mut all: Vec<(Field, ArrayRef)> = named.collect();
    let at = all.iter().position(|(field, _)| field.name() == name);
    match (column, at) {
        (Some(column), at) => {
            let entry = (Field::new(name, column.data_type().clone(), true), column);
            match at {
                Some(at) => all[at] = entry,
                None => all.push(entry),
            }
        }
        (None, Some(at)) => _ = all.remove(at),
        (None, None) => panic!("{name} is not there"),
    }
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = all.into_iter().unzip();
    write(path, &RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("batch"));
}

/// The numbers of a column of whole numbers.
fn numbers(path: &Path, name: &str) -> Vec<i64> {
    rows(path).column_by_name(name).expect("there").as_primitive::<Int64Type>().values().to_vec()
}

fn ints(values: impl IntoIterator<Item = i64>) -> Option<ArrayRef> {
    Some(Arc::new(Int64Array::from_iter_values(values)))
}

fn doubles(values: impl IntoIterator<Item = f64>) -> Option<ArrayRef> {
    Some(Arc::new(Float64Array::from_iter_values(values)))
}

fn edited(root: &Path, file: &str, from: &str, to: &str) {
    let text = fs::read_to_string(root.join(file)).expect("text");
    assert!(text.contains(from), "{file} holds {from}");
    fs::write(root.join(file), text.replacen(from, to, 1)).expect("write");
}

fn set(root: &Path) -> DatasetConfig {
    DatasetConfig::new(root)
}

fn open(config: DatasetConfig) -> evo1_data::Result<Mixture> {
    Mixture::open(&DataConfig::single(config), HORIZON)
}

fn dataset(root: &Path) -> Dataset {
    Dataset::open(root, &OpenOptions::default()).expect("a dataset")
}

fn sample(config: DatasetConfig, episode: usize, frame: usize) -> evo1_data::Result<Sample> {
    open(config)?.sources()[0].sample(episode, frame, HORIZON, &VideoPool::new(NonZeroUsize::MIN))
}

/// What a frame is, without where it is from.
fn content(config: DatasetConfig, episode: usize, frame: usize) -> (Vec<View>, Vec<f32>, Vec<f32>, String) {
    let sample = sample(config, episode, frame).unwrap_or_else(|error| panic!("{episode}, {frame}: {error}"));
    (sample.observation.views, sample.observation.state, sample.actions, sample.observation.instruction)
}

/// Every frame of the episodes is that of the fixture.
fn assert_same(config: &DatasetConfig, episodes: &[usize]) {
    let whole = set(&fixture("v21"));
    for &episode in episodes {
        for frame in 0..LENGTHS[episode] {
            let same = content(config.clone(), episode, frame) == content(whole.clone(), episode, frame);
            assert!(same, "episode {episode}, frame {frame}");
        }
    }
}

fn refused<T>(result: evo1_data::Result<T>, parts: &[&str]) {
    let Err(error) = result else { panic!("{parts:?}: it is refused") };
    let message = error.to_string();
    parts.iter().for_each(|part| assert!(message.contains(part), "{part}: {message}"));
}

// ------------------------------------------------------------------------------------------------- tasks and numbers

/// Whole numbers in every form that writers give them.
fn forms(values: &[i64]) -> [(&'static str, ArrayRef); 4] {
    let mut lists = ListBuilder::new(Int64Builder::new());
    for &value in values {
        lists.append_value([Some(value)]);
    }
    [
        ("float64", Arc::new(Float64Array::from_iter_values(values.iter().map(|&value| value as f64)))),
        ("float32", Arc::new(Float32Array::from_iter_values(values.iter().map(|&value| value as f32)))),
        ("uint32", Arc::new(UInt32Array::from_iter_values(values.iter().map(|&value| value as u32)))),
        ("lists of one", Arc::new(lists.finish())),
    ]
}

#[test]
fn whole_numbers_of_every_type_are_indices() {
    for column in ["task_index", "index", "frame_index", "episode_index"] {
        for form in 0..4 {
            let directory = copied("v21");
            for episode in 0..3 {
                let path = directory.path().join(table_of(episode));
                let (name, values) = forms(&numbers(&path, column))[form].clone();
                put(&path, column, Some(values));
                eprintln!("{column} as {name}");
            }
            assert_same(&set(directory.path()), &[0, 1, 2]);
        }
    }
}

#[test]
fn a_task_index_that_is_no_whole_number_is_refused() {
    let directory = copied("v21");
    let path = directory.path().join(table_of(1));
    put(&path, "task_index", doubles((0..12).map(|row| if row == 5 { 0.5 } else { 1.0 })));
    refused(sample(set(directory.path()), 1, 0), &["`task_index` of episode 1", "whole numbers, got 0.5 in row 5"]);
    put(&path, "task_index", doubles((0..12).map(|row| if row == 5 { f64::NAN } else { 1.0 })));
    refused(sample(set(directory.path()), 1, 0), &["`task_index` of episode 1", "got NaN in row 5"]);
}

#[test]
fn without_a_task_index_the_instruction_is_that_of_the_episode() {
    let directory = copied("v21");
    for episode in 0..3 {
        put(&directory.path().join(table_of(episode)), "task_index", None);
    }
    let instruction = |episode| sample(set(directory.path()), episode, 0).map(|sample| sample.observation.instruction);
    assert_eq!(instruction(0).expect("its own"), PUSH);
    assert_eq!(instruction(1).expect("its own"), OPEN);
    refused(instruction(2), &["`task_index` of episode 2", "one instruction for the whole episode", "2 instructions"]);
    let weights = |episodes: &[usize]| DatasetConfig {
        task_weights: Some([(PUSH.to_owned(), 1.0), (OPEN.to_owned(), 1.0)].into()),
        episodes: Some(Episodes::List(episodes.to_vec())),
        ..set(directory.path())
    };
    assert_eq!(open(weights(&[0, 1])).expect("known").len(), 19);
    refused(open(weights(&[0, 1, 2])), &["`task_index` of episode 2"]);
}

#[test]
fn the_instruction_of_a_task_table_is_its_column_of_tasks() {
    let directory = copied("v30");
    let path = directory.path().join("meta/tasks.parquet");
    let text = |texts: [&str; 2]| -> Option<ArrayRef> { Some(Arc::new(StringArray::from(texts.to_vec()))) };
    put(&path, "category", text(["push", "open"]));
    assert_same(&set(directory.path()), &[0, 1, 2]);
    let tasks = || dataset(directory.path()).tasks().values().cloned().collect::<Vec<_>>();
    put(&path, "task", None);
    put(&path, "__index_level_0__", text([PUSH, OPEN]));
    assert_eq!(tasks(), [PUSH, OPEN]);
    put(&path, "__index_level_0__", None);
    assert_eq!(tasks(), ["push", "open"], "the only text that there is");
    put(&path, "other", text(["a", "b"]));
    let opened = Dataset::open(directory.path(), &OpenOptions::default());
    refused(opened, &["tasks.parquet", "the column of instructions", "`task`", "2 columns of text"]);
}

#[test]
fn dictionary_encoded_text_is_text() {
    let directory = copied("v30");
    let path = directory.path().join("meta/tasks.parquet");
    let dictionary: arrow_array::DictionaryArray<Int32Type> = [PUSH, OPEN].into_iter().collect();
    put(&path, "task", Some(Arc::new(dictionary)));
    assert_same(&set(directory.path()), &[1, 2]);
}

#[test]
fn scalars_of_every_type_are_parts_of_actions_and_states() {
    let columns: [ArrayRef; 3] = [
        Arc::new(BooleanArray::from_iter((0..12).map(|row| Some(row % 3 == 0)))),
        Arc::new(Int64Array::from_iter_values((0..12).map(|row| i64::from(row % 3 == 0)))),
        Arc::new(Int32Array::from_iter_values((0..12).map(|row| i32::from(row % 3 == 0)))),
    ];
    for column in columns {
        let directory = copied("v21");
        put(&directory.path().join(table_of(1)), "gripper", Some(column));
        let config = DatasetConfig {
            process_suite: "custom".into(),
            suite_config: [("action_concat_keys".to_owned(), serde_json::json!(["action", "gripper"]))].into(),
            ..set(directory.path())
        };
        let sample = sample(config, 1, 5).expect("a sample");
        assert_eq!(sample.action_width, 8);
        let grippers: Vec<f32> = sample.actions.chunks(8).map(|action| action[7]).collect();
        assert_eq!(grippers, [0.0, 1.0, 0.0, 0.0]);
    }
}

#[test]
fn states_and_actions_may_be_several_columns() {
    let keys = |state: serde_json::Value| DatasetConfig {
        suite_config: [("state_key".to_owned(), state)].into(),
        ..set(&fixture("v21"))
    };
    let state = |state| sample(keys(state), 1, 5).map(|sample| sample.observation.state);
    let columns = ["observation.state.cartesian_position", "observation.state.gripper_position"];
    let parts = columns.map(|column| state(serde_json::json!(column)).expect("a column"));
    assert_eq!(state(serde_json::json!(columns)).expect("both"), parts.concat());
    for bad in [serde_json::json!(3), serde_json::json!([]), serde_json::json!({ "a": 1 })] {
        let message = format!("`suite_config.state_key` must be a column or a list of columns, got {bad}");
        refused(state(bad), &["the suite `default` cannot be used", &message]);
    }
}

// ------------------------------------------------------------------------------------------------------ used columns

/// A column of lists of lists: two rows of two values in each row of the table.
fn nested(rows: usize) -> ArrayRef {
    let mut lists = ListBuilder::new(ListBuilder::new(Float32Builder::new()));
    for row in 0..rows {
        for line in 0..2 {
            let value = (row * 4 + line * 2) as f32;
            lists.values().append_value([Some(value), Some(value + 1.0)]);
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}

#[test]
fn nested_lists_are_flattened_row_by_row() {
    for (name, path, length) in [("v21", table_of(1), 12), ("v30", DATA.to_owned(), 24)] {
        let directory = copied(name);
        put(&directory.path().join(path), "tactile", Some(nested(length)));
        let first = length - 12 - if length == 24 { 5 } else { 0 };
        let config = DatasetConfig {
            process_suite: "custom".into(),
            suite_config: [("state_key".to_owned(), serde_json::json!("tactile"))].into(),
            ..set(directory.path())
        };
        for frame in [0, 5, 11] {
            let state = sample(config.clone(), 1, frame).expect("a sample").observation.state;
            let expected: Vec<f32> = (0..4).map(|value| ((first + frame) * 4 + value) as f32).collect();
            assert_eq!(state, expected, "{name}, frame {frame}");
        }
    }
}

/// Columns that cannot be vectors.
fn useless() -> Vec<(&'static str, ArrayRef)> {
    let list = |of: &dyn Fn(usize) -> Option<Vec<Option<f32>>>| -> ArrayRef {
        Arc::new(arrow_array::ListArray::from_iter_primitive::<Float32Type, _, _>((0..12).map(of)))
    };
    vec![
        ("null numbers", Arc::new(Float64Array::from_iter((0..12).map(|row| (row != 4).then_some(1.0))))),
        ("null text", Arc::new(StringArray::from_iter((0..12).map(|row| (row != 4).then_some("x"))))),
        ("ragged lists", list(&|row| Some(vec![Some(1.0); 1 + row % 2]))),
        ("empty lists", list(&|_| Some(Vec::new()))),
        ("null lists", list(&|row| (row != 4).then(|| vec![Some(1.0)]))),
        ("nulls in lists", list(&|row| Some(vec![(row != 4).then_some(1.0)]))),
    ]
}

#[test]
fn columns_that_nobody_uses_may_hold_anything_and_used_ones_are_named() {
    for (what, column) in useless() {
        let directory = copied("v21");
        put(&directory.path().join(table_of(1)), "note", Some(column));
        assert_same(&set(directory.path()), &[1]);
        let config = DatasetConfig {
            process_suite: "custom".into(),
            suite_config: [("state_key".to_owned(), serde_json::json!("note"))].into(),
            ..set(directory.path())
        };
        eprintln!("{what}");
        refused(sample(config, 1, 0), &["episode_000001.parquet", "column `note`"]);
        // Whoever reads all columns is told of those that cannot be used when they are asked for.
        let table = dataset(directory.path()).table(1).expect("the others");
        assert!(table.column("note").is_none() && table.reason("note").is_some());
    }
}

#[test]
fn a_column_of_another_width_than_it_is_described_with_is_refused() {
    let directory = copied("v21");
    let path = directory.path().join(table_of(1));
    let [state, action] =
        ["observation.state", "action"].map(|name| rows(&path).column_by_name(name).expect("there").clone());
    put(&path, "observation.state", Some(action));
    put(&path, "action", Some(state));
    refused(sample(set(directory.path()), 1, 0), &["column `observation.state`", "have 7 values, and 8 by its shape"]);
    assert_same(&set(directory.path()), &[0, 2]);
}

#[test]
fn only_columns_that_are_used_are_read() {
    let mixture = open(set(&fixture("v21"))).expect("a mixture");
    let table = mixture.sources()[0].dataset.table(1).expect("a table");
    let expected = ["action", "episode_index", "frame_index", "index", "observation.state", "task_index", "timestamp"];
    assert_eq!(table.names().collect::<Vec<_>>(), expected);
}

// --------------------------------------------------------------------------------------------------- choosing frames

#[test]
fn frames_to_exclude_must_be_there() {
    let excluding = |episode, range| DatasetConfig {
        exclude_frames: Exclusion { column: None, episodes: [(episode, vec![range])].into() },
        ..set(&fixture("v21"))
    };
    assert_eq!(open(excluding(1, [3, 1_000_000])).expect("there").len(), 24 - 9);
    refused(open(excluding(99, [0, 5])), &["exclude_frames.episodes.99", "an episode that is there"]);
    refused(open(excluding(1, [12, 20])), &["exclude_frames.episodes.1", "frames below 12", "[12, 20]"]);
}

#[test]
fn episodes_are_lists_and_ranges() {
    let drawn = |episodes: Episodes| {
        let mixture = open(DatasetConfig { episodes: Some(episodes), ..set(&fixture("v21")) }).expect("a mixture");
        mixture.sources()[0].episodes().collect::<Vec<_>>()
    };
    assert_eq!(drawn(Episodes::List(vec![2, 0])), [0, 2]);
    assert_eq!(drawn("0:1,2:3".into()), [0, 2]);
    let absent = DatasetConfig { episodes: Some(Episodes::List(vec![0, 3])), ..set(&fixture("v21")) };
    refused(open(absent), &["episodes", "must be episodes that are there: 3 from 0 to 2, got 3:4"]);
}

// --------------------------------------------------------------------------------------------------------------- time

/// `from_timestamp` of the front camera.
fn starting_at(starts: [f64; 3]) -> tempfile::TempDir {
    let directory = copied("v30");
    let name = format!("videos/{FRONT}/from_timestamp");
    put(&directory.path().join(EPISODES), &name, doubles(starts));
    directory
}

#[test]
fn a_video_start_on_another_frame_is_refused_with_both_or_counted_by_frame() {
    for starts in [[0.0, 0.76, 1.96], [0.0, 0.76, 1.9], [0.0, 0.64, 1.9], [0.0, 0.8, 1.9], [0.1, 0.7, 1.9]] {
        let directory = starting_at(starts);
        let bad = starts.iter().zip([0.0, 0.7, 1.9]).position(|(start, right)| *start != right).expect("one");
        let right = format!("{:.4} s", [0.0, 0.7, 1.9][bad]);
        let wrong = format!("{:.4} s", starts[bad]);
        for frame in 0..LENGTHS[bad] {
            let sample = sample(set(directory.path()), bad, frame);
            refused(sample, &["the start of an episode in this video", &right, &wrong, "time: by_frame"]);
        }
        assert_same(&DatasetConfig { time: Time::ByFrame, ..set(directory.path()) }, &[0, 1, 2]);
    }
    // A start that misses its frame by less than half of the distance to the next one is that frame.
    assert_same(&set(starting_at([0.0, 0.73, 1.9]).path()), &[0, 1, 2]);
}

#[test]
fn frames_are_counted_only_where_a_video_has_as_many_as_its_episodes() {
    let directory = copied("v30");
    // The last episode loses its last row, so that the video has a frame more than the episodes.
    let path = directory.path().join(DATA);
    write(&path, &rows(&path).slice(0, 23));
    let by_frame = DatasetConfig { time: Time::ByFrame, ..set(directory.path()) };
    refused(sample(by_frame, 1, 0), &["read by frame must be 23, as its episodes have, got 24"]);
    assert_same(&set(directory.path()), &[0, 1]);
}

#[test]
fn a_start_that_nothing_vouches_for_must_lie_on_a_frame() {
    let directory = starting_at([0.0, 0.7, 1.94]);
    let path = directory.path().join(EPISODES);
    let kept: Vec<ArrayRef> = {
        let batch = rows(&path);
        let rows = arrow_array::UInt32Array::from(vec![0, 2]);
        batch.columns().iter().map(|column| taken(column, &rows)).collect()
    };
    write(&path, &RecordBatch::try_new(rows(&path).schema(), kept).expect("batch"));
    refused(sample(set(directory.path()), 2, 0), &["1.9400 s", "1.9000 s"]);
    put(&path, &format!("videos/{FRONT}/from_timestamp"), doubles([0.0, 1.9]));
    assert_same(&set(directory.path()), &[0, 2]);
}

/// Some rows of a column.
fn taken(column: &ArrayRef, rows: &UInt32Array) -> ArrayRef {
    let parts: Vec<ArrayRef> = rows.values().iter().map(|&row| column.slice(row as usize, 1)).collect();
    let mut data = arrow_array::make_array(parts[0].to_data());
    if let [first, second] = &parts[..] {
        data = concatenated(first, second);
    }
    data
}

/// Two arrays of one row each as one, by way of a file.
fn concatenated(first: &ArrayRef, second: &ArrayRef) -> ArrayRef {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("both.parquet");
    let schema = Arc::new(Schema::new(vec![Field::new("x", first.data_type().clone(), true)]));
    let mut writer = ArrowWriter::try_new(File::create(&path).expect("file"), schema.clone(), None).expect("writer");
    for part in [first, second] {
        writer.write(&RecordBatch::try_new(schema.clone(), vec![part.clone()]).expect("batch")).expect("write");
    }
    writer.close().expect("close");
    rows(&path).column(0).clone()
}

#[test]
fn time_stamps_of_a_real_clock_take_a_tolerance_or_are_left_alone() {
    let directory = copied("v21");
    let clock = |row: usize| row as f32 * 0.1 + if row % 2 == 1 { 0.08 } else { 0.0 };
    let times: ArrayRef = Arc::new(Float32Array::from_iter_values((0..12).map(clock)));
    put(&directory.path().join(table_of(1)), "timestamp", Some(times));
    refused(
        sample(set(directory.path()), 1, 0),
        &["`timestamp` of episode 1, row 1", "0.1000 s, got 0.1800 s", "`time`"],
    );
    assert_same(&DatasetConfig { time: Time::ByFrame, ..set(directory.path()) }, &[0, 1, 2]);
    let tolerant = DatasetConfig { time: Time::ToleranceS(0.09), ..set(directory.path()) };
    let whole = set(&fixture("v21"));
    let views = |config: &DatasetConfig, frame| content(config.clone(), 1, frame).0;
    // The stamp of row 3 is nearest to frame 4; past the last frame there is no other.
    for (row, frame) in [(2, 2), (3, 4), (11, 11)] {
        assert!(views(&tolerant, row) == views(&whole, frame), "row {row}");
    }
    let strict = DatasetConfig { time: Time::ToleranceS(0.07), ..set(directory.path()) };
    refused(sample(strict, 1, 0), &["`timestamp` of episode 1, row 1"]);
}

#[test]
fn a_time_stamp_never_reaches_into_the_next_episode() {
    let directory = copied("v30");
    let times: ArrayRef = {
        let frames = numbers(&directory.path().join(DATA), "frame_index");
        Arc::new(Float32Array::from_iter_values(frames.iter().map(|&frame| frame as f32 * 0.1 + 0.1)))
    };
    put(&directory.path().join(DATA), "timestamp", Some(times));
    let late = DatasetConfig { time: Time::ToleranceS(0.15), ..set(directory.path()) };
    let whole = set(&fixture("v21"));
    for (episode, length) in LENGTHS.into_iter().enumerate() {
        let last = content(late.clone(), episode, length - 1).0;
        assert!(last == content(whole.clone(), episode, length - 1).0, "episode {episode}");
    }
}

// --------------------------------------------------------------------------------------------------------------- skip

fn loader(config: DatasetConfig, workers: usize) -> evo1_data::Result<Loader> {
    let device = evo1::device::test_devices().remove(0);
    let mut policy = Policy::tiny(0, &device).expect("tiny");
    policy.statistics = None;
    let data = DataConfig { on_error: OnError::Skip, ..DataConfig::single(config) };
    let mixture = Mixture::open(&data, policy.config.action.horizon)?;
    let options =
        LoaderOptions { workers, prefetch: 2 * workers, ..LoaderOptions::new(NonZeroUsize::new(4).expect("not 0")) };
    Loader::new(Arc::new(mixture), policy.preparer(), options)
}

/// A dataset in which some frames of episode 1 cannot be read.
fn with_bad_frames() -> tempfile::TempDir {
    let directory = copied("v21");
    let path = directory.path().join(table_of(1));
    let mut states = ListBuilder::new(Float32Builder::new());
    for row in 0..12 {
        states.append_value((0..8).map(|value| Some(if row > 8 { f32::NAN } else { value as f32 })));
    }
    put(&path, "observation.state", Some(Arc::new(states.finish())));
    directory
}

#[test]
fn what_replaces_a_bad_frame_depends_on_its_position_alone() {
    let directory = with_bad_frames();
    let drawn = |workers, from, count| {
        let loader = loader(set(directory.path()), workers).expect("a loader");
        let batches = loader.batches(from).take(count).map(|batch| batch.expect("a batch"));
        batches.map(|batch| (batch.samples, batch.position)).collect::<Vec<_>>()
    };
    let alone = drawn(0, Position::start(5), 12);
    let all: Vec<_> = alone.iter().flat_map(|(samples, _)| samples).collect();
    assert!(all.iter().all(|sample| sample.episode != 1 || sample.frame <= 8), "the bad ones are replaced");
    assert!(all.iter().any(|sample| sample.episode == 1), "the good frames of that episode are used");
    for workers in [1, 4, 8] {
        assert_eq!(drawn(workers, Position::start(5), 12), alone, "{workers} threads");
    }
    for stop in [1, 5, 9] {
        assert_eq!(drawn(3, alone[stop - 1].1, 12 - stop), alone[stop..], "continued after {stop}");
    }
}

#[test]
fn skipping_reaches_statistics_and_tables() {
    // A part of an episode.
    let directory = with_bad_frames();
    let statistics = |on_error| {
        let data = DataConfig { on_error, ..DataConfig::single(set(directory.path())) };
        let mixture = Mixture::open(&data, HORIZON)?;
        let statistics = mixture.statistics(|_, _| ())?;
        let robot = statistics.select(&mixture.sources()[0].statistics_key()).expect("its").clone();
        Ok((robot, mixture.skipped().into_iter().map(|skipped| skipped.sample.frame).collect::<Vec<_>>()))
    };
    refused(statistics(OnError::Stop), &["holds NaN in episode 1, frame 9"]);
    let (robot, skipped) = statistics(OnError::Skip).expect("the rest");
    assert!(robot.state.lists().iter().all(|(_, values)| values.iter().all(|value| value.is_finite())));
    assert_eq!(skipped, [9]);
    // What is skipped is told in a sentence, also where metadata lists what is not there.
    let list = directory.path().join("meta/episodes.jsonl");
    let line = r#"{"episode_index": 3, "tasks": ["Open the drawer."], "length": 6}"#;
    fs::write(&list, format!("{}{line}\n", fs::read_to_string(&list).expect("list"))).expect("write");
    let skipping = loader(set(directory.path()), 0).expect("a loader");
    skipping.batches(Position::start(5)).take(12).for_each(|batch| _ = batch.expect("a batch"));
    let told: Vec<String> = skipping.skipped().iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("episode 1, frame ") && told[0].contains("holds NaN"), "{told:?}");
    assert_eq!(told[0].matches("default/").count(), 1, "{told:?}");
    assert!(told[1].contains("episode 3") && told[1].contains("episode_000003.parquet is not there"), "{told:?}");

    // A whole table: statistics are those of the others.
    let directory = copied("v21");
    let path = directory.path().join(table_of(1));
    let whole = fs::read(&path).expect("table");
    fs::write(&path, &whole[..whole.len() - 100]).expect("write");
    let of = |config: DatasetConfig, on_error| {
        let mixture = Mixture::open(&DataConfig { on_error, ..DataConfig::single(config) }, HORIZON).expect("opens");
        let statistics = mixture.statistics(|_, _| ()).expect("statistics");
        statistics.robots().next().expect("one").1.clone()
    };
    let others = DatasetConfig { episodes: Some(Episodes::List(vec![0, 2])), ..set(&fixture("v21")) };
    assert_eq!(of(set(directory.path()), OnError::Skip), of(others, OnError::Stop));

    // Metadata of some episodes.
    let directory = copied("v30");
    let (path, cut) =
        (directory.path().join(EPISODES), directory.path().join("meta/episodes/chunk-000/file-001.parquet"));
    let whole = fs::read(&path).expect("metadata");
    fs::write(&cut, &whole[..whole.len() - 100]).expect("write");
    refused(open(set(directory.path())), &["file-001.parquet"]);
    assert_eq!(loader(set(directory.path()), 0).expect("the others").mixture().len(), 24);
}

// ------------------------------------------------------------------------------------------------------------- tables

/// The rows of version 3's one table over several files, by episodes.
fn split(root: &Path, files: &[&[usize]]) {
    let starts = [0, 7, 19];
    let whole = rows(&root.join(DATA));
    for (number, episodes) in files.iter().enumerate() {
        let path = root.join(format!("data/chunk-000/file-{number:03}.parquet"));
        let mut writer = ArrowWriter::try_new(File::create(path).expect("file"), whole.schema(), None).expect("writer");
        for &episode in *episodes {
            writer.write(&whole.slice(starts[episode], LENGTHS[episode])).expect("write");
        }
        writer.close().expect("close");
    }
}

#[test]
fn rows_are_where_the_tables_say() {
    type Files = &'static [&'static [usize]];
    let claims: [(Files, [i64; 3], bool); 6] = [
        (&[&[0], &[1, 2]], [0, 1, 1], true),
        (&[&[0], &[1, 2]], [0, 0, 1], false),
        (&[&[0], &[1, 2]], [0, 0, 0], false),
        (&[&[0], &[1], &[2]], [0, 0, 1], false),
        (&[&[0, 1, 2]], [0, 1, 2], false),
        (&[&[0], &[1], &[2]], [2, 0, 1], false),
    ];
    for (files, claimed, is_right) in claims {
        let directory = copied("v30");
        split(directory.path(), files);
        put(&directory.path().join(EPISODES), "data/file_index", ints(claimed));
        assert_same(&set(directory.path()), &[0, 1, 2]);
        let dataset = dataset(directory.path());
        assert_eq!(dataset.disagreements().is_empty(), is_right, "{claimed:?}: {:?}", dataset.disagreements());
    }
}

#[test]
fn tables_may_be_elsewhere_where_that_is_said() {
    let options = OpenOptions { may_lack_tables: true, ..OpenOptions::default() };
    let lacking = |claimed, missing: &[usize]| {
        let directory = copied("v30");
        split(directory.path(), &[&[0], &[1, 2]]);
        put(&directory.path().join(EPISODES), "data/file_index", ints(claimed));
        for file in missing {
            fs::remove_file(directory.path().join(format!("data/chunk-000/file-{file:03}.parquet"))).expect("there");
        }
        let dataset = Dataset::open(directory.path(), &options).expect("a dataset");
        let readable: Vec<bool> = (0..3).map(|episode| dataset.table(episode).is_ok()).collect();
        (dataset.episodes().len(), dataset.disagreements().is_empty(), readable, directory)
    };
    for (missing, readable) in
        [(vec![0, 1], [false; 3]), (vec![0], [false, true, true]), (vec![1], [true, false, false])]
    {
        let (episodes, agrees, found, _directory) = lacking([0, 1, 1], &missing);
        assert_eq!((episodes, agrees, &found[..]), (3, true, &readable[..]), "without {missing:?}");
    }
    // What is there shows that metadata is wrong.
    let (_, agrees, found, _directory) = lacking([0, 0, 1], &[1]);
    assert_eq!((agrees, &found[..]), (false, &[true, false, false][..]));
    let directory = copied("v21");
    fs::remove_file(directory.path().join(table_of(1))).expect("there");
    let dataset = Dataset::open(directory.path(), &options).expect("a dataset");
    assert_eq!((dataset.episodes().len(), dataset.disagreements().len()), (3, 0));
}

#[test]
fn first_rows_and_lengths_are_those_of_the_tables() {
    for (column, values) in [
        ("dataset_from_index", [0, 0, 12]),
        ("dataset_from_index", [0, 7, 20]),
        ("length", [7, 11, 5]),
        ("length", [9, 9, 9]),
    ] {
        let directory = copied("v30");
        put(&directory.path().join(EPISODES), column, ints(values));
        assert_same(&set(directory.path()), &[0, 1, 2]);
        let dataset = dataset(directory.path());
        assert_eq!(dataset.episodes().iter().map(|episode| episode.length).collect::<Vec<_>>(), LENGTHS);
        assert_eq!(dataset.episodes().iter().map(|episode| episode.first_frame).collect::<Vec<_>>(), [0, 7, 19]);
        assert_eq!(dataset.disagreements().len(), 1, "{:?}", dataset.disagreements());
    }
}

#[test]
fn a_file_that_a_merge_left_behind_changes_nothing() {
    let directory = copied("v30");
    fs::copy(directory.path().join(DATA), directory.path().join("data/chunk-000/file-001.parquet")).expect("copy");
    assert_same(&set(directory.path()), &[0, 1, 2]);
    // Where the metadata names neither, nobody knows which rows count.
    put(&directory.path().join(EPISODES), "data/file_index", ints([0, 2, 0]));
    assert_same(&set(directory.path()), &[0, 2]);
    refused(sample(set(directory.path()), 1, 0), &["episode 1", "its rows are not together", "file-001.parquet"]);
}

#[test]
fn totals_are_counted() {
    let directory = copied("v21");
    edited(directory.path(), "meta/info.json", "\"total_frames\": 24", "\"total_frames\": 30");
    edited(directory.path(), "meta/info.json", "\"total_episodes\": 3", "\"total_episodes\": 4");
    assert_same(&set(directory.path()), &[0, 1, 2]);
    let found = dataset(directory.path()).disagreements().join("; ");
    assert!(found.contains("`total_episodes`") && found.contains("is 4, but there are 3"), "{found}");
    assert!(found.contains("`total_frames`") && found.contains("is 30, but there are 24"), "{found}");
    // A line without data.
    let list = directory.path().join("meta/episodes.jsonl");
    let text = fs::read_to_string(&list).expect("list");
    let line = r#"{"episode_index": 3, "tasks": ["Open the drawer."], "length": 6}"#;
    fs::write(&list, format!("{text}{line}\n")).expect("write");
    assert_same(&set(directory.path()), &[0, 1, 2]);
    assert_eq!(open(set(directory.path())).expect("opens").len(), 24);
    refused(sample(set(directory.path()), 3, 0), &["episode 3", "episode_000003.parquet is not there"]);
}

#[test]
fn lengths_of_version_2_are_those_of_the_tables() {
    let directory = copied("v21");
    edited(directory.path(), "meta/episodes.jsonl", "\"length\": 12", "\"length\": 30");
    assert_same(&set(directory.path()), &[0, 1, 2]);
    assert_eq!(open(set(directory.path())).expect("opens").len(), 24);
    let found = dataset(directory.path()).disagreements().join("; ");
    assert!(found.contains("another `length` for 1 of 3 episodes"), "{found}");
    repaired(&directory, &[0, 1, 2]);
}

#[test]
fn numbers_of_episodes_may_have_holes() {
    let directory = copied("v21");
    let list = directory.path().join("meta/episodes.jsonl");
    let text = fs::read_to_string(&list).expect("list");
    let kept: Vec<&str> = text.lines().enumerate().filter(|(line, _)| *line != 1).map(|(_, line)| line).collect();
    fs::write(&list, kept.join("\n")).expect("write");
    assert_same(&set(directory.path()), &[0, 2]);
    assert!(dataset(directory.path()).disagreements()[0].starts_with("1 tables are of episodes that"));
    fs::remove_file(directory.path().join(table_of(1))).expect("there");
    assert_same(&set(directory.path()), &[0, 2]);
    let mixture = open(set(directory.path())).expect("a mixture");
    assert_eq!(mixture.sources()[0].episodes().collect::<Vec<_>>(), [0, 2]);
    assert_eq!(mixture.len(), 12);
    refused(sample(set(directory.path()), 1, 0), &["episode 1 must be there", "2 episodes from 0 to 2"]);
}

#[test]
fn without_a_list_the_episodes_are_those_of_the_tables() {
    let directory = copied("v21");
    fs::remove_file(directory.path().join("meta/episodes.jsonl")).expect("there");
    assert_same(&set(directory.path()), &[0, 1, 2]);
    assert!(dataset(directory.path()).disagreements()[0].contains("episodes.jsonl is missing"));
}

#[test]
fn numbers_of_files_that_nobody_uses_may_be_missing() {
    let only_front = |root: &Path| DatasetConfig {
        view_map: IndexMap::from([("image_1".to_owned(), FRONT.to_owned())]),
        ..set(root)
    };
    let directory = copied("v30");
    let path = directory.path().join(EPISODES);
    put(&path, "data/file_index", doubles([0.0; 3]));
    put(&path, &format!("videos/{WRIST}/file_index"), doubles([0.0; 3]));
    assert_same(&set(directory.path()), &[0, 1, 2]);
    put(&path, &format!("videos/{WRIST}/file_index"), Some(Arc::new(Int64Array::from(vec![Some(0), None, Some(0)]))));
    let views = content(only_front(directory.path()), 1, 3).0;
    assert!(views == content(only_front(&fixture("v21")), 1, 3).0);
    refused(sample(set(directory.path()), 1, 3), &[WRIST, "episode 1", "1 of its values are empty"]);
    assert_same(&set(directory.path()), &[0, 2]);
    // What the tables say may be missing in the metadata.
    let directory = copied("v30");
    let path = directory.path().join(EPISODES);
    let with_hole = || -> Option<ArrayRef> { Some(Arc::new(Int64Array::from(vec![Some(0), None, Some(0)]))) };
    for column in ["data/file_index", "data/chunk_index", "length", "dataset_from_index"] {
        put(&path, column, with_hole());
        assert_same(&set(directory.path()), &[0, 1, 2]);
        put(&path, column, None);
        assert_same(&set(directory.path()), &[0, 1, 2]);
    }
}

#[test]
fn a_check_finds_what_is_wrong_without_decoding() {
    use evo1_data::ProblemKind::{Duplicate, Metadata, Statistics, Table, Time, Values, Video};
    let found = |root: &Path| {
        let mut last = (0, 0);
        let wrong = dataset(root).check(|done, total| last = (done, total));
        assert_eq!(last, (3, 3));
        wrong
    };
    let expect = |root: &Path, expected: &[(_, Option<usize>, &str)]| {
        let wrong = found(root);
        assert_eq!(wrong.len(), expected.len(), "{wrong:?}");
        for (problem, (kind, episode, part)) in wrong.iter().zip(expected) {
            assert_eq!((problem.kind, problem.episode), (*kind, *episode), "{problem:?}");
            assert!(problem.message.contains(part), "{part}: {problem:?}");
        }
    };
    for name in ["v21", "v30"] {
        expect(&fixture(name), &[]);
    }
    // A video that is shorter than its table, as another episode's is, and one that is longer.
    let directory = copied("v21");
    fs::copy(directory.path().join(video_of(FRONT, 0)), directory.path().join(video_of(FRONT, 1))).expect("copy");
    fs::copy(directory.path().join(video_of(WRIST, 0)), directory.path().join(video_of(WRIST, 2))).expect("copy");
    fs::remove_file(directory.path().join(video_of(FRONT, 2))).expect("there");
    put(&directory.path().join(table_of(0)), "index", None);
    let times: ArrayRef = Arc::new(Float32Array::from_iter_values((0..12).map(|row| row as f32 * 0.11)));
    put(&directory.path().join(table_of(1)), "timestamp", Some(times));
    expect(
        directory.path(),
        &[
            (Table, Some(0), "`index`"),
            (Time, Some(1), "`timestamp` of episode 1, row 5"),
            (Video, Some(1), "the frame at 0.7000 s is wanted"),
            (Video, Some(2), "episode_000002.mp4"),
            (Video, Some(2), "the number of frames must be 5, got 7"),
        ],
    );
    expect(starting_at([0.0, 0.76, 1.9]).path(), &[(Video, Some(1), "0.7600 s")]);
    // Values, statistics and totals.
    let directory = with_bad_frames();
    edited(directory.path(), "meta/info.json", "\"total_frames\": 24", "\"total_frames\": 25");
    expect(
        directory.path(),
        &[(Metadata, None, "`total_frames`"), (Values, Some(1), "column `observation.state` is not finite in row 9")],
    );
    let directory = copied("v30");
    let path = directory.path().join("meta/stats.json");
    let mut statistics: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("there")).expect("JSON");
    let least = statistics["action"]["min"][2].as_f64().expect("a number");
    statistics["action"]["min"][2] = (least - 1.0).into();
    fs::write(&path, statistics.to_string()).expect("write");
    expect(directory.path(), &[(Statistics, None, "`action`: `min` of dimension 2 must be")]);
    // An episode that was copied.
    let directory = copied("v30");
    let path = directory.path().join(DATA);
    let whole = rows(&path);
    let schema = whole.schema();
    let mut writer = ArrowWriter::try_new(File::create(&path).expect("file"), schema.clone(), None).expect("writer");
    let shorter = [whole.slice(0, 7), whole.slice(7, 5), whole.slice(19, 5)];
    let columns = |at: usize| -> Vec<ArrayRef> {
        let places = shorter[at].columns().iter().zip(shorter[2].columns()).zip(schema.fields());
        places
            .map(|((own, last), field)| match field.name().as_str() {
                "episode_index" | "index" => own.clone(),
                _ if at == 1 => last.clone(),
                _ => own.clone(),
            })
            .collect()
    };
    for at in 0..3 {
        writer.write(&RecordBatch::try_new(schema.clone(), columns(at)).expect("batch")).expect("write");
    }
    writer.close().expect("close");
    let wrong = found(directory.path());
    let duplicates: Vec<_> = wrong.iter().filter(|problem| problem.kind == Duplicate).collect();
    assert!(
        matches!(&duplicates[..], [one] if one.episode == Some(2) && one.message.contains("as episode 1")),
        "{wrong:?}"
    );
}

#[test]
fn git_lfs_pointers_are_named_wherever_a_file_is_opened() {
    let old = ["meta/info.json", "meta/episodes.jsonl", "meta/tasks.jsonl", &table_of(1), &video_of(FRONT, 1)];
    let new = ["meta/info.json", EPISODES, "meta/tasks.parquet", DATA, &new_video(FRONT)];
    for (name, files) in [("v21", old), ("v30", new)] {
        for file in files {
            let directory = copied(name);
            let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
            fs::write(directory.path().join(file), pointer).expect("write");
            refused(sample(set(directory.path()), 1, 0), &[file, "Git LFS pointer", "`git lfs pull`"]);
        }
    }
}

// ------------------------------------------------------------------------------------------------------------- repair

/// The copy that a repair makes, which is as the fixture is, agrees with its tables and leaves the original alone.
fn repaired(directory: &tempfile::TempDir, episodes: &[usize]) -> tempfile::TempDir {
    let files = |root: &Path| {
        let mut files = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("folder") {
                let path = entry.expect("entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push((path.clone(), fs::read(path).expect("file")));
                }
            }
        }
        files.sort();
        files
    };
    let before = files(directory.path());
    let copy = tempfile::tempdir().expect("directory");
    let repair = dataset_that_may_lack_metadata(directory.path()).repair(copy.path()).expect("a copy");
    assert!(!repair.repaired.is_empty() && repair.left.is_empty(), "{repair:?}");
    assert!(files(directory.path()) == before, "nothing in the original changes");
    assert_same(&set(copy.path()), episodes);
    let copied = dataset(copy.path());
    assert_eq!(copied.disagreements(), [""; 0]);
    assert_eq!(copied.episodes().iter().map(|episode| episode.index).collect::<Vec<_>>(), episodes);
    assert!(copied.check(|_, _| ()).is_empty());
    copy
}

fn dataset_that_may_lack_metadata(root: &Path) -> Dataset {
    Dataset::open(root, &OpenOptions { skip_unreadable: true, ..OpenOptions::default() }).expect("a dataset")
}

#[test]
fn a_repaired_copy_agrees_with_its_tables() {
    // Files and rows of version 3.
    for (files, claimed) in [
        (&[&[0][..], &[1, 2]][..], [0, 0, 1]),
        (&[&[0], &[1, 2]], [0, 0, 0]),
        (&[&[0, 1, 2]], [0, 1, 2]),
        (&[&[0], &[1], &[2]], [2, 0, 1]),
    ] {
        let directory = copied("v30");
        split(directory.path(), files);
        put(&directory.path().join(EPISODES), "data/file_index", ints(claimed));
        repaired(&directory, &[0, 1, 2]);
    }
    for (column, values) in [("dataset_from_index", [0, 0, 12]), ("length", [9, 9, 9])] {
        let directory = copied("v30");
        put(&directory.path().join(EPISODES), column, ints(values));
        let copy = repaired(&directory, &[0, 1, 2]);
        assert_eq!(numbers(&copy.path().join(EPISODES), "dataset_to_index"), [7, 19, 24]);
        let statistics =
            |root: &Path| rows(&root.join(EPISODES)).column_by_name("stats/action/mean").expect("there").clone();
        assert_eq!(statistics(copy.path()).as_ref(), statistics(directory.path()).as_ref(), "the other columns stay");
    }
    // Totals, a line without data, no list, holes.
    let directory = copied("v21");
    edited(directory.path(), "meta/info.json", "\"total_frames\": 24", "\"total_frames\": 30");
    let list = directory.path().join("meta/episodes.jsonl");
    let text = fs::read_to_string(&list).expect("list");
    let line = r#"{"episode_index": 3, "tasks": ["Open the drawer."], "length": 6}"#;
    fs::write(&list, format!("{text}{line}\n")).expect("write");
    let copy = repaired(&directory, &[0, 1, 2]);
    assert_eq!(fs::read_to_string(copy.path().join("meta/episodes.jsonl")).expect("list").lines().count(), 3);
    fs::remove_file(&list).expect("there");
    let copy = repaired(&directory, &[0, 1, 2]);
    let again: Vec<serde_json::Value> = fs::read_to_string(copy.path().join("meta/episodes.jsonl"))
        .expect("list")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(again[2], serde_json::json!({ "episode_index": 2, "tasks": [PUSH, OPEN], "length": 5 }));
    fs::write(
        &list,
        text.lines()
            .enumerate()
            .filter(|(line, _)| *line != 1)
            .map(|(_, line)| format!("{line}\n"))
            .collect::<String>(),
    )
    .expect("write");
    let copy = repaired(&directory, &[0, 2]);
    assert!(!copy.path().join(table_of(1)).exists(), "a table that no episode has");
}

#[test]
fn a_repaired_copy_starts_where_the_videos_do() {
    for starts in [[0.0, 0.76, 1.96], [0.0, 0.64, 1.9], [0.0, 0.8, 1.9]] {
        let directory = starting_at(starts);
        let copy = repaired(&directory, &[0, 1, 2]);
        let column = rows(&copy.path().join(EPISODES))
            .column_by_name(&format!("videos/{FRONT}/from_timestamp"))
            .expect("there")
            .clone();
        let found = column.as_primitive::<arrow_array::types::Float64Type>().values().to_vec();
        assert!(found.iter().zip([0.0, 0.7, 1.9]).all(|(found, right)| (found - right).abs() < 1e-6), "{found:?}");
    }
    // A number of a file that is not said, and one of a file that is not there.
    for numbers in [vec![Some(0), None, Some(0)], vec![Some(0), Some(3), Some(0)]] {
        let directory = copied("v30");
        put(
            &directory.path().join(EPISODES),
            &format!("videos/{WRIST}/file_index"),
            Some(Arc::new(Int64Array::from(numbers))),
        );
        repaired(&directory, &[0, 1, 2]);
    }
}

#[test]
fn tables_in_another_order_than_their_rows_are_named_anew() {
    let directory = copied("v30");
    split(directory.path(), &[&[1, 2], &[0]]);
    put(&directory.path().join(EPISODES), "data/file_index", ints([0, 0, 0]));
    let copy = repaired(&directory, &[0, 1, 2]);
    assert_eq!(numbers(&copy.path().join(EPISODES), "data/file_index"), [0, 1, 1]);
    assert_eq!(numbers(&copy.path().join(DATA), "index"), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_repair_writes_into_a_new_folder_outside_of_the_dataset() {
    let directory = copied("v21");
    let full = copied("v21");
    refused(dataset(directory.path()).repair(full.path()), &["must be new or empty"]);
    let inside = directory.path().join("repaired");
    refused(dataset(directory.path()).repair(&inside), &["must be outside of the dataset"]);
    assert!(!inside.exists());
}

// -------------------------------------------------------------------------------------------------------------- views

#[test]
fn a_depth_camera_is_no_view_unless_it_is_named() {
    let flagged = r#""info": {"is_depth_map": true}, "dtype": "video""#;
    let directory = copied("v21");
    let path = directory.path().join("meta/info.json");
    let text = fs::read_to_string(&path).expect("info");
    let at = text.find(WRIST).expect("there");
    let (before, after) = text.split_at(at);
    for (from, to) in [("\"dtype\": \"video\"", flagged), ("48,\n    3", "48,\n    1")] {
        assert!(after.contains(from), "{after}");
        fs::write(&path, format!("{before}{}", after.replacen(from, to, 1))).expect("write");
        let views = |config| open(config).expect("opens").sources()[0].views.clone();
        assert_eq!(views(set(directory.path())), [Some(FRONT.to_owned())]);
        let view_map = IndexMap::from([("image_1".to_owned(), WRIST.to_owned())]);
        assert_eq!(views(DatasetConfig { view_map, ..set(directory.path()) }), [Some(WRIST.to_owned())]);
    }
}

#[test]
fn pictures_of_16_bits_are_refused_unless_they_are_asked_for() {
    use arrow_array::{BinaryArray, StructArray};
    let directory = copied("images");
    let path = directory.path().join(table_of(0));
    let count = rows(&path).num_rows();
    let with = |picture: &image::DynamicImage, format| {
        let mut encoded = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut encoded, format).expect("encoded");
        let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values((0..count).map(|_| encoded.get_ref())));
        let field = Arc::new(Field::new("bytes", bytes.data_type().clone(), true));
        put(&path, FRONT, Some(Arc::new(StructArray::from(vec![(field, bytes)]))));
    };
    let view_map = IndexMap::from([("image_1".to_owned(), FRONT.to_owned())]);
    let asked_for = DatasetConfig { view_map, ..set(directory.path()) };
    let depth = image::ImageBuffer::from_fn(48, 32, |x, _| image::Luma([if x < 24 { 0x8000_u16 } else { 0x1234 }]));
    for format in [image::ImageFormat::Png, image::ImageFormat::Tiff] {
        with(&depth.clone().into(), format);
        refused(sample(set(directory.path()), 0, 2), &[FRONT, "more than 8 bits", "view_map"]);
        let sample = sample(asked_for.clone(), 0, 2).expect("asked for");
        let View::Present(frame) = &sample.observation.views[0] else { panic!("present") };
        assert_eq!((&frame.rgb()[..3], &frame.rgb()[47 * 3..48 * 3]), (&[0x80; 3][..], &[0x12; 3][..]), "{format:?}");
    }
    let metres = image::Rgb32FImage::from_pixel(48, 32, image::Rgb([1.5; 3]));
    with(&metres.into(), image::ImageFormat::Tiff);
    refused(sample(asked_for, 0, 2), &[FRONT, "fractions for levels"]);
}

#[test]
fn threads_read_pictures_of_one_table_at_a_time() {
    let mixture = open(set(&fixture("images"))).expect("a mixture");
    let source = &mixture.sources()[0];
    let read = |frame: usize| {
        let sample = source.sample(0, frame, HORIZON, &VideoPool::new(NonZeroUsize::MIN)).expect("a sample");
        sample.observation.views
    };
    let alone: Vec<_> = (0..7).map(read).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (alone, read) = (&alone, &read);
            scope.spawn(move || {
                for at in 0..70 {
                    let frame = (at * (thread + 1)) % 7;
                    assert!(read(frame) == alone[frame], "frame {frame}");
                }
            });
        }
    });
}

#[test]
fn a_missing_video_is_an_absent_view_where_that_is_chosen() {
    let directory = copied("v21");
    fs::remove_file(directory.path().join(video_of(WRIST, 1))).expect("there");
    refused(sample(set(directory.path()), 1, 0), &["episode_000001.mp4"]);
    let absent = DatasetConfig { missing_video: MissingVideo::Absent, ..set(directory.path()) };
    assert_same(&absent, &[0, 2]);
    let (views, state, actions, instruction) = content(absent.clone(), 1, 4);
    let mut whole = content(set(&fixture("v21")), 1, 4);
    whole.0[1] = View::Absent;
    assert!((views, state, actions, instruction) == whole);
    fs::remove_file(directory.path().join(video_of(FRONT, 1))).expect("there");
    refused(open(absent), &["the number of videos of episode 1 must be at least 1"]);
}
