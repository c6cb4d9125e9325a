//! `dense_entries` and `top_entries`.

use crate::columns::{Column, Matrix};
use crate::{detached, size};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use topk_ortho_core as core;
use topk_ortho_core::codes::Entries;

type Ints<'py> = Bound<'py, PyArray1<i64>>;
type Arrays<'py> = (Ints<'py>, Ints<'py>, Ints<'py>, Bound<'py, PyArray1<f32>>);

/// The entries of dense codes, as (crow, row, col, value).
#[pyfunction]
pub(crate) fn dense_entries<'py>(
    py: Python<'py>,
    acts: &Bound<'py, PyAny>,
) -> PyResult<Arrays<'py>> {
    let acts = Matrix::new("acts", acts)?;
    let (numbers, width) = (acts.slice()?, acts.width());
    let entries = detached(py, || Entries::of_dense(core::Rows::new(numbers, width)?))?;
    Ok(arrays(py, entries))
}

/// The entries of the top features of each row, as (crow, row, col, value).
#[pyfunction]
pub(crate) fn top_entries<'py>(
    py: Python<'py>,
    activation: &Bound<'py, PyAny>,
    feature: &Bound<'py, PyAny>,
    d_sae: &Bound<'py, PyAny>,
) -> PyResult<Arrays<'py>> {
    let activation = Matrix::new("activation", activation)?;
    let (feature, d_sae) = (Column::new("feature", feature)?, size("d_sae", d_sae)?);
    let (numbers, k) = (activation.slice()?, activation.width());
    let feature = feature.slice()?;
    let entries = detached(py, || {
        Entries::of_top(core::Rows::new(numbers, k)?, feature, d_sae)
    })?;
    Ok(arrays(py, entries))
}

fn arrays(py: Python<'_>, entries: Entries) -> Arrays<'_> {
    (
        entries.crow.into_pyarray(py),
        entries.row.into_pyarray(py),
        entries.col.into_pyarray(py),
        entries.value.into_pyarray(py),
    )
}
