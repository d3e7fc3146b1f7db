//! What makes a run the run that it is: what must not change where it goes on.

use std::collections::BTreeMap;

use evo1_data::DatasetIdentity;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Error, Group, Parameter, Result, TrainConfig};

/// What a run is made of, beside its weights.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunIdentity {
    /// Observations of a batch.
    pub batch_size: usize,
    /// Observations of a step, on all devices of all processes.
    pub effective_batch: usize,
    /// Everything random comes from it.
    pub seed: u64,
    /// The parameters that are trained, with their shapes.
    pub trained: BTreeMap<String, Vec<usize>>,
    /// The datasets; nothing where batches come from elsewhere.
    pub data: Vec<DatasetIdentity>,
    /// What was changed where the run went on, each once.
    #[serde(default)]
    pub changes: Vec<Change>,
}

/// Something that was changed, and accepted, where a run went on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Steps that were done before.
    pub step: u64,
    /// What: `batch_size`, `effective_batch`, `seed`, `trained` or `data`.
    pub name: String,
    /// Old and new value, in words.
    pub text: String,
}

impl RunIdentity {
    /// What a run is that begins, or goes on.
    pub(crate) fn of(
        config: &TrainConfig,
        processes: &dyn Group,
        trained: &[Parameter],
        data: Vec<DatasetIdentity>,
    ) -> Self {
        Self {
            batch_size: config.batch_size,
            effective_batch: config.effective_batch(processes),
            seed: config.seed,
            trained: trained.iter().map(|parameter| (parameter.path.clone(), parameter.shape.clone())).collect(),
            data,
            changes: Vec::new(),
        }
    }

    /// This run as one that goes on from `before` after `step` steps. What is not the same must be `allowed` by its name.
    ///
    /// # Errors
    /// When something is not the same that is not allowed to be another, with both values.
    pub(crate) fn going_on_from(self, before: &Self, step: u64, allowed: &[String]) -> Result<Self> {
        let names = ["batch_size", "effective_batch", "seed", "trained", "data"];
        if let Some(unknown) = allowed.iter().find(|name| !names.contains(&name.as_str())) {
            return Err(Error::config("--allow-change", format!("one of {}", names.join(", ")), unknown));
        }
        let (old, new) = (before.values(), self.values());
        let mut changes = before.changes.clone();
        for name in names {
            let mut differences = Vec::new();
            differ(name, &old[name], &new[name], &mut differences);
            if differences.is_empty() {
                continue;
            }
            let text = in_words(&differences);
            if !allowed.iter().any(|allowed| allowed == name) {
                return Err(Error::Changed { name: name.to_owned(), text });
            }
            changes.push(Change { step, name: name.to_owned(), text });
        }
        Ok(Self { changes, ..self })
    }

    fn values(&self) -> BTreeMap<&'static str, Value> {
        let data = self.data.iter().map(|dataset| (dataset.name.clone(), json!(dataset)));
        BTreeMap::from([
            ("batch_size", json!(self.batch_size)),
            ("effective_batch", json!(self.effective_batch)),
            ("seed", json!(self.seed)),
            ("trained", json!(self.trained)),
            ("data", Value::Object(data.collect())),
        ])
    }
}

/// The places where two documents differ, with both values.
pub(crate) fn differ(path: &str, old: &Value, new: &Value, to: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let of = |fields: &serde_json::Map<String, Value>| fields.get(key).cloned().unwrap_or(Value::Null);
                differ(&format!("{path}.{key}"), &of(a), &of(b), to);
            }
        }
        (old, new) if old == new => {}
        (old, new) => to.push(format!("{path}: was {}, is {}", word(old), word(new))),
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "not there".into(),
        Value::Object(_) => "there".into(),
        value => value.to_string(),
    }
}

/// Differences in a line, of which only the first ones are listed.
pub(crate) fn in_words(differences: &[String]) -> String {
    const LISTED: usize = 4;
    let mut text = differences[..differences.len().min(LISTED)].join("; ");
    if differences.len() > LISTED {
        text += &format!("; and {} more", differences.len() - LISTED);
    }
    text
}
