//! Candidates not below a bar that only rises, in columns so that cutting back to `k` touches little but the scores.
//!
//! No branch depends on a single score: which candidates pass is hard to predict, and a wrong guess costs more than a
//! comparison.

use super::{LANE, SMALLEST_POSITIVE, Selection, at_least, wrong};
use crate::Pair;
use crate::order::best_first;

/// Candidates between two looks at how full the buffer is.
const BLOCK: usize = 1024;

/// Candidates beyond `k` that a small buffer takes before it is cut back: counting bins costs as much.
const ROOM: usize = 16_384;

/// Scores drawn from a large block to guess its k-th best, and up to eight times as many.
const SAMPLE: usize = 4096;

/// Leading bits of a score that choose its bin: the exponent and four bits more.
const BINS: usize = 1 << 12;
const BIN_SHIFT: u32 = 31 - BINS.ilog2();

#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    k: usize,
    /// At least `k` candidates seen so far score this or more, once it is above the smallest positive score.
    bar: u32,
    /// Whether `bar` is the k-th best of exactly what is held.
    settled: bool,
    /// Whether a score that cannot be ranked was met since this was last set to false.
    pub(super) suspicious: bool,
    scores: Vec<u32>,
    pairs: Vec<Pair>,
}

impl Buffer {
    pub(crate) const fn new(k: usize) -> Self {
        Self {
            k,
            bar: SMALLEST_POSITIVE,
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
    pub(crate) const fn bar(&self) -> f32 {
        f32::from_bits(self.bar)
    }

    /// A block with many times `k` candidates is gathered above a guessed bar. The guess is right if `k` candidates
    /// pass it, and else the block is gathered again without.
    pub(super) fn admit(&mut self, scores: &[f32], pair_at: &impl Fn(usize) -> Pair) {
        if let Some(guess) = self.guess(scores) {
            self.settle();
            let (held, bar, settled) = (self.len(), self.bar, self.settled);
            self.bar = guess;
            if self.gather(scores, pair_at) >= self.k {
                return;
            }
            self.scores.truncate(held);
            self.pairs.truncate(held);
            (self.bar, self.settled) = (bar, settled);
        }
        self.gather(scores, pair_at);
    }

    pub(crate) fn threshold(&mut self) -> Option<f32> {
        if self.len() < self.k {
            return None;
        }
        self.settle();
        Some(f32::from_bits(self.bar))
    }

    /// The best first.
    pub(crate) fn finish(mut self) -> Selection {
        self.settle();
        best_first(&self.scores, &self.pairs)
    }

    /// A bar above the present one that about `k` candidates and some to spare should pass.
    fn guess(&self, scores: &[f32]) -> Option<u32> {
        if scores.len() / 8 < self.k.max(SAMPLE) {
            return None;
        }
        let stride = scores.len() / (scores.len() / 256).clamp(SAMPLE, 8 * SAMPLE);
        let mut sample: Vec<i32> = scores
            .iter()
            .step_by(stride)
            .map(|score| score.to_bits() as i32)
            .collect();
        let expected = self.k as f64 / stride as f64;
        let place = (expected + 4.0 * expected.sqrt() + 4.0) as usize;
        let guess = *sample.select_nth_unstable_by(place, |a, b| b.cmp(a)).1;
        u32::try_from(guess).ok().filter(|&guess| guess > self.bar)
    }

    /// Takes the candidates at the bar or above; tells how many they were.
    fn gather(&mut self, scores: &[f32], pair_at: &impl Fn(usize) -> Pair) -> usize {
        let (lanes, tail) = scores.as_chunks();
        let mut gathered = 0;
        for (start, block) in (0..).step_by(BLOCK).zip(lanes.chunks(BLOCK / LANE)) {
            gathered += self.gather_block(block, |at| pair_at(start + at));
        }
        let mut last = [0.0; LANE];
        last[..tail.len()].copy_from_slice(tail);
        gathered + self.gather_block(&[last], |at| pair_at(lanes.len() * LANE + at))
    }

    fn gather_block(&mut self, block: &[[f32; LANE]], pair_at: impl Fn(usize) -> Pair) -> usize {
        let bar = self.bar;
        let (mut reached, mut reaching) = (0, [0_u16; BLOCK / LANE]);
        for (place, lane) in (0..).zip(block) {
            reaching[reached] = place;
            reached += usize::from(reaches_or_wrong(lane, bar));
        }
        let (mut passed, mut passing) = (0, [0_u16; BLOCK]);
        for &place in &reaching[..reached] {
            let first = place * LANE as u16;
            for (at, score) in block[usize::from(place)].iter().enumerate() {
                passing[passed] = first + at as u16;
                passed += usize::from(at_least(*score, bar));
                self.suspicious |= wrong(*score);
            }
        }
        let scores = block.as_flattened();
        let places = passing[..passed].iter().map(|&at| usize::from(at));
        self.scores
            .extend(places.clone().map(|at| scores[at].to_bits()));
        self.pairs.extend(places.map(pair_at));
        self.settled &= passed == 0;
        self.make_room();
        passed
    }

    fn make_room(&mut self) {
        if self.len() > self.k.saturating_add(self.k.max(ROOM)) {
            self.settle();
        }
    }

    /// Cuts back to the `k` best and raises the bar to the worst of them.
    fn settle(&mut self) {
        if self.settled || self.len() < self.k {
            return;
        }
        let (bar, above) = self.kth_best();
        let at_bar = self
            .scores
            .iter()
            .zip(&self.pairs)
            .filter(|&(&score, _)| score == bar);
        let mut tied: Vec<Pair> = at_bar.map(|(_, &pair)| pair).collect();
        let room = self.k - above;
        tied.select_nth_unstable(room - 1);
        let mut kept = 0;
        for at in 0..self.len() {
            let (score, pair) = (self.scores[at], self.pairs[at]);
            (self.scores[kept], self.pairs[kept]) = (score, pair);
            kept += usize::from(score > bar);
        }
        self.scores.truncate(kept);
        self.pairs.truncate(kept);
        self.scores.resize(kept + room, bar);
        self.pairs.extend(&tied[..room]);
        (self.bar, self.settled) = (bar, true);
    }

    /// The k-th best score held, and how many are above it.
    fn kth_best(&self) -> (u32, usize) {
        let bin = |score: u32| (score >> BIN_SHIFT) as usize;
        let mut counts = [0_usize; BINS];
        for &score in &self.scores {
            counts[bin(score)] += 1;
        }
        let (mut above, mut last) = (0, BINS - 1);
        while above + counts[last] < self.k {
            above += counts[last];
            last -= 1;
        }
        let mut rest: Vec<u32> = self
            .scores
            .iter()
            .copied()
            .filter(|&score| bin(score) == last)
            .collect();
        let (better, &mut bar, _) =
            rest.select_nth_unstable_by(self.k - above - 1, |a, b| b.cmp(a));
        (
            bar,
            above + better.iter().filter(|&&score| score > bar).count(),
        )
    }
}

/// Compared as unsigned integers: the bits of what cannot be ranked are above every bar.
fn reaches_or_wrong(lane: &[f32; LANE], bar: u32) -> bool {
    lane.iter()
        .fold(false, |any, &score| any | (score.to_bits() >= bar))
}
