//! Selection of feature pairs to hold apart, their penalty, and their history.
//!
//! A training step scores pairs of features, keeps the `k` best, and the history remembers what was kept.
//! This crate is the exact heart of that: no Python, no files, no clock, no unsafe code, and the same answer on any number
//! of threads.
//!
//! | module | owns |
//! |---|---|
//! | [`pair`] | an unordered pair in one `u64`; the only place that knows the packing |
//! | [`codes`] | a batch of sparse codes: CSR, its entries from other layouts, and its transpose |
//! | [`coactivation`] | exact sums and top-k of pairs that fire together |
//! | [`rows`] | rows of a matrix and their products |
//! | [`penalty`] | cosines of chosen pairs of rows, their penalty, and the gradient of both |
//! | [`selection`] | the pairs that were selected, with their scores |
//! | [`topk`] | exact streaming top-k over blocks of scored pairs |
//! | [`product`] | exact top-k of `m_i * m_j` without a matrix |
//! | [`history`] | how often each pair was selected, in bounded memory, with a guarantee |
//! | [`stability`] | how much the selection changes: overlap, survival, lifetimes, hubs |
//! | [`codec`] | bytes to [`PairHistory`] and back: versioned, checksummed, deterministic |
//! | [`error`] | every way to be refused: what was given, what was expected, what to do |
//!
//! # One step, start to end
//!
//! ```
//! use topk_ortho_core::{PairHistory, TopK};
//!
//! let mut best = TopK::new(2)?;
//! best.push_columns(&[0, 0, 1], &[1, 2, 2], &[0.5, 2.0, 1.0])?;
//! assert_eq!(best.threshold(), Some(1.0)); // a producer may now skip everything below 1.0
//! let selection = best.finish();
//! assert_eq!(selection.scores, [2.0, 1.0]);
//!
//! let mut history = PairHistory::new(1_000, 0.99)?;
//! history.observe(0, &selection.pairs)?;
//! assert_eq!(history.len(), 2);
//! assert!((history.ema(&selection.pairs)[0] - 0.01).abs() < 1e-12);
//! # Ok::<(), topk_ortho_core::Error>(())
//! ```
#![forbid(unsafe_code)]

mod budget;
pub mod coactivation;
pub mod codec;
pub mod codes;
pub mod error;
pub mod history;
pub mod pair;
pub mod penalty;
pub mod product;
mod ranking;
mod record;
pub mod rows;
mod score;
pub mod selection;
mod simd;
mod sorting;
pub mod stability;
mod table;
mod threads;
pub mod topk;

pub use coactivation::Coactivation;
pub use codes::Codes;
pub use error::Error;
pub use history::PairHistory;
pub use pair::Pair;
pub use penalty::{pair_cosines, pair_gradient, pair_penalty, row_norms};
pub use product::top_products;
pub use rows::Rows;
pub use selection::Selection;
pub use topk::TopK;
