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
    assert!(!table.trim());
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
    assert!(!table.trim());
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
    assert!(table.index.bytes() < 16 * table.records.capacity());
    assert_eq!(table.records.len() - table.gaps.len(), table.len());
}
