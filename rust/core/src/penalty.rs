//! Cosines of chosen pairs of rows, and their gradient to the rows that move.
//!
//! Pairs are grouped by row by a counting sort; a row and its gradient stay in the cache while the rows of its partners
//! pass by, four at a time. Every row of the gradient belongs to one thread, and its terms are added in the order of the
//! pairs: no atomics, the same bits on any number of threads and on any processor.
//! With norms, rows of any length are taken as directions and the gradient is that to the rows as they are; it is
//! infinite where it is beyond float32. A row with norm 0 has cosine 0 with everything and no gradient. Without, rows are taken as they stand and a cosine is a dot
//! product.
//! Costs a dot product per pair, and a multiplication and addition of a row per pair, side that moves and slope that is
//! not 0. Memory beside the answer: 8 bytes per pair, 4 per side that moves, and 12 per row.
//! Refuses indices outside the rows and columns of different lengths; the gradient is unchanged then.

mod cosines;
mod directions;
mod gradient;
mod groups;
mod one_pass;
mod pairs;

pub use cosines::pair_cosines;
pub use directions::row_norms;
pub use gradient::{Slopes, pair_gradient};
pub use one_pass::{PairPenalty, pair_penalty};
pub use pairs::RowPairs;

#[cfg(test)]
mod tests;
