//! What a call of the decoder gives back, gathered record by record.

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use super::prefilter::SkippedTime;
use super::reject::{Reject, RejectReason, excerpt};
use super::walk::{Fault, Stop};

/// Outcome of one call: each record is a row, a reject or skipped, and is so exactly once.
#[derive(Debug)]
pub struct Decoded {
    /// The rows, in the order of their records.
    pub batch: RecordBatch,
    /// For each row, its record's place in the call; `None` if every record became a row.
    pub rows: Option<Vec<u32>>,
    /// In the order of their records.
    pub rejects: Vec<Reject>,
    /// Records that the raw-byte test skipped.
    pub skipped: u64,
    /// Only with a prefilter that asks for times.
    pub skipped_time: Option<SkippedTime>,
}

#[derive(Debug, Default)]
pub(super) struct Output {
    /// Rows so far.
    pub count: usize,
    rows: Option<Vec<u32>>,
    rejects: Vec<Reject>,
    skipped: u64,
    skipped_time: Option<SkippedTime>,
}

impl Output {
    pub(super) fn new(with_times: bool) -> Self {
        Self {
            skipped_time: with_times.then(|| SkippedTime { before_row: Vec::new(), max: i64::MIN }),
            ..Self::default()
        }
    }

    #[inline(always)]
    pub(super) fn keep(&mut self, record: usize) {
        self.count += 1;
        if let Some(rows) = &mut self.rows {
            rows.push(record as u32);
        }
        if let Some(times) = &mut self.skipped_time {
            times.before_row.push(times.max);
        }
    }

    #[inline(always)]
    pub(super) fn skip(&mut self, record: usize, time: Option<i64>) {
        self.no_row(record);
        self.skipped += 1;
        if let (Some(times), Some(time)) = (&mut self.skipped_time, time) {
            times.max = times.max.max(time);
        }
    }

    /// From the first record without a row on, rows and records are numbered apart.
    #[inline(always)]
    fn no_row(&mut self, record: usize) {
        if self.rows.is_none() {
            self.rows = Some((0..record as u32).collect());
        }
    }

    fn reject(&mut self, record: usize, reason: RejectReason, column: Option<String>, detail: String) {
        self.no_row(record);
        self.rejects.push(Reject { record: record as u32, reason, column, detail });
    }

    #[cold]
    pub(super) fn reject_range(&mut self, record: usize) {
        self.reject(record, RejectReason::BadRange, None, "the record does not lie in its chunk, or is over 2 GiB".into());
    }

    #[cold]
    pub(super) fn reject_utf8(&mut self, record: usize, content: &[u8]) {
        let place = std::str::from_utf8(content).err().map_or(0, |error| error.valid_up_to());
        let found = content.get(place).copied().unwrap_or(0);
        self.reject(record, RejectReason::InvalidUtf8, None, format!("byte 0x{found:02x} at byte {place} is not UTF-8"));
    }

    /// `fault` is what `stop` is about, and `column` the path of its column.
    #[cold]
    pub(super) fn reject_stop(&mut self, record: usize, content: &[u8], stop: Stop, fault: Fault, column: Option<String>) {
        let at = fault.from;
        let span = content.get(fault.from..fault.to).unwrap_or_default();
        let (reason, detail) = match stop {
            Stop::Syntax | Stop::Found | Stop::Repeat => (RejectReason::InvalidJson, syntax_detail(content, at)),
            Stop::TooDeep => (RejectReason::TooDeep, format!("too many objects and arrays nested at byte {at}")),
            Stop::NotAnObject => (RejectReason::NotAnObject, format!("found {}", excerpt(content.trim_ascii()))),
            Stop::Value(RejectReason::MissingField) => (RejectReason::MissingField, "no value, but NOT NULL".into()),
            Stop::Value(reason) => (reason, format!("found {}", excerpt(span))),
        };
        let column = if matches!(stop, Stop::Value(_)) { column } else { None };
        self.reject(record, reason, column, detail);
    }

    /// `columns`: the arrays, or why they could not be made, which is a fault of ours and not of the records.
    pub(super) fn finish(self, schema: &SchemaRef, columns: Result<Vec<ArrayRef>, ArrowError>) -> Decoded {
        let options = RecordBatchOptions::new().with_row_count(Some(self.count));
        let batch = columns
            .and_then(|columns| RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options))
            .expect("columns are made for the schema, all of the same length, NOT NULL ones checked row by row");
        Decoded {
            batch,
            rows: self.rows,
            rejects: self.rejects,
            skipped: self.skipped,
            skipped_time: self.skipped_time,
        }
    }
}

fn syntax_detail(content: &[u8], at: usize) -> String {
    if content.trim_ascii().is_empty() {
        return "empty record".into();
    }
    match content.get(at..) {
        None | Some([]) => format!("ends too early, after {} bytes", content.len()),
        Some(rest) => format!("unexpected at byte {at}: {}", excerpt(&rest[..rest.len().min(40)])),
    }
}
