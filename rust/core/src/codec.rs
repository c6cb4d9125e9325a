//! Bytes to [`PairHistory`] and back, exactly: the history that comes back continues bit for bit.
//!
//! The same history gives the same bytes, and `to_bytes(from_bytes(b)) == b`. Everything is little endian; `f64` are IEEE
//! bits; `T[n]` is an array without a prefix.
//!
//! | field | type | |
//! |---|---|---|
//! | magic | `u8[4]` | `TKOH` |
//! | version | `u32` | 1 |
//! | capacity, decay | `u64`, `f64` | |
//! | observations | `u64` | `t`; with 0 everything below is zero or empty |
//! | max_error | `f64` | largest upper end ever evicted, as of `t` |
//! | step | `u64` | step of observation `t` |
//! | left, kept | `u64[2]` | of observation `t` |
//! | jaccard, mean_ema, stable_share | `f64[3]` | of observation `t`; jaccard 0 where `t < 2` |
//! | jaccard_sum | `f64` | from the second observation on |
//! | survival | `(u64, u64)[11]` | kept and anchored at lags 1, 2, 4, ..., 1024 |
//! | lifetimes | `u64[32]`, `u64` | streaks by `floor(log2(length))`; streaks of unknown length |
//! | anchors | `u64` | number of distinct selections that the lags are anchored at, oldest first; the last is the latest selection |
//! | each anchor | `u64`, `u64`, `u64[n]` | its observation, `n`, sorted pairs as `i << 32 \| j` |
//! | records | `u64` | their number, then each in the order of pairs: |
//! | each record | 64 bytes | pair `u64`, low `f64`, err `f64`, last observation `u64`, hits `u64`, first and last step `u64[2]`, streak and longest `u32[2]` |
//! | checksum | `u32` | CRC-32 (IEEE) of every byte before it |
//!
//! Reading costs one pass. It refuses what is truncated, changed, of an unknown version or impossible, never panics, and
//! allocates nothing that the bytes themselves do not fill. Version 1 stays readable.

mod reader;
mod writer;

use crate::budget::check_budget;
use crate::history::check_config;
use crate::table::Table;
use crate::{Error, PairHistory};
use reader::{RECORD_BYTES, Reader, corrupt, ensure};
use writer::Writer;

const MAGIC: [u8; 4] = *b"TKOH";

/// The version that is written, and the newest that is read.
pub const VERSION: u32 = 1;

const CHECKSUM_BYTES: usize = 4;

impl PairHistory {
    /// The history as bytes: see [`crate::codec`]. Takes 64 bytes per record and 8 per pair of an anchored selection.
    ///
    /// ```
    /// use topk_ortho_core::{Pair, PairHistory};
    /// let mut history = PairHistory::new(10, 0.9)?;
    /// history.observe(3, &[Pair::try_new(0, 1)?])?;
    /// let bytes = history.to_bytes()?;
    /// assert_eq!(PairHistory::from_bytes(&bytes)?.to_bytes()?, bytes);
    /// assert!(PairHistory::from_bytes(&bytes[1..]).is_err());
    /// # Ok::<(), topk_ortho_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let bytes = 1024 + self.len() * RECORD_BYTES + self.stability.bytes();
        // The records are sorted on the way, and whoever asked may copy the bytes.
        check_budget(2 * bytes as u128 + 8 * self.len() as u128)?;
        let mut out = Writer(Vec::with_capacity(bytes));
        out.0.extend(MAGIC);
        out.u32(VERSION);
        out.u64(self.capacity() as u64);
        out.f64(self.decay());
        out.u64(self.observations());
        out.f64(self.max_error());
        out.stability(&self.stability);
        out.records(&self.table);
        let checksum = crc32fast::hash(&out.0);
        out.u32(checksum);
        Ok(out.0)
    }

    /// The history that [`PairHistory::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`Error::Magic`], [`Error::Version`], [`Error::Truncated`], [`Error::Checksum`], [`Error::Corrupt`] or
    /// [`Error::Memory`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut input = Reader(check_frame(bytes)?);
        let capacity =
            usize::try_from(input.u64()?).map_err(|_| corrupt("capacity beyond this machine"))?;
        let decay = input.f64()?;
        check_config(capacity, decay)?;
        let now = input.count()?;
        let bound = input.size()?;
        let mut stability = input.stability(now)?;
        let last_step = stability.last.map_or(0, |last| last.step);
        // A record comes to a record, its place in the index and a key to sort by; there are no more than the bytes hold.
        check_budget(bytes.len() as u128 * 2)?;
        let records = input.records(now, last_step)?;
        ensure(input.0.is_empty(), "bytes after the last record")?;
        ensure(
            records.len() <= Table::limit(capacity),
            "more records than the capacity allows",
        )?;
        ensure(
            now > 0 || bound == 0.0,
            "an error bound without an observation",
        )?;
        let table = Table::restore(capacity, decay, now, bound, records);
        stability.read_streaks(|pair| table.streak(pair));
        Ok(Self { table, stability })
    }
}

/// The bytes between version and checksum, once magic, version and checksum hold.
fn check_frame(bytes: &[u8]) -> Result<&[u8], Error> {
    let mut header = Reader(bytes);
    let magic = header.array::<4>().map_err(|_| Error::Magic {
        given: first_bytes(bytes),
    })?;
    if magic != MAGIC {
        return Err(Error::Magic { given: magic });
    }
    let version = header.u32()?;
    if version != VERSION {
        return Err(Error::Version {
            given: version,
            newest: VERSION,
        });
    }
    let missing = Error::Truncated {
        needed: CHECKSUM_BYTES as u64,
        left: header.0.len() as u64,
    };
    let (_, checksum) = header
        .0
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(missing)?;
    let stored = u32::from_le_bytes(*checksum);
    let computed = crc32fast::hash(&bytes[..bytes.len() - CHECKSUM_BYTES]);
    if stored != computed {
        return Err(Error::Checksum { stored, computed });
    }
    Ok(&header.0[..header.0.len() - CHECKSUM_BYTES])
}

fn first_bytes(bytes: &[u8]) -> [u8; 4] {
    std::array::from_fn(|at| bytes.get(at).copied().unwrap_or(0))
}
