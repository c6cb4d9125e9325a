//! `PairHistory`.

use crate::arguments::{Answer, Arg, answers, column, read, real, sizes, whole, wrong_type};
use crate::{locked, raised};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes, PyDict};
use std::sync::Mutex;
use topk_ortho_core::{self as core, stability::LIFETIME_BINS};

type Ints = Answer<i64>;
type Floats = Answer<f64>;
type Records = (Ints, Ints, Floats, Floats, Ints, Ints, Ints, Ints, Ints);

/// A dict of some fields of a struct.
macro_rules! dict {
    ($py:ident, $of:expr; $($field:ident),+) => {{
        let dict = PyDict::new($py);
        $(dict.set_item(stringify!($field), $of.$field)?;)+
        dict
    }};
}

/// A bounded history of selections; see the type stub.
#[pyclass(frozen, module = "topk_ortho._core")]
pub(crate) struct PairHistory(Mutex<core::PairHistory>);

#[pymethods]
impl PairHistory {
    #[new]
    #[pyo3(signature = (*, capacity, decay))]
    fn new(py: Python, capacity: Arg, decay: Arg) -> PyResult<Self> {
        let decay = real("decay", decay)?;
        sizes!(capacity);
        py.detach(|| core::PairHistory::new(capacity, decay)).map_err(raised).map(|it| Self(Mutex::new(it)))
    }

    fn observe(&self, py: Python, step: Arg, i: Arg, j: Arg) -> PyResult<()> {
        let step = whole("step", step)?;
        read!(column: i, j);
        locked(py, &self.0, |history| history.observe_columns(step, i, j))
    }

    fn ema(&self, py: Python, i: Arg, j: Arg) -> PyResult<Floats> {
        read!(column: i, j);
        locked(py, &self.0, |history| Ok(Answer(history.ema(&core::Pair::from_columns(i, j)?))))
    }

    fn top(&self, py: Python, n: Arg) -> PyResult<Records> {
        sizes!(n);
        let top = locked(py, &self.0, |history| history.top(n))?;
        Ok(answers!(top; i, j, ema_low, ema_high, hits, first_seen, last_seen, streak, longest_streak))
    }

    fn stability<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let report = locked(py, &self.0, |history| Ok(history.stability()))?;
        let last = report.last.map(|last| -> PyResult<_> {
            Ok(dict!(py, last; step, size, jaccard, entered, left, kept, mean_ema, stable_share))
        });
        let survival = report.survival.map(|at| (at.lag, (at.kept, at.anchored)));
        let lifetimes = dict!(py, report.lifetimes; counts, unknown);
        lifetimes.set_item("bins", std::array::from_fn::<u64, LIFETIME_BINS, _>(|bin| 1 << bin))?;
        let dict = dict!(py, report; observations, mean_jaccard);
        dict.set_item("last_step", report.last.map(|last| last.step))?;
        dict.set_item("last", last.transpose()?)?;
        dict.set_item("survival", survival.into_py_dict(py)?)?;
        dict.set_item("lifetimes", lifetimes)?;
        Ok(dict)
    }

    fn hubs(&self, py: Python, n: Arg) -> PyResult<(Ints, Ints)> {
        sizes!(n);
        let (feature, degree) = locked(py, &self.0, |history| Ok(history.hubs(n)))?;
        Ok((Answer(feature), Answer(degree)))
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = locked(py, &self.0, |history| history.to_bytes())?;
        Ok(PyBytes::new(py, &bytes))
    }

    #[staticmethod]
    fn from_bytes(py: Python, data: Arg) -> PyResult<Self> {
        let Ok(bytes) = data.cast::<PyBytes>() else {
            return Err(wrong_type("data", data, "bytes; pass what to_bytes returned"));
        };
        let bytes = bytes.as_bytes();
        py.detach(|| core::PairHistory::from_bytes(bytes)).map_err(raised).map(|it| Self(Mutex::new(it)))
    }

    fn __len__(&self, py: Python) -> PyResult<usize> {
        locked(py, &self.0, |history| Ok(history.len()))
    }

    #[getter]
    fn capacity(&self, py: Python) -> PyResult<usize> {
        locked(py, &self.0, |history| Ok(history.capacity()))
    }

    #[getter]
    fn decay(&self, py: Python) -> PyResult<f64> {
        locked(py, &self.0, |history| Ok(history.decay()))
    }

    #[getter]
    fn observations(&self, py: Python) -> PyResult<u64> {
        locked(py, &self.0, |history| Ok(history.observations()))
    }

    #[getter]
    fn last_step(&self, py: Python) -> PyResult<Option<u64>> {
        locked(py, &self.0, |history| Ok(history.last_step()))
    }

    #[getter]
    fn max_error(&self, py: Python) -> PyResult<f64> {
        locked(py, &self.0, |history| Ok(history.max_error()))
    }

    #[getter]
    fn bytes(&self, py: Python) -> PyResult<usize> {
        locked(py, &self.0, |history| Ok(history.bytes()))
    }
}
