//! A bounded table of pairs with a lazily decayed moving average each: batched SpaceSaving.
//!
//! A pair that enters takes `low = 1 - decay` and `err = bound`, where `bound` is the largest upper end (`low + err`)
//! ever evicted, decayed once per observation. Evicting happens only after a whole selection is in, entrants included.
//! Why that order is exact: let `excess` be the sum over the table of `upper - bound`, never negative. A selection of
//! `k` pairs adds at most `(1 - decay) k` to it, everything else decays, and a trim that raises `bound` by `d` costs
//! each of the `capacity` survivors `d`. So `excess + capacity * bound <= k`, and `bound <= k / capacity`.
//!
//! Costs one lookup per selected pair, and whenever the records have grown a quarter beyond the capacity, two scans of
//! them and one of the index. Records are one cache line each and never move: what is evicted leaves a gap, and who
//! enters takes the lowest.

use crate::budget::{MAX_SELECTION, check_budget};
use crate::record::{Decay, Moment, Record};
use crate::sorting::nth_smallest;
use crate::{Error, Pair};
use gaps::Gaps;
use index::{Index, NOWHERE, hash};
use std::cmp::Reverse;

mod gaps;
mod index;

#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// With gaps between them.
    records: Vec<Record>,
    gaps: Gaps,
    index: Index,
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

/// Bytes that a record takes with its index, and the trim that may follow.
const BYTES_PER_RECORD: u128 = 64 + 14 + 24;

/// Records looked at before the index is: pairs that entered together, in their order, often come back together.
const BEHIND: usize = 8;

/// Pairs looked up together, so that their cache misses overlap.
const GROUP: usize = 256;

impl Table {
    /// Places are 32-bit, and one selection may stand on top of a full table.
    pub(crate) const MAX_CAPACITY: usize = 1 << 30;
    pub(crate) const MAX_SELECTION: usize = MAX_SELECTION;

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
        let mut table = Self {
            records,
            gaps: Gaps::default(),
            index: Index::new(),
            capacity,
            decay: Decay::new(decay),
            now,
            bound,
        };
        table.fill_index();
        table
    }

    /// Counts one selection of distinct pairs in. The table may outgrow its limit until [`Table::trim`].
    pub(crate) fn count(&mut self, step: u64, selection: &[Pair]) -> Tally {
        self.now += 1;
        self.bound *= self.decay.rate();
        self.make_space(selection.len());
        let at = Moment {
            step,
            now: self.now,
        };
        let mut tally = Tally {
            streaks: Vec::with_capacity(selection.len()),
            ..Tally::default()
        };
        let (mut places, mut last) = ([NOWHERE; GROUP], NOWHERE);
        for group in selection.chunks(GROUP) {
            self.find_group(group, &mut places, &mut last);
            for (&place, &pair) in places.iter().zip(group) {
                let record = if place == NOWHERE {
                    self.insert(Record::enter(pair, at, &self.decay, self.bound))
                } else {
                    let record = &mut self.records[place as usize];
                    record.hit(at, &self.decay);
                    record
                };
                tally.low_sum += record.low;
                tally.above_half += usize::from(record.low > 0.5);
                tally.streaks.push(record.streak);
            }
        }
        tally
    }

    /// Evicts the smallest upper ends until `capacity` records are left, once more than the limit are held; tells whether
    /// pairs of the latest selection may be among them. Among equal upper ends the one hit longest ago goes first, then the
    /// larger pair.
    pub(crate) fn trim(&mut self) -> bool {
        if self.len() <= Self::limit(self.capacity) {
            return false;
        }
        let excess = self.len() - self.capacity;
        let mut youngest = GAP;
        let upper = |(place, record): (usize, &Record)| {
            let upper = record.upper_at(self.now, &self.decay).to_bits();
            if record.last == self.now {
                youngest = youngest.min(upper);
            }
            if self.gaps.contains(place) {
                GAP
            } else {
                upper
            }
        };
        let uppers: Vec<u64> = self.records.iter().enumerate().map(upper).collect();
        let (edge, below) = nth_smallest(&uppers, excess);

        let age_key = |record: &Record| (record.last, Reverse(record.pair));
        let both = uppers.iter().zip(&self.records);
        let at_edge = both.filter(|(upper, _)| **upper == edge);
        let mut tied: Vec<_> = at_edge.map(|(_, record)| age_key(record)).collect();
        let last_out = *tied.select_nth_unstable(excess - below - 1).1;

        self.gaps.extend(uppers.len(), |place| {
            let upper = uppers[place];
            upper < edge || (upper == edge && age_key(&self.records[place]) <= last_out)
        });
        self.index
            .retain(|place| !self.gaps.contains_any(place as usize));
        self.bound = self.bound.max(f64::from_bits(edge));
        youngest <= edge
    }

    /// The most records that outlive an observation.
    pub(crate) const fn limit(capacity: usize) -> usize {
        capacity.saturating_add(capacity / 4)
    }

    /// Lower ends as of now; 0 without a record.
    pub(crate) fn lows(&self, pairs: &[Pair]) -> Vec<f64> {
        let mut lows = Vec::with_capacity(pairs.len());
        let (mut places, mut last) = ([NOWHERE; GROUP], NOWHERE);
        for group in pairs.chunks(GROUP) {
            self.find_group(group, &mut places, &mut last);
            let low = |&place: &u32| match self.records.get(place as usize) {
                Some(record) => record.low_at(self.now, &self.decay),
                None => 0.0,
            };
            lows.extend(places[..group.len()].iter().map(low));
        }
        lows
    }

    /// The streak that ended with the pair's last hit; 0 without a record.
    pub(crate) fn streak(&self, pair: Pair) -> u32 {
        let record = self.records.get(self.find(pair) as usize);
        record.map_or(0, |record| record.streak)
    }

    /// The `n` records with the largest lower end, ties to the smaller pair, each with its present lower and upper end.
    pub(crate) fn top(&self, n: usize) -> Vec<(&Record, [f64; 2])> {
        let most = n.saturating_mul(2).max(1024);
        let mut best: Vec<(u64, Reverse<Pair>, usize)> = Vec::new();
        let mut worst = None;
        for (place, record) in self.held() {
            let key = (
                record.low_at(self.now, &self.decay).to_bits(),
                Reverse(record.pair),
                place,
            );
            if Some(key) <= worst {
                continue;
            }
            best.push(key);
            if best.len() > most {
                worst = Some(*best.select_nth_unstable_by(n, |a, b| b.cmp(a)).1);
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
        let mut all: Vec<_> = self.held().map(|(_, record)| record).collect();
        all.sort_unstable_by_key(|record| record.pair);
        all
    }

    fn held(&self) -> impl Iterator<Item = (usize, &Record)> {
        let words = self.records.chunks(Gaps::WORD).enumerate();
        words.flat_map(|(at, records)| {
            let gaps = self.gaps.word(at);
            let here = records.iter().enumerate();
            here.filter(move |(bit, _)| gaps >> bit & 1 == 0)
                .map(move |(bit, record)| (at * Gaps::WORD + bit, record))
        })
    }

    pub(crate) const fn len(&self) -> usize {
        self.records.len() - self.gaps.len()
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
            + self.gaps.bytes()
            + self.index.bytes()
            + self.decay.bytes()
    }

    fn find(&self, pair: Pair) -> u32 {
        self.index.find(hash(pair), |place| {
            self.records[place as usize].pair == pair
        })
    }

    /// As [`Table::find`] for each pair. Looks behind the records found last before it asks the index, and there takes what
    /// lies under the hash and checks it later, so that no load waits for the outcome of another.
    fn find_group(&self, group: &[Pair], places: &mut [u32; GROUP], last: &mut u32) {
        let (mut asked, mut count) = ([0_u16; GROUP], 0);
        for (at, (&pair, place)) in group.iter().zip(&mut *places).enumerate() {
            *place = self.find_behind(*last, pair);
            asked[count] = at as u16;
            count += usize::from(*place == NOWHERE);
            *last = if *place == NOWHERE { *last } else { *place };
        }
        let asked = asked[..count].iter().map(|&at| usize::from(at));
        let mut starts = [(0, 0); GROUP];
        for (start, at) in starts.iter_mut().zip(asked.clone()) {
            let hash = hash(group[at]);
            *start = (hash, self.index.first(hash));
        }
        for (&(hash, first), at) in starts.iter().zip(asked.clone()) {
            places[at] = self.index.guess(hash, first);
        }
        let mut right = [true; GROUP];
        for (right, at) in right.iter_mut().zip(asked.clone()) {
            let record = self.records.get(places[at] as usize);
            *right = record.is_none_or(|record| record.pair == group[at]);
        }
        for (_, at) in right.iter().zip(asked).filter(|(right, _)| !**right) {
            places[at] = self.find(group[at]);
        }
        let found = places[..group.len()].iter().rev();
        *last = found.copied().find(|&at| at != NOWHERE).unwrap_or(*last);
    }

    /// The pair's place if its record is one of the next behind another.
    fn find_behind(&self, last: u32, pair: Pair) -> u32 {
        let next = (last as usize).wrapping_add(1);
        let behind = self.records.get(next..next.wrapping_add(BEHIND));
        let offset = behind.and_then(|behind| behind.iter().position(|next| next.pair == pair));
        match offset.map(|offset| next + offset) {
            Some(place) if !self.gaps.contains(place) => place as u32,
            _ => NOWHERE,
        }
    }

    fn insert(&mut self, record: Record) -> &Record {
        let place = self.gaps.take().unwrap_or(self.records.len() as u32);
        self.index.insert(hash(record.pair), place);
        if place as usize == self.records.len() {
            self.records.push(record);
        } else {
            self.records[place as usize] = record;
        }
        &self.records[place as usize]
    }

    /// Refuses a selection that the table has no memory to grow for.
    pub(crate) fn check_growth(&self, more: usize) -> Result<(), Error> {
        let larger = self.larger(more);
        if larger == self.records.capacity() {
            return Ok(());
        }
        check_budget(larger as u128 * BYTES_PER_RECORD)
    }

    fn make_space(&mut self, more: usize) {
        let larger = self.larger(more);
        if larger > self.records.capacity() {
            self.records.reserve_exact(larger - self.records.len());
        }
        self.index.make_space(self.records.capacity());
    }

    /// The capacity in records that so many more need. It doubles until there is space for the limit and two selections,
    /// and not beyond: sizes differ, and growing by a little moves everything each time.
    fn larger(&self, more: usize) -> usize {
        let (held, capacity) = (self.len(), self.records.capacity());
        if held + more <= capacity {
            return capacity;
        }
        let most = Self::limit(self.capacity) + 2 * more;
        (held * 2).min(most).max(held + more).max(capacity)
    }

    /// In the order of hashes, so that the index is written in order and not at random.
    fn fill_index(&mut self) {
        let entry = |(place, record): (u64, &Record)| u64::from(hash(record.pair)) << 32 | place;
        let mut entries: Vec<u64> = (0..).zip(&self.records).map(entry).collect();
        entries.sort_unstable();
        self.index.make_space(entries.len());
        for entry in entries {
            self.index.insert((entry >> 32) as u32, entry as u32);
        }
    }
}

/// Above every upper end.
const GAP: u64 = u64::MAX;

#[cfg(test)]
mod tests;
