//! What a query gives, as its sink takes it.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::{concat_batches, take_record_batch};
use datafusion::arrow::datatypes::{Int8Type, SchemaRef};

use crate::contracts::{ChangeKind, Changes, Error, Result};
use crate::operators::{ChangeMode, Room, SpilledRows, StateLimit, StoredRows, consolidate, consolidate_stored};

/// Changes on their way to a sink.
#[derive(Debug)]
pub(crate) enum WaitingChanges {
    /// In memory, with what they have taken of the room there.
    Held(Changes, Room),
    /// Appended rows, or rows that replace those of their keys, on disk: an epoch has more of them than memory may have.
    Spilled(SpilledRows),
    /// The same of rows that have a weight behind the columns of this schema.
    Weighted(SpilledRows, SchemaRef),
}

impl WaitingChanges {
    /// How many rows they have.
    pub(super) fn num_rows(&self) -> usize {
        match self {
            Self::Held(changes, _) => changes.batch.num_rows(),
            Self::Spilled(rows) | Self::Weighted(rows, _) => rows.num_rows(),
        }
    }

    /// The changes, read from disk if they are there, and the room that they have.
    pub(super) fn load(self) -> Result<(Changes, Room)> {
        match self {
            Self::Held(changes, room) => Ok((changes, room)),
            Self::Spilled(rows) => Ok((Changes { batch: rows.load()?, kinds: None }, None)),
            Self::Weighted(rows, schema) => Ok((weighted(&rows.load()?, &schema)?, None)),
        }
    }
}

/// Rows of a query as changes of its sink's table.
pub(super) fn changes(
    rows: Vec<StoredRows>,
    mode: ChangeMode,
    key: &[usize],
    schema: &SchemaRef,
    limit: Option<&StateLimit>,
) -> Result<Vec<WaitingChanges>> {
    let named = |rows: StoredRows| -> Result<WaitingChanges> {
        Ok(match rows {
            StoredRows::Held(batch, room) => {
                let batch = RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec())?;
                WaitingChanges::Held(Changes { batch, kinds: None }, room)
            }
            StoredRows::Spilled(rows) => WaitingChanges::Spilled(rows.under(schema)),
        })
    };
    if mode != ChangeMode::Delta {
        return rows.into_iter().map(named).collect();
    }
    if let Some(limit) = limit.filter(|_| rows.iter().any(StoredRows::is_spilled)) {
        let weight = rows.first().map_or(0, |rows| rows.num_columns() - 1);
        let rows = if key.is_empty() { rows } else { consolidate_stored(&rows, key, weight, limit)? };
        let stored = |rows: StoredRows| -> Result<WaitingChanges> {
            Ok(match rows {
                StoredRows::Held(batch, room) => WaitingChanges::Held(weighted(&batch, schema)?, room),
                StoredRows::Spilled(rows) => WaitingChanges::Weighted(rows, Arc::clone(schema)),
            })
        };
        return rows.into_iter().map(stored).collect();
    }
    let Some(StoredRows::Held(_, room)) = rows.first() else { return Ok(Vec::new()) };
    let room = room.clone();
    let rows = rows.into_iter().map(StoredRows::load).collect::<Result<Vec<_>>>()?;
    let mut all = concat_batches(rows[0].schema_ref(), &rows)?;
    if !key.is_empty() {
        let (kept, _) = consolidate(&all, key, all.num_columns() - 1)?;
        all = take_record_batch(&all, &kept)?;
    }
    Ok(vec![WaitingChanges::Held(weighted(&all, schema)?, room)])
}

/// Rows whose last column says what each does.
fn weighted(rows: &RecordBatch, schema: &SchemaRef) -> Result<Changes> {
    let Some((weights, columns)) = rows.columns().split_last() else {
        return Err(Error::internal("rows without a weight"));
    };
    let batch = RecordBatch::try_new(Arc::clone(schema), columns.to_vec())?;
    let kind = |weight: &i8| if *weight < 0 { ChangeKind::Delete } else { ChangeKind::Upsert };
    Ok(Changes { batch, kinds: Some(weights.as_primitive::<Int8Type>().values().iter().map(kind).collect()) })
}
