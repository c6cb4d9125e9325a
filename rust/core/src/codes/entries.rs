//! The entries of a batch, from the two layouts that encoders give: dense rows, or the top features of each row.
//!
//! One pass over what is given; beside the answer there is memory for one row. Every activation but 0 is an entry, also
//! a negative one and NaN. Refuses features that do not exist, and an answer that there is no memory for.

use crate::room::{check_room, is_large};
use crate::rows::{Work, wide};
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
    /// What is active in `acts`, `[batch, d_sae]`.
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
            check_room((0..acts.len()).map(active).sum::<usize>() as u128 * BYTES)?;
        }
        Ok(wide(Dense(acts)))
    }

    /// What is active of the top features of each row, given in any order: `activation` `[batch, k]` of `feature`
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
        check_room(feature.len() as u128 * BYTES)?;
        let mut entries = Self::with_capacity(batch, feature.len());
        let mut order = Vec::with_capacity(k);
        for row in 0..batch {
            let (activation, feature) = (activation.row(row), &feature[row * k..][..k]);
            order.clear();
            for (at, (&act, &feature)) in (0_u64..).zip(activation.iter().zip(feature)) {
                match u64::try_from(feature) {
                    _ if act == 0.0 => {}
                    Ok(index) if index < d_sae as u64 => order.push(index << 32 | at),
                    _ => {
                        return Err(Error::CodesFeature {
                            row,
                            feature,
                            least: 0,
                            d_sae,
                        });
                    }
                }
            }
            order.sort_unstable();
            for key in &order {
                entries.col.push((key >> 32) as i64);
                entries.value.push(activation[*key as u32 as usize]);
            }
            entries.end_row(row);
        }
        Ok(entries)
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

    #[inline(always)]
    fn end_row(&mut self, row: usize) {
        self.row.resize(self.col.len(), row as i64);
        self.crow.push(self.col.len() as i64);
    }
}

struct Dense<'a>(Rows<'a>);

impl Work for Dense<'_> {
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
            (k, rows) in (1_usize..40).prop_flat_map(|k| {
                let row = (Just((0_i64..70).collect::<Vec<_>>()).prop_shuffle(), prop::collection::vec(activation(), k));
                (Just(k), prop::collection::vec(row, 0..5))
            })
        ) {
            let (mut value, mut feature, mut dense) = (vec![], vec![], vec![0.0; rows.len() * 70]);
            for (row, (order, acts)) in rows.iter().enumerate() {
                for (&index, &act) in order.iter().zip(acts) {
                    dense[row * 70 + index as usize] = act;
                    feature.push(index);
                    value.push(act);
                }
            }
            let top = Rows::new(&value, k).expect("rows");
            let entries = Entries::of_top(top, &feature, 70).expect("entries");
            prop_assert_eq!(entries, naive(&dense, 70));
        }
    }

    #[test]
    fn nan_is_an_entry() {
        let entries = Entries::of_dense(Rows::new(&[0.0, f32::NAN], 2).expect("rows"));
        assert_eq!(entries.expect("entries").col, [1]);
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
