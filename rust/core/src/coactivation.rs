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
mod cosine;
#[cfg(test)]
mod tests;

use crate::codes::{Codes, Feature, Transposed};
use crate::topk::buffer::{Buffer, ROW};
use crate::topk::{INFINITY, SMALLEST_POSITIVE, Selection, check_score};
use crate::work::{check_threads, each, shares};
use crate::{Error, Pair};
use accumulator::Accumulator;
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
    /// Score that about `k` pairs are expected to reach, as bits: of sums, and of cosines.
    bar: u32,
    cosine_bar: u32,
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
            bar: SMALLEST_POSITIVE,
            cosine_bar: SMALLEST_POSITIVE,
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
        let select = |features, accumulator: &mut Accumulator, codes: &Transposed, bar| {
            select_share(codes, features, accumulator, Buffer::above(k, bar))
        };
        let (selected, bar) = self.go(&shares, k, self.bar, select)?;
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
        for share in &mut shares {
            *share = share.start.max(features.start)..share.end.min(features.end);
        }
        let Self { codes, workers, .. } = self;
        let tasks: Vec<_> = shares.iter().cloned().zip(workers).collect();
        let mut parts = each(tasks, |(features, accumulator)| {
            sums_of(codes, features, accumulator)
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
        let (mut ends, mut first, mut held) = (Vec::new(), 0, 0);
        for feature in 0..codes.d_sae {
            let pairs = self.codes.products(feature).min(codes.d_sae as u64);
            if feature > first && held + pairs > most_pairs {
                ends.push(feature);
                (first, held) = (feature, 0);
            }
            held += pairs;
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

    /// Takes the codes and shares the features out.
    fn begin<C: Feature, V: Copy + Into<f64>>(
        &mut self,
        codes: &Codes<'_, C, V>,
        k: usize,
    ) -> Result<Vec<Range<usize>>, Error> {
        if k == 0 {
            return Err(Error::ZeroK);
        }
        self.codes.fill(codes)?;
        let cost =
            |feature| self.codes.products(feature) + self.codes.entries(feature).len() as u64;
        let shares = shares(codes.d_sae, self.threads, cost);
        self.workers.resize_with(shares.len(), Accumulator::default);
        for worker in &mut self.workers {
            worker.reset(codes.d_sae);
        }
        Ok(shares)
    }

    /// Selects above the bar; without it if fewer than `k` pairs were above. Gives the next bar, too.
    fn go(
        &mut self,
        shares: &[Range<usize>],
        k: usize,
        bar: u32,
        select: impl Fn(
            Range<usize>,
            &mut Accumulator,
            &Transposed,
            u32,
        ) -> Result<(Buffer, u64), Error>
        + Sync,
    ) -> Result<(Selected, u32), Error> {
        let Self { codes, workers, .. } = self;
        let mut run = |bar| -> Result<(Buffer, u64), Error> {
            let tasks: Vec<_> = shares.iter().cloned().zip(workers.iter_mut()).collect();
            let mut parts = each(tasks, |(features, accumulator)| {
                let part = select(features, accumulator, codes, bar);
                if part.is_err() {
                    accumulator.clear();
                }
                part
            })
            .into_iter();
            let (mut best, mut positive) = match parts.next() {
                Some(first) => first?,
                None => (Buffer::new(k), 0),
            };
            for part in parts {
                let (more, count) = part?;
                best.absorb(more);
                positive += count;
            }
            Ok((best, positive))
        };
        let (mut best, mut positive) = run(bar)?;
        if best.len() < k && bar > SMALLEST_POSITIVE {
            (best, positive) = run(SMALLEST_POSITIVE)?;
        }
        let next = best.threshold().map_or(SMALLEST_POSITIVE, |kth| {
            (kth * MARGIN).to_bits().max(SMALLEST_POSITIVE)
        });
        let selection = best.finish();
        Ok((
            Selected {
                selection,
                positive,
            },
            next,
        ))
    }
}

fn select_share(
    codes: &Transposed,
    features: Range<usize>,
    accumulator: &mut Accumulator,
    mut best: Buffer,
) -> Result<(Buffer, u64), Error> {
    let mut positive = 0;
    for feature in features {
        accumulator.add(codes, feature);
        let (touched, sums) = accumulator.touched();
        for others in touched.chunks(ROW) {
            let (mut scores, mut wrong) = ([0_u32; ROW], false);
            for (score, &other) in scores.iter_mut().zip(others) {
                *score = (std::mem::take(&mut sums[other as usize]) as f32).to_bits();
                wrong |= *score >= INFINITY;
                positive += u64::from(*score as i32 > 0);
            }
            if wrong {
                refuse(feature as u32, others, &scores)?;
            }
            best.admit_row(feature as u32, others, &scores[..others.len()]);
        }
    }
    Ok((best, positive))
}

/// The error for the first score of a block that cannot be ranked, if there is one: -0.0 can.
#[cold]
fn refuse(feature: u32, others: &[u32], scores: &[u32]) -> Result<(), Error> {
    others.iter().zip(scores).try_for_each(|(&other, &score)| {
        check_score(Pair::of_distinct(feature, other), f32::from_bits(score))
    })
}

fn sums_of(codes: &Transposed, features: Range<usize>, accumulator: &mut Accumulator) -> Sums {
    let mut all = Sums::default();
    for feature in features {
        accumulator.add(codes, feature);
        let (touched, sums) = accumulator.sorted();
        all.i.resize(all.i.len() + touched.len(), feature as i64);
        all.j.extend(touched.iter().map(|&other| i64::from(other)));
        let take = |&other: &u32| std::mem::take(&mut sums[other as usize]);
        all.sum.extend(touched.iter().map(take));
    }
    all
}
