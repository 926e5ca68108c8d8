//! Rows of an epoch, and where each came from.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::UInt64Type;

use super::reader::row_json;
use crate::contracts::{Arrivals, RejectReason, RejectedRecord, Result, SequenceNumbers, SplitId};
use crate::operators::ORIGIN_COLUMN;

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
    pub(super) fn record(&self, row: usize) -> usize {
        self.records.as_ref().map_or(row, |records| records[row] as usize)
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
    /// The row that has this number.
    pub(super) fn row_of(&self, origin: u64) -> Option<usize> {
        // Rows are in the order of their records.
        origins(&self.batch).binary_search(&origin).ok()
    }

    /// A row for the error output, where its source has no records: as JSON, with its first `physical` columns.
    pub(super) fn refused(
        &self,
        row: usize,
        physical: usize,
        origin: &str,
        reason: RejectReason,
        detail: String,
    ) -> Result<RejectedRecord> {
        let (record, physical) = (self.from.record(row), (0..physical).collect::<Vec<_>>());
        Ok(RejectedRecord {
            origin: origin.to_owned(),
            stream: self.from.stream.to_string(),
            split: self.split.to_string(),
            sequence_number: self.from.sequence.get(record).into_owned(),
            arrival_ms: Some(self.from.arrivals.get(record)),
            reason,
            column: None,
            detail,
            record: row_json(&self.batch.project(&physical)?, row),
        })
    }
}

/// The numbers of rows in their epoch: `piece << 32 | record`.
pub(super) fn origins(batch: &RecordBatch) -> &[u64] {
    let numbers = batch.column_by_name(ORIGIN_COLUMN).and_then(|column| column.as_primitive_opt::<UInt64Type>());
    match numbers {
        Some(numbers) => numbers.values(),
        None => &[],
    }
}
