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
                sink.tensors.insert(name, copied(tensor.to_data()));
            }
        }
    }

    /// Records what `tensor` computes under `name` within the present scope; it runs only when the name is wanted.
    pub fn record_with<const D: usize>(&mut self, name: impl Display, tensor: impl FnOnce() -> Tensor<D>) {
        let Some(sink) = &self.sink else { return };
        if (sink.wanted)(&format!("{}{name}", self.prefix)) {
            self.record(name, &tensor());
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

/// The same data in memory of its own.
///
/// On devices that share the host's memory, cubecl 0.11 hands out the tensor's own buffer, which a later operation in
/// place would overwrite.
fn copied(data: TensorData) -> TensorData {
    TensorData::from_bytes_vec(data.as_bytes().to_vec(), data.shape().clone(), data.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::test_devices;

    #[test]
    fn what_was_recorded_stays_when_the_tensor_changes() {
        for device in test_devices() {
            let mut trace = Trace::all();
            let x = Tensor::<2>::ones([64, 64], &device) * 2.0;
            trace.scope("outer", |trace| trace.record("x", &x));
            let changed = (x + 1.0).sum().into_scalar::<f32>();
            assert_eq!(changed, 3.0 * 64.0 * 64.0);
            let recorded = &trace.into_tensors()["outer.x"];
            assert!(recorded.iter::<f32>().all(|value| value == 2.0), "on {device:?}");
        }
    }

    #[test]
    fn a_trace_keeps_what_is_wanted_and_one_that_is_off_keeps_nothing() {
        let device = test_devices().remove(0);
        let x = Tensor::<1>::ones([2], &device);
        let names = |mut trace: Trace| {
            trace.record("a", &x);
            trace.record("b", &x);
            trace.into_tensors().into_keys().collect::<Vec<_>>()
        };
        assert_eq!(names(Trace::of(|name| name == "b")), ["b"]);
        assert!(names(Trace::off()).is_empty());
    }
}
