//! Of what changes of a key in an epoch, what is left in the end.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::row::{OwnedRow, RowConverter, SortField};

use crate::contracts::Result;

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
