//! Scores as they are compared: by their bits, which are ordered like the scores where these are not negative.
//!
//! Refuses scores that cannot be ranked: negative, infinite or NaN. -0.0 counts as zero.

use crate::{Error, Pair};

/// The smallest positive score.
pub(crate) const SMALLEST_POSITIVE: u32 = 1;

/// The bits of the smallest score that is too large to be ranked.
pub(crate) const INFINITY: u32 = f32::INFINITY.to_bits();

/// Compared as signed integers: the bits of -0.0 are then below every threshold.
pub(crate) const fn at_least(score: f32, threshold: u32) -> bool {
    score.to_bits() as i32 >= threshold as i32
}

/// The place of the first score that cannot be ranked.
pub(crate) fn first_unrankable(scores: &[f32]) -> Option<usize> {
    if scores
        .iter()
        .fold(false, |bad, &score| bad | unrankable(score))
    {
        scores.iter().position(|&score| unrankable(score))
    } else {
        None
    }
}

/// Negative, infinite or NaN.
pub(crate) const fn unrankable(score: f32) -> bool {
    score.to_bits() >= INFINITY && score.to_bits() != (-0.0_f32).to_bits()
}

pub(crate) const fn check_score(pair: Pair, score: f32) -> Result<(), Error> {
    let (i, j) = (pair.i(), pair.j());
    if !unrankable(score) {
        Ok(())
    } else if score.is_finite() {
        Err(Error::ScoreNegative { i, j, score })
    } else {
        Err(Error::ScoreNotFinite { i, j, score })
    }
}
