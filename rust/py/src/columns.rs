//! One-dimensional numpy arrays of exactly one dtype as slices.

use numpy::{
    Element, PyArray1, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray1, PyUntypedArray,
    PyUntypedArrayMethods, dtype,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// An array argument, contiguous: the array itself, or a copy of a strided one.
pub(crate) struct Column<'py, T: Element>(PyReadonlyArray1<'py, T>);

impl<'py, T: Element> Column<'py, T> {
    /// Refuses anything but a one-dimensional array of `T`.
    pub(crate) fn new(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let py = value.py();
        let expected = dtype::<T>(py);
        let Ok(array) = value.cast::<PyUntypedArray>() else {
            let given = value.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "{name} is of type {given}; expected a numpy array of dtype {expected}; convert it with numpy.asarray"
            )));
        };
        if !array.dtype().is_equiv_to(&expected) {
            return Err(PyTypeError::new_err(format!(
                "{name} has dtype {}; expected {expected}; convert it with {name}.astype(numpy.{expected})",
                array.dtype()
            )));
        }
        let Ok(array) = value.cast::<PyArray1<T>>() else {
            return Err(PyValueError::new_err(format!(
                "{name} has {} dimensions; expected 1; flatten it with {name}.ravel()",
                array.ndim()
            )));
        };
        if array.is_contiguous() && array.is_aligned() {
            return Ok(Self(array.try_readonly()?));
        }
        Ok(Self(
            array
                .call_method0("copy")?
                .cast_into::<PyArray1<T>>()?
                .try_readonly()?,
        ))
    }

    pub(crate) fn slice(&self) -> PyResult<&[T]> {
        Ok(self.0.as_slice()?)
    }
}
