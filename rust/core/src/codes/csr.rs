//! Codes in CSR form, as the caller has them, and their check.
//!
//! Refuses rows that do not cover the entries, and features that do not rise within a row or are not below `d_sae`.

use crate::Error;

/// A feature index in the width that the caller has.
pub trait Feature: Copy {
    /// The index; `None` if it does not fit.
    fn index(self) -> Option<u32>;
    /// The index as it was given.
    fn given(self) -> i64;
}

impl Feature for u32 {
    fn index(self) -> Option<u32> {
        Some(self)
    }
    fn given(self) -> i64 {
        i64::from(self)
    }
}

impl Feature for i64 {
    fn index(self) -> Option<u32> {
        u32::try_from(self).ok()
    }
    fn given(self) -> i64 {
        self
    }
}

/// Which features are active in each row of a batch, without their values.
#[derive(Clone, Copy, Debug)]
pub struct Pattern<'a, C> {
    /// `[batch + 1]` where each row starts; the last entry is the number of entries.
    pub crow: &'a [i64],
    /// `[nnz]` the feature of each entry, rising within a row.
    pub col: &'a [C],
    /// Number of features.
    pub d_sae: usize,
}

/// Active entries of a batch, row by row.
///
/// ```
/// use topk_ortho_core::Codes;
/// let codes = Codes { crow: &[0, 2, 3], col: &[1_u32, 4, 0], value: &[0.5_f32, 2.0, 1.0], d_sae: 5 };
/// assert!(codes.check().is_ok());
/// assert!(Codes { d_sae: 4, ..codes }.check().is_err());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Codes<'a, C, V> {
    /// `[batch + 1]` where each row starts; the last entry is the number of entries.
    pub crow: &'a [i64],
    /// `[nnz]` the feature of each entry, rising within a row.
    pub col: &'a [C],
    /// `[nnz]` the value of each entry.
    pub value: &'a [V],
    /// Number of features.
    pub d_sae: usize,
}

impl<'a, C: Feature, V: Copy + Into<f64>> Codes<'a, C, V> {
    /// Returns the codes without their values.
    #[must_use]
    pub const fn pattern(&self) -> Pattern<'a, C> {
        Pattern {
            crow: self.crow,
            col: self.col,
            d_sae: self.d_sae,
        }
    }

    /// Refuses what is no batch of codes.
    ///
    /// # Errors
    /// [`Error::CodesShape`], [`Error::CodesRow`], [`Error::CodesFeature`] or [`Error::TooManyFeatures`].
    pub fn check(&self) -> Result<(), Error> {
        self.pattern().check_with(Some(self.value.len()))
    }
}

impl<C: Feature> Pattern<'_, C> {
    /// Refuses what is no pattern of a batch.
    ///
    /// # Errors
    /// As [`Codes::check`].
    pub fn check(&self) -> Result<(), Error> {
        self.check_with(None)
    }

    fn check_with(&self, values: Option<usize>) -> Result<(), Error> {
        if self.d_sae > 1 << 32 {
            return Err(Error::TooManyFeatures { given: self.d_sae });
        }
        let nnz = self.col.len();
        let ends = [self.crow.first(), self.crow.last()];
        let covered = ends == [Some(&0), Some(&(nnz as i64))];
        if !covered || values.is_some_and(|values| values != nnz) || nnz > u32::MAX as usize {
            return Err(Error::CodesShape {
                crow: self.crow.len(),
                last: self.crow.last().copied().unwrap_or(0),
                col: nnz,
                value: values,
            });
        }
        for (row, ends) in self.crow.windows(2).enumerate() {
            let (start, end) = (ends[0], ends[1]);
            if !(0..=end).contains(&start) || end > nnz as i64 {
                return Err(Error::CodesRow { row, start, end });
            }
            self.check_row(row, &self.col[start as usize..end as usize])?;
        }
        Ok(())
    }

    fn check_row(&self, row: usize, features: &[C]) -> Result<(), Error> {
        let mut least = 0;
        for feature in features {
            match feature.index().map(u64::from) {
                Some(index) if least <= index && index < self.d_sae as u64 => least = index + 1,
                _ => {
                    return Err(Error::CodesFeature {
                        row,
                        feature: feature.given(),
                        least,
                        d_sae: self.d_sae,
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_batch() {
        let good = Codes {
            crow: &[0, 2],
            col: &[0_i64, 2],
            value: &[1.0_f32, 1.0],
            d_sae: 3,
        };
        assert_eq!(good.check(), Ok(()));
        for crow in [&[][..], &[0], &[1, 2], &[0, 3], &[0, 1]] {
            let shape = Codes { crow, ..good }.check();
            assert!(matches!(shape, Err(Error::CodesShape { .. })), "{crow:?}");
        }
        for crow in [&[0, -1, 2][..], &[0, 5, 2], &[0, 2, 1, 2]] {
            let row = Codes { crow, ..good }.check();
            assert!(matches!(row, Err(Error::CodesRow { .. })), "{crow:?}");
        }
        for col in [[0, 0], [1, 0], [-1, 0], [0, 3], [0, 1 << 40]] {
            let feature = Codes { col: &col, ..good }.check();
            assert!(
                matches!(feature, Err(Error::CodesFeature { row: 0, .. })),
                "{col:?}"
            );
        }
    }
}
