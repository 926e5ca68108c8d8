//! Rows of a file held back until it is closed, to be sorted (`sink.sort-by`).
//!
//! Sorting needs the whole file in memory. So files of such a table are as large as their rows are in memory, and all
//! that are open have one bound together: at the bound, the largest is sorted, written and closed.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{SortColumn, SortOptions, concat_batches, lexsort_to_indices, take_record_batch};

use crate::contracts::{Error, Result, TableSpec, batch_bytes, without_garbage};

/// Bytes that all open files of a sink hold back, where its share of the memory is no less.
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
    /// Takes rows. Those that were taken out of others hold all text of these: what they do not show is left behind, else the bound
    /// would not be one.
    pub(super) fn add(&mut self, batch: RecordBatch) -> Result<()> {
        let batch = without_garbage(batch)?;
        self.bytes += batch_bytes(&batch) as u64;
        self.batches.push(batch);
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{ArrayRef, AsArray, ListBuilder, StringViewArray, StringViewBuilder, UInt32Array};

    use super::*;

    /// As an epoch that is cut into partitions: a row of each is in every one, and no more of it is held than that row.
    #[test]
    fn rows_that_are_held_back_hold_their_own_text_only() {
        const PARTITIONS: u32 = 50;
        let text = |epoch: u32, row: u32| format!("{epoch} {row} {}", "x".repeat(1_000));
        let mut held: Vec<Held> = (0..PARTITIONS).map(|_| Held::default()).collect();
        for epoch in 0..50 {
            let texts = StringViewArray::from_iter_values((0..PARTITIONS).map(|row| text(epoch, row)));
            let mut lists = ListBuilder::new(StringViewBuilder::new());
            (0..PARTITIONS).for_each(|row| lists.append_value([Some(text(epoch, row))]));
            let columns: [(&str, ArrayRef); 2] = [("t", Arc::new(texts)), ("l", Arc::new(lists.finish()))];
            let rows = RecordBatch::try_from_iter(columns).expect("equal lengths");
            for (row, held) in (0..PARTITIONS).zip(&mut held) {
                held.add(take_record_batch(&rows, &UInt32Array::from(vec![row])).expect("a row")).expect("copied");
            }
        }
        let counted: u64 = held.iter().map(Held::bytes).sum();
        let mut buffers = BTreeMap::new();
        for batch in held.iter().flat_map(|held| &held.batches) {
            for texts in [batch.column(0), batch.column(1).as_list::<i32>().values()] {
                buffers
                    .extend(texts.as_string_view().data_buffers().iter().map(|b| (b.as_ptr() as usize, b.capacity())));
            }
        }
        let in_memory: usize = buffers.values().sum();
        assert!(counted > 4_000_000, "{counted}");
        assert!((in_memory as u64) < 2 * counted, "{in_memory} bytes in memory, {counted} counted");
        let order = SortOrder(vec![(0, SortOptions::default())]);
        let sorted = held[7].sorted(&order).expect("sorted").expect("rows");
        assert_eq!(sorted.num_rows(), 50);
        assert_eq!(sorted.column(0).as_string_view().value(1), text(1, 7));
    }
}
