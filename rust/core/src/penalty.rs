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

use crate::Error;
use crate::rows::{Rows, add_four, add_scaled, dot, dot_f64, wide};
use crate::work::{check_threads, each, shares};
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
    let norm = |at| {
        let row = rows.row(at);
        dot_f64(row, row).sqrt() as f32
    };
    let norms = each(shares(rows.len(), threads, |_| 1), |share| {
        wide(|| share.map(norm).collect::<Vec<_>>())
    });
    Ok(norms.concat())
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
    let groups = Groups::new(rows.len(), pairs.i.iter().map(|&i| (i as u32, true)));
    let parts = each(groups.shares(threads), |share| {
        wide(|| cosines_of(&groups, rows, pairs.j, share))
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

#[inline(always)]
fn cosines_of(groups: &Groups, rows: Rows<'_>, others: &[i64], share: Range<usize>) -> Vec<f32> {
    let mut cosines = Vec::with_capacity(groups.size_of(&share));
    for group in share {
        let row = rows.row(group);
        let others = groups.members(group).iter().map(|&pair| others[pair as usize]);
        cosines.extend(others.map(|other| dot(row, rows.row(other as usize))));
    }
    cosines
}

/// Adds `Σ slope * dcos/drow` to the rows of `gradient`, which is shaped like `rows`.
///
/// ```
/// use topk_ortho_core::{Rows, pair_gradient, penalty::{RowPairs, Slopes}};
/// let rows = Rows::new(&[1.0, 0.0, 0.6, 0.8], 2)?;
/// let mut gradient = [0.0; 4];
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
    let mut tasks = Vec::new();
    let mut rest = gradient;
    for share in groups.shares(threads) {
        let (mine, behind) = rest.split_at_mut(share.len() * rows.width());
        rest = behind;
        tasks.push((share, mine));
    }
    let term = |side: u32| {
        let pair = side as usize / 2;
        let fixed = [pairs.j[pair], pairs.i[pair]][side as usize % 2] as usize;
        let scale = norms.map_or(1.0, |norms| inverse(norms[fixed]));
        (slopes.slope[pair] * scale, fixed)
    };
    each(tasks, |(share, gradient)| {
        wide(|| add_gradient(&groups, rows, norms, term, share, gradient));
    });
    Ok(())
}

#[inline(always)]
fn add_gradient(
    groups: &Groups,
    rows: Rows<'_>,
    norms: Option<&[f32]>,
    term: impl Fn(u32) -> (f32, usize),
    share: Range<usize>,
    gradient: &mut [f32],
) {
    let mut direction = vec![0.0; rows.width()];
    for (group, out) in share.zip(gradient.chunks_exact_mut(rows.width())) {
        let members = groups.members(group);
        if members.is_empty() {
            continue;
        }
        let Some(norms) = norms else {
            add_terms(members, rows, &term, out);
            continue;
        };
        direction.fill(0.0);
        add_terms(members, rows, &term, &mut direction);
        let scale = inverse(norms[group]);
        let row = rows.row(group);
        let along = dot(row, &direction) * scale * scale;
        add_scaled(out, scale, &direction);
        add_scaled(out, -scale * along, row);
    }
}

#[inline(always)]
fn add_terms(
    members: &[u32],
    rows: Rows<'_>,
    term: impl Fn(u32) -> (f32, usize),
    out: &mut [f32],
) {
    let (fours, rest) = members.as_chunks::<4>();
    for sides in fours {
        let terms = sides.map(&term);
        add_four(out, terms.map(|term| term.0), terms.map(|term| rows.row(term.1)));
    }
    for &side in rest {
        let (slope, fixed) = term(side);
        add_scaled(out, slope, rows.row(fixed));
    }
}

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

/// Places of a column by what is there, in the order of the column.
struct Groups {
    first: Vec<u32>,
    members: Vec<u32>,
}

impl Groups {
    /// From a group per place, and whether the place is wanted.
    fn new(groups: usize, column: impl Iterator<Item = (u32, bool)> + Clone) -> Self {
        let mut first = vec![0_u32; groups + 2];
        for (group, wanted) in column.clone() {
            first[group as usize + 2] += u32::from(wanted);
        }
        let mut end = 0;
        for first in &mut first {
            end += *first;
            *first = end;
        }
        let mut members = vec![0; end as usize];
        for (place, (group, wanted)) in (0..).zip(column) {
            if wanted {
                let next = &mut first[group as usize + 1];
                members[*next as usize] = place;
                *next += 1;
            }
        }
        Self { first, members }
    }

    fn members(&self, group: usize) -> &[u32] {
        &self.members[self.first[group] as usize..self.first[group + 1] as usize]
    }

    fn size_of(&self, groups: &Range<usize>) -> usize {
        (self.first[groups.end] - self.first[groups.start]) as usize
    }

    fn shares(&self, threads: usize) -> Vec<Range<usize>> {
        let groups = self.first.len() - 2;
        shares(groups, threads, |group| self.members(group).len() as u64)
    }
}

#[cfg(test)]
mod tests;
