//! The intersection of two sorted selections.
//!
//! No branch depends on the data. A step of a merge waits for the step before, so four parts of it take turns.

use crate::Pair;

/// Size of the intersection of two sorted selections.
pub(super) fn common(a: &[Pair], b: &[Pair]) -> usize {
    a.len() - missing(a, b).len()
}

/// Parts of a merge that advance in turn: the steps of one wait for each other.
const LANES: usize = 4;

/// The places of the pairs of `a` that are not in `b`, both sorted. No branch depends on the data.
pub(super) fn missing(a: &[Pair], b: &[Pair]) -> Vec<u32> {
    let mut places = vec![0; a.len()];
    let mut parts: [Part; LANES] = std::array::from_fn(|n| Part::of(a, b, n));
    loop {
        let left = |part: &Part| (part.end.0 - part.at.0).min(part.end.1 - part.at.1);
        let steps = parts.iter().map(left).min().unwrap_or(0);
        if steps == 0 {
            break;
        }
        for _ in 0..steps {
            for part in &mut parts {
                part.step(a, b, &mut places);
            }
        }
    }
    let mut count = 0;
    for mut part in parts {
        while part.at.0 < part.end.0 && part.at.1 < part.end.1 {
            part.step(a, b, &mut places);
        }
        for at in part.at.0..part.end.0 {
            places[part.out] = at as u32;
            part.out += 1;
        }
        places.copy_within(part.start..part.out, count);
        count += part.out - part.start;
    }
    places.truncate(count);
    places
}

/// Part of a merge: where it stands and ends in both selections, and where what it finds begins and ends.
struct Part {
    at: (usize, usize),
    end: (usize, usize),
    start: usize,
    out: usize,
}

impl Part {
    fn of(a: &[Pair], b: &[Pair], n: usize) -> Self {
        let cut = |n: usize| {
            let at = a.len() * n / LANES;
            let below = |cut: &Pair| b.partition_point(|pair| pair < cut);
            (at, a.get(at).map_or(b.len(), below))
        };
        let (at, end) = (cut(n), cut(n + 1));
        let start = at.0;
        Self {
            at,
            end,
            start,
            out: start,
        }
    }

    fn step(&mut self, a: &[Pair], b: &[Pair], places: &mut [u32]) {
        let (x, y) = (a[self.at.0], b[self.at.1]);
        places[self.out] = self.at.0 as u32;
        self.out += usize::from(x < y);
        self.at.0 += usize::from(x <= y);
        self.at.1 += usize::from(y <= x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn selection() -> impl Strategy<Value = BTreeSet<Pair>> {
        let pair = (0_u32..6, 6_u32..12).prop_map(|(i, j)| Pair::try_new(i, j).expect("ordered"));
        prop::collection::btree_set(pair, 0..20)
    }

    proptest! {
        #[test]
        fn merges_equal_set_operations(a in selection(), b in selection()) {
            let (x, y): (Vec<_>, Vec<_>) = (a.iter().copied().collect(), b.iter().copied().collect());
            let gone: Vec<_> = missing(&x, &y).into_iter().map(|place| x[place as usize]).collect();
            prop_assert_eq!(common(&x, &y), a.intersection(&b).count());
            prop_assert_eq!(gone, a.difference(&b).copied().collect::<Vec<_>>());
        }
    }
}
