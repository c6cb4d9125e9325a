//! Exact selection: top-k of scored candidates, and of products without a matrix.
//!
//! `cargo bench --bench selector`. The reference size is 0.1 % of the pairs of 16,384 features.
#![expect(clippy::unwrap_used, reason = "a benchmark stops at its first error")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use topk_ortho_core::{Pair, TopK, top_products};

const K: usize = 134_209;
const CANDIDATES: usize = 10_000_000;

/// Candidates per call, as a tile of a score matrix gives them.
const BLOCK: usize = 65_536;

/// SplitMix64: the same numbers on every run.
fn random(n: u64) -> u64 {
    let mut x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn uniform(n: u64) -> f32 {
    (random(n) >> 40) as f32 / 16_777_216.0
}

fn candidates() -> (Vec<Pair>, Vec<f32>) {
    let pairs =
        (0..CANDIDATES as u32).map(|n| Pair::try_new(n >> 12, 1 << 14 | (n & 4095)).unwrap());
    (
        pairs.collect(),
        (0..CANDIDATES as u64).map(uniform).collect(),
    )
}

fn topk(c: &mut Criterion) {
    let (pairs, scores) = candidates();
    let mut group = c.benchmark_group("topk");
    group
        .throughput(Throughput::Elements(CANDIDATES as u64))
        .sample_size(20);
    for (k, block) in [(100, BLOCK), (K, BLOCK), (K, CANDIDATES)] {
        group.bench_function(format!("{k} of 10M in blocks of {block}"), |b| {
            b.iter(|| {
                let mut best = TopK::new(k).unwrap();
                for (pairs, scores) in pairs.chunks(block).zip(scores.chunks(block)) {
                    best.push(pairs, scores).unwrap();
                }
                black_box(best.threshold())
            });
        });
    }
    let mut best = TopK::new(K).unwrap();
    best.push(&pairs, &scores).unwrap();
    group.bench_function(format!("sorting the {K} best"), |b| {
        b.iter_batched_ref(|| best.clone(), TopK::finish, BatchSize::LargeInput);
    });
    group.bench_function("baseline: select_nth of 10M", |b| {
        b.iter_batched_ref(
            || scores.clone(),
            |scores| {
                *scores
                    .select_nth_unstable_by(K - 1, |a, b| b.total_cmp(a))
                    .1
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("top_products");
    for features in [16_384_usize, 1_048_576] {
        let m: Vec<f32> = (0..features as u64).map(|n| uniform(n).powi(4)).collect();
        group.bench_function(format!("{K} of {features} features"), |b| {
            b.iter(|| top_products(black_box(&m), K).unwrap());
        });
    }
    let equal = vec![1.0; 16_384];
    group.bench_function(format!("{K} of 16384 equal features"), |b| {
        b.iter(|| top_products(black_box(&equal), K).unwrap());
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = topk, products
}
criterion_main!(benches);
