//! The parts of a history from bytes, each checked.

use crate::record::Record;
use crate::stability::{Anchor, LAGS, LIFETIME_BINS, Observed, Stability};
use crate::{Error, Pair};
use std::sync::Arc;

/// A record as bytes.
pub(super) const RECORD_BYTES: usize = 64;

pub(super) const fn corrupt(what: &'static str) -> Error {
    Error::Corrupt { what }
}

pub(super) fn ensure(holds: bool, otherwise: &'static str) -> Result<(), Error> {
    if holds {
        Ok(())
    } else {
        Err(corrupt(otherwise))
    }
}

/// Bytes that are left.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

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

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn f64(&mut self) -> Result<f64, Error> {
        self.array().map(f64::from_le_bytes)
    }

    /// A number of things that went up by one at a time: far from where it would overflow.
    pub(super) fn count(&mut self) -> Result<u64, Error> {
        let value = self.u64()?;
        ensure(i64::try_from(value).is_ok(), "a count beyond 2^63")?;
        Ok(value)
    }

    /// A finite number, zero or more; -0.0 is never written.
    pub(super) fn size(&mut self) -> Result<f64, Error> {
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

    pub(super) fn stability(&mut self, now: u64) -> Result<Stability, Error> {
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

    pub(super) fn records(&mut self, now: u64, last_step: u64) -> Result<Vec<Record>, Error> {
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
