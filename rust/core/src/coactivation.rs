//! Pairs of features that fire together, from sparse codes: exact sums, exact top-k.
//!
//! The sum of a pair is `Σ_b v_bi v_bj` in float64, its products added in the order of the rows, so that it is the same
//! bits however the features are cut into blocks or shared among threads. The score is the sum rounded once to float32.
//! A selection keeps the `k` largest scores, ties to the smaller pair; scores of zero are never selected.
//!
//! Costs one multiplication and one note per product, `batch * L0² / 2` of them, and one pass over a bit per feature:
//! all else is done for the features that are active in the batch. Of the scores, those below 0.95 of the last
//! selection's k-th best are dropped as they come; that threshold is only a guess, and a selection for which it was too high
//! is made again without it.
//! Memory beside the answer: 20 bytes per entry, 8 per active feature, and 4 per feature that are touched where it is
//! active; and per thread 8 bytes per active feature, 8 per feature of the fullest row of pairs, and 16 bytes for each
//! of the `k` pairs, 32 with more than 65,536 active features; as much again as the latter while the best are sorted.
//! Refuses codes that are no CSR, scores that are negative or not finite, naming the pair, and answers too
//! large for memory. A refused call changes nothing but the buffers.

mod accumulator;
mod cosine;
mod search;
mod shortlist;
#[cfg(test)]
mod tests;

use crate::budget::{check_budget, check_selection, is_large};
use crate::codes::{Codes, Feature, Pattern, Transposed};
use crate::ranking::Candidate;
use crate::threads::{check_threads, run_all, split};
use crate::{Error, Pair, Rows};
use accumulator::Accumulator;
use cosine::{Decoder, by_cosines};
pub use search::Selected;
use search::{Threshold, by_sums, search};
use std::ops::Range;

/// Indices below this fit a candidate of 64 bits.
const NARROW: usize = 1 << 16;

/// Bytes that a pair takes while columns are made of it: `Sums` that double as they grow, and those of all threads together.
const BYTES_PER_SUM: u128 = 72;

/// Bytes that a selected pair takes beside its candidate: pair and score, then columns.
const BYTES_PER_BEST: u128 = 32;

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

/// Selects from one batch after another, keeping buffers and a threshold for the next.
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
    threshold: Threshold,
    cosine_threshold: Threshold,
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
            threshold: Threshold::default(),
            cosine_threshold: Threshold::default(),
            codes: Transposed::default(),
            workers: Vec::new(),
        })
    }

    /// The `k` pairs with the largest sums.
    ///
    /// # Errors
    /// [`Error::ZeroK`], those of [`Codes::check`], [`Error::ScoreNotFinite`] or [`Error::ScoreNegative`], and
    /// [`Error::SelectionSize`] or [`Error::Memory`] if there may be too many pairs.
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

    /// The `k` pairs with the largest positive cosine of their rows among those that fire together at least once.
    ///
    /// # Errors
    /// [`Error::ZeroK`], those of [`Codes::check`], [`Error::RowCount`] or [`Error::RowNotFinite`], and
    /// [`Error::SelectionSize`] or [`Error::Memory`] if there may be too many pairs.
    pub fn select_cosine<C: Feature, V: Copy + Into<f64>>(
        &mut self,
        codes: &Codes<'_, C, V>,
        rows: Rows<'_>,
        k: usize,
    ) -> Result<Selected, Error> {
        if rows.len() != codes.d_sae {
            return Err(Error::RowCount {
                given: rows.len(),
                d_sae: codes.d_sae,
            });
        }
        if k == 0 {
            return Err(Error::ZeroK);
        }
        self.codes.fill_by_rarity(codes)?;
        let shares = self.share_out(codes.d_sae)?;
        let decoder = Decoder::new(rows, self.threads)?;
        if codes.d_sae <= NARROW {
            self.select_cosine_as::<u64>(&decoder, &shares, k)
        } else {
            self.select_cosine_as::<u128>(&decoder, &shares, k)
        }
    }

    fn select_as<N: Candidate>(
        &mut self,
        shares: &[Range<usize>],
        k: usize,
    ) -> Result<Selected, Error> {
        self.check_candidates::<N>(shares.len(), k, self.threshold)?;
        let (codes, workers) = (&self.codes, &mut self.workers);
        let select = |ranks, accumulator: &mut Accumulator, best| {
            by_sums::<N>(ranks, accumulator, codes, best)
        };
        let found = search(codes, workers, shares, k, self.threshold, select)?;
        let features = self.codes.features();
        let pair = |ranks: [u32; 2]| {
            let [i, j] = ranks.map(|rank| features[rank as usize]);
            Pair::of_distinct(i, j)
        };
        let (selected, threshold) = found.selected(k, pair);
        self.threshold = threshold;
        Ok(selected)
    }

    fn select_cosine_as<N: Candidate>(
        &mut self,
        decoder: &Decoder<'_>,
        shares: &[Range<usize>],
        k: usize,
    ) -> Result<Selected, Error> {
        self.check_candidates::<N>(shares.len(), k, self.cosine_threshold)?;
        let (codes, workers) = (&self.codes, &mut self.workers);
        let select = |ranks, accumulator: &mut Accumulator, best| {
            Ok(by_cosines::<N>(decoder, ranks, accumulator, codes, best))
        };
        let found = search(codes, workers, shares, k, self.cosine_threshold, select)?;
        let (selected, threshold) = found.selected(k, |[i, j]| Pair::of_distinct(i, j));
        self.cosine_threshold = threshold;
        Ok(selected)
    }

    /// All pairs `(i, j)` with `i` in `features` that fire together at least once.
    ///
    /// # Errors
    /// Those of [`Codes::check`], [`Error::FeatureRange`], or [`Error::Memory`] if there may be too many pairs.
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
        check_budget(self.codes.most_pairs(ranks.clone()) * BYTES_PER_SUM)?;
        for share in &mut shares {
            *share = share.start.max(ranks.start)..share.end.min(ranks.end);
        }
        let Self { codes, workers, .. } = self;
        let tasks: Vec<_> = shares.iter().cloned().zip(workers).collect();
        let mut parts = run_all(tasks, |(ranks, accumulator)| {
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
    /// Those of [`Pattern::check`].
    pub fn blocks<C: Feature>(
        &mut self,
        codes: &Pattern<'_, C>,
        most_pairs: u64,
    ) -> Result<Vec<usize>, Error> {
        self.codes.fill_pattern(codes)?;
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
        self.share_out(codes.d_sae)
    }

    /// Refuses a search for `k` pairs that may hold more candidates than there is memory for: what each share begins with,
    /// twice as many as are found while they grow, and twice while they are merged and sorted.
    fn check_candidates<N>(
        &self,
        shares: usize,
        k: usize,
        threshold: Threshold,
    ) -> Result<(), Error> {
        let features = self.codes.features().len();
        let space = shares as u128 * threshold.space(shares, features) as u128;
        let (best, held) = (k as u128, 2 * shares as u128 * k as u128);
        let bytes =
            |held, best| (space + held * 4) * size_of::<N>() as u128 + best * BYTES_PER_BEST;
        if !is_large(bytes(held, best)) {
            return Ok(());
        }
        let most = self.codes.most_pairs(0..features);
        check_selection(most.min(best))?;
        check_budget(bytes(held.min(most), best.min(most)))
    }

    /// Cuts the active features into a run for each thread, and makes an accumulator ready for each.
    fn share_out(&mut self, d_sae: usize) -> Result<Vec<Range<usize>>, Error> {
        let cost = |rank| self.codes.products(rank) + self.codes.entries(rank).len() as u64;
        let active = self.codes.features().len();
        let shares = split(active, self.threads, cost);
        check_budget(shares.len() as u128 * active as u128 * Accumulator::BYTES_PER_FEATURE)?;
        self.workers.resize_with(shares.len(), Accumulator::default);
        for worker in &mut self.workers {
            worker.reset(active, d_sae);
        }
        Ok(shares)
    }
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
