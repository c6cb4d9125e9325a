//! The entries of a batch by feature.
//!
//! The transpose knows the features that are active in the batch by rank, in the order of the features or of their
//! numbers of entries, and everything it holds is by rank: what is done for each feature is done for those alone. It is
//! a counting sort, two passes over the entries, one over the active features, and one over a bit per feature.
//! It takes 20 bytes per entry, 8 per active feature, and 4 per feature of which only the active ones are touched; it
//! keeps its buffers from batch to batch. Refuses what is no batch.

use super::csr::{Codes, Feature, Pattern};
use crate::Error;
use crate::budget::check_budget;
use std::ops::Range;

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
    /// `[active]` by rank.
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
    pub(crate) fn fill<C: Feature, V: Copy + Into<f64>>(
        &mut self,
        codes: &Codes<'_, C, V>,
    ) -> Result<(), Error> {
        codes.check()?;
        self.take(&codes.pattern())?;
        self.value.clear();
        self.value.extend(codes.value.iter().map(|&v| v.into()));
        self.place(codes.crow);
        Ok(())
    }

    /// Takes a batch without its values: [`Transposed::row`] is not to be asked.
    pub(crate) fn fill_pattern<C: Feature>(
        &mut self,
        pattern: &Pattern<'_, C>,
    ) -> Result<(), Error> {
        pattern.check()?;
        self.take(pattern)?;
        self.value.clear();
        self.place(pattern.crow);
        Ok(())
    }

    /// Takes a batch with ranks by rarity, the feature with the fewest entries first, and ones in the place of the values.
    pub(crate) fn fill_by_rarity<C: Feature, V: Copy + Into<f64>>(
        &mut self,
        codes: &Codes<'_, C, V>,
    ) -> Result<(), Error> {
        codes.check()?;
        self.take(&codes.pattern())?;
        self.reorder(codes.crow);
        self.value.clear();
        self.value.resize(self.col.len(), 1.0);
        self.place(codes.crow);
        Ok(())
    }

    /// Takes the features of the entries, by rank.
    fn take<C: Feature>(&mut self, pattern: &Pattern<'_, C>) -> Result<(), Error> {
        self.col.clear();
        self.col
            .extend(pattern.col.iter().map(|c| c.index().unwrap_or(u32::MAX)));
        self.rank(pattern.d_sae)
    }

    /// Ranks by number of entries in the place of ranks by feature.
    fn reorder(&mut self, crow: &[i64]) {
        self.count();
        let count = |rank: u32| match rank as usize {
            0 => self.first[0],
            rank => self.first[rank] - self.first[rank - 1],
        };
        let mut order: Vec<u32> = (0..self.features.len() as u32).collect();
        order.sort_by_cached_key(|&rank| (count(rank), rank));
        let mut place = vec![0; order.len()];
        for (new, &rank) in (0..).zip(&order) {
            place[rank as usize] = new;
        }
        self.features = order
            .iter()
            .map(|&rank| self.features[rank as usize])
            .collect();
        for rank in &mut self.col {
            *rank = place[*rank as usize];
        }
        for row in crow.windows(2) {
            self.col[row[0] as usize..row[1] as usize].sort_unstable();
        }
    }

    /// Sorts the entries by rank.
    fn place(&mut self, crow: &[i64]) {
        self.count();
        self.entries.clear();
        self.entries.resize(self.col.len(), Entry::default());
        for row in crow.windows(2).rev() {
            for at in (row[0] as usize..row[1] as usize).rev() {
                let place = &mut self.first[self.col[at] as usize];
                *place -= 1;
                self.entries[*place as usize] = Entry {
                    at: at as u32,
                    end: row[1] as u32,
                };
            }
        }
    }

    /// Lists the features of the entries and puts their ranks in the place of the entries' features.
    fn rank(&mut self, d_sae: usize) -> Result<(), Error> {
        if self.d_sae != d_sae {
            check_budget(d_sae as u128 * (4 + 1))?;
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
        Ok(())
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

    /// The features that are active, by rank.
    pub(crate) fn features(&self) -> &[u32] {
        &self.features
    }

    /// The ranks of the active ones among some features, where ranks are by feature.
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

    /// The most pairs that some ranks can have with the ranks behind them.
    pub(crate) fn most_pairs(&self, ranks: Range<usize>) -> u128 {
        let behind = |rank: usize| (self.features.len() - rank - 1) as u64;
        ranks
            .map(|rank| u128::from(self.products(rank).min(behind(rank))))
            .sum()
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
    fn ranks_by_rarity_rise_with_the_number_of_entries() {
        let mut transposed = Transposed::default();
        let codes = Codes {
            crow: &[0, 2, 4, 7],
            col: &[0_i64, 2, 0, 4, 0, 2, 9],
            value: &[0.0_f32; 7],
            d_sae: 10,
        };
        transposed.fill_by_rarity(&codes).expect("codes");
        assert_eq!(transposed.features(), [4, 9, 2, 0]);
        let row = transposed.row(transposed.entries(1)[0]);
        assert_eq!(row, (1.0, &[2, 3][..], &[1.0; 2][..]));
        let products: Vec<u64> = (0..4).map(|rank| transposed.products(rank)).collect();
        assert_eq!(products, [1, 2, 2, 0]);
    }
}
