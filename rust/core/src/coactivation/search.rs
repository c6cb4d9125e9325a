//! The search for the best pairs: shared out among threads, above a threshold expected from the last selection, and once
//! more without it where that was too high.

use super::accumulator::Accumulator;
use super::shortlist::Shortlist;
use crate::codes::Transposed;
use crate::ranking::Candidate;
use crate::score::{SMALLEST_POSITIVE, check_score};
use crate::selection::Selection;
use crate::threads::run_all;
use crate::{Error, Pair};
use std::ops::Range;

/// How far below the last k-th best score the next one is expected.
const MARGIN: f32 = 0.95;

/// A selection, and what it was selected from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selected {
    /// The best pairs.
    pub selection: Selection,
    /// Number of pairs with a positive score.
    pub positive: u64,
}

/// The threshold that one selection suggests to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Threshold {
    /// Score that some more than `k` pairs are expected to reach, as bits.
    score: u32,
    /// How many pairs reached the last threshold.
    reached: usize,
}

impl Default for Threshold {
    fn default() -> Self {
        Self {
            score: SMALLEST_POSITIVE,
            reached: 0,
        }
    }
}

impl Threshold {
    /// Candidates that each of some searches makes space for before it begins: its part of those that reached the last
    /// threshold, and the longest row of pairs.
    pub(super) const fn space(&self, searches: usize, features: usize) -> usize {
        self.reached / searches + features
    }
}

/// Returns the candidates above the threshold, or all where fewer than `k` pairs reached it. `select` searches one run of
/// ranks.
pub(super) fn search<N: Candidate>(
    codes: &Transposed,
    workers: &mut [Accumulator],
    shares: &[Range<usize>],
    k: usize,
    threshold: Threshold,
    select: impl Fn(Range<usize>, &mut Accumulator, Shortlist<N>) -> Result<Found<N>, Error> + Sync,
) -> Result<Found<N>, Error> {
    let mut run = |score, space: usize| -> Result<Found<N>, Error> {
        let tasks: Vec<_> = shares.iter().cloned().zip(workers.iter_mut()).collect();
        let mut parts = run_all(tasks, |(ranks, accumulator)| {
            let part = select(ranks, accumulator, Shortlist::above(k, score, space));
            if part.is_err() {
                accumulator.clear();
            }
            part
        })
        .into_iter();
        let nothing = || Found {
            best: Shortlist::above(k, score, 0),
            positive: 0,
        };
        let mut found = parts.next().unwrap_or_else(|| Ok(nothing()))?;
        for part in parts {
            let part = part?;
            found.best.absorb(&part.best);
            found.positive += part.positive;
        }
        Ok(found)
    };
    let space = threshold.space(shares.len(), codes.features().len());
    let found = run(threshold.score, space)?;
    if found.best.held() < k && threshold.score > SMALLEST_POSITIVE {
        return run(SMALLEST_POSITIVE, 0);
    }
    Ok(found)
}

/// Candidates among which the best `k` pairs are, and how many pairs had a positive score.
pub(super) struct Found<N> {
    pub(super) best: Shortlist<N>,
    pub(super) positive: u64,
}

impl<N: Candidate> Found<N> {
    /// Returns the best of them, and the threshold for the next selection.
    pub(super) fn selected(
        mut self,
        k: usize,
        pair: impl Fn([u32; 2]) -> Pair,
    ) -> (Selected, Threshold) {
        let reached = self.best.held();
        let best = self.best.best();
        let selection = Selection {
            pairs: best.iter().map(|c| pair(c.indices())).collect(),
            scores: best.iter().map(|c| f32::from_bits(c.score())).collect(),
        };
        let kth = selection.scores.get(k - 1).map_or(0.0, |kth| kth * MARGIN);
        let threshold = Threshold {
            score: kth.to_bits().max(SMALLEST_POSITIVE),
            reached,
        };
        let selected = Selected {
            selection,
            positive: self.positive,
        };
        (selected, threshold)
    }
}

/// Returns candidates by their sums, as pairs of ranks.
pub(super) fn by_sums<N: Candidate>(
    ranks: Range<usize>,
    accumulator: &mut Accumulator,
    codes: &Transposed,
    mut best: Shortlist<N>,
) -> Result<Found<N>, Error> {
    let mut positive = 0;
    for rank in ranks {
        accumulator.add(codes, rank);
        let (others, sums) = accumulator.touched();
        match best.take(rank as u32, others, sums) {
            Some(count) => positive += count,
            None => positive += refuse(codes, rank, accumulator)?,
        }
    }
    Ok(Found { best, positive })
}

/// The error for the first score of a rank that cannot be ranked, if there is one: -0.0 can. Its sums are zero again.
#[cold]
fn refuse(codes: &Transposed, rank: usize, accumulator: &mut Accumulator) -> Result<u64, Error> {
    accumulator.add(codes, rank);
    let (others, sums) = accumulator.touched();
    let name = |rank: usize| codes.features()[rank];
    let mut positive = 0;
    for &other in others {
        let score = std::mem::take(&mut sums[other as usize]) as f32;
        check_score(Pair::of_distinct(name(rank), name(other as usize)), score)?;
        positive += u64::from(score > 0.0);
    }
    Ok(positive)
}
