use super::*;
use crate::{Error, Rows};
use proptest::prelude::*;

const ROWS: usize = 12;

#[derive(Debug, Clone)]
struct Case {
    width: usize,
    numbers: Vec<f32>,
    i: Vec<i64>,
    j: Vec<i64>,
    slope: Vec<f32>,
    moves_i: Vec<bool>,
    moves_j: Vec<bool>,
}

fn case() -> impl Strategy<Value = Case> {
    let pair = (
        0..ROWS as i64,
        0..ROWS as i64,
        -2_i8..3,
        any::<bool>(),
        any::<bool>(),
    );
    let pairs = prop::collection::vec(pair, 0..60);
    (1_usize..70, pairs).prop_flat_map(|(width, pairs)| {
        let numbers = prop::collection::vec(-1.0_f32..1.0, ROWS * width);
        (Just(width), numbers, Just(pairs)).prop_map(|(width, mut numbers, pairs)| {
            numbers[..width].fill(0.0);
            Case {
                width,
                numbers,
                i: pairs.iter().map(|pair| pair.0).collect(),
                j: pairs.iter().map(|pair| pair.1).collect(),
                slope: pairs.iter().map(|pair| f32::from(pair.2)).collect(),
                moves_i: pairs.iter().map(|pair| pair.3).collect(),
                moves_j: pairs.iter().map(|pair| pair.4).collect(),
            }
        })
    })
}

impl Case {
    fn rows(&self) -> Rows<'_> {
        Rows::new(&self.numbers, self.width).expect("rows")
    }

    fn pairs(&self) -> RowPairs<'_> {
        RowPairs {
            i: &self.i,
            j: &self.j,
        }
    }

    fn slopes(&self) -> Slopes<'_> {
        Slopes {
            slope: &self.slope,
            moves_i: &self.moves_i,
            moves_j: &self.moves_j,
        }
    }

    fn gradient(&self, norms: Option<&[f32]>, threads: usize) -> Vec<f32> {
        let mut gradient = vec![7.0; self.numbers.len()];
        pair_gradient(
            self.rows(),
            norms,
            self.pairs(),
            self.slopes(),
            &mut gradient,
            threads,
        )
        .expect("pairs");
        gradient
    }

    /// Rows in float64, at unit length where asked; a row of zeros stays.
    fn exact_rows(&self, unit: bool) -> Vec<Vec<f64>> {
        let row = |row: &[f32]| {
            let row: Vec<f64> = row.iter().map(|&x| x.into()).collect();
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            let scale = if unit && norm > 0.0 {
                norm.recip()
            } else {
                1.0
            };
            row.iter().map(|x| x * scale).collect()
        };
        self.numbers.chunks(self.width).map(row).collect()
    }

    fn exact_cosines(&self, unit: bool) -> Vec<f64> {
        let rows = self.exact_rows(unit);
        let dot = |i: usize, j: usize| rows[i].iter().zip(&rows[j]).map(|(a, b)| a * b).sum();
        self.i
            .iter()
            .zip(&self.j)
            .map(|(&i, &j)| dot(i as usize, j as usize))
            .collect()
    }

    /// The definition, pair by pair; for rows of any length through the derivative of the normalisation.
    fn exact_gradient(&self, unit: bool) -> Vec<f64> {
        let rows = self.exact_rows(unit);
        let mut gradient = vec![vec![0.0; self.width]; ROWS];
        for pair in 0..self.i.len() {
            let (i, j) = (self.i[pair] as usize, self.j[pair] as usize);
            for (moves, moving, fixed) in [(self.moves_i[pair], i, j), (self.moves_j[pair], j, i)] {
                for at in 0..self.width {
                    gradient[moving][at] +=
                        f64::from(u8::from(moves)) * f64::from(self.slope[pair]) * rows[fixed][at];
                }
            }
        }
        if unit {
            for ((gradient, unit), row) in
                gradient.iter_mut().zip(&rows).zip(self.exact_rows(false))
            {
                let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
                let along: f64 = gradient.iter().zip(unit).map(|(g, u)| g * u).sum();
                for (g, u) in gradient.iter_mut().zip(unit) {
                    *g = if norm > 0.0 {
                        (*g - along * u) / norm
                    } else {
                        0.0
                    };
                }
            }
        }
        gradient.concat()
    }
}

fn close(got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!(
            (f64::from(*got) - expected).abs() <= tolerance,
            "{got} {expected}"
        );
    }
}

/// The shortest row that is not zero, at most 1: in one dimension it may be 1e-3 long or shorter, and
/// a gradient through its normalisation is that much larger, and its rounding too.
fn shortest(norms: &[f32]) -> f64 {
    let positive = norms.iter().copied().filter(|&norm| norm > 0.0);
    f64::from(positive.fold(1.0, f32::min))
}

proptest! {
    #[test]
    fn cosines_and_gradients_equal_the_definition_on_any_number_of_threads(case in case()) {
        let norms = row_norms(case.rows(), 1).expect("threads");
        for (norms, tolerance) in [(None, 1e-4), (Some(&norms[..]), 1e-4 / shortest(&norms).powi(2))] {
            let cosines = pair_cosines(case.rows(), norms, case.pairs(), 1).expect("pairs");
            close(&cosines, &case.exact_cosines(norms.is_some()), 1e-4);
            let gradient = case.gradient(norms, 1);
            close(&gradient, &case.exact_gradient(norms.is_some()), tolerance);
            for threads in [2, 3, 40] {
                prop_assert_eq!(&row_norms(case.rows(), threads).expect("threads"), &row_norms(case.rows(), 1).expect("threads"));
                prop_assert_eq!(&pair_cosines(case.rows(), norms, case.pairs(), threads).expect("pairs"), &cosines);
                prop_assert_eq!(&case.gradient(norms, threads), &gradient);
            }
        }
    }
}

proptest! {
    /// One pass equals the cosines, their penalties and the gradient of those, one after the other.
    #[test]
    fn one_pass_equals_cosines_penalties_and_gradient_one_by_one(case in case(), both_signs in any::<bool>(), weight in 0.0_f32..2.0) {
        let norms = row_norms(case.rows(), 1).expect("threads");
        let k = case.i.len();
        let tau: Vec<f32> = (0..k).map(|pair| [0.0, 0.1, 0.4][pair % 3]).collect();
        let penalty = PairPenalty { tau: &tau, weight: &vec![weight; k], both_signs };
        let moves_j: Vec<bool> = case.moves_i.iter().map(|moves| !moves).collect();
        for (norms, tolerance) in [(None, 1e-4), (Some(&norms[..]), 1e-4 / shortest(&norms).powi(2))] {
            let cosines = pair_cosines(case.rows(), norms, case.pairs(), 1).expect("pairs");
            let over = |(cosine, tau): (&f32, &f32)| (if both_signs { cosine.abs() } else { *cosine } - tau).max(0.0);
            let over: Vec<f32> = cosines.iter().zip(&tau).map(over).collect();
            let slope: Vec<f32> = cosines.iter().zip(&over).map(|(c, o)| 2.0 * weight * o * if *c < 0.0 { -1.0 } else { 1.0 }).collect();
            let slopes = Slopes { slope: &slope, moves_i: &case.moves_i, moves_j: &moves_j };
            let mut expected = vec![7.0; case.numbers.len()];
            pair_gradient(case.rows(), norms, case.pairs(), slopes, &mut expected, 1).expect("pairs");
            let scale = expected.iter().fold(1.0_f32, |most, g| most.max(g.abs()));
            let one_pass = |threads| {
                let mut gradient = vec![7.0; case.numbers.len()];
                let total = pair_penalty(case.rows(), norms, case.pairs(), penalty, &case.moves_i, &mut gradient, threads);
                (total.expect("pairs").to_bits(), gradient)
            };
            let (total, gradient) = one_pass(1);
            let sum: f64 = over.iter().map(|o| f64::from(weight * o * o)).sum();
            prop_assert!((f64::from_bits(total) - sum).abs() <= 1e-6 * (1.0 + sum));
            close(&gradient, &expected.iter().map(|&g| g.into()).collect::<Vec<_>>(), tolerance * f64::from(scale));
            for threads in [2, 3, 40] {
                prop_assert_eq!(&one_pass(threads), &(total, gradient.clone()));
            }
        }
    }
}

#[test]
fn a_number_that_is_not_one_shows_in_penalty_and_gradient() {
    let rows = Rows::new(&[f32::NAN, 0.0, 0.6, 0.8], 2).expect("rows");
    let penalty = PairPenalty {
        tau: &[0.1],
        weight: &[1.0],
        both_signs: true,
    };
    let mut gradient = [0.0; 4];
    let pairs = RowPairs { i: &[0], j: &[1] };
    let total =
        pair_penalty(rows, None, pairs, penalty, &[false], &mut gradient, 1).expect("pairs");
    assert!(total.is_nan() && gradient[2].is_nan());
}

#[test]
fn refuses_penalties_that_do_not_fit_and_changes_nothing() {
    let rows = Rows::new(&[1.0; 6], 2).expect("rows");
    let mut gradient = [7.0; 6];
    let one = [1.0];
    for (tau, weight, child, j) in [
        (&one[..0], &one[..], &[true][..], 1),
        (&one, &[], &[true], 1),
        (&one, &one, &[], 1),
        (&one, &one, &[true], 3),
    ] {
        let penalty = PairPenalty {
            tau,
            weight,
            both_signs: false,
        };
        let pairs = RowPairs { i: &[0], j: &[j] };
        assert!(pair_penalty(rows, None, pairs, penalty, child, &mut gradient, 1).is_err());
        assert!(pair_penalty(rows, None, pairs, penalty, child, &mut gradient[1..], 1).is_err());
    }
    assert_eq!(gradient, [7.0; 6]);
}

#[test]
fn refuses_pairs_that_do_not_fit_and_changes_nothing() {
    let rows = Rows::new(&[1.0; 6], 2).expect("rows");
    let cosines = |i: &[i64], j: &[i64]| pair_cosines(rows, None, RowPairs { i, j }, 1);
    assert_eq!(
        cosines(&[0, 3], &[1, 0]),
        Err(Error::RowIndex { index: 3, rows: 3 })
    );
    assert_eq!(
        cosines(&[0], &[-1]),
        Err(Error::RowIndex { index: -1, rows: 3 })
    );
    let length = Error::ColumnLength {
        column: "j",
        given: 2,
        expected: 1,
    };
    assert_eq!(cosines(&[0], &[1, 2]), Err(length));
    assert_eq!(cosines(&[], &[]), Ok(vec![]));
    let pairs = RowPairs { i: &[0], j: &[1] };
    assert!(matches!(
        pair_cosines(rows, Some(&[1.0]), pairs, 1),
        Err(Error::ColumnLength {
            column: "norms",
            ..
        })
    ));
    assert_eq!(pair_cosines(rows, None, pairs, 0), Err(Error::ZeroThreads));
    let mut gradient = [7.0; 6];
    for slopes in [
        Slopes {
            slope: &[],
            moves_i: &[true],
            moves_j: &[true],
        },
        Slopes {
            slope: &[1.0],
            moves_i: &[],
            moves_j: &[true],
        },
        Slopes {
            slope: &[1.0],
            moves_i: &[true],
            moves_j: &[],
        },
    ] {
        assert!(pair_gradient(rows, None, pairs, slopes, &mut gradient, 1).is_err());
    }
    let slopes = Slopes {
        slope: &[1.0],
        moves_i: &[true],
        moves_j: &[true],
    };
    assert!(pair_gradient(rows, None, pairs, slopes, &mut gradient[1..], 1).is_err());
    assert!(
        pair_gradient(
            rows,
            None,
            RowPairs { i: &[0], j: &[3] },
            slopes,
            &mut gradient,
            1
        )
        .is_err()
    );
    assert_eq!(gradient, [7.0; 6]);
    let empty = Rows::new(&[], 4).expect("rows");
    assert_eq!(row_norms(empty, 3), Ok(vec![]));
}

proptest! {
    /// A power of two for each row changes no bit of a cosine or penalty, and divides the row's gradient.
    #[test]
    fn answers_are_the_same_at_every_scale(case in case(), exponents in prop::collection::vec(-96_i32..=96, ROWS)) {
        let mut other = case.clone();
        for (row, &exponent) in other.numbers.chunks_mut(case.width).zip(&exponents) {
            row.iter_mut().for_each(|number| *number *= 2.0_f32.powi(exponent));
        }
        // Scaling is exact only where no number was or becomes subnormal.
        prop_assume!(case.numbers.iter().all(|&number| number == 0.0 || number.abs() > 1e-6));
        let tau = vec![0.05; case.i.len()];
        let penalty = PairPenalty { tau: &tau, weight: &vec![1.0; case.i.len()], both_signs: true };
        let answers = |case: &Case, exponents: &[i32]| {
            let norms = row_norms(case.rows(), 1).expect("threads");
            let cosines = pair_cosines(case.rows(), Some(&norms), case.pairs(), 1).expect("pairs");
            let mut one_pass = vec![7.0; case.numbers.len()];
            let total = pair_penalty(case.rows(), Some(&norms), case.pairs(), penalty, &case.moves_i, &mut one_pass, 2);
            let mut gradients = [case.gradient(Some(&norms), 2), one_pass].concat();
            for (row, exponent) in gradients.chunks_mut(case.width).zip(exponents.iter().cycle()) {
                row.iter_mut().for_each(|number| *number *= 2.0_f32.powi(*exponent));
            }
            (cosines, total.expect("pairs"), gradients)
        };
        let (cosines, total, gradients) = answers(&case, &[0; ROWS]);
        let (other_cosines, other_total, other_gradients) = answers(&other, &exponents);
        prop_assert_eq!(cosines, other_cosines);
        prop_assert_eq!(total, other_total);
        let largest = gradients.iter().fold(1.0_f32, |most, g| most.max(g.abs()));
        for (one, other) in gradients.iter().zip(&other_gradients) {
            // Terms that cancel may lose bits among subnormals.
            prop_assert!((one - other).abs() <= 1e-6 * largest, "{one} {other}");
        }
    }
}

#[test]
fn rows_of_other_norms_are_right_from_1e_30_to_1e30() {
    for exponent in -30..=30 {
        let scale = 10.0_f32.powi(exponent);
        let numbers = [0.6, 0.8, 1.0, 0.0].map(|number: f32| number * scale);
        let rows = Rows::new(&numbers, 2).expect("rows");
        let norms = row_norms(rows, 1).expect("threads");
        let pairs = RowPairs { i: &[0], j: &[1] };
        let cosine = pair_cosines(rows, Some(&norms), pairs, 1).expect("pairs")[0];
        assert!((cosine - 0.6).abs() < 1e-6, "{cosine} at 1e{exponent}");
        let penalty = PairPenalty {
            tau: &[0.1],
            weight: &[1.0],
            both_signs: false,
        };
        let mut gradient = [0.0; 4];
        let total = pair_penalty(
            rows,
            Some(&norms),
            pairs,
            penalty,
            &[true],
            &mut gradient,
            1,
        );
        assert!(
            (total.expect("pairs") - 0.25).abs() < 1e-6,
            "at 1e{exponent}"
        );
        for (got, expected) in gradient.iter().zip([0.64, -0.48, 0.0, 0.0]) {
            assert!(
                (got * scale - expected).abs() < 1e-5,
                "{gradient:?} at 1e{exponent}"
            );
        }
    }
}
