//! Orders: best first (scores falling, ties by rising pair), sorted pairs, and the n-th smallest number.
//!
//! The best of some candidates come from a radix sort of the leading bits of their scores, one more key for each
//! candidate that may be among them to swap with; whatever is not told apart by those bits is sorted by comparing, so
//! candidates may come in any order.

use crate::{Pair, Selection};
use std::ops::RangeInclusive;
use std::sync::Arc;

const DIGIT: u32 = 11;
/// Below this, comparing is cheaper than counting digits.
const FEW: usize = 256;
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

/// The candidates as a selection. Scores are bits of positive floats.
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

/// Counts in the order of their bins become places where the bins start.
fn starts(counts: &mut [u32]) {
    let mut start = 0;
    for count in counts {
        (start, *count) = (start + *count, start);
    }
}

/// The pairs in their order. Where the indices are small, what is sorted is four bytes a pair.
pub(crate) fn sorted_pairs(pairs: impl ExactSizeIterator<Item = Pair> + Clone) -> Arc<[Pair]> {
    if pairs.len() < FEW || pairs.clone().is_sorted() {
        let mut few: Arc<[Pair]> = pairs.collect();
        Arc::make_mut(&mut few).sort_unstable();
        return few;
    }
    let all = pairs.clone().fold(0, |all, pair| all | pair.bits());
    let (i_bits, j_bits) = (bits_of((all >> 32) as u32), bits_of(all as u32));
    let packed = pairs.map(|pair| u64::from(pair.i()) << j_bits | u64::from(pair.j()));
    let unpacked = |key: u64| {
        let j = key & ((1 << j_bits) - 1);
        Pair::of_distinct((key >> j_bits) as u32, j as u32)
    };
    if i_bits + j_bits > u32::BITS {
        let mut keys: Vec<u64> = packed.collect();
        radix_sort(&mut keys, 0, i_bits + j_bits);
        return keys.into_iter().map(unpacked).collect();
    }
    let mut keys: Vec<u32> = packed.map(|key| key as u32).collect();
    radix_sort(&mut keys, 0, i_bits + j_bits);
    keys.into_iter().map(|key| unpacked(key.into())).collect()
}

const fn bits_of(largest: u32) -> u32 {
    u32::BITS - largest.leading_zeros()
}

trait Key: Copy {
    fn bits(self) -> u64;
}

impl Key for u64 {
    fn bits(self) -> u64 {
        self
    }
}

impl Key for u32 {
    fn bits(self) -> u64 {
        self.into()
    }
}

/// Sorts by `bits` bits from bit `lowest` on; what is equal there keeps its order.
fn radix_sort<K: Key>(keys: &mut Vec<K>, lowest: u32, bits: u32) {
    let passes = bits.div_ceil(DIGIT);
    if passes == 0 {
        return;
    }
    let width = bits.div_ceil(passes);
    let mut other = keys.clone();
    for pass in 0..passes {
        let digit = |key: K| (key.bits() >> (lowest + pass * width)) as usize & ((1 << width) - 1);
        let mut places = [0_u32; 1 << DIGIT];
        for &key in &*keys {
            places[digit(key)] += 1;
        }
        starts(&mut places);
        for &key in &*keys {
            let place = &mut places[digit(key)];
            other[*place as usize] = key;
            *place += 1;
        }
        std::mem::swap(keys, &mut other);
    }
}

/// The n-th smallest of some numbers, counted from 1, and how many are smaller.
pub(crate) fn nth_smallest(numbers: &[u64], n: usize) -> (u64, usize) {
    let bin = |number: u64| (number >> 48) as usize;
    let mut counts = vec![0_usize; 1 << 16];
    for &number in numbers {
        counts[bin(number)] += 1;
    }
    let (mut below, mut last) = (0, 0);
    while below + counts[last] < n {
        below += counts[last];
        last += 1;
    }
    let inside = |&number: &u64| bin(number) == last;
    let mut rest: Vec<u64> = numbers.iter().copied().filter(inside).collect();
    let (smaller, &mut nth, _) = rest.select_nth_unstable(n - below - 1);
    let smaller = smaller.iter().filter(|&&number| number < nth).count();
    (nth, below + smaller)
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
            for shift in [0, 20] {
                let wider = |pair: &Pair| Pair::of_distinct(pair.i() << shift, pair.j() << shift);
                let mut expected: Vec<_> = pairs.iter().map(wider).collect();
                let sorted = sorted_pairs(expected.iter().copied());
                expected.sort_unstable();
                prop_assert_eq!(&*sorted, expected);
            }
        }

        #[test]
        fn nth_smallest_is_that_of_sorting(
            numbers in prop::collection::vec(prop_oneof![0_u64..5, any::<u64>(), (0_u64..9).prop_map(|n| n << 48)], 1..200),
            place in any::<prop::sample::Index>(),
        ) {
            let mut sorted = numbers.clone();
            sorted.sort_unstable();
            let place = place.index(numbers.len());
            let below = sorted.partition_point(|&number| number < sorted[place]);
            prop_assert_eq!(nth_smallest(&numbers, place + 1), (sorted[place], below));
        }
    }
}
