//! `row_norms`, `pair_cosines`, `pair_gradient` and `pair_penalty`.
#![expect(clippy::too_many_arguments, reason = "columns of one set of pairs")]

use crate::arguments::{Answer, Arg, array, column, flags, read, rows, thread_count};
use crate::raised;
use numpy::{PyArray2, PyReadonlyArray1, PyReadwriteArray2, prelude::*};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use topk_ortho_core as core;
use topk_ortho_core::penalty::{PairPenalty, RowPairs, Slopes};

type Gradient<'py> = Bound<'py, PyArray2<f32>>;

#[pyfunction]
#[pyo3(signature = (rows, *, threads=None))]
pub(crate) fn row_norms(py: Python, rows: Arg, threads: Option<Arg>) -> PyResult<Answer<f32>> {
    rows!(rows);
    let threads = thread_count(threads)?;
    py.detach(|| core::row_norms(rows, threads).map(Answer)).map_err(raised)
}

#[pyfunction]
#[pyo3(signature = (rows, i, j, *, norms=None, threads=None))]
pub(crate) fn pair_cosines(
    py: Python, rows: Arg, i: Arg, j: Arg, norms: Option<Arg>, threads: Option<Arg>,
) -> PyResult<Answer<f32>> {
    rows!(rows);
    read!(column: i, j);
    let norms = norms.map(|norms| column("norms", norms)).transpose()?;
    let norms = norms.as_ref().map(PyReadonlyArray1::as_slice).transpose()?;
    let threads = thread_count(threads)?;
    py.detach(|| core::pair_cosines(rows, norms, RowPairs { i, j }, threads).map(Answer)).map_err(raised)
}

/// Refuses an output that one of the inputs shares memory with.
macro_rules! apart {
    ($out:ident: $($name:ident = $input:expr),+) => { $(apart($out, stringify!($name), $input)?;)+ };
}

#[pyfunction]
#[pyo3(signature = (rows, i, j, slope, moves_i, moves_j, *, norms=None, out=None, threads=None))]
pub(crate) fn pair_gradient<'py>(
    py: Python<'py>, rows: Arg, i: Arg, j: Arg, slope: Arg, moves_i: Arg, moves_j: Arg, norms: Option<Arg>,
    out: Option<Arg<'py>>, threads: Option<Arg>,
) -> PyResult<Gradient<'py>> {
    rows!(rows);
    read!(column: i, j, slope);
    read!(flags: moves_i, moves_j);
    let norms = norms.map(|norms| column("norms", norms)).transpose()?;
    let norms = norms.as_ref().map(PyReadonlyArray1::as_slice).transpose()?;
    let threads = thread_count(threads)?;
    let (out, mut gradient) = output(py, out, rows)?;
    let gradient = gradient.as_slice_mut()?;
    apart!(gradient: rows = rows.numbers(), norms = norms.unwrap_or_default());
    apart!(gradient: i = i, j = j, slope = slope, moves_i = moves_i, moves_j = moves_j);
    let (pairs, slopes) = (RowPairs { i, j }, Slopes { slope, moves_i, moves_j });
    py.detach(|| core::pair_gradient(rows, norms, pairs, slopes, gradient, threads)).map_err(raised)?;
    Ok(out)
}

#[pyfunction]
#[pyo3(signature = (rows, i, j, tau, weight, i_is_child, *, both_signs=false, norms=None, out=None, threads=None))]
pub(crate) fn pair_penalty<'py>(
    py: Python<'py>, rows: Arg, i: Arg, j: Arg, tau: Arg, weight: Arg, i_is_child: Arg, both_signs: bool,
    norms: Option<Arg>, out: Option<Arg<'py>>, threads: Option<Arg>,
) -> PyResult<(f64, Gradient<'py>)> {
    rows!(rows);
    read!(column: i, j, tau, weight);
    read!(flags: i_is_child);
    let norms = norms.map(|norms| column("norms", norms)).transpose()?;
    let norms = norms.as_ref().map(PyReadonlyArray1::as_slice).transpose()?;
    let threads = thread_count(threads)?;
    let (out, mut gradient) = output(py, out, rows)?;
    let gradient = gradient.as_slice_mut()?;
    apart!(gradient: rows = rows.numbers(), norms = norms.unwrap_or_default());
    apart!(gradient: i = i, j = j, tau = tau, weight = weight, i_is_child = i_is_child);
    let (pairs, penalty) = (RowPairs { i, j }, PairPenalty { tau, weight, both_signs });
    let total =
        py.detach(|| core::pair_penalty(rows, norms, pairs, penalty, i_is_child, gradient, threads)).map_err(raised)?;
    Ok((total, out))
}

/// The output that was given, or a new one, and access to its numbers.
fn output<'py>(
    py: Python<'py>, out: Option<Arg<'py>>, rows: core::Rows,
) -> PyResult<(Gradient<'py>, PyReadwriteArray2<'py, f32>)> {
    let shape = [rows.len(), rows.width()];
    let given = out.map(|out| array("out", out)).transpose()?.cloned();
    let out = given.unwrap_or_else(|| PyArray2::zeros(py, shape, false));
    if out.shape() != shape || !out.is_c_contiguous() || !out.is_aligned() {
        return Err(PyValueError::new_err(format!(
            "out has shape {:?}; expected {shape:?}, contiguous; leave it out to get a new one",
            out.shape()
        )));
    }
    let numbers = out.try_readwrite().map_err(|error| {
        PyValueError::new_err(format!(
            "out cannot be written to ({error}); expected an array of its own; pass numpy.empty_like(rows), or leave it out"
        ))
    })?;
    Ok((out, numbers))
}

/// Arrays that come by way of a buffer or a tensor do not know of each other, and borrow checking does not see it.
fn apart<T>(out: &[f32], name: &str, input: &[T]) -> PyResult<()> {
    let (out, input) = (out.as_ptr_range(), input.as_ptr_range());
    if out.start.addr().max(input.start.addr()) < out.end.addr().min(input.end.addr()) {
        return Err(PyValueError::new_err(format!(
            "out shares memory with {name}; expected an array of its own; pass numpy.empty_like(rows), or leave it out"
        )));
    }
    Ok(())
}
