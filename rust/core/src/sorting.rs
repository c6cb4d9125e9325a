//! Sorted pairs, and the n-th smallest of some numbers.
//!
//! Pairs are sorted by a radix sort over the bits that their indices use: one pass over the pairs per 11 bits. The n-th
//! smallest number takes one pass to count leading bits and a selection among those that share them.

use crate::Pair;
use std::sync::Arc;

/// Bits that one pass of the radix sort looks at.
const DIGIT: u32 = 11;

/// Below this, comparing is cheaper than counting digits.
pub(crate) const FEW: usize = 256;

/// Counts in the order of their bins become places where the bins start.
pub(crate) fn starts(counts: &mut [u32]) {
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
        fn pairs_are_sorted(count in 0_u32..900, seed in any::<u32>()) {
            let pair = |n: u32| Pair::of_distinct(n.wrapping_mul(seed | 1) % 997, 1000 + n % 7);
            for shift in [0, 20] {
                let wider = |pair: Pair| Pair::of_distinct(pair.i() << shift, pair.j() << shift);
                let mut expected: Vec<_> = (0..count).map(|n| wider(pair(n))).collect();
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
