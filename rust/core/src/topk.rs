//! Exact streaming top-k of scored pairs.
//!
//! The `k` largest scores, ties to the smaller pair, whatever the order and the blocking of the candidates.
//! Costs one pass over the candidates. Up to [`HEAP_LIMIT`] pairs are held in a heap; above that, candidates below the
//! k-th best score so far are discarded a lane at a time and the rest go to a buffer of at most `2k + 17408`, cut back by
//! selection: at most some 32 bytes per pair asked for. Memory grows with what is held, never ahead of it.
//! Refuses scores that are negative or not finite, and blocks too large for memory, before anything of the block
//! is taken. A score of zero is never
//! selected. A pair pushed twice is two candidates: distinct pairs are the caller's business.

mod buffer;
mod scan;

use crate::budget::{check_budget, check_selection};
use crate::ranking::{Rank, selection_of};
use crate::score::{SMALLEST_POSITIVE, at_least, check_score, first_unrankable};
use crate::selection::Selection;
use crate::{Error, Pair};
use buffer::Buffer;
use scan::LANE;
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The largest `k` that is held in a heap.
pub const HEAP_LIMIT: usize = 256;

/// A block so many times as long as what is held is worth a copy of that.
const MANY_TIMES: usize = 8;

/// Bytes that a candidate takes: itself, a copy to go back to, keys to sort, and the columns.
const BYTES_PER_CANDIDATE: u128 = 96;

/// Collects candidates and keeps the `k` best.
///
/// ```
/// use topk_ortho_core::TopK;
/// let mut best = TopK::new(2)?;
/// best.push_columns(&[0, 0], &[1, 2], &[3.0, 1.0])?;
/// best.push_columns(&[0, 4], &[3, 5], &[1.0, 0.0])?;
/// let (i, j, score) = best.finish().into_columns();
/// assert_eq!((i, j, score), (vec![0, 0], vec![1, 2], vec![3.0, 1.0])); // (0, 3) lost the tie
/// # Ok::<(), topk_ortho_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TopK {
    k: usize,
    store: Store,
}

#[derive(Clone, Debug)]
enum Store {
    Heap(BinaryHeap<Reverse<Rank>>),
    Buffer(Buffer),
}

impl TopK {
    /// A selector of the `k` best candidates. Allocates nothing yet.
    ///
    /// # Errors
    /// [`Error::ZeroK`].
    pub fn new(k: usize) -> Result<Self, Error> {
        if k == 0 {
            return Err(Error::ZeroK);
        }
        let store = if k <= HEAP_LIMIT {
            Store::Heap(BinaryHeap::new())
        } else {
            Store::Buffer(Buffer::new(k))
        };
        Ok(Self { k, store })
    }

    /// Offers one block of candidates.
    ///
    /// # Errors
    /// [`Error::Lengths`], [`Error::ScoreNotFinite`], [`Error::ScoreNegative`], or [`Error::SelectionSize`] or
    /// [`Error::Memory`] where more would be held than there is memory for; nothing of the block is taken then.
    pub fn push(&mut self, pairs: &[Pair], scores: &[f32]) -> Result<(), Error> {
        if pairs.len() != scores.len() {
            return Err(Error::Lengths {
                i: pairs.len(),
                j: pairs.len(),
                score: Some(scores.len()),
            });
        }
        self.check_budget(scores.len())?;
        if let Some(at) = first_unrankable(scores) {
            return check_score(pairs[at], scores[at]);
        }
        self.admit(scores, |at| pairs[at]);
        Ok(())
    }

    /// Offers one block of candidates given as columns. Indices are read where a score may win, and nowhere else: an
    /// entry that is no pair is not seen when its score is below the threshold.
    ///
    /// # Errors
    /// As [`TopK::push`], and [`Error::IndexRange`] or [`Error::PairOrder`] for an entry that is no pair.
    pub fn push_columns(&mut self, i: &[i64], j: &[i64], scores: &[f32]) -> Result<(), Error> {
        if i.len() != scores.len() || j.len() != scores.len() {
            return Err(Error::Lengths {
                i: i.len(),
                j: j.len(),
                score: Some(scores.len()),
            });
        }
        self.check_budget(scores.len())?;
        if scores.len() / MANY_TIMES >= self.len() && matches!(self.store, Store::Buffer(_)) {
            return self.admit_unchecked(i, j, scores);
        }
        check_score_columns(i, j, scores)?;
        let threshold = self.threshold_bits();
        for (i, (j, scores)) in i.chunks(LANE).zip(j.chunks(LANE).zip(scores.chunks(LANE))) {
            if reaches(scores, threshold) {
                for (at, &score) in scores.iter().enumerate() {
                    if at_least(score, threshold) {
                        Pair::of_column_entries(i[at], j[at])?;
                    }
                }
            }
        }
        self.admit(scores, |at| Pair::of_checked(i[at], j[at]));
        Ok(())
    }

    /// The k-th best score so far, once `k` candidates are held. A candidate below it can be discarded unseen; one
    /// that equals it may still win on the tie. Costs up to O(k) after a push that let something in.
    pub fn threshold(&mut self) -> Option<f32> {
        match &mut self.store {
            Store::Heap(heap) if heap.len() < self.k => None,
            Store::Heap(heap) => heap.peek().map(|worst| f32::from_bits(worst.0.0)),
            Store::Buffer(buffer) => buffer.threshold(),
        }
    }

    /// Returns how many candidates are held, at most `k`.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.store {
            Store::Heap(heap) => heap.len(),
            Store::Buffer(buffer) => buffer.len().min(self.k),
        }
    }

    /// Returns whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of candidates asked for.
    #[must_use]
    pub const fn k(&self) -> usize {
        self.k
    }

    /// The `k` best, or all that had a positive score if they are fewer. The selector is empty afterwards.
    pub fn finish(&mut self) -> Selection {
        match &mut self.store {
            Store::Heap(heap) => {
                let ranks = std::mem::take(heap).into_iter().map(|Reverse(rank)| rank);
                selection_of(&ranks.collect::<Vec<_>>())
            }
            Store::Buffer(buffer) => std::mem::replace(buffer, Buffer::new(self.k)).finish(),
        }
    }

    /// Takes a large block in one pass, checked on the way, and keeps a copy of what is held to go back to.
    fn admit_unchecked(&mut self, i: &[i64], j: &[i64], scores: &[f32]) -> Result<(), Error> {
        let before = self.store.clone();
        let wrong = Cell::new(None);
        self.admit(scores, |at| {
            Pair::of_column_entries(i[at], j[at]).unwrap_or_else(|error| {
                wrong.set(Some(wrong.get().unwrap_or(error)));
                Pair::of_distinct(0, 1)
            })
        });
        let suspicious = match &mut self.store {
            Store::Heap(_) => true,
            Store::Buffer(buffer) => std::mem::take(&mut buffer.suspicious),
        };
        let checked = if suspicious {
            check_score_columns(i, j, scores)
        } else {
            Ok(())
        };
        let checked = checked.and(wrong.get().map_or(Ok(()), Err));
        if checked.is_err() {
            self.store = before;
        }
        checked
    }

    /// Returns whether so many more candidates can be held.
    fn check_budget(&self, more: usize) -> Result<(), Error> {
        let Store::Buffer(buffer) = &self.store else {
            return Ok(());
        };
        let (k, all) = (self.k as u128, (buffer.len() + more) as u128);
        check_selection(all.min(k))?;
        check_budget(all.min(2 * k + more as u128) * BYTES_PER_CANDIDATE)
    }

    /// A candidate below it cannot win.
    fn threshold_bits(&self) -> u32 {
        match &self.store {
            Store::Heap(heap) => threshold_of(heap, self.k),
            Store::Buffer(buffer) => buffer.threshold_bits(),
        }
    }

    fn admit(&mut self, scores: &[f32], pair_at: impl Fn(usize) -> Pair) {
        match &mut self.store {
            Store::Heap(heap) => admit_to_heap(heap, self.k, scores, pair_at),
            Store::Buffer(buffer) => buffer.admit(scores, &pair_at),
        }
    }
}

fn admit_to_heap(
    heap: &mut BinaryHeap<Reverse<Rank>>,
    k: usize,
    scores: &[f32],
    pair_at: impl Fn(usize) -> Pair,
) {
    let mut threshold = threshold_of(heap, k);
    for (lane, block) in scores.chunks(LANE).enumerate() {
        if !reaches(block, threshold) {
            continue;
        }
        for (at, score) in block.iter().enumerate() {
            if !at_least(*score, threshold) {
                continue;
            }
            let rank = (score.to_bits(), Reverse(pair_at(lane * LANE + at)));
            if heap.len() < k {
                heap.push(Reverse(rank));
            } else if let Some(mut worst) = heap.peek_mut().filter(|worst| rank > worst.0) {
                worst.0 = rank;
            }
            threshold = threshold_of(heap, k);
        }
    }
}

fn threshold_of(heap: &BinaryHeap<Reverse<Rank>>, k: usize) -> u32 {
    match heap.peek() {
        Some(worst) if heap.len() == k => worst.0.0,
        _ => SMALLEST_POSITIVE,
    }
}

fn reaches(block: &[f32], threshold: u32) -> bool {
    block
        .iter()
        .fold(false, |any, &score| any | at_least(score, threshold))
}

fn check_score_columns(i: &[i64], j: &[i64], scores: &[f32]) -> Result<(), Error> {
    match first_unrankable(scores) {
        Some(at) => check_score(Pair::of_column_entries(i[at], j[at])?, scores[at]),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
