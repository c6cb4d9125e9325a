//! The memory budget of a call: whether the machine has the memory for a large answer, checked before the answer is begun.
//! An allocation that failed half way would end the process.
//!
//! Costs nothing for small answers, and otherwise one allocation that is returned untouched. Memory that a system promises
//! and then does not have is not noticed.

use crate::Error;

/// Pairs in one selection, so that places of some two times as many candidates fit 32 bits.
pub(crate) const MAX_SELECTION: usize = 1 << 30;

/// Bytes below which nothing is checked.
const SMALL: u128 = 1 << 28;

/// Returns whether so many bytes are worth a check.
pub(crate) const fn is_large(bytes: u128) -> bool {
    bytes >= SMALL
}

/// Refuses an answer that may take more bytes than the machine has.
pub(crate) fn check_budget(bytes: u128) -> Result<(), Error> {
    if !is_large(bytes) {
        return Ok(());
    }
    let refused = Error::Memory {
        needed: u64::try_from(bytes).unwrap_or(u64::MAX),
    };
    let wanted = usize::try_from(bytes).map_err(|_| refused)?;
    let mut probe = Vec::<u8>::new();
    let granted = probe.try_reserve_exact(wanted);
    std::hint::black_box(&mut probe); // an allocation that nothing reads would be optimised away
    granted.map_err(|_| refused)
}

/// Refuses a selection of more pairs than there can be.
pub(crate) fn check_selection(pairs: u128) -> Result<(), Error> {
    if pairs <= MAX_SELECTION as u128 {
        return Ok(());
    }
    Err(Error::SelectionSize {
        given: usize::try_from(pairs).unwrap_or(usize::MAX),
        largest: MAX_SELECTION,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_refused() {
        assert_eq!(check_budget(SMALL - 1), Ok(()));
        assert_eq!(check_budget(SMALL), Ok(()));
        for bytes in [1 << 62, 1 << 63, u128::MAX] {
            let needed = u64::try_from(bytes).unwrap_or(u64::MAX);
            assert_eq!(check_budget(bytes), Err(Error::Memory { needed }));
        }
    }

    #[test]
    fn a_selection_has_a_largest_size() {
        assert_eq!(check_selection(1 << 30), Ok(()));
        let refused = Error::SelectionSize {
            given: usize::MAX,
            largest: 1 << 30,
        };
        assert_eq!(check_selection(u128::MAX), Err(refused));
    }
}
