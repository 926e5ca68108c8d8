//! Claims of alerts that are known not to be out: they are released, so that the next run publishes them.
//!
//! ```text
//!  asked for ── held ── its batch is sent: nobody knows ── published: marked
//!                 ▲                                 └───── refused, throttled: held again
//!                 └ dropped here: released
//! ```
//!
//! A flush that fails releases them itself. One that is dropped, because the run has failed elsewhere or somebody has
//! stopped it and would not wait any longer, leaves that to be done, and the end of the run waits for it. A claim counts from when it is asked for:
//! the answer may be lost, or be on its way still.
//!
//! Not covered: a claim that reaches the table after it was released. The next run tells of it, and publishes it not.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::contracts::spawn_last;

use super::ledger::Ledger;

/// Entries that may be claimed, and whose messages are not out.
pub(super) struct Held {
    ledger: Arc<dyn Ledger>,
    /// In order: a simulated run is to ask the same in the same order each time.
    entries: Mutex<BTreeSet<String>>,
}

impl Held {
    pub(super) fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self { ledger, entries: Mutex::default() }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has(&self, entry: &str) -> bool {
        self.entries().contains(entry)
    }

    pub(super) fn add<'e>(&self, entries: impl IntoIterator<Item = &'e String>) {
        self.entries().extend(entries.into_iter().cloned());
    }

    pub(super) fn remove<'e>(&self, entries: impl IntoIterator<Item = &'e String>) {
        let mut held = self.entries();
        for entry in entries {
            held.remove(entry);
        }
    }

    /// Releases all. They are held until that is done.
    pub(super) async fn release(&self) {
        let entries: Vec<String> = self.entries().iter().cloned().collect();
        if !entries.is_empty() {
            release(self.ledger.as_ref(), &entries).await;
            self.remove(&entries);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let entries: Vec<String> = std::mem::take(&mut *self.entries()).into_iter().collect();
        if !entries.is_empty() {
            let ledger = Arc::clone(&self.ledger);
            spawn_last(async move { release(ledger.as_ref(), &entries).await });
        }
    }
}

async fn release(ledger: &dyn Ledger, entries: &[String]) {
    if let Err(error) = ledger.release(entries).await {
        tracing::warn!("claims of alerts that were not published stay, and the next run tells of them: {error}");
    }
}
