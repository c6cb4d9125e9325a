//! `Coactivation`.

use crate::arguments::{Answer, Arg, answers, column, read, rows, sizes, thread_count, whole};
use crate::selection::best;
use crate::{locked, raised};
use numpy::{PyUntypedArray, dtype, prelude::*};
use pyo3::prelude::*;
use std::sync::Mutex;
use topk_ortho_core as core;
use topk_ortho_core::codes::{Codes, Pattern};

/// Columns `i`, `j` and `sum`.
type Sums = (Answer<i64>, Answer<i64>, Answer<f64>);

/// Exact pairs that fire together; see the type stub.
#[pyclass(frozen, module = "topk_ortho._core")]
pub(crate) struct Coactivation(Mutex<core::Coactivation>);

/// Makes a generic call with the slice of a column of either type; the first is asked for.
macro_rules! either {
    ($column:ident: $first:ty, $second:ty => $call:expr) => {
        if $column.cast::<PyUntypedArray>().is_ok_and(|it| it.dtype().is_equiv_to(&dtype::<$second>(it.py()))) {
            read!(column::<$second>: $column);
            $call
        } else {
            read!(column::<$first>: $column);
            $call
        }
    };
}

/// Makes a generic call with the codes that the arguments of these names are.
macro_rules! with_codes {
    ($crow:ident, $col:ident, $value:ident, $d_sae:ident, |$codes:ident| $call:expr) => {
        either!($col: i64, u32 => either!($value: f32, f64 => {
            let $codes = Codes { crow: $crow, col: $col, value: $value, d_sae: $d_sae };
            $call
        }))
    };
}

#[pymethods]
impl Coactivation {
    #[new]
    #[pyo3(signature = (*, threads=None))]
    fn new(py: Python, threads: Option<Arg>) -> PyResult<Self> {
        let threads = thread_count(threads)?;
        py.detach(|| core::Coactivation::new(threads)).map_err(raised).map(|it| Self(Mutex::new(it)))
    }

    fn select(&self, py: Python, crow: Arg, col: Arg, value: Arg, d_sae: Arg, k: Arg) -> PyResult<Selected> {
        read!(column: crow);
        sizes!(d_sae, k);
        with_codes!(crow, col, value, d_sae, |codes| locked(py, &self.0, |it| it.select(&codes, k).map(selected)))
    }

    fn select_cosine(&self, py: Python, crow: Arg, col: Arg, value: Arg, rows: Arg, k: Arg) -> PyResult<Selected> {
        rows!(rows);
        let d_sae = rows.len();
        read!(column: crow);
        sizes!(k);
        with_codes!(crow, col, value, d_sae, |codes| {
            locked(py, &self.0, |it| it.select_cosine(&codes, rows, k).map(selected))
        })
    }

    #[expect(clippy::too_many_arguments, reason = "columns of one batch")]
    fn pairs(&self, py: Python, crow: Arg, col: Arg, value: Arg, d_sae: Arg, first: Arg, last: Arg) -> PyResult<Sums> {
        read!(column: crow);
        sizes!(d_sae, first, last);
        let sums =
            with_codes!(crow, col, value, d_sae, |codes| locked(py, &self.0, |it| it.pairs(&codes, first..last)))?;
        Ok(answers!(sums; i, j, sum))
    }

    fn blocks(&self, py: Python, crow: Arg, col: Arg, d_sae: Arg, most_pairs: Arg) -> PyResult<Vec<usize>> {
        read!(column: crow);
        sizes!(d_sae);
        let most_pairs = whole("most_pairs", most_pairs)?;
        either!(col: i64, u32 => locked(py, &self.0, |it| {
            it.blocks(&Pattern { crow, col, d_sae }, most_pairs)
        }))
    }

    #[getter]
    fn bytes(&self, py: Python) -> PyResult<usize> {
        locked(py, &self.0, |it| Ok(it.bytes()))
    }
}

/// Columns `i`, `j` and `score`, and the number of pairs with a positive score.
type Selected = (Answer<i64>, Answer<i64>, Answer<f32>, u64);

fn selected(selected: core::coactivation::Selected) -> Selected {
    let (i, j, score) = best(selected.selection);
    (i, j, score, selected.positive)
}
