//! Selections against their definitions: sorted, in thirty obvious lines.
//!
//! The first byte says which of the selectors the others are for.

use super::input::Input;
use std::collections::BTreeMap;
use topk_ortho_core::{Coactivation, Codes, Pair, Rows, Selection, TopK, top_products};

const VALUES: [f32; 16] = [
    0.0,
    -0.0,
    1.0,
    2.0,
    0.1,
    1e-30,
    3e38,
    f32::MIN_POSITIVE,
    1e-45,
    7.0,
    1.0000001,
    1e19,
    f32::NAN,
    f32::INFINITY,
    -1.0,
    0.3,
];

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 3 {
        0 => streamed(&mut input),
        1 => products(&mut input),
        _ => coactive(&mut input),
    }
}

/// Mostly numbers that can be ranked: a whole input is refused for one that cannot.
fn value(input: &mut Input<'_>) -> f32 {
    let byte = input.u8();
    match byte {
        0..16 => VALUES[usize::from(byte)],
        16..128 => f32::from(byte % 16),
        _ => f32::from(byte) / 7.0,
    }
}

fn can_be_ranked(score: f32) -> bool {
    score.is_finite() && score >= 0.0
}

type Scored = ((i64, i64), f32);

/// Best first, ties to the smaller pair.
fn best(mut all: Vec<Scored>, k: usize) -> Vec<Scored> {
    all.retain(|scored| scored.1 > 0.0);
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    all
}

fn scored(selection: Selection) -> Vec<Scored> {
    let (i, j, score) = selection.into_columns();
    i.into_iter().zip(j).zip(score).collect()
}

/// Blocks of candidates, some of them no pairs: what was accepted is all candidates there are.
fn streamed(input: &mut Input<'_>) {
    let k = usize::from(input.u16() % 700);
    let Ok(mut selector) = TopK::new(k) else {
        assert_eq!(k, 0);
        return;
    };
    let mut accepted = Vec::new();
    for _ in 0..12 {
        if input.is_empty() {
            break;
        }
        let (size, spread) = (input.u16() % 3000, i64::from(input.u8()));
        let (first, odd) = (i64::from(input.u8()), input.u8());
        let period = usize::from(1 + input.u8() % 8);
        let pattern: Vec<f32> = (0..period).map(|_| value(input)).collect();
        let mut block: Vec<Scored> = (0..i64::from(size))
            .map(|n| {
                (
                    (first, first + 1 + n * spread),
                    pattern[n as usize % period],
                )
            })
            .collect();
        if let Some(last) = block.last_mut() {
            match odd {
                0 => last.0.0 = -1,
                1 => last.0.1 = last.0.0,
                2 => last.0.1 = 1 << 32,
                3 => last.1 = f32::NAN,
                _ => (),
            }
        }
        push(&mut selector, &block, &mut accepted);
        let expected = best(accepted.clone(), k);
        assert_eq!(selector.len(), expected.len());
        assert_eq!(selector.threshold(), expected.get(k - 1).map(|kth| kth.1));
    }
    assert_eq!(scored(selector.finish()), best(accepted, k));
    assert!(selector.is_empty());
}

fn push(selector: &mut TopK, block: &[Scored], accepted: &mut Vec<Scored>) {
    let i: Vec<i64> = block.iter().map(|scored| scored.0.0).collect();
    let j: Vec<i64> = block.iter().map(|scored| scored.0.1).collect();
    let scores: Vec<f32> = block.iter().map(|scored| scored.1).collect();
    let ranked = scores.iter().all(|&score| can_be_ranked(score));
    let pairs = Pair::from_columns(&i, &j).is_ok();
    let pushed = selector.push_columns(&i, &j, &scores);
    assert!(pushed.is_ok() || !(ranked && pairs), "{pushed:?}");
    assert!(pushed.is_err() || ranked);
    if pushed.is_ok() {
        accepted.extend(block);
    }
}

fn products(input: &mut Input<'_>) {
    let k = usize::from(input.u16() % 900);
    let m: Vec<f32> = (0..input.below(60)).map(|_| value(input)).collect();
    let mut all = Vec::new();
    for (i, &a) in m.iter().enumerate() {
        for (j, &b) in m.iter().enumerate().skip(i + 1) {
            let score = (f64::from(a) * f64::from(b)) as f32;
            all.push(((i as i64, j as i64), score));
        }
    }
    let fine = k > 0
        && m.iter().all(|&value| can_be_ranked(value))
        && all.iter().all(|scored| can_be_ranked(scored.1));
    match top_products(&m, k) {
        Ok(selection) => assert_eq!(scored(selection), best(all, k)),
        Err(error) => assert!(!fine, "{error}"),
    }
    assert!(fine || top_products(&m, k).is_err());
}

/// A batch, perhaps no batch: rows may go back, features may fall or be too large.
struct Batch {
    crow: Vec<i64>,
    col: Vec<i64>,
    value: Vec<f32>,
    d_sae: usize,
}

impl Batch {
    fn new(input: &mut Input<'_>) -> Self {
        let mut d_sae = 1 + input.below(90);
        let (mut crow, mut col, mut numbers) = (vec![0], Vec::new(), Vec::new());
        if input.u8() > 250 {
            // One row of more pairs than are held before the best are kept.
            d_sae = 300;
            col.extend(0..d_sae as i64);
            let pattern: Vec<f32> = (0..16).map(|_| value(input)).collect();
            numbers.extend((0..d_sae).map(|n| pattern[n % 16] * (1 + n % 7) as f32));
            crow.push(col.len() as i64);
        }
        for _ in 0..input.below(20) {
            let mut feature = -1;
            for _ in 0..input.below(9) {
                let gap = i64::from(input.u8());
                feature += if gap > 250 { gap - 253 } else { 1 + gap % 12 };
                if feature < d_sae as i64 || gap > 247 {
                    col.push(feature);
                    numbers.push(value(input));
                }
            }
            crow.push(col.len() as i64);
        }
        if input.u8() > 250 {
            let at = input.below(crow.len());
            crow[at] = i64::from(input.u8()) - 3;
        }
        Self {
            crow,
            col,
            value: numbers,
            d_sae,
        }
    }

    fn codes(&self) -> Codes<'_, i64, f32> {
        Codes {
            crow: &self.crow,
            col: &self.col,
            value: &self.value,
            d_sae: self.d_sae,
        }
    }

    /// The features and values of each row; `None` for what is no batch.
    fn rows(&self) -> Option<Vec<Vec<(i64, f64)>>> {
        let mut rows = Vec::new();
        let mut at = 0;
        (self.crow[0] == 0 && *self.crow.last()? == self.col.len() as i64).then_some(())?;
        for &end in &self.crow[1..] {
            let end = usize::try_from(end).ok().filter(|&end| at <= end)?;
            let features = self.col.get(at..end)?;
            let known = features.iter().all(|f| (0..self.d_sae as i64).contains(f));
            (known && features.is_sorted_by(|a, b| a < b)).then_some(())?;
            let values = self.value[at..end].iter().map(|&value| f64::from(value));
            rows.push(features.iter().copied().zip(values).collect());
            at = end;
        }
        Some(rows)
    }
}

/// The definition: every pair that fires together, its products added row by row.
fn sums(rows: &[Vec<(i64, f64)>]) -> BTreeMap<(i64, i64), f64> {
    let mut sums = BTreeMap::new();
    for row in rows {
        for (at, &(i, a)) in row.iter().enumerate() {
            for &(j, b) in &row[at + 1..] {
                *sums.entry((i, j)).or_insert(0.0) += a * b;
            }
        }
    }
    sums
}

/// One selector sees batch after batch, so that its threshold and its buffers are those of another one.
fn coactive(input: &mut Input<'_>) {
    let mut selector = Coactivation::new(1 + input.below(3)).expect("threads");
    for _ in 0..4 {
        let batch = Batch::new(input);
        let k = 1 + usize::from(input.u16() % 300);
        let Some(rows) = batch.rows() else {
            assert!(selector.select(&batch.codes(), k).is_err());
            assert!(selector.blocks(&batch.codes().pattern(), 9).is_err());
            continue;
        };
        let sums = sums(&rows);
        check_selection(&mut selector, &batch, &sums, k);
        check_blocks(&mut selector, &batch, &sums, u64::from(input.u8()));
        check_cosines(&mut selector, &batch, &sums, k, input.u8());
        if input.is_empty() {
            return;
        }
    }
}

fn check_selection(
    selector: &mut Coactivation,
    batch: &Batch,
    sums: &BTreeMap<(i64, i64), f64>,
    k: usize,
) {
    let scores: Vec<Scored> = sums
        .iter()
        .map(|(&pair, &sum)| (pair, sum as f32))
        .collect();
    let fine = scores.iter().all(|scored| can_be_ranked(scored.1));
    match selector.select(&batch.codes(), k) {
        Ok(selected) => {
            assert!(fine);
            let positive = scores.iter().filter(|scored| scored.1 > 0.0).count();
            assert_eq!(selected.positive, positive as u64);
            assert_eq!(scored(selected.selection), best(scores, k));
        }
        Err(error) => assert!(!fine, "{error}"),
    }
}

fn check_blocks(
    selector: &mut Coactivation,
    batch: &Batch,
    sums: &BTreeMap<(i64, i64), f64>,
    most: u64,
) {
    let (mut first, mut all) = (0, Vec::new());
    for last in selector
        .blocks(&batch.codes().pattern(), most)
        .expect("codes")
    {
        let block = selector.pairs(&batch.codes(), first..last).expect("codes");
        assert!(block.i.len() as u64 <= most || last == first + 1);
        let bits = block.sum.iter().map(|sum| sum.to_bits());
        all.extend(block.i.into_iter().zip(block.j).zip(bits));
        first = last;
    }
    let bits = |sum: f64| {
        if sum.is_nan() {
            None
        } else {
            Some(sum.to_bits())
        }
    };
    assert_eq!(first, batch.d_sae);
    assert_eq!(all.len(), sums.len());
    for (got, (&pair, &sum)) in all.iter().zip(sums) {
        assert_eq!((got.0, bits(f64::from_bits(got.1))), (pair, bits(sum)));
    }
}

/// Rows of small whole numbers: products and sums are exact in any order.
fn check_cosines(
    selector: &mut Coactivation,
    batch: &Batch,
    sums: &BTreeMap<(i64, i64), f64>,
    k: usize,
    seed: u8,
) {
    let width = 1 + usize::from(seed % 40);
    let number = |n: usize| {
        let hash = (n as u32 ^ u32::from(seed)).wrapping_mul(0x9e37_79b9);
        (hash.rotate_left(15).wrapping_mul(0x85eb_ca6b) >> 28) as f32 - 7.0
    };
    let numbers: Vec<f32> = (0..batch.d_sae * width).map(number).collect();
    let rows = Rows::new(&numbers, width).expect("rows");
    let row = |at: i64| &numbers[at as usize * width..][..width];
    let dot = |i, j| -> f64 {
        let products = row(i).iter().zip(row(j));
        products.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let inverse = |at| match dot(at, at).sqrt() {
        norm if norm > 0.0 => norm.recip(),
        _ => 0.0,
    };
    let cosine = |(i, j)| (dot(i, j) * inverse(i) * inverse(j)) as f32;
    let scores: Vec<Scored> = sums.keys().map(|&pair| (pair, cosine(pair))).collect();
    let selected = selector
        .select_cosine(&batch.codes(), rows, k)
        .expect("rows");
    let positive = scores.iter().filter(|scored| scored.1 > 0.0).count();
    assert_eq!(selected.positive, positive as u64);
    assert_eq!(scored(selected.selection), best(scores, k));
}
