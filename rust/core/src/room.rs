//! Memory of a large answer, asked for before it is made: an allocation that fails half way would end the process.
//!
//! Costs nothing for what is small, and otherwise one allocation that is given back untouched. What a system grants and
//! does not keep is not seen.

use crate::Error;

/// Pairs in one selection, so that places of some two times as many candidates fit 32 bits.
pub(crate) const MAX_SELECTION: usize = 1 << 30;

/// Bytes below which nothing is asked.
const SMALL: u128 = 1 << 28;

/// Whether so many bytes are worth asking for.
pub(crate) const fn is_large(bytes: u128) -> bool {
    bytes >= SMALL
}

/// Refuses what the machine does not have.
pub(crate) fn check_room(bytes: u128) -> Result<(), Error> {
    if !is_large(bytes) {
        return Ok(());
    }
    let refused = Error::Memory {
        needed: u64::try_from(bytes).unwrap_or(u64::MAX),
    };
    let wanted = usize::try_from(bytes).map_err(|_| refused)?;
    let mut room = Vec::<u8>::new();
    let granted = room.try_reserve_exact(wanted);
    std::hint::black_box(&mut room); // an allocation that nobody sees is none
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
        assert_eq!(check_room(SMALL - 1), Ok(()));
        assert_eq!(check_room(SMALL), Ok(()));
        for bytes in [1 << 62, 1 << 63, u128::MAX] {
            let needed = u64::try_from(bytes).unwrap_or(u64::MAX);
            assert_eq!(check_room(bytes), Err(Error::Memory { needed }));
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
