//! Scan for scores that reach a threshold: two vectors at a time, and only those that reach it in detail.

use crate::score::{INFINITY, at_least, unrankable};
use crate::simd::Kernel;

/// Candidates looked at together: a lane with nothing at the threshold costs a few vector instructions.
pub(super) const LANE: usize = 16;

/// Candidates of one block. Those that pass are looked up together, so that their cache misses overlap.
pub(super) const BLOCK: usize = 8192;

/// Writes the places of the scores at the threshold or above; tells how many they are, and whether it met a score that cannot
/// be ranked.
pub(super) struct Scan<'a> {
    pub(super) block: &'a [[f32; LANE]],
    pub(super) threshold: u32,
    pub(super) passing: &'a mut [u16],
}

impl Kernel for Scan<'_> {
    type Answer = (usize, bool);

    #[inline(always)]
    fn run(self) -> (usize, bool) {
        let (mut reached, mut reaching) = (0, [0_u16; BLOCK / LANE]);
        for (place, lane) in (0..).zip(self.block) {
            reaching[reached] = place;
            reached += usize::from(reaches_or_unrankable(lane, self.threshold));
        }
        let (mut passed, mut suspicious) = (0, false);
        for &place in &reaching[..reached] {
            let lane = &self.block[usize::from(place)];
            if highest(lane) >= INFINITY {
                suspicious |= lane.iter().any(|&score| unrankable(score));
            }
            let mut mask = passing(lane, self.threshold);
            while mask != 0 {
                self.passing[passed] = place * LANE as u16 + mask.trailing_zeros() as u16;
                passed += 1;
                mask &= mask - 1;
            }
        }
        (passed, suspicious)
    }
}

/// A bit per score that is at the threshold or above.
#[inline(always)]
fn passing(lane: &[f32; LANE], threshold: u32) -> u16 {
    let bits = lane.iter().zip(0..);
    bits.fold(0, |mask, (&score, at)| {
        mask | u16::from(at_least(score, threshold)) << at
    })
}

#[inline(always)]
fn highest(lane: &[f32; LANE]) -> u32 {
    let bits = lane.iter().map(|score| score.to_bits());
    bits.fold(0, u32::max)
}

/// Compared as unsigned integers: the bits of what cannot be ranked are above every threshold.
#[inline(always)]
fn reaches_or_unrankable(lane: &[f32; LANE], threshold: u32) -> bool {
    lane.iter()
        .fold(false, |any, &score| any | (score.to_bits() >= threshold))
}
