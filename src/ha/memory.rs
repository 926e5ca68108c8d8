//! A lease in memory, for tests: every request is answered at once, however busy the machine's disk is.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::Times;
use crate::contracts::{Lease, LeaseStore, ManualClock, Result};

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct MemoryLease(Mutex<Option<Lease>>);

impl MemoryLease {
    /// What is stored.
    pub(crate) fn stored(&self) -> Option<Lease> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps its thread for so many times as long as the lease lasts, by the clock of the lease: as that is this one's, it does not matter how
    /// fast the machine is. Each beat must be answered by a renewal meanwhile.
    #[expect(clippy::disallowed_methods, reason = "a thread that is kept from everything else")]
    pub(crate) fn keep_busy(&self, clock: &ManualClock, times: Times, lasting: u32) {
        let beat = || self.stored().expect("it is there").beat;
        for _ in 0..(lasting * times.ttl).as_millis() / times.beat.as_millis() {
            let before = beat();
            clock.advance(times.beat);
            let renewed = (0..60_000).any(|_| {
                std::thread::sleep(Duration::from_millis(1));
                beat() > before
            });
            assert!(renewed, "nobody renews it: {:?}", self.stored());
        }
    }
}

#[async_trait]
impl LeaseStore for MemoryLease {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    async fn read(&self) -> Result<Option<Lease>> {
        Ok(self.stored())
    }

    async fn replace(&self, expected: Option<&Lease>, next: &Lease) -> Result<bool> {
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = stored.as_ref() == expected;
        if fits {
            *stored = Some(next.clone());
        }
        Ok(fits)
    }
}
