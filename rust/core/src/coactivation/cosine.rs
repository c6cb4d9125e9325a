//! The largest cosines of matrix rows among the pairs that fire together.
//!
//! The score is `max(cos, 0)`, the cosine in float64 rounded once to float32; a row of zeros has cosine 0. A float32 dot
//! product comes first: it is off by at most [`dot_error`] of the norms, and a pair that cannot reach the k-th best
//! cosine so far even so is dropped. All others are scored in float64. Norms whose products could leave the range of
//! float32 are scored in float64 at once.
//! Costs a dot product per pair that fires together, and one in float64 per survivor; no memory beside the norms.

use super::{Accumulator, Band, Coactivation, Found, Selected, Transposed};
use crate::codes::{Codes, Feature};
use crate::rows::{Norms, Rows, Work, dot, dot_error, dot_f64, wide};
use crate::{Error, Pair};
use std::ops::Range;

/// Rows with norms in this range multiply without underflow or overflow that the bound does not cover.
const SAFE_NORMS: Range<f64> = 1e-12..1e12;

struct Decoder<'a> {
    rows: Rows<'a>,
    /// 0 for a row of zeros.
    inverse_norms: Vec<f64>,
    error: f64,
}

impl Coactivation {
    /// The `k` pairs with the largest positive cosine of their rows among those that fire together at least once.
    ///
    /// # Errors
    /// [`Error::ZeroK`], those of [`Codes::check`], [`Error::RowCount`] or [`Error::RowNotFinite`].
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
        let shares = self.begin(codes, k)?;
        let decoder = Decoder::new(rows)?;
        let select =
            |ranks, accumulator: &mut Accumulator, codes: &Transposed, best: Band<u128>| {
                Ok(wide(Search {
                    decoder: &decoder,
                    codes,
                    ranks,
                    accumulator,
                    best,
                }))
            };
        let found = self.go(&shares, k, self.cosine_bar, select)?;
        let (selected, bar) = found.selected(k, |[i, j]| Pair::of_distinct(i, j));
        self.cosine_bar = bar;
        Ok(selected)
    }
}

impl<'a> Decoder<'a> {
    fn new(rows: Rows<'a>) -> Result<Self, Error> {
        let norms = wide(Norms {
            rows,
            share: 0..rows.len(),
        });
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

    /// Whether the score is positive; and the score, unless it is surely below the bar.
    #[inline(always)]
    fn score(&self, i: usize, j: usize, bar: f32) -> (bool, Option<f32>) {
        let (a, b) = (self.rows.row(i), self.rows.row(j));
        let scales = [self.inverse_norms[i], self.inverse_norms[j]];
        let rough = f64::from(dot(a, b)) * scales[0] * scales[1];
        let trusted = scales.iter().all(|scale| SAFE_NORMS.contains(scale));
        if trusted && rough.abs() > self.error && ((rough + self.error) as f32) < bar {
            return (rough > 0.0, None);
        }
        let score = (dot_f64(a, b) * scales[0] * scales[1]) as f32;
        (score > 0.0, Some(score.max(0.0)))
    }
}

struct Search<'a> {
    decoder: &'a Decoder<'a>,
    codes: &'a Transposed,
    ranks: Range<usize>,
    accumulator: &'a mut Accumulator,
    best: Band<u128>,
}

impl Work for Search<'_> {
    type Answer = Found<u128>;
    #[inline(always)]
    fn run(self) -> Found<u128> {
        let (mut best, mut positive) = (self.best, 0);
        let features = self.codes.features();
        for rank in self.ranks {
            let i = features[rank];
            self.accumulator.add(self.codes, rank);
            let (others, sums) = self.accumulator.sorted();
            for &other in others {
                sums[other as usize] = 0.0;
                let j = features[other as usize];
                let (above_zero, score) = self.decoder.score(i as usize, j as usize, best.bar());
                positive += u64::from(above_zero);
                if let Some(score) = score {
                    best.take_one(score.to_bits(), [i, j]);
                }
            }
        }
        Found { best, positive }
    }
}
