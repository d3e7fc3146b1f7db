//! How one's own robot's columns become states and actions.

use evo1_data::{Suite, SuiteSettings, Table};

/// The first joints of the recorded state and action: `process_suite: first_joints`, with their number in `suite_config`.
#[derive(Debug)]
pub(crate) struct FirstJoints {
    joints: usize,
}

impl FirstJoints {
    /// The suite of `suite_config: {joints: N}`.
    pub(crate) fn new(settings: &SuiteSettings) -> Result<Self, String> {
        let joints = settings.get("joints").and_then(|joints| joints.as_u64()).filter(|joints| *joints > 0);
        Ok(Self { joints: joints.ok_or("`joints` must be a whole number of at least 1")? as usize })
    }

    fn first(&self, table: &Table, column: &str, row: usize) -> Result<Vec<f32>, String> {
        let values = table.vector(column, row)?;
        let first = values.get(..self.joints);
        Ok(first.ok_or_else(|| format!("`{column}` has {} values, not {}", values.len(), self.joints))?.to_vec())
    }
}

impl Suite for FirstJoints {
    fn columns(&self) -> Option<Vec<String>> {
        Some(["observation.state", "action"].map(String::from).into())
    }

    fn state(&self, table: &Table, row: usize) -> Result<Vec<f32>, String> {
        self.first(table, "observation.state", row)
    }

    fn action(&self, table: &Table, row: usize) -> Result<Vec<f32>, String> {
        self.first(table, "action", row)
    }
}
