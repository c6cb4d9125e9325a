//! Cosines of chosen pairs of rows, and their gradient to the rows that move.
//!
//! Pairs are grouped by row by a counting sort; a row and its gradient stay in the cache while the rows of its partners
//! pass by, four at a time. Every row of the gradient belongs to one thread, and its terms are added in the order of the
//! pairs: no atomics, the same bits on any number of threads and on any processor.
//! With norms, rows of any length are taken as directions and the gradient is that to the rows as they are; a row with
//! norm 0 has cosine 0 with everything and no gradient. Without, rows are taken as they stand and a cosine is a dot
//! product.
//! Costs a dot product per pair, and a multiplication and addition of a row per pair, side that moves and slope that is
//! not 0. Memory beside the answer: 8 bytes per pair, 4 per side that moves, and 12 per row.
//! Refuses indices outside the rows and columns of different lengths; the gradient is unchanged then.

mod groups;
mod priced;

pub use priced::{Price, pair_penalty};

use crate::Error;
use crate::rows::{Norms, Rows, Work, add_four, add_scaled, dot, dot_four, wide};
use crate::work::{check_threads, each, shares};
use groups::Groups;
use std::ops::Range;

/// Chosen pairs of rows, as columns of indices.
#[derive(Clone, Copy, Debug)]
pub struct RowPairs<'a> {
    /// One side.
    pub i: &'a [i64],
    /// The other side.
    pub j: &'a [i64],
}

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

/// Euclidean norms of all rows, each summed in float64.
///
/// # Errors
/// [`Error::ZeroThreads`].
pub fn row_norms(rows: Rows<'_>, threads: usize) -> Result<Vec<f32>, Error> {
    check_threads(threads)?;
    let shares = shares(rows.len(), threads, |_| 1);
    let norms = each(shares, |share| wide(Norms { rows, share }));
    Ok(norms.concat().into_iter().map(|norm| norm as f32).collect())
}

/// The cosine of each pair.
///
/// ```
/// use topk_ortho_core::{Rows, pair_cosines, penalty::RowPairs, row_norms};
/// let rows = Rows::new(&[3.0, 0.0, 4.0, 4.0], 2)?;
/// let norms = row_norms(rows, 1)?;
/// let pairs = RowPairs { i: &[0], j: &[1] };
/// assert!((pair_cosines(rows, Some(&norms), pairs, 1)?[0] - 0.5_f32.sqrt()).abs() < 1e-6);
/// assert_eq!(pair_cosines(rows, None, pairs, 1)?, [12.0]);
/// # Ok::<(), topk_ortho_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::ColumnLength`], [`Error::RowIndex`] or [`Error::ZeroThreads`].
pub fn pair_cosines(
    rows: Rows<'_>,
    norms: Option<&[f32]>,
    pairs: RowPairs<'_>,
    threads: usize,
) -> Result<Vec<f32>, Error> {
    check(rows, norms, pairs, threads)?;
    let mut degrees = vec![0_u32; rows.len()];
    for &row in pairs.i.iter().chain(pairs.j) {
        degrees[row as usize] += 1;
    }
    // The row in fewer pairs stays, the one in more is met again soon.
    let rarer = |(&i, &j): (&i64, &i64)| {
        if degrees[i as usize] <= degrees[j as usize] {
            i
        } else {
            j
        }
    };
    let stays = pairs
        .i
        .iter()
        .zip(pairs.j)
        .map(|pair| (rarer(pair) as u32, true));
    let groups = Groups::new(rows.len(), stays);
    let parts = each(groups.shares(threads), |share| {
        wide(Dots {
            groups: &groups,
            rows,
            pairs,
            share,
        })
    });
    let mut cosines = vec![0.0; pairs.i.len()];
    for (&pair, cosine) in groups.members.iter().zip(parts.into_iter().flatten()) {
        let scale = norms.map_or(1.0, |norms| {
            inverse(norms[pairs.i[pair as usize] as usize])
                * inverse(norms[pairs.j[pair as usize] as usize])
        });
        cosines[pair as usize] = cosine * scale;
    }
    Ok(cosines)
}

struct Dots<'a> {
    groups: &'a Groups,
    rows: Rows<'a>,
    pairs: RowPairs<'a>,
    share: Range<usize>,
}

impl Work for Dots<'_> {
    /// In the order of the groups' members.
    type Answer = Vec<f32>;
    #[inline(always)]
    fn run(self) -> Vec<f32> {
        let mut answer = Vec::with_capacity(self.groups.size_of(&self.share));
        for group in self.share {
            let row = self.rows.row(group);
            let other = |pair: u32| {
                let (i, j) = (self.pairs.i[pair as usize], self.pairs.j[pair as usize]);
                self.rows
                    .row(if i as usize == group { j } else { i } as usize)
            };
            let (fours, rest) = self.groups.members(group).as_chunks::<4>();
            for four in fours {
                answer.extend(dot_four(row, four.map(other)));
            }
            answer.extend(rest.iter().map(|&pair| dot(row, other(pair))));
        }
        answer
    }
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
    let tasks = groups.own_rows(gradient, rows.width(), threads);
    let terms = Terms {
        rows,
        norms,
        pairs,
        slopes,
        groups: &groups,
    };
    each(tasks, |(share, out)| wide(Gradient { terms, share, out }));
    Ok(())
}

#[derive(Clone, Copy)]
struct Terms<'a> {
    rows: Rows<'a>,
    norms: Option<&'a [f32]>,
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
        let scale = self.norms.map_or(1.0, |norms| inverse(norms[fixed]));
        (self.slopes.slope[pair] * scale, self.rows.row(fixed))
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

impl Work for Gradient<'_> {
    type Answer = ();
    #[inline(always)]
    fn run(self) {
        let terms = self.terms;
        for (group, out) in self
            .share
            .zip(self.out.chunks_exact_mut(terms.rows.width()))
        {
            out.fill(0.0);
            let members = terms.groups.members(group);
            terms.add(members, out);
            let Some(norms) = terms.norms.filter(|_| !members.is_empty()) else {
                continue;
            };
            let (row, scale) = (terms.rows.row(group), inverse(norms[group]));
            let along = dot(row, out) * scale * scale;
            for (out, row) in out.iter_mut().zip(row) {
                *out = (*out - along * row) * scale;
            }
        }
    }
}

#[inline(always)]
fn inverse(norm: f32) -> f32 {
    if norm > 0.0 { norm.recip() } else { 0.0 }
}

fn check(
    rows: Rows<'_>,
    norms: Option<&[f32]>,
    pairs: RowPairs<'_>,
    threads: usize,
) -> Result<(), Error> {
    check_threads(threads)?;
    check_length("j", pairs.j.len(), pairs.i.len())?;
    if let Some(norms) = norms {
        check_length("norms", norms.len(), rows.len())?;
    }
    if rows.len() > u32::MAX as usize {
        return Err(Error::TooManyFeatures { given: rows.len() });
    }
    if pairs.i.len() > u32::MAX as usize / 2 {
        return Err(Error::SelectionSize {
            given: pairs.i.len(),
            largest: u32::MAX as usize / 2,
        });
    }
    let outside = |index: i64| index as u64 >= rows.len() as u64;
    let both = || pairs.i.iter().chain(pairs.j);
    if !both().fold(false, |bad, &index| bad | outside(index)) {
        return Ok(());
    }
    let index = both().copied().find(|&index| outside(index)).unwrap_or(-1);
    Err(Error::RowIndex {
        index,
        rows: rows.len(),
    })
}

const fn check_length(column: &'static str, given: usize, expected: usize) -> Result<(), Error> {
    if given == expected {
        Ok(())
    } else {
        Err(Error::ColumnLength {
            column,
            given,
            expected,
        })
    }
}

#[cfg(test)]
mod tests;
