//! Chance that comes from a seed, and the seed from the environment, so that a run can be repeated.

use tidemill::contracts::{SPLITMIX64_STEP, splitmix64};

/// The same numbers from the same seed, everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 on, below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let number = splitmix64(self.0);
        self.0 = self.0.wrapping_add(SPLITMIX64_STEP);
        number % bound
    }
}

/// The number that a variable of the environment has (`CRASH_SEED=7`); `None` where it is not set.
pub(crate) fn asked(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
