//! `PairHistory`.

use crate::columns::Column;
use crate::{detached, locked, real, size, whole};
use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes, PyDict};
use std::sync::Mutex;
use topk_ortho_core as core;
use topk_ortho_core::stability::{LIFETIME_BINS, Observed, Report};

type Ints<'py> = Bound<'py, PyArray1<i64>>;
type Floats<'py> = Bound<'py, PyArray1<f64>>;
type Records<'py> = (
    Ints<'py>,
    Ints<'py>,
    Floats<'py>,
    Floats<'py>,
    Ints<'py>,
    Ints<'py>,
    Ints<'py>,
    Ints<'py>,
    Ints<'py>,
);

/// A bounded history of selections; see the type stub.
#[pyclass(frozen, module = "topk_ortho._core")]
pub(crate) struct PairHistory(Mutex<core::PairHistory>);

#[pymethods]
impl PairHistory {
    #[new]
    #[pyo3(signature = (*, capacity, decay))]
    fn new(
        py: Python<'_>,
        capacity: &Bound<'_, PyAny>,
        decay: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let decay = real("decay", decay)?;
        let capacity = size("capacity", capacity)?;
        detached(py, || core::PairHistory::new(capacity, decay))
            .map(|history| Self(Mutex::new(history)))
    }

    /// Takes one selection of distinct pairs i < j.
    fn observe(
        &self,
        py: Python<'_>,
        step: &Bound<'_, PyAny>,
        i: &Bound<'_, PyAny>,
        j: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let step = whole("step", step)?;
        let (i, j) = (Column::new("i", i)?, Column::new("j", j)?);
        let (i, j) = (i.slice()?, j.slice()?);
        locked(py, &self.0, |history| history.observe_columns(step, i, j))
    }

    /// The lower end of each pair's moving average as of now; 0 for a pair not in the table.
    fn ema<'py>(
        &self,
        py: Python<'py>,
        i: &Bound<'py, PyAny>,
        j: &Bound<'py, PyAny>,
    ) -> PyResult<Floats<'py>> {
        let (i, j) = (Column::new("i", i)?, Column::new("j", j)?);
        let (i, j) = (i.slice()?, j.slice()?);
        let ema = locked(py, &self.0, |history| {
            Ok(history.ema(&core::Pair::from_columns(i, j)?))
        })?;
        Ok(ema.into_pyarray(py))
    }

    /// The n records with the largest lower end, as nine columns.
    fn top<'py>(&self, py: Python<'py>, n: &Bound<'py, PyAny>) -> PyResult<Records<'py>> {
        let n = size("n", n)?;
        let top = locked(py, &self.0, |history| Ok(history.top(n)))?;
        Ok((
            top.i.into_pyarray(py),
            top.j.into_pyarray(py),
            top.ema_low.into_pyarray(py),
            top.ema_high.into_pyarray(py),
            top.hits.into_pyarray(py),
            top.first_seen.into_pyarray(py),
            top.last_seen.into_pyarray(py),
            top.streak.into_pyarray(py),
            top.longest_streak.into_pyarray(py),
        ))
    }

    /// How stable the selection has been, as a dict.
    fn stability<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        report(py, &locked(py, &self.0, |history| Ok(history.stability()))?)
    }

    /// The n features in most pairs of the latest selection, as (feature, degree).
    fn hubs<'py>(
        &self,
        py: Python<'py>,
        n: &Bound<'py, PyAny>,
    ) -> PyResult<(Ints<'py>, Ints<'py>)> {
        let n = size("n", n)?;
        let (feature, degree) = locked(py, &self.0, |history| Ok(history.hubs(n)))?;
        Ok((feature.into_pyarray(py), degree.into_pyarray(py)))
    }

    /// Everything that exact continuation needs.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = locked(py, &self.0, |history| Ok(history.to_bytes()))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The history that to_bytes wrote.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<Self> {
        let Ok(bytes) = data.cast::<PyBytes>() else {
            let given = data.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "data is of type {given}; expected bytes; pass what to_bytes returned"
            )));
        };
        let bytes = bytes.as_bytes();
        detached(py, || core::PairHistory::from_bytes(bytes))
            .map(|history| Self(Mutex::new(history)))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        locked(py, &self.0, |history| Ok(history.len()))
    }

    #[getter]
    fn capacity(&self, py: Python<'_>) -> PyResult<usize> {
        locked(py, &self.0, |history| Ok(history.capacity()))
    }

    #[getter]
    fn decay(&self, py: Python<'_>) -> PyResult<f64> {
        locked(py, &self.0, |history| Ok(history.decay()))
    }

    #[getter]
    fn observations(&self, py: Python<'_>) -> PyResult<u64> {
        locked(py, &self.0, |history| Ok(history.observations()))
    }

    #[getter]
    fn last_step(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        locked(py, &self.0, |history| Ok(history.last_step()))
    }

    #[getter]
    fn max_error(&self, py: Python<'_>) -> PyResult<f64> {
        locked(py, &self.0, |history| Ok(history.max_error()))
    }

    #[getter]
    fn bytes(&self, py: Python<'_>) -> PyResult<usize> {
        locked(py, &self.0, |history| Ok(history.bytes()))
    }
}

fn report<'py>(py: Python<'py>, report: &Report) -> PyResult<Bound<'py, PyDict>> {
    let lifetimes = PyDict::new(py);
    lifetimes.set_item(
        "bins",
        std::array::from_fn::<u64, LIFETIME_BINS, _>(|bin| 1 << bin),
    )?;
    lifetimes.set_item("counts", report.lifetimes.counts)?;
    lifetimes.set_item("unknown", report.lifetimes.unknown)?;
    let dict = PyDict::new(py);
    dict.set_item("observations", report.observations)?;
    dict.set_item("last_step", report.last.map(|last| last.step))?;
    dict.set_item(
        "last",
        report.last.map(|last| observed(py, &last)).transpose()?,
    )?;
    dict.set_item("mean_jaccard", report.mean_jaccard)?;
    let survival = report.survival.map(|at| (at.lag, (at.kept, at.anchored)));
    dict.set_item("survival", survival.into_py_dict(py)?)?;
    dict.set_item("lifetimes", lifetimes)?;
    Ok(dict)
}

fn observed<'py>(py: Python<'py>, last: &Observed) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("step", last.step)?;
    dict.set_item("size", last.size)?;
    dict.set_item("jaccard", last.jaccard)?;
    dict.set_item("entered", last.entered)?;
    dict.set_item("left", last.left)?;
    dict.set_item("kept", last.kept)?;
    dict.set_item("mean_ema", last.mean_ema)?;
    dict.set_item("stable_share", last.stable_share)?;
    Ok(dict)
}
