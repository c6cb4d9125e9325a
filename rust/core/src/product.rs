//! Exact top-k of `m_i * m_j` over all pairs of features, without a matrix.
//!
//! The score of a pair is the product in float64, exact for two float32 factors, rounded once to float32; ties go to the
//! smaller pair; scores of zero are never selected. Rounding makes ties that the exact products do not show, and equal
//! values make up to n²/2 of them, so pairs are not enumerated best first. Instead the k-th best score is found by
//! bisection on its 31 bits: in the sorted `m` the partners that reach a score are a prefix, and at most
//! `sqrt(2k) + 1` rows have one before `k` pairs are counted.
//! Costs O(n log n + k log k) time and O(n + k) memory, ties of any number included.
//! Refuses a negative or non-finite value, naming the feature, a product beyond float32, naming the pair, and more pairs
//! than there is memory for.

use crate::budget::{check_budget, check_selection};
use crate::ranking::{Rank, selection_of};
use crate::score::{INFINITY, SMALLEST_POSITIVE};
use crate::selection::Selection;
use crate::{Error, Pair};
use std::cmp::Reverse;

/// Bytes that a pair takes on the way: a rank, its parts, two keys to sort, and the columns.
const BYTES_PER_PAIR: u128 = 96;

/// The `k` pairs with the largest product of their features' values, or all with a positive product if they are fewer.
///
/// ```
/// use topk_ortho_core::top_products;
/// let (i, j, score) = top_products(&[1.0, 0.0, 3.0, 2.0], 2)?.into_columns();
/// assert_eq!((i, j, score), (vec![2, 0], vec![3, 2], vec![6.0, 3.0]));
/// # Ok::<(), topk_ortho_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::ZeroK`], [`Error::FeatureValue`], [`Error::TooManyFeatures`], [`Error::ScoreNotFinite`] if the largest
/// product overflows, and [`Error::SelectionSize`] or [`Error::Memory`] if there are too many pairs.
pub fn top_products(m: &[f32], k: usize) -> Result<Selection, Error> {
    if k == 0 {
        return Err(Error::ZeroK);
    }
    let ranked = Ranked::new(m)?;
    ranked.check_overflow()?;
    let everything = SMALLEST_POSITIVE;
    let pairs = ranked.count(everything, k);
    check_selection(pairs as u128)?;
    check_budget(pairs as u128 * BYTES_PER_PAIR)?;
    let mut ranks = Vec::with_capacity(pairs);
    if pairs < k {
        ranked.emit(everything, &mut ranks);
    } else {
        let (mut edge, mut beyond) = (everything, INFINITY);
        while beyond - edge > 1 {
            let middle = edge.midpoint(beyond);
            if ranked.count(middle, k) < k {
                beyond = middle;
            } else {
                edge = middle;
            }
        }
        ranked.emit(beyond, &mut ranks);
        ranked.emit_ties(m, edge, k - ranks.len(), &mut ranks);
    }
    Ok(selection_of(&ranks))
}

/// The features with a positive value, largest value first.
struct Ranked {
    values: Vec<f32>,
    features: Vec<u32>,
}

impl Ranked {
    fn new(m: &[f32]) -> Result<Self, Error> {
        if u32::try_from(m.len().saturating_sub(1)).is_err() {
            return Err(Error::TooManyFeatures { given: m.len() });
        }
        if let Some(feature) = m
            .iter()
            .position(|value| !(value.is_finite() && *value >= 0.0))
        {
            return Err(Error::FeatureValue {
                feature,
                value: m[feature],
            });
        }
        let positive = (0_u32..).zip(m).filter(|&(_, &value)| value > 0.0);
        let mut keys: Vec<(u32, u32)> = positive
            .map(|(feature, value)| (INFINITY - value.to_bits(), feature))
            .collect();
        keys.sort_unstable();
        Ok(Self {
            values: keys
                .iter()
                .map(|key| f32::from_bits(INFINITY - key.0))
                .collect(),
            features: keys.iter().map(|key| key.1).collect(),
        })
    }

    fn check_overflow(&self) -> Result<(), Error> {
        let (&[a, b, ..], &[i, j, ..]) = (&self.values[..], &self.features[..]) else {
            return Ok(());
        };
        let score = f32::from_bits(score_bits(a, b));
        let pair = Pair::of_distinct(i, j);
        if score.is_finite() {
            Ok(())
        } else {
            Err(Error::ScoreNotFinite {
                i: pair.i(),
                j: pair.j(),
                score,
            })
        }
    }

    /// Returns how many of the largest features reach `edge` together with a feature of this value.
    fn partners(&self, value: f32, edge: u32) -> usize {
        self.values
            .partition_point(|&other| score_bits(value, other) >= edge)
    }

    /// For each row that has any: its place and the places after it that reach `edge` with it.
    fn rows(&self, edge: u32) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        let row = move |place: usize| (place, place + 1..self.partners(self.values[place], edge));
        (0..self.values.len())
            .map(row)
            .take_while(|(_, partners)| !partners.is_empty())
    }

    /// Returns how many pairs score `edge` or more, counted up to `most`.
    fn count(&self, edge: u32, most: usize) -> usize {
        let mut pairs = 0;
        for (_, partners) in self.rows(edge) {
            pairs += partners.len();
            if pairs >= most {
                return most;
            }
        }
        pairs
    }

    /// Every pair that scores `edge` or more.
    fn emit(&self, edge: u32, ranks: &mut Vec<Rank>) {
        for (place, partners) in self.rows(edge) {
            for other in partners {
                let score = score_bits(self.values[place], self.values[other]);
                let pair = Pair::of_distinct(self.features[place], self.features[other]);
                ranks.push((score, Reverse(pair)));
            }
        }
    }

    /// The `wanted` smallest pairs that score exactly `edge`. A partner before the row's own feature was emitted with its
    /// own row, so looking at it again costs no more than that emission did.
    fn emit_ties(&self, m: &[f32], edge: u32, mut wanted: usize, ranks: &mut Vec<Rank>) {
        let mut tied = Vec::new();
        for (feature, &value) in (0_u32..).zip(m) {
            if wanted == 0 {
                return;
            }
            if value == 0.0 {
                continue;
            }
            let partners = self.partners(value, edge + 1)..self.partners(value, edge);
            tied.clear();
            tied.extend(
                self.features[partners]
                    .iter()
                    .filter(|&&other| other > feature),
            );
            tied.sort_unstable();
            tied.truncate(wanted);
            wanted -= tied.len();
            ranks.extend(
                tied.iter()
                    .map(|&other| (edge, Reverse(Pair::of_distinct(feature, other)))),
            );
        }
    }
}

/// Monotone in both values, so that a row's partners are a prefix.
fn score_bits(a: f32, b: f32) -> u32 {
    ((f64::from(a) * f64::from(b)) as f32).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(m: &[f32], k: usize) -> Selection {
        let mut all = Vec::new();
        for i in 0..m.len() {
            for j in i + 1..m.len() {
                let score = (f64::from(m[i]) * f64::from(m[j])) as f32;
                if score > 0.0 {
                    all.push((i, j, score));
                }
            }
        }
        all.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
        all.truncate(k);
        Selection {
            pairs: all
                .iter()
                .map(|p| Pair::of_distinct(p.0 as u32, p.1 as u32))
                .collect(),
            scores: all.iter().map(|p| p.2).collect(),
        }
    }

    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![
            Just(0.0),
            Just(-0.0),
            (0_u8..4).prop_map(f32::from),
            // Neighbouring floats: distinct products that round to the same score.
            (0_u32..6).prop_map(|ulps| f32::from_bits(1.5_f32.to_bits() + ulps)),
            0.0_f32..1e19,
            (0_u32..1000).prop_map(f32::from_bits),
        ]
    }

    proptest! {
        #[test]
        fn equals_sorting_everything(m in prop::collection::vec(value(), 0..40), k in 1_usize..900) {
            prop_assert_eq!(top_products(&m, k), Ok(naive(&m, k)));
        }
    }

    #[test]
    fn ties_made_by_rounding_are_cut_in_order() {
        let m: Vec<f32> = (0..12)
            .map(|n| f32::from_bits(1.3_f32.to_bits() + n))
            .collect();
        for k in 1..=66 {
            assert_eq!(top_products(&m, k), Ok(naive(&m, k)), "k = {k}");
        }
    }

    #[test]
    fn a_million_equal_values_are_cheap_and_in_order() {
        let selection = top_products(&vec![2.0; 1_000_000], 1_000_003).expect("finite");
        assert_eq!(selection.pairs.len(), 1_000_003);
        assert!(selection.pairs.is_sorted());
        assert_eq!(selection.pairs.last(), Some(&Pair::of_distinct(1, 5)));
    }

    #[test]
    fn refuses_what_cannot_be_ranked() {
        assert_eq!(top_products(&[1.0], 0), Err(Error::ZeroK));
        assert_eq!(
            top_products(&[1.0, -2.0], 1),
            Err(Error::FeatureValue {
                feature: 1,
                value: -2.0
            })
        );
        assert!(matches!(
            top_products(&[f32::NAN], 1),
            Err(Error::FeatureValue { feature: 0, .. })
        ));
        let overflow = Error::ScoreNotFinite {
            i: 0,
            j: 2,
            score: f32::INFINITY,
        };
        assert_eq!(top_products(&[1e30, 1.0, 1e30], 1), Err(overflow));
        assert_eq!(top_products(&[], 3), Ok(Selection::default()));
    }

    #[test]
    fn more_pairs_than_a_selection_holds_are_refused_and_nothing_is_allocated() {
        let m = vec![1.0; 50_000];
        for (k, given) in [(1 << 32, 1_249_975_000), ((1 << 30) + 1, (1 << 30) + 1)] {
            let refused = Error::SelectionSize {
                given,
                largest: 1 << 30,
            };
            assert_eq!(top_products(&m, k), Err(refused));
        }
        assert_eq!(
            top_products(&m[..3], 1 << 32).map(|all| all.pairs.len()),
            Ok(3)
        );
    }
}
