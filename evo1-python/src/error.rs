//! The exceptions: one for each place where a remedy lies.

use evo1::CoreError;
use pyo3::{create_exception, exceptions::PyException, prelude::*};

create_exception!(evo1, Error, PyException, "What evo1 raises; its subclasses say where the remedy lies.");
create_exception!(evo1, DeviceError, Error, "A device is not in this build or on this machine, or has failed.");
create_exception!(evo1, PolicyError, Error, "A policy cannot be loaded.");
create_exception!(
    evo1,
    ObservationError,
    Error,
    "An observation is not one of this policy's, or an option not possible."
);
create_exception!(evo1, PredictionError, Error, "A prediction is not finite.");

/// Adds the exceptions to the module.
pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("Error", py.get_type::<Error>())?;
    module.add("DeviceError", py.get_type::<DeviceError>())?;
    module.add("PolicyError", py.get_type::<PolicyError>())?;
    module.add("ObservationError", py.get_type::<ObservationError>())?;
    module.add("PredictionError", py.get_type::<PredictionError>())
}

/// What is raised for an error while a policy is loaded.
pub(crate) fn loading(error: evo1::Error) -> PyErr {
    raised(error, PyErr::new::<PolicyError, String>)
}

/// What is raised for an error of a prediction.
pub(crate) fn predicting(error: evo1::Error) -> PyErr {
    match error {
        evo1::Error::NonFinitePrediction { .. } => PredictionError::new_err(error.to_string()),
        error => raised(error, PyErr::new::<ObservationError, String>),
    }
}

fn raised(error: evo1::Error, otherwise: fn(String) -> PyErr) -> PyErr {
    let message = error.to_string();
    match error {
        evo1::Error::Core(
            CoreError::UnknownDevice { .. }
            | CoreError::DeviceNotBuilt { .. }
            | CoreError::DeviceAbsent { .. }
            | CoreError::DeviceUnusable { .. }
            | CoreError::DtypeUnsupported { .. }
            | CoreError::DeviceFailed { .. },
        ) => DeviceError::new_err(message),
        _ => otherwise(message),
    }
}
