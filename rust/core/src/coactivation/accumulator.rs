//! Sums of one feature with all active features behind it, by rank: dense, with a list of those that were touched.
//!
//! The list is kept without a branch: a feature is noted whenever its sum is zero before a product is added. A sum that
//! comes back to zero is noted twice, and whoever takes sums finds zero the second time.

use crate::codes::Transposed;

#[derive(Clone, Debug, Default)]
pub(super) struct Accumulator {
    /// Zero between features.
    sums: Vec<f64>,
    touched: Vec<u32>,
    noted: usize,
}

impl Accumulator {
    /// A sum, and two notes of four bytes.
    pub(super) const BYTES_PER_FEATURE: u128 = 16;

    /// Forgets everything and makes space for so many features, of which a batch never has more than `most`.
    pub(super) fn reset(&mut self, features: usize, most: usize) {
        self.sums.truncate(most);
        self.sums.shrink_to(most);
        if self.sums.len() < features {
            self.sums.resize(features, 0.0);
        }
        self.noted = 0;
    }

    /// Adds up the products of a feature in the order of the rows.
    pub(super) fn add(&mut self, codes: &Transposed, rank: usize) {
        self.noted = 0;
        for &entry in codes.entries(rank) {
            let (value, others, values) = codes.row(entry);
            self.make_space(others.len());
            let notes = &mut self.touched[self.noted..][..others.len()];
            let mut noted = 0;
            for (&other, &partner) in others.iter().zip(values) {
                let sum = &mut self.sums[other as usize];
                notes[noted] = other;
                noted += usize::from(*sum == 0.0);
                *sum += value * partner;
            }
            self.noted += noted;
        }
    }

    /// The features touched, in no order, some of them perhaps twice; and the sums, which are to be set to zero.
    pub(super) fn touched(&mut self) -> (&[u32], &mut [f64]) {
        (&self.touched[..self.noted], &mut self.sums)
    }

    /// The features touched, rising; and the sums, which are to be set to zero.
    pub(super) fn sorted(&mut self) -> (&[u32], &mut [f64]) {
        self.sort();
        self.touched()
    }

    /// Sets every sum to zero, after an error.
    pub(super) fn clear(&mut self) {
        self.sums.fill(0.0);
        self.noted = 0;
    }

    pub(super) fn bytes(&self) -> usize {
        self.sums.capacity() * size_of::<f64>() + self.touched.capacity() * size_of::<u32>()
    }

    /// At most two notes a feature, and the longest row: what was noted twice is struck out before the list grows.
    fn make_space(&mut self, more: usize) {
        if self.noted + more > self.touched.len() {
            self.sort();
            let larger = (self.noted + more).max(self.noted * 2);
            if larger > self.touched.len() {
                self.touched.resize(larger, 0);
            }
        }
    }

    fn sort(&mut self) {
        let notes = &mut self.touched[..self.noted];
        notes.sort_unstable();
        let mut kept = 0;
        for at in 0..notes.len() {
            notes[kept] = notes[at];
            kept += usize::from(at + 1 == notes.len() || notes[at] != notes[at + 1]);
        }
        self.noted = kept;
    }
}
