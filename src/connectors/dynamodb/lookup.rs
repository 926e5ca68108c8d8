//! What both DynamoDBs, the real and the embedded one, have in common when rows are looked up: stored items become rows.
//!
//! An item becomes a JSON object with the columns in use, and the decoder of JSON makes the rows: so a stored value fits a
//! column exactly when a record's would.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;

use crate::connectors::options::Options;
use crate::contracts::{Arrivals, Error, RawChunk, RecordRange, Result, SequenceNumbers, SplitId, TableSpec};
use crate::formats::decoder;

use super::rows::TableKey;

/// A table that is looked up.
#[derive(Debug, Clone)]
pub(super) struct LookedUp {
    pub(super) spec: TableSpec,
    /// Its name, or ARN.
    pub(super) table: String,
    pub(super) key: TableKey,
}

impl LookedUp {
    pub(super) fn of(spec: &TableSpec) -> Result<Self> {
        let table = Options(spec).require(&["table-name"])?.to_owned();
        Ok(Self { spec: spec.clone(), table, key: TableKey::of(spec)? })
    }

    /// Rows of JSON objects.
    pub(super) fn rows(&self, objects: &Objects) -> Result<RecordBatch> {
        let mut data = objects.text.clone();
        data.resize(data.len() + crate::contracts::RECORD_PADDING, 0);
        let chunk = RawChunk {
            split: SplitId(Arc::from(self.table.as_str())),
            data: Buffer::from_vec(data),
            records: objects.ranges.as_slice().into(),
            sequence: SequenceNumbers::Dense { first: 0 },
            arrivals: Arrivals::Same(0),
            partition_keys: None,
        };
        let decoded = decoder("json", &self.spec, None)?.decode(&chunk);
        if let Some(reject) = decoded.rejects.first() {
            let column = reject.column.as_ref().map(|c| format!(" in column '{c}'")).unwrap_or_default();
            let item: String =
                String::from_utf8_lossy(chunk.record(reject.record as usize)).chars().take(120).collect();
            return Err(Error::data(format!(
                "table '{}': an item of '{}' does not fit: {}{column}: {} (item: {item})",
                self.spec.name, self.table, reject.reason, reject.detail
            ))
            .hint("mend the item, or give the column the type that is stored"));
        }
        Ok(decoded.batch)
    }
}

/// JSON objects one behind the other.
#[derive(Debug, Default)]
pub(super) struct Objects {
    text: Vec<u8>,
    ranges: Vec<RecordRange>,
}

impl Objects {
    /// The objects, each with a line end but for the last.
    pub(super) fn into_text(mut self) -> Vec<u8> {
        self.text.pop();
        self.text
    }

    /// Adds one; `member` writes the value of a column, or nothing where the item lacks it.
    pub(super) fn add<'n>(
        &mut self,
        names: impl IntoIterator<Item = &'n String>,
        mut member: impl FnMut(&str, &mut Vec<u8>),
    ) {
        let start = self.text.len() as u32;
        let mut separator = b'{';
        for name in names {
            let before = self.text.len();
            self.text.push(separator);
            json_string(name, &mut self.text);
            self.text.push(b':');
            let at = self.text.len();
            member(name, &mut self.text);
            if self.text.len() == at {
                self.text.truncate(before);
            } else {
                separator = b',';
            }
        }
        if separator == b'{' {
            self.text.push(b'{');
        }
        self.text.push(b'}');
        self.ranges.push(RecordRange { start, end: self.text.len() as u32 });
        self.text.push(b'\n');
    }
}

/// Text in quotes.
pub(super) fn json_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a vector takes every text");
}

/// Bytes as the decoder of JSON reads them.
pub(super) fn json_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    use base64::Engine;
    json_string(&base64::engine::general_purpose::STANDARD.encode(bytes), out);
}
