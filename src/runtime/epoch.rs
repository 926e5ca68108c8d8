//! The input of one epoch: what it takes, and when it closes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::Int64Type;

use super::driver::PIECES_WAITING;
use super::gathered::Gathered;
use crate::contracts::{EpochCut, RawChunk, RejectedRecord, Result, Watermark};
use crate::operators::{TableStanding, WATERMARK_COLUMN};

/// What an epoch takes, and when it closes.
#[derive(Debug, Clone, Copy)]
pub struct EpochLimits {
    /// Longest time that it stays open.
    pub interval: Duration,
    /// Rows at which it closes before its time.
    pub rows: usize,
    /// Bytes of records at which it closes before its time. It has more by one piece at most.
    pub bytes: usize,
    /// How long ago a record may have arrived, in milliseconds; `None` is as long as you like.
    pub record_age_ms: Option<i64>,
}

impl EpochLimits {
    /// Bytes of a piece, unless a single record has more: those that wait for their epoch are no more than one.
    pub(super) fn piece_bytes(&self) -> usize {
        self.bytes.div_ceil(PIECES_WAITING)
    }
}

/// Records of an epoch, and where they are from.
#[derive(Debug)]
pub(crate) struct EpochRecords {
    /// What people call the source of their split.
    pub(crate) stream: Arc<str>,
    pub(crate) chunk: RawChunk,
}

/// The input of one epoch.
#[derive(Debug, Default)]
pub(crate) struct Epoch {
    /// Rows of each table: split after split in the order of their names, so that the order does not depend on time.
    pub(crate) rows: Vec<Vec<RecordBatch>>,
    pub(crate) watermarks: Vec<Watermark>,
    /// What each table says to others beside it, where some are quiet; else nothing.
    pub(crate) standings: Vec<TableStanding>,
    pub(crate) rejects: Vec<RejectedRecord>,
    /// Records by the number in the origin column.
    pub(crate) raw: BTreeMap<u32, EpochRecords>,
    /// Rows whose source has no records, by the number of their piece and the table.
    pub(super) typed: BTreeMap<(u32, usize), Gathered>,
    /// No more will come.
    pub(crate) last: bool,
    pub(crate) total_rows: usize,
    pub(super) total_bytes: u64,
    /// What `now()` answers, milliseconds since 1970.
    pub(crate) now_ms: i64,
    /// Records that arrived before are too old, milliseconds since 1970.
    pub(crate) oldest_ms: Option<i64>,
    /// The epoch is one of the log, and this is what it says.
    pub(crate) logged: Option<EpochCut>,
    /// Rows as they come.
    pub(super) gathered: Vec<Gathered>,
    /// Before the epoch, windows up to here had fired, by feed and table.
    pub(crate) floors: Vec<Vec<i64>>,
}

impl Epoch {
    pub(super) fn new(slots: usize) -> Self {
        Self { rows: vec![Vec::new(); slots], watermarks: vec![Watermark::MIN; slots], ..Self::default() }
    }
}

/// The watermark column raised to `floor`.
pub(super) fn with_floor(batch: &RecordBatch, floor: i64) -> Result<RecordBatch> {
    let Ok(index) = batch.schema_ref().index_of(WATERMARK_COLUMN) else { return Ok(batch.clone()) };
    let raised: Int64Array = batch.column(index).as_primitive::<Int64Type>().unary(|ms| ms.max(floor));
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    debug_assert_eq!(raised.len(), batch.num_rows());
    columns[index] = Arc::new(raised);
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &options)?)
}
