//! What the fuzz targets run, without a fuzzer: one function of some bytes each, which panics where something is wrong.

pub mod history;
mod input;
pub mod selector;
