//! The pairs that were selected, with their scores.

use crate::Pair;

/// The pairs that were selected, best first, ties to the smaller pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// The pairs.
    pub pairs: Vec<Pair>,
    /// Their scores, all positive.
    pub scores: Vec<f32>,
}

impl Selection {
    /// Returns the columns `i`, `j` and `score`.
    #[must_use]
    pub fn into_columns(self) -> (Vec<i64>, Vec<i64>, Vec<f32>) {
        let (i, j) = Pair::columns(&self.pairs);
        (i, j, self.scores)
    }
}
