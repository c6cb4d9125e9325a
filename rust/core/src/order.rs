//! Best first: scores falling, ties by rising pair.
//!
//! A radix sort of the scores' bits, eight bytes a candidate and as much to swap with; runs of equal scores are sorted
//! by pair afterwards, so candidates may come in any order.

use crate::{Pair, Selection};

const DIGIT: u32 = 11;
/// Below this, comparing is cheaper than counting digits.
const FEW: usize = 256;

/// The candidates as a selection. Scores are bits of positive floats.
pub(crate) fn best_first(scores: &[u32], pairs: &[Pair]) -> Selection {
    debug_assert_eq!(scores.len(), pairs.len());
    let largest = scores.iter().copied().max().unwrap_or(0);
    let smallest = scores.iter().copied().min().unwrap_or(0);
    let key = |(place, &score): (u64, &u32)| u64::from(largest - score) << 32 | place;
    let mut keys: Vec<u64> = (0..).zip(scores).map(key).collect();
    if keys.len() < FEW {
        keys.sort_unstable();
    } else {
        radix_sort(&mut keys, u32::BITS - (largest - smallest).leading_zeros());
    }
    let mut selection = Selection {
        pairs: keys.iter().map(|&key| pairs[key as u32 as usize]).collect(),
        scores: keys
            .iter()
            .map(|&key| f32::from_bits(largest - (key >> 32) as u32))
            .collect(),
    };
    let mut rest = &mut selection.pairs[..];
    for run in keys.chunk_by(|a, b| a >> 32 == b >> 32) {
        let (tied, behind) = rest.split_at_mut(run.len());
        if tied.len() > 1 && !tied.is_sorted() {
            tied.sort_unstable();
        }
        rest = behind;
    }
    selection
}

/// Sorts by the `bits` bits from bit 32 on.
fn radix_sort(keys: &mut Vec<u64>, bits: u32) {
    let passes = bits.div_ceil(DIGIT);
    if passes == 0 {
        return;
    }
    let width = bits.div_ceil(passes);
    let mut other = vec![0; keys.len()];
    for pass in 0..passes {
        let digit = |key: u64| (key >> (32 + pass * width)) as usize & ((1 << width) - 1);
        let mut places = [0_u32; 1 << DIGIT];
        for &key in &*keys {
            places[digit(key)] += 1;
        }
        let mut start = 0;
        for place in &mut places {
            (start, *place) = (start + *place, start);
        }
        for &key in &*keys {
            let place = &mut places[digit(key)];
            other[*place as usize] = key;
            *place += 1;
        }
        std::mem::swap(keys, &mut other);
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
            prop_assert_eq!(got, expected);
        }
    }
}
