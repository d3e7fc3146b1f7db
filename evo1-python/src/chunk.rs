//! Predictions in use: a chunk, the queue of its actions, and what guides the next one.

use std::time::Duration;

use evo1::{
    Prediction, StageTimes,
    action::flow::GuidanceConfig,
    chunk::{ActionQueue, ChunkGuidance, QueueConfig},
};
use pyo3::{exceptions::PyValueError, prelude::*, types::PyDict};
use serde::de::DeserializeOwned;

use crate::array::array;

/// A prediction: actions in the robot's units, and what a queue needs besides.
#[pyclass(frozen, module = "evo1", name = "Chunk")]
pub(crate) struct PyChunk {
    pub(crate) prediction: Prediction,
    pub(crate) times: StageTimes,
}

#[pymethods]
impl PyChunk {
    /// Actions in the robot's units, float32, (horizon, width).
    #[getter]
    fn actions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        array(py, &self.prediction.chunk)
    }

    /// The same as the flow ended in them: normalised, as wide as the model's actions.
    #[getter]
    fn normalized<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        array(py, &self.prediction.normalized)
    }

    /// Milliseconds of each stage of the prediction; of a batch, of all of it.
    #[getter]
    fn milliseconds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let times = PyDict::new(py);
        for (stage, time) in self.times.stages() {
            times.set_item(stage, milliseconds(time))?;
        }
        Ok(times)
    }

    fn __len__(&self) -> usize {
        self.prediction.chunk.horizon()
    }

    fn __repr__(&self) -> String {
        let Prediction { chunk, .. } = &self.prediction;
        format!(
            "Chunk({} actions of {} values, {:.1} ms)",
            chunk.horizon(),
            chunk.width(),
            milliseconds(self.times.total())
        )
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// How a chunk is guided to what is left of the one before (real-time chunking).
///
/// method: "identity" (no backward pass, as LeRobot) or "jacobian" (one for each step of the sampler, as the paper).
/// schedule: how the weights of the steps fall: "linear", "exp", "ones" or "zeros".
/// execution_horizon: steps of the new chunk that are bound to the previous one at all.
/// max_weight: the largest guidance weight.
#[pyclass(frozen, module = "evo1", name = "Guidance")]
pub(crate) struct PyGuidance(GuidanceConfig);

#[pymethods]
impl PyGuidance {
    #[new]
    #[pyo3(signature = (method="identity", schedule="linear", execution_horizon=10, max_weight=10.0))]
    fn new(method: &str, schedule: &str, execution_horizon: usize, max_weight: f32) -> PyResult<Self> {
        let (method, schedule) = (choice("method", method)?, choice("schedule", schedule)?);
        let config = GuidanceConfig { method, schedule, execution_horizon, max_weight };
        if !(max_weight.is_finite() && max_weight >= 0.0) {
            return Err(PyValueError::new_err(format!("`max_weight` must be at least 0, got {max_weight}")));
        }
        Ok(Self(config))
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// One of some names.
fn choice<T: DeserializeOwned>(field: &str, name: &str) -> PyResult<T> {
    serde_json::from_value(name.into()).map_err(|error| PyValueError::new_err(format!("`{field}`: {error}")))
}

/// What guides the next prediction: `ActionQueue.guidance` makes it, `Policy.plan` takes it.
#[pyclass(frozen, module = "evo1", name = "ChunkGuidance")]
pub(crate) struct PyChunkGuidance(pub(crate) ChunkGuidance);

/// Actions that wait to be executed.
///
/// In a loop that waits for predictions: `next_action()` until `wants_chunk()`, then `push(policy.plan(...))`. In a loop that
/// does not wait: when a chunk is wanted, take `guidance(delay)` and let another thread predict with it, go on executing, and
/// push the chunk with the number of actions executed since.
///
/// replan_every: actions after which a new chunk is wanted; the whole chunk when None.
/// guidance: how each chunk is guided to what is left of the one before; not at all when None.
#[pyclass(module = "evo1", name = "ActionQueue")]
pub(crate) struct PyActionQueue(ActionQueue);

#[pymethods]
impl PyActionQueue {
    #[new]
    #[pyo3(signature = (replan_every=None, guidance=None))]
    fn new(replan_every: Option<usize>, guidance: Option<&PyGuidance>) -> PyResult<Self> {
        if replan_every == Some(0) {
            return Err(PyValueError::new_err("`replan_every` must be at least 1, got 0"));
        }
        Ok(Self(ActionQueue::new(QueueConfig { replan_every, guidance: guidance.map(|guidance| guidance.0) })))
    }

    /// Whether it is time for a new chunk.
    fn wants_chunk(&self) -> bool {
        self.0.wants_chunk()
    }

    /// The next action in the robot's units, float32, (width,); None when none is left.
    fn next_action<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(action) = self.0.next_action() else { return Ok(None) };
        let action = evo1::ActionChunk::new(action.len(), action.to_vec());
        array(py, &action)?.get_item(0).map(Some)
    }

    /// Replaces what is left by a new chunk, of which the first `delay` actions belong to the time that has passed since its
    /// observation.
    #[pyo3(signature = (chunk, delay=0))]
    fn push(&mut self, chunk: &PyChunk, delay: usize) {
        self.0.push(chunk.prediction.clone(), delay);
    }

    /// What guides the next prediction, when `delay` more actions are executed until it is there; None when guidance is off
    /// or no action is left.
    #[pyo3(signature = (delay=0))]
    fn guidance(&self, delay: usize) -> Option<PyChunkGuidance> {
        self.0.guidance(delay).map(PyChunkGuidance)
    }

    /// Forgets all actions, as at the start of an episode.
    fn clear(&mut self) {
        self.0.clear();
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }
}
