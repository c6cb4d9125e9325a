//! `TopK` and `top_products`.

use crate::arguments::{Answer, Arg, column, read, sizes};
use crate::{locked, raised};
use pyo3::prelude::*;
use std::sync::Mutex;
use topk_ortho_core as core;

/// Columns `i`, `j` and `score`.
pub(crate) type Best = (Answer<i64>, Answer<i64>, Answer<f32>);

pub(crate) fn best(selection: core::Selection) -> Best {
    let (i, j, score) = selection.into_columns();
    (Answer(i), Answer(j), Answer(score))
}

/// Exact streaming top-k of scored pairs; see the type stub.
#[pyclass(frozen, module = "topk_ortho._core")]
pub(crate) struct TopK(Mutex<core::TopK>);

#[pymethods]
impl TopK {
    #[new]
    fn new(py: Python, k: Arg) -> PyResult<Self> {
        sizes!(k);
        Ok(Self(Mutex::new(py.detach(|| core::TopK::new(k)).map_err(raised)?)))
    }

    fn push(&self, py: Python, i: Arg, j: Arg, score: Arg) -> PyResult<()> {
        read!(column: i, j, score);
        locked(py, &self.0, |best| best.push_columns(i, j, score))
    }

    fn threshold(&self, py: Python) -> PyResult<Option<f32>> {
        locked(py, &self.0, |best| Ok(best.threshold()))
    }

    fn finish(&self, py: Python) -> PyResult<Best> {
        locked(py, &self.0, |selector| Ok(best(selector.finish())))
    }

    fn __len__(&self, py: Python) -> PyResult<usize> {
        locked(py, &self.0, |best| Ok(best.len()))
    }
}

#[pyfunction]
pub(crate) fn top_products(py: Python, m: Arg, k: Arg) -> PyResult<Best> {
    sizes!(k);
    read!(column: m);
    py.detach(|| core::top_products(m, k).map(best)).map_err(raised)
}
