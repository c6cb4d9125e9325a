//! `TopK` and `top_products`.

use crate::columns::Column;
use crate::{detached, locked, size};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use std::sync::Mutex;
use topk_ortho_core as core;

pub(crate) type Selected<'py> = (
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<f32>>,
);

pub(crate) fn into_arrays(
    py: Python<'_>,
    selection: (Vec<i64>, Vec<i64>, Vec<f32>),
) -> Selected<'_> {
    let (i, j, score) = selection;
    (
        i.into_pyarray(py),
        j.into_pyarray(py),
        score.into_pyarray(py),
    )
}

/// Exact streaming top-k of scored pairs; see the type stub.
#[pyclass(frozen, module = "topk_ortho._core")]
pub(crate) struct TopK(Mutex<core::TopK>);

#[pymethods]
impl TopK {
    #[new]
    fn new(py: Python<'_>, k: &Bound<'_, PyAny>) -> PyResult<Self> {
        let k = size("k", k)?;
        detached(py, || core::TopK::new(k)).map(|best| Self(Mutex::new(best)))
    }

    /// Offers one block of candidates.
    fn push(
        &self,
        py: Python<'_>,
        i: &Bound<'_, PyAny>,
        j: &Bound<'_, PyAny>,
        score: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (i, j) = (Column::new("i", i)?, Column::new("j", j)?);
        let score = Column::new("score", score)?;
        let (i, j, score) = (i.slice()?, j.slice()?, score.slice()?);
        locked(py, &self.0, |best| best.push_columns(i, j, score))
    }

    /// The k-th best score so far once k candidates are held, else None.
    fn threshold(&self, py: Python<'_>) -> PyResult<Option<f32>> {
        locked(py, &self.0, |best| Ok(best.threshold()))
    }

    /// The k best as (i, j, score), best first; the selector is empty afterwards.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Selected<'py>> {
        let columns = locked(py, &self.0, |best| Ok(best.finish().into_columns()))?;
        Ok(into_arrays(py, columns))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        locked(py, &self.0, |best| Ok(best.len()))
    }
}

/// The k pairs with the largest product m[i] * m[j] as (i, j, score), best first.
#[pyfunction]
pub(crate) fn top_products<'py>(
    py: Python<'py>,
    m: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
) -> PyResult<Selected<'py>> {
    let k = size("k", k)?;
    let m = Column::new("m", m)?;
    let m = m.slice()?;
    let columns = detached(py, || {
        core::top_products(m, k).map(core::Selection::into_columns)
    })?;
    Ok(into_arrays(py, columns))
}
