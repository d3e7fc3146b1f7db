//! Which data is trained on: the authors' `config.yaml`, and what this crate adds to it.
//!
//! ```yaml
//! max_action_dim: 24                 # these four as in the authors' file
//! max_state_dim: 24
//! max_views: 3
//! normalization_type: bounds
//! state_noise: 0.05                  # everything from here on is optional and ours
//! state_clamp: 1.5
//! data_groups:
//!   sawyer:                          # the arm key; its place in the alphabet is its embodiment id
//!     metaworld:                     # the dataset key
//!       path: data/metaworld
//!       view_map: { image_1: observation.images.image }
//!       process_suite: metaworld
//!       use_delta_action: False
//!       task_weights: { Reach the goal: 0.3, Press the button: 0.7 }
//!       frame_weights: [{ to: 14, weight: 5 }]
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
};

use evo1_core::{config::GripperRule, files::read_text, normalize::NormalizationType};
use indexmap::IndexMap;
use serde::Deserialize;

use crate::{Error, Result, hub::located};

/// The data of a training run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The model's padded action width; compared with the model.
    #[serde(default)]
    pub max_action_dim: Option<usize>,
    /// The model's padded state width; compared with the model.
    #[serde(default)]
    pub max_state_dim: Option<usize>,
    /// The model's number of views; compared with the model.
    #[serde(default)]
    pub max_views: Option<usize>,
    /// Which statistics normalise; compared with the model.
    #[serde(default)]
    pub normalization_type: Option<NormalizationType>,
    /// Datasets by arm key and dataset key.
    pub data_groups: BTreeMap<String, BTreeMap<String, DatasetConfig>>,
    /// Videos kept open: 16.
    #[serde(default = "decoder_cache_size")]
    pub decoder_cache_size: usize,
    /// Standard deviation of the Gaussian noise added to normalised states: one for all dimensions, or one for each.
    #[serde(default)]
    pub state_noise: StateNoise,
    /// Normalised states are clamped to ± this after the noise.
    #[serde(default)]
    pub state_clamp: Option<f32>,
    /// Random changes of frames; none.
    #[serde(default)]
    pub augmentation: Augmentation,
    /// Whether steps past an episode's end are masked in the loss; the profile's choice.
    #[serde(default)]
    pub mask_past_end: Option<bool>,
    /// What an episode that cannot be read does; it stops the run.
    #[serde(default)]
    pub on_error: OnError,
    /// The authors' cache of samples, of which there is none here. Read and not used.
    #[serde(default)]
    pub datasets_manifest: Option<String>,
    /// Belongs to the same cache. Read and not used.
    #[serde(default)]
    pub cache_shard_size_bytes: Option<u64>,
    /// Which of the chosen episodes are used, as the run has it that trains on some and looks at others.
    #[serde(skip)]
    pub part: Part,
}

/// A part of the episodes of each dataset.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Part {
    /// All of them.
    #[default]
    All,
    /// Those that are not held out, of which this share is.
    Trained(f64),
    /// Those that are held out, of which this share is.
    HeldOut(f64),
}

impl Part {
    /// The episodes of this part. Held out are episodes at equal distances, so that each task of a dataset that has them one
    /// after the other is among both; none of a single episode.
    pub(crate) fn of(self, episodes: Vec<usize>) -> Vec<usize> {
        let (share, wants_held_out) = match self {
            Self::All => return episodes,
            Self::Trained(share) => (share, false),
            Self::HeldOut(share) => (share, true),
        };
        let count = episodes.len();
        let held_out = ((share * count as f64).round() as usize).clamp(usize::from(count > 1), count.saturating_sub(1));
        let is_held_out = |at: usize| (at + 1) * held_out / count > at * held_out / count;
        episodes
            .into_iter()
            .enumerate()
            .filter(|&(at, _)| is_held_out(at) == wants_held_out)
            .map(|(_, number)| number)
            .collect()
    }
}

fn decoder_cache_size() -> usize {
    16
}

/// One dataset and how it is used.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// Its folder, relative to the configuration file; or on the Hub `hf://datasets/owner/name`, or `owner/name` where there is
    /// no such folder, with `@revision` or without. From there come only the files of the episodes and cameras that are used.
    pub path: PathBuf,
    /// The cameras that are views, in this order; without it those of the policy, by name, and where it knows no names all
    /// cameras, in the order of `info.json`.
    #[serde(default)]
    pub view_map: IndexMap<String, String>,
    /// Whether actions are made relative to the state of their row, on the dimensions that the suite names.
    #[serde(default)]
    pub use_delta_action: bool,
    /// How states and actions are read: `default`, `franka_ee_pose`, `franka_joint_angle`, `droid_eef`,
    /// `aloha_joint_angle`, `metaworld`, `custom`, or a name of your own.
    #[serde(default = "default_suite")]
    pub process_suite: String,
    /// The suite's settings. The built-in ones have `state_key` and `action_key`: a column, or a list of columns whose values
    /// stand side by side.
    #[serde(default)]
    pub suite_config: BTreeMap<String, serde_json::Value>,
    /// Grippers of the action that are made two-valued.
    #[serde(default)]
    pub binarize_gripper: Vec<GripperRule>,
    /// Dimensions of the suite's state that are used; all.
    #[serde(default)]
    pub state_dims: Option<Vec<usize>>,
    /// Dimensions of the suite's action that are used; all.
    #[serde(default)]
    pub action_dims: Option<Vec<usize>>,
    /// The embodiment; by default the arm key's place among all arm keys.
    #[serde(default)]
    pub embodiment_id: Option<usize>,
    /// Episodes that are used, by their numbers: a list `[0, 2, 5]`, or ranges `"0:3,4:9"` as in Python; all.
    #[serde(default)]
    pub episodes: Option<Episodes>,
    /// Its share of the samples among all datasets, whatever its size. Either every dataset has one or none; without
    /// them datasets share by their numbers of frames.
    #[serde(default)]
    pub weight: Option<f64>,
    /// Shares of the samples by instruction, whatever the numbers of frames. Every instruction must be named.
    #[serde(default)]
    pub task_weights: Option<BTreeMap<String, f64>>,
    /// Weights of frames by their number in the episode, relative to 1; where two overlap they multiply.
    #[serde(default)]
    pub frame_weights: Vec<FrameWeight>,
    /// A column that holds a weight for each frame, relative to 1.
    #[serde(default)]
    pub weight_column: Option<String>,
    /// Frames that no sample begins at.
    #[serde(default)]
    pub exclude_frames: Exclusion,
    /// Samples begin at every n-th frame: 1.
    #[serde(default = "one")]
    pub frame_stride: usize,
    /// Whether files may be links out of the dataset's folder, as in a Hugging Face cache.
    #[serde(default)]
    pub follow_links: bool,
    /// How frames are found in videos: by their time stamps, to half a frame.
    #[serde(default)]
    pub time: Time,
    /// What an episode without the video of one of its cameras is: an error.
    #[serde(default)]
    pub missing_video: MissingVideo,
}

fn default_suite() -> String {
    "default".into()
}

fn one() -> usize {
    1
}

/// A choice of episodes by their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Episodes {
    /// Ranges `first:end`, separated by commas; `end` is not in them. Either may be left out.
    Ranges(String),
    /// Their numbers.
    List(Vec<usize>),
}

impl From<&str> for Episodes {
    fn from(ranges: &str) -> Self {
        Self::Ranges(ranges.to_owned())
    }
}

/// What episodes must be, and what they are.
#[derive(Debug)]
pub(crate) struct Unfit {
    pub(crate) expected: String,
    pub(crate) got: String,
}

impl Unfit {
    fn new(expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self { expected: expected.into(), got: got.into() }
    }
}

impl Episodes {
    /// The numbers that are chosen, of those up to `end`; none twice.
    fn numbers(&self, end: usize) -> Result<Vec<Range<usize>>, Unfit> {
        let ranges = match self {
            Self::List(numbers) => numbers.iter().map(|&number| number..number.saturating_add(1)).collect(),
            Self::Ranges(text) => text.split(',').map(|part| range(part.trim(), end)).collect::<Result<Vec<_>, _>>()?,
        };
        let mut sorted = ranges;
        sorted.sort_by_key(|range| range.start);
        if let Some(pair) = sorted.windows(2).find(|pair| pair[1].start < pair[0].end) {
            return Err(Unfit::new("episodes of which each is named once", format!("{} twice", pair[1].start)));
        }
        if sorted.is_empty() {
            return Err(Unfit::new("one episode at least", "none"));
        }
        Ok(sorted)
    }
}

/// `first:end` of the episodes up to `end`.
fn range(text: &str, end_of_all: usize) -> Result<Range<usize>, Unfit> {
    let bad = || Unfit::new("`first:end`, counted from 0", format!("`{text}`"));
    let (first, end) = text.split_once(':').ok_or_else(bad)?;
    let bound = |text: &str, default: usize| match text.trim() {
        "" => Ok(default),
        text => text.parse().map_err(|_| bad()),
    };
    let (first, end) = (bound(first, 0)?, bound(end, end_of_all)?);
    if first >= end || end > end_of_all {
        return Err(Unfit::new(format!("a part of 0:{end_of_all} that is not empty"), format!("`{text}`")));
    }
    Ok(first..end)
}

/// How an episode's frames are found in its videos.
///
/// ```yaml
/// time: by_frame
/// time: { tolerance_s: 0.02 }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Time {
    /// By time stamp; stamps and frames must be within half a frame of each other and of a steady clock.
    #[default]
    HalfFrame,
    /// By time stamp, with another tolerance in seconds. The frame is the nearest one of the episode.
    ToleranceS(f64),
    /// By number: row k shows the k-th frame of the episode, whatever the time stamps say. A video of several episodes must
    /// have as many frames as they.
    ByFrame,
}

impl Time {
    /// Seconds that times may differ by; none where times are not looked at.
    pub(crate) fn tolerance(self, fps: f64) -> Option<f64> {
        match self {
            Self::HalfFrame => Some(0.5 / fps),
            Self::ToleranceS(seconds) => Some(seconds),
            Self::ByFrame => None,
        }
    }
}

/// What an episode without the video of one of its cameras is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum MissingVideo {
    /// Unreadable.
    #[default]
    Refuse,
    /// An episode in which the view is absent. How many there are is warned of.
    Absent,
}

/// A weight for a range of frames.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FrameWeight {
    /// The first frame: 0.
    #[serde(default)]
    pub from: usize,
    /// The frame after the last; the episode's end.
    #[serde(default)]
    pub to: Option<usize>,
    /// How often these frames are drawn, where others are drawn once.
    pub weight: f64,
}

/// Frames that no sample begins at.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Exclusion {
    /// A column that is not 0 in these frames.
    #[serde(default)]
    pub column: Option<String>,
    /// For each episode ranges of frames, `[first, end]` without `end`.
    #[serde(default)]
    pub episodes: BTreeMap<usize, Vec<[usize; 2]>>,
}

/// Standard deviation of the noise on normalised states.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(untagged)]
pub enum StateNoise {
    /// The same for every dimension.
    All(f32),
    /// One for each dimension of the state; those past the list have none.
    Each(Vec<f32>),
}

impl Default for StateNoise {
    fn default() -> Self {
        Self::All(0.0)
    }
}

impl StateNoise {
    /// The deviation of one dimension.
    pub fn of(&self, dimension: usize) -> f32 {
        match self {
            Self::All(deviation) => *deviation,
            Self::Each(deviations) => deviations.get(dimension).copied().unwrap_or(0.0),
        }
    }
}

/// Random changes of frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Augmentation {
    /// Frames are as they were recorded.
    #[default]
    None,
    /// The authors' recipe, on each view with probability ½: crop, rotation and colours.
    Recipe,
}

/// What an episode that cannot be read does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// It stops the run, with its name.
    #[default]
    Stop,
    /// Samples that cannot be read are replaced by others, and their episodes counted.
    Skip,
}

impl DataConfig {
    /// Reads a YAML file. Paths of datasets are relative to its folder.
    ///
    /// # Errors
    /// When a key is missing, unknown or has a value that it cannot have.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        let mut config = Self::parse(&text).map_err(|message| Error::format(path, "YAML", message))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for dataset in config.data_groups.values_mut().flat_map(BTreeMap::values_mut) {
            dataset.path = located(folder, &dataset.path);
        }
        Ok(config)
    }

    /// A configuration from the text of a YAML file.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        config.validate()?;
        Ok(config)
    }

    /// A configuration of one dataset with everything else at its default.
    pub fn single(dataset: DatasetConfig) -> Self {
        let name =
            dataset.path.file_name().map_or_else(|| "dataset".into(), |name| name.to_string_lossy().into_owned());
        Self {
            max_action_dim: None,
            max_state_dim: None,
            max_views: None,
            normalization_type: None,
            data_groups: BTreeMap::from([("default".to_owned(), BTreeMap::from([(name, dataset)]))]),
            decoder_cache_size: decoder_cache_size(),
            state_noise: StateNoise::default(),
            state_clamp: None,
            augmentation: Augmentation::None,
            mask_past_end: None,
            on_error: OnError::Stop,
            datasets_manifest: None,
            cache_shard_size_bytes: None,
            part: Part::All,
        }
    }

    fn validate(&self) -> Result<(), String> {
        if self.data_groups.values().all(BTreeMap::is_empty) {
            return Err("`data_groups` names no dataset".into());
        }
        if self.decoder_cache_size == 0 {
            return Err("`decoder_cache_size` must be at least 1, got 0".into());
        }
        let is_positive = |value: f32| value.is_finite() && value > 0.0;
        if let Some(clamp) = self.state_clamp.filter(|&clamp| !is_positive(clamp)) {
            return Err(format!("`state_clamp` must be a positive number, got {clamp}"));
        }
        let deviations = match &self.state_noise {
            StateNoise::All(deviation) => std::slice::from_ref(deviation),
            StateNoise::Each(deviations) => deviations,
        };
        if let Some(deviation) = deviations.iter().find(|&&deviation| deviation != 0.0 && !is_positive(deviation)) {
            return Err(format!("`state_noise` must be at least 0, got {deviation}"));
        }
        self.data_groups.values().flatten().try_for_each(|(name, dataset)| dataset.validate(name))
    }
}

impl DatasetConfig {
    /// A dataset with everything at its default: all cameras, all frames, the suite `default`, absolute actions.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            view_map: IndexMap::new(),
            use_delta_action: false,
            process_suite: default_suite(),
            suite_config: BTreeMap::new(),
            binarize_gripper: Vec::new(),
            state_dims: None,
            action_dims: None,
            embodiment_id: None,
            episodes: None,
            weight: None,
            task_weights: None,
            frame_weights: Vec::new(),
            weight_column: None,
            exclude_frames: Exclusion::default(),
            frame_stride: 1,
            follow_links: false,
            time: Time::default(),
            missing_video: MissingVideo::default(),
        }
    }

    fn validate(&self, name: &str) -> Result<(), String> {
        let weights = self.weight.iter().chain(self.task_weights.iter().flat_map(BTreeMap::values));
        let mut weights = weights.chain(self.frame_weights.iter().map(|frames| &frames.weight));
        if let Some(weight) = weights.find(|&&weight| !(weight.is_finite() && weight >= 0.0)) {
            return Err(format!("a weight of `{name}` must be a number of at least 0, got {weight}"));
        }
        if self.frame_stride == 0 {
            return Err(format!("`frame_stride` of `{name}` must be at least 1, got 0"));
        }
        if let Time::ToleranceS(seconds) = self.time
            && !(seconds.is_finite() && seconds > 0.0)
        {
            return Err(format!("`time.tolerance_s` of `{name}` must be a positive number, got {seconds}"));
        }
        for (episode, ranges) in &self.exclude_frames.episodes {
            if let Some([first, end]) = ranges.iter().find(|[first, end]| first >= end) {
                let what = format!("`exclude_frames.episodes` of `{name}`, episode {episode},");
                return Err(format!("{what} must be ranges `[first, end]` that are not empty, got [{first}, {end}]"));
            }
        }
        if let Some(episodes) = &self.episodes {
            episodes
                .numbers(usize::MAX)
                .map_err(|unfit| format!("`episodes` of `{name}` must be {}, got {}", unfit.expected, unfit.got))?;
        }
        Ok(())
    }

    /// The episodes that are used, of those that there are.
    pub(crate) fn chosen_episodes(&self, present: impl Iterator<Item = usize>) -> Result<Vec<usize>, Unfit> {
        let present: BTreeSet<usize> = present.collect();
        let Some(choice) = &self.episodes else { return Ok(present.into_iter().collect()) };
        let end = present.last().map_or(0, |last| last + 1);
        let mut chosen = Vec::new();
        for range in choice.numbers(end)? {
            let before = chosen.len();
            chosen.extend(present.range(range.clone()));
            if chosen.len() == before {
                let there = match (present.first(), present.last()) {
                    (Some(first), Some(last)) => format!(": {} from {first} to {last}", present.len()),
                    _ => String::new(),
                };
                return Err(Unfit::new(
                    format!("episodes that are there{there}"),
                    format!("{}:{}", range.start, range.end),
                ));
            }
        }
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_out_are_episodes_at_equal_distances() {
        let all: Vec<usize> = (10..30).collect();
        assert_eq!(Part::HeldOut(0.2).of(all.clone()), [14, 19, 24, 29]);
        let mut both = [Part::HeldOut(0.3).of(all.clone()), Part::Trained(0.3).of(all.clone())].concat();
        both.sort_unstable();
        assert_eq!(both, all);
        assert_eq!(Part::HeldOut(0.01).of(all.clone()), [29], "one at least");
        assert_eq!(Part::Trained(0.99).of(all.clone()).len(), 1, "one at least");
        assert_eq!(Part::All.of(all.clone()), all);
        assert_eq!((Part::HeldOut(0.5).of(vec![3]), Part::Trained(0.5).of(vec![3])), (vec![], vec![3]));
        assert_eq!(Part::HeldOut(0.5).of(vec![]), Vec::<usize>::new());
    }

    #[test]
    fn the_authors_file_is_read_unchanged() {
        let config = DataConfig::parse(
            "max_action_dim: 24\nmax_state_dim: 24\nmax_views: 3\nnormalization_type: bounds_q99 # one of three\n\
             datasets_manifest: a.pkl\ndecoder_cache_size: 8\ncache_shard_size_bytes: 268435456\n\
             data_groups:\n  franka:\n    libero:\n      path: /data/libero\n      view_map:\n        image_1: observation.images.image\n\
             \x20       image_2: observation.images.wrist_image\n      use_delta_action: False\n      process_suite: franka_ee_pose\n\
             \x20     suite_config:\n        state_key: observation.state\n        gripper_indices: [6]\n        ee_pose_dims: [0, 6]\n",
        )
        .expect("valid");
        assert_eq!(config.normalization_type, Some(NormalizationType::BoundsQ99));
        let libero = &config.data_groups["franka"]["libero"];
        assert_eq!(libero.view_map["image_2"], "observation.images.wrist_image");
        assert!(!libero.use_delta_action);
        assert_eq!(libero.suite_config["ee_pose_dims"], serde_json::json!([0, 6]));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_key() {
        let with = |extra: &str| {
            let text = format!("data_groups: {{a: {{b: {{path: x, {extra}}}}}}}");
            DataConfig::parse(&text).expect_err("refused")
        };
        for (extra, part) in [
            ("frame_weight: []", "frame_weight"),
            ("weight: -1", "at least 0"),
            ("frame_stride: 0", "frame_stride"),
            ("episodes: \"5:2\"", "5:2"),
            ("episodes: \"x\"", "first:end"),
            ("episodes: \"0:3,2:4\"", "each is named once, got 2 twice"),
            ("episodes: [1, 1]", "got 1 twice"),
            ("episodes: []", "must be one episode at least"),
            ("exclude_frames: {episodes: {1: [[9, 2]]}}", "episode 1, must be ranges `[first, end]`"),
            ("time: {tolerance_s: 0}", "`time.tolerance_s` of `b` must be a positive number, got 0"),
            ("time: often", "by_frame"),
        ] {
            let message = with(extra);
            assert!(message.contains(part), "{message}");
        }
        assert!(DataConfig::parse("data_groups: {}").expect_err("empty").contains("names no dataset"));
    }

    #[test]
    fn episodes_are_chosen_by_lists_and_ranges_among_those_that_are_there() {
        let chosen = |text: &str| {
            let config = DataConfig::parse(&format!("data_groups: {{a: {{b: {{path: x, episodes: {text}}}}}}}"));
            config.expect("valid").data_groups["a"]["b"].chosen_episodes([0, 1, 2, 4, 5, 9].into_iter())
        };
        assert_eq!(chosen("[4, 0]").expect("there"), [0, 4]);
        assert_eq!(chosen("\"0:2,4:10\"").expect("there"), [0, 1, 4, 5, 9]);
        assert_eq!(chosen("\"4:\"").expect("there"), [4, 5, 9]);
        assert!(chosen("[0, 3]").expect_err("a hole").got.contains("3:4"));
        assert!(chosen("\"0:11\"").expect_err("too far").expected.contains("a part of 0:10"));
    }

    #[test]
    fn times_are_a_choice() {
        let time = |text: &str| {
            let config = DataConfig::parse(&format!("data_groups: {{a: {{b: {{path: x, time: {text}}}}}}}"));
            config.expect("valid").data_groups["a"]["b"].time
        };
        assert_eq!(time("by_frame"), Time::ByFrame);
        assert_eq!(time("{tolerance_s: 0.5}"), Time::ToleranceS(0.5));
    }

    #[test]
    fn every_key_of_ours_is_read() {
        let config = DataConfig::parse(
            "state_noise: [0.1, 0.2]\nstate_clamp: 1.5\naugmentation: recipe\non_error: skip\nmask_past_end: true\n\
             data_groups: {a: {b: {path: x, weight: 2, task_weights: {go: 1}, frame_weights: [{to: 14, weight: 5}], \
             weight_column: w, exclude_frames: {column: c, episodes: {3: [[25, 60]]}}, frame_stride: 2, \
             state_dims: [0, 1], action_dims: [2], embodiment_id: 4, episodes: \"0:4\", follow_links: true, \
             binarize_gripper: [{index: 3, threshold: 0.5, above: 1, below: -1}]}}}",
        )
        .expect("valid");
        let dataset = &config.data_groups["a"]["b"];
        assert_eq!(dataset.exclude_frames.episodes[&3], [[25, 60]]);
        assert_eq!(dataset.frame_weights[0], FrameWeight { from: 0, to: Some(14), weight: 5.0 });
        assert_eq!(dataset.chosen_episodes(0..10).expect("range"), [0, 1, 2, 3]);
        assert_eq!((config.state_noise.of(1), config.state_noise.of(2)), (0.2, 0.0));
    }
}
