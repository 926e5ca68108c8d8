//! Reading sources to their present end at once: the input of a batch run.
//!
//! Records go the way of a stream (source, decoder, row maker), so a batch over them sees the same rows, rejects and
//! watermarks of splits; only the cutting into epochs is left out. Everything is kept in memory.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;

use super::accounting::TableCounts;
use super::crew::Foreman;
use super::driver::{Course, Driver};
use super::epoch::EpochLimits;
use super::feed::FeedSpecification;
use super::repeat::Logged;
use super::worker::Ending;
use crate::contracts::{Clock, RejectedRecord, Result};
use crate::operators::Compute;
use crate::state::Reread;

/// Everything that sources had.
#[derive(Debug, Default)]
pub struct AllRows {
    /// Rows of each source table, by its index in the epoch's inputs.
    pub tables: Vec<Vec<RecordBatch>>,
    /// Records that could not be decoded.
    pub rejects: Vec<RejectedRecord>,
    /// Counts by source table.
    pub counts: Vec<TableCounts>,
}

/// Reads what is there. `slots` is the length of an epoch's inputs.
pub async fn read_all(
    feeds: Vec<FeedSpecification>,
    slots: usize,
    clock: Arc<dyn Clock>,
    compute: Compute,
) -> Result<AllRows> {
    let mut all = AllRows { tables: vec![Vec::new(); slots], ..AllRows::default() };
    // Epochs of a second keep what waits in channels small; their cuts mean nothing here.
    let (interval, rows, bytes) = (Duration::from_secs(1), usize::MAX, usize::MAX);
    let limits = EpochLimits { interval, rows, bytes, record_age_ms: None };
    let course = Course { limits, ending: Ending::Drain };
    // Readers end when this function does.
    let (_foreman, crew) = Foreman::new();
    let mut driver = Driver::new(feeds, slots, clock, compute, course, Reread::default(), crew);
    driver.begin(Logged::default()).await?;
    // Held until the end: a sender that has gone would read as a stop.
    let (_stop, mut stop) = tokio::sync::watch::channel(false);
    loop {
        let epoch = driver.next(&mut stop).await?;
        for (table, rows) in all.tables.iter_mut().zip(epoch.rows) {
            table.extend(rows);
        }
        all.rejects.extend(epoch.rejects);
        if epoch.last {
            break;
        }
    }
    driver.stop();
    all.counts = driver.counts().cloned().collect();
    Ok(all)
}
