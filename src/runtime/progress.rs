//! Figures of a run for whoever watches it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::driver::Driver;
use super::epoch::Epoch;
use crate::contracts::Watermark;

/// Figures that a display may read while the run goes on.
#[derive(Debug, Default)]
pub struct Progress {
    /// Records read.
    pub records: AtomicU64,
    /// Bytes read.
    pub bytes: AtomicU64,
    /// Records refused.
    pub rejected: AtomicU64,
    /// Rows given to sinks.
    pub rows_out: AtomicU64,
    /// Epochs run.
    pub epochs: AtomicU64,
    /// Number of the last epoch, as in the log.
    pub epoch: AtomicU64,
    /// Queries that go on without that epoch, at which they have failed too often.
    pub without_epoch: AtomicU64,
    /// Least watermark of all tables, milliseconds.
    pub watermark_ms: AtomicI64,
    /// How far reading is behind the newest record, milliseconds; -1 where sources do not say.
    pub behind_ms: AtomicI64,
    /// The last checkpoint of this run, if there is one.
    pub checkpoint: Mutex<Option<LastCheckpoint>>,
}

/// What a checkpoint has cost.
#[derive(Debug, Clone, Copy)]
pub struct LastCheckpoint {
    /// When it was complete, by the clock's `elapsed`.
    pub at: Duration,
    /// From the order to the manifest.
    pub took: Duration,
    /// Bytes that it has written.
    pub written_bytes: u64,
}

/// Brings the figures of reading up to date.
pub(super) fn report(progress: &Progress, driver: &Driver, epoch: &Epoch) {
    let read = || driver.counts().filter(|table| table.read_with.is_none());
    progress.records.store(read().map(|t| t.records).sum(), Ordering::Relaxed);
    progress.bytes.store(read().map(|t| t.bytes).sum(), Ordering::Relaxed);
    let rejected = driver.counts().flat_map(|t| t.rejected.values()).sum();
    progress.rejected.store(rejected, Ordering::Relaxed);
    let behind = driver.behind_ms().map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
    progress.behind_ms.store(behind, Ordering::Relaxed);
    if let Some(least) = epoch.watermarks.iter().filter(|w| **w != Watermark::MIN).min() {
        progress.watermark_ms.store(least.0, Ordering::Relaxed);
    }
}
