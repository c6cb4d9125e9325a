//! Python bindings of `topk-ortho-core`: convert, release the GIL, call, map the error. Computes nothing.
//!
//! Objects are frozen and guarded by a mutex that is taken only while the GIL is released, so that any number of threads
//! may share one. Columns are read in place where they are contiguous, and must not be written to during a call.

mod coactivation;
mod codes;
mod columns;
mod history;
mod penalty;
mod selection;

use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use std::sync::Mutex;
use topk_ortho_core::Error;

/// Exact top-k selection of feature pairs and a bounded history of what was selected.
#[pymodule]
mod _core {
    #[pymodule_export]
    use crate::coactivation::Coactivation;
    #[pymodule_export]
    use crate::codes::{dense_entries, top_entries};
    #[pymodule_export]
    use crate::history::PairHistory;
    #[pymodule_export]
    use crate::penalty::{pair_cosines, pair_gradient, pair_penalty, row_norms};
    #[pymodule_export]
    use crate::selection::{TopK, top_products};
}

/// Runs `call` on the guarded value without the GIL.
fn locked<T: Send, R: Send>(
    py: Python<'_>,
    value: &Mutex<T>,
    call: impl FnOnce(&mut T) -> Result<R, Error> + Send,
) -> PyResult<R> {
    py.detach(|| match value.lock() {
        Ok(mut guard) => call(&mut guard).map_err(raised),
        Err(_) => Err(PyRuntimeError::new_err(
            "an earlier call on this object failed half way; expected none to; restore it from the last checkpoint",
        )),
    })
}

/// Runs `call` without the GIL.
fn detached<R: Send>(
    py: Python<'_>,
    call: impl FnOnce() -> Result<R, Error> + Send,
) -> PyResult<R> {
    py.detach(call).map_err(raised)
}

fn raised(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Memory { .. } => PyMemoryError::new_err(message),
        _ => PyValueError::new_err(message),
    }
}

/// A whole number of zero or more; numpy integers count, booleans and floats do not.
fn whole(name: &str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    let given = value.get_type().name()?;
    if value.is_instance_of::<pyo3::types::PyBool>() || !value.hasattr("__index__")? {
        return Err(PyTypeError::new_err(format!(
            "{name} is of type {given}; expected int; pass a whole number"
        )));
    }
    value.extract().map_err(|_| {
        PyValueError::new_err(format!(
            "{name} is {value}; expected 0 <= {name} < 2^64; pass a whole number in range"
        ))
    })
}

/// A whole number of things in memory.
fn size(name: &str, value: &Bound<'_, PyAny>) -> PyResult<usize> {
    Ok(usize::try_from(whole(name, value)?).unwrap_or(usize::MAX))
}

/// The number of threads to work on; one unless given.
fn threads(value: Option<&Bound<'_, PyAny>>) -> PyResult<usize> {
    value.map_or(Ok(1), |value| size("threads", value))
}

/// A real number; numpy scalars and whole numbers count.
fn real(name: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    let given = value.get_type().name()?;
    value.extract().map_err(|_| {
        PyTypeError::new_err(format!(
            "{name} is of type {given}; expected float; pass a real number"
        ))
    })
}
