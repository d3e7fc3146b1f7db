//! Statistics of a robot's states and actions, and the normalisers made from them.
//!
//! Bounds: `x̂ = 2(x − lo)/(hi − lo) − 1`, and back `x = (x̂ + 1)/2 · (hi − lo) + lo`, with the references' ways of
//! keeping a range of zero from dividing ([`RangeEpsilon`]).

mod lerobot;

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Error, Result, StatisticsKey,
    config::{RangeEpsilon, Semantics, StateClamp, StatePadding},
    files::{read_text, write_atomically},
    json,
};

/// Keeps ranges and deviations from dividing by zero.
const EPSILON: f32 = 1e-8;

/// Which statistics normalise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum NormalizationType {
    /// Smallest and largest value become −1 and 1.
    #[default]
    Bounds,
    /// The 1 % and 99 % quantiles become −1 and 1.
    BoundsQ99,
    /// The 10 % and 90 % quantiles become −1 and 1.
    BoundsQ90,
    /// Mean 0 and deviation 1.
    Normal,
    /// Nothing is changed.
    Identity,
}

impl NormalizationType {
    /// The lists of statistics that it is made from: of low and high values, or of means and deviations.
    fn lists(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bounds => Some(("min", "max")),
            Self::BoundsQ99 => Some(("q01", "q99")),
            Self::BoundsQ90 => Some(("q10", "q90")),
            Self::Normal => Some(("mean", "std")),
            Self::Identity => None,
        }
    }

    /// How far from 0 a value may be that is normalised with the statistics of its own robot, but for few: 1.5 where bounds
    /// become ±1, five deviations where deviations become 1.
    pub fn usual_limit(self) -> Option<f32> {
        match self {
            Self::Normal => Some(5.0),
            Self::Identity => None,
            Self::Bounds | Self::BoundsQ99 | Self::BoundsQ90 => Some(1.5),
        }
    }

    fn is_bounded(self) -> bool {
        matches!(self, Self::Bounds | Self::BoundsQ99 | Self::BoundsQ90)
    }
}

/// What normalises states, and what actions. In files it is one name where both are the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(into = "StoredNormalization", from = "StoredNormalization")]
pub struct Normalization {
    /// Of states.
    pub state: NormalizationType,
    /// Of actions.
    pub action: NormalizationType,
}

impl Normalization {
    /// The same for both.
    pub fn both(kind: NormalizationType) -> Self {
        Self { state: kind, action: kind }
    }
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
enum StoredNormalization {
    Both(NormalizationType),
    Each { state: NormalizationType, action: NormalizationType },
}

impl From<Normalization> for StoredNormalization {
    fn from(Normalization { state, action }: Normalization) -> Self {
        if state == action { Self::Both(state) } else { Self::Each { state, action } }
    }
}

impl From<StoredNormalization> for Normalization {
    fn from(stored: StoredNormalization) -> Self {
        match stored {
            StoredNormalization::Both(kind) => Self::both(kind),
            StoredNormalization::Each { state, action } => Self { state, action },
        }
    }
}

/// Statistics of one vector, one value per dimension. A file need not have all of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VectorStatistics {
    /// Smallest values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Vec<f32>>,
    /// Largest values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Vec<f32>>,
    /// Means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f32>>,
    /// Standard deviations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f32>>,
    /// 1 % quantiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q01: Option<Vec<f32>>,
    /// 99 % quantiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q99: Option<Vec<f32>>,
    /// 10 % quantiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q10: Option<Vec<f32>>,
    /// 90 % quantiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q90: Option<Vec<f32>>,
}

/// Statistics of one robot: its states and its actions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RobotStatistics {
    /// Of `observation.state`.
    #[serde(rename = "observation.state")]
    pub state: VectorStatistics,
    /// Of `action`.
    pub action: VectorStatistics,
}

/// Statistics by arm and data set.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Statistics {
    arms: BTreeMap<String, Arm>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
enum Arm {
    /// The older layout: the statistics stand directly under the arm.
    Alone(Box<RobotStatistics>),
    Datasets(BTreeMap<String, RobotStatistics>),
}

impl Statistics {
    /// Reads a `norm_stats.json`, in the layout with or without data sets.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        Self::parse(path, &text)
    }

    /// Statistics from the text of a `norm_stats.json`; `path` stands for it in messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let document = json::parse::<BTreeMap<String, BTreeMap<String, Value>>>(path, text);
        let document = document.map_err(|error| match first_non_finite(text) {
            Some((field, token)) => Error::invalid(path.display(), field, "a finite number", token),
            None => error,
        })?;
        let robot = |name: &str, value: Value| -> Result<RobotStatistics> {
            serde_path_to_error::deserialize(value).map_err(|error| {
                let message = format!("`{name}`, at `{}`: {}", error.path(), error.inner());
                Error::Json { path: path.to_owned(), message }
            })
        };
        let mut arms = BTreeMap::new();
        for (arm, below) in document {
            let is_robot = ["observation.state", "action"].iter().any(|vector| below.contains_key(*vector));
            let below = if is_robot {
                Arm::Alone(Box::new(robot(&arm, Value::Object(below.into_iter().collect()))?))
            } else {
                let sets = below.into_iter().map(|(set, value)| {
                    let statistics = robot(&format!("{arm}/{set}"), value)?;
                    Ok((set, statistics))
                });
                Arm::Datasets(sets.collect::<Result<_>>()?)
            };
            arms.insert(arm, below);
        }
        let statistics = Self { arms };
        for (name, robot) in statistics.robots() {
            robot.validate(path, &name)?;
        }
        Ok(statistics)
    }

    /// Writes a `norm_stats.json`.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }

    /// The only robot there is; nothing when there are several.
    pub fn only(&self) -> Option<&RobotStatistics> {
        let mut robots = self.robots().map(|(_, robot)| robot);
        robots.next().filter(|_| robots.next().is_none())
    }

    /// The statistics of one robot alone.
    pub fn single(robot: RobotStatistics) -> Self {
        Self { arms: BTreeMap::from([(String::from("default"), Arm::Alone(Box::new(robot)))]) }
    }

    /// Adds the statistics of an arm's data set, or replaces them. A key without an arm or data set means `default`.
    pub fn insert(&mut self, key: &StatisticsKey, robot: RobotStatistics) {
        let name = |part: &Option<String>| part.clone().unwrap_or_else(|| "default".to_owned());
        let arm = self.arms.entry(name(&key.arm)).or_insert_with(|| Arm::Datasets(BTreeMap::new()));
        match arm {
            Arm::Datasets(sets) => {
                sets.insert(name(&key.dataset), robot);
            }
            Arm::Alone(_) => *arm = Arm::Datasets(BTreeMap::from([(name(&key.dataset), robot)])),
        }
    }

    /// Adds the statistics that all data sets of an arm share, or replaces the arm's.
    pub fn insert_arm(&mut self, arm: &str, robot: RobotStatistics) {
        self.arms.insert(arm.to_owned(), Arm::Alone(Box::new(robot)));
    }

    /// Every arm and data set, as `arm` or `arm/dataset`, with its statistics.
    pub fn robots(&self) -> impl Iterator<Item = (String, &RobotStatistics)> {
        self.arms.iter().flat_map(|(arm, below)| match below {
            Arm::Alone(robot) => vec![(arm.clone(), &**robot)],
            Arm::Datasets(sets) => sets.iter().map(|(set, robot)| (format!("{arm}/{set}"), robot)).collect(),
        })
    }

    /// Those of one robot, by its name in [`Self::robots`], under their own keys.
    pub fn keep(&self, name: &str) -> Option<Self> {
        let arms = self.arms.iter().find_map(|(arm, below)| match below {
            Arm::Alone(_) => (arm == name).then(|| (arm.clone(), below.clone())),
            Arm::Datasets(sets) => {
                let (set, robot) = sets.iter().find(|(set, _)| format!("{arm}/{set}") == name)?;
                Some((arm.clone(), Arm::Datasets(BTreeMap::from([(set.clone(), robot.clone())]))))
            }
        })?;
        Some(Self { arms: BTreeMap::from([arms]) })
    }

    /// The statistics of an arm and data set; either may be left out where there is only one.
    pub fn select(&self, key: &StatisticsKey) -> Result<&RobotStatistics> {
        match pick("arm key", key.arm.as_deref(), &self.arms)? {
            Arm::Alone(robot) => Ok(robot),
            Arm::Datasets(sets) => pick("dataset key", key.dataset.as_deref(), sets),
        }
    }
}

/// Where a JSON text of numbers has the first `NaN` or infinity, which Python writes and JSON does not know, and which it is.
fn first_non_finite(text: &str) -> Option<(String, String)> {
    fn find(name: &str, value: &Value) -> Option<(String, String)> {
        match value {
            Value::Object(fields) => fields.iter().find_map(|(key, value)| find(&format!("{name}.{key}"), value)),
            Value::Array(items) => {
                items.iter().enumerate().find_map(|(index, item)| find(&format!("{name}[{index}]"), item))
            }
            Value::String(text) => Some((name.trim_start_matches('.').to_owned(), text.clone())),
            _ => None,
        }
    }
    // As strings they can be read.
    let infinite = text.replace("-Infinity", "\"-infinite\"").replace("Infinity", "\"infinite\"");
    let readable = infinite.replace("NaN", "\"NaN\"");
    if readable == text { None } else { find("", &serde_json::from_str(&readable).ok()?) }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::Json { path: path.to_owned(), message: error.to_string() })?;
    write_atomically(path, format!("{text}\n").as_bytes())
}

/// The entry of `key`, or the only entry when no key is given.
fn pick<'a, T>(what: &'static str, key: Option<&str>, entries: &'a BTreeMap<String, T>) -> Result<&'a T> {
    let found = match key {
        Some(key) => entries.get(key),
        None if entries.len() == 1 => entries.values().next(),
        None => None,
    };
    found.ok_or_else(|| Error::UnknownStatistics {
        what,
        key: key.unwrap_or("(none given)").to_owned(),
        known: entries.keys().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", "),
    })
}

impl RobotStatistics {
    /// Writes a `stats.json`, as it stands in a dataset's `meta` folder.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }

    /// Fails unless every list is finite and as long as the others of its vector.
    fn validate(&self, path: &Path, robot: &str) -> Result<()> {
        for (vector, statistics) in [("observation.state", &self.state), ("action", &self.action)] {
            let lists = statistics.lists();
            let Some(&(first, values)) = lists.first() else {
                return Err(Error::MissingField { path: path.to_owned(), field: format!("{robot}.{vector}.min") });
            };
            for (name, list) in &lists {
                let field = format!("{robot}.{vector}.{name}");
                if list.len() != values.len() || list.is_empty() {
                    let expected = format!("as long as `{first}`, {} values and not none", values.len());
                    return Err(Error::invalid(path.display(), field, expected, format!("{} values", list.len())));
                }
                if let Some(value) = list.iter().find(|value| !value.is_finite()) {
                    return Err(Error::invalid(path.display(), field, "finite", value));
                }
            }
        }
        Ok(())
    }
}

impl VectorStatistics {
    /// The lists that there are, by name.
    pub fn lists(&self) -> Vec<(&'static str, &[f32])> {
        [
            ("min", &self.min),
            ("max", &self.max),
            ("mean", &self.mean),
            ("std", &self.std),
            ("q01", &self.q01),
            ("q99", &self.q99),
            ("q10", &self.q10),
            ("q90", &self.q90),
        ]
        .into_iter()
        .filter_map(|(name, list)| Some((name, list.as_deref()?)))
        .collect()
    }

    /// Number of dimensions.
    pub fn width(&self) -> usize {
        self.lists().first().map_or(0, |(_, list)| list.len())
    }

    /// The list of a name.
    fn list(&self, name: &str) -> Option<&[f32]> {
        self.lists().into_iter().find(|(known, _)| *known == name).map(|(_, list)| list)
    }

    /// Fails unless there are the lists that a normalisation is made from. `what` and `origin` name the vector and its file
    /// in the message.
    pub(crate) fn require(&self, kind: NormalizationType, what: &str, origin: &str) -> Result<()> {
        self.map_of(kind, what, origin).map(|_| ())
    }

    /// The affine map of a normalisation type: `(offset, range)` or `(mean, deviation)` per dimension.
    fn map(&self, kind: NormalizationType, what: &'static str) -> Result<(&[f32], &[f32])> {
        self.map_of(kind, what, "statistics")
    }

    fn map_of(&self, kind: NormalizationType, what: &str, origin: &str) -> Result<(&[f32], &[f32])> {
        let Some((low, high)) = kind.lists() else { return Ok((&[], &[])) };
        match (self.list(low), self.list(high)) {
            (Some(low), Some(high)) => Ok((low, high)),
            (low_list, high_list) => {
                let got = if low_list.is_some() || high_list.is_some() { "one of them" } else { "neither" };
                Err(Error::invalid(origin, what, format!("statistics with `{low}` and `{high}`"), got))
            }
        }
    }
}

/// Normalises states and actions as a reference does.
#[derive(Debug, Clone, Copy)]
pub struct Normalizer {
    kinds: Normalization,
    clamp: StateClamp,
    padding: StatePadding,
    epsilon: RangeEpsilon,
}

impl Normalizer {
    /// The normaliser of a reference.
    pub fn new(kinds: Normalization, semantics: &Semantics) -> Self {
        let Semantics { state_clamp, state_padding, range_epsilon, .. } = *semantics;
        Self { kinds, clamp: state_clamp, padding: state_padding, epsilon: range_epsilon }
    }

    /// A robot's state, normalised and padded to `padded` dimensions.
    pub fn normalize_state(&self, state: &[f32], statistics: &RobotStatistics, padded: usize) -> Result<Vec<f32>> {
        self.check_width("state", state, &statistics.state, self.kinds.state)?;
        self.normalize_padded_state(state, statistics, padded)
    }

    /// [`Self::normalize_state`] of a state that its sender has padded.
    ///
    /// The dimensions that follow those of the statistics have statistics too, padded as the reference pads them: with
    /// zeros by the authors' servers, which makes −1 of a padding of 0 where an unpadded state has 0, and with bounds of
    /// −1 and 1 by LeRobot, which keeps it 0.
    pub fn normalize_padded_state(
        &self,
        state: &[f32],
        statistics: &RobotStatistics,
        padded: usize,
    ) -> Result<Vec<f32>> {
        if state.len() < statistics.state.width() {
            self.check_width("state", state, &statistics.state, self.kinds.state)?;
        }
        let mut out = self.normalized(state, &statistics.state, self.kinds.state, "observation.state")?;
        let limit = match self.clamp {
            StateClamp::Unit => Some(1.0),
            StateClamp::Within(limit) => Some(limit.abs()),
            StateClamp::Off => None,
        };
        if let Some(limit) = limit.filter(|_| self.kinds.state.is_bounded()) {
            out.iter_mut().for_each(|value| *value = value.clamp(-limit, limit));
        }
        out.resize(padded, self.padded_state_value());
        Ok(out)
    }

    /// What a padded dimension of the state holds.
    pub fn padded_state_value(&self) -> f32 {
        match self.padding {
            StatePadding::BeforeNormalizing if self.kinds.state.is_bounded() => -1.0,
            _ => 0.0,
        }
    }

    /// One action for training, normalised and padded with zeros to `padded` dimensions.
    ///
    /// The official references clamp to [−1, 1] and give a constant dimension the value 0.
    pub fn normalize_action(&self, action: &[f32], statistics: &RobotStatistics, padded: usize) -> Result<Vec<f32>> {
        let mut out = self.unclamped_action(action, statistics)?;
        if self.epsilon == RangeEpsilon::Added && self.kinds.action.is_bounded() {
            let (low, high) = statistics.action.map(self.kinds.action, "action")?;
            for (value, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
                *value = if (high - low).abs() < EPSILON { 0.0 } else { value.clamp(-1.0, 1.0) };
            }
        }
        out.resize(padded, 0.0);
        Ok(out)
    }

    /// One predicted action in the robot's units. Columns past the statistics' width are treated as a range of zero
    /// at zero, as the official server does.
    pub fn denormalize_action(&self, action: &[f32], statistics: &RobotStatistics) -> Result<Vec<f32>> {
        let kind = self.kinds.action;
        if kind == NormalizationType::Identity {
            return Ok(action.to_vec());
        }
        let (low, high) = statistics.action.map(kind, "action")?;
        let bounds = low.iter().zip(high).map(|(&low, &high)| (low, high)).chain(std::iter::repeat((0.0, 0.0)));
        Ok(action
            .iter()
            .zip(bounds)
            .map(|(&value, (low, high))| match kind {
                NormalizationType::Normal => value * high + low,
                _ => (value + 1.0) / 2.0 * self.range(low, high) + low,
            })
            .collect())
    }

    /// A state before it is clamped and padded.
    pub fn unclamped_state(&self, state: &[f32], statistics: &RobotStatistics) -> Result<Vec<f32>> {
        self.check_width("state", state, &statistics.state, self.kinds.state)?;
        self.normalized(state, &statistics.state, self.kinds.state, "observation.state")
    }

    /// An action before it is clamped and padded.
    pub fn unclamped_action(&self, action: &[f32], statistics: &RobotStatistics) -> Result<Vec<f32>> {
        self.check_width("action", action, &statistics.action, self.kinds.action)?;
        self.normalized(action, &statistics.action, self.kinds.action, "action")
    }

    fn normalized(
        &self,
        values: &[f32],
        statistics: &VectorStatistics,
        kind: NormalizationType,
        what: &'static str,
    ) -> Result<Vec<f32>> {
        if kind == NormalizationType::Identity {
            return Ok(values.to_vec());
        }
        let (low, high) = statistics.map(kind, what)?;
        let padding = match (self.epsilon, kind) {
            (RangeEpsilon::Added, _) => (0.0, 0.0),
            (RangeEpsilon::WhenConstant, NormalizationType::Normal) => (0.0, 1.0),
            (RangeEpsilon::WhenConstant, _) => (-1.0, 1.0),
        };
        let bounds = low.iter().copied().zip(high.iter().copied()).chain(std::iter::repeat(padding));
        Ok(values
            .iter()
            .zip(bounds)
            .map(|(value, (low, high))| match kind {
                NormalizationType::Normal => (value - low) / (high + EPSILON),
                _ => 2.0 * (value - low) / self.range(low, high) - 1.0,
            })
            .collect())
    }

    fn range(&self, low: f32, high: f32) -> f32 {
        match self.epsilon {
            RangeEpsilon::Added => high - low + EPSILON,
            RangeEpsilon::WhenConstant if high == low => EPSILON,
            RangeEpsilon::WhenConstant => high - low,
        }
    }

    fn check_width(
        &self,
        what: &'static str,
        values: &[f32],
        statistics: &VectorStatistics,
        kind: NormalizationType,
    ) -> Result<()> {
        let expected = statistics.width();
        if kind != NormalizationType::Identity && values.len() != expected {
            return Err(Error::StatisticsWidth { what, expected, got: values.len() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        config::Profile,
        test_support::{assert_within, fixture, largest},
        weights::{WeightFile, floats},
    };

    const PADDED_STATE: usize = 6;
    const PADDED_ACTION: usize = 5;

    struct Fixture(WeightFile);

    impl Fixture {
        fn open() -> Self {
            Self(WeightFile::open(&fixture("tiny-lerobot/processor.safetensors")).expect("fixture"))
        }

        fn values(&self, name: &str) -> Vec<f32> {
            floats(&self.0.read(name).expect("tensor"))
        }

        fn robot(&self) -> RobotStatistics {
            let bounds = |vector: &str| VectorStatistics {
                min: Some(self.values(&format!("in.{vector}_min"))),
                max: Some(self.values(&format!("in.{vector}_max"))),
                ..VectorStatistics::default()
            };
            RobotStatistics { state: bounds("state"), action: bounds("action") }
        }
    }

    fn normalizer(profile: Profile) -> Normalizer {
        Normalizer::new(Normalization::default(), &profile.semantics())
    }

    /// Within 1e-5, relative to the largest value where that is above 1.
    fn assert_equal(what: &str, got: &[f32], want: &[f32]) {
        assert_within(what, got, want, 1e-5 * largest(want).max(1.0));
    }

    #[test]
    fn states_and_actions_equal_both_references() {
        let fixture = Fixture::open();
        let robot = fixture.robot();
        for (profile, name) in [(Profile::LeRobot, "lerobot"), (Profile::Official, "official")] {
            let normalizer = normalizer(profile);
            let states: Vec<f32> = fixture
                .values("in.state")
                .chunks(4)
                .flat_map(|state| normalizer.normalize_state(state, &robot, PADDED_STATE).expect("state"))
                .collect();
            assert_equal("states", &states, &fixture.values(&format!("{name}.state")));
            let actions: Vec<f32> = fixture
                .values("in.action")
                .chunks(4)
                .flat_map(|action| normalizer.normalize_action(action, &robot, PADDED_ACTION).expect("action"))
                .collect();
            assert_equal("actions", &actions, &fixture.values(&format!("{name}.action")));
        }
    }

    #[test]
    fn predictions_are_denormalized_as_both_references_do() {
        let fixture = Fixture::open();
        let robot = fixture.robot();
        let predicted = fixture.values("in.predicted");
        for (profile, name, width) in [(Profile::LeRobot, "lerobot", 4), (Profile::Official, "official", 5)] {
            let got: Vec<f32> = predicted
                .chunks(PADDED_ACTION)
                .flat_map(|action| normalizer(profile).denormalize_action(&action[..width], &robot).expect("action"))
                .collect();
            assert_equal(name, &got, &fixture.values(&format!("{name}.unnormalised")));
        }
    }

    #[test]
    fn the_paper_era_server_pads_a_state_with_minus_one() {
        let robot = RobotStatistics {
            state: VectorStatistics { min: Some(vec![0.0]), max: Some(vec![2.0]), ..VectorStatistics::default() },
            action: VectorStatistics { min: Some(vec![0.0]), max: Some(vec![2.0]), ..VectorStatistics::default() },
        };
        let state = |profile| normalizer(profile).normalize_state(&[2.0], &robot, 3).expect("state");
        assert_eq!(state(Profile::Paper), [1.0, -1.0, -1.0]);
        assert_eq!(state(Profile::Official), [1.0, 0.0, 0.0]);
    }

    #[test]
    fn a_state_padded_by_its_sender_is_normalized_with_padded_statistics() {
        let bounds = VectorStatistics { min: Some(vec![0.0]), max: Some(vec![2.0]), ..VectorStatistics::default() };
        let robot = RobotStatistics { state: bounds.clone(), action: bounds };
        let state = |profile, state: &[f32]| normalizer(profile).normalize_padded_state(state, &robot, 4);
        assert_eq!(state(Profile::Official, &[2.0, 0.0, 0.5]).expect("official"), [1.0, -1.0, 1.0, 0.0]);
        assert_eq!(state(Profile::Paper, &[2.0, 0.0]).expect("paper"), [1.0, -1.0, -1.0, -1.0]);
        assert_eq!(state(Profile::LeRobot, &[2.0, 0.0, 0.5]).expect("lerobot"), [1.0, 0.0, 0.5, 0.0]);
        assert!(state(Profile::Official, &[]).is_err(), "a state that is too short is none that was padded");
        assert!(normalizer(Profile::Official).normalize_state(&[2.0, 0.0], &robot, 4).is_err());
    }

    #[test]
    fn quantiles_that_are_absent_are_refused() {
        let bounds = VectorStatistics { min: Some(vec![-2.0]), max: Some(vec![2.0]), ..VectorStatistics::default() };
        let quantiles = VectorStatistics { q01: Some(vec![-1.0]), q99: Some(vec![1.0]), ..bounds.clone() };
        let semantics = Profile::LeRobot.semantics();
        let normalizer = Normalizer::new(Normalization::both(NormalizationType::BoundsQ99), &semantics);
        let state = |state: &VectorStatistics| {
            let robot = RobotStatistics { state: state.clone(), action: bounds.clone() };
            normalizer.normalize_state(&[1.0], &robot, 1).map_err(|error| error.to_string())
        };
        assert_eq!(state(&quantiles), Ok(vec![1.0]));
        assert!(state(&bounds).expect_err("no quantiles").contains("`q01` and `q99`, got neither"));
    }

    #[test]
    fn both_layouts_load_and_keys_choose() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("norm_stats.json");
        let robot = r#"{"observation.state":{"min":[0],"max":[1]},"action":{"min":[0],"max":[1]}}"#;
        let read = |text: &str| {
            std::fs::write(&path, text).expect("write");
            Statistics::read(&path)
        };
        let old = read(&format!(r#"{{"arm":{robot}}}"#)).expect("old layout");
        old.select(&StatisticsKey::default()).expect("the only arm");
        let new = read(&format!(r#"{{"arm":{{"a":{robot},"b":{robot}}}}}"#)).expect("new layout");
        let names: BTreeSet<String> = new.robots().map(|(name, _)| name).collect();
        assert_eq!(names, BTreeSet::from(["arm/a".into(), "arm/b".into()]));
        let kept = new.keep("arm/b").expect("a data set");
        assert_eq!(kept.robots().map(|(name, _)| name).collect::<Vec<_>>(), ["arm/b"]);
        assert_eq!(old.keep("arm"), Some(old.clone()));
        assert_eq!((new.keep("arm"), new.keep("arm/c"), old.keep("arm/a")), (None, None, None));
        let error = new.select(&StatisticsKey::default()).expect_err("two data sets");
        assert_eq!(error.to_string(), "statistics have no dataset key `(none given)`; they have `a`, `b`");
        let key = StatisticsKey { arm: Some("leg".into()), dataset: None };
        assert_eq!(
            new.select(&key).expect_err("no leg").to_string(),
            "statistics have no arm key `leg`; they have `arm`"
        );
    }

    #[test]
    fn what_is_no_number_is_named_by_arm_vector_and_dimension() {
        let message =
            |text: &str| Statistics::parse(Path::new("norm_stats.json"), text).expect_err("refused").to_string();
        let with = |list: &str| {
            format!(
                r#"{{"arm": {{"set": {{"observation.state": {{"min": [0], "max": [1]}}, "action": {{"min": [0, 1], "max": {list}}}}}}}}}"#
            )
        };
        assert!(message(&with("[1, NaN]")).contains("`arm.set.action.max[1]` must be a finite number, got NaN"));
        assert!(
            message(&with("[-Infinity, 1]")).contains("`arm.set.action.max[0]` must be a finite number, got -infinite")
        );
        let text = r#"{"arm": {"observation.state": {"min": [0], "max": [1]}}}"#;
        assert!(
            message(text).contains("`arm`") && message(text).contains("missing field `action`"),
            "{}",
            message(text)
        );
        let text = r#"{"arm": {"set": {"action": {"min": "low"}, "observation.state": {}}}}"#;
        assert!(message(text).contains("`arm/set`, at `action.min`"), "{}", message(text));
    }

    #[test]
    fn statistics_of_unequal_length_are_refused() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("norm_stats.json");
        let text = r#"{"arm":{"observation.state":{"min":[0,1],"max":[1]},"action":{"min":[0],"max":[1]}}}"#;
        std::fs::write(&path, text).expect("write");
        let message = Statistics::read(&path).expect_err("unequal").to_string();
        assert!(message.contains("arm.observation.state.max") && message.contains("got 1 values"), "{message}");
    }
}
