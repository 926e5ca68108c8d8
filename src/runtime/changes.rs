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

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int8Array, Int64Array};
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;
    use crate::state::SpillFolder;

    /// Key, value, and what the row does: what is withdrawn and given again in one epoch is given, what is only withdrawn is deleted.
    #[test]
    fn rows_on_disk_do_what_their_weights_say() {
        let numbers = |numbers: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(numbers)) };
        let rows = RecordBatch::try_from_iter([
            ("k", numbers(vec![1, 2, 3, 1])),
            ("v", numbers(vec![10, 20, 30, 11])),
            ("w", Arc::new(Int8Array::from(vec![-1, -1, 1, 1])) as ArrayRef),
        ])
        .expect("a batch");
        let schema = Arc::new(rows.schema().project(&[0, 1]).expect("two columns"));
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 1 << 20).expect("created");
        let limit = StateLimit::new(Arc::clone(&folder), 1 << 20, 1 << 20, 1 << 30);
        let mut writer = folder.file(&rows.schema()).expect("begun");
        for half in [0, 2] {
            writer.write(&rows.slice(half, 2)).expect("written");
        }
        let file = writer.finish().expect("written");
        let spilled = || SpilledRows::of(&file, &rows.schema()).map(StoredRows::Spilled).collect::<Vec<_>>();
        for (rows, is_spilled) in [(vec![StoredRows::held(rows.clone())], false), (spilled(), true)] {
            for (key, expected) in [
                (vec![0], vec![(1, 11, false), (2, 20, true), (3, 30, false)]),
                (vec![], vec![(1, 10, true), (1, 11, false), (2, 20, true), (3, 30, false)]),
            ] {
                let waiting = changes(rows.clone(), ChangeMode::Delta, &key, &schema, Some(&limit)).expect("changes");
                assert_eq!(waiting.iter().all(|waiting| matches!(waiting, WaitingChanges::Weighted(..))), is_spilled);
                let mut found = Vec::new();
                for waiting in waiting {
                    let (Changes { batch, kinds }, _) = waiting.load().expect("loaded");
                    let column = |at: usize| batch.column(at).as_primitive::<Int64Type>().values().to_vec();
                    let kinds = kinds.expect("each row has one");
                    let deletes = kinds.iter().map(|kind| matches!(kind, ChangeKind::Delete));
                    found.extend(column(0).into_iter().zip(column(1)).zip(deletes).map(|((k, v), d)| (k, v, d)));
                }
                found.sort_unstable();
                assert_eq!(found, expected, "{is_spilled}, {key:?}");
            }
        }
    }
}
