//! The entries of a batch, from the two layouts that encoders give: dense rows, or the top features of each row.
//!
//! One pass over what is given; beside the answer there is memory for one row. Every activation but 0 is an entry, also
//! a negative one and NaN. Refuses features that do not exist, and an answer too large for memory.

use crate::budget::{check_budget, is_large};
use crate::simd::{Kernel, dispatch};
use crate::{Error, Rows};

/// Bytes of an entry, doubled where a column that grows is copied.
const BYTES: u128 = 2 * (8 + 8 + 4);

/// Columns of [`Codes`](crate::Codes), and the row of each entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entries {
    /// `[batch + 1]` where each row starts.
    pub crow: Vec<i64>,
    /// `[nnz]` the row of each entry.
    pub row: Vec<i64>,
    /// `[nnz]` the feature of each entry, rising within a row.
    pub col: Vec<i64>,
    /// `[nnz]` the activation of each entry.
    pub value: Vec<f32>,
}

impl Entries {
    /// Returns what is active in `acts`, `[batch, d_sae]`.
    ///
    /// ```
    /// use topk_ortho_core::{Rows, codes::Entries};
    /// let entries = Entries::of_dense(Rows::new(&[0.0, 2.0, 0.5, 0.0, 0.0, 1.0], 3)?)?;
    /// assert_eq!(entries.crow, [0, 2, 3]);
    /// assert_eq!(entries.col, [1, 2, 2]);
    /// # Ok::<(), topk_ortho_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn of_dense(acts: Rows<'_>) -> Result<Self, Error> {
        let cells = (acts.len() * acts.width()) as u128;
        if is_large(cells * BYTES) {
            let active = |row| acts.row(row).iter().filter(|&&act| act != 0.0).count();
            check_budget((0..acts.len()).map(active).sum::<usize>() as u128 * BYTES)?;
        }
        Ok(dispatch(Dense(acts)))
    }

    /// Returns what is active of the top features of each row, given in any order: `activation` `[batch, k]` of `feature`
    /// `[batch * k]`, each feature of a row once.
    ///
    /// # Errors
    /// [`Error::ColumnLength`], [`Error::TooManyFeatures`], [`Error::CodesFeature`] for an active feature that does not
    /// exist, or [`Error::Memory`].
    pub fn of_top(activation: Rows<'_>, feature: &[i64], d_sae: usize) -> Result<Self, Error> {
        let (batch, k) = (activation.len(), activation.width());
        if feature.len() != batch * k {
            return Err(Error::ColumnLength {
                column: "feature",
                given: feature.len(),
                expected: batch * k,
            });
        }
        let given = d_sae.max(k);
        if given > 1 << 32 {
            return Err(Error::TooManyFeatures { given });
        }
        check_budget(feature.len() as u128 * BYTES)?;
        dispatch(Top {
            activation,
            feature,
            d_sae,
        })
    }

    fn with_capacity(batch: usize, entries: usize) -> Self {
        let mut crow = Vec::with_capacity(batch + 1);
        crow.push(0);
        Self {
            crow,
            row: Vec::with_capacity(entries),
            col: Vec::with_capacity(entries),
            value: Vec::with_capacity(entries),
        }
    }

    /// Puts entries in the place of their ranks, as the last row.
    #[inline(always)]
    fn push_ranked(&mut self, ranked: &Ranked) {
        let start = self.col.len();
        let end = start + ranked.value.len();
        self.col.resize(end, 0);
        self.value.resize(end, 0.0);
        let (col, value) = (&mut self.col[start..], &mut self.value[start..]);
        for ((&feature, &act), &rank) in ranked.feature.iter().zip(&ranked.value).zip(&ranked.rank)
        {
            col[rank as usize] = i64::from(feature);
            value[rank as usize] = act;
        }
    }

    #[inline(always)]
    fn end_row(&mut self, row: usize) {
        self.row.resize(self.col.len(), row as i64);
        self.crow.push(self.col.len() as i64);
    }
}

struct Dense<'a>(Rows<'a>);

impl Kernel for Dense<'_> {
    type Answer = Entries;

    #[inline(always)]
    fn run(self) -> Entries {
        let mut entries = Entries::with_capacity(self.0.len(), 0);
        for row in 0..self.0.len() {
            let (blocks, rest) = self.0.row(row).as_chunks::<64>();
            let mut last = [0.0; 64];
            last[..rest.len()].copy_from_slice(rest);
            let last = (!rest.is_empty()).then_some(&last);
            for (first, block) in (0..).step_by(64).zip(blocks.iter().chain(last)) {
                let mut left = active(block);
                while left != 0 {
                    let at = left.trailing_zeros();
                    entries.col.push(first + i64::from(at));
                    entries.value.push(block[at as usize]);
                    left &= left - 1;
                }
            }
            entries.end_row(row);
        }
        entries
    }
}

struct Top<'a> {
    activation: Rows<'a>,
    feature: &'a [i64],
    d_sae: usize,
}

impl Kernel for Top<'_> {
    type Answer = Result<Entries, Error>;

    #[inline(always)]
    fn run(self) -> Self::Answer {
        let (batch, k) = (self.activation.len(), self.activation.width());
        let mut entries = Entries::with_capacity(batch, batch * k);
        let mut ranked = Ranked::default();
        for (row, feature) in self.feature.chunks_exact(k).enumerate() {
            ranked.clear();
            for (&act, &feature) in self.activation.row(row).iter().zip(feature) {
                match u64::try_from(feature) {
                    _ if act == 0.0 => {}
                    Ok(index) if index < self.d_sae as u64 => ranked.push(index as u32, act),
                    _ => {
                        return Err(Error::CodesFeature {
                            row,
                            feature,
                            least: 0,
                            d_sae: self.d_sae,
                        });
                    }
                }
            }
            ranked.rank();
            entries.push_ranked(&ranked);
            entries.end_row(row);
        }
        Ok(entries)
    }
}

/// So many features or fewer are ranked by comparing each with all.
const COMPARED: usize = 128;
const LANES: usize = 16;

/// The active features of a row, and the place of each in the order.
#[derive(Default)]
struct Ranked {
    feature: Vec<u32>,
    value: Vec<f32>,
    /// A whole number of `LANES`; behind the features there is nothing to look at.
    rank: Vec<u32>,
}

impl Ranked {
    fn clear(&mut self) {
        self.feature.clear();
        self.value.clear();
    }

    #[inline(always)]
    fn push(&mut self, feature: u32, value: f32) {
        self.feature.push(feature);
        self.value.push(value);
    }

    #[inline(always)]
    fn rank(&mut self) {
        let n = self.value.len();
        if n > COMPARED || !self.compare() {
            self.sort();
        }
        self.feature.truncate(n);
    }

    /// Counts the smaller ones of each, which takes no branch that depends on them; false where two are equal.
    #[inline(always)]
    fn compare(&mut self) -> bool {
        let n = self.feature.len();
        self.feature.resize(n.next_multiple_of(LANES), u32::MAX);
        self.rank.clear();
        for block in self.feature.as_chunks::<LANES>().0 {
            let mut smaller = [0; LANES];
            for &other in &self.feature[..n] {
                for (smaller, &feature) in smaller.iter_mut().zip(block) {
                    *smaller += u32::from(other < feature);
                }
            }
            self.rank.extend_from_slice(&smaller);
        }
        let total: u32 = self.rank[..n].iter().sum();
        total as usize == n * n.saturating_sub(1) / 2
    }

    fn sort(&mut self) {
        let n = self.value.len();
        let features = self.feature[..n].iter();
        let mut order: Vec<u64> = (0_u64..)
            .zip(features)
            .map(|(at, &feature)| u64::from(feature) << 32 | at)
            .collect();
        order.sort_unstable();
        self.rank.clear();
        self.rank.resize(n, 0);
        for (rank, key) in (0..).zip(order) {
            self.rank[key as u32 as usize] = rank;
        }
    }
}

/// A bit for each activation that is not 0.
#[inline(always)]
fn active(block: &[f32; 64]) -> u64 {
    let mut flags = [0_u8; 64];
    for (flag, act) in flags.iter_mut().zip(block) {
        *flag = u8::from(*act != 0.0);
    }
    let mut bits = 0;
    for (place, flags) in flags.as_chunks::<8>().0.iter().enumerate() {
        // The product moves the lowest bit of byte n to bit 56 + n.
        let gathered = u64::from_le_bytes(*flags).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        bits |= gathered << (8 * place);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Entries one by one.
    fn naive(acts: &[f32], d_sae: usize) -> Entries {
        let mut entries = Entries::with_capacity(0, 0);
        for (row, acts) in acts.chunks(d_sae).enumerate() {
            for (feature, &act) in acts.iter().enumerate() {
                if act != 0.0 {
                    entries.row.push(row as i64);
                    entries.col.push(feature as i64);
                    entries.value.push(act);
                }
            }
            entries.crow.push(entries.col.len() as i64);
        }
        entries
    }

    fn activation() -> impl Strategy<Value = f32> {
        prop_oneof![
            4 => Just(0.0_f32),
            1 => Just(-0.0),
            2 => -3.0_f32..3.0,
            1 => Just(f32::MIN_POSITIVE / 4.0),
            1 => Just(f32::INFINITY),
        ]
    }

    proptest! {
        #[test]
        fn dense_rows_give_every_entry(
            (d_sae, acts) in (1_usize..200).prop_flat_map(|d_sae| {
                let rows = (0_usize..5).prop_flat_map(move |n| prop::collection::vec(activation(), n * d_sae));
                (Just(d_sae), rows)
            })
        ) {
            let entries = Entries::of_dense(Rows::new(&acts, d_sae).expect("rows")).expect("entries");
            prop_assert_eq!(entries, naive(&acts, d_sae));
        }

        #[test]
        fn top_features_give_the_same_in_any_order(
            (k, rows) in (1_usize..=200).prop_flat_map(|k| {
                let row = (Just((0_i64..200).collect::<Vec<_>>()).prop_shuffle(), prop::collection::vec(activation(), k));
                (Just(k), prop::collection::vec(row, 0..5))
            })
        ) {
            let (mut value, mut feature, mut dense) = (vec![], vec![], vec![0.0; rows.len() * 200]);
            for (row, (order, acts)) in rows.iter().enumerate() {
                for (&index, &act) in order.iter().zip(acts) {
                    dense[row * 200 + index as usize] = act;
                    feature.push(index);
                    value.push(act);
                }
            }
            let top = Rows::new(&value, k).expect("rows");
            let entries = Entries::of_top(top, &feature, 200).expect("entries");
            prop_assert_eq!(entries, naive(&dense, 200));
        }
    }

    #[test]
    fn nan_is_an_entry() {
        let entries = Entries::of_dense(Rows::new(&[0.0, f32::NAN], 2).expect("rows"));
        assert_eq!(entries.expect("entries").col, [1]);
    }

    #[test]
    fn a_feature_that_comes_twice_stays_twice() {
        let top = Rows::new(&[1.0, 2.0, 3.0], 3).expect("rows");
        let entries = Entries::of_top(top, &[5, 2, 5], 9).expect("entries");
        assert_eq!(entries.col, [2, 5, 5]);
        assert_eq!(entries.value, [2.0, 1.0, 3.0]);
    }

    #[test]
    fn refuses_features_that_do_not_exist_where_they_are_active() {
        let top = |value, feature: &[i64]| {
            Entries::of_top(Rows::new(value, 2).expect("rows"), feature, 9).map(|it| it.col)
        };
        assert_eq!(top(&[1.0, 0.0], &[3, 99]), Ok(vec![3]));
        for feature in [-1, 9, 1 << 40] {
            let refused = Error::CodesFeature {
                row: 1,
                feature,
                least: 0,
                d_sae: 9,
            };
            assert_eq!(
                top(&[1.0, 2.0, 1.0, 2.0], &[0, 1, 2, feature]),
                Err(refused)
            );
        }
        let short = top(&[1.0, 2.0], &[0]);
        assert!(matches!(
            short,
            Err(Error::ColumnLength { expected: 2, .. })
        ));
        let one = Rows::new(&[1.0], 1).expect("rows");
        let many = Entries::of_top(one, &[0], (1 << 32) + 1);
        assert!(matches!(many, Err(Error::TooManyFeatures { .. })));
    }
}
