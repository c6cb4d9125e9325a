//! Arguments and answers: numpy arrays of exactly one dtype as slices, numbers, and vectors as arrays.

use numpy::{Element, IntoPyArray, PyArray, PyArray1, PyReadonlyArray, PyReadonlyArray1, PyUntypedArray};
use numpy::{dtype, ndarray::Dimension, prelude::*};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBool;
use std::convert::Infallible;

/// An argument as it was given.
pub(crate) type Arg<'a> = &'a Bound<'a, PyAny>;

/// Puts slices in the place of arguments: those of the arrays that a reader finds in them.
macro_rules! read {
    ($reader:path: $($name:ident),+) => { $(
        let $name = $reader(stringify!($name), $name)?;
        let $name = $name.as_slice()?;
    )+ };
}

/// Puts the rows of a matrix in the place of an argument.
macro_rules! rows {
    ($name:ident) => {
        let $name = $crate::arguments::contiguous::<f32, numpy::Ix2>(stringify!($name), $name)?;
        let $name = core::Rows::new($name.as_slice()?, $name.shape()[1]).map_err($crate::raised)?;
    };
}

/// Puts sizes in the place of arguments.
macro_rules! sizes {
    ($($name:ident),+) => { $(let $name = $crate::arguments::size(stringify!($name), $name)?;)+ };
}

/// The vectors in some fields of a struct, which become numpy arrays without a copy.
macro_rules! answers {
    ($of:expr; $($field:ident),+) => { ($($crate::arguments::Answer($of.$field)),+) };
}

pub(crate) use {answers, read, rows, sizes};

/// Refuses anything but an array of `T` with the dimensions of `D`.
pub(crate) fn array<'a, 'py, T: Element, D: Dimension>(
    name: &str, value: &'a Bound<'py, PyAny>,
) -> PyResult<&'a Bound<'py, PyArray<T, D>>> {
    let expected = dtype::<T>(value.py());
    let Ok(array) = value.cast::<PyUntypedArray>() else {
        return Err(wrong_type(
            name,
            value,
            &format!("a numpy array of dtype {expected}; convert it with numpy.asarray"),
        ));
    };
    if !array.dtype().is_equiv_to(&expected) {
        return Err(PyTypeError::new_err(format!(
            "{name} has dtype {}; expected {expected}; convert it with {name}.astype(numpy.{expected})",
            array.dtype()
        )));
    }
    value.cast::<PyArray<T, D>>().map_err(|_| {
        let (given, expected) = (array.ndim(), D::NDIM.unwrap_or_default());
        let advice = if expected == 1 { "flatten it" } else { "pass a matrix [rows, width]" };
        PyValueError::new_err(format!("{name} has {given} dimensions; expected {expected}; {advice}"))
    })
}

/// An array, row after row in memory: the argument itself, or a copy of one that is laid out otherwise.
pub(crate) fn contiguous<'py, T: Element, D: Dimension>(
    name: &str, value: Arg<'py>,
) -> PyResult<PyReadonlyArray<'py, T, D>> {
    let array = array::<T, D>(name, value)?;
    if array.is_c_contiguous() && array.is_aligned() {
        return Ok(array.try_readonly()?);
    }
    Ok(array.call_method0("copy")?.cast_into::<PyArray<T, D>>()?.try_readonly()?)
}

/// A contiguous array of one dimension.
pub(crate) fn column<'py, T: Element>(name: &str, value: Arg<'py>) -> PyResult<PyReadonlyArray1<'py, T>> {
    contiguous(name, value)
}

/// A column of booleans. A byte that is neither 0 nor 1, which numpy takes for true, is none in Rust.
pub(crate) fn flags<'py>(name: &str, value: Arg<'py>) -> PyResult<PyReadonlyArray1<'py, bool>> {
    let flags = column::<bool>(name, value)?;
    let bytes = flags.call_method1("view", ("uint8",))?;
    let bytes = column::<u8>(name, &bytes)?;
    match bytes.as_slice()?.iter().find(|&&byte| byte > 1) {
        Some(byte) => Err(PyValueError::new_err(format!(
            "{name} holds a boolean whose byte is {byte}; expected 0 or 1; pass {name}.view(numpy.uint8) != 0"
        ))),
        None => Ok(flags),
    }
}

/// A vector as a numpy array.
pub(crate) struct Answer<T>(pub(crate) Vec<T>);

impl<'py, T: Element> IntoPyObject<'py> for Answer<T> {
    type Target = PyArray1<T>;
    type Output = Bound<'py, Self::Target>;
    type Error = Infallible;
    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Infallible> {
        Ok(self.0.into_pyarray(py))
    }
}

/// The error for an argument of another type than the expected one, which is followed by advice.
pub(crate) fn wrong_type(name: &str, value: Arg, expected: &str) -> PyErr {
    let given = value.get_type().name().map(|name| name.to_string()).unwrap_or_default();
    PyTypeError::new_err(format!("{name} is of type {given}; expected {expected}"))
}

/// A whole number of zero or more; numpy integers count, booleans and floats do not.
pub(crate) fn whole(name: &str, value: Arg) -> PyResult<u64> {
    if value.is_instance_of::<PyBool>() || !value.hasattr("__index__")? {
        return Err(wrong_type(name, value, "int; pass a whole number"));
    }
    value.extract().map_err(|_| {
        PyValueError::new_err(format!("{name} is {value}; expected 0 <= {name} < 2^64; pass a whole number in range"))
    })
}

/// A whole number of things in memory.
pub(crate) fn size(name: &str, value: Arg) -> PyResult<usize> {
    Ok(usize::try_from(whole(name, value)?).unwrap_or(usize::MAX))
}

/// The number of threads to use; one unless given.
pub(crate) fn thread_count(value: Option<Arg>) -> PyResult<usize> {
    value.map_or(Ok(1), |value| size("threads", value))
}

/// A real number; numpy scalars and whole numbers count.
pub(crate) fn real(name: &str, value: Arg) -> PyResult<f64> {
    value.extract().map_err(|_| wrong_type(name, value, "float; pass a real number"))
}
