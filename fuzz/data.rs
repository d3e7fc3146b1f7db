//! What the targets of `evo1-data` do with their bytes. A test of that crate runs the same bodies on the corpus.

use std::{fs, path::Path};

use evo1_data::{DataConfig, Dataset, OpenOptions, VideoReader};

/// A target's name and body.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// Every target.
pub(crate) const TARGETS: [Target; 4] =
    [("data_config", data_config), ("video", video), ("table", table), ("info", info)];

/// A data configuration.
pub(crate) fn data_config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = DataConfig::parse(text);
    }
}

/// An MP4 file: its index, and its first, last and middle frame.
pub(crate) fn video(data: &[u8]) {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("video.mp4");
    fs::write(&path, data).expect("write");
    if let Ok(mut reader) = VideoReader::open(&path) {
        for frame in [0, reader.frames() - 1, reader.frames() / 2] {
            let _ = reader.frame(frame);
        }
    }
}

/// The table of an episode.
pub(crate) fn table(data: &[u8]) {
    let directory = dataset(INFO);
    fs::write(directory.path().join("data.parquet"), data).expect("write");
    let dataset = Dataset::open(directory.path(), &OpenOptions::default()).expect("a dataset");
    let _ = dataset.table(0);
}

/// A dataset's description of itself.
pub(crate) fn info(data: &[u8]) {
    let directory = dataset("");
    fs::write(directory.path().join("meta/info.json"), data).expect("write");
    if let Ok(dataset) = Dataset::open(directory.path(), &OpenOptions::default()) {
        for camera in dataset.info().cameras().map(str::to_owned).collect::<Vec<_>>() {
            let _ = dataset.clip(0, &camera);
        }
        let _ = dataset.table(0);
    }
}

const INFO: &str = r#"{"codebase_version":"v2.1","total_episodes":1,"total_frames":7,"fps":10,
    "data_path":"data.parquet","features":{}}"#;

/// A folder with one episode of seven frames, without its table.
fn dataset(info: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("directory");
    let write = |name: &str, text: &str| fs::write(Path::new(directory.path()).join(name), text).expect("write");
    fs::create_dir(directory.path().join("meta")).expect("folder");
    write("meta/info.json", info);
    write("meta/episodes.jsonl", r#"{"episode_index":0,"length":7,"tasks":["go"]}"#);
    write("meta/tasks.jsonl", r#"{"task_index":0,"task":"go"}"#);
    directory
}
