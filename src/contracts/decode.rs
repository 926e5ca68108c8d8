//! From raw records to Arrow.

use arrow::array::RecordBatch;

use super::record::RawChunk;
use super::reject::Reject;

/// Turns the records of a chunk into columns.
///
/// # Contract
/// - Every record of the chunk ends as a row, as a reject, or in `skipped`: none is lost.
/// - Rows keep the order of the records.
/// - Decoding the chunk in one call or in several gives the same rows.
pub trait Decoder: Send {
    /// Decodes one chunk. Bad records are rejects, never an error of the call.
    fn decode(&mut self, chunk: &RawChunk) -> Decoded;
}

/// What a chunk became.
#[derive(Debug)]
pub struct Decoded {
    /// The rows, with the physical columns that the decoder was made for.
    pub batch: RecordBatch,
    /// The record that each row came from; `None` means row `i` is record `i`.
    pub rows: Option<Vec<u32>>,
    /// Records that could not be decoded.
    pub rejects: Vec<Reject>,
    /// Records that the raw-byte test left out (no query could use them).
    pub skipped: u64,
    /// Event times of skipped records, where the watermark needs them.
    pub skipped_time: Option<SkippedTime>,
}

/// Event times of records that were skipped unparsed, in the unit of the time column.
/// `i64::MIN` means none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedTime {
    /// For each row, the largest time among records skipped before it in this chunk.
    pub before_row: Vec<i64>,
    /// The largest time among all records skipped in this chunk.
    pub max: i64,
}
