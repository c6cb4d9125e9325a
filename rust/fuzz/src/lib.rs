//! The bodies of the fuzz targets, without a fuzzer: one function of some bytes each, which panics where something is wrong.
//!
//! `make fuzz` runs each for ten minutes; `cargo test` replays `corpus/` (`rust/core/tests/fuzz_corpus.rs`). What is found
//! becomes a test of its own name, and a file of the corpus. To keep that small, add what `cargo fuzz cmin` leaves of new
//! inputs only where they reach something new.

pub mod history;
mod input;
pub mod selector;
