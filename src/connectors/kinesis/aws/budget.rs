//! Memory of all shard readers together.
//!
//! GetRecords takes a number of records, not of bytes, and may answer with 10 MB: 120 shards at once would be 1.2 GB before
//! anything is decoded. So each reader asks for about its *share* of the budget, guessed from the size of the records
//! that it has seen, keeps no more than [`KEEP_SHARES`] of it (the rest is asked for again), and takes
//! a permit for the time of the call.
//!
//! ```text
//! shares held by readers    budget                 (each: one answer, waiting to be taken)
//! calls on their way        CALLS * 10 MB at worst, CALLS * share mostly
//! ```
//!
//! Permits of calls are given back before records are handed out: a reader that is held back by the runtime holds none, so readers
//! never wait for each other in a circle.
//!
//! Fan-out is pushed, up to 2 MB in an event, which is in memory as it came, decoded, and as a chunk until its last record is handed
//! out. So readers that are behind take *turns* with events. A turn lasts until the event is handed out, and a reader that is held back
//! keeps its own; so nobody waits for one for longer than [`PATIENCE`]. In this time a shard gives its 2 MB/s all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::contracts::{Clock, Error, Result};

/// Bytes of records that all readers together may hold unread by the runtime.
const BUDGET_BYTES: usize = 48 << 20;
/// Largest and smallest share of a reader.
const SHARE_BYTES: (usize, usize) = (1 << 20, 64 << 10);
/// GetRecords calls at the same time.
const CALLS: usize = 32;
/// Events of subscriptions at the same time: about 5 MB each at worst, while they are taken apart.
const EVENTS: usize = 24;
/// Longest wait for a turn.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// A reader keeps up to so many shares of one answer.
pub(super) const KEEP_SHARES: usize = 3;

/// Shared by all Kinesis readers of a job.
#[derive(Debug)]
pub(crate) struct Budget {
    readers: AtomicUsize,
    calls: Semaphore,
    events: Arc<Semaphore>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { readers: AtomicUsize::new(0), calls: Semaphore::new(CALLS), events: Arc::new(Semaphore::new(EVENTS)) }
    }
}

impl Budget {
    /// Bytes that a reader should ask for.
    fn share(&self) -> usize {
        let readers = self.readers.load(Ordering::Relaxed).max(1);
        (BUDGET_BYTES / readers).clamp(SHARE_BYTES.1, SHARE_BYTES.0)
    }
}

/// One reader's part in the budget.
#[derive(Debug)]
pub(super) struct Allowance {
    budget: Arc<Budget>,
}

impl Allowance {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        budget.readers.fetch_add(1, Ordering::Relaxed);
        Self { budget }
    }

    pub(super) fn share(&self) -> usize {
        self.budget.share()
    }

    /// Waits until a call may be made; it may as long as the permit lives.
    pub(super) async fn call(&self) -> Result<SemaphorePermit<'_>> {
        self.budget.calls.acquire().await.map_err(|_| Error::internal("the read budget was closed"))
    }

    /// Waits for a turn with an event, as long as that is sensible.
    pub(super) async fn turn(&self, clock: &Arc<dyn Clock>) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            turn = Arc::clone(&self.budget.events).acquire_owned() => turn.ok(),
            () = clock.sleep(PATIENCE) => None,
        }
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.budget.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_shrink_with_the_number_of_readers() {
        let budget = Arc::new(Budget::default());
        let one = Allowance::new(Arc::clone(&budget));
        assert_eq!(one.share(), 1 << 20);
        let many: Vec<_> = (0..119).map(|_| Allowance::new(Arc::clone(&budget))).collect();
        assert_eq!(one.share(), (48 << 20) / 120);
        drop(many);
        assert_eq!(one.share(), 1 << 20);
    }
}
