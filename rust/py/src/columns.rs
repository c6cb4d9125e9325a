//! Numpy arrays of exactly one dtype as slices: columns, and matrices of float32.

use numpy::{
    Element, PyArray1, PyArray2, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray1,
    PyReadonlyArray2, PyUntypedArray, PyUntypedArrayMethods, dtype,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// An array argument, contiguous: the array itself, or a copy of a strided one.
pub(crate) struct Column<'py, T: Element>(PyReadonlyArray1<'py, T>);

impl<'py, T: Element> Column<'py, T> {
    /// Refuses anything but a one-dimensional array of `T`.
    pub(crate) fn new(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = untyped::<T>(name, value)?;
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

/// A column of booleans. A byte that is neither 0 nor 1, which numpy takes for true, is none in Rust.
pub(crate) struct Flags<'py>(Column<'py, bool>);

impl<'py> Flags<'py> {
    /// Refuses anything but a one-dimensional array of proper booleans.
    pub(crate) fn new(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let flags = Column::<bool>::new(name, value)?;
        let bytes = flags.0.call_method1("view", ("uint8",))?;
        let bytes = Column::<u8>::new(name, &bytes)?;
        match bytes.slice()?.iter().find(|&&byte| byte > 1) {
            Some(byte) => Err(PyValueError::new_err(format!(
                "{name} holds a boolean whose byte is {byte}; expected 0 or 1; pass {name}.view(numpy.uint8) != 0"
            ))),
            None => Ok(Self(flags)),
        }
    }

    pub(crate) fn slice(&self) -> PyResult<&[bool]> {
        self.0.slice()
    }
}

/// A matrix argument, row after row: the array itself, or a copy of one that is laid out otherwise.
pub(crate) struct Matrix<'py>(PyReadonlyArray2<'py, f32>);

impl<'py> Matrix<'py> {
    /// Refuses anything but a two-dimensional array of float32.
    pub(crate) fn new(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = untyped::<f32>(name, value)?;
        let Ok(array) = value.cast::<PyArray2<f32>>() else {
            return Err(PyValueError::new_err(format!(
                "{name} has {} dimensions; expected 2; pass a matrix [rows, width]",
                array.ndim()
            )));
        };
        if array.is_c_contiguous() && array.is_aligned() {
            return Ok(Self(array.try_readonly()?));
        }
        Ok(Self(
            array
                .call_method0("copy")?
                .cast_into::<PyArray2<f32>>()?
                .try_readonly()?,
        ))
    }

    pub(crate) fn height(&self) -> usize {
        self.0.shape()[0]
    }

    pub(crate) fn width(&self) -> usize {
        self.0.shape()[1]
    }

    pub(crate) fn slice(&self) -> PyResult<&[f32]> {
        Ok(self.0.as_slice()?)
    }
}

/// The array behind a value, of whatever number of dimensions.
fn untyped<'a, 'py, T: Element>(
    name: &str,
    value: &'a Bound<'py, PyAny>,
) -> PyResult<&'a Bound<'py, PyUntypedArray>> {
    let expected = dtype::<T>(value.py());
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
    Ok(array)
}
