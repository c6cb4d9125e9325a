//! `row_norms`, `pair_cosines`, `pair_gradient` and `pair_penalty`.

use crate::columns::{Column, Flags, Matrix};
use crate::detached;
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadwriteArray2, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use topk_ortho_core as core;
use topk_ortho_core::penalty::{Price, RowPairs, Slopes};

type Floats<'py> = Bound<'py, PyArray1<f32>>;

/// Euclidean norms of the rows.
#[pyfunction]
#[pyo3(signature = (rows, *, threads=None))]
pub(crate) fn row_norms<'py>(
    py: Python<'py>,
    rows: &Bound<'py, PyAny>,
    threads: Option<&Bound<'py, PyAny>>,
) -> PyResult<Floats<'py>> {
    let (rows, threads) = (Matrix::new("rows", rows)?, crate::threads(threads)?);
    let (numbers, width) = (rows.slice()?, rows.width());
    let norms = detached(py, || {
        core::row_norms(core::Rows::new(numbers, width)?, threads)
    })?;
    Ok(norms.into_pyarray(py))
}

/// The cosine of each pair of rows.
#[pyfunction]
#[pyo3(signature = (rows, i, j, *, norms=None, threads=None))]
pub(crate) fn pair_cosines<'py>(
    py: Python<'py>,
    rows: &Bound<'py, PyAny>,
    i: &Bound<'py, PyAny>,
    j: &Bound<'py, PyAny>,
    norms: Option<&Bound<'py, PyAny>>,
    threads: Option<&Bound<'py, PyAny>>,
) -> PyResult<Floats<'py>> {
    let (rows, threads) = (Matrix::new("rows", rows)?, crate::threads(threads)?);
    let (i, j) = (Column::new("i", i)?, Column::new("j", j)?);
    let norms = norms.map(|norms| Column::new("norms", norms)).transpose()?;
    let (numbers, width) = (rows.slice()?, rows.width());
    let (i, j) = (i.slice()?, j.slice()?);
    let norms = norms.as_ref().map(Column::slice).transpose()?;
    let cosines = detached(py, || {
        let rows = core::Rows::new(numbers, width)?;
        core::pair_cosines(rows, norms, RowPairs { i, j }, threads)
    })?;
    Ok(cosines.into_pyarray(py))
}

/// The gradient of the pairs' cosines times their slopes, written to `out`.
#[pyfunction]
#[pyo3(signature = (rows, i, j, slope, moves_i, moves_j, *, norms=None, out=None, threads=None))]
#[expect(clippy::too_many_arguments, reason = "columns of one set of pairs")]
pub(crate) fn pair_gradient<'py>(
    py: Python<'py>,
    rows: &Bound<'py, PyAny>,
    i: &Bound<'py, PyAny>,
    j: &Bound<'py, PyAny>,
    slope: &Bound<'py, PyAny>,
    moves_i: &Bound<'py, PyAny>,
    moves_j: &Bound<'py, PyAny>,
    norms: Option<&Bound<'py, PyAny>>,
    out: Option<&Bound<'py, PyAny>>,
    threads: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let (rows, threads) = (Matrix::new("rows", rows)?, crate::threads(threads)?);
    let (i, j) = (Column::new("i", i)?, Column::new("j", j)?);
    let slope = Column::new("slope", slope)?;
    let moves_i = Flags::new("moves_i", moves_i)?;
    let moves_j = Flags::new("moves_j", moves_j)?;
    let norms = norms.map(|norms| Column::new("norms", norms)).transpose()?;
    let out = of_shape(py, out, [rows.height(), rows.width()])?;
    let mut gradient = writable(&out)?;
    let (numbers, width) = (rows.slice()?, rows.width());
    let pairs = RowPairs {
        i: i.slice()?,
        j: j.slice()?,
    };
    let slopes = Slopes {
        slope: slope.slice()?,
        moves_i: moves_i.slice()?,
        moves_j: moves_j.slice()?,
    };
    let norms = norms.as_ref().map(Column::slice).transpose()?;
    let gradient = gradient.as_slice_mut()?;
    apart(gradient, "rows", numbers)?;
    apart(gradient, "i", pairs.i)?;
    apart(gradient, "j", pairs.j)?;
    apart(gradient, "slope", slopes.slope)?;
    apart(gradient, "moves_i", slopes.moves_i)?;
    apart(gradient, "moves_j", slopes.moves_j)?;
    apart(gradient, "norms", norms.unwrap_or_default())?;
    detached(py, || {
        let rows = core::Rows::new(numbers, width)?;
        core::pair_gradient(rows, norms, pairs, slopes, gradient, threads)
    })?;
    Ok(out)
}

/// What the pairs cost, and its gradient written to `out`.
#[pyfunction]
#[pyo3(signature = (rows, i, j, tau, weight, i_is_child, *, both_signs=false, norms=None, out=None, threads=None))]
#[expect(clippy::too_many_arguments, reason = "columns of one set of pairs")]
pub(crate) fn pair_penalty<'py>(
    py: Python<'py>,
    rows: &Bound<'py, PyAny>,
    i: &Bound<'py, PyAny>,
    j: &Bound<'py, PyAny>,
    tau: &Bound<'py, PyAny>,
    weight: &Bound<'py, PyAny>,
    i_is_child: &Bound<'py, PyAny>,
    both_signs: bool,
    norms: Option<&Bound<'py, PyAny>>,
    out: Option<&Bound<'py, PyAny>>,
    threads: Option<&Bound<'py, PyAny>>,
) -> PyResult<(f64, Bound<'py, PyArray2<f32>>)> {
    let (rows, threads) = (Matrix::new("rows", rows)?, crate::threads(threads)?);
    let (i, j) = (Column::new("i", i)?, Column::new("j", j)?);
    let (tau, weight) = (Column::new("tau", tau)?, Column::new("weight", weight)?);
    let i_is_child = Flags::new("i_is_child", i_is_child)?;
    let norms = norms.map(|norms| Column::new("norms", norms)).transpose()?;
    let out = of_shape(py, out, [rows.height(), rows.width()])?;
    let mut gradient = writable(&out)?;
    let (numbers, width) = (rows.slice()?, rows.width());
    let pairs = RowPairs {
        i: i.slice()?,
        j: j.slice()?,
    };
    let price = Price {
        tau: tau.slice()?,
        weight: weight.slice()?,
        both_signs,
    };
    let i_is_child = i_is_child.slice()?;
    let norms = norms.as_ref().map(Column::slice).transpose()?;
    let gradient = gradient.as_slice_mut()?;
    apart(gradient, "rows", numbers)?;
    apart(gradient, "i", pairs.i)?;
    apart(gradient, "j", pairs.j)?;
    apart(gradient, "tau", price.tau)?;
    apart(gradient, "weight", price.weight)?;
    apart(gradient, "i_is_child", i_is_child)?;
    apart(gradient, "norms", norms.unwrap_or_default())?;
    let cost = detached(py, || {
        let rows = core::Rows::new(numbers, width)?;
        core::pair_penalty(rows, norms, pairs, price, i_is_child, gradient, threads)
    })?;
    Ok((cost, out))
}

fn of_shape<'py>(
    py: Python<'py>,
    out: Option<&Bound<'py, PyAny>>,
    shape: [usize; 2],
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let Some(out) = out else {
        return Ok(PyArray2::zeros(py, shape, false));
    };
    let Ok(array) = out.cast::<PyArray2<f32>>() else {
        let given = out.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "out is of type {given} or of another dtype or dimension; expected a numpy array [rows, width] of dtype float32; leave it out to get a new one"
        )));
    };
    if array.shape() != shape || !array.is_c_contiguous() || !array.is_aligned() {
        return Err(PyValueError::new_err(format!(
            "out has shape {:?}; expected {shape:?}, contiguous; leave it out to get a new one",
            array.shape()
        )));
    }
    Ok(array.clone())
}

fn writable<'py>(out: &Bound<'py, PyArray2<f32>>) -> PyResult<PyReadwriteArray2<'py, f32>> {
    out.try_readwrite().map_err(|error| {
        PyValueError::new_err(format!(
            "out cannot be written to ({error}); expected an array of its own; pass numpy.empty_like(rows), or leave it out"
        ))
    })
}

/// Refuses an output that an input shares memory with. Arrays that come by way of a buffer or a tensor do not know of each
/// other, and borrow checking does not see it.
fn apart<T>(out: &[f32], name: &str, column: &[T]) -> PyResult<()> {
    let (out, column) = (out.as_ptr_range(), column.as_ptr_range());
    let begins = out.start.addr().max(column.start.addr());
    if begins < out.end.addr().min(column.end.addr()) {
        return Err(PyValueError::new_err(format!(
            "out shares memory with {name}; expected an array of its own; pass numpy.empty_like(rows), or leave it out"
        )));
    }
    Ok(())
}
