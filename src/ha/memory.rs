//! A lease in memory, for tests: every request is answered at once, however busy the machine's disk is.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use crate::contracts::{Lease, LeaseStore, Result};

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct MemoryLease(Mutex<Option<Lease>>);

impl MemoryLease {
    /// What is stored.
    pub(crate) fn stored(&self) -> Option<Lease> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
