//! Suites: how the states and actions of a robot are read from its dataset's columns.
//!
//! A suite of your own implements [`Suite`] and is given a name in [`Suites`]:
//!
//! ```
//! use evo1_data::{Suite, Suites, Table};
//!
//! #[derive(Debug)]
//! struct TwoArms;
//!
//! impl Suite for TwoArms {
//!     fn state(&self, table: &Table, row: usize) -> Result<Vec<f32>, String> {
//!         Ok([table.vector("left", row)?, table.vector("right", row)?].concat())
//!     }
//!     fn action(&self, table: &Table, row: usize) -> Result<Vec<f32>, String> {
//!         Ok(table.vector("command", row)?.to_vec())
//!     }
//!     fn columns(&self) -> Option<Vec<String>> {
//!         Some(["left", "right", "command"].map(String::from).into())
//!     }
//! }
//!
//! let suites = Suites::default().with("two_arms", |_settings| Ok(Box::new(TwoArms)));
//! ```

use std::{collections::BTreeMap, fmt, ops::Range, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Table;

/// How states and actions are read from the rows of a table. Errors say which column is missing or misshapen.
pub trait Suite: Send + Sync + fmt::Debug {
    /// The state in a row.
    fn state(&self, table: &Table, row: usize) -> Result<Vec<f32>, String>;

    /// The action in a row, as it was recorded.
    fn action(&self, table: &Table, row: usize) -> Result<Vec<f32>, String>;

    /// The columns that states and actions are made of: only these are read. Without a list, which is the default, every
    /// column of the tables is.
    fn columns(&self) -> Option<Vec<String>> {
        None
    }

    /// The dimensions of an action from which the same dimensions of the state are subtracted when actions are relative.
    /// Others, a gripper's in most suites, stay absolute. None by default.
    fn relative_dims(&self, action_width: usize, state_width: usize) -> Vec<Range<usize>> {
        let _ = (action_width, state_width);
        Vec::new()
    }
}

/// Settings of a suite, `suite_config` of the data configuration.
pub type SuiteSettings = BTreeMap<String, Value>;

type Build = Arc<dyn Fn(&SuiteSettings) -> Result<Box<dyn Suite>, String> + Send + Sync>;

/// Suites by name.
#[derive(Clone)]
pub struct Suites(BTreeMap<String, Build>);

impl Suites {
    /// The same with one more suite, or another one under a known name.
    pub fn with(
        mut self,
        name: &str,
        build: impl Fn(&SuiteSettings) -> Result<Box<dyn Suite>, String> + Send + Sync + 'static,
    ) -> Self {
        self.0.insert(name.to_owned(), Arc::new(build));
        self
    }

    /// A suite by its name.
    pub fn build(&self, name: &str, settings: &SuiteSettings) -> Result<Box<dyn Suite>, String> {
        let known = || self.0.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let build = self.0.get(name).ok_or_else(|| format!("there is no suite `{name}`; there are {}", known()))?;
        build(settings)
    }
}

impl Default for Suites {
    /// The authors' suites.
    fn default() -> Self {
        Self(BTreeMap::new())
            .with("default", |settings| {
                let [state, action] = keys(settings, &[], [STATE, ACTION])?;
                Ok(Box::new(Columns { state, action, relative: Relative::Arms }))
            })
            .with("franka_ee_pose", |settings| {
                let [state, action] = keys(settings, &["gripper_indices", "ee_pose_dims"], [STATE, ACTION])?;
                let [first, end] = setting(settings, "ee_pose_dims")?.unwrap_or([0, 6]);
                Ok(Box::new(Columns { state, action, relative: Relative::Ranges(ranges(&[[first, end]])?) }))
            })
            .with("franka_joint_angle", |settings| {
                let [state, action] = keys(settings, &["joint_dims"], [STATE, ACTION])?;
                Ok(Box::new(Columns {
                    state,
                    action,
                    relative: Relative::First(setting(settings, "joint_dims")?.unwrap_or(7)),
                }))
            })
            .with("droid_eef", |settings| {
                let [state, action, state_gripper, action_gripper] = keys(
                    settings,
                    &[],
                    [
                        ("state_key", "observation.state.cartesian_position"),
                        ("action_key", "action.cartesian_position"),
                        ("state_gripper_key", "observation.state.gripper_position"),
                        ("action_gripper_key", "action.gripper_position"),
                    ],
                )?;
                let with_inverted_gripper = |mut pose: Vec<ColumnSource>, mut gripper: Vec<ColumnSource>| {
                    // DROID counts a closed gripper as 1.
                    gripper.iter_mut().for_each(|source| source.is_inverted = true);
                    pose.append(&mut gripper);
                    pose
                };
                Ok(Box::new(Columns {
                    state: with_inverted_gripper(state, state_gripper),
                    action: with_inverted_gripper(action, action_gripper),
                    relative: Relative::Ranges(ranges(&[[0, 6]])?),
                }))
            })
            .with("aloha_joint_angle", |settings| {
                let [state, action] = keys(settings, &["arm_dims", "gripper_indices"], [STATE, ACTION])?;
                Ok(Box::new(Columns { state, action, relative: Relative::Arms }))
            })
            .with("metaworld", |settings| {
                let [state, action] = keys(settings, &[], [STATE, ACTION])?;
                Ok(Box::new(Columns { state, action, relative: Relative::Ranges(Vec::new()) }))
            })
            .with("custom", |settings| {
                let known = ["action_concat_keys", "relative_dims", "gripper_indices"];
                let [state, mut action] = keys(settings, &known, [STATE, ACTION])?;
                if let Some(keys) = setting::<Vec<String>>(settings, "action_concat_keys")? {
                    action = keys.into_iter().map(ColumnSource::from).collect();
                }
                let dims = setting::<Vec<[usize; 2]>>(settings, "relative_dims")?.unwrap_or_else(|| vec![[0, 6]]);
                Ok(Box::new(Columns { state, action, relative: Relative::Ranges(ranges(&dims)?) }))
            })
    }
}

impl fmt::Debug for Suites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

const STATE: (&str, &str) = ("state_key", "observation.state");
const ACTION: (&str, &str) = ("action_key", "action");

/// A suite that puts columns side by side.
#[derive(Debug)]
struct Columns {
    state: Vec<ColumnSource>,
    action: Vec<ColumnSource>,
    relative: Relative,
}

/// A column.
#[derive(Debug)]
struct ColumnSource {
    column: String,
    /// Whether each value v becomes 1 − v.
    is_inverted: bool,
}

/// Dimensions that relative actions are taken on.
#[derive(Debug)]
enum Relative {
    /// These, where both vectors have them.
    Ranges(Vec<Range<usize>>),
    /// As many as there are, up to a number.
    First(usize),
    /// The first 6 of one or two arms of 7.
    Arms,
}

impl From<String> for ColumnSource {
    fn from(column: String) -> Self {
        Self { column, is_inverted: false }
    }
}

impl Suite for Columns {
    fn state(&self, table: &Table, row: usize) -> Result<Vec<f32>, String> {
        joined(&self.state, table, row)
    }

    fn action(&self, table: &Table, row: usize) -> Result<Vec<f32>, String> {
        joined(&self.action, table, row)
    }

    fn columns(&self) -> Option<Vec<String>> {
        Some(self.state.iter().chain(&self.action).map(|source| source.column.clone()).collect())
    }

    fn relative_dims(&self, action_width: usize, state_width: usize) -> Vec<Range<usize>> {
        let width = action_width.min(state_width);
        let mut ranges = match &self.relative {
            Relative::Ranges(ranges) => ranges.clone(),
            Relative::First(count) => std::iter::once(0..width.min(*count)).collect(),
            Relative::Arms => vec![0..6, 7..13],
        };
        ranges.retain(|range| range.end <= width);
        ranges
    }
}

fn joined(sources: &[ColumnSource], table: &Table, row: usize) -> Result<Vec<f32>, String> {
    let mut values = Vec::new();
    for ColumnSource { column, is_inverted } in sources {
        let found = table.vector(column, row)?;
        values.extend(found.iter().map(|&value| if *is_inverted { 1.0 - value } else { value }));
    }
    Ok(values)
}

/// The columns that settings name, one or several side by side, or the suite's own; refuses settings that the suite does not have.
fn keys<const N: usize>(
    settings: &SuiteSettings,
    others: &[&str],
    names: [(&str, &str); N],
) -> Result<[Vec<ColumnSource>; N], String> {
    let known = || names.iter().map(|(name, _)| *name).chain(others.iter().copied());
    if let Some(unknown) = settings.keys().find(|key| !known().any(|name| name == *key)) {
        return Err(format!("`suite_config` has no `{unknown}`; it has {}", known().collect::<Vec<_>>().join(", ")));
    }
    let mut sources = std::array::from_fn(|_| Vec::new());
    for (sources, (name, default)) in sources.iter_mut().zip(names) {
        let columns = match settings.get(name) {
            None => vec![default.to_owned()],
            Some(Value::String(column)) => vec![column.clone()],
            Some(columns) => serde_json::from_value(columns.clone()).unwrap_or_default(),
        };
        if columns.is_empty() {
            return Err(format!("`suite_config.{name}` must be a column or a list of columns, got {}", settings[name]));
        }
        sources.extend(columns.into_iter().map(ColumnSource::from));
    }
    Ok(sources)
}

fn setting<T: DeserializeOwned>(settings: &SuiteSettings, name: &str) -> Result<Option<T>, String> {
    let Some(value) = settings.get(name) else { return Ok(None) };
    serde_json::from_value(value.clone()).map(Some).map_err(|error| format!("`suite_config.{name}`: {error}"))
}

fn ranges(dims: &[[usize; 2]]) -> Result<Vec<Range<usize>>, String> {
    dims.iter()
        .map(|&[first, end]| match first <= end {
            true => Ok(first..end),
            false => Err(format!("dimensions [{first}, {end}] end before they begin")),
        })
        .collect()
}
