//! NumPy arrays, by the buffer protocol.

use evo1::ActionChunk;
use pyo3::{buffer::PyBuffer, exceptions::PyTypeError, prelude::*, types::PyByteArray};

/// Numbers of an array or of nested sequences, as `f32`, and their shape: one or two dimensions.
pub(crate) fn floats(value: &Bound<'_, PyAny>, what: &str) -> PyResult<(Vec<usize>, Vec<f32>)> {
    let py = value.py();
    if let Ok(buffer) = PyBuffer::<f32>::get(value) {
        return Ok((buffer.shape().to_vec(), buffer.to_vec(py)?));
    }
    if let Ok(buffer) = PyBuffer::<f64>::get(value) {
        return Ok((buffer.shape().to_vec(), buffer.to_vec(py)?.into_iter().map(|value| value as f32).collect()));
    }
    if let Ok(values) = value.extract::<Vec<f32>>() {
        return Ok((vec![values.len()], values));
    }
    match value.extract::<Vec<Vec<f32>>>() {
        Ok(rows) if rows.iter().all(|row| row.len() == rows[0].len()) => {
            let width = rows.first().map_or(0, Vec::len);
            Ok((vec![rows.len(), width], rows.concat()))
        }
        _ => Err(PyTypeError::new_err(format!("{what} must be an array or a list of numbers, got {}", named(value)))),
    }
}

/// A chunk as an array of `float32`, `(horizon, width)`, which its reader may write to.
pub(crate) fn array<'py>(py: Python<'py>, chunk: &ActionChunk) -> PyResult<Bound<'py, PyAny>> {
    let values = chunk.values();
    let bytes = PyByteArray::new_with(py, size_of_val(values), |bytes| {
        for (bytes, value) in bytes.chunks_exact_mut(size_of::<f32>()).zip(values) {
            bytes.copy_from_slice(&value.to_ne_bytes());
        }
        Ok(())
    })?;
    let numpy = py.import("numpy")?;
    let flat = numpy.call_method1("frombuffer", (bytes, numpy.getattr("float32")?))?;
    flat.call_method1("reshape", (chunk.horizon(), chunk.width()))
}

/// What a value is, for messages: an array with its number type and shape, or its type.
pub(crate) fn named(value: &Bound<'_, PyAny>) -> String {
    let of = |name: &str| value.getattr(name).ok().map(|value| value.to_string());
    match (of("dtype"), of("shape")) {
        (Some(dtype), Some(shape)) => format!("an array of {dtype} with the shape {shape}"),
        _ => value.get_type().to_string(),
    }
}
