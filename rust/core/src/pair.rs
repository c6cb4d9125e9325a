//! An unordered pair of features, `i < j`, in one `u64`.
//!
//! Costs eight bytes; comparing two pairs is comparing two integers, and that order is the order of `(i, j)`.
//! Refuses `i >= j`, negative indices and indices beyond 32 bits. No other module knows the packing.

use crate::Error;
use std::fmt;

/// Two distinct features, the smaller index first. Ordered like `(i, j)`.
///
/// ```
/// use topk_ortho_core::Pair;
/// let pair = Pair::try_new(3, 7)?;
/// assert_eq!((pair.i(), pair.j()), (3, 7));
/// assert!(pair < Pair::try_new(4, 5)?);
/// # Ok::<(), topk_ortho_core::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair(u64);

impl Pair {
    /// The pair of `i` and `j`.
    ///
    /// # Errors
    /// [`Error::PairOrder`] unless `i < j`.
    pub const fn try_new(i: u32, j: u32) -> Result<Self, Error> {
        if i < j {
            Ok(Self::pack(i, j))
        } else {
            Err(Error::PairOrder {
                i: i as i64,
                j: j as i64,
            })
        }
    }

    /// The pair behind the integer that [`Pair::bits`] gave.
    ///
    /// # Errors
    /// [`Error::PairOrder`] if the integer is no pair.
    pub const fn from_bits(bits: u64) -> Result<Self, Error> {
        Self::try_new((bits >> 32) as u32, bits as u32)
    }

    /// One pair per entry of two columns of indices.
    ///
    /// ```
    /// use topk_ortho_core::Pair;
    /// let pairs = Pair::from_columns(&[0, 1], &[5, 2])?;
    /// assert_eq!(Pair::columns(&pairs), (vec![0, 1], vec![5, 2]));
    /// assert!(Pair::from_columns(&[-1], &[5]).is_err());
    /// # Ok::<(), topk_ortho_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Lengths`], or [`Error::IndexRange`] or [`Error::PairOrder`] for the first entry that is no pair.
    pub fn from_columns(i: &[i64], j: &[i64]) -> Result<Vec<Self>, Error> {
        Self::check_columns(i, j)?;
        Ok(i.iter()
            .zip(j)
            .map(|(&i, &j)| Self::of_checked(i, j))
            .collect())
    }

    /// The two columns of indices of some pairs.
    #[must_use]
    pub fn columns(pairs: &[Self]) -> (Vec<i64>, Vec<i64>) {
        pairs
            .iter()
            .map(|pair| (i64::from(pair.i()), i64::from(pair.j())))
            .unzip()
    }

    /// The smaller index.
    #[must_use]
    pub const fn i(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The larger index.
    #[must_use]
    pub const fn j(self) -> u32 {
        self.0 as u32
    }

    /// The pair as an integer: distinct for distinct pairs, in the order of pairs.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Without a branch per entry, so that a good block costs one pass at memory speed.
    pub(crate) fn check_columns(i: &[i64], j: &[i64]) -> Result<(), Error> {
        if i.len() != j.len() {
            return Err(Error::Lengths {
                i: i.len(),
                j: j.len(),
                score: None,
            });
        }
        let wrong = |i: i64, j: i64| (i < 0) | (j <= i) | (j > i64::from(u32::MAX));
        if !i
            .iter()
            .zip(j)
            .fold(false, |bad, (&i, &j)| bad | wrong(i, j))
        {
            return Ok(());
        }
        i.iter()
            .zip(j)
            .try_for_each(|(&i, &j)| Self::of_column_entries(i, j).map(|_| ()))
    }

    /// The pair of two entries of columns.
    pub(crate) const fn of_column_entries(i: i64, j: i64) -> Result<Self, Error> {
        if i < 0 || j < 0 || i > u32::MAX as i64 || j > u32::MAX as i64 {
            Err(Error::IndexRange { i, j })
        } else if i >= j {
            Err(Error::PairOrder { i, j })
        } else {
            Ok(Self::pack(i as u32, j as u32))
        }
    }

    /// The pair of two indices that were checked before.
    pub(crate) const fn of_checked(i: i64, j: i64) -> Self {
        debug_assert!(0 <= i && i < j && j <= u32::MAX as i64);
        Self::pack(i as u32, j as u32)
    }

    /// The pair of two distinct indices in either order.
    pub(crate) const fn of_distinct(a: u32, b: u32) -> Self {
        debug_assert!(a != b);
        if a < b {
            Self::pack(a, b)
        } else {
            Self::pack(b, a)
        }
    }

    const fn pack(i: u32, j: u32) -> Self {
        Self((i as u64) << 32 | j as u64)
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.i(), self.j())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_that_of_the_indices() {
        let mut pairs: Vec<_> = (0..6)
            .flat_map(|i| (i + 1..7).map(move |j| (i, j)))
            .collect();
        pairs.push((u32::MAX - 1, u32::MAX));
        pairs.sort_unstable();
        let packed: Vec<_> = pairs
            .iter()
            .map(|&(i, j)| Pair::try_new(i, j).expect("ordered"))
            .collect();
        assert!(packed.is_sorted());
        assert!(
            packed
                .iter()
                .zip(&pairs)
                .all(|(p, &(i, j))| (p.i(), p.j()) == (i, j))
        );
    }

    #[test]
    fn errors_name_the_first_bad_entry() {
        let big = 1 << 32;
        let cases = [
            (-1, 4, Error::IndexRange { i: -1, j: 4 }),
            (1, -4, Error::IndexRange { i: 1, j: -4 }),
            (1, big, Error::IndexRange { i: 1, j: big }),
            (
                i64::MIN,
                i64::MAX,
                Error::IndexRange {
                    i: i64::MIN,
                    j: i64::MAX,
                },
            ),
            (4, 4, Error::PairOrder { i: 4, j: 4 }),
            (5, 4, Error::PairOrder { i: 5, j: 4 }),
        ];
        for (i, j, error) in cases {
            assert_eq!(Pair::from_columns(&[0, i, 9], &[1, j, 9]), Err(error));
        }
        assert_eq!(
            Pair::from_columns(&[0], &[]),
            Err(Error::Lengths {
                i: 1,
                j: 0,
                score: None
            })
        );
        assert!(Pair::from_columns(&[0], &[big - 1]).is_ok());
    }

    #[test]
    fn bits_come_back_or_are_refused() {
        let pair = Pair::try_new(3, 9).expect("ordered");
        assert_eq!(Pair::from_bits(pair.bits()), Ok(pair));
        assert!(Pair::from_bits(0).is_err());
    }
}
