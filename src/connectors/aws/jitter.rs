//! Chance in the pauses between calls, so that callers who failed together do not come back in step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::contracts::{SPLITMIX64_STEP, splitmix64};

/// Numbers from a seed: the same seed gives the same pauses. Tasks may share it.
#[derive(Debug)]
pub(crate) struct Jitter(AtomicU64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// From any texts: tables of one job so do not all pause in step.
    pub(crate) fn seeded(parts: &[&str]) -> Self {
        // FNV-1a. No hash of it leaves the process.
        let bytes = parts.iter().flat_map(|p| p.bytes().chain([0]));
        Self::new(
            bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)),
        )
    }

    /// Between nothing and `most`: for readers, of which hundreds may fail at the same moment.
    pub(crate) fn up_to(&self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.next() % nanos.max(1))
    }

    /// Between half of `whole` and all of it: for writers, whose bound on calls spreads them already.
    pub(crate) fn half_to_all(&self, whole: Duration) -> Duration {
        let part = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        // Whole milliseconds: a clock may count no finer.
        Duration::from_millis((whole.as_millis() as f64 * (0.5 + part / 2.0)).ceil() as u64)
    }

    fn next(&self) -> u64 {
        splitmix64(self.0.fetch_add(SPLITMIX64_STEP, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_pauses_within_their_bounds() {
        let (one, other) = (Jitter::new(7), Jitter::new(7));
        let second = Duration::from_secs(1);
        for _ in 0..100 {
            let pause = one.up_to(second);
            assert_eq!(pause, other.up_to(second));
            assert!(pause < second);
            let pause = one.half_to_all(second);
            assert_eq!(pause, other.half_to_all(second));
            assert!(pause >= second / 2 && pause <= second);
        }
        assert_ne!(Jitter::seeded(&["a"]).next(), Jitter::seeded(&["b"]).next());
    }
}
