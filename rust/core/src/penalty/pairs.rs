//! Chosen pairs of rows, and the check of what comes with them.

use crate::threads::check_threads;
use crate::{Error, Rows};

/// Chosen pairs of rows, as columns of indices.
#[derive(Clone, Copy, Debug)]
pub struct RowPairs<'a> {
    /// One side.
    pub i: &'a [i64],
    /// The other side.
    pub j: &'a [i64],
}

pub(super) fn check(
    rows: Rows<'_>,
    norms: Option<&[f32]>,
    pairs: RowPairs<'_>,
    threads: usize,
) -> Result<(), Error> {
    check_threads(threads)?;
    check_length("j", pairs.j.len(), pairs.i.len())?;
    if let Some(norms) = norms {
        check_length("norms", norms.len(), rows.len())?;
    }
    if rows.len() > u32::MAX as usize {
        return Err(Error::TooManyFeatures { given: rows.len() });
    }
    if pairs.i.len() > u32::MAX as usize / 2 {
        return Err(Error::SelectionSize {
            given: pairs.i.len(),
            largest: u32::MAX as usize / 2,
        });
    }
    let outside = |index: i64| index as u64 >= rows.len() as u64;
    let both = || pairs.i.iter().chain(pairs.j);
    if !both().fold(false, |bad, &index| bad | outside(index)) {
        return Ok(());
    }
    let index = both().copied().find(|&index| outside(index)).unwrap_or(-1);
    Err(Error::RowIndex {
        index,
        rows: rows.len(),
    })
}

pub(super) const fn check_length(
    column: &'static str,
    given: usize,
    expected: usize,
) -> Result<(), Error> {
    if given == expected {
        Ok(())
    } else {
        Err(Error::ColumnLength {
            column,
            given,
            expected,
        })
    }
}
