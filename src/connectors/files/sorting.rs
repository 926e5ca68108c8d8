//! Rows of a file held back until it is closed, to be sorted (`sink.sort-by`).
//!
//! Sorting needs the whole file in memory. So files of such a table are as large as their rows are in memory, and all
//! that are open have one bound together: at the bound, the largest is sorted, written and closed.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{SortColumn, SortOptions, concat_batches, lexsort_to_indices, take_record_batch};

use crate::contracts::{Error, Result, TableSpec, batch_bytes};

/// Bytes that all open files of a sink hold back.
pub(super) const SORT_BYTES: u64 = 128 << 20;

/// By which columns, and in which directions.
#[derive(Debug, Clone)]
pub(super) struct SortOrder(Vec<(usize, SortOptions)>);

impl SortOrder {
    /// The table's option `sink.sort-by` = `'user_id, timestamp DESC NULLS LAST'`; `file_columns` are the columns of a
    /// file among those that the INSERT writes.
    pub(super) fn of(spec: &TableSpec, file_columns: &[usize]) -> Result<Option<Self>> {
        let Some(text) = spec.option("sink.sort-by") else { return Ok(None) };
        let wrong = |what: String| {
            Error::config(format!("table '{}': option 'sink.sort-by': {what}", spec.name))
                .hint("write column names, each with ASC or DESC and NULLS FIRST or NULLS LAST if you like: 'user_id, at DESC'")
        };
        let mut columns = Vec::new();
        for item in text.split(',') {
            let words: Vec<&str> = item.split_whitespace().collect();
            let Some((name, rest)) = words.split_first() else {
                return Err(wrong(format!("'{text}' has an empty item")));
            };
            let name = name.trim_matches('`');
            let column = file_columns.iter().position(|c| spec.schema.field(*c).name() == name);
            let column = column.ok_or_else(|| wrong(format!("no column '{name}' is written to the files")))?;
            let rest = rest.join(" ").to_ascii_uppercase();
            // As in Flink, NULL is less than any value.
            let (descending, nulls_first) = match rest.as_str() {
                "" | "ASC" | "NULLS FIRST" | "ASC NULLS FIRST" => (false, true),
                "ASC NULLS LAST" | "NULLS LAST" => (false, false),
                "DESC" | "DESC NULLS LAST" => (true, false),
                "DESC NULLS FIRST" => (true, true),
                other => return Err(wrong(format!("'{other}' after '{name}' is not understood"))),
            };
            let data_type = spec.schema.field(file_columns[column]).data_type();
            if data_type.is_nested() {
                return Err(wrong(format!("'{name}' is {data_type}, which has no order")));
            }
            columns.push((column, SortOptions { descending, nulls_first }));
        }
        Ok(Some(Self(columns)))
    }

    /// Column of the file, descending, nulls first.
    pub(super) fn columns(&self) -> Vec<(usize, bool, bool)> {
        self.0.iter().map(|(column, options)| (*column, options.descending, options.nulls_first)).collect()
    }

    /// All rows of `batches`, sorted.
    fn sort(&self, batches: &[RecordBatch]) -> Result<RecordBatch> {
        let schema = batches.first().map(RecordBatch::schema);
        let schema = schema.ok_or_else(|| Error::internal("nothing to sort"))?;
        let all = concat_batches(&schema, batches)?;
        let key = |(column, options): &(usize, SortOptions)| SortColumn {
            values: Arc::clone(all.column(*column)),
            options: Some(*options),
        };
        let keys: Vec<SortColumn> = self.0.iter().map(key).collect();
        Ok(take_record_batch(&all, &lexsort_to_indices(&keys, None)?)?)
    }
}

/// Rows of an open file that wait to be sorted.
#[derive(Debug, Default)]
pub(super) struct Held {
    batches: Vec<RecordBatch>,
    bytes: u64,
}

impl Held {
    pub(super) fn add(&mut self, batch: RecordBatch) {
        self.bytes += batch_bytes(&batch) as u64;
        self.batches.push(batch);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The rows, sorted; `None` when there are none.
    pub(super) fn sorted(&mut self, order: &SortOrder) -> Result<Option<RecordBatch>> {
        let batches = std::mem::take(&mut self.batches);
        self.bytes = 0;
        if batches.is_empty() { Ok(None) } else { order.sort(&batches).map(Some) }
    }
}
