//! What a query gives, as its sink takes it.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::{concat_batches, take_record_batch};
use datafusion::arrow::datatypes::{Int8Type, SchemaRef};

use crate::contracts::{ChangeKind, Changes, Result};
use crate::operators::{ChangeMode, consolidate};

/// Rows of a query as changes of its sink's table.
pub(super) fn changes(
    rows: Vec<RecordBatch>,
    mode: ChangeMode,
    key: &[usize],
    schema: &SchemaRef,
) -> Result<Vec<Changes>> {
    let named = |batch: RecordBatch| -> Result<RecordBatch> {
        Ok(RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec())?)
    };
    if mode != ChangeMode::Delta {
        return rows.into_iter().map(|b| Ok(Changes { batch: named(b)?, kinds: None })).collect();
    }
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let all = concat_batches(&first.schema(), &rows)?;
    let weight = all.num_columns() - 1;
    let (rows, deletes) = if key.is_empty() {
        let weights = all.column(weight).as_primitive::<Int8Type>();
        (None, weights.values().iter().map(|w| *w < 0).collect())
    } else {
        let (rows, deletes) = consolidate(&all, key, weight)?;
        (Some(rows), deletes)
    };
    let all = match rows {
        Some(rows) => take_record_batch(&all, &rows)?,
        None => all,
    };
    let batch = RecordBatch::try_new(Arc::clone(schema), all.columns()[..weight].to_vec())?;
    let kind = |delete: &bool| if *delete { ChangeKind::Delete } else { ChangeKind::Upsert };
    Ok(vec![Changes { batch, kinds: Some(deletes.iter().map(kind).collect()) }])
}
