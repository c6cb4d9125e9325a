//! The history at its reference size: 134,209 pairs per observation, about five million records.
//!
//! `cargo bench --bench history`. Needs about 1.2 GB.
#![expect(clippy::unwrap_used, reason = "a benchmark stops at its first error")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::{Duration, Instant};
use topk_ortho_core::{Pair, PairHistory};

const K: u64 = 134_209;
const CAPACITY: usize = 5_000_000;

/// The selection at a step, its new pairs numbered from the second argument on.
type Select = fn(u64, u64) -> Vec<Pair>;

/// SplitMix64: the same numbers on every run.
fn random(n: u64) -> u64 {
    let mut x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A pair of two among 16,384 features.
fn pair(n: u64) -> Pair {
    let (a, b) = ((random(n) >> 50) as u32, (random(!n) >> 50) as u32);
    Pair::try_new(a.min(b), a.max(b) + 1).unwrap()
}

fn distinct(mut pairs: Vec<Pair>) -> Vec<Pair> {
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

/// Selections whose pairs are new (numbered from `fresh` on) with the given chance in 1024, else among five million.
fn selection(seed: u64, fresh: u64, chance: u64) -> Vec<Pair> {
    let pick = |n: u64| {
        let dice = random(seed << 32 | n);
        if dice % 1024 < chance {
            pair(fresh + n)
        } else {
            pair((dice >> 10) % CAPACITY as u64)
        }
    };
    distinct((0..K).map(pick).collect())
}

/// As in training: eighty thousand of a hundred thousand that persist, some that come back, one in ten new.
fn training(seed: u64, fresh: u64) -> Vec<Pair> {
    let dice = |n: u64| random(seed << 32 | n);
    let persistent = (0..100_000).filter(|&n| dice(n) % 5 > 0);
    let returning = (0..40_000).map(|n| dice(K + n) % CAPACITY as u64);
    let new = fresh..fresh + 14_000;
    distinct(persistent.chain(returning).chain(new).map(pair).collect())
}

/// The best pair first, as a selector gives them.
fn shuffled(mut pairs: Vec<Pair>) -> Vec<Pair> {
    pairs.sort_unstable_by_key(|pair| random(pair.bits()));
    pairs
}

fn full() -> PairHistory {
    let mut history = PairHistory::new(CAPACITY, 0.99).unwrap();
    for (step, start) in (0..CAPACITY as u64).step_by(K as usize).enumerate() {
        let end = (start + K).min(CAPACITY as u64);
        history
            .observe(step as u64, &distinct((start..end).map(pair).collect()))
            .unwrap();
    }
    history
}

fn observe(c: &mut Criterion) {
    let start = full();
    let mut group = c.benchmark_group("observe 134k pairs, 5M records");
    group.throughput(Throughput::Elements(K));
    let cases: [(&str, Select); 4] = [
        ("as in training", training),
        ("as in training, best first", |seed, fresh| {
            shuffled(training(seed, fresh))
        }),
        ("any of 5M", |seed, fresh| selection(seed, fresh, 0)),
        ("any of 5M, half new", |seed, fresh| {
            selection(seed, fresh, 512)
        }),
    ];
    for (name, select) in cases {
        let mut history = start.clone();
        let mut fresh = CAPACITY as u64;
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let step = history.last_step().unwrap() + 1;
                    let pairs = select(step, fresh);
                    fresh += K;
                    let began = Instant::now();
                    history.observe(step, black_box(&pairs)).unwrap();
                    spent += began.elapsed();
                }
                spent
            });
        });
    }
    group.finish();
    queries(c, &start);
}

fn queries(c: &mut Criterion, history: &PairHistory) {
    let mut group = c.benchmark_group("5M records");
    let pairs = selection(1, 0, 0);
    group.bench_function("ema of 134k pairs", |b| {
        b.iter(|| history.ema(black_box(&pairs)));
    });
    group.bench_function("top 1000", |b| b.iter(|| history.top(1000)));
    group.bench_function("to_bytes", |b| b.iter(|| history.to_bytes()));
    let bytes = history.to_bytes().unwrap();
    group.bench_function("from_bytes", |b| {
        b.iter(|| PairHistory::from_bytes(&bytes).unwrap());
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = observe
}
criterion_main!(benches);
