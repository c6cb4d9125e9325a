//! Rows of a matrix and their products, as wide as the processor allows.
//!
//! A dot product is summed in a fixed number of lanes, without fused multiplication, so that its bits depend neither on
//! the processor nor on the number of threads. Nothing here allocates but the norms.

use crate::Error;

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

    /// Whether there is no row.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Numbers in a row.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    #[inline(always)]
    pub(crate) fn row(&self, at: usize) -> &'a [f32] {
        &self.data[at * self.width..][..self.width]
    }
}

/// `<a, b>` in float32, off by at most [`dot_error`] of `|a| |b|`.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += a * b;
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0]
}

/// Roundings on the way of a product into the sum, each of 2^-24 at most; and as many again for what they multiply to.
/// Products below the smallest normal number are the caller's business.
pub(crate) fn dot_error(width: usize) -> f64 {
    let roundings = width.div_ceil(LANES) + LANES.ilog2() as usize + 1;
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
    let mut width = LANES_F64;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0]
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

/// Runs `work` with the widest vectors of this processor. `work` and all it calls have to be inlined.
#[inline]
pub(crate) fn wide<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

#[cfg(test)]
mod tests {
    use super::*;
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
            prop_assert_eq!(wide(|| dot(&a, &b)).to_bits(), dot(&a, &b).to_bits());
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
        assert!(matches!(Rows::new(&[1.0; 5], 2), Err(Error::RowsShape { given: 5, width: 2 })));
        assert!(Rows::new(&[], 0).is_err());
        assert_eq!(Rows::new(&[1.0; 6], 2).map(|rows| (rows.len(), rows.width())), Ok((3, 2)));
    }
}
