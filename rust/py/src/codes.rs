//! `dense_entries` and `top_entries`.

use crate::arguments::{Answer, Arg, answers, column, read, rows, sizes};
use crate::raised;
use numpy::prelude::*;
use pyo3::prelude::*;
use topk_ortho_core::{self as core, codes::Entries};

/// Columns `crow`, `row`, `col` and `value`.
type Columns = (Answer<i64>, Answer<i64>, Answer<i64>, Answer<f32>);

fn columns(entries: Entries) -> Columns {
    answers!(entries; crow, row, col, value)
}

#[pyfunction]
pub(crate) fn dense_entries(py: Python, acts: Arg) -> PyResult<Columns> {
    rows!(acts);
    py.detach(|| Entries::of_dense(acts).map(columns)).map_err(raised)
}

#[pyfunction]
pub(crate) fn top_entries(py: Python, activation: Arg, feature: Arg, d_sae: Arg) -> PyResult<Columns> {
    rows!(activation);
    read!(column: feature);
    sizes!(d_sae);
    py.detach(|| Entries::of_top(activation, feature, d_sae).map(columns)).map_err(raised)
}
