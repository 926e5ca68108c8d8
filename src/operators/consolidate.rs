//! Of what changes of a key in an epoch, what is left in the end.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat_batches, take_record_batch};
use datafusion::arrow::row::{OwnedRow, RowConverter, SortField};

use super::compute::StateLimit;
use super::hash_ranges::HashRanges;
use super::key_hashes::KeyHashes;
use super::output::Output;
use super::stored_rows::{StoredRows, rows_in_range};
use crate::contracts::Result;

/// Of what operators may have in memory, a range of keys has this part: its rows are there twice, with their keys, and what is left of them.
const RANGE_PART: usize = 4;

/// One row for each primary key out of weighted rows: the last inserted one, else a deletion.
///
/// Returns the rows to keep, in their order, and whether each is a deletion.
pub fn consolidate(rows: &RecordBatch, key_columns: &[usize], weight: usize) -> Result<(UInt32Array, Vec<bool>)> {
    let fields = key_columns.iter().map(|c| SortField::new(rows.column(*c).data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let keys: Vec<ArrayRef> = key_columns.iter().map(|c| Arc::clone(rows.column(*c))).collect();
    let keys = converter.convert_columns(&keys)?;
    let weights = rows.column(weight).as_primitive::<datafusion::arrow::datatypes::Int8Type>();
    let mut last: indexmap::IndexMap<OwnedRow, (u32, bool)> = indexmap::IndexMap::new();
    for row in 0..rows.num_rows() {
        let deletes = weights.value(row) < 0;
        let entry = last.entry(keys.row(row).owned()).or_insert((row as u32, deletes));
        // Within an epoch withdrawals come before insertions, but a key may be withdrawn by one row
        // and inserted by another: an insertion always wins.
        if !deletes || entry.1 {
            *entry = (row as u32, deletes);
        }
    }
    let (rows, deletes): (Vec<u32>, Vec<bool>) = last.into_values().unzip();
    Ok((UInt32Array::from(rows), deletes))
}

/// The same of rows that may be on disk, a range of hashes of their keys at a time: what is left goes there, too. Its weights say what
/// is a deletion.
///
/// # Errors
/// The disk's.
pub fn consolidate_stored(
    rows: &[StoredRows],
    key_columns: &[usize],
    weight: usize,
    limit: &StateLimit,
) -> Result<Vec<StoredRows>> {
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let schema = first.clone().load()?.schema();
    let hashes = KeyHashes::try_new(&schema, key_columns.to_vec())?;
    let mut left = Output::all_on_disk(limit);
    let bytes = rows.iter().map(StoredRows::bytes).sum();
    for range in HashRanges::of(bytes, limit.output_bytes / RANGE_PART) {
        let part = rows_in_range(rows, &hashes, &range)?;
        if !part.is_empty() {
            let part = concat_batches(&schema, &part)?;
            let (kept, _) = consolidate(&part, key_columns, weight)?;
            left.add(take_record_batch(&part, &kept)?)?;
        }
    }
    left.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use datafusion::arrow::array::{Int8Array, Int64Array, StringViewArray};
    use datafusion::arrow::datatypes::{Int8Type, Int64Type};

    use super::*;
    use crate::state::SpillFolder;

    /// By key, the value that is left and its weight; each key once.
    fn left(batch: &RecordBatch, rows: impl Iterator<Item = usize>) -> Vec<(String, (i64, i8))> {
        let keys = batch.column(0).as_string_view();
        let values = batch.column(1).as_primitive::<Int64Type>();
        let weights = batch.column(2).as_primitive::<Int8Type>();
        rows.map(|row| (keys.value(row).to_owned(), (values.value(row), weights.value(row)))).collect()
    }

    #[test]
    fn what_is_on_disk_is_consolidated_as_what_is_in_memory() {
        // Keys are withdrawn and inserted again, far from each other; some are only withdrawn, some only inserted.
        let all: Vec<(String, i64, i8)> = (0..6_000_i64)
            .map(|n| {
                let key = n * 7_919 % 2_500;
                let weight = if n < 2_500 || (key % 3 == 0 && n < 5_000) { -1 } else { 1 };
                (format!("a key of some length {key}"), n, weight)
            })
            .filter(|(_, n, _)| n % 5 != 0)
            .collect();
        let columns: [(&str, ArrayRef); 3] = [
            ("k", Arc::new(all.iter().map(|row| Some(row.0.as_str())).collect::<StringViewArray>())),
            ("v", Arc::new(Int64Array::from_iter_values(all.iter().map(|row| row.1)))),
            ("w", Arc::new(Int8Array::from_iter_values(all.iter().map(|row| row.2)))),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("a batch");
        let (kept, deletes) = consolidate(&batch, &[0], 2).expect("consolidated");
        let expected = left(&batch, kept.values().iter().map(|row| *row as usize));
        assert_eq!(expected.iter().map(|(_, (_, weight))| *weight < 0).collect::<Vec<_>>(), deletes);
        assert!(deletes.iter().any(|deletes| *deletes) && !deletes.iter().all(|deletes| *deletes));
        let expected: BTreeMap<_, _> = expected.into_iter().collect();

        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 1 << 20).expect("created");
        for output_bytes in [20_000, 1 << 30] {
            let limit = StateLimit::new(Arc::clone(&folder), 1 << 30, output_bytes, 1 << 30);
            let mut stored = Output::all_on_disk(&limit);
            (0..batch.num_rows()).step_by(500).for_each(|from| {
                stored.add(batch.slice(from, 500.min(batch.num_rows() - from))).expect("written");
            });
            let mut stored = stored.finish().expect("written");
            // Some are in memory.
            let last = stored.pop().expect("several");
            stored.push(StoredRows::held(last.load().expect("read")));
            let found = consolidate_stored(&stored, &[0], 2, &limit).expect("consolidated");
            assert!(found.iter().all(StoredRows::is_spilled), "{found:?}");
            let found = found.into_iter().map(|rows| rows.load().expect("read"));
            let found: Vec<_> = found.flat_map(|batch| left(&batch, 0..batch.num_rows())).collect();
            assert_eq!(found.len(), expected.len(), "each key once");
            assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), expected);
        }
    }
}
