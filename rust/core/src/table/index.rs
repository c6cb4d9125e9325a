//! The index of records by pair: open addressing by the hash of the pair.
//!
//! A slot is eight bytes, hash and place together, so that a lookup touches one cache line here and, as the hash tells
//! most other pairs apart, one record. A slot's home rises with its hash: to grow, or to drop many slots at once, is one
//! pass in the order of memory that reads no record. Neighbours are in the order of their hashes, so that this pass has no
//! branch that depends on them and the search for a pair that is not held ends early. Two fifths of the slots stay empty, and slots
//! never wrap round: behind the last home there are spare ones, the last of them always empty.

use crate::Pair;

/// The mark of an empty slot. No table has so many records.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Above every slot, its place being nowhere.
const EMPTY: u64 = u64::MAX;
const SPARE: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Index {
    slots: Vec<u64>,
    homes: usize,
}

impl Index {
    pub(super) fn new() -> Self {
        Self::with_homes(0)
    }

    fn with_homes(homes: usize) -> Self {
        let slots = vec![EMPTY; homes + SPARE];
        Self { slots, homes }
    }

    /// Takes so many places without growing.
    pub(super) fn make_space(&mut self, places: usize) {
        let homes = places + places / 3 * 2;
        if homes > self.homes {
            let mut larger = Self::with_homes(homes);
            for &slot in self.slots.iter().filter(|&&slot| slot != EMPTY) {
                larger.insert(hash_of(slot), slot as u32);
            }
            *self = larger;
        }
    }

    /// What lies where the search for a hash begins.
    pub(super) fn first(&self, hash: u32) -> u64 {
        self.slots[self.home(hash)]
    }

    /// The first place under a hash, given what lies at its home.
    pub(super) fn guess(&self, hash: u32, first: u64) -> u32 {
        let (mut at, mut slot) = (self.home(hash), first);
        while hash_of(slot) < hash {
            at += 1;
            slot = self.slots[at];
        }
        if hash_of(slot) == hash {
            slot as u32
        } else {
            NOWHERE
        }
    }

    /// The place under a hash that is the right one.
    pub(super) fn find(&self, hash: u32, right: impl Fn(u32) -> bool) -> u32 {
        let slots = self.slots[self.home(hash)..].iter().copied();
        let mut under = slots
            .take_while(|&slot| slot != EMPTY && hash_of(slot) <= hash)
            .filter(|&slot| hash_of(slot) == hash);
        under.find(|&slot| right(slot as u32)).unwrap_or(EMPTY) as u32
    }

    pub(super) fn insert(&mut self, hash: u32, place: u32) {
        let mut slot = u64::from(hash) << 32 | u64::from(place);
        let mut at = self.home(hash);
        while slot != EMPTY {
            let here = &mut self.slots[at];
            (*here, slot) = ((*here).min(slot), (*here).max(slot));
            at += 1;
        }
        if at == self.slots.len() {
            self.slots.push(EMPTY);
        }
    }

    /// Drops the places that do not stay; asks that of [`NOWHERE`] too.
    pub(super) fn retain(&mut self, stays: impl Fn(u32) -> bool) {
        let mut next = 0;
        for at in 0..self.slots.len() {
            let slot = std::mem::replace(&mut self.slots[at], EMPTY);
            let to = self.home(hash_of(slot)).max(next).min(at);
            let kept = (slot != EMPTY) & stays(slot as u32);
            let other = self.slots[to];
            self.slots[to] = std::hint::select_unpredictable(kept, slot, other);
            next = std::hint::select_unpredictable(kept, to + 1, next);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u64>()
    }

    const fn home(&self, hash: u32) -> usize {
        ((hash as u64 * self.homes as u64) >> 32) as usize
    }
}

const fn hash_of(slot: u64) -> u32 {
    (slot >> 32) as u32
}

/// One multiplication, both halves folded: pairs are no adversary.
pub(super) const fn hash(pair: Pair) -> u32 {
    let product = (pair.bits() ^ 0x9e37_79b9_7f4a_7c15) as u128 * 0xd6e8_feb8_6659_fd93;
    let folded = (product >> 64) as u64 ^ product as u64;
    (folded >> 32) as u32 ^ folded as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Hashes that differ, that are equal, and that crowd at either end.
    fn hashes() -> impl Strategy<Value = Vec<u32>> {
        let near = prop_oneof![0_u32..4, (u32::MAX - 3)..=u32::MAX];
        prop::collection::vec(prop_oneof![any::<u32>(), near], 0..300)
    }

    proptest! {
        #[test]
        fn finds_what_a_map_finds(hashes in hashes(), goes in any::<u32>(), larger in 0_usize..400) {
            let (mut index, mut map) = (Index::new(), BTreeMap::<u32, Vec<u32>>::new());
            index.make_space(300);
            for (place, &hash) in (0..).zip(&hashes) {
                index.insert(hash, place);
                map.entry(hash).or_default().push(place);
            }
            let stays = |place: u32| goes >> (place % 32) & 1 == 0;
            index.retain(stays);
            index.make_space(larger);
            for (hash, mut places) in map {
                places.retain(|&place| stays(place));
                let first = places.first().copied().unwrap_or(NOWHERE);
                prop_assert_eq!(index.guess(hash, index.first(hash)), first);
                for place in places {
                    prop_assert_eq!(index.find(hash, |other| other == place), place);
                }
                prop_assert_eq!(index.find(hash, |_| false), NOWHERE);
            }
        }
    }
}
