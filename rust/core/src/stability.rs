//! Stability: how much the selection changes from one observation to the next.
//!
//! Per observation: overlap with the selection before. Per run: how many pairs of a selection are still selected 1, 2,
//! 4, ..., 1024 observations later, how long streaks last, which features sit in most pairs.
//! Costs about two merges of sorted selections per observation, and holds at most eleven selections (eight bytes a
//! pair; those anchored at the same observation are shared).

use crate::Pair;
use crate::table::Tally;
use merge::{common, missing};
use std::cmp::Reverse;
use std::sync::Arc;

mod merge;

/// Number of lags that survival is measured at.
pub const LAGS: usize = 11;

/// Number of bins of the lifetimes: bin `b` holds streaks of length `2^b` to `2^(b + 1) - 1`.
pub const LIFETIME_BINS: usize = 32;

/// The latest observation, compared with the one before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observed {
    /// Step of the observation.
    pub step: u64,
    /// Pairs in the selection.
    pub size: u64,
    /// Size of intersection over size of union with the selection before; 1 if both are empty; `None` at the first.
    pub jaccard: Option<f64>,
    /// Pairs that were not in the selection before.
    pub entered: u64,
    /// Pairs of the selection before that are gone.
    pub left: u64,
    /// Pairs in both.
    pub kept: u64,
    /// Mean lower end of the moving averages of the selected pairs, this observation counted; 0 if there are none.
    pub mean_ema: f64,
    /// Share of the selected pairs whose lower end is above one half; 0 if there are none.
    pub stable_share: f64,
}

/// Pairs of an anchored selection that were still selected some observations later, over all anchors of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survival {
    /// Observations between the anchor and the comparison.
    pub lag: u64,
    /// Pairs still selected.
    pub kept: u64,
    /// Pairs anchored.
    pub anchored: u64,
}

/// Lengths of the streaks that ended: consecutive observations for which a pair stayed selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Streaks by length, in powers of two: see [`LIFETIME_BINS`].
    pub counts: [u64; LIFETIME_BINS],
    /// Streaks that ended after the pair's record had been evicted.
    pub unknown: u64,
}

/// Everything about the run so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Number of observations.
    pub observations: u64,
    /// The latest, if there is one.
    pub last: Option<Observed>,
    /// Mean of the Jaccard indices from the second observation on.
    pub mean_jaccard: Option<f64>,
    /// One entry per lag, smallest first.
    pub survival: [Survival; LAGS],
    /// Streaks that ended.
    pub lifetimes: Lifetimes,
}

/// The selection at one observation, sorted.
#[derive(Clone, Debug)]
pub(crate) struct Anchor {
    pub(crate) at: u64,
    pub(crate) pairs: Arc<[Pair]>,
}

#[derive(Clone, Debug)]
pub(crate) struct Stability {
    pub(crate) last: Option<Observed>,
    pub(crate) jaccard_sum: f64,
    /// Streak of each pair of the latest selection; 0 where its record was evicted.
    streaks: Vec<u32>,
    /// By lag; that of lag 1 is the latest selection.
    pub(crate) anchors: [Option<Anchor>; LAGS],
    pub(crate) survival: [Survival; LAGS],
    pub(crate) lifetimes: Lifetimes,
}

impl Stability {
    pub(crate) fn new() -> Self {
        Self {
            last: None,
            jaccard_sum: 0.0,
            streaks: Vec::new(),
            anchors: [const { None }; LAGS],
            survival: std::array::from_fn(|n| Survival {
                lag: 1 << n,
                ..Survival::default()
            }),
            lifetimes: Lifetimes {
                counts: [0; LIFETIME_BINS],
                unknown: 0,
            },
        }
    }

    /// The observation at which the anchor of a lag was taken: at the first, then every `lag` observations.
    pub(crate) const fn anchored_at(lag: u64, now: u64) -> u64 {
        1 + (now - 1) / lag * lag
    }

    /// The latest selection, sorted.
    pub(crate) fn selection(&self) -> &[Pair] {
        self.anchors[0].as_ref().map_or(&[], |anchor| &anchor.pairs)
    }

    /// Takes the selection of observation `now`, sorted, and how it counted.
    pub(crate) fn observe(&mut self, step: u64, now: u64, selection: Arc<[Pair]>, tally: Tally) {
        let before = self.selection();
        let ended = missing(before, &selection);
        let (size, left, kept) = (selection.len(), ended.len(), before.len() - ended.len());
        let jaccard = (now > 1).then(|| share(kept, size + left).unwrap_or(1.0));
        self.jaccard_sum += jaccard.unwrap_or(0.0);
        for place in ended {
            self.lifetimes.end(self.streaks[place as usize]);
        }
        self.streaks = tally.streaks;
        self.last = Some(Observed {
            step,
            size: size as u64,
            jaccard,
            entered: (size - kept) as u64,
            left: left as u64,
            kept: kept as u64,
            mean_ema: if size == 0 {
                0.0
            } else {
                tally.low_sum / size as f64
            },
            stable_share: share(tally.above_half, size).unwrap_or(0.0),
        });
        self.move_anchors(now, kept, &selection);
    }

    /// Reads the streaks of the latest selection again: some records may have been evicted.
    pub(crate) fn read_streaks(&mut self, streak: impl Fn(Pair) -> u32) {
        self.streaks = self.selection().iter().map(|&pair| streak(pair)).collect();
    }

    fn move_anchors(&mut self, now: u64, kept_at_lag_one: usize, selection: &Arc<[Pair]>) {
        for (anchor, survival) in self.anchors.iter_mut().zip(&mut self.survival) {
            if Self::anchored_at(survival.lag, now) != now {
                continue;
            }
            if let Some(anchor) = anchor.as_ref() {
                let kept = match survival.lag {
                    1 => kept_at_lag_one,
                    _ => common(&anchor.pairs, selection),
                };
                survival.kept += kept as u64;
                survival.anchored += anchor.pairs.len() as u64;
            }
            *anchor = Some(Anchor {
                at: now,
                pairs: Arc::clone(selection),
            });
        }
    }

    pub(crate) fn report(&self, observations: u64) -> Report {
        let compared = observations.saturating_sub(1);
        Report {
            observations,
            last: self.last,
            mean_jaccard: (compared > 0).then(|| self.jaccard_sum / compared as f64),
            survival: self.survival,
            lifetimes: self.lifetimes,
        }
    }

    /// The `n` features in most pairs of the latest selection with their degrees, ties to the smaller feature.
    pub(crate) fn hubs(&self, n: usize) -> Vec<(u32, u64)> {
        let mut ends: Vec<u32> = self
            .selection()
            .iter()
            .flat_map(|pair| [pair.i(), pair.j()])
            .collect();
        ends.sort_unstable();
        let runs = ends.chunk_by(|a, b| a == b);
        let mut degrees: Vec<_> = runs.map(|run| (run[0], run.len() as u64)).collect();
        degrees.sort_unstable_by_key(|&(feature, degree)| (Reverse(degree), feature));
        degrees.truncate(n);
        degrees
    }

    /// The distinct anchors, oldest first.
    pub(crate) fn distinct_anchors(&self) -> Vec<&Anchor> {
        let mut anchors: Vec<&Anchor> = self.anchors.iter().flatten().collect();
        anchors.sort_unstable_by_key(|anchor| anchor.at);
        anchors.dedup_by_key(|anchor| anchor.at);
        anchors
    }

    pub(crate) fn bytes(&self) -> usize {
        let anchors = self.distinct_anchors();
        let pairs: usize = anchors
            .iter()
            .map(|anchor| size_of_val(&*anchor.pairs))
            .sum();
        pairs + self.streaks.capacity() * size_of::<u32>()
    }
}

impl Lifetimes {
    fn end(&mut self, streak: u32) {
        match streak.checked_ilog2() {
            Some(bin) => self.counts[bin as usize] += 1,
            None => self.unknown += 1,
        }
    }
}

fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_follow_their_lags() {
        assert_eq!(Stability::anchored_at(1, 7), 7);
        assert_eq!(Stability::anchored_at(2, 7), 7);
        assert_eq!(Stability::anchored_at(4, 7), 5);
        assert_eq!(Stability::anchored_at(1024, 7), 1);
    }
}
