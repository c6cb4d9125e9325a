//! History of the selected pairs: a moving average per pair, in bounded memory.
//!
//! After observation `t` a pair's average is `E_t = decay * E_(t-1) + (1 - decay) * [selected at t]`, `E_0 = 0`. The
//! history keeps an interval around it for about `capacity` pairs. **Guarantee**, with `k` the largest selection so far:
//! every pair whose average exceeds `k / capacity` is in the table, every record's average lies in `[low, low + err]`,
//! and `err <= k / capacity` (all up to rounding). Dropping simply the smallest average has no such bound.
//!
//! Costs one hash lookup per selected pair, a merge or two over sorted selections, and, when the table has grown a quarter
//! beyond `capacity`, a scan that trims it back. Memory: 77 bytes per record that space is kept for, 64 of them the record and
//! the rest the index, never more than `1.25 * capacity + 2 k` of them; some 8 to 24 more while the table is trimmed; and up
//! to eleven selections of 8 bytes a pair for the survival curve. It grows with what is held.
//! Among equal upper ends, the pair hit longest ago is evicted first, then the larger one. A pair that was evicted and
//! comes back starts over (hits, first step, streak) and carries the error bound.
//! Refuses steps that do not increase and pairs given twice; a refused observation changes nothing. An empty selection is
//! an observation like any other.

use crate::budget::check_budget;
use crate::record::Record;
use crate::sorting::sorted_pairs;
use crate::stability::{Report, Stability};
use crate::table::Table;
use crate::{Error, Pair};
use std::sync::Arc;

/// Bytes that a record takes while it is ranked and put into columns that double as they grow.
const BYTES_PER_TOP: u128 = 64 + 40 + 2 * 72;

/// A bounded history of selections.
///
/// ```
/// use topk_ortho_core::{Pair, PairHistory};
/// let pairs = Pair::from_columns(&[0, 2], &[1, 5])?;
/// let mut history = PairHistory::new(100, 0.5)?;
/// history.observe(10, &pairs)?;
/// history.observe(20, &pairs[..1])?;
/// assert_eq!(history.ema(&pairs), [0.75, 0.25]);
/// assert_eq!(history.top(1)?.streak, [2]);
/// assert!(history.observe(20, &pairs).is_err()); // steps must increase
/// # Ok::<(), topk_ortho_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PairHistory {
    pub(crate) table: Table,
    pub(crate) stability: Stability,
}

/// Records in columns, one entry per pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    /// The smaller feature.
    pub i: Vec<i64>,
    /// The larger feature.
    pub j: Vec<i64>,
    /// Lower end of the moving average as of now.
    pub ema_low: Vec<f64>,
    /// Upper end of the moving average as of now.
    pub ema_high: Vec<f64>,
    /// Observations that selected the pair since its record began.
    pub hits: Vec<i64>,
    /// Step at which the record began.
    pub first_seen: Vec<i64>,
    /// Step of the last hit.
    pub last_seen: Vec<i64>,
    /// Consecutive observations up to the latest one; 0 if that did not select the pair.
    pub streak: Vec<i64>,
    /// Longest streak since the record began.
    pub longest_streak: Vec<i64>,
}

impl PairHistory {
    /// An empty history of `capacity` pairs. Allocates as it fills.
    ///
    /// # Errors
    /// [`Error::Capacity`], or [`Error::Decay`] unless `0 < decay < 1`.
    pub fn new(capacity: usize, decay: f64) -> Result<Self, Error> {
        check_config(capacity, decay)?;
        Ok(Self {
            table: Table::new(capacity, decay),
            stability: Stability::new(),
        })
    }

    /// Takes one selection of distinct pairs, in any order. Sorted ones are a little cheaper.
    ///
    /// # Errors
    /// [`Error::StepOrder`], [`Error::StepRange`], [`Error::DuplicatePair`], [`Error::SelectionSize`] or
    /// [`Error::Memory`]; the history is unchanged then.
    pub fn observe(&mut self, step: u64, pairs: &[Pair]) -> Result<(), Error> {
        self.check_step(step)?;
        self.table.check_growth(pairs.len())?;
        self.take(step, sorted_distinct(pairs.iter().copied())?);
        Ok(())
    }

    /// Takes one selection given as columns.
    ///
    /// # Errors
    /// As [`PairHistory::observe`] and [`Pair::from_columns`].
    pub fn observe_columns(&mut self, step: u64, i: &[i64], j: &[i64]) -> Result<(), Error> {
        self.check_step(step)?;
        Pair::check_columns(i, j)?;
        self.table.check_growth(i.len())?;
        let pairs = i.iter().zip(j).map(|(&i, &j)| Pair::of_checked(i, j));
        self.take(step, sorted_distinct(pairs)?);
        Ok(())
    }

    /// The lower end of each pair's moving average as of now; 0 for a pair that is not in the table.
    #[must_use]
    pub fn ema(&self, pairs: &[Pair]) -> Vec<f64> {
        self.table.lows(pairs)
    }

    /// The `n` records with the largest lower end, ties to the smaller pair.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn top(&self, n: usize) -> Result<Columns, Error> {
        check_budget(n.min(self.len()) as u128 * BYTES_PER_TOP)?;
        let mut columns = Columns::default();
        for (record, ends) in self.table.top(n) {
            columns.push(record, ends, self.observations());
        }
        Ok(columns)
    }

    /// Returns how stable the selection has been.
    #[must_use]
    pub fn stability(&self) -> Report {
        self.stability.report(self.observations())
    }

    /// The `n` features in most pairs of the latest selection, and their degrees; ties to the smaller feature.
    #[must_use]
    pub fn hubs(&self, n: usize) -> (Vec<i64>, Vec<i64>) {
        let hubs = self.stability.hubs(n).into_iter();
        hubs.map(|(feature, degree)| (i64::from(feature), signed(degree)))
            .unzip()
    }

    /// Records held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns whether no record is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `m` of the guarantee.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// The decay per observation.
    #[must_use]
    pub const fn decay(&self) -> f64 {
        self.table.decay()
    }

    /// Number of observations so far.
    #[must_use]
    pub const fn observations(&self) -> u64 {
        self.table.now()
    }

    /// Step of the latest observation.
    #[must_use]
    pub fn last_step(&self) -> Option<u64> {
        self.stability.last.map(|last| last.step)
    }

    /// No pair outside the table has a larger moving average now, and no record a larger error.
    #[must_use]
    pub const fn max_error(&self) -> f64 {
        self.table.bound()
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.table.bytes() + self.stability.bytes()
    }

    fn take(&mut self, step: u64, selection: Arc<[Pair]>) {
        let tally = self.table.count(step, &selection);
        self.stability
            .observe(step, self.observations(), selection, tally);
        if self.table.trim() {
            self.stability.read_streaks(|pair| self.table.streak(pair));
        }
    }

    fn check_step(&self, step: u64) -> Result<(), Error> {
        if i64::try_from(step).is_err() {
            return Err(Error::StepRange { given: step });
        }
        match self.last_step() {
            Some(last) if step <= last => Err(Error::StepOrder { given: step, last }),
            _ => Ok(()),
        }
    }
}

pub(crate) fn check_config(capacity: usize, decay: f64) -> Result<(), Error> {
    let largest = Table::MAX_CAPACITY;
    if !(1..=largest).contains(&capacity) {
        Err(Error::Capacity {
            given: capacity,
            largest,
        })
    } else if decay > 0.0 && decay < 1.0 {
        Ok(())
    } else {
        Err(Error::Decay { given: decay })
    }
}

fn sorted_distinct(
    pairs: impl ExactSizeIterator<Item = Pair> + Clone,
) -> Result<Arc<[Pair]>, Error> {
    let largest = Table::MAX_SELECTION;
    if pairs.len() > largest {
        return Err(Error::SelectionSize {
            given: pairs.len(),
            largest,
        });
    }
    let sorted = sorted_pairs(pairs);
    match sorted.windows(2).find(|two| two[0] == two[1]) {
        Some(twice) => Err(Error::DuplicatePair {
            i: twice[0].i(),
            j: twice[0].j(),
        }),
        None => Ok(sorted),
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Columns {
    fn push(&mut self, record: &Record, [low, high]: [f64; 2], now: u64) {
        self.i.push(i64::from(record.pair.i()));
        self.j.push(i64::from(record.pair.j()));
        self.ema_low.push(low);
        self.ema_high.push(high);
        self.hits.push(signed(record.hits));
        self.first_seen.push(signed(record.first_seen));
        self.last_seen.push(signed(record.last_seen));
        self.streak.push(if record.last == now {
            i64::from(record.streak)
        } else {
            0
        });
        self.longest_streak.push(i64::from(record.longest_streak));
    }
}
