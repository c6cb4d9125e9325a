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
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) fn contains(&self, place: usize) -> bool {
        let word = self.bits.get(place / 64);
        word.is_some_and(|word| word >> (place % 64) & 1 == 1)
    }

    /// Adds the places that go, of so many, asked in order; gaps are not asked.
    pub(super) fn extend(&mut self, places: usize, mut goes: impl FnMut(usize) -> bool) {
        self.bits.resize(places.div_ceil(64), 0);
        for (at, word) in self.bits.iter_mut().enumerate() {
            let bits = (0..64.min(places - at * 64)).map(|bit| {
                let new = *word >> bit & 1 == 0 && goes(at * 64 + bit);
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
        Some((self.first * 64 + bit) as u32)
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
