//! What a query gives, as its sink takes it.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::{concat_batches, take_record_batch};
use datafusion::arrow::datatypes::{Int8Type, SchemaRef};

use crate::contracts::{ChangeKind, Changes, Error, Result};
use crate::operators::{ChangeMode, SpilledRows, StoredRows, consolidate};

/// Changes on their way to a sink.
#[derive(Debug)]
pub(crate) enum WaitingChanges {
    /// In memory.
    Held(Changes),
    /// Appended rows, or rows that replace those of their keys, on disk: an epoch has more of them than memory may have.
    Spilled(SpilledRows),
}

impl WaitingChanges {
    /// How many rows they have.
    pub(super) fn num_rows(&self) -> usize {
        match self {
            Self::Held(changes) => changes.batch.num_rows(),
            Self::Spilled(rows) => rows.num_rows(),
        }
    }

    /// The changes, read from disk if they are there.
    pub(super) fn load(self) -> Result<Changes> {
        match self {
            Self::Held(changes) => Ok(changes),
            Self::Spilled(rows) => Ok(Changes { batch: rows.load()?, kinds: None }),
        }
    }
}

/// Rows of a query as changes of its sink's table.
pub(super) fn changes(
    rows: Vec<StoredRows>,
    mode: ChangeMode,
    key: &[usize],
    schema: &SchemaRef,
) -> Result<Vec<WaitingChanges>> {
    let named = |rows: StoredRows| -> Result<WaitingChanges> {
        Ok(match rows {
            StoredRows::Held(batch) => {
                let batch = RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec())?;
                WaitingChanges::Held(Changes { batch, kinds: None })
            }
            StoredRows::Spilled(rows) => WaitingChanges::Spilled(rows.under(schema)),
        })
    };
    if mode != ChangeMode::Delta {
        return rows.into_iter().map(named).collect();
    }
    if rows.iter().any(StoredRows::is_spilled) {
        let what = "what changes in one epoch must be consolidated in memory, and is more than a fifth of it";
        let hint = "give the job more --memory, or shorter epochs: SET 'tidemill.epoch.rows'";
        return Err(Error::unavailable(what).of_this_machine().hint(hint));
    }
    let rows = rows.into_iter().map(StoredRows::load).collect::<Result<Vec<_>>>()?;
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
    Ok(vec![WaitingChanges::Held(Changes { batch, kinds: Some(deletes.iter().map(kind).collect()) })])
}
