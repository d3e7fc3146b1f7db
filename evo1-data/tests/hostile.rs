//! Damaged and contradictory datasets: each is refused with what is wrong and where.

use std::{
    fs::{self, File},
    num::NonZeroUsize,
    path::Path,
    sync::Arc,
};

use arrow_array::{ArrayRef, Int64Array, ListArray, RecordBatch, cast::AsArray, types::Float32Type};
use evo1::Policy;
use evo1_data::{
    DataConfig, Dataset, DatasetConfig, Error, Loader, LoaderOptions, Mixture, OnError, OpenOptions, Position,
    VideoPool,
};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};

mod common;

use common::{HORIZON, copied, fixture};

const TABLE: &str = "data/chunk-000/episode_000001.parquet";
const VIDEO: &str = "videos/chunk-000/observation.images.front/episode_000001.mp4";

/// The message of what goes wrong when frame 5 of episode 1 is read as a sample.
fn refused(root: &Path) -> String {
    let sample = || -> evo1_data::Result<()> {
        let mixture = Mixture::open(&DataConfig::single(DatasetConfig::new(root)), HORIZON)?;
        mixture.sources()[0].sample(1, 5, HORIZON, &VideoPool::new(NonZeroUsize::MIN)).map(|_| ())
    };
    sample().expect_err("it is damaged").to_string()
}

fn edited(root: &Path, file: &str, from: &str, to: &str) {
    let path = root.join(file);
    let text = fs::read_to_string(&path).expect("text");
    assert!(text.contains(from), "{file} holds {from}");
    fs::write(&path, text.replacen(from, to, 1)).expect("write");
}

/// Writes a table again with one column changed.
fn with_column(path: &Path, column: &str, change: impl Fn(&ArrayRef) -> ArrayRef) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("file")).expect("parquet");
    let batches: Vec<RecordBatch> = reader.build().expect("reader").map(|batch| batch.expect("batch")).collect();
    let mut writer =
        ArrowWriter::try_new(File::create(path).expect("file"), batches[0].schema(), None).expect("writer");
    for batch in batches {
        let at = batch.schema().index_of(column).expect("column");
        let mut columns = batch.columns().to_vec();
        columns[at] = change(&columns[at]);
        writer.write(&RecordBatch::try_new(batch.schema(), columns).expect("batch")).expect("write");
    }
    writer.close().expect("close");
}

/// A column of vectors, each changed.
fn vectors(column: &ArrayRef, change: impl Fn(usize, Vec<f32>) -> Vec<f32>) -> ArrayRef {
    let rows = column.as_list::<i32>().iter().enumerate().map(|(row, values)| {
        let values = values.expect("a vector").as_primitive::<Float32Type>().values().to_vec();
        Some(change(row, values).into_iter().map(Some).collect::<Vec<_>>())
    });
    let list = ListArray::from_iter_primitive::<Float32Type, _, _>(rows);
    let (_, offsets, values, nulls) = list.into_parts();
    let arrow_schema::DataType::List(field) = column.data_type() else { panic!("a list") };
    Arc::new(ListArray::new(field.clone(), offsets, values, nulls))
}

#[test]
fn a_cut_video_is_refused_at_every_length() {
    let directory = copied("v21");
    let path = directory.path().join(VIDEO);
    let whole = fs::read(&path).expect("video");
    for length in (0..whole.len()).step_by(97) {
        fs::write(&path, &whole[..length]).expect("write");
        let message = refused(directory.path());
        assert!(message.contains("episode_000001.mp4"), "{length} bytes: {message}");
    }
}

#[test]
fn a_damaged_video_gives_an_error_or_a_frame_and_never_more() {
    let directory = copied("v21");
    for video in [VIDEO, "videos/chunk-000/observation.images.wrist/episode_000001.mp4"] {
        let path = directory.path().join(video);
        let whole = fs::read(&path).expect("video");
        for at in (0..whole.len()).step_by(61) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            fs::write(&path, &damaged).expect("write");
            let videos = VideoPool::new(NonZeroUsize::MIN);
            for frame in [0, 7, 11] {
                let _ = videos.frame_at(&path, frame as f64 / 10.0, 0.05);
            }
        }
        fs::write(&path, &whole).expect("write");
    }
}

#[cfg(not(feature = "ffmpeg"))]
#[test]
fn a_codec_that_takes_ffmpeg_is_named_with_the_feature() {
    let directory = copied("v21");
    let path = directory.path().join(VIDEO);
    let mut bytes = fs::read(&path).expect("video");
    for (from, to) in [(b"avc1", b"hvc1"), (b"avcC", b"hvcC")] {
        let at = bytes.windows(4).rposition(|window| window == from).expect("a box of H.264");
        bytes[at..at + 4].copy_from_slice(to);
    }
    fs::write(&path, &bytes).expect("write");
    let message = refused(directory.path());
    assert!(message.contains("its codec is HEVC") && message.contains("`--features ffmpeg`"), "{message}");
}

#[test]
fn a_cut_table_is_refused_at_every_length() {
    let directory = copied("v21");
    let path = directory.path().join(TABLE);
    let whole = fs::read(&path).expect("table");
    for length in (0..whole.len()).step_by(101) {
        fs::write(&path, &whole[..length]).expect("write");
        let message = refused(directory.path());
        assert!(message.contains("episode_000001.parquet"), "{length} bytes: {message}");
    }
}

#[test]
fn cut_files_of_version_3_are_refused() {
    for file in [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/tasks.parquet",
        "videos/observation.images.front/chunk-000/file-000.mp4",
    ] {
        let directory = copied("v30");
        let path = directory.path().join(file);
        let whole = fs::read(&path).expect("there");
        for length in (0..whole.len()).step_by(whole.len() / 7) {
            fs::write(&path, &whole[..length]).expect("write");
            let message = refused(directory.path());
            assert!(message.contains(path.to_str().expect("text")), "{length} bytes: {message}");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    for file in [TABLE, VIDEO, "meta/info.json", "meta/tasks.jsonl"] {
        let directory = copied("v21");
        fs::remove_file(directory.path().join(file)).expect("there");
        let message = refused(directory.path());
        assert!(message.contains(Path::new(file).file_name().expect("name").to_str().expect("text")), "{message}");
    }
}

#[test]
fn a_frame_rate_that_is_not_the_tables_is_refused() {
    let directory = copied("v21");
    edited(directory.path(), "meta/info.json", "\"fps\": 10", "\"fps\": 30");
    let message = refused(directory.path());
    assert!(message.contains("at 30 frames per second must be 0.0333 s, got 0.1000 s"), "{message}");
}

#[test]
fn a_frame_rate_that_is_not_the_videos_is_refused() {
    let directory = copied("v21");
    let path = directory.path().join(VIDEO);
    let mut bytes = fs::read(&path).expect("video");
    let at = bytes.windows(4).position(|window| window == b"mdhd").expect("a media header");
    let scale = &mut bytes[at + 16..at + 20];
    let tripled = 3 * u32::from_be_bytes(scale.try_into().expect("4 bytes"));
    scale.copy_from_slice(&tripled.to_be_bytes());
    fs::write(&path, &bytes).expect("write");
    let message = refused(directory.path());
    assert!(message.contains("the frame at 0.5000 s is wanted, but the nearest one is at 0.3667 s"), "{message}");
    assert!(message.contains("frame rate"), "{message}");
}

#[test]
fn holes_in_indices_are_refused() {
    let directory = copied("v21");
    with_column(&directory.path().join(TABLE), "frame_index", |column| {
        let values = column.as_primitive::<arrow_array::types::Int64Type>().values();
        Arc::new(Int64Array::from_iter_values(values.iter().map(|&value| value + i64::from(value > 6))))
    });
    let message = refused(directory.path());
    assert!(message.contains("`frame_index` of episode 1, row 7 must be 7, got 8"), "{message}");

    let directory = copied("v21");
    with_column(&directory.path().join(TABLE), "index", |column| {
        let values = column.as_primitive::<arrow_array::types::Int64Type>().values();
        Arc::new(Int64Array::from_iter_values(values.iter().map(|&value| value + i64::from(value > 12))))
    });
    let message = refused(directory.path());
    assert!(message.contains("`index` of episode 1, row 6 must be 13, got 14"), "{message}");
}

#[test]
fn counts_that_contradict_each_other_are_refused() {
    for (from, to, part) in [
        ("\"v2.1\"", "\"v1.6\"", "`codebase_version` must be v2.0, v2.1 or v3.0, got v1.6"),
        ("\"fps\": 10", "\"fps\": 0", "`fps` must be a positive number, got 0"),
        ("episode_{episode_index:06d}.parquet", "../../../x", "a relative path without `..`"),
    ] {
        let directory = copied("v21");
        edited(directory.path(), "meta/info.json", from, to);
        let message = refused(directory.path());
        assert!(message.contains(part), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_folder_is_refused_unless_allowed() {
    let (directory, elsewhere) = (copied("v21"), tempfile::tempdir().expect("directory"));
    let (inside, outside) = (directory.path().join(VIDEO), elsewhere.path().join("blob"));
    fs::rename(&inside, &outside).expect("move");
    std::os::unix::fs::symlink(&outside, &inside).expect("link");
    let message = refused(directory.path());
    assert!(message.contains("leads out of the dataset's folder"), "{message}");
    assert!(message.contains("follow_links: true"), "{message}");
    let options = OpenOptions { follow_links: true, ..OpenOptions::default() };
    let dataset = Dataset::open(directory.path(), &options).expect("a dataset");
    assert!(dataset.clip(1, "observation.images.front").is_ok());
}

#[test]
fn nan_in_a_state_is_refused_with_its_place() {
    let directory = copied("v21");
    with_column(&directory.path().join(TABLE), "observation.state", |column| {
        vectors(column, |row, state| if row == 5 { vec![f32::NAN; state.len()] } else { state })
    });
    let message = refused(directory.path());
    assert!(message.contains("column `state` holds NaN in episode 1, frame 5"), "{message}");
}

#[test]
fn a_column_that_is_not_there_is_named() {
    let config = DatasetConfig {
        process_suite: "custom".into(),
        suite_config: [("state_key".to_owned(), serde_json::json!("observation.joints"))].into(),
        ..DatasetConfig::new(fixture("v21"))
    };
    let mixture = Mixture::open(&DataConfig::single(config), HORIZON).expect("opens");
    let message = mixture.draw(Position::start(0)).expect_err("no such column").to_string();
    assert!(message.contains("there is no column `observation.joints`"), "{message}");
}

fn loader(config: DatasetConfig, edit: impl Fn(&mut DataConfig)) -> evo1_data::Result<Loader> {
    let device = evo1::device::test_devices().remove(0);
    let mut policy = Policy::tiny(0, &device).expect("tiny");
    let mut data = DataConfig::single(config);
    edit(&mut data);
    let mixture = Mixture::open(&data, policy.config.action.horizon)?;
    policy.statistics = None;
    let options = LoaderOptions { workers: 0, ..LoaderOptions::new(NonZeroUsize::new(8).expect("not 0")) };
    Loader::new(Arc::new(mixture), policy.preparer(), options)
}

/// Actions of 28 dimensions.
fn wide() -> DatasetConfig {
    let keys = serde_json::json!(["action.arms", "action.arms"]);
    DatasetConfig {
        process_suite: "custom".into(),
        suite_config: [("action_concat_keys".to_owned(), keys)].into(),
        ..DatasetConfig::new(fixture("v21"))
    }
}

#[test]
fn actions_wider_than_the_model_are_refused_with_the_fix_and_the_fix_works() {
    let batch = |config: DatasetConfig| loader(config, |_| ()).expect("a loader").batches(Position::start(0)).next();
    let message = batch(wide()).expect("endless").expect_err("28 of 24").to_string();
    assert!(message.contains("its action has 28 dimensions, but the model takes at most 24"), "{message}");
    assert!(message.contains("`action_dims: […]`"), "{message}");
    let chosen = DatasetConfig { action_dims: Some((4..28).collect()), ..wide() };
    let batch = batch(chosen).expect("endless").expect("24 of 24");
    assert_eq!(batch.actions.dims(), [8, 16, 24]);
}

#[test]
fn states_wider_than_the_model_are_refused_with_the_fix_and_the_fix_works() {
    let directory = copied("v21");
    for episode in 0..3 {
        let path = directory.path().join(format!("data/chunk-000/episode_{episode:06}.parquet"));
        with_column(&path, "observation.state", |column| {
            vectors(column, |_, state| state.iter().cycle().take(26).copied().collect())
        });
    }
    // Without a description of the column nothing contradicts it.
    edited(directory.path(), "meta/info.json", "\"observation.state\": {", "\"undescribed\": {");
    let config = DatasetConfig::new(directory.path());
    let batch = |config: DatasetConfig| loader(config, |_| ()).expect("a loader").batches(Position::start(0)).next();
    let message = batch(config.clone()).expect("endless").expect_err("26 of 24").to_string();
    assert!(message.contains("its state has 26 dimensions, but the model takes at most 24"), "{message}");
    assert!(message.contains("`state_dims: […]`"), "{message}");
    let chosen = DatasetConfig { state_dims: Some((0..24).collect()), ..config };
    let batch = batch(chosen).expect("endless").expect("24 of 24");
    assert_eq!(batch.inputs.state.dims(), [8, 24]);
}

#[test]
fn sizes_that_are_not_the_models_are_refused() {
    let refused = |edit: &dyn Fn(&mut DataConfig)| {
        let Err(error) = loader(DatasetConfig::new(fixture("v21")), edit) else { panic!("refused") };
        error.to_string()
    };
    let message = refused(&|data| data.max_action_dim = Some(32));
    assert!(message.contains("`max_action_dim` must be the model's, 24, got 32"), "{message}");
    let message = refused(&|data| data.normalization_type = Some(evo1_core::normalize::NormalizationType::Normal));
    assert!(message.contains("`normalization_type`"), "{message}");
}

#[test]
fn a_bad_episode_stops_the_run_or_is_skipped_and_counted() {
    let directory = copied("v21");
    let path = directory.path().join(VIDEO);
    let whole = fs::read(&path).expect("video");
    fs::write(&path, &whole[..whole.len() / 2]).expect("write");
    let batches = |on_error| {
        let loader = loader(DatasetConfig::new(directory.path()), |data| data.on_error = on_error).expect("a loader");
        let batches: Vec<_> = loader.batches(Position::start(3)).take(6).collect();
        (loader.skipped(), batches)
    };
    let (_, stopped) = batches(OnError::Stop);
    let error = stopped.into_iter().find_map(Result::err).expect("half of the samples are bad");
    assert!(matches!(&error, Error::Sample { .. }), "{error}");
    assert!(error.to_string().contains("episode 1, frame"), "{error}");

    let (skipped, continued) = batches(OnError::Skip);
    assert_eq!(skipped.len(), 1);
    assert_eq!(skipped[0].sample.episode, 1);
    for batch in continued {
        let batch = batch.expect("other samples stand in");
        assert_eq!(batch.samples.len(), 8);
        assert!(batch.samples.iter().all(|sample| sample.episode != 1));
    }
}

#[test]
fn a_dataset_without_a_readable_episode_ends_the_run_even_when_skipping() {
    let directory = copied("v21");
    for file in ["episode_000000", "episode_000001", "episode_000002"] {
        fs::write(directory.path().join(format!("videos/chunk-000/observation.images.front/{file}.mp4")), b"")
            .expect("write");
    }
    let loader = loader(DatasetConfig::new(directory.path()), |data| data.on_error = OnError::Skip).expect("a loader");
    let error = loader.batches(Position::start(0)).next().expect("endless").expect_err("nothing to read");
    assert!(error.to_string().contains("101 samples in a row could not be read"), "{error}");
}
