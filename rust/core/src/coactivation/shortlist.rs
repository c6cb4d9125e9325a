//! Candidates not below a threshold, until the best of them are taken.
//!
//! Rows of sums come in, and those that reach the threshold are written behind what is held, without a branch: which sums
//! pass is hard to predict. There is always space for a whole row more, so nothing is checked per sum but that it can be
//! ranked. Above `2k + 16384` candidates, the best `k` are kept and the threshold rises to the worst of them.

use crate::ranking::{Candidate, best_of};
use crate::score::INFINITY;

/// Candidates beyond `2k` before the best `k` are looked for.
const SPARE: usize = 16_384;

#[derive(Clone, Debug)]
pub(super) struct Shortlist<C> {
    k: usize,
    threshold: u32,
    /// The largest score held, or more.
    largest: u32,
    held: usize,
    /// Initialised beyond what is held.
    candidates: Vec<C>,
}

impl<C: Candidate> Shortlist<C> {
    /// Nothing is held yet; there is space for so many candidates.
    pub(super) fn above(k: usize, threshold: u32, space: usize) -> Self {
        Self {
            k,
            threshold,
            largest: threshold,
            held: 0,
            candidates: vec![C::default(); space],
        }
    }

    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Below this, a score is of no use.
    pub(super) const fn threshold(&self) -> f32 {
        f32::from_bits(self.threshold)
    }

    /// Takes the sums of a rank with others behind it and sets them to zero; how many scores were positive, or `None`
    /// if one cannot be ranked.
    pub(super) fn take(&mut self, rank: u32, others: &[u32], sums: &mut [f64]) -> Option<u64> {
        self.make_space(others.len());
        let threshold = self.threshold as i32;
        let space = &mut self.candidates[self.held..][..others.len()];
        let (mut passed, mut positive, mut largest) = (0, 0, self.largest);
        for &other in others {
            let score = (std::mem::take(&mut sums[other as usize]) as f32).to_bits();
            largest = largest.max(score);
            positive += u64::from(score as i32 > 0);
            space[passed] = C::new(score, [rank, other]);
            passed += usize::from(score as i32 >= threshold);
        }
        self.held += passed;
        // What cannot be ranked has larger bits than what can.
        self.largest = largest.min(INFINITY - 1);
        (largest < INFINITY).then_some(positive)
    }

    /// Takes one candidate, its score as bits.
    pub(super) fn take_one(&mut self, score: u32, indices: [u32; 2]) {
        self.make_space(1); // first: it may raise the threshold
        if score as i32 >= self.threshold as i32 {
            self.largest = self.largest.max(score);
            self.candidates[self.held] = C::new(score, indices);
            self.held += 1;
        }
    }

    /// Takes what another shortlist of the same `k` holds.
    pub(super) fn absorb(&mut self, other: &Self) {
        self.candidates.truncate(self.held);
        self.candidates.extend(&other.candidates[..other.held]);
        self.held += other.held;
        self.largest = self.largest.max(other.largest);
        self.threshold = self.threshold.min(other.threshold);
        self.make_space(0);
    }

    /// The best first.
    pub(super) fn best(&mut self) -> &[C] {
        let held = &mut self.candidates[..self.held];
        best_of(held, self.k, self.threshold..=self.largest)
    }

    fn make_space(&mut self, more: usize) {
        if self.held > self.k.saturating_add(self.k.max(SPARE)) {
            self.held = self.best().len();
            self.threshold = self.candidates[self.held - 1].score();
        }
        if self.held + more > self.candidates.len() {
            let larger = (self.held + more).max(self.candidates.len() * 2);
            self.candidates.resize(larger, C::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kept by the old threshold, it was below the scores that the sort is given, and took the place of another one.
    #[test]
    fn a_candidate_that_makes_the_shortlist_full_is_judged_by_the_new_threshold() {
        let k = 300;
        let many = (k + SPARE) as u32 + 1;
        let mut shortlist = Shortlist::<u64>::above(k, 1, 0);
        for n in 0..many {
            shortlist.take_one(1000 + n, [n >> 8, 300 + n % 256]);
        }
        shortlist.take_one(1, [7, 9]);
        let best: Vec<u32> = shortlist.best().iter().map(|c| c.score()).collect();
        let expected: Vec<u32> = (0..k as u32).map(|n| 999 + many - n).collect();
        assert_eq!(best, expected);
    }
}
