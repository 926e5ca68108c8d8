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

use std::sync::Arc;

use datafusion::arrow::array::{BooleanArray, RecordBatch};
use datafusion::arrow::compute::filter_record_batch;

use super::epoch::{Epoch, EpochRecords};
use super::feed::FeedSpecification;
use super::reader::{rejected, row_json};
use crate::contracts::{Arrivals, Reject, RejectReason, RejectedRecord, Result, SequenceNumbers, SplitId};

/// Where the rows of a batch came from.
#[derive(Debug)]
pub(super) struct RowsFrom {
    /// Number of their piece.
    pub(super) piece: u32,
    /// What people call their source.
    pub(super) stream: Arc<str>,
    /// Of the piece's records.
    pub(super) sequence: SequenceNumbers,
    pub(super) arrivals: Arrivals,
    /// Record of each row; `None` means row `i` is record `i`.
    pub(super) records: Option<Vec<u32>>,
}

impl RowsFrom {
    fn record(&self, row: usize) -> usize {
        self.records.as_ref().map_or(row, |records| records[row] as usize)
    }

    /// Rows (of `rows`) whose records arrived before `oldest_ms`.
    fn older(&self, rows: usize, oldest_ms: i64) -> Vec<usize> {
        match &self.arrivals {
            Arrivals::Same(ms) if *ms < oldest_ms => (0..rows).collect(),
            Arrivals::Same(_) => Vec::new(),
            Arrivals::Each(each) => (0..rows).filter(|row| each[self.record(*row)] < oldest_ms).collect(),
        }
    }
}

/// Rows of a table that an epoch has gathered.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) feed: usize,
    pub(super) split: SplitId,
    /// The table's number in the feed.
    pub(super) table: usize,
    pub(super) batch: RecordBatch,
    pub(super) from: RowsFrom,
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
            self.refused(*row, detail, epoch, feed)
        });
        let refused = refused.collect::<Result<Vec<_>>>()?;
        let mut keep = vec![true; rows];
        old.into_iter().for_each(|row| keep[row] = false);
        self.batch = filter_record_batch(&self.batch, &BooleanArray::from(keep))?;
        Ok(refused)
    }

    fn refused(&self, row: usize, detail: String, epoch: &Epoch, feed: &FeedSpecification) -> Result<RejectedRecord> {
        let (table, record) = (&feed.tables[self.table], self.from.record(row));
        let (reason, column) = (RejectReason::TooOld, None);
        if let Some(EpochRecords { chunk, .. }) = epoch.raw.get(&self.from.piece) {
            let reject = Reject { record: record as u32, reason, column, detail };
            return Ok(rejected(&table.name, &self.from.stream, chunk, reject));
        }
        let physical: Vec<usize> = (0..table.physical).collect();
        Ok(RejectedRecord {
            origin: table.name.clone(),
            stream: self.from.stream.to_string(),
            split: self.split.to_string(),
            sequence_number: self.from.sequence.get(record).into_owned(),
            arrival_ms: Some(self.from.arrivals.get(record)),
            reason,
            column,
            detail,
            record: row_json(&self.batch.project(&physical)?, row),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
