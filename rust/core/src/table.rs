//! A bounded table of pairs with a lazily decayed moving average each: batched SpaceSaving.
//!
//! A pair that enters takes `low = 1 - decay` and `err = bound`, where `bound` is the largest upper end (`low + err`)
//! ever evicted, decayed once per observation. Evicting happens only after a whole selection is in, entrants included.
//! Why that order is exact: let `excess` be the sum over the table of `upper - bound`, never negative. A selection of
//! `k` pairs adds at most `(1 - decay) k` to it, everything else decays, and a trim that raises `bound` by `d` costs
//! each of the `capacity` survivors `d`. So `excess + capacity * bound <= k`, and `bound <= k / capacity`.
//!
//! Costs one lookup per selected pair, and a few scans of the records whenever they have grown a quarter beyond the
//! capacity. Records lie densely, one cache line each, beside an index that is rebuilt by a trim: single removals would
//! leave tombstones that make a hash table double.

use crate::Pair;
use crate::order::nth_smallest;
use crate::record::{Decay, Moment, Record};
use hashbrown::HashTable;
use std::cmp::Reverse;

#[derive(Clone, Debug)]
pub(crate) struct Table {
    records: Vec<Record>,
    /// Places in `records`, by the hash of the pair there.
    index: HashTable<u32>,
    capacity: usize,
    decay: Decay,
    /// Number of the latest observation.
    now: u64,
    /// No pair outside the table has a larger average.
    bound: f64,
}

/// One selection, counted, in the order of its pairs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) low_sum: f64,
    pub(crate) above_half: usize,
    pub(crate) streaks: Vec<u32>,
}

/// Pairs looked up together, so that their cache misses overlap.
const GROUP: usize = 64;

impl Table {
    /// Places are 32-bit, and one selection may stand on top of a full table.
    pub(crate) const MAX_CAPACITY: usize = 1 << 30;
    pub(crate) const MAX_SELECTION: usize = 1 << 30;

    pub(crate) fn new(capacity: usize, decay: f64) -> Self {
        Self::restore(capacity, decay, 0, 0.0, Vec::new())
    }

    /// A table as it was, of records that are known to be of distinct pairs.
    pub(crate) fn restore(
        capacity: usize,
        decay: f64,
        now: u64,
        bound: f64,
        records: Vec<Record>,
    ) -> Self {
        let (index, decay) = (HashTable::new(), Decay::new(decay));
        let mut table = Self {
            records,
            index,
            capacity,
            decay,
            now,
            bound,
        };
        table.rebuild_index();
        table
    }

    /// Counts one selection of distinct pairs in. The table may outgrow its limit until [`Table::trim`].
    pub(crate) fn count(&mut self, step: u64, selection: &[Pair]) -> Tally {
        self.now += 1;
        self.bound *= self.decay.rate();
        self.make_room(selection.len());
        let at = Moment {
            step,
            now: self.now,
        };
        let mut tally = Tally {
            streaks: Vec::with_capacity(selection.len()),
            ..Tally::default()
        };
        let mut places = [None; GROUP];
        for group in selection.chunks(GROUP) {
            self.find_group(group, &mut places);
            for (place, &pair) in places.iter().zip(group) {
                let record = match place {
                    Some(place) => {
                        let record = &mut self.records[*place];
                        record.hit(at, &self.decay);
                        record
                    }
                    None => self.insert(Record::enter(pair, at, &self.decay, self.bound)),
                };
                tally.low_sum += record.low;
                tally.above_half += usize::from(record.low > 0.5);
                tally.streaks.push(record.streak);
            }
        }
        tally
    }

    /// Evicts the smallest upper ends until `capacity` records are left, once more than the limit are held; tells whether
    /// it did. Among equal upper ends the one hit longest ago goes first, then the larger pair.
    pub(crate) fn trim(&mut self) -> bool {
        if self.records.len() <= Self::limit(self.capacity) {
            return false;
        }
        let excess = self.records.len() - self.capacity;
        let (now, decay) = (self.now, &self.decay);
        let upper = |record: &Record| record.upper_at(now, decay).to_bits();
        let uppers: Vec<u64> = self.records.iter().map(upper).collect();
        let (edge, below) = nth_smallest(&uppers, excess);

        let age_key = |record: &Record| (record.last, Reverse(record.pair));
        let both = uppers.iter().zip(&self.records);
        let at_edge = both.filter(|(upper, _)| **upper == edge);
        let mut tied: Vec<_> = at_edge.map(|(_, record)| age_key(record)).collect();
        let last_out = *tied.select_nth_unstable(excess - below - 1).1;

        let mut upper = uppers.iter();
        self.records.retain(|record| {
            upper
                .next()
                .is_some_and(|&upper| upper > edge || (upper == edge && age_key(record) > last_out))
        });
        drop(uppers);
        self.bound = self.bound.max(f64::from_bits(edge));
        self.rebuild_index();
        true
    }

    /// The most records that outlive an observation.
    pub(crate) const fn limit(capacity: usize) -> usize {
        capacity.saturating_add(capacity / 4)
    }

    /// Lower ends as of now; 0 without a record.
    pub(crate) fn lows(&self, pairs: &[Pair]) -> Vec<f64> {
        let mut lows = Vec::with_capacity(pairs.len());
        let mut places = [None; GROUP];
        for group in pairs.chunks(GROUP) {
            self.find_group(group, &mut places);
            let low = |place: &Option<usize>| {
                place.map_or(0.0, |at| self.records[at].low_at(self.now, &self.decay))
            };
            lows.extend(places[..group.len()].iter().map(low));
        }
        lows
    }

    /// The streak that ended with the pair's last hit; 0 without a record.
    pub(crate) fn streak(&self, pair: Pair) -> u32 {
        self.find(pair)
            .map_or(0, |place| self.records[place].streak)
    }

    /// The `n` records with the largest lower end, ties to the smaller pair, each with its present lower and upper end.
    pub(crate) fn top(&self, n: usize) -> Vec<(&Record, [f64; 2])> {
        let room = n.saturating_mul(2).max(1024);
        let mut best: Vec<(u64, Reverse<Pair>, usize)> = Vec::new();
        let mut bar = None;
        for (place, record) in self.records.iter().enumerate() {
            let key = (
                record.low_at(self.now, &self.decay).to_bits(),
                Reverse(record.pair),
                place,
            );
            if Some(key) <= bar {
                continue;
            }
            best.push(key);
            if best.len() > room {
                bar = Some(*best.select_nth_unstable_by(n, |a, b| b.cmp(a)).1);
                best.truncate(n);
            }
        }
        best.sort_unstable_by(|a, b| b.cmp(a));
        best.truncate(n);
        let ends = |record: &Record| {
            [
                record.low_at(self.now, &self.decay),
                record.upper_at(self.now, &self.decay),
            ]
        };
        best.into_iter()
            .map(|(.., place)| (&self.records[place], ends(&self.records[place])))
            .collect()
    }

    /// The records in the order of their pairs.
    pub(crate) fn sorted(&self) -> Vec<&Record> {
        let mut all: Vec<_> = self.records.iter().collect();
        all.sort_unstable_by_key(|record| record.pair);
        all
    }

    pub(crate) const fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) const fn decay(&self) -> f64 {
        self.decay.rate()
    }

    pub(crate) const fn now(&self) -> u64 {
        self.now
    }

    pub(crate) const fn bound(&self) -> f64 {
        self.bound
    }

    pub(crate) fn bytes(&self) -> usize {
        self.records.capacity() * size_of::<Record>()
            + self.index.allocation_size()
            + self.decay.bytes()
    }

    fn find(&self, pair: Pair) -> Option<usize> {
        let place = self.index.find(hash(pair), |&place| {
            self.records[place as usize].pair == pair
        });
        place.map(|&place| place as usize)
    }

    /// As [`Table::find`] for each pair. Guesses by the hash alone first, so that no load waits for the outcome of another.
    fn find_group(&self, group: &[Pair], places: &mut [Option<usize>; GROUP]) {
        let mut right = [false; GROUP];
        for (place, &pair) in places.iter_mut().zip(group) {
            *place = self
                .index
                .find(hash(pair), |_| true)
                .map(|&place| place as usize);
        }
        for ((right, &pair), place) in right.iter_mut().zip(group).zip(places.iter()) {
            *right = place.is_none_or(|place| self.records[place].pair == pair);
        }
        for ((right, &pair), place) in right.iter().zip(group).zip(places) {
            if !right {
                *place = self.find(pair);
            }
        }
    }

    fn insert(&mut self, record: Record) -> &Record {
        let Self { records, index, .. } = self;
        let place = records.len();
        records.push(record);
        index.insert_unique(hash(record.pair), place as u32, |&place| {
            hash(records[place as usize].pair)
        });
        &records[place]
    }

    /// Doubles until there is room for the limit and two selections, and not beyond: sizes differ, and growing by a
    /// little moves everything each time.
    fn make_room(&mut self, more: usize) {
        let held = self.records.len();
        if held + more > self.records.capacity() {
            let most = Self::limit(self.capacity) + 2 * more;
            let room = (held * 2).min(most).max(held + more);
            self.records.reserve_exact(room - held);
        }
    }

    /// Inserts bucket by bucket, so that the index is written in order and not at random.
    fn rebuild_index(&mut self) {
        let Self { records, index, .. } = self;
        let hash_at = |&place: &u32| hash(records[place as usize].pair);
        index.clear();
        index.reserve(records.len(), hash_at);
        let low_bits = index.num_buckets().next_power_of_two().ilog2();
        let shift = low_bits.saturating_sub(REGIONS.ilog2());
        let region = |low: u32| (low >> shift) as usize % REGIONS;

        let mut next = [0_usize; REGIONS];
        for record in &*records {
            next[region(hash(record.pair) as u32)] += 1;
        }
        let mut start = 0;
        for next in &mut next {
            (start, *next) = (start + *next, start);
        }
        let mut ordered = vec![(0_u32, 0_u32); records.len()];
        for (place, record) in (0..).zip(&*records) {
            let low = hash(record.pair) as u32;
            let next = &mut next[region(low)];
            ordered[*next] = (low, place);
            *next += 1;
        }
        for (low, place) in ordered {
            index.insert_unique(widen(low), place, hash_at);
        }
    }
}

/// Parts of the index that are filled one after another.
const REGIONS: usize = 1024;

/// One multiplication, both halves folded: pairs are no adversary. All of it is in the lower half.
const fn hash(pair: Pair) -> u64 {
    let product = (pair.bits() ^ 0x9e37_79b9_7f4a_7c15) as u128 * 0xd6e8_feb8_6659_fd93;
    let folded = (product >> 64) as u64 ^ product as u64;
    widen((folded >> 32) as u32 ^ folded as u32)
}

/// The index takes a place from the lower bits and a tag from the upper ones.
const fn widen(low: u32) -> u64 {
    (low as u64) << 32 | low as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(n: u32) -> Pair {
        Pair::try_new(n, 100).expect("ordered")
    }

    fn held(table: &Table) -> Vec<u32> {
        table
            .sorted()
            .iter()
            .map(|record| record.pair.i())
            .collect()
    }

    #[test]
    fn eviction_order_is_upper_then_age_then_larger_pair() {
        let mut table = Table::new(2, 0.5);
        table.count(0, &[pair(1), pair(2), pair(3)]);
        assert!(table.trim());
        assert_eq!((held(&table), table.bound()), (vec![1, 2], 0.5));
        table.count(1, &[pair(9)]);
        assert!(table.trim());
        assert_eq!(held(&table), [1, 9]);
    }

    #[test]
    fn a_pair_that_faded_to_nothing_is_ordinary() {
        let mut table = Table::new(2, 0.001);
        table.count(0, &[pair(1), pair(2)]);
        for step in 1..200 {
            table.count(step, &[]);
        }
        assert_eq!(table.lows(&[pair(1)]), [0.0]);
        table.count(200, &[pair(1), pair(3)]);
        assert!(table.trim());
        assert_eq!(table.lows(&[pair(1)]), [0.999]);
        assert_eq!(table.streak(pair(2)), 0);
    }

    #[test]
    fn memory_stays_within_the_limit_and_one_selection() {
        let mut table = Table::new(1000, 0.9);
        for step in 0..200 {
            let selection: Vec<_> = (0..100)
                .map(|n| Pair::try_new(step * 100 + n, u32::MAX).expect("ordered"))
                .collect();
            table.count(u64::from(step), &selection);
            table.trim();
        }
        assert!(table.records.capacity() <= 1250 + 200);
        assert_eq!(table.index.capacity(), 2048 / 8 * 7);
    }
}
