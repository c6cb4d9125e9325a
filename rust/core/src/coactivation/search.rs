//! The search for the best pairs: shared out, above a bar that the last one gave, and again without where it misled.

use super::accumulator::Accumulator;
use super::band::Band;
use super::{Coactivation, Selected};
use crate::codes::Transposed;
use crate::order::Candidate;
use crate::topk::{SMALLEST_POSITIVE, Selection, check_score};
use crate::work::each;
use crate::{Error, Pair};
use std::ops::Range;

/// How far below the last k-th best score the next one is expected.
const MARGIN: f32 = 0.95;

/// What one selection tells the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    /// Score that some more than `k` pairs are expected to reach, as bits.
    score: u32,
    /// How many pairs reached the last bar.
    reached: usize,
}

impl Default for Bar {
    fn default() -> Self {
        Self {
            score: SMALLEST_POSITIVE,
            reached: 0,
        }
    }
}

impl Coactivation {
    /// Finds candidates above the bar; without it if fewer than `k` pairs were above.
    pub(super) fn search<N: Candidate>(
        &mut self,
        shares: &[Range<usize>],
        k: usize,
        bar: Bar,
        select: impl Fn(Range<usize>, &mut Accumulator, &Transposed, Band<N>) -> Result<Found<N>, Error>
        + Sync,
    ) -> Result<Found<N>, Error> {
        let Self { codes, workers, .. } = self;
        let mut run = |score, room: usize| -> Result<Found<N>, Error> {
            let tasks: Vec<_> = shares.iter().cloned().zip(workers.iter_mut()).collect();
            let mut parts = each(tasks, |(ranks, accumulator)| {
                let part = select(ranks, accumulator, codes, Band::above(k, score, room));
                if part.is_err() {
                    accumulator.clear();
                }
                part
            })
            .into_iter();
            let nothing = || Found {
                best: Band::above(k, score, 0),
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
        // What reached the last bar, and the longest row of pairs.
        let found = run(
            bar.score,
            bar.reached / shares.len() + codes.features().len(),
        )?;
        if found.best.held() < k && bar.score > SMALLEST_POSITIVE {
            return run(SMALLEST_POSITIVE, 0);
        }
        Ok(found)
    }
}

/// Candidates among which the best `k` pairs are, and how many pairs had a positive score.
pub(super) struct Found<N> {
    pub(super) best: Band<N>,
    pub(super) positive: u64,
}

impl<N: Candidate> Found<N> {
    /// The best of them, and the bar for the next selection.
    pub(super) fn selected(mut self, k: usize, pair: impl Fn([u32; 2]) -> Pair) -> (Selected, Bar) {
        let reached = self.best.held();
        let best = self.best.best();
        let selection = Selection {
            pairs: best.iter().map(|c| pair(c.indices())).collect(),
            scores: best.iter().map(|c| f32::from_bits(c.score())).collect(),
        };
        let kth = selection.scores.get(k - 1).map_or(0.0, |kth| kth * MARGIN);
        let bar = Bar {
            score: kth.to_bits().max(SMALLEST_POSITIVE),
            reached,
        };
        (
            Selected {
                selection,
                positive: self.positive,
            },
            bar,
        )
    }
}

/// Candidates by their sums, as pairs of ranks.
pub(super) fn by_sums<N: Candidate>(
    ranks: Range<usize>,
    accumulator: &mut Accumulator,
    codes: &Transposed,
    mut best: Band<N>,
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
