//! A batch of sparse codes: CSR as it comes, checked, and its transpose.
//!
//! The transpose knows the features that are active in the batch by rank, in the order of the features, and everything
//! it holds is by rank: what is done for each feature is done for those alone. It is a counting sort, two passes over
//! the entries, one over the active features, and one over a bit per feature.
//! It takes 20 bytes per entry, 8 per active feature, and 4 per feature of which only the active ones are touched; it
//! keeps its buffers from batch to batch.
//! Refuses rows that do not cover the entries, and features that do not rise within a row or are not below `d_sae`.

use crate::Error;
use std::ops::Range;

/// A feature index in the width that the caller has.
pub trait Feature: Copy {
    /// The index; `None` if it does not fit.
    fn index(self) -> Option<u32>;
    /// The index as it was given.
    fn given(self) -> i64;
}

impl Feature for u32 {
    fn index(self) -> Option<u32> {
        Some(self)
    }
    fn given(self) -> i64 {
        i64::from(self)
    }
}

impl Feature for i64 {
    fn index(self) -> Option<u32> {
        u32::try_from(self).ok()
    }
    fn given(self) -> i64 {
        self
    }
}

/// Active entries of a batch, row by row.
///
/// ```
/// use topk_ortho_core::Codes;
/// let codes = Codes { crow: &[0, 2, 3], col: &[1_u32, 4, 0], value: &[0.5_f32, 2.0, 1.0], d_sae: 5 };
/// assert!(codes.check().is_ok());
/// assert!(Codes { d_sae: 4, ..codes }.check().is_err());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Codes<'a, C, V> {
    /// `[batch + 1]` where each row starts; the last entry is the number of entries.
    pub crow: &'a [i64],
    /// `[nnz]` the feature of each entry, rising within a row.
    pub col: &'a [C],
    /// `[nnz]` the value of each entry.
    pub value: &'a [V],
    /// Number of features.
    pub d_sae: usize,
}

impl<C: Feature, V: Copy + Into<f64>> Codes<'_, C, V> {
    /// Whether this is a batch of codes.
    ///
    /// # Errors
    /// [`Error::CodesShape`], [`Error::CodesRow`], [`Error::CodesFeature`] or [`Error::TooManyFeatures`].
    pub fn check(&self) -> Result<(), Error> {
        if self.d_sae > 1 << 32 {
            return Err(Error::TooManyFeatures { given: self.d_sae });
        }
        let nnz = self.col.len();
        let ends = [self.crow.first(), self.crow.last()];
        let covered = ends == [Some(&0), Some(&(nnz as i64))];
        if !covered || self.value.len() != nnz || nnz > u32::MAX as usize {
            return Err(Error::CodesShape {
                crow: self.crow.len(),
                last: self.crow.last().copied().unwrap_or(0),
                col: nnz,
                value: self.value.len(),
            });
        }
        for (row, ends) in self.crow.windows(2).enumerate() {
            let (start, end) = (ends[0], ends[1]);
            if !(0..=end).contains(&start) || end > nnz as i64 {
                return Err(Error::CodesRow { row, start, end });
            }
            self.check_row(row, &self.col[start as usize..end as usize])?;
        }
        Ok(())
    }

    fn check_row(&self, row: usize, features: &[C]) -> Result<(), Error> {
        let mut least = 0;
        for feature in features {
            match feature.index().map(u64::from) {
                Some(index) if least <= index && index < self.d_sae as u64 => least = index + 1,
                _ => {
                    return Err(Error::CodesFeature {
                        row,
                        feature: feature.given(),
                        least,
                        d_sae: self.d_sae,
                    });
                }
            }
        }
        Ok(())
    }
}

/// One entry as its feature sees it: its place, and where its row ends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) at: u32,
    pub(crate) end: u32,
}

/// Entries by rank of their feature, in the order of the rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transposed {
    d_sae: usize,
    /// `[active]` rising.
    features: Vec<u32>,
    first: Vec<u32>,
    entries: Vec<Entry>,
    /// The rank of each entry's feature.
    col: Vec<u32>,
    value: Vec<f64>,
    /// A bit per feature.
    seen: Vec<u64>,
    /// `[d_sae]` what is left from other batches where a feature is not active.
    rank: Vec<u32>,
}

impl Transposed {
    /// Takes a batch in the place of the one before.
    #[inline(never)]
    pub(crate) fn fill<C: Feature, V: Copy + Into<f64>>(
        &mut self,
        codes: &Codes<'_, C, V>,
    ) -> Result<(), Error> {
        codes.check()?;
        self.col.clear();
        self.col
            .extend(codes.col.iter().map(|c| c.index().unwrap_or(u32::MAX)));
        self.value.clear();
        self.value.extend(codes.value.iter().map(|&v| v.into()));
        self.rank(codes.d_sae);
        self.count();
        self.entries.clear();
        self.entries.resize(self.col.len(), Entry::default());
        for row in codes.crow.windows(2).rev() {
            for at in (row[0] as usize..row[1] as usize).rev() {
                let place = &mut self.first[self.col[at] as usize];
                *place -= 1;
                self.entries[*place as usize] = Entry {
                    at: at as u32,
                    end: row[1] as u32,
                };
            }
        }
        Ok(())
    }

    /// Lists the features of the entries and puts their ranks in the place of the entries' features.
    fn rank(&mut self, d_sae: usize) {
        if self.d_sae != d_sae {
            self.d_sae = d_sae;
            self.rank = vec![0; d_sae];
            self.seen = vec![0; d_sae.div_ceil(64)];
        }
        for &feature in &self.col {
            self.seen[feature as usize / 64] |= 1 << (feature % 64);
        }
        self.features.clear();
        for (first, word) in (0..).step_by(64).zip(&mut self.seen) {
            let mut left = std::mem::take(word);
            while left != 0 {
                let feature = first + left.trailing_zeros();
                self.rank[feature as usize] = self.features.len() as u32;
                self.features.push(feature);
                left &= left - 1;
            }
        }
        for feature in &mut self.col {
            *feature = self.rank[*feature as usize];
        }
    }

    /// Ends of the entries of each rank.
    fn count(&mut self) {
        self.first.clear();
        self.first.resize(self.features.len() + 1, 0);
        for &rank in &self.col {
            self.first[rank as usize] += 1;
        }
        let mut end = 0;
        for first in &mut self.first {
            end += *first;
            *first = end;
        }
    }

    /// The features that are active, rising.
    pub(crate) fn features(&self) -> &[u32] {
        &self.features
    }

    /// The ranks of the active ones among some features.
    pub(crate) fn ranks(&self, features: &Range<usize>) -> Range<usize> {
        let below = |end| self.features.partition_point(|&f| (f as usize) < end);
        below(features.start)..below(features.end)
    }

    pub(crate) fn entries(&self, rank: usize) -> &[Entry] {
        &self.entries[self.first[rank] as usize..self.first[rank + 1] as usize]
    }

    /// The value of an entry, and the ranks and values behind it in its row.
    pub(crate) fn row(&self, entry: Entry) -> (f64, &[u32], &[f64]) {
        let (at, end) = (entry.at as usize, entry.end as usize);
        (
            self.value[at],
            &self.col[at + 1..end],
            &self.value[at + 1..end],
        )
    }

    /// Products that a feature has with the features behind it.
    pub(crate) fn products(&self, rank: usize) -> u64 {
        let behind = |entry: &Entry| u64::from(entry.end - entry.at - 1);
        self.entries(rank).iter().map(behind).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        let features = self.features.capacity() + self.first.capacity() + self.rank.capacity();
        features * size_of::<u32>()
            + self.seen.capacity() * size_of::<u64>()
            + self.entries.capacity() * size_of::<Entry>()
            + self.col.capacity() * size_of::<u32>()
            + self.value.capacity() * size_of::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_the_order_of_the_rows() {
        let mut transposed = Transposed::default();
        let codes = Codes {
            crow: &[0, 2, 2, 5],
            col: &[0_i64, 9, 0, 4, 9],
            value: &[1.0_f32, 2.0, 3.0, 4.0, 5.0],
            d_sae: 70,
        };
        transposed.fill(&codes).expect("codes");
        let places = |rank| -> Vec<u32> {
            transposed
                .entries(rank)
                .iter()
                .map(|entry| entry.at)
                .collect()
        };
        assert_eq!(transposed.features(), [0, 4, 9]);
        assert_eq!(
            [places(0), places(1), places(2)],
            [vec![0, 2], vec![3], vec![1, 4]]
        );
        let products: Vec<u64> = (0..3).map(|rank| transposed.products(rank)).collect();
        assert_eq!(products, [3, 1, 0]);
        assert_eq!(transposed.ranks(&(1..9)), 1..2);
        assert_eq!(transposed.ranks(&(0..10)), 0..3);
        assert_eq!(
            transposed.row(transposed.entries(0)[1]),
            (3.0, &[1, 2][..], &[4.0, 5.0][..])
        );
    }

    #[test]
    fn refuses_what_is_no_batch() {
        let good = Codes {
            crow: &[0, 2],
            col: &[0_i64, 2],
            value: &[1.0_f32, 1.0],
            d_sae: 3,
        };
        assert_eq!(good.check(), Ok(()));
        for crow in [&[][..], &[0], &[1, 2], &[0, 3], &[0, 1]] {
            let shape = Codes { crow, ..good }.check();
            assert!(matches!(shape, Err(Error::CodesShape { .. })), "{crow:?}");
        }
        for crow in [&[0, -1, 2][..], &[0, 5, 2], &[0, 2, 1, 2]] {
            let row = Codes { crow, ..good }.check();
            assert!(matches!(row, Err(Error::CodesRow { .. })), "{crow:?}");
        }
        for col in [[0, 0], [1, 0], [-1, 0], [0, 3], [0, 1 << 40]] {
            let feature = Codes { col: &col, ..good }.check();
            assert!(
                matches!(feature, Err(Error::CodesFeature { row: 0, .. })),
                "{col:?}"
            );
        }
    }
}
