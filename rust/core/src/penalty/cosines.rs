//! Cosines of chosen pairs of rows.

use super::directions::Directions;
use super::groups::Groups;
use super::pairs::{RowPairs, check};
use crate::Error;
use crate::rows::{Rows, dot, dot_four};
use crate::simd::{Kernel, dispatch};
use crate::threads::run_all;
use std::ops::Range;

/// Returns the cosine of each pair.
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
    let directions = Directions::new(rows, norms)?;
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
    let parts = run_all(groups.shares(threads), |share| {
        dispatch(Dots {
            groups: &groups,
            directions: &directions,
            pairs,
            share,
        })
    });
    let mut cosines = vec![0.0; pairs.i.len()];
    for (&pair, cosine) in groups.members.iter().zip(parts.into_iter().flatten()) {
        let pair = pair as usize;
        let scale =
            directions.inverse(pairs.i[pair] as usize) * directions.inverse(pairs.j[pair] as usize);
        cosines[pair] = cosine * scale;
    }
    Ok(cosines)
}

struct Dots<'a> {
    groups: &'a Groups,
    directions: &'a Directions<'a>,
    pairs: RowPairs<'a>,
    share: Range<usize>,
}

impl Kernel for Dots<'_> {
    /// In the order of the groups' members.
    type Answer = Vec<f32>;
    #[inline(always)]
    fn run(self) -> Vec<f32> {
        let mut answer = Vec::with_capacity(self.groups.size_of(&self.share));
        for group in self.share {
            let row = self.directions.row(group);
            let other = |pair: u32| {
                let (i, j) = (self.pairs.i[pair as usize], self.pairs.j[pair as usize]);
                self.directions
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
