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
use super::band::Band;
use super::search::Found;
use super::{Coactivation, NARROW, Selected};
use crate::codes::{Codes, Feature, Transposed};
use crate::order::Candidate;
use crate::rows::{Norms, Rows, Work, dot_error, dot_f64, dot_lanes, total, wide};
use crate::work::{each, shares};
use crate::{Error, Pair};
use std::ops::Range;

/// Rows with norms in this range multiply without underflow or overflow that the bound does not cover.
const SAFE_NORMS: Range<f64> = 1e-12..1e12;

/// Partners of a feature whose rows are looked at together, so that they are still near when they are scored.
const TOGETHER: usize = 8;

struct Decoder<'a> {
    rows: Rows<'a>,
    /// 0 for a row of zeros.
    inverse_norms: Vec<f64>,
    error: f64,
}

struct Rough {
    /// Whether the pair cannot be among the best.
    settled: bool,
    positive: bool,
}

impl Coactivation {
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
        let shares = self.share_out(codes.d_sae);
        let decoder = Decoder::new(rows, self.threads)?;
        if codes.d_sae <= NARROW {
            self.select_rows::<u64>(&decoder, &shares, k)
        } else {
            self.select_rows::<u128>(&decoder, &shares, k)
        }
    }

    fn select_rows<N: Candidate>(
        &mut self,
        decoder: &Decoder<'_>,
        shares: &[Range<usize>],
        k: usize,
    ) -> Result<Selected, Error> {
        self.check_candidates::<N>(shares.len(), k)?;
        let select = |ranks, accumulator: &mut Accumulator, codes: &Transposed, best: Band<N>| {
            Ok(wide(Search {
                decoder,
                codes,
                ranks,
                accumulator,
                best,
            }))
        };
        let found = self.search(shares, k, self.cosine_bar, select)?;
        let (selected, bar) = found.selected(k, |[i, j]| Pair::of_distinct(i, j));
        self.cosine_bar = bar;
        Ok(selected)
    }
}

impl<'a> Decoder<'a> {
    fn new(rows: Rows<'a>, threads: usize) -> Result<Self, Error> {
        let shares = shares(rows.len(), threads, |_| 1);
        let norms = each(shares, |share| wide(Norms { rows, share })).concat();
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
    fn rough(&self, dot: f32, i: usize, j: usize, bar: f32) -> Rough {
        let scales = [self.inverse_norms[i], self.inverse_norms[j]];
        let rough = f64::from(dot) * scales[0] * scales[1];
        let trusted = SAFE_NORMS.contains(&scales[0]) & SAFE_NORMS.contains(&scales[1]);
        let below = (rough.abs() > self.error) & (((rough + self.error) as f32) < bar);
        Rough {
            settled: trusted & below,
            positive: rough > 0.0,
        }
    }

    /// The score in float64, `i < j`: rounding depends on the order of the factors.
    #[inline(always)]
    fn score(&self, [i, j]: [u32; 2]) -> f32 {
        let [i, j] = [i as usize, j as usize];
        let dot = dot_f64(self.rows.row(i), self.rows.row(j));
        (dot * self.inverse_norms[i] * self.inverse_norms[j]) as f32
    }

    /// Takes what is not surely below the bar; how many scores were positive.
    #[inline(always)]
    fn take<N: Candidate>(&self, i: u32, others: &[u32], best: &mut Band<N>) -> u64 {
        let (dots, mut open) = (self.dots(i as usize, others), [0; TOGETHER]);
        let (mut left, mut positive) = (0, 0);
        for (&j, &dot) in others.iter().zip(&dots) {
            let rough = self.rough(dot, i as usize, j as usize, best.bar());
            positive += u64::from(rough.settled & rough.positive);
            open[left] = j;
            left += usize::from(!rough.settled);
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

struct Search<'a, N> {
    decoder: &'a Decoder<'a>,
    codes: &'a Transposed,
    ranks: Range<usize>,
    accumulator: &'a mut Accumulator,
    best: Band<N>,
}

impl<N: Candidate> Work for Search<'_, N> {
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
