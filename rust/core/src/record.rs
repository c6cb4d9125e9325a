//! The record of one pair, and the decay that is applied lazily to it.

use crate::Pair;

/// Changes only when the pair is selected: `low` and `err` are as of `last`. One cache line.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(align(64))]
pub(crate) struct Record {
    pub(crate) pair: Pair,
    pub(crate) low: f64,
    pub(crate) err: f64,
    /// Number of the observation of the last hit.
    pub(crate) last: u64,
    pub(crate) hits: u64,
    pub(crate) first_seen: u64,
    pub(crate) last_seen: u64,
    pub(crate) streak: u32,
    pub(crate) longest_streak: u32,
}

/// One observation, as far as a record is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) step: u64,
    /// Number of the observation.
    pub(crate) now: u64,
}

impl Record {
    /// A pair that enters with the error bound of what may have been evicted.
    pub(crate) const fn enter(pair: Pair, at: Moment, decay: &Decay, err: f64) -> Self {
        Self {
            pair,
            low: decay.gain(),
            err,
            last: at.now,
            hits: 1,
            first_seen: at.step,
            last_seen: at.step,
            streak: 1,
            longest_streak: 1,
        }
    }

    pub(crate) fn hit(&mut self, at: Moment, decay: &Decay) {
        let age = at.now - self.last;
        let left = decay.after(age);
        self.low = self.low * left + decay.gain();
        self.err *= left;
        self.streak = if age == 1 {
            self.streak.saturating_add(1)
        } else {
            1
        };
        self.longest_streak = self.longest_streak.max(self.streak);
        self.hits += 1;
        self.last = at.now;
        self.last_seen = at.step;
    }

    /// Decay is applied to what was stored at the last hit and never stored itself, so that asking changes nothing.
    pub(crate) fn low_at(&self, now: u64, decay: &Decay) -> f64 {
        self.low * decay.after(now - self.last)
    }

    pub(crate) fn upper_at(&self, now: u64, decay: &Decay) -> f64 {
        (self.low + self.err) * decay.after(now - self.last)
    }
}

/// Powers of the decay, by plain multiplication alone so that every platform agrees on them.
#[derive(Clone, Debug)]
pub(crate) struct Decay {
    rate: f64,
    powers: Vec<f64>,
}

impl Decay {
    const TABULATED: usize = 4096;

    pub(crate) fn new(rate: f64) -> Self {
        let powers = std::iter::successors(Some(1.0), |power| Some(power * rate));
        Self {
            rate,
            powers: powers.take(Self::TABULATED).collect(),
        }
    }

    /// Kept of an average by one observation.
    pub(crate) const fn rate(&self) -> f64 {
        self.rate
    }

    /// Added to the average of a selected pair by one observation.
    pub(crate) const fn gain(&self) -> f64 {
        1.0 - self.rate
    }

    /// Returns what remains after `age` observations. Reaches 0 at great age, never NaN.
    pub(crate) fn after(&self, age: u64) -> f64 {
        match usize::try_from(age) {
            Ok(age) if age < Self::TABULATED => self.powers[age],
            _ => power(self.rate, age),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.powers.capacity() * size_of::<f64>()
    }
}

fn power(rate: f64, mut age: u64) -> f64 {
    let (mut square, mut product) = (rate, 1.0);
    while age > 0 {
        if age & 1 == 1 {
            product *= square;
        }
        square *= square;
        age >>= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_agree_and_fade_to_zero() {
        let decay = Decay::new(0.99);
        for age in [0, 1, 2, 100, 4095, 4096, 5000] {
            let expected = 0.99_f64.powi(i32::try_from(age).expect("small"));
            assert!(
                (decay.after(age) - expected).abs() <= 1e-12 * expected,
                "age {age}"
            );
        }
        assert_eq!(decay.after(u64::MAX), 0.0);
        assert_eq!(Decay::new(1.0 - f64::EPSILON).after(1), 1.0 - f64::EPSILON);
    }

    #[test]
    fn a_record_is_one_cache_line() {
        assert_eq!((size_of::<Record>(), align_of::<Record>()), (64, 64));
    }
}
