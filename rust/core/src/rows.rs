//! Rows of a matrix and their products, as wide as the processor allows.
//!
//! A dot product is summed in a fixed number of lanes, without fused multiplication, so that its bits depend neither on
//! the processor nor on the number of threads. Nothing here allocates but the norms.

use crate::Error;
use crate::simd::Kernel;
use std::ops::Range;

/// Partial sums of a float32 dot product.
const LANES: usize = 32;
/// Partial sums of a float64 dot product.
const LANES_F64: usize = 16;

/// `[n, d]` float32, row after row.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    data: &'a [f32],
    width: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `width` numbers each.
    ///
    /// # Errors
    /// [`Error::RowsShape`] if the data is not a whole number of rows, or the width is 0.
    pub const fn new(data: &'a [f32], width: usize) -> Result<Self, Error> {
        if width == 0 || !data.len().is_multiple_of(width) {
            return Err(Error::RowsShape {
                given: data.len(),
                width,
            });
        }
        Ok(Self { data, width })
    }

    /// Number of rows.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.data.len() / self.width
    }

    /// Returns whether there is no row.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Numbers in a row.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Returns all numbers, row after row.
    #[must_use]
    pub const fn numbers(&self) -> &'a [f32] {
        self.data
    }

    #[inline(always)]
    pub(crate) fn row(&self, at: usize) -> &'a [f32] {
        &self.data[at * self.width..][..self.width]
    }
}

/// `<a, b>` in float32, off by at most [`dot_error`] of `|a| |b|`.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    total(&dot_lanes(a, b))
}

/// `<a, b>` for four `b`, each as [`dot`] gives it.
///
/// In two steps: summed up at once, the compiler would cut the vectors of the long loop to the width of the last sum.
#[inline(always)]
pub(crate) fn dot_four(a: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let (mut lanes, mut dots) = ([[0.0; 8]; 4], [0.0; 4]);
    for (lanes, row) in lanes.iter_mut().zip(rows) {
        *lanes = dot_lanes(a, row);
    }
    for (dot, lanes) in dots.iter_mut().zip(&lanes) {
        *dot = total(lanes);
    }
    dots
}

/// The terms of [`dot`] in eight partial sums, what is over as one more block with zeros.
#[inline(always)]
pub(crate) fn dot_lanes(a: &[f32], b: &[f32]) -> [f32; 8] {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [[0.0; 16]; LANES / 16];
    for (a, b) in a.iter().zip(b) {
        add_products(&mut sums, a, b);
    }
    if !a_rest.is_empty() {
        let mut rest = [[0.0; LANES]; 2];
        rest[0][..a_rest.len()].copy_from_slice(a_rest);
        rest[1][..b_rest.len()].copy_from_slice(b_rest);
        add_products(&mut sums, &rest[0], &rest[1]);
    }
    let s: [f32; 16] = std::array::from_fn(|lane| sums[0][lane] + sums[1][lane]);
    std::array::from_fn(|lane| s[lane] + s[lane + 8])
}

/// The sum of the lanes.
#[inline(always)]
pub(crate) fn total(s: &[f32; 8]) -> f32 {
    ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
}

#[inline(always)]
fn add_products(sums: &mut [[f32; 16]; LANES / 16], a: &[f32; LANES], b: &[f32; LANES]) {
    let (a, b) = (a.as_chunks::<16>().0, b.as_chunks::<16>().0);
    for (sums, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
}

/// Roundings on the way of a product into the sum, each of 2^-24 at most; and as many again for what they multiply to.
/// Products below the smallest normal number are the caller's business.
pub(crate) fn dot_error(width: usize) -> f64 {
    let roundings = width.div_ceil(LANES) + LANES.ilog2() as usize + 2;
    2.0 * roundings as f64 * 2.0_f64.powi(-24)
}

/// `<a, b>` in float64: products are exact.
#[inline(always)]
pub(crate) fn dot_f64(a: &[f32], b: &[f32]) -> f64 {
    let (a, a_rest) = a.as_chunks::<LANES_F64>();
    let (b, b_rest) = b.as_chunks::<LANES_F64>();
    let mut sums = [0.0_f64; LANES_F64];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES_F64 {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += f64::from(*a) * f64::from(*b);
    }
    let sums: [f64; 8] = std::array::from_fn(|lane| sums[lane] + sums[lane + 8]);
    let sums: [f64; 4] = std::array::from_fn(|lane| sums[lane] + sums[lane + 4]);
    (sums[0] + sums[2]) + (sums[1] + sums[3])
}

/// `out += scale * row`.
#[inline(always)]
pub(crate) fn add_scaled(out: &mut [f32], scale: f32, row: &[f32]) {
    for (out, row) in out.iter_mut().zip(row) {
        *out += scale * row;
    }
}

/// `out += scales[0] * rows[0] + ...`, in that order, reading `out` once.
#[inline(always)]
pub(crate) fn add_four(out: &mut [f32], scales: [f32; 4], rows: [&[f32]; 4]) {
    let n = out.len();
    let [a, b, c, d] = rows.map(|row| &row[..n]);
    for at in 0..n {
        let mut sum = out[at];
        sum += scales[0] * a[at];
        sum += scales[1] * b[at];
        sum += scales[2] * c[at];
        sum += scales[3] * d[at];
        out[at] = sum;
    }
}

/// Euclidean norms of some rows, in float64.
pub(crate) struct Norms<'a> {
    pub(crate) rows: Rows<'a>,
    pub(crate) share: Range<usize>,
}

impl Kernel for Norms<'_> {
    type Answer = Vec<f64>;
    #[inline(always)]
    fn run(self) -> Vec<f64> {
        let mut norms = Vec::with_capacity(self.share.len());
        for at in self.share {
            let row = self.rows.row(at);
            norms.push(dot_f64(row, row).sqrt());
        }
        norms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::dispatch;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn dots_are_within_their_bound(
            numbers in prop::collection::vec((-9.0_f32..9.0, -9.0_f32..9.0), 0..300),
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = numbers.iter().copied().unzip();
            let exact: f64 = numbers.iter().map(|&(a, b)| f64::from(a) * f64::from(b)).sum();
            let norms = (dot_f64(&a, &a) * dot_f64(&b, &b)).sqrt();
            prop_assert!((dot_f64(&a, &b) - exact).abs() <= 1e-13 * norms);
            prop_assert!((f64::from(dot(&a, &b)) - exact).abs() <= dot_error(a.len()) * norms);
            let rows = [a.clone(), b].concat();
            if let Ok(rows) = Rows::new(&rows, a.len()) {
                let norms = dispatch(Norms { rows, share: 0..2 });
                let plain = [0, 1].map(|at| dot_f64(rows.row(at), rows.row(at)).sqrt());
                prop_assert_eq!(norms, plain);
            }
        }

        #[test]
        fn four_rows_at_once_are_four_rows(
            numbers in prop::collection::vec((-9.0_f32..9.0, -9.0_f32..9.0), 0..50), scales in any::<[i8; 4]>(),
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = numbers.iter().copied().unzip();
            let scales = scales.map(|scale| f32::from(scale) / 7.0);
            let (mut one, mut four) = (a.clone(), a.clone());
            for (scale, row) in scales.iter().zip([&a, &b, &b, &a]) {
                add_scaled(&mut one, *scale, row);
            }
            add_four(&mut four, scales, [&a, &b, &b, &a]);
            prop_assert_eq!(one, four);
        }
    }

    #[test]
    fn refuses_broken_rows() {
        assert!(matches!(
            Rows::new(&[1.0; 5], 2),
            Err(Error::RowsShape { given: 5, width: 2 })
        ));
        assert!(Rows::new(&[], 0).is_err());
        assert_eq!(
            Rows::new(&[1.0; 6], 2).map(|rows| (rows.len(), rows.width())),
            Ok((3, 2))
        );
    }
}
