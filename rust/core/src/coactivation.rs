//! Pairs of features that fire together, from sparse codes: exact sums, exact top-k.
//!
//! The sum of a pair is `Σ_b v_bi v_bj` in float64, its products added in the order of the rows, so that it is the same
//! bits however the features are cut into blocks or shared among threads. The score is the sum rounded once to float32.
//! A selection keeps the `k` largest scores, ties to the smaller pair; scores of zero are never selected.
//!
//! Costs one multiplication and one note per product, `batch * L0² / 2` of them, whatever the number of features. Of the
//! scores, those below 0.95 of the last selection's k-th best are dropped as they come; that bar is only a guess, and a
//! selection for which it was too high is made again without it.
//! Memory beside the answer: 20 bytes per entry and 4 per feature; and per thread 8 bytes per feature, 8 per feature of
//! the fullest row of pairs, and 24 bytes for each of the `k` pairs.
//! Refuses codes that are no CSR, and scores that are negative or not finite, naming the pair. A refused call changes
//! nothing but the buffers.

mod accumulator;
mod band;
mod cosine;
#[cfg(test)]
mod tests;

use crate::codes::{Codes, Feature, Transposed};
use crate::order::Candidate;
use crate::topk::{SMALLEST_POSITIVE, Selection, check_score};
use crate::work::{check_threads, each, shares};
use crate::{Error, Pair};
use accumulator::Accumulator;
use band::Band;
use std::ops::Range;

/// How far below the last k-th best score the next one is expected.
const MARGIN: f32 = 0.95;

/// So many active features at most fit a candidate of 64 bits.
const NARROW: usize = 1 << 16;

/// A selection, and what it was selected from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selected {
    /// The best pairs.
    pub selection: Selection,
    /// Number of pairs with a positive score.
    pub positive: u64,
}

/// Pairs that fire together with their sums, in the order of pairs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// The smaller feature.
    pub i: Vec<i64>,
    /// The larger feature.
    pub j: Vec<i64>,
    /// `Σ_b v_bi v_bj`.
    pub sum: Vec<f64>,
}

/// What one selection tells the next.
#[derive(Clone, Copy, Debug)]
struct Bar {
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

/// Selects from one batch after another, keeping buffers and the bar.
///
/// ```
/// use topk_ortho_core::{Coactivation, Codes};
/// let codes = Codes { crow: &[0, 2, 5], col: &[0_u32, 2, 0, 1, 2], value: &[1.0_f32, 2.0, 1.0, 3.0, 1.0], d_sae: 3 };
/// let mut coactivation = Coactivation::new(1)?;
/// let best = coactivation.select(&codes, 2)?;
/// assert_eq!(best.selection.into_columns(), (vec![0, 0], vec![1, 2], vec![3.0, 3.0])); // (1, 2) lost the tie
/// assert_eq!(best.positive, 3);
/// # Ok::<(), topk_ortho_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Coactivation {
    threads: usize,
    bar: Bar,
    cosine_bar: Bar,
    codes: Transposed,
    workers: Vec<Accumulator>,
}

impl Coactivation {
    /// Nothing is allocated yet. The number of threads is not seen in any answer.
    ///
    /// # Errors
    /// [`Error::ZeroThreads`].
    pub fn new(threads: usize) -> Result<Self, Error> {
        check_threads(threads)?;
        Ok(Self {
            threads,
            bar: Bar::default(),
            cosine_bar: Bar::default(),
            codes: Transposed::default(),
            workers: Vec::new(),
        })
    }

    /// The `k` pairs with the largest sums.
    ///
    /// # Errors
    /// [`Error::ZeroK`], those of [`Codes::check`], [`Error::ScoreNotFinite`] or [`Error::ScoreNegative`].
    pub fn select<C: Feature, V: Copy + Into<f64>>(
        &mut self,
        codes: &Codes<'_, C, V>,
        k: usize,
    ) -> Result<Selected, Error> {
        let shares = self.begin(codes, k)?;
        if self.codes.features().len() <= NARROW {
            self.select_as::<u64>(&shares, k)
        } else {
            self.select_as::<u128>(&shares, k)
        }
    }

    fn select_as<N: Candidate>(
        &mut self,
        shares: &[Range<usize>],
        k: usize,
    ) -> Result<Selected, Error> {
        let found = self.go::<N>(shares, k, self.bar, select_share)?;
        let features = self.codes.features();
        let pair = |ranks: [u32; 2]| {
            let [i, j] = ranks.map(|rank| features[rank as usize]);
            Pair::of_distinct(i, j)
        };
        let (selected, bar) = found.selected(k, pair);
        self.bar = bar;
        Ok(selected)
    }

    /// All pairs `(i, j)` with `i` in `features` that fire together at least once.
    ///
    /// # Errors
    /// Those of [`Codes::check`], or [`Error::FeatureRange`].
    pub fn pairs<C: Feature, V: Copy + Into<f64>>(
        &mut self,
        codes: &Codes<'_, C, V>,
        features: Range<usize>,
    ) -> Result<Sums, Error> {
        if features.start > features.end || features.end > codes.d_sae {
            return Err(Error::FeatureRange {
                first: features.start,
                last: features.end,
                d_sae: codes.d_sae,
            });
        }
        let mut shares = self.begin(codes, 1)?;
        let ranks = self.codes.ranks(&features);
        for share in &mut shares {
            *share = share.start.max(ranks.start)..share.end.min(ranks.end);
        }
        let Self { codes, workers, .. } = self;
        let tasks: Vec<_> = shares.iter().cloned().zip(workers).collect();
        let mut parts = each(tasks, |(ranks, accumulator)| {
            sums_of(codes, ranks, accumulator)
        })
        .into_iter();
        let mut all = parts.next().unwrap_or_default();
        for part in parts {
            all.i.extend(part.i);
            all.j.extend(part.j);
            all.sum.extend(part.sum);
        }
        Ok(all)
    }

    /// Ends of runs of features, each with at most so many pairs where a run has more than one feature.
    ///
    /// # Errors
    /// Those of [`Codes::check`].
    pub fn blocks<C: Feature, V: Copy + Into<f64>>(
        &mut self,
        codes: &Codes<'_, C, V>,
        most_pairs: u64,
    ) -> Result<Vec<usize>, Error> {
        self.codes.fill(codes)?;
        let (mut ends, mut first, mut last, mut held) = (Vec::new(), 0, 0, 0);
        for (rank, &feature) in self.codes.features().iter().enumerate() {
            let feature = feature as usize;
            let pairs = self.codes.products(rank).min(codes.d_sae as u64);
            for end in [last, feature] {
                let more = if end == feature { pairs } else { 0 };
                if end > first && held + more > most_pairs {
                    ends.push(end);
                    (first, held) = (end, 0);
                }
            }
            held += pairs;
            last = feature + 1;
        }
        if held > most_pairs && last < codes.d_sae {
            ends.push(last);
        }
        ends.push(codes.d_sae);
        Ok(ends)
    }

    /// Bytes of memory held between calls.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let workers: usize = self.workers.iter().map(Accumulator::bytes).sum();
        size_of::<Self>() + self.codes.bytes() + workers
    }

    /// Takes the codes and shares the active features out, by rank.
    fn begin<C: Feature, V: Copy + Into<f64>>(
        &mut self,
        codes: &Codes<'_, C, V>,
        k: usize,
    ) -> Result<Vec<Range<usize>>, Error> {
        if k == 0 {
            return Err(Error::ZeroK);
        }
        self.codes.fill(codes)?;
        let cost = |rank| self.codes.products(rank) + self.codes.entries(rank).len() as u64;
        let active = self.codes.features().len();
        let shares = shares(active, self.threads, cost);
        self.workers.resize_with(shares.len(), Accumulator::default);
        for worker in &mut self.workers {
            worker.reset(active, codes.d_sae);
        }
        Ok(shares)
    }

    /// Finds candidates above the bar; without it if fewer than `k` pairs were above.
    fn go<N: Candidate>(
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
struct Found<N> {
    best: Band<N>,
    positive: u64,
}

impl<N: Candidate> Found<N> {
    /// The best of them, and the bar for the next selection.
    fn selected(mut self, k: usize, pair: impl Fn([u32; 2]) -> Pair) -> (Selected, Bar) {
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

fn select_share<N: Candidate>(
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

fn sums_of(codes: &Transposed, ranks: Range<usize>, accumulator: &mut Accumulator) -> Sums {
    let (mut all, features) = (Sums::default(), codes.features());
    let name = |rank: usize| i64::from(features[rank]);
    for rank in ranks {
        accumulator.add(codes, rank);
        let (touched, sums) = accumulator.sorted();
        all.i.resize(all.i.len() + touched.len(), name(rank));
        all.j
            .extend(touched.iter().map(|&other| name(other as usize)));
        let take = |&other: &u32| std::mem::take(&mut sums[other as usize]);
        all.sum.extend(touched.iter().map(take));
    }
    all
}
