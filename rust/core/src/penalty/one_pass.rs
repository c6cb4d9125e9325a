//! The penalty of pairs whose threshold and weight are known beforehand: loss and gradient in one pass.
//!
//! The child's row stays in the cache while the rows that it overlaps with pass by, four at a time; they are read once,
//! for the cosine and, where it is above the threshold, for the gradient. Loss and gradient of a row belong to one
//! thread and are summed in the order of the pairs, the loss over rows in float64: the same bits on any number of
//! threads.
//! Memory beside the gradient: 4 bytes per pair and 12 per row.

use super::directions::Directions;
use super::groups::Groups;
use super::pairs::{RowPairs, check, check_length};
use crate::Error;
use crate::rows::{Rows, add_four, add_scaled, dot, dot_four};
use crate::simd::{Kernel, dispatch};
use crate::threads::run_all;
use std::ops::Range;

/// The per-pair penalty: `weight * max(overlap - tau, 0)^2`.
#[derive(Clone, Copy, Debug)]
pub struct PairPenalty<'a> {
    /// Threshold: a smaller overlap costs nothing.
    pub tau: &'a [f32],
    /// Factor before the square.
    pub weight: &'a [f32],
    /// Overlap is the cosine's absolute value; otherwise the cosine.
    pub both_signs: bool,
}

/// Returns the sum of the pairs' penalties; writes its gradient to the rows of the children to all of `gradient`.
///
/// `i_is_child` says which row of a pair moves. Cosines are as [`pair_cosines`](super::pair_cosines) gives them.
///
/// ```
/// use topk_ortho_core::{Rows, penalty::{PairPenalty, RowPairs}, pair_penalty};
/// let rows = Rows::new(&[1.0, 0.0, 0.6, 0.8], 2)?;
/// let penalty = PairPenalty { tau: &[0.1], weight: &[1.0], both_signs: false };
/// let mut gradient = [7.0; 4];
/// let total = pair_penalty(rows, None, RowPairs { i: &[0], j: &[1] }, penalty, &[false], &mut gradient, 1)?;
/// assert!((total - 0.25).abs() < 1e-6);
/// assert_eq!(gradient, [0.0, 0.0, 1.0, 0.0]);
/// # Ok::<(), topk_ortho_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::ColumnLength`], [`Error::RowIndex`], [`Error::RowsShape`] or [`Error::ZeroThreads`]; the gradient is
/// unchanged then.
pub fn pair_penalty(
    rows: Rows<'_>,
    norms: Option<&[f32]>,
    pairs: RowPairs<'_>,
    penalty: PairPenalty<'_>,
    i_is_child: &[bool],
    gradient: &mut [f32],
    threads: usize,
) -> Result<f64, Error> {
    check(rows, norms, pairs, threads)?;
    let k = pairs.i.len();
    check_length("tau", penalty.tau.len(), k)?;
    check_length("weight", penalty.weight.len(), k)?;
    check_length("i_is_child", i_is_child.len(), k)?;
    check_length("gradient", gradient.len(), rows.len() * rows.width())?;
    let sides = pairs.i.iter().zip(pairs.j).zip(i_is_child);
    let children = sides.map(|((&i, &j), &first)| (if first { i } else { j } as u32, true));
    let groups = Groups::new(rows.len(), children);
    let directions = Directions::new(rows, norms)?;
    let terms = Terms {
        directions: &directions,
        pairs,
        penalty,
        groups: &groups,
    };
    let tasks = groups.own_rows(gradient, rows.width(), threads);
    let totals = run_all(tasks, |(share, out)| {
        dispatch(OnePass { terms, share, out })
    });
    directions.undo(gradient);
    Ok(totals.iter().flatten().sum())
}

#[derive(Clone, Copy)]
struct Terms<'a> {
    directions: &'a Directions<'a>,
    pairs: RowPairs<'a>,
    penalty: PairPenalty<'a>,
    groups: &'a Groups,
}

/// What a child's pairs have added up to.
#[derive(Default)]
struct Sums {
    penalty: f64,
    /// Of the gradient by the unit row, the part along the row.
    along: f32,
}

impl<'a> Terms<'a> {
    /// The row that is not the child's, and the inverse of its norm.
    #[inline(always)]
    fn parent(&self, child: usize, pair: u32) -> (&'a [f32], f32) {
        let (i, j) = (self.pairs.i[pair as usize], self.pairs.j[pair as usize]);
        let parent = if i as usize == child { j } else { i } as usize;
        (self.directions.row(parent), self.directions.inverse(parent))
    }

    /// The derivative of the pair's penalty by its cosine.
    #[inline(always)]
    fn slope(&self, pair: u32, cosine: f32, sums: &mut Sums) -> f32 {
        let (tau, weight) = (
            self.penalty.tau[pair as usize],
            self.penalty.weight[pair as usize],
        );
        let negative = self.penalty.both_signs && cosine < 0.0;
        let over = if negative { -cosine } else { cosine } - tau;
        if over <= 0.0 {
            return 0.0; // NaN is not: it stays, and shows
        }
        sums.penalty += f64::from(weight * over * over);
        let slope = 2.0 * weight * over;
        let slope = if negative { -slope } else { slope };
        sums.along += slope * cosine;
        slope
    }

    /// Adds the gradient by the child's unit row to `out`.
    #[inline(always)]
    fn add(&self, child: usize, out: &mut [f32]) -> Sums {
        let (row, scale) = (self.directions.row(child), self.directions.inverse(child));
        let mut sums = Sums::default();
        let (fours, rest) = self.groups.members(child).as_chunks::<4>();
        for four in fours {
            let parents = four.map(|pair| self.parent(child, pair));
            let dots = dot_four(row, parents.map(|parent| parent.0));
            let slopes: [f32; 4] = std::array::from_fn(|at| {
                let inverse = parents[at].1;
                self.slope(four[at], dots[at] * (scale * inverse), &mut sums) * inverse
            });
            if slopes != [0.0; 4] {
                add_four(out, slopes, parents.map(|parent| parent.0));
            }
        }
        for &pair in rest {
            let (parent, inverse) = self.parent(child, pair);
            let cosine = dot(row, parent) * (scale * inverse);
            let slope = self.slope(pair, cosine, &mut sums) * inverse;
            if slope != 0.0 {
                add_scaled(out, slope, parent);
            }
        }
        sums
    }
}

struct OnePass<'a> {
    terms: Terms<'a>,
    share: Range<usize>,
    /// The rows of the share.
    out: &'a mut [f32],
}

impl Kernel for OnePass<'_> {
    /// The penalty of every child's pairs.
    type Answer = Vec<f64>;
    #[inline(always)]
    fn run(self) -> Vec<f64> {
        let terms = self.terms;
        let mut penalties = Vec::with_capacity(self.share.len());
        for (child, out) in self
            .share
            .zip(self.out.chunks_exact_mut(terms.directions.width()))
        {
            out.fill(0.0);
            let sums = terms.add(child, out);
            penalties.push(sums.penalty);
            // The same to the bit where nothing is above its threshold; NaN where something is not a number.
            if sums.along == 0.0 && sums.penalty == 0.0 {
                continue;
            }
            if terms.directions.normalised() {
                let (row, scale) = (terms.directions.row(child), terms.directions.inverse(child));
                let along = sums.along * scale;
                for (out, row) in out.iter_mut().zip(row) {
                    *out = (*out - along * row) * scale;
                }
            }
        }
        penalties
    }
}
