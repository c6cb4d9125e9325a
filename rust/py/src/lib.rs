//! Python bindings of `topk-ortho-core`: convert, release the GIL, call, map the error. Computes nothing.
//!
//! Objects are frozen and guarded by a mutex that is taken only while the GIL is released, so that any number of threads
//! may share one. Columns are read in place where they are contiguous, and must not be written to during a call. What a
//! function or method does is said in the type stub, `_core.pyi`.

mod arguments;
mod coactivation;
mod codes;
mod history;
mod penalty;
mod selection;

use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use std::sync::Mutex;
use topk_ortho_core::Error;

/// Exact top-k selection of feature pairs and a bounded history of what was selected.
#[pymodule]
mod _core {
    #[pymodule_export]
    use crate::coactivation::Coactivation;
    #[pymodule_export]
    use crate::penalty::{pair_cosines, pair_gradient, pair_penalty, row_norms};
    #[pymodule_export]
    use crate::{
        codes::dense_entries, codes::top_entries, history::PairHistory, selection::TopK, selection::top_products,
    };
}

/// Runs `call` on the guarded value without the GIL.
fn locked<T: Send, R: Send>(
    py: Python<'_>, value: &Mutex<T>, call: impl FnOnce(&mut T) -> Result<R, Error> + Send,
) -> PyResult<R> {
    py.detach(|| match value.lock() {
        Ok(mut guard) => call(&mut guard).map_err(raised),
        Err(_) => Err(PyRuntimeError::new_err(
            "an earlier call on this object failed half way; expected none to; restore it from the last checkpoint",
        )),
    })
}

fn raised(error: Error) -> PyErr {
    match error {
        Error::Memory { .. } => PyMemoryError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}
