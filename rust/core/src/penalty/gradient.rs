//! The gradient of chosen pairs' cosines to the rows that move.

use super::directions::Directions;
use super::groups::Groups;
use super::pairs::{RowPairs, check, check_length};
use crate::Error;
use crate::rows::{Rows, add_four, add_scaled, dot};
use crate::simd::{Kernel, dispatch};
use crate::threads::run_all;
use std::ops::Range;

/// What each pair adds to the gradient.
#[derive(Clone, Copy, Debug)]
pub struct Slopes<'a> {
    /// Derivative of the loss by the cosine.
    pub slope: &'a [f32],
    /// Whether the row `i` moves.
    pub moves_i: &'a [bool],
    /// Whether the row `j` moves.
    pub moves_j: &'a [bool],
}

/// Writes `Σ slope * dcos/drow` to the rows of `gradient`, which is shaped like `rows`; 0 where nothing moves.
///
/// ```
/// use topk_ortho_core::{Rows, pair_gradient, penalty::{RowPairs, Slopes}};
/// let rows = Rows::new(&[1.0, 0.0, 0.6, 0.8], 2)?;
/// let mut gradient = [7.0; 4];
/// let slopes = Slopes { slope: &[2.0], moves_i: &[false], moves_j: &[true] };
/// pair_gradient(rows, None, RowPairs { i: &[0], j: &[1] }, slopes, &mut gradient, 1)?;
/// assert_eq!(gradient, [0.0, 0.0, 2.0, 0.0]);
/// # Ok::<(), topk_ortho_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::ColumnLength`], [`Error::RowIndex`], [`Error::RowsShape`] or [`Error::ZeroThreads`]; the gradient is
/// unchanged then.
pub fn pair_gradient(
    rows: Rows<'_>,
    norms: Option<&[f32]>,
    pairs: RowPairs<'_>,
    slopes: Slopes<'_>,
    gradient: &mut [f32],
    threads: usize,
) -> Result<(), Error> {
    check(rows, norms, pairs, threads)?;
    let k = pairs.i.len();
    check_length("slope", slopes.slope.len(), k)?;
    check_length("moves_i", slopes.moves_i.len(), k)?;
    check_length("moves_j", slopes.moves_j.len(), k)?;
    check_length("gradient", gradient.len(), rows.len() * rows.width())?;
    // Both sides of a pair are neighbours, so that a member says which side moves.
    let sides = (0..2 * k).map(|side| {
        let pair = side / 2;
        let (moving, moves) = match side % 2 {
            0 => (pairs.i[pair], slopes.moves_i[pair]),
            _ => (pairs.j[pair], slopes.moves_j[pair]),
        };
        (moving as u32, moves && slopes.slope[pair] != 0.0)
    });
    let groups = Groups::new(rows.len(), sides);
    let directions = Directions::new(rows, norms)?;
    let tasks = groups.own_rows(gradient, rows.width(), threads);
    let terms = Terms {
        directions: &directions,
        pairs,
        slopes,
        groups: &groups,
    };
    run_all(tasks, |(share, out)| {
        dispatch(Gradient { terms, share, out });
    });
    directions.undo(gradient);
    Ok(())
}

#[derive(Clone, Copy)]
struct Terms<'a> {
    directions: &'a Directions<'a>,
    pairs: RowPairs<'a>,
    slopes: Slopes<'a>,
    groups: &'a Groups,
}

impl<'a> Terms<'a> {
    /// The row that a side adds to the one that moves, and the factor before it.
    #[inline(always)]
    fn term(&self, side: u32) -> (f32, &'a [f32]) {
        let pair = side as usize / 2;
        let fixed = if side.is_multiple_of(2) {
            self.pairs.j[pair]
        } else {
            self.pairs.i[pair]
        } as usize;
        let scale = self.directions.inverse(fixed);
        (self.slopes.slope[pair] * scale, self.directions.row(fixed))
    }

    #[inline(always)]
    fn add(&self, members: &[u32], out: &mut [f32]) {
        let (fours, rest) = members.as_chunks::<4>();
        for &[a, b, c, d] in fours {
            let terms = [self.term(a), self.term(b), self.term(c), self.term(d)];
            add_four(out, terms.map(|term| term.0), terms.map(|term| term.1));
        }
        for &side in rest {
            let (slope, row) = self.term(side);
            add_scaled(out, slope, row);
        }
    }
}

struct Gradient<'a> {
    terms: Terms<'a>,
    share: Range<usize>,
    /// The rows of the share.
    out: &'a mut [f32],
}

impl Kernel for Gradient<'_> {
    type Answer = ();
    #[inline(always)]
    fn run(self) {
        let terms = self.terms;
        for (group, out) in self
            .share
            .zip(self.out.chunks_exact_mut(terms.directions.width()))
        {
            out.fill(0.0);
            let members = terms.groups.members(group);
            terms.add(members, out);
            if members.is_empty() || !terms.directions.normalised() {
                continue;
            }
            let (row, scale) = (terms.directions.row(group), terms.directions.inverse(group));
            let along = dot(row, out) * scale * scale;
            for (out, row) in out.iter_mut().zip(row) {
                *out = (*out - along * row) * scale;
            }
        }
    }
}
