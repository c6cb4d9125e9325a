//! The largest cosines of matrix rows among the pairs that fire together.
//!
//! The score is `max(cos, 0)`, the cosine in float64 rounded once to float32; a row of zeros has cosine 0. A float32 dot
//! product comes first: it is off by at most [`dot_error`] of the norms, and a pair that cannot reach the k-th best
//! cosine so far even so is dropped. All others are scored in float64. Norms whose products could leave the range of
//! float32 are scored in float64 at once.
//! Costs a dot product per pair that fires together, and one in float64 per survivor; no memory beside the norms.
//! What takes the time is fetching rows: pairs are grouped by their rarer feature, so that its row stays near and those
//! of the others are few and hot, and survivors are scored while both rows are at hand.

use super::accumulator::Accumulator;
use super::search::Found;
use super::shortlist::Shortlist;
use crate::Error;
use crate::codes::Transposed;
use crate::ranking::Candidate;
use crate::rows::{Norms, Rows, dot_error, dot_f64, dot_lanes, total};
use crate::simd::{Kernel, dispatch};
use crate::threads::{run_all, split};
use std::ops::Range;

/// Rows with norms in this range multiply without underflow or overflow that the bound does not cover.
const SAFE_NORMS: Range<f64> = 1e-12..1e12;

/// Partners of a feature whose rows are looked at together, so that they are still near when they are scored.
const TOGETHER: usize = 8;

/// Decoder rows, and the inverses of their norms.
pub(super) struct Decoder<'a> {
    rows: Rows<'a>,
    /// 0 for a row of zeros.
    inverse_norms: Vec<f64>,
    error: f64,
}

/// What a product in float32 tells of a pair's score.
struct Approximate {
    /// Whether the pair cannot be among the best.
    settled: bool,
    positive: bool,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(rows: Rows<'a>, threads: usize) -> Result<Self, Error> {
        let shares = split(rows.len(), threads, |_| 1);
        let norms = run_all(shares, |share| dispatch(Norms { rows, share })).concat();
        if let Some(row) = norms.iter().position(|norm| !norm.is_finite()) {
            return Err(Error::RowNotFinite { row });
        }
        let invert = |norm: f64| if norm > 0.0 { norm.recip() } else { 0.0 };
        Ok(Self {
            rows,
            inverse_norms: norms.into_iter().map(invert).collect(),
            error: dot_error(rows.width()),
        })
    }

    /// What a dot product in float32 says of the score.
    #[inline(always)]
    fn approximate(&self, dot: f32, i: usize, j: usize, threshold: f32) -> Approximate {
        let scales = [self.inverse_norms[i], self.inverse_norms[j]];
        let cosine = f64::from(dot) * scales[0] * scales[1];
        let trusted = SAFE_NORMS.contains(&scales[0]) & SAFE_NORMS.contains(&scales[1]);
        let below = (cosine.abs() > self.error) & (((cosine + self.error) as f32) < threshold);
        Approximate {
            settled: trusted & below,
            positive: cosine > 0.0,
        }
    }

    /// The score in float64, `i < j`: rounding depends on the order of the factors.
    #[inline(always)]
    fn score(&self, [i, j]: [u32; 2]) -> f32 {
        let [i, j] = [i as usize, j as usize];
        let dot = dot_f64(self.rows.row(i), self.rows.row(j));
        (dot * self.inverse_norms[i] * self.inverse_norms[j]) as f32
    }

    /// Takes what is not surely below the threshold; how many scores were positive.
    #[inline(always)]
    fn take<N: Candidate>(&self, i: u32, others: &[u32], best: &mut Shortlist<N>) -> u64 {
        let (dots, mut open) = (self.dots(i as usize, others), [0; TOGETHER]);
        let (mut left, mut positive) = (0, 0);
        for (&j, &dot) in others.iter().zip(&dots) {
            let approximate = self.approximate(dot, i as usize, j as usize, best.threshold());
            positive += u64::from(approximate.settled & approximate.positive);
            open[left] = j;
            left += usize::from(!approximate.settled);
        }
        for &j in &open[..left] {
            let pair = [i.min(j), i.max(j)];
            let score = self.score(pair);
            positive += u64::from(score > 0.0);
            best.take_one(score.max(0.0).to_bits(), pair);
        }
        positive
    }

    /// `<row i, row j>` in float32 for every `j`; in two steps, for the reason that [`dot_four`](crate::rows::dot_four)
    /// has.
    #[inline(always)]
    fn dots(&self, i: usize, others: &[u32]) -> [f32; TOGETHER] {
        let (mut lanes, mut dots) = ([[0.0; 8]; TOGETHER], [0.0; TOGETHER]);
        for (lanes, &j) in lanes.iter_mut().zip(others) {
            *lanes = dot_lanes(self.rows.row(i), self.rows.row(j as usize));
        }
        for (dot, lanes) in dots.iter_mut().zip(&lanes[..others.len()]) {
            *dot = total(lanes);
        }
        dots
    }
}

/// Returns candidates by their cosines, as pairs of features.
pub(super) fn by_cosines<N: Candidate>(
    decoder: &Decoder<'_>,
    ranks: Range<usize>,
    accumulator: &mut Accumulator,
    codes: &Transposed,
    best: Shortlist<N>,
) -> Found<N> {
    dispatch(Search {
        decoder,
        codes,
        ranks,
        accumulator,
        best,
    })
}

struct Search<'a, N> {
    decoder: &'a Decoder<'a>,
    codes: &'a Transposed,
    ranks: Range<usize>,
    accumulator: &'a mut Accumulator,
    best: Shortlist<N>,
}

impl<N: Candidate> Kernel for Search<'_, N> {
    type Answer = Found<N>;
    #[inline(always)]
    fn run(self) -> Found<N> {
        let (mut best, mut positive) = (self.best, 0);
        let features = self.codes.features();
        for rank in self.ranks {
            self.accumulator.add(self.codes, rank);
            let (others, sums) = self.accumulator.sorted();
            for others in others.chunks(TOGETHER) {
                let mut together = [0; TOGETHER];
                for (feature, &other) in together.iter_mut().zip(others) {
                    sums[other as usize] = 0.0;
                    *feature = features[other as usize];
                }
                let together = &together[..others.len()];
                positive += self.decoder.take(features[rank], together, &mut best);
            }
        }
        Found { best, positive }
    }
}
