//! The Python package `evo1`: Evo-1 policies in a Python process.
//!
//! | file | holds |
//! | --- | --- |
//! | `policy` | `Policy`: loading, predictions |
//! | `observation` | frames and states, from arrays |
//! | `chunk` | `Chunk`, `ActionQueue`, `Guidance`: predictions in use |
//! | `array` | NumPy arrays of numbers |
//! | `error` | the exceptions |
//! | `log` | what is logged, to Python's `logging` |
//!
//! Arrays are read by the buffer protocol, so that no version of NumPy is built against. They are copied once, as memory where
//! they lie row by row: other threads may write to an array while a policy computes, since the interpreter is free then.
#![deny(unsafe_code)]

mod array;
mod chunk;
mod error;
mod log;
mod observation;
mod policy;

use pyo3::prelude::*;

/// Evo-1, the vision-language-action model: camera frames, an instruction and a robot's state in, a chunk of robot actions out.
///
///     import evo1, numpy as np
///     policy = evo1.Policy.load()
///     frame = np.zeros((224, 224, 3), np.uint8)
///     actions = policy.predict([frame, frame], [0, 0.6, 0.15, 1, 0, 0.7, 0.02, 0], "Press the button")
///
/// Warnings go to the logger `evo1`.
#[pymodule]
#[pyo3(name = "evo1")]
fn evo1_module(module: &Bound<'_, PyModule>) -> PyResult<()> {
    log::start();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<policy::PyPolicy>()?;
    module.add_class::<chunk::PyChunk>()?;
    module.add_class::<chunk::PyActionQueue>()?;
    module.add_class::<chunk::PyGuidance>()?;
    module.add_class::<chunk::PyChunkGuidance>()?;
    error::add(module)
}
