//! `meta/info.json`: what a dataset holds and where.

use std::path::{Path, PathBuf};

use evo1_core::files::read_text;
use indexmap::IndexMap;
use serde::Deserialize;

use crate::{Error, Result};

/// A dataset's description of itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Info {
    /// Version of the layout: `v2.0`, `v2.1` or `v3.0`.
    pub codebase_version: String,
    /// The robot.
    #[serde(default)]
    pub robot_type: Option<String>,
    /// Episodes.
    pub total_episodes: usize,
    /// Frames of all episodes.
    pub total_frames: usize,
    /// Frames per second, of tables and videos.
    pub fps: f64,
    /// Episodes per folder (versions 2), files per folder (version 3).
    #[serde(default = "chunks_size")]
    pub chunks_size: usize,
    /// Where tables are, with placeholders.
    pub data_path: String,
    /// Where videos are, with placeholders.
    #[serde(default)]
    pub video_path: Option<String>,
    /// Columns and cameras, in the order of the file.
    pub features: IndexMap<String, Feature>,
}

fn chunks_size() -> usize {
    1000
}

/// A column or camera.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Feature {
    /// `float32`, `int64`, `video`, `image`, …
    pub dtype: String,
    /// Its shape without the frame dimension.
    #[serde(default)]
    pub shape: Vec<usize>,
    /// Names of its dimensions, in one of several forms.
    #[serde(default)]
    pub names: serde_json::Value,
    /// What its recorder says of a video: codec, channels, whether it is a map of depths.
    #[serde(default)]
    pub info: serde_json::Value,
}

/// A layout that this crate reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// 2.0 and 2.1: a file per episode.
    PerEpisode,
    /// 3.0: many episodes in a file.
    Shared,
}

impl Info {
    /// Reads `meta/info.json`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        let info: Self = serde_json::from_str(&text).map_err(|error| Error::format(path, "info.json", error))?;
        info.layout(path)?;
        if !(info.fps.is_finite() && info.fps > 0.0) {
            return Err(Error::inconsistent(path, "`fps`", "a positive number", info.fps));
        }
        if info.chunks_size == 0 {
            return Err(Error::inconsistent(path, "`chunks_size`", "at least 1", 0));
        }
        Ok(info)
    }

    pub(super) fn layout(&self, path: &Path) -> Result<Layout> {
        match self.codebase_version.as_str() {
            "v2.0" | "v2.1" => Ok(Layout::PerEpisode),
            "v3.0" => Ok(Layout::Shared),
            other => Err(Error::inconsistent(path, "`codebase_version`", "v2.0, v2.1 or v3.0", other)),
        }
    }

    /// Whether a path, relative to the dataset's folder, is that of a table.
    #[cfg(feature = "hub")]
    pub(crate) fn is_in_tables(&self, path: &Path) -> bool {
        let fixed = self.data_path.split('{').next().unwrap_or_default();
        path.starts_with(fixed.rsplit_once('/').map_or("", |(top, _)| top))
            && path.extension().is_some_and(|end| end == "parquet")
    }

    /// Names of the cameras, in the order of the file: features that are videos or images.
    pub fn cameras(&self) -> impl Iterator<Item = &str> {
        self.features.iter().filter(|(_, feature)| feature.is_camera()).map(|(name, _)| name.as_str())
    }
}

impl Feature {
    /// Whether each frame is a picture.
    pub fn is_camera(&self) -> bool {
        self.is_video() || self.dtype == "image"
    }

    /// Whether its pictures are in video files.
    pub fn is_video(&self) -> bool {
        self.dtype == "video"
    }

    /// Whether its pictures are maps of depths: they are said to be, or have one channel.
    pub fn is_depth(&self) -> bool {
        let is_said = |key: &str| self.info.get(key).and_then(serde_json::Value::as_bool) == Some(true);
        let has_one_channel = self.shape.len() == 3 && (self.shape[0] == 1 || self.shape[2] == 1);
        self.is_camera() && (is_said("is_depth_map") || is_said("video.is_depth_map") || has_one_channel)
    }

    /// Values in a row of a column of numbers, if its shape says so.
    pub(super) fn width(&self) -> Option<usize> {
        if self.shape.is_empty() || ["string", "language"].contains(&self.dtype.as_str()) {
            return None;
        }
        self.shape.iter().try_fold(1_usize, |width, &size| width.checked_mul(size))
    }

    /// Names of the dimensions of a vector: `["x", "y"]`, `[["x", "y"]]` or `{"motors": ["x", "y"]}`.
    pub fn dimension_names(&self) -> Vec<String> {
        fn strings(value: &serde_json::Value, names: &mut Vec<String>) {
            match value {
                serde_json::Value::String(name) => names.push(name.clone()),
                serde_json::Value::Array(values) => values.iter().for_each(|value| strings(value, names)),
                serde_json::Value::Object(values) => values.values().for_each(|value| strings(value, names)),
                _ => {}
            }
        }
        let mut names = Vec::new();
        strings(&self.names, &mut names);
        names
    }
}

/// Which of the numbered files of a kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileNumber {
    pub(super) chunk: usize,
    pub(super) file: usize,
}

/// The numbers that path templates of all versions may name.
pub(super) fn numbers(episode: usize, chunk: usize, file: usize) -> [(&'static str, usize); 4] {
    [("episode_index", episode), ("episode_chunk", chunk), ("chunk_index", chunk), ("file_index", file)]
}

/// A path with `{name}` and `{name:06d}` filled in, relative and without `..`.
pub(super) fn fill(template: &str, numbers: &[(&str, usize)], video_key: &str, info: &Path) -> Result<PathBuf> {
    let bad = |expected: &str| Error::inconsistent(info, "a path template", expected, template);
    let mut path = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        path.push_str(before);
        let (field, after) = after.split_once('}').ok_or_else(|| bad("closed with `}` wherever `{` opens"))?;
        let (name, format) = field.split_once(':').unwrap_or((field, ""));
        let number = numbers.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
        match (name, number) {
            (_, Some(number)) => {
                let width: usize = format.trim_end_matches('d').parse().unwrap_or(0);
                path.push_str(&format!("{number:0width$}", width = width.min(20)));
            }
            ("video_key", None) => path.push_str(video_key),
            _ => return Err(bad("made of fields that its version has")),
        }
        rest = after;
    }
    path.push_str(rest);
    let path = PathBuf::from(path);
    let is_inside = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if is_inside { Ok(path) } else { Err(bad("a relative path without `..`")) }
}

/// The numbers that a path template was filled in with to give a path; nothing where it cannot give it.
pub(super) fn numbers_in(template: &str, path: &Path) -> Option<FileNumber> {
    let mut found = FileNumber::default();
    let (mut rest, mut left) = (template, path.to_str()?);
    while let Some((before, after)) = rest.split_once('{') {
        let (field, after) = after.split_once('}')?;
        left = left.strip_prefix(before)?;
        let digits = left.find(|c: char| !c.is_ascii_digit()).unwrap_or(left.len());
        let number = left[..digits].parse().ok()?;
        match field.split(':').next()? {
            "chunk_index" | "episode_chunk" => found.chunk = number,
            _ => found.file = number,
        }
        (rest, left) = (after, &left[digits..]);
    }
    let is_same = |filled: PathBuf| filled == path;
    let numbers = numbers(found.file, found.chunk, found.file);
    fill(template, &numbers, "", Path::new("")).is_ok_and(is_same).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_and_cannot_leave_the_folder() {
        let info = Path::new("info.json");
        let filled = fill("videos/chunk-{a:03d}/{video_key}/episode_{b:06d}.mp4", &[("a", 1), ("b", 12)], "cam", info);
        assert_eq!(filled.expect("path"), Path::new("videos/chunk-001/cam/episode_000012.mp4"));
        for bad in ["../{a}", "/etc/{a}", "x/{video_key}/y", "{c}", "{a"] {
            assert!(fill(bad, &[("a", 1)], "../../z", info).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_found_in_paths_that_a_template_gives() {
        let found = |template, path| numbers_in(template, Path::new(path)).map(|found| (found.chunk, found.file));
        let shared = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet";
        assert_eq!(found(shared, "data/chunk-001/file-012.parquet"), Some((1, 12)));
        assert_eq!(found(shared, "data/chunk-1000/file-1234.parquet"), Some((1000, 1234)));
        let own = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet";
        assert_eq!(found(own, "data/chunk-002/episode_002001.parquet"), Some((2, 2001)));
        for path in
            ["data/chunk-1/file-012.parquet", "data/chunk-001/file-012.mp4", "data/chunk-001/file-.parquet", "x"]
        {
            assert_eq!(found(shared, path), None, "{path}");
        }
    }

    #[test]
    fn dimension_names_come_in_three_forms() {
        for names in [r#"["x","y"]"#, r#"[["x","y"]]"#, r#"{"motors":["x","y"]}"#] {
            let feature = format!(r#"{{"dtype":"float32","shape":[2],"names":{names}}}"#);
            let feature: Feature = serde_json::from_str(&feature).expect("feature");
            assert_eq!(feature.dimension_names(), ["x", "y"]);
        }
    }
}
