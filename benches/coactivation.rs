//! Pairs that fire together, and the price of their overlap, at the reference size: 16,384 features, 768 dimensions,
//! 1,024 rows of 32 active features with Zipf-like frequencies, 0.1 % of all pairs.
//!
//! `cargo bench --bench coactivation`.
#![expect(clippy::unwrap_used, reason = "a benchmark stops at its first error")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::Duration;
use topk_ortho_core::penalty::{PairPenalty, RowPairs, Slopes};
use topk_ortho_core::{
    Coactivation, Codes, Rows, pair_cosines, pair_gradient, pair_penalty, row_norms,
};

const D_SAE: usize = 16_384;
const WIDTH: usize = 768;
const BATCH: u64 = 1024;
const L0: usize = 32;
const K: usize = 134_209;

/// SplitMix64: the same numbers on every run.
fn random(n: u64) -> u64 {
    let mut x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn uniform(n: u64) -> f64 {
    (random(n) >> 11) as f64 / (1_u64 << 53) as f64
}

struct Batch {
    crow: Vec<i64>,
    col: Vec<i64>,
    value: Vec<f32>,
}

impl Batch {
    /// The feature of rank r fires with a chance of about 1 / (r + 30); ranks are scattered over the indices.
    fn new(seed: u64) -> Self {
        let (mut crow, mut col) = (vec![0], Vec::new());
        for row in 0..BATCH {
            let mut features = BTreeSet::new();
            for n in 0.. {
                let dice = uniform(seed << 40 | row << 20 | n);
                let rank = 30.0 * ((D_SAE as f64 / 30.0 + 1.0).powf(dice) - 1.0);
                features.insert(rank as i64 * 5_741 % D_SAE as i64);
                if features.len() == L0 {
                    break;
                }
            }
            col.extend(features);
            crow.push(col.len() as i64);
        }
        let value = (0..col.len() as u64).map(|n| 0.1 + uniform(seed << 41 | n) as f32);
        let value = value.collect();
        Self { crow, col, value }
    }

    fn codes(&self) -> Codes<'_, i64, f32> {
        Codes {
            crow: &self.crow,
            col: &self.col,
            value: &self.value,
            d_sae: D_SAE,
        }
    }

    /// What one would write first: a map of sums, sorted.
    fn by_map(&self) -> usize {
        let mut sums = BTreeMap::<(i64, i64), f64>::new();
        for row in self.crow.windows(2) {
            let row = row[0] as usize..row[1] as usize;
            let (col, value) = (&self.col[row.clone()], &self.value[row]);
            for at in 0..col.len() {
                for other in at + 1..col.len() {
                    let product = f64::from(value[at]) * f64::from(value[other]);
                    *sums.entry((col[at], col[other])).or_default() += product;
                }
            }
        }
        let mut scored: Vec<_> = sums
            .into_iter()
            .map(|(pair, sum)| (sum as f32, pair))
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        scored.truncate(K);
        scored.len()
    }
}

fn decoder() -> Vec<f32> {
    let number = |n| uniform(n) as f32 - 0.5;
    (0..(D_SAE * WIDTH) as u64).map(number).collect()
}

fn select(c: &mut Criterion) {
    let batches: Vec<Batch> = (0..8).map(Batch::new).collect();
    let products = BATCH * (L0 * (L0 - 1) / 2) as u64;
    let mut group = c.benchmark_group("coactivation");
    group.throughput(Throughput::Elements(products));
    for threads in [1, 2] {
        let mut coactivation = Coactivation::new(threads).unwrap();
        let mut next = batches.iter().cycle();
        group.bench_function(format!("select {K}, {threads} threads"), |b| {
            b.iter(|| {
                coactivation
                    .select(&next.next().unwrap().codes(), K)
                    .unwrap()
            });
        });
    }
    group.bench_function(format!("select {K}, first batch"), |b| {
        b.iter(|| {
            Coactivation::new(1)
                .unwrap()
                .select(&batches[0].codes(), K)
                .unwrap()
        });
    });
    let mut coactivation = Coactivation::new(1).unwrap();
    group.bench_function("all pairs with their sums", |b| {
        b.iter(|| coactivation.pairs(&batches[0].codes(), 0..D_SAE).unwrap());
    });
    group.bench_function("baseline: a map of sums, sorted", |b| {
        b.iter(|| batches[0].by_map());
    });
    let numbers = decoder();
    let rows = Rows::new(&numbers, WIDTH).unwrap();
    group.sample_size(10);
    for k in [40_960, K] {
        group.bench_function(format!("select {k} by cosine"), |b| {
            b.iter(|| {
                coactivation
                    .select_cosine(&batches[0].codes(), rows, k)
                    .unwrap()
            });
        });
    }
    group.finish();
}

fn penalty(c: &mut Criterion) {
    let batch = Batch::new(0);
    let best = Coactivation::new(1)
        .unwrap()
        .select(&batch.codes(), K)
        .unwrap();
    let (i, j, _) = best.selection.into_columns();
    let mut fired = vec![0_u32; D_SAE];
    for &feature in &batch.col {
        fired[feature as usize] += 1;
    }
    let rarer = |(&i, &j): (&i64, &i64)| fired[i as usize] < fired[j as usize];
    let moves_i: Vec<bool> = i.iter().zip(&j).map(rarer).collect();
    let moves_j: Vec<bool> = moves_i.iter().map(|moves| !moves).collect();
    let numbers = decoder();
    let rows = Rows::new(&numbers, WIDTH).unwrap();
    let pairs = RowPairs { i: &i, j: &j };
    let norms = row_norms(rows, 1).unwrap();
    let mut gradient = vec![0.0; numbers.len()];
    let mut group = c.benchmark_group("penalty");
    group
        .throughput(Throughput::Elements(K as u64))
        .sample_size(10);
    for threads in [1, 2] {
        group.bench_function(format!("norms, {threads} threads"), |b| {
            b.iter(|| row_norms(black_box(rows), threads).unwrap());
        });
        group.bench_function(format!("cosines of {K} pairs, {threads} threads"), |b| {
            b.iter(|| pair_cosines(rows, Some(&norms), pairs, threads).unwrap());
        });
        let slope = pair_cosines(rows, Some(&norms), pairs, threads).unwrap();
        let slopes = Slopes {
            slope: &slope,
            moves_i: &moves_i,
            moves_j: &moves_j,
        };
        group.bench_function(format!("gradient of {K} pairs, {threads} threads"), |b| {
            b.iter(|| {
                pair_gradient(rows, Some(&norms), pairs, slopes, &mut gradient, threads).unwrap();
            });
        });
        for (tau, words) in [(-1.0, "all above"), (0.1, "few above")] {
            let (tau, weight) = (vec![tau; K], vec![1.0; K]);
            let penalty = PairPenalty {
                tau: &tau,
                weight: &weight,
                both_signs: false,
            };
            group.bench_function(
                format!("loss and gradient in one pass, {words} τ, {threads} threads"),
                |b| {
                    b.iter(|| {
                        let norms = Some(&norms[..]);
                        pair_penalty(
                            rows,
                            norms,
                            pairs,
                            penalty,
                            &moves_i,
                            &mut gradient,
                            threads,
                        )
                        .unwrap()
                    });
                },
            );
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = select, penalty
}
criterion_main!(benches);
