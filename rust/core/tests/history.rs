//! The history against an unbounded oracle, and its stability metrics against set arithmetic.
#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use topk_ortho_core::{Error, Pair, PairHistory};

const ROUNDING: f64 = 1e-12;

type Selected = BTreeSet<Pair>;

fn pair(n: u32) -> Pair {
    Pair::try_new(n % 8, 8 + n / 8).unwrap()
}

/// Some pairs come back often, most rarely.
fn selection(most: usize) -> impl Strategy<Value = Selected> {
    let pairs = prop_oneof![2 => 0_u32..8, 1 => 0_u32..30, 1 => 0_u32..400].prop_map(pair);
    prop::collection::btree_set(pairs, 0..=most)
}

fn run(most: usize) -> impl Strategy<Value = Vec<Selected>> {
    prop::collection::vec(selection(most), 1..60)
}

fn decay() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(0.001),
        Just(0.3),
        Just(0.9),
        Just(0.99),
        Just(1.0 - 1e-9)
    ]
}

fn observe(history: &mut PairHistory, step: u64, selected: &Selected) {
    let pairs: Vec<_> = selected.iter().copied().collect();
    history.observe(step, &pairs).unwrap();
}

/// `E_t` of every pair ever seen, by the definition.
#[derive(Default)]
struct Oracle(BTreeMap<Pair, f64>);

impl Oracle {
    fn observe(&mut self, decay: f64, selected: &Selected) {
        for pair in selected {
            self.0.entry(*pair).or_insert(0.0);
        }
        for (pair, average) in &mut self.0 {
            *average =
                *average * decay + (1.0 - decay) * f64::from(u8::from(selected.contains(pair)));
        }
    }

    fn check(&self, history: &PairHistory, largest_k: usize) {
        let bound = largest_k as f64 / history.capacity() as f64 + ROUNDING;
        let top = history.top(usize::MAX).expect("memory");
        let pairs = Pair::from_columns(&top.i, &top.j).unwrap();
        assert_eq!(pairs.len(), history.len());
        assert!(pairs.len() <= history.capacity() + history.capacity() / 4);
        assert!(history.max_error() <= bound);
        assert_eq!(history.ema(&pairs), top.ema_low);
        let order: Vec<_> = top.ema_low.iter().map(|low| -low).zip(&pairs).collect();
        assert!(order.is_sorted());
        for (at, pair) in pairs.iter().enumerate() {
            let (low, high, truth) = (top.ema_low[at], top.ema_high[at], self.0[pair]);
            assert!(
                low <= truth + ROUNDING && truth <= high + ROUNDING,
                "{pair:?}: {low} {truth} {high}"
            );
            assert!(high - low <= history.max_error() + ROUNDING);
        }
        let held: BTreeSet<_> = pairs.into_iter().collect();
        for (pair, &truth) in &self.0 {
            assert!(
                truth <= bound || held.contains(pair),
                "{pair:?}: {truth} > {bound}"
            );
            assert!(truth <= history.max_error() + ROUNDING || held.contains(pair));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_guarantee_holds(run in run(24), capacity in 1_usize..40, decay in decay()) {
        let mut history = PairHistory::new(capacity, decay).unwrap();
        let (mut oracle, mut largest) = (Oracle::default(), 0);
        for (step, selected) in (0..).step_by(3).zip(&run) {
            observe(&mut history, step, selected);
            oracle.observe(decay, selected);
            largest = largest.max(selected.len());
            oracle.check(&history, largest);
        }
    }

    #[test]
    fn counts_equal_the_definition_while_nothing_is_evicted(run in run(24)) {
        let mut history = PairHistory::new(1000, 0.9).unwrap();
        for (step, selected) in (100..).zip(&run) {
            observe(&mut history, step, selected);
        }
        let top = history.top(usize::MAX).expect("memory");
        for at in 0..top.i.len() {
            let pair = Pair::from_columns(&top.i[at..=at], &top.j[at..=at]).unwrap()[0];
            let hits: Vec<usize> = (0..run.len()).filter(|&t| run[t].contains(&pair)).collect();
            let streaks: Vec<_> = hits.chunk_by(|a, b| a + 1 == *b).map(<[usize]>::len).collect();
            let current = if hits.last() == Some(&(run.len() - 1)) { *streaks.last().unwrap() } else { 0 };
            prop_assert_eq!(top.hits[at], hits.len() as i64);
            prop_assert_eq!(top.first_seen[at], 100 + hits[0] as i64);
            prop_assert_eq!(top.last_seen[at], 100 + *hits.last().unwrap() as i64);
            prop_assert_eq!(top.streak[at], current as i64);
            prop_assert_eq!(top.longest_streak[at], *streaks.iter().max().unwrap() as i64);
            prop_assert_eq!(top.ema_low[at], top.ema_high[at]);
        }
    }

    #[test]
    fn stability_equals_set_arithmetic(run in run(24)) {
        let mut history = PairHistory::new(1000, 0.9).unwrap();
        for (step, selected) in (0..).zip(&run) {
            observe(&mut history, step, selected);
        }
        let report = history.stability();
        let jaccards: Vec<f64> = run.windows(2).map(|w| jaccard(&w[0], &w[1])).collect();
        let mean = jaccards.iter().sum::<f64>() / jaccards.len() as f64;
        prop_assert_eq!(report.mean_jaccard.is_some(), run.len() > 1);
        prop_assert!(report.mean_jaccard.is_none_or(|got| (got - mean).abs() < ROUNDING));
        let last = report.last.unwrap();
        prop_assert_eq!(last.jaccard, jaccards.last().copied());
        prop_assert_eq!(last.size as usize, run.last().unwrap().len());
        prop_assert_eq!(last.kept + last.entered, last.size);
        for survival in report.survival {
            let lag = survival.lag as usize;
            let compared = (0..run.len()).step_by(lag).filter(|t| t + lag < run.len());
            let (kept, anchored) = compared.fold((0, 0), |(kept, anchored), t| {
                (kept + run[t].intersection(&run[t + lag]).count(), anchored + run[t].len())
            });
            prop_assert_eq!((survival.kept, survival.anchored), (kept as u64, anchored as u64));
        }
        prop_assert_eq!(report.lifetimes.counts, lifetimes(&run));
        prop_assert_eq!(report.lifetimes.unknown, 0);
    }

    #[test]
    fn neither_the_order_of_pairs_nor_a_round_trip_is_seen(
        run in run(24), capacity in 1_usize..40, cut in 0_usize..60, seed in any::<u64>(),
    ) {
        let mut straight = PairHistory::new(capacity, 0.97).unwrap();
        let mut other = straight.clone();
        for (step, selected) in run.iter().enumerate() {
            observe(&mut straight, step as u64, selected);
            let mut pairs: Vec<_> = selected.iter().copied().collect();
            pairs.sort_by_key(|pair| pair.bits().wrapping_mul(seed | 1));
            other.observe(step as u64, &pairs).unwrap();
            if step == cut {
                other = PairHistory::from_bytes(&other.to_bytes().expect("memory")).unwrap();
            }
            prop_assert_eq!(straight.stability(), other.stability());
        }
        prop_assert_eq!(straight.to_bytes(), other.to_bytes());
    }
}

fn jaccard(a: &Selected, b: &Selected) -> f64 {
    let union = a.union(b).count();
    if union == 0 {
        1.0
    } else {
        a.intersection(b).count() as f64 / union as f64
    }
}

fn lifetimes(run: &[Selected]) -> [u64; 32] {
    let mut counts = [0; 32];
    let all: Selected = run.iter().flatten().copied().collect();
    for pair in all {
        let hits: Vec<usize> = (0..run.len()).filter(|&t| run[t].contains(&pair)).collect();
        for streak in hits.chunk_by(|a, b| a + 1 == *b) {
            if *streak.last().unwrap() + 1 < run.len() {
                counts[streak.len().ilog2() as usize] += 1;
            }
        }
    }
    counts
}

#[test]
fn a_refused_observation_changes_nothing() {
    let mut history = PairHistory::new(10, 0.9).unwrap();
    history.observe(5, &[pair(0), pair(1)]).unwrap();
    let before = history.to_bytes().expect("memory");
    let twice = Error::DuplicatePair { i: 2, j: 8 };
    assert_eq!(
        history.observe(5, &[]),
        Err(Error::StepOrder { given: 5, last: 5 })
    );
    assert_eq!(
        history.observe(1 << 63, &[]),
        Err(Error::StepRange { given: 1 << 63 })
    );
    assert_eq!(history.observe(6, &[pair(2), pair(1), pair(2)]), Err(twice));
    assert_eq!(
        history.observe_columns(6, &[0, 2], &[1, 2]),
        Err(Error::PairOrder { i: 2, j: 2 })
    );
    assert_eq!(history.to_bytes().expect("memory"), before);
}

#[test]
fn configurations_that_hold_nothing_are_refused() {
    for capacity in [0, usize::MAX] {
        let error = Error::Capacity {
            given: capacity,
            largest: 1 << 30,
        };
        assert_eq!(PairHistory::new(capacity, 0.5).err(), Some(error));
    }
    for decay in [0.0, 1.0, -0.5, f64::INFINITY] {
        assert_eq!(
            PairHistory::new(1, decay).err(),
            Some(Error::Decay { given: decay })
        );
    }
    assert!(PairHistory::new(1, f64::NAN).is_err());
    assert_eq!(PairHistory::new(1 << 30, 0.5).unwrap().len(), 0);
}

#[test]
fn empty_selections_are_observations() {
    let mut history = PairHistory::new(4, 0.5).unwrap();
    assert_eq!(
        (history.last_step(), history.stability().last),
        (None, None)
    );
    for step in 0..3 {
        history.observe(step, &[]).unwrap();
    }
    let last = history.stability().last.unwrap();
    assert_eq!(
        (last.size, last.jaccard, last.mean_ema, last.stable_share),
        (0, Some(1.0), 0.0, 0.0)
    );
    assert_eq!(
        (history.observations(), history.last_step(), history.len()),
        (3, Some(2), 0)
    );
    assert_eq!(history.hubs(3), (vec![], vec![]));
}

#[test]
fn a_streak_whose_record_was_evicted_ends_unknown() {
    let mut history = PairHistory::new(1, 0.5).unwrap();
    history.observe(0, &[pair(0), pair(1)]).unwrap();
    history.observe(1, &[]).unwrap();
    let lifetimes = history.stability().lifetimes;
    assert_eq!((lifetimes.counts[0], lifetimes.unknown), (1, 1));
}

#[test]
fn hubs_are_ordered_by_degree_then_feature() {
    let mut history = PairHistory::new(10, 0.5).unwrap();
    history
        .observe_columns(0, &[0, 2, 2, 5], &[2, 3, 9, 9])
        .unwrap();
    assert_eq!(history.hubs(3), (vec![2, 9, 0], vec![3, 2, 1]));
}
