//! Places that evicted records left: a bit per record, so that a search in the order of memory is cheap and an eviction
//! touches no record.

#[derive(Clone, Debug, Default)]
pub(super) struct Gaps {
    bits: Vec<u64>,
    count: usize,
    /// No word before this one has a gap.
    first: usize,
}

impl Gaps {
    /// Places in one word.
    pub(super) const WORD: usize = u64::BITS as usize;

    /// The gaps among so many places from a multiple of them on, the lowest in the lowest bit.
    pub(super) fn word(&self, at: usize) -> u64 {
        self.bits.get(at).copied().unwrap_or(0)
    }

    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) fn contains(&self, place: usize) -> bool {
        self.word(place / Self::WORD) >> (place % Self::WORD) & 1 == 1
    }

    /// As [`Gaps::contains`] where there are gaps, but what is beyond the last word is unspecified, and no branch.
    pub(super) fn contains_any(&self, place: usize) -> bool {
        let last = self.bits.len() - 1;
        self.bits[last.min(place / Self::WORD)] >> (place % Self::WORD) & 1 == 1
    }

    /// Adds the places that go, of so many, asked in order; gaps are not asked.
    pub(super) fn extend(&mut self, places: usize, mut goes: impl FnMut(usize) -> bool) {
        self.bits.resize(places.div_ceil(Self::WORD), 0);
        for (at, word) in self.bits.iter_mut().enumerate() {
            let bits = (0..Self::WORD.min(places - at * Self::WORD)).map(|bit| {
                let new = *word >> bit & 1 == 0 && goes(at * Self::WORD + bit);
                u64::from(new) << bit
            });
            *word |= bits.fold(0, |all, bit| all | bit);
        }
        self.count = self
            .bits
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum();
        self.first = 0;
    }

    /// The lowest gap, which is none any more.
    pub(super) fn take(&mut self) -> Option<u32> {
        let ahead = self.bits.get(self.first..)?;
        self.first += ahead.iter().position(|&word| word != 0)?;
        let word = &mut self.bits[self.first];
        let bit = word.trailing_zeros() as usize;
        *word &= *word - 1;
        self.count -= 1;
        Some((self.first * Self::WORD + bit) as u32)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bits.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_taken_from_below() {
        let mut gaps = Gaps::default();
        assert_eq!(gaps.take(), None);
        gaps.extend(200, |place| place % 70 == 3);
        assert_eq!(
            (gaps.len(), gaps.take(), gaps.take()),
            (3, Some(3), Some(73))
        );
        gaps.extend(201, |place| place == 7 || place == 200);
        assert!(gaps.contains(143) && gaps.contains(200) && !gaps.contains(73));
        let all: Vec<_> = std::iter::from_fn(|| gaps.take()).collect();
        assert_eq!((all, gaps.len()), (vec![7, 143, 200], 0));
    }
}
