//! Places of a column by what is there, in the order of the column: a counting sort.
//!
//! Costs one pass to count and one to place; memory is 4 bytes per place that is wanted and 4 per group.

use crate::threads::split;
use std::ops::Range;

/// Where each group's members begin, and the members.
pub(super) struct Groups {
    first: Vec<u32>,
    pub(super) members: Vec<u32>,
}

impl Groups {
    /// From a group per place, and whether the place is wanted.
    pub(super) fn new(groups: usize, column: impl Iterator<Item = (u32, bool)> + Clone) -> Self {
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

    pub(super) fn members(&self, group: usize) -> &[u32] {
        &self.members[self.first[group] as usize..self.first[group + 1] as usize]
    }

    pub(super) fn size_of(&self, groups: &Range<usize>) -> usize {
        (self.first[groups.end] - self.first[groups.start]) as usize
    }

    /// Cuts `[groups, width]` into runs of rows with about equal numbers of members, one for each thread.
    pub(super) fn own_rows<'a>(
        &self,
        rows: &'a mut [f32],
        width: usize,
        threads: usize,
    ) -> Vec<(Range<usize>, &'a mut [f32])> {
        let mut rest = rows;
        let mut owned = Vec::new();
        for share in self.shares(threads) {
            let (mine, behind) = rest.split_at_mut(share.len() * width);
            rest = behind;
            owned.push((share, mine));
        }
        owned
    }

    pub(super) fn shares(&self, threads: usize) -> Vec<Range<usize>> {
        let groups = self.first.len() - 2;
        // One more for the row itself.
        split(groups, threads, |group| {
            self.members(group).len() as u64 + 1
        })
    }
}
