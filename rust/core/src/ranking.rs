//! Candidates ranked best first: scores falling, ties by rising pair.
//!
//! The best come from a radix sort of the leading bits of their scores, one more key for each
//! candidate that may be among them to swap with; ties in those bits are sorted by comparing, so
//! candidates may come in any order.

use crate::Pair;
use crate::selection::Selection;
use crate::sorting::{FEW, starts};
use std::cmp::Reverse;
use std::ops::RangeInclusive;

/// Bits of a digit of scores, of which two are looked at.
const SCORE_DIGIT: u32 = 12;
const SCORE_BINS: usize = 1 << SCORE_DIGIT;

/// A candidate as one integer, the better one smaller: how far its score is below [`u32::MAX`], then its indices.
pub(crate) trait Candidate: Copy + Ord + Default + Send {
    /// The candidate of two indices in their order and of a score, bits of a positive float.
    fn new(score: u32, indices: [u32; 2]) -> Self;
    fn indices(self) -> [u32; 2];
    /// The leading 32 bits.
    fn leading(self) -> u32;
    /// With the leading bits counted from some least ones, and `shift` zeros that are in front of all then cut off.
    fn raised(self, least: u32, shift: u32) -> Self;
    /// What [`Candidate::raised`] was made from.
    fn lowered(self, least: u32, shift: u32) -> Self;
    fn score(self) -> u32 {
        !self.leading()
    }
}

macro_rules! candidate {
    ($integer:ty, $index_bits:expr) => {
        impl Candidate for $integer {
            #[inline(always)]
            fn new(score: u32, [i, j]: [u32; 2]) -> Self {
                Self::from(!score) << (Self::BITS - 32)
                    | Self::from(i) << $index_bits
                    | Self::from(j)
            }
            #[inline(always)]
            fn indices(self) -> [u32; 2] {
                let mask = u32::MAX >> (32 - $index_bits);
                [(self >> $index_bits) as u32 & mask, self as u32 & mask]
            }
            #[inline(always)]
            fn leading(self) -> u32 {
                (self >> (Self::BITS - 32)) as u32
            }
            #[inline(always)]
            fn raised(self, least: u32, shift: u32) -> Self {
                (self - (Self::from(least) << (Self::BITS - 32))) << shift
            }
            #[inline(always)]
            fn lowered(self, least: u32, shift: u32) -> Self {
                (self >> shift) + (Self::from(least) << (Self::BITS - 32))
            }
        }
    };
}

candidate!(u64, 16);
candidate!(u128, 32);

/// A candidate by merit, the better one larger: score bits, then the smaller pair.
pub(crate) type Rank = (u32, Reverse<Pair>);

/// The candidates as a selection, best first.
pub(crate) fn selection_of(ranks: &[Rank]) -> Selection {
    let (scores, pairs): (Vec<u32>, Vec<Pair>) =
        ranks.iter().map(|rank| (rank.0, rank.1.0)).unzip();
    best_first(&scores, &pairs)
}

/// The candidates as a selection, best first. Scores are bits of positive floats.
pub(crate) fn best_first(scores: &[u32], pairs: &[Pair]) -> Selection {
    debug_assert_eq!(scores.len(), pairs.len());
    let smallest = scores.iter().copied().min().unwrap_or(0);
    let largest = scores.iter().copied().max().unwrap_or(0);
    let candidate = |(&score, pair): (&u32, &Pair)| u128::new(score, [pair.i(), pair.j()]);
    let mut all: Vec<u128> = scores.iter().zip(pairs).map(candidate).collect();
    let best = best_of(&mut all, scores.len(), smallest..=largest);
    let pair = |candidate: &u128| {
        let [i, j] = candidate.indices();
        Pair::of_distinct(i, j)
    };
    Selection {
        pairs: best.iter().map(pair).collect(),
        scores: best.iter().map(|c| f32::from_bits(c.score())).collect(),
    }
}

/// Sorts the candidates, all with scores in a range, so far that the best `k` come first; gives these, best first.
pub(crate) fn best_of<C: Candidate>(
    candidates: &mut [C],
    k: usize,
    scores: RangeInclusive<u32>,
) -> &[C] {
    let count = k.min(candidates.len());
    if candidates.len() < FEW {
        candidates.sort_unstable();
        return &candidates[..count];
    }
    let least = !scores.end();
    let shift = (scores.end() - scores.start()).leading_zeros();
    sort_leading(candidates, |candidate| candidate.raised(least, shift));
    let mut sorted = 0;
    for run in candidates.chunk_by_mut(|a, b| prefix(*a) == prefix(*b)) {
        if run.len() > 1 {
            run.sort_unstable();
        }
        sorted += run.len();
        if sorted >= count {
            break;
        }
    }
    for candidate in &mut candidates[..count] {
        *candidate = candidate.lowered(least, shift);
    }
    &candidates[..count]
}

fn prefix<C: Candidate>(candidate: C) -> u32 {
    candidate.leading() >> (32 - 2 * SCORE_DIGIT)
}

/// Puts the raised candidates in the place of the others, sorted by two leading digits.
fn sort_leading<C: Candidate>(candidates: &mut [C], raise: impl Fn(C) -> C) {
    let high_digit = |candidate| (prefix(candidate) >> SCORE_DIGIT) as usize;
    let low_digit = |candidate| prefix(candidate) as usize % SCORE_BINS;
    let (mut high, mut low) = ([0_u32; SCORE_BINS], [0_u32; SCORE_BINS]);
    for &candidate in &*candidates {
        let raised = raise(candidate);
        high[high_digit(raised)] += 1;
        low[low_digit(raised)] += 1;
    }
    starts(&mut high);
    starts(&mut low);
    let mut by_low = vec![C::default(); candidates.len()];
    for &candidate in &*candidates {
        let raised = raise(candidate);
        let place = &mut low[low_digit(raised)];
        by_low[*place as usize] = raised;
        *place += 1;
    }
    for candidate in by_low {
        let place = &mut high[high_digit(candidate)];
        candidates[*place as usize] = candidate;
        *place += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_sorting(
            scores in prop::collection::vec(prop_oneof![1_u32..9, 1_u32..0x7f80_0000], 0..900), seed in any::<u32>(),
        ) {
            let pair = |n: u32| Pair::of_distinct(n.wrapping_mul(seed | 1) % 997, 1000 + n % 7);
            let pairs: Vec<Pair> = (0..scores.len() as u32).map(pair).collect();
            let mut expected: Vec<_> = scores.iter().copied().zip(pairs.iter().copied()).collect();
            expected.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
            let got = best_first(&scores, &pairs);
            let got: Vec<_> = got.scores.iter().map(|score| score.to_bits()).zip(got.pairs).collect();
            prop_assert_eq!(&got, &expected);
            let mut narrow: Vec<u64> = pairs.iter().zip(&scores).map(|(p, &s)| u64::new(s, [p.i(), p.j()])).collect();
            let (k, mut best) = (seed as usize % (scores.len() + 1), narrow.clone());
            best.sort_unstable();
            let range = *scores.iter().min().unwrap_or(&1)..=*scores.iter().max().unwrap_or(&1);
            prop_assert_eq!(best_of(&mut narrow, k, range), &best[..k]);
            for (place, candidate) in best.iter().enumerate() {
                let [i, j] = candidate.indices();
                prop_assert_eq!((candidate.score(), Pair::of_distinct(i, j)), expected[place]);
            }
        }
    }
}
