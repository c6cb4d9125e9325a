//! A batch of sparse codes: CSR, its entries from other layouts, and its transpose.

mod csr;
mod entries;
mod transposed;

pub use csr::{Codes, Feature, Pattern};
pub use entries::Entries;
pub(crate) use transposed::Transposed;
