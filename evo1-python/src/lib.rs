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

use pyo3::{exceptions::PyAttributeError, prelude::*};

/// glibc's names of the settings in `mallopt`.
const M_TRIM_THRESHOLD: i32 = -1;
const M_MMAP_MAX: i32 = -4;

/// Keeps memory that was freed for the next allocation, in the whole process, as the program `evo1` does; True where the allocator
/// (glibc's) has such a setting.
///
/// A prediction of the published size on a CPU makes and drops tensors of tens of megabytes in every layer. Without this the
/// system takes each back and clears the next one's pages. Call it before policies are loaded.
#[pyfunction]
fn keep_freed_memory(py: Python<'_>) -> PyResult<bool> {
    if !cfg!(target_os = "linux") {
        return Ok(false);
    }
    let allocator = py.import("ctypes")?.call_method1("CDLL", (py.None(),))?;
    for (setting, value) in [(M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)] {
        match allocator.call_method1("mallopt", (setting, value)) {
            Ok(is_set) if is_set.extract::<i32>()? == 1 => {}
            Ok(_) => return Ok(false),
            Err(error) if error.is_instance_of::<PyAttributeError>(py) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

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
    module.add_function(wrap_pyfunction!(keep_freed_memory, module)?)?;
    module.add_class::<policy::PyPolicy>()?;
    module.add_class::<chunk::PyChunk>()?;
    module.add_class::<chunk::PyActionQueue>()?;
    module.add_class::<chunk::PyGuidance>()?;
    module.add_class::<chunk::PyChunkGuidance>()?;
    error::add(module)
}
