use super::*;
use crate::selection::Selection;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Batch = Vec<BTreeMap<u32, f32>>;

const D_SAE: usize = 24;

fn batch(value: impl Strategy<Value = f32> + Clone) -> impl Strategy<Value = Batch> {
    let row = prop::collection::btree_map(0..D_SAE as u32, value, 0..9);
    prop::collection::vec(row, 0..20)
}

/// Small whole numbers make ties; the others make sums that depend on their order.
fn value() -> impl Strategy<Value = f32> + Clone {
    prop_oneof![(1_u8..4).prop_map(f32::from), 1e-3_f32..1e3, Just(1e-30)]
}

struct Columns {
    crow: Vec<i64>,
    col: Vec<i64>,
    value: Vec<f32>,
}

impl Columns {
    fn new(batch: &Batch) -> Self {
        let mut crow = vec![0];
        crow.extend(batch.iter().scan(0, |end, row| {
            *end += row.len() as i64;
            Some(*end)
        }));
        Self {
            crow,
            col: batch
                .iter()
                .flat_map(|row| row.keys())
                .map(|&c| i64::from(c))
                .collect(),
            value: batch.iter().flat_map(|row| row.values()).copied().collect(),
        }
    }

    fn codes(&self) -> Codes<'_, i64, f32> {
        Codes {
            crow: &self.crow,
            col: &self.col,
            value: &self.value,
            d_sae: D_SAE,
        }
    }
}

/// The definition: every pair that fires together, its products added row by row.
fn naive_sums(batch: &Batch) -> BTreeMap<(u32, u32), f64> {
    let mut sums = BTreeMap::new();
    for row in batch {
        for (&i, &a) in row {
            for (&j, &b) in row.range(i + 1..) {
                *sums.entry((i, j)).or_insert(0.0) += f64::from(a) * f64::from(b);
            }
        }
    }
    sums
}

fn naive_selection(scores: impl Iterator<Item = ((u32, u32), f32)>, k: usize) -> Selected {
    let mut all: Vec<_> = scores.filter(|scored| scored.1 > 0.0).collect();
    let positive = all.len() as u64;
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    let selection = Selection {
        pairs: all
            .iter()
            .map(|&((i, j), _)| Pair::try_new(i, j).expect("ordered"))
            .collect(),
        scores: all.iter().map(|scored| scored.1).collect(),
    };
    Selected {
        selection,
        positive,
    }
}

fn naive(batch: &Batch, k: usize) -> Selected {
    naive_selection(
        naive_sums(batch)
            .into_iter()
            .map(|(pair, sum)| (pair, sum as f32)),
        k,
    )
}

fn selectors() -> [Coactivation; 3] {
    [1, 2, 7].map(|threads| Coactivation::new(threads).expect("threads"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// One selector sees batches and sizes that have nothing to do with each other, so that its threshold misleads.
    #[test]
    fn selections_equal_the_definition_on_any_number_of_threads(
        runs in prop::collection::vec((batch(value()), 1_usize..150), 1..6),
    ) {
        for mut coactivation in selectors() {
            for (batch, k) in &runs {
                let columns = Columns::new(batch);
                let expected = naive(batch, *k);
                prop_assert_eq!(coactivation.select(&columns.codes(), *k), Ok(expected.clone()));
                let narrow: Vec<u32> = columns.col.iter().map(|&c| c as u32).collect();
                let double: Vec<f64> = columns.value.iter().map(|&v| v.into()).collect();
                let codes = Codes { crow: &columns.crow, col: &narrow, value: &double, d_sae: D_SAE };
                prop_assert_eq!(coactivation.select(&codes, *k), Ok(expected));
            }
        }
    }

    #[test]
    fn blocks_of_pairs_are_all_pairs(batch in batch(value()), most in 0_u64..60) {
        let columns = Columns::new(&batch);
        let expected: Vec<_> = naive_sums(&batch).into_iter().collect();
        for mut coactivation in selectors() {
            let (mut first, mut all) = (0, Vec::new());
            for last in coactivation.blocks(&columns.codes().pattern(), most).expect("codes") {
                let block = coactivation.pairs(&columns.codes(), first..last).expect("codes");
                prop_assert!(block.i.len() as u64 <= most || last == first + 1);
                let pairs = block.i.iter().zip(&block.j).map(|(&i, &j)| (i as u32, j as u32));
                all.extend(pairs.zip(block.sum));
                first = last;
            }
            prop_assert_eq!(first, D_SAE);
            prop_assert_eq!(&all, &expected);
        }
    }

    #[test]
    fn cosines_equal_the_definition(
        batch in batch(value()), k in 1_usize..150, width in 1_usize..70, seed in any::<u32>(), scale in -30_i32..30,
    ) {
        let columns = Columns::new(&batch);
        let number = |n: usize| {
            let hash = (n as u32 ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(15).wrapping_mul(0x85eb_ca6b);
            // The first row is zero, some rows are equal, the second has another length.
            match n / width {
                0 => 0.0,
                1 => 2.0_f32.powi(scale) * (hash >> 28) as f32,
                row if row % 5 == 0 => (n % width) as f32 - 1.5,
                _ => (hash >> 24) as f32 - 127.5,
            }
        };
        let numbers: Vec<f32> = (0..D_SAE * width).map(number).collect();
        let rows = Rows::new(&numbers, width).expect("rows");
        let dot = |i: u32, j: u32| crate::rows::dot_f64(rows.row(i as usize), rows.row(j as usize));
        let cosine = |i: u32, j: u32| match [dot(i, i), dot(j, j)].map(f64::sqrt) {
            [a, b] if a > 0.0 && b > 0.0 => dot(i, j) * a.recip() * b.recip(),
            _ => 0.0,
        };
        let scores = naive_sums(&batch).into_keys().map(|(i, j)| ((i, j), cosine(i, j) as f32));
        let expected = naive_selection(scores, k);
        for mut coactivation in selectors() {
            for _ in 0..2 {
                let selected = coactivation.select_cosine(&columns.codes(), rows, k);
                prop_assert_eq!(selected, Ok(expected.clone()));
            }
        }
    }
}

fn two_rows(values: [f32; 4]) -> Columns {
    Columns {
        crow: vec![0, 2, 4],
        col: vec![0, 3, 3, 9],
        value: values.to_vec(),
    }
}

#[test]
fn a_score_that_cannot_be_ranked_names_the_pair_and_leaves_nothing() {
    for mut coactivation in selectors() {
        for (values, score) in [
            ([1e30, 1e30, 1.0, 1.0], f32::INFINITY),
            ([f32::NAN, 1.0, 1.0, 1.0], f32::NAN),
            ([-1.0, 2.0, 1.0, 1.0], -2.0),
        ] {
            let error = coactivation
                .select(&two_rows(values).codes(), 1)
                .expect_err("refused");
            let expected = if score.is_finite() {
                Error::ScoreNegative { i: 0, j: 3, score }
            } else {
                Error::ScoreNotFinite { i: 0, j: 3, score }
            };
            assert_eq!(error.to_string(), expected.to_string());
        }
        let best = coactivation
            .select(&two_rows([1.0; 4]).codes(), 9)
            .expect("finite");
        assert_eq!(best.selection.scores, [1.0, 1.0]);
    }
}

/// Sums that come back to zero are noted twice; products that underflow are noted every time.
#[test]
fn sums_of_zero_are_pairs_that_fire_together_and_are_never_selected() {
    let rows = 200;
    let columns = Columns {
        crow: (0..=rows).map(|row| row * 2).collect(),
        col: [0, 1].repeat(rows as usize),
        value: [0.0, 1.0].repeat(rows as usize),
    };
    for mut coactivation in selectors() {
        let sums = coactivation
            .pairs(&columns.codes(), 0..D_SAE)
            .expect("codes");
        assert_eq!((sums.i, sums.j, sums.sum), (vec![0], vec![1], vec![0.0]));
        assert_eq!(
            coactivation.select(&columns.codes(), 5),
            Ok(Selected::default())
        );
        assert!(coactivation.bytes() < 20 * 400 + 7 * 24 * 24 + 2_000);
    }
}

/// More active features than indices of 16 bits.
#[test]
fn many_active_features_are_told_apart() {
    let d_sae = 140_000;
    let columns = Columns {
        crow: (0..=d_sae / 4).map(|row| row * 2).collect(),
        col: (0..d_sae).step_by(2).collect(),
        value: (0..d_sae / 2).map(|at| (1 + at / 2 % 500) as f32).collect(),
    };
    let codes = Codes {
        d_sae: d_sae as usize,
        ..columns.codes()
    };
    let mut rows: Vec<u32> = (0..d_sae as u32 / 4).collect();
    rows.sort_by_key(|row| (u32::MAX - row % 500, *row));
    let score = |row: u32| ((1 + row % 500) as f32).powi(2);
    for mut coactivation in selectors() {
        for k in [3_000, 100] {
            let best = coactivation.select(&codes, k).expect("codes").selection;
            let pair = |row: u32| Pair::try_new(4 * row, 4 * row + 2).expect("ordered");
            let expected: Vec<Pair> = rows[..k].iter().map(|&row| pair(row)).collect();
            assert_eq!(best.pairs, expected);
            assert!(
                best.scores
                    .iter()
                    .zip(&rows)
                    .all(|(s, &row)| *s == score(row))
            );
        }
    }
}

#[test]
fn refuses_what_cannot_be_done() {
    let columns = two_rows([1.0; 4]);
    let codes = columns.codes();
    assert_eq!(Coactivation::new(0).err(), Some(Error::ZeroThreads));
    for mut coactivation in selectors() {
        assert_eq!(coactivation.select(&codes, 0), Err(Error::ZeroK));
        let narrow = Codes { d_sae: 9, ..codes };
        assert!(matches!(
            coactivation.select(&narrow, 1),
            Err(Error::CodesFeature { row: 1, .. })
        ));
        let range = coactivation.pairs(&codes, 3..25);
        assert_eq!(
            range,
            Err(Error::FeatureRange {
                first: 3,
                last: 25,
                d_sae: D_SAE
            })
        );
        let few = Rows::new(&[1.0; 46], 2).expect("rows");
        let count = coactivation.select_cosine(&codes, few, 1);
        assert_eq!(
            count,
            Err(Error::RowCount {
                given: 23,
                d_sae: D_SAE
            })
        );
        let mut broken = [1.0; 48];
        broken[7] = f32::NAN;
        let broken = Rows::new(&broken, 2).expect("rows");
        assert_eq!(
            coactivation.select_cosine(&codes, broken, 1),
            Err(Error::RowNotFinite { row: 3 })
        );
    }
}
