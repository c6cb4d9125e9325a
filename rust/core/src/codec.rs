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

use crate::history::check_config;
use crate::record::Record;
use crate::stability::{Anchor, LAGS, LIFETIME_BINS, Observed, Stability};
use crate::table::Table;
use crate::{Error, Pair, PairHistory};
use std::sync::Arc;

const MAGIC: [u8; 4] = *b"TKOH";

/// The version that is written, and the newest that is read.
pub const VERSION: u32 = 1;

const CHECKSUM_BYTES: usize = 4;
const RECORD_BYTES: usize = 64;

impl PairHistory {
    /// The history as bytes: see [`crate::codec`]. Takes 64 bytes per record and 8 per pair of an anchored selection.
    ///
    /// ```
    /// use topk_ortho_core::{Pair, PairHistory};
    /// let mut history = PairHistory::new(10, 0.9)?;
    /// history.observe(3, &[Pair::try_new(0, 1)?])?;
    /// let bytes = history.to_bytes();
    /// assert_eq!(PairHistory::from_bytes(&bytes)?.to_bytes(), bytes);
    /// assert!(PairHistory::from_bytes(&bytes[1..]).is_err());
    /// # Ok::<(), topk_ortho_core::Error>(())
    /// ```
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(
            1024 + self.len() * RECORD_BYTES + self.stability.bytes(),
        ));
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
        out.0
    }

    /// The history that [`PairHistory::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`Error::Magic`], [`Error::Version`], [`Error::Truncated`], [`Error::Checksum`] or [`Error::Corrupt`].
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

const fn corrupt(what: &'static str) -> Error {
    Error::Corrupt { what }
}

fn ensure(holds: bool, otherwise: &'static str) -> Result<(), Error> {
    if holds {
        Ok(())
    } else {
        Err(corrupt(otherwise))
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }

    fn stability(&mut self, stability: &Stability) {
        let last = stability.last;
        for count in [
            last.map(|last| last.step),
            last.map(|last| last.left),
            last.map(|last| last.kept),
        ] {
            self.u64(count.unwrap_or(0));
        }
        self.f64(last.and_then(|last| last.jaccard).unwrap_or(0.0));
        self.f64(last.map_or(0.0, |last| last.mean_ema));
        self.f64(last.map_or(0.0, |last| last.stable_share));
        self.f64(stability.jaccard_sum);
        for survival in &stability.survival {
            self.u64(survival.kept);
            self.u64(survival.anchored);
        }
        for &count in &stability.lifetimes.counts {
            self.u64(count);
        }
        self.u64(stability.lifetimes.unknown);
        let anchors = stability.distinct_anchors();
        self.u64(anchors.len() as u64);
        for anchor in anchors {
            self.u64(anchor.at);
            self.u64(anchor.pairs.len() as u64);
            self.0.extend(
                anchor
                    .pairs
                    .iter()
                    .flat_map(|pair| pair.bits().to_le_bytes()),
            );
        }
    }

    fn records(&mut self, table: &Table) {
        self.u64(table.len() as u64);
        for record in table.sorted() {
            self.u64(record.pair.bits());
            self.f64(record.low);
            self.f64(record.err);
            self.u64(record.last);
            self.u64(record.hits);
            self.u64(record.first_seen);
            self.u64(record.last_seen);
            self.u32(record.streak);
            self.u32(record.longest_streak);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, needed: usize) -> Result<&'a [u8], Error> {
        let short = Error::Truncated {
            needed: needed as u64,
            left: self.0.len() as u64,
        };
        let (head, rest) = self.0.split_at_checked(needed).ok_or(short)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    fn f64(&mut self) -> Result<f64, Error> {
        self.array().map(f64::from_le_bytes)
    }

    /// A number of things that went up by one at a time: far from where it would overflow.
    fn count(&mut self) -> Result<u64, Error> {
        let value = self.u64()?;
        ensure(i64::try_from(value).is_ok(), "a count beyond 2^63")?;
        Ok(value)
    }

    /// A finite number, zero or more; -0.0 is never written.
    fn size(&mut self) -> Result<f64, Error> {
        let value = self.f64()?;
        ensure(
            value.is_finite() && value.is_sign_positive(),
            "a number that is negative or not finite",
        )?;
        Ok(value)
    }

    /// A count of entries of `width` bytes, and those bytes: nothing is allocated before they are known to be there.
    fn entries(&mut self, width: usize) -> Result<std::slice::ChunksExact<'a, u8>, Error> {
        let count = self.u64()?;
        let needed = count.saturating_mul(width as u64);
        let short = Error::Truncated {
            needed,
            left: self.0.len() as u64,
        };
        let bytes = usize::try_from(needed).map_err(|_| short)?;
        Ok(self.take(bytes)?.chunks_exact(width))
    }

    fn stability(&mut self, now: u64) -> Result<Stability, Error> {
        let mut stability = Stability::new();
        let [step, left, kept] = [self.count()?, self.count()?, self.count()?];
        let [jaccard, mean_ema, stable_share] = [self.size()?, self.size()?, self.size()?];
        stability.jaccard_sum = self.size()?;
        for survival in &mut stability.survival {
            (survival.kept, survival.anchored) = (self.count()?, self.count()?);
            ensure(
                survival.kept <= survival.anchored,
                "more pairs survived than were anchored",
            )?;
        }
        for bin in 0..LIFETIME_BINS {
            stability.lifetimes.counts[bin] = self.count()?;
        }
        stability.lifetimes.unknown = self.count()?;
        stability.anchors = self.anchors(now)?;
        if now == 0 {
            let zero = step == 0 && left == 0 && kept == 0 && stability.jaccard_sum == 0.0;
            ensure(
                zero && jaccard + mean_ema + stable_share == 0.0,
                "a selection without an observation",
            )?;
            return Ok(stability);
        }
        let size = stability.selection().len() as u64;
        ensure(kept <= size, "more pairs kept than selected")?;
        ensure(
            now > 1 || (jaccard == 0.0 && kept == 0 && left == 0),
            "an overlap with nothing before",
        )?;
        let jaccard = (now > 1).then_some(jaccard);
        let entered = size - kept;
        stability.last = Some(Observed {
            step,
            size,
            jaccard,
            entered,
            left,
            kept,
            mean_ema,
            stable_share,
        });
        Ok(stability)
    }

    fn anchors(&mut self, now: u64) -> Result<[Option<Anchor>; LAGS], Error> {
        let expected: [u64; LAGS] = std::array::from_fn(|n| {
            if now == 0 {
                0
            } else {
                Stability::anchored_at(1 << n, now)
            }
        });
        let mut distinct = expected.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        distinct.retain(|&at| at > 0);
        ensure(
            self.u64()? == distinct.len() as u64,
            "a number of anchors that does not fit the observations",
        )?;
        let mut anchors = [const { None }; LAGS];
        for at in distinct {
            ensure(
                self.u64()? == at,
                "an anchor at an observation where none is taken",
            )?;
            let pairs = self.selection()?;
            for (anchor, _) in anchors
                .iter_mut()
                .zip(expected)
                .filter(|&(_, lag_at)| lag_at == at)
            {
                *anchor = Some(Anchor {
                    at,
                    pairs: Arc::clone(&pairs),
                });
            }
        }
        Ok(anchors)
    }

    fn selection(&mut self) -> Result<Arc<[Pair]>, Error> {
        let entries = self.entries(size_of::<u64>())?;
        let pairs: Vec<Pair> = entries
            .map(|bytes| Reader(bytes).pair())
            .collect::<Result<_, _>>()?;
        ensure(pairs.is_sorted_by(|a, b| a < b), "a selection out of order")?;
        Ok(pairs.into())
    }

    fn pair(&mut self) -> Result<Pair, Error> {
        Pair::from_bits(self.u64()?).map_err(|_| corrupt("a pair with i >= j"))
    }

    fn records(&mut self, now: u64, last_step: u64) -> Result<Vec<Record>, Error> {
        let entries = self.entries(RECORD_BYTES)?;
        let records: Vec<_> = entries
            .map(|bytes| Reader(bytes).record(now, last_step))
            .collect::<Result<_, _>>()?;
        ensure(
            records.is_sorted_by(|a, b| a.pair < b.pair),
            "records out of order",
        )?;
        Ok(records)
    }

    fn record(&mut self, now: u64, last_step: u64) -> Result<Record, Error> {
        let record = Record {
            pair: self.pair()?,
            low: self.size()?,
            err: self.size()?,
            last: self.u64()?,
            hits: self.u64()?,
            first_seen: self.u64()?,
            last_seen: self.u64()?,
            streak: self.u32()?,
            longest_streak: self.u32()?,
        };
        let Record {
            last,
            hits,
            first_seen,
            last_seen,
            streak,
            longest_streak,
            ..
        } = record;
        ensure(record.low <= 2.0, "an average above 1")?;
        ensure(
            (1..=now).contains(&last) && (1..=last).contains(&hits),
            "a record of the future",
        )?;
        ensure(
            first_seen <= last_seen && last_seen <= last_step,
            "a record whose steps are out of order",
        )?;
        ensure(
            1 <= streak && streak <= longest_streak,
            "a streak longer than the longest",
        )?;
        ensure(
            u64::from(longest_streak) <= hits,
            "a streak longer than the hits",
        )?;
        Ok(record)
    }
}
