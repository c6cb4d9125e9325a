//! Rows as directions: each with the inverse of its norm, whatever its scale.
//!
//! Products of rows are summed in float32. Rows whose norms could take them out of its range are looked at through copies
//! that an exact power of two has brought to a norm between 1 and 2; all other rows are read where they are. The copies
//! take memory for those rows alone, and 4 bytes per row where there are any.

use crate::Error;
use crate::budget::check_budget;
use crate::rows::{Norms, Rows, dot_f64};
use crate::simd::dispatch;
use crate::threads::{check_threads, run_all, split};
use std::ops::Range;

/// Norms whose products, and these divided by norms, are far from the ends of float32.
const SAFE_NORMS: Range<f32> = 1.0 / SAFE..SAFE;
const SAFE: f32 = (1_u64 << 32) as f32;

/// A row that is read where it is.
const IN_PLACE: u32 = u32::MAX;

/// Returns the Euclidean norms of all rows, each summed in float64.
///
/// # Errors
/// [`Error::ZeroThreads`].
pub fn row_norms(rows: Rows<'_>, threads: usize) -> Result<Vec<f32>, Error> {
    check_threads(threads)?;
    let shares = split(rows.len(), threads, |_| 1);
    let norms = run_all(shares, |share| dispatch(Norms { rows, share }));
    Ok(norms.concat().into_iter().map(|norm| norm as f32).collect())
}

/// Rows, and the inverses of their norms: 1 where rows are taken as they stand.
pub(super) struct Directions<'a> {
    rows: Rows<'a>,
    norms: Option<&'a [f32]>,
    copies: Option<Copies>,
}

/// Copies of the rows that are too short or too long.
struct Copies {
    /// By row: which copy is its own, or [`IN_PLACE`].
    place: Vec<u32>,
    of: Vec<Copy>,
    numbers: Vec<f32>,
}

/// One row times a power of two.
struct Copy {
    row: usize,
    power: f64,
    inverse_norm: f32,
}

impl<'a> Directions<'a> {
    /// Takes norms as [`row_norms`] gives them; none are rows as they stand.
    pub(super) fn new(rows: Rows<'a>, norms: Option<&'a [f32]>) -> Result<Self, Error> {
        let copies = match norms {
            Some(norms) => Copies::of_unsafe_rows(rows, norms)?,
            None => None,
        };
        Ok(Self {
            rows,
            norms,
            copies,
        })
    }

    pub(super) const fn width(&self) -> usize {
        self.rows.width()
    }

    pub(super) const fn normalised(&self) -> bool {
        self.norms.is_some()
    }

    #[inline(always)]
    pub(super) fn row(&self, at: usize) -> &[f32] {
        match self
            .copies
            .as_ref()
            .map(|copies| (copies, copies.place[at]))
        {
            Some((copies, place)) if place != IN_PLACE => {
                &copies.numbers[place as usize * self.width()..][..self.width()]
            }
            _ => self.rows.row(at),
        }
    }

    #[inline(always)]
    pub(super) fn inverse(&self, at: usize) -> f32 {
        match self
            .copies
            .as_ref()
            .map(|copies| (copies, copies.place[at]))
        {
            Some((copies, place)) if place != IN_PLACE => copies.of[place as usize].inverse_norm,
            _ => self.norms.map_or(1.0, |norms| inverse(norms[at])),
        }
    }

    /// Turns gradients by copies into gradients by the rows themselves. What is beyond float32 becomes infinite: the
    /// gradient by a row of norm 1e-40 may be.
    pub(super) fn undo(&self, gradient: &mut [f32]) {
        let width = self.width();
        for copy in self.copies.iter().flat_map(|copies| &copies.of) {
            for number in &mut gradient[copy.row * width..][..width] {
                *number = (f64::from(*number) * copy.power) as f32;
            }
        }
    }
}

impl Copies {
    fn of_unsafe_rows(rows: Rows<'_>, norms: &[f32]) -> Result<Option<Self>, Error> {
        let is_unsafe = |norm: f32| norm > 0.0 && !SAFE_NORMS.contains(&norm);
        let count = norms.iter().filter(|&&norm| is_unsafe(norm)).count();
        if count == 0 {
            return Ok(None);
        }
        check_budget((rows.len() + count * rows.width()) as u128 * size_of::<f32>() as u128)?;
        let mut copies = Self {
            place: vec![IN_PLACE; rows.len()],
            of: Vec::with_capacity(count),
            numbers: Vec::with_capacity(count * rows.width()),
        };
        for (row, &norm) in norms
            .iter()
            .enumerate()
            .filter(|(_, norm)| is_unsafe(**norm))
        {
            copies.add(row, rows.row(row), norm);
        }
        Ok(Some(copies))
    }

    fn add(&mut self, row: usize, numbers: &[f32], norm: f32) {
        let measured = dot_f64(numbers, numbers).sqrt();
        if !measured.is_normal() {
            return; // NaN and infinities show as they are
        }
        // What row_norms gives may be rounded among subnormals, or be infinite; another norm is the caller's own.
        let rounded = !norm.is_normal() && norm == measured as f32;
        let exact = if rounded { measured } else { norm.into() };
        let power = inverse_power_of_two(measured);
        self.place[row] = self.of.len() as u32;
        self.of.push(Copy {
            row,
            power,
            inverse_norm: (exact * power).recip() as f32,
        });
        let scaled = numbers
            .iter()
            .map(|&number| (f64::from(number) * power) as f32);
        self.numbers.extend(scaled);
    }
}

/// Returns the power of two that brings a normal positive number to at least 1 and below 2.
const fn inverse_power_of_two(number: f64) -> f64 {
    const BIAS: u64 = 1023;
    let exponent = number.to_bits() >> 52;
    f64::from_bits((2 * BIAS - exponent) << 52)
}

#[inline(always)]
fn inverse(norm: f32) -> f32 {
    if norm > 0.0 { norm.recip() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_any_scale_become_directions() {
        let numbers = [
            3e-30_f32, 4e-30, 0.6, 0.8, 3e30, 4e30, 0.0, 0.0, 3e38, 3e38, 6e-45, 0.0,
        ];
        let rows = Rows::new(&numbers, 2).expect("rows");
        let norms = row_norms(rows, 1).expect("threads");
        let directions = Directions::new(rows, Some(&norms)).expect("memory");
        let unit = |at| {
            let inverse = directions.inverse(at);
            [0, 1].map(|n| f64::from(directions.row(at)[n] * inverse))
        };
        let half = 0.5_f64.sqrt();
        for (at, expected) in [
            [0.6, 0.8],
            [0.6, 0.8],
            [0.6, 0.8],
            [0.0; 2],
            [half; 2],
            [1.0, 0.0],
        ]
        .into_iter()
        .enumerate()
        {
            let near = unit(at)
                .iter()
                .zip(expected)
                .all(|(got, wanted)| (got - wanted).abs() < 1e-6);
            assert!(near, "row {at}: {:?}", unit(at));
        }
        assert_eq!(directions.row(1).as_ptr(), rows.row(1).as_ptr());
        let mut gradient = [1.0; 12];
        directions.undo(&mut gradient);
        assert_eq!(gradient[2..4], [1.0; 2]);
        let times = f64::from(gradient[0]) * 5e-30;
        assert!((0.5..=2.0).contains(&times), "{times}");
    }

    #[test]
    fn powers_bring_numbers_near_one() {
        for number in [1.0, 1.5, 2.0, 1e-45, 3e38, 1e40] {
            let brought = number * inverse_power_of_two(number);
            assert!((1.0..2.0).contains(&brought), "{number}");
        }
    }
}
