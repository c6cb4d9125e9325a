//! `Coactivation`.

use crate::columns::{Column, Matrix};
use crate::selection::into_arrays;
use crate::{detached, locked, size, whole};
use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use std::sync::Mutex;
use topk_ortho_core as core;

type Ints<'py> = Bound<'py, PyArray1<i64>>;
type Selected<'py> = (Ints<'py>, Ints<'py>, Bound<'py, PyArray1<f32>>, u64);
type Sums<'py> = (Ints<'py>, Ints<'py>, Bound<'py, PyArray1<f64>>);

/// Exact pairs that fire together; see the type stub.
#[pyclass(frozen, module = "topk_ortho._core")]
pub(crate) struct Coactivation(Mutex<core::Coactivation>);

/// The columns of a batch, in the dtypes that are taken.
struct Batch<'py> {
    crow: Column<'py, i64>,
    col: Features<'py>,
    value: Values<'py>,
    d_sae: usize,
}

enum Features<'py> {
    Narrow(Column<'py, u32>),
    Wide(Column<'py, i64>),
}

impl<'py> Features<'py> {
    fn new(col: &Bound<'py, PyAny>) -> PyResult<Self> {
        match Column::new("col", col) {
            Err(error) if error.is_instance_of::<PyTypeError>(col.py()) => {
                Ok(Self::Narrow(Column::new("col", col).map_err(|_| error)?))
            }
            wide => Ok(Self::Wide(wide?)),
        }
    }

    fn len(&self) -> PyResult<usize> {
        Ok(match self {
            Self::Narrow(col) => col.slice()?.len(),
            Self::Wide(col) => col.slice()?.len(),
        })
    }
}

enum Values<'py> {
    Single(Column<'py, f32>),
    Double(Column<'py, f64>),
}

/// Runs a generic call on the codes of a batch in their own dtypes.
macro_rules! with_codes {
    ($batch:expr, $codes:ident => $call:expr) => {{
        let (crow, d_sae) = ($batch.crow.slice()?, $batch.d_sae);
        macro_rules! call {
            ($col:expr, $value:expr) => {{
                let $codes = core::Codes {
                    crow,
                    col: $col.slice()?,
                    value: $value.slice()?,
                    d_sae,
                };
                $call
            }};
        }
        match (&$batch.col, &$batch.value) {
            (Features::Narrow(col), Values::Single(value)) => call!(col, value),
            (Features::Narrow(col), Values::Double(value)) => call!(col, value),
            (Features::Wide(col), Values::Single(value)) => call!(col, value),
            (Features::Wide(col), Values::Double(value)) => call!(col, value),
        }
    }};
}

#[pymethods]
impl Coactivation {
    #[new]
    #[pyo3(signature = (*, threads=None))]
    fn new(py: Python<'_>, threads: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let threads = crate::threads(threads)?;
        detached(py, || core::Coactivation::new(threads))
            .map(|coactivation| Self(Mutex::new(coactivation)))
    }

    /// The k pairs with the largest sums, as (i, j, score, positive).
    fn select<'py>(
        &self,
        py: Python<'py>,
        crow: &Bound<'py, PyAny>,
        col: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        d_sae: &Bound<'py, PyAny>,
        k: &Bound<'py, PyAny>,
    ) -> PyResult<Selected<'py>> {
        let batch = Batch::new(crow, col, value, d_sae)?;
        let k = size("k", k)?;
        let selected = with_codes!(batch, codes => locked(py, &self.0, |it| {
            it.select(&codes, k).map(columns)
        }))?;
        Ok(into_selected(py, selected))
    }

    /// The k co-active pairs with the largest positive cosine of their rows, as (i, j, score, positive).
    fn select_cosine<'py>(
        &self,
        py: Python<'py>,
        crow: &Bound<'py, PyAny>,
        col: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        rows: &Bound<'py, PyAny>,
        k: &Bound<'py, PyAny>,
    ) -> PyResult<Selected<'py>> {
        let rows = Matrix::new("rows", rows)?;
        let d_sae = rows.height();
        let batch = Batch::of(crow, col, value, d_sae)?;
        let k = size("k", k)?;
        let (numbers, width) = (rows.slice()?, rows.width());
        let selected = with_codes!(batch, codes => locked(py, &self.0, |it| {
            it.select_cosine(&codes, core::Rows::new(numbers, width)?, k).map(columns)
        }))?;
        Ok(into_selected(py, selected))
    }

    /// All co-active pairs whose smaller feature is in [first, last), as (i, j, sum), in the order of pairs.
    #[expect(clippy::too_many_arguments, reason = "columns of one batch")]
    fn pairs<'py>(
        &self,
        py: Python<'py>,
        crow: &Bound<'py, PyAny>,
        col: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        d_sae: &Bound<'py, PyAny>,
        first: &Bound<'py, PyAny>,
        last: &Bound<'py, PyAny>,
    ) -> PyResult<Sums<'py>> {
        let batch = Batch::new(crow, col, value, d_sae)?;
        let first = size("first", first)?;
        let last = size("last", last)?;
        let sums = with_codes!(batch, codes => locked(py, &self.0, |it| {
            it.pairs(&codes, first..last)
        }))?;
        Ok((
            sums.i.into_pyarray(py),
            sums.j.into_pyarray(py),
            sums.sum.into_pyarray(py),
        ))
    }

    /// Ends of runs of features with at most so many co-active pairs each.
    fn blocks(
        &self,
        py: Python<'_>,
        crow: &Bound<'_, PyAny>,
        col: &Bound<'_, PyAny>,
        d_sae: &Bound<'_, PyAny>,
        most_pairs: &Bound<'_, PyAny>,
    ) -> PyResult<Vec<usize>> {
        let most_pairs = whole("most_pairs", most_pairs)?;
        let crow = Column::new("crow", crow)?;
        let (col, d_sae) = (Features::new(col)?, size("d_sae", d_sae)?);
        let value = PyArray1::<f32>::zeros(py, col.len()?, false);
        let value = Values::Single(Column::new("value", value.as_any())?);
        let batch = Batch {
            crow,
            col,
            value,
            d_sae,
        };
        with_codes!(batch, codes => locked(py, &self.0, |it| it.blocks(&codes, most_pairs)))
    }

    #[getter]
    fn bytes(&self, py: Python<'_>) -> PyResult<usize> {
        locked(py, &self.0, |it| Ok(it.bytes()))
    }
}

impl<'py> Batch<'py> {
    fn new(
        crow: &Bound<'py, PyAny>,
        col: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        d_sae: &Bound<'py, PyAny>,
    ) -> PyResult<Self> {
        Self::of(crow, col, value, size("d_sae", d_sae)?)
    }

    fn of(
        crow: &Bound<'py, PyAny>,
        col: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        d_sae: usize,
    ) -> PyResult<Self> {
        Ok(Self {
            crow: Column::new("crow", crow)?,
            col: Features::new(col)?,
            value: match Column::new("value", value) {
                Err(error) if error.is_instance_of::<PyTypeError>(value.py()) => {
                    Values::Double(Column::new("value", value).map_err(|_| error)?)
                }
                single => Values::Single(single?),
            },
            d_sae,
        })
    }
}

type Columns = (Vec<i64>, Vec<i64>, Vec<f32>);

fn columns(selected: core::coactivation::Selected) -> (Columns, u64) {
    (selected.selection.into_columns(), selected.positive)
}

fn into_selected(py: Python<'_>, (columns, positive): (Columns, u64)) -> Selected<'_> {
    let (i, j, score) = into_arrays(py, columns);
    (i, j, score, positive)
}
