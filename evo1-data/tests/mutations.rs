//! Datasets that are damaged at random: what is read of them is what the whole dataset holds, or it is said what is wrong.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, cast::AsArray, types::Int64Type};
use arrow_schema::{DataType, Field, Schema};
use arrow_select::take::take;
use evo1_core::{
    View,
    rng::{ChaCha8Rng, RngExt, stream},
};
use evo1_data::{DataConfig, DatasetConfig, Mixture, VideoPool};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use serde_json::Value;

mod common;

use common::{HORIZON, fixture};

/// Datasets that are damaged.
const COUNT: u64 = 1000;

/// What a sample shows: frames by camera, state, actions, instruction.
type Content = (BTreeMap<String, Vec<u8>>, Vec<f32>, Vec<f32>, String);

/// Warnings that a thread has heard.
struct Ears(Arc<AtomicUsize>);

impl tracing::Subscriber for Ears {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// All samples of a dataset by episode and frame, or what is wrong with them.
fn samples(root: &Path) -> evo1_data::Result<BTreeMap<(usize, usize), evo1_data::Result<Content>>> {
    let mixture = Mixture::open(&DataConfig::single(DatasetConfig::new(root)), HORIZON)?;
    let (source, videos) = (&mixture.sources()[0], VideoPool::new(NonZeroUsize::new(4).expect("not 0")));
    let mut all = BTreeMap::new();
    for episode in source.episodes() {
        let rows = source.dataset.table(episode).map_or(1, |table| table.rows());
        for frame in 0..rows {
            let sample = source.sample(episode, frame, HORIZON, &videos).map(|sample| {
                let views = source.views.iter().flatten().cloned().zip(&sample.observation.views);
                let shown = views.filter_map(|(camera, view)| match view {
                    View::Present(frame) => Some((camera, frame.rgb().to_vec())),
                    _ => None,
                });
                (shown.collect(), sample.observation.state, sample.actions, sample.observation.instruction)
            });
            all.insert((episode, frame), sample);
        }
    }
    Ok(all)
}

/// Hard links to the files of a dataset.
fn linked(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folder");
    for entry in fs::read_dir(from).expect("folder") {
        let (path, to) = (entry.as_ref().expect("entry").path(), to.join(entry.expect("entry").file_name()));
        match path.is_dir() {
            true => linked(&path, &to),
            false => fs::hard_link(&path, &to).or_else(|_| fs::copy(&path, &to).map(drop)).expect("file"),
        }
    }
}

/// All files below a folder, in the order of their names.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

/// Writes a file that may be a link to another one.
fn rewrite(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::remove_file(path).expect("there");
    fs::write(path, bytes).expect("write");
}

fn pick<T>(rng: &mut ChaCha8Rng, of: &[T]) -> usize {
    rng.random_range(0..of.len())
}

/// Damages something. Says what.
fn damage(root: &Path, rng: &mut ChaCha8Rng) -> String {
    let all = files(root);
    let path = &all[pick(rng, &all)];
    let name = path.strip_prefix(root).expect("below").display().to_string();
    let kind = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
    // Dropping is one of several things that happen to a file.
    let what = match (kind, rng.random_range(0..6)) {
        (_, 0) | ("mp4", _) => {
            fs::remove_file(path).expect("there");
            "dropped".to_owned()
        }
        ("json", _) => {
            let mut document = serde_json::from_slice(&fs::read(path).expect("file")).expect("JSON");
            let what = damage_value(&mut document, rng);
            rewrite(path, document.to_string());
            what
        }
        ("jsonl", _) => damage_lines(path, rng),
        ("parquet", _) => damage_table(path, name.starts_with("data/"), rng),
        _ => "nothing".into(),
    };
    format!("{name}: {what}")
}

fn damage_lines(path: &Path, rng: &mut ChaCha8Rng) -> String {
    let text = fs::read_to_string(path).expect("file");
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    if lines.is_empty() {
        return "nothing".into();
    }
    let at = pick(rng, &lines);
    let what = match rng.random_range(0..5) {
        0 => {
            lines.remove(at);
            format!("line {at} dropped")
        }
        1 => {
            lines.push(lines[at].clone());
            format!("line {at} twice")
        }
        2 => {
            let other = pick(rng, &lines);
            lines.swap(at, other);
            format!("lines {at} and {other} swapped")
        }
        _ => format!("line {at}, {}", damage_value(&mut lines[at], rng)),
    };
    rewrite(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    what
}

/// Pointers to the values that have no others below them.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Array(values) if !values.is_empty() => {
            values.iter().enumerate().for_each(|(index, value)| leaves(value, &format!("{at}/{index}"), found));
        }
        Value::Object(values) if !values.is_empty() => {
            values.iter().for_each(|(key, value)| leaves(value, &format!("{at}/{key}"), found));
        }
        _ => found.push(at.to_owned()),
    }
}

fn damage_value(document: &mut Value, rng: &mut ChaCha8Rng) -> String {
    let mut found = Vec::new();
    leaves(document, "", &mut found);
    let (at, other) = (found[pick(rng, &found)].clone(), found[pick(rng, &found)].clone());
    let otherwise = document.pointer(&other).cloned().expect("there");
    if rng.random_range(0..8) == 0 {
        let (parent, key) = at.rsplit_once('/').expect("below the top");
        match document.pointer_mut(parent) {
            Some(Value::Object(values)) => _ = values.shift_remove(key),
            Some(Value::Array(values)) => _ = values.remove(key.parse().expect("an index")),
            _ => {}
        }
        return format!("{at} removed");
    }
    let value = document.pointer_mut(&at).expect("there");
    let new = match (&*value, rng.random_range(0..6)) {
        (_, 0) => Value::Null,
        (_, 1) => otherwise,
        (Value::Number(number), kind) => number_like(number.as_f64().expect("a number"), kind, rng),
        (Value::Bool(value), _) => (!*value).into(),
        (Value::String(text), 2) if !text.is_empty() => {
            let characters: Vec<char> = text.chars().collect();
            let gone = pick(rng, &characters);
            characters.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, c)| c).collect::<String>().into()
        }
        (Value::String(text), 3) => format!("{text}x").into(),
        (Value::String(_), _) => "".into(),
        _ => 7.into(),
    };
    let what = format!("{at} from {value} to {new}");
    *value = new;
    what
}

fn number_like(value: f64, kind: usize, rng: &mut ChaCha8Rng) -> Value {
    match kind {
        2 => (value + 1.0).into(),
        3 => (value - 1.0).into(),
        4 => (value * 2.0).into(),
        _ => [0.0, -1.0, 0.5, 1e9][rng.random_range(0..4)].into(),
    }
}

/// Damages a table: its columns, and values of those columns that say where rows belong.
fn damage_table(path: &Path, is_data: bool, rng: &mut ChaCha8Rng) -> String {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("file")).expect("parquet");
    let batch = reader.build().expect("reader").next().expect("a batch").expect("rows");
    let mut fields: Vec<Field> = batch.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    let mut columns = batch.columns().to_vec();
    // Values of states and actions are nobody's to check, nor which of an episode's tasks a row has.
    let is_place = |field: &Field| {
        !is_data || ["index", "frame_index", "episode_index", "timestamp"].contains(&field.name().as_str())
    };
    let places: Vec<usize> =
        (0..fields.len()).filter(|&at| is_place(&fields[at]) && !fields[at].name().starts_with("stats/")).collect();
    if places.is_empty() {
        return "nothing".into();
    }
    let at = places[pick(rng, &places)];
    let name = fields[at].name().clone();
    let what = match rng.random_range(0..5) {
        0 => {
            let other = pick(rng, &fields);
            let (one, two) = (name, fields[other].name().clone());
            fields[at] = fields[at].clone().with_name(&two);
            fields[other] = fields[other].clone().with_name(&one);
            format!("columns {one} and {two} swapped")
        }
        1 if fields.len() > 1 => {
            fields.remove(at);
            columns.remove(at);
            format!("column {name} dropped")
        }
        2 => {
            let reversed = Int64Array::from_iter_values((0..batch.num_rows() as i64).rev());
            columns[at] = take(&columns[at], &reversed, None).expect("taken");
            format!("column {name} reversed")
        }
        _ => match columns[at].data_type().clone() {
            DataType::Int64 => {
                let mut values: Vec<Option<i64>> = columns[at].as_primitive::<Int64Type>().iter().collect();
                let row = pick(rng, &values);
                let (old, kind) = (values[row], rng.random_range(0..6));
                values[row] = (kind > 0).then(|| {
                    number_like(old.unwrap_or_default() as f64, kind, rng).as_f64().unwrap_or_default() as i64
                });
                let what = format!("{name}, row {row} from {old:?} to {:?}", values[row]);
                let is_float = rng.random_range(0..4) == 0;
                columns[at] = match is_float {
                    true => {
                        Arc::new(Float64Array::from_iter(values.iter().map(|value| value.map(|value| value as f64))))
                    }
                    false => Arc::new(Int64Array::from(values)) as ArrayRef,
                };
                what
            }
            DataType::Float64 => {
                let old = columns[at].as_primitive::<arrow_array::types::Float64Type>().values().to_vec();
                let (mut values, row) = (old.clone(), pick(rng, &old));
                let kind = rng.random_range(2..6);
                values[row] = match rng.random_range(0..3) {
                    0 => old[row] + 0.06,
                    _ => number_like(old[row], kind, rng).as_f64().unwrap_or(f64::NAN),
                };
                let what = format!("{name}, row {row} from {} to {}", old[row], values[row]);
                columns[at] = Arc::new(Float64Array::from(values));
                what
            }
            _ => {
                let rows = batch.num_rows() as i64;
                let turned = Int64Array::from_iter_values((0..rows).map(|row| (row + 1) % rows));
                columns[at] = take(&columns[at], &turned, None).expect("taken");
                format!("column {name} turned by a row")
            }
        },
    };
    for (field, column) in fields.iter_mut().zip(&columns) {
        *field = Field::new(field.name(), column.data_type().clone(), true);
    }
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("batch");
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("writer");
    writer.write(&batch).expect("write");
    writer.close().expect("close");
    rewrite(path, bytes);
    what
}

#[test]
fn damaged_datasets_are_read_right_or_say_what_is_wrong() {
    let sets = ["v21", "v30"].map(|name| (fixture(name), samples(&fixture(name)).expect("a whole dataset")));
    let (mut whole, mut parts, mut refused, mut said) = (0, 0, 0, 0);
    let mut wrong = Vec::new();
    for seed in 0..COUNT {
        let mut rng = stream(seed, "mutation");
        let (fixture, expected) = &sets[rng.random_range(0..2)];
        let directory = tempfile::tempdir().expect("directory");
        linked(fixture, directory.path());
        let count = rng.random_range(1..4);
        let what: Vec<String> = (0..count).map(|_| damage(directory.path(), &mut rng)).collect();
        let heard = Arc::new(AtomicUsize::new(0));
        let found = tracing::subscriber::with_default(Ears(heard.clone()), || samples(directory.path()));
        let Ok(found) = found else {
            refused += 1;
            continue;
        };
        let has_warned = heard.load(Ordering::Relaxed) > 0;
        let (mut right, mut is_other, mut is_wrong) = (0, false, false);
        for (place, content) in &found {
            let Ok((shown, state, actions, instruction)) = content else { continue };
            let Some(Ok((frames, of_state, of_actions, of_instruction))) = expected.get(place) else {
                is_wrong = true;
                continue;
            };
            let are_frames = shown.iter().all(|(camera, frame)| frames.get(camera) == Some(frame));
            // Where the tables are said to have another length, windows end with it.
            let episode = (place.0, 0)..=(place.0, usize::MAX);
            let is_cut = has_warned && found.range(episode.clone()).count() != expected.range(episode).count();
            let compared = if is_cut { actions.len() / HORIZON } else { actions.len() };
            let is_same = are_frames && state == of_state && actions[..compared] == of_actions[..compared];
            // An instruction that was edited in one of two places is told with a warning.
            let is_told = instruction == of_instruction || has_warned;
            right += usize::from(is_same && instruction == of_instruction);
            is_other |= is_same && instruction != of_instruction;
            is_wrong |= !is_same || !is_told;
        }
        match (is_wrong, is_other) {
            (true, _) => wrong.push(format!("{seed}: {}", what.join("; "))),
            (false, true) => said += 1,
            (false, false) if right == expected.len() => whole += 1,
            (false, false) => parts += 1,
        }
    }
    eprintln!(
        "{COUNT} damaged datasets: {whole} read whole, {parts} in part, {refused} refused when opened, {said} with an edited \
         instruction and a warning, {} read wrong",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(whole > 100 && parts > 100 && refused > 50, "every outcome is there");
}
