//! Candidates not below a threshold that only rises, in columns so that cutting back to `k` touches little but the scores.
//!
//! No branch depends on a single score: which candidates pass is hard to predict, and a wrong guess costs more than a
//! comparison.

use super::scan::{BLOCK, LANE, Scan};
use crate::Pair;
use crate::ranking::best_first;
use crate::score::SMALLEST_POSITIVE;
use crate::selection::Selection;
use crate::simd::dispatch;

/// Candidates between two looks at whether a guessed threshold lets too many pass.
const PART: usize = 16 * BLOCK;

/// Candidates beyond `k` that a small buffer takes before it is cut back: counting bins costs as much.
const SPARE: usize = 16_384;

/// Scores drawn from a large block to guess its k-th best, and up to eight times as many.
const SAMPLE: usize = 4096;

/// Parts of the range of the scores held, to find the k-th in.
const BINS: usize = 1 << 12;

#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    k: usize,
    /// At least `k` candidates seen so far score this or more, once it is above the smallest positive score.
    threshold: u32,
    /// Whether `threshold` is the k-th best of exactly what is held.
    settled: bool,
    /// Whether a score that cannot be ranked was met since this was last set to false.
    pub(super) suspicious: bool,
    scores: Vec<u32>,
    pairs: Vec<Pair>,
}

impl Buffer {
    pub(crate) const fn new(k: usize) -> Self {
        Self::above(k, SMALLEST_POSITIVE)
    }

    /// With a threshold that is only a guess.
    const fn above(k: usize, threshold: u32) -> Self {
        Self {
            k,
            threshold,
            settled: false,
            suspicious: false,
            scores: Vec::new(),
            pairs: Vec::new(),
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.scores.len()
    }

    /// Below this, a score is of no use.
    pub(crate) const fn threshold_bits(&self) -> u32 {
        self.threshold
    }

    /// A block with many times `k` candidates is gathered above a guessed threshold, and without one if that was no good.
    pub(super) fn admit(&mut self, scores: &[f32], pair_at: &impl Fn(usize) -> Pair) {
        let admitted = self.guess(scores).is_some_and(|guess| {
            self.settle();
            self.admit_above(guess.max(self.threshold), scores, pair_at)
        });
        if !admitted {
            self.gather(scores, pair_at);
        }
    }

    /// Asks for pairs only where the score is among the `k` best of all: they lie scattered, a cache line or two each.
    /// Takes nothing if too many candidates pass the threshold, or too few for one that was raised; tells whether it did.
    fn admit_above(
        &mut self,
        threshold: u32,
        scores: &[f32],
        pair_at: &impl Fn(usize) -> Pair,
    ) -> bool {
        let most = self.k.saturating_add(self.k.max(SPARE));
        let mut new = Self::above(usize::MAX, threshold);
        for (start, part) in (0..).step_by(PART).zip(scores.chunks(PART)) {
            new.gather(part, &|at| Pair::of_distinct((start + at) as u32, u32::MAX));
            if new.len() > most {
                return false;
            }
        }
        if threshold > self.threshold && new.len() < self.k {
            return false;
        }
        let held = self.len();
        self.scores.extend(&new.scores);
        if self.len() >= self.k {
            self.threshold = self.kth_best().0;
        }
        self.scores.truncate(held);
        let (mut kept, mut keeping) = (0, vec![0; new.len()]);
        for (at, &score) in (0_u32..).zip(&new.scores) {
            keeping[kept] = at;
            kept += usize::from(score >= self.threshold);
        }
        let keeping = keeping[..kept].iter().map(|&at| at as usize);
        self.scores.extend(keeping.clone().map(|at| new.scores[at]));
        self.pairs
            .extend(keeping.map(|at| pair_at(new.pairs[at].i() as usize)));
        self.settled &= kept == 0;
        self.suspicious |= new.suspicious;
        true
    }

    pub(crate) fn threshold(&mut self) -> Option<f32> {
        if self.len() < self.k {
            return None;
        }
        self.settle();
        Some(f32::from_bits(self.threshold))
    }

    /// The best first.
    pub(crate) fn finish(mut self) -> Selection {
        self.settle();
        best_first(&self.scores, &self.pairs)
    }

    /// A threshold that about `k` candidates and some to spare should pass, or fewer if it is below the present one.
    fn guess(&self, scores: &[f32]) -> Option<u32> {
        if scores.len() / 8 < self.k.max(SAMPLE) || u32::try_from(scores.len()).is_err() {
            return None;
        }
        let stride = scores.len() / (scores.len() / 256).clamp(SAMPLE, 8 * SAMPLE);
        let mut sample: Vec<i32> = scores
            .iter()
            .step_by(stride)
            .map(|score| score.to_bits() as i32)
            .collect();
        let expected = self.k as f64 / stride as f64;
        let place = (expected + 3.0 * expected.sqrt() + 4.0) as usize;
        let above = sample
            .iter()
            .filter(|&&score| score > self.threshold as i32);
        if above.count() <= place && self.threshold > SMALLEST_POSITIVE {
            return Some(self.threshold);
        }
        let guess = *sample.select_nth_unstable_by(place, |a, b| b.cmp(a)).1;
        u32::try_from(guess).ok()
    }

    /// Takes the candidates at the threshold or above; tells how many they were.
    fn gather(&mut self, scores: &[f32], pair_at: &impl Fn(usize) -> Pair) -> usize {
        let (lanes, tail) = scores.as_chunks();
        let mut passing = vec![0; BLOCK.min(scores.len().next_multiple_of(LANE))];
        let mut gathered = 0;
        for (start, block) in (0..).step_by(BLOCK).zip(lanes.chunks(BLOCK / LANE)) {
            gathered += self.gather_block(block, &mut passing, |at| pair_at(start + at));
        }
        let mut last = [0.0; LANE];
        last[..tail.len()].copy_from_slice(tail);
        let behind = lanes.len() * LANE;
        gathered + self.gather_block(&[last], &mut passing, |at| pair_at(behind + at))
    }

    fn gather_block(
        &mut self,
        block: &[[f32; LANE]],
        passing: &mut [u16],
        pair_at: impl Fn(usize) -> Pair,
    ) -> usize {
        let (passed, suspicious) = dispatch(Scan {
            block,
            threshold: self.threshold,
            passing,
        });
        let scores = block.as_flattened();
        let places = passing[..passed].iter().map(|&at| usize::from(at));
        self.scores
            .extend(places.clone().map(|at| scores[at].to_bits()));
        self.pairs.extend(places.map(pair_at));
        self.settled &= passed == 0;
        self.suspicious |= suspicious;
        self.cut_back();
        passed
    }

    fn cut_back(&mut self) {
        if self.len() > self.k.saturating_add(self.k.max(SPARE)) {
            self.settle();
        }
    }

    /// Cuts back to the `k` best and raises the threshold to the worst of them.
    fn settle(&mut self) {
        if self.settled || self.len() < self.k {
            return;
        }
        let (threshold, above) = self.kth_best();
        let at_threshold = self
            .scores
            .iter()
            .zip(&self.pairs)
            .filter(|&(&score, _)| score == threshold);
        let mut tied: Vec<Pair> = at_threshold.map(|(_, &pair)| pair).collect();
        let wanted = self.k - above;
        tied.select_nth_unstable(wanted - 1);
        let mut kept = 0;
        for at in 0..self.len() {
            let (score, pair) = (self.scores[at], self.pairs[at]);
            (self.scores[kept], self.pairs[kept]) = (score, pair);
            kept += usize::from(score > threshold);
        }
        self.scores.truncate(kept);
        self.pairs.truncate(kept);
        self.scores.resize(kept + wanted, threshold);
        self.pairs.extend(&tied[..wanted]);
        (self.threshold, self.settled) = (threshold, true);
    }

    /// The k-th best score held, and how many are above it.
    fn kth_best(&self) -> (u32, usize) {
        let (lowest, highest) = (self.scores.iter()).fold((u32::MAX, 0), |(low, high), &score| {
            (low.min(score), high.max(score))
        });
        let shift = (u32::BITS - (highest - lowest).leading_zeros()).saturating_sub(BINS.ilog2());
        let bin = |score: u32| ((score - lowest) >> shift) as usize;
        let mut counts = [0_u32; BINS];
        for &score in &self.scores {
            counts[bin(score)] += 1;
        }
        let (mut above, mut last) = (0, BINS - 1);
        while above + (counts[last] as usize) < self.k {
            above += counts[last] as usize;
            last -= 1;
        }
        let inside = self.scores.iter().copied();
        let mut rest: Vec<u32> = inside.filter(|&score| bin(score) == last).collect();
        let (better, &mut threshold, _) =
            rest.select_nth_unstable_by(self.k - above - 1, |a, b| b.cmp(a));
        let better = better.iter().filter(|&&score| score > threshold).count();
        (threshold, above + better)
    }
}
