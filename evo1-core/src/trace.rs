//! A record of named intermediate tensors.
//!
//! Every composite module takes a [`Trace`] and tells it what it computed. Switched off, which is the default, a
//! trace reads nothing back from the device and formats no name, so that the code that is traced is the code that runs.

use std::{collections::BTreeMap, fmt::Display};

use burn::tensor::{Tensor, TensorData, kind::Basic};

type Filter = Box<dyn Fn(&str) -> bool + Send>;

/// Collects tensors under the names of `evo1 trace`, for example `vision.layer.0.attention`.
#[derive(Default)]
pub struct Trace {
    prefix: String,
    sink: Option<Sink>,
}

struct Sink {
    tensors: BTreeMap<String, TensorData>,
    wanted: Filter,
}

impl Trace {
    /// A trace that records nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// A trace that records every tensor whose full name is `wanted`.
    pub fn of(wanted: impl Fn(&str) -> bool + Send + 'static) -> Self {
        Self { prefix: String::new(), sink: Some(Sink { tensors: BTreeMap::new(), wanted: Box::new(wanted) }) }
    }

    /// A trace that records everything.
    pub fn all() -> Self {
        Self::of(|_| true)
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.sink.is_some()
    }

    /// Records `tensor` under `name` within the present scope.
    pub fn record<const D: usize, K: Basic>(&mut self, name: impl Display, tensor: &Tensor<D, K>) {
        if let Some(sink) = &mut self.sink {
            let name = format!("{}{name}", self.prefix);
            if (sink.wanted)(&name) {
                sink.tensors.insert(name, tensor.to_data());
            }
        }
    }

    /// Runs `body` with `name.` in front of every name that it records.
    pub fn scope<T>(&mut self, name: impl Display, body: impl FnOnce(&mut Self) -> T) -> T {
        if !self.is_on() {
            return body(self);
        }
        let outer = self.prefix.len();
        self.prefix.push_str(&format!("{name}."));
        let out = body(self);
        self.prefix.truncate(outer);
        out
    }

    /// What was recorded, by name.
    pub fn into_tensors(self) -> BTreeMap<String, TensorData> {
        self.sink.map(|sink| sink.tensors).unwrap_or_default()
    }
}
