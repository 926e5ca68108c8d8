//! The maximum age of records: what arrived too long before its epoch goes to the error output instead of to the queries.
//!
//! ```text
//!   arrived     │◄── too_old ──►│◄──────── maximum age ────────►│
//!   ────────────┴───────────────┴───────────────────────────────┴──► time
//!                          oldest_ms                          now_ms   of the epoch, both in its cut
//! ```
//!
//! The age is that at the epoch's time, so a record that waits behind a backlog or an outage grows old; and the cut has the
//! arrival from which on records were taken, so a replay refuses the same ones, whatever the clock or the setting says by then.
//! It is decided where an epoch is closed, on one task: neither threads nor the cutting into pieces have a part in it.
//!
//! This is not the age of events by a time column of their own: that is what watermarks and lateness are about.
//!
//! Invariant: a record that is refused here counts as rejected instead of decoded. It has moved the watermark, as one has that is
//! skipped unparsed: time does not depend on who was in time to read it.

use datafusion::arrow::array::BooleanArray;
use datafusion::arrow::compute::filter_record_batch;

use super::epoch::{Epoch, EpochRecords};
use super::feed::FeedSpecification;
use super::gathered::{Gathered, RowsFrom};
use super::pieces::left;
use super::reader::rejected;
use crate::contracts::{Arrivals, Reject, RejectReason, RejectedRecord, Result};

impl RowsFrom {
    /// Rows (of `rows`) whose records arrived before `oldest_ms`.
    fn older(&self, rows: usize, oldest_ms: i64) -> Vec<usize> {
        match &self.arrivals {
            Arrivals::Same(ms) if *ms < oldest_ms => (0..rows).collect(),
            Arrivals::Same(_) => Vec::new(),
            Arrivals::Each(each) => (0..rows).filter(|row| each[self.record(*row)] < oldest_ms).collect(),
        }
    }
}

impl Gathered {
    /// Takes out what is too old for the epoch, for the error output.
    pub(super) fn refuse_old(&mut self, epoch: &Epoch, feed: &FeedSpecification) -> Result<Vec<RejectedRecord>> {
        let Some(oldest_ms) = epoch.oldest_ms else { return Ok(Vec::new()) };
        let rows = self.batch.num_rows();
        let old = self.from.older(rows, oldest_ms);
        if old.is_empty() {
            return Ok(Vec::new());
        }
        let most_ms = epoch.now_ms.saturating_sub(oldest_ms);
        let refused = old.iter().map(|row| {
            let record = self.from.record(*row);
            let arrival_ms = self.from.arrivals.get(record);
            let detail = format!("{} ms old, more than {most_ms}", epoch.now_ms.saturating_sub(arrival_ms));
            self.too_old(*row, detail, epoch, feed)
        });
        let refused = refused.collect::<Result<Vec<_>>>()?;
        self.from.records = left(self.from.records.take(), rows, &old);
        let mut keep = vec![true; rows];
        old.into_iter().for_each(|row| keep[row] = false);
        self.batch = filter_record_batch(&self.batch, &BooleanArray::from(keep))?;
        Ok(refused)
    }

    fn too_old(&self, row: usize, detail: String, epoch: &Epoch, feed: &FeedSpecification) -> Result<RejectedRecord> {
        let (table, record, reason) = (&feed.tables[self.table], self.from.record(row), RejectReason::TooOld);
        if let Some(EpochRecords { chunk, .. }) = epoch.raw.get(&self.from.piece) {
            let reject = Reject { record: record as u32, reason, column: None, detail };
            return Ok(rejected(&table.name, &self.from.stream, chunk, reject));
        }
        self.refused(row, table.physical, &table.name, reason, detail)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::contracts::SequenceNumbers;

    fn from(arrivals: Arrivals, records: Option<Vec<u32>>) -> RowsFrom {
        RowsFrom { piece: 1, stream: "s".into(), sequence: SequenceNumbers::Dense { first: 0 }, arrivals, records }
    }

    #[test]
    fn a_record_that_arrived_at_the_oldest_time_is_taken() {
        let each = || Arrivals::Each(Arc::from([5_i64, 9, 10, 11, 3]));
        assert_eq!(from(each(), None).older(5, 10), [0, 1, 4]);
        // Rows 0 to 2 are records 1, 2 and 4: the others were rejected or skipped.
        assert_eq!(from(each(), Some(vec![1, 2, 4])).older(3, 10), [0, 2]);
        assert_eq!(from(Arrivals::Same(9), Some(vec![7, 8])).older(2, 10), [0, 1]);
        assert_eq!(from(Arrivals::Same(10), None).older(2, 10), Vec::<usize>::new());
    }
}
