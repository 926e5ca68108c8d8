//! What both DynamoDBs, the real and the embedded one, ask of rows: a key, sizes, and one write for each key and epoch.

use std::collections::HashSet;

use arrow::array::RecordBatch;
use arrow::row::{RowConverter, SortField};

use crate::contracts::{ChangeKind, Error, RefusedRow, Result, TableSpec};

use super::cells::{Cell, CellColumn, describe};

/// DynamoDB's limits, from "Quotas" in its developer guide.
const MAX_HASH_KEY_BYTES: usize = 2_048;
const MAX_RANGE_KEY_BYTES: usize = 1_024;
pub(super) const MAX_ITEM_BYTES: usize = 400 * 1_024;

/// Rows that wait for their flush.
pub(super) struct Pending {
    pub(super) batch: RecordBatch,
    pub(super) kinds: Option<Vec<ChangeKind>>,
    pub(super) refused: HashSet<usize>,
}

impl Pending {
    /// What row `row` does.
    pub(super) fn kind(&self, row: usize) -> ChangeKind {
        self.kinds.as_ref().map_or(ChangeKind::Upsert, |k| k[row])
    }

    fn rows(&self) -> impl DoubleEndedIterator<Item = usize> {
        (0..self.batch.num_rows()).filter(|row| !self.refused.contains(row))
    }
}

/// The key of a table, and where an INSERT writes it.
#[derive(Debug, Clone)]
pub(super) struct TableKey {
    /// Key columns: hash, then range.
    pub(super) primary_key: Vec<String>,
    /// Their places among the INSERT's columns.
    pub(super) keys: Vec<usize>,
    /// Names of all of the INSERT's columns.
    pub(super) names: Vec<String>,
}

impl TableKey {
    /// The PRIMARY KEY, or, as in Flink, the columns of PARTITIONED BY.
    pub(super) fn of(spec: &TableSpec) -> Result<Self> {
        let primary_key = match spec.primary_key.is_empty() {
            true => spec.partitioned_by.clone(),
            false => spec.primary_key.clone(),
        };
        if !(1..=2).contains(&primary_key.len()) {
            return Err(Error::config(format!(
                "table '{}' has a PRIMARY KEY of {} columns; DynamoDB has a hash key and at most a range key",
                spec.name,
                primary_key.len()
            ))
            .hint("PRIMARY KEY (hash_column) NOT ENFORCED, or (hash_column, range_column)"));
        }
        let position = |name: &String| {
            spec.schema.index_of(name).map_err(|_| {
                Error::config(format!("the INSERT into '{}' does not write its key column '{name}'", spec.name))
            })
        };
        let keys = primary_key.iter().map(position).collect::<Result<Vec<_>>>()?;
        let names = spec.schema.fields().iter().map(|f| f.name().clone()).collect();
        Ok(Self { primary_key, keys, names })
    }

    /// A refusal of row `row` for what stands in `column`.
    pub(super) fn refuse(&self, row: usize, column: usize, reason: &str, detail: String) -> RefusedRow {
        RefusedRow { row, reason: reason.to_owned(), column: Some(self.names[column].clone()), detail, record: None }
    }

    /// Name and most bytes of the part of a key at this place.
    pub(super) fn part(place: usize) -> (&'static str, usize) {
        if place == 0 { ("hash", MAX_HASH_KEY_BYTES) } else { ("range", MAX_RANGE_KEY_BYTES) }
    }

    /// Why the key of row `row` cannot be stored, if it cannot. `cells` gives the columns by their places.
    pub(super) fn check<'a>(&self, cells: impl Fn(usize) -> &'a CellColumn, row: usize) -> Option<RefusedRow> {
        for (place, key) in self.keys.iter().enumerate() {
            let (part, most) = Self::part(place);
            let refuse = |reason: &str, detail: String| Some(self.refuse(row, *key, reason, detail));
            match cells(*key).cell(row) {
                Err((reason, detail)) => return refuse(reason, detail),
                Ok(Cell::Missing) => return refuse("null_key", format!("the {part} key is NULL")),
                Ok(cell @ (Cell::Text(_) | Cell::Binary(_))) => match cell.size() {
                    0 => return refuse("empty_key", format!("the {part} key is empty")),
                    size if size > most => {
                        let detail = format!("{part} key of {size} bytes, at most {most}: {}…", describe(&cell));
                        return refuse("key_too_long", detail);
                    }
                    _ => {}
                },
                Ok(_) => {}
            }
        }
        None
    }

    /// A refusal of an item of `size` bytes, if it is too large.
    pub(super) fn check_size(row: usize, size: usize) -> Option<RefusedRow> {
        (size > MAX_ITEM_BYTES).then(|| {
            let detail = format!("item of {size} bytes, at most {MAX_ITEM_BYTES}");
            RefusedRow { row, reason: "item_too_large".to_owned(), column: None, detail, record: None }
        })
    }

    /// All rows, in order, as (batch, row).
    pub(super) fn all_rows(pending: &[Pending]) -> Vec<(usize, usize)> {
        pending.iter().enumerate().flat_map(|(index, p)| p.rows().map(move |row| (index, row))).collect()
    }

    /// Of each key only the last row, in order: where a later write replaces all that an earlier one did.
    pub(super) fn last_rows(&self, pending: &[Pending]) -> Result<Vec<(usize, usize)>> {
        if pending.iter().map(|p| p.batch.num_rows()).sum::<usize>() <= 1 {
            return Ok(Self::all_rows(pending));
        }
        let types = self.keys.iter().map(|k| SortField::new(pending[0].batch.column(*k).data_type().clone()));
        let converter = RowConverter::new(types.collect())?;
        let (mut order, mut seen): (Vec<_>, HashSet<Box<[u8]>>) = Default::default();
        for (index, p) in pending.iter().enumerate().rev() {
            let columns: Vec<_> = self.keys.iter().map(|k| p.batch.column(*k).clone()).collect();
            let keys = converter.convert_columns(&columns)?;
            for row in p.rows().rev() {
                if seen.insert(keys.row(row).as_ref().into()) {
                    order.push((index, row));
                }
            }
        }
        order.reverse();
        Ok(order)
    }
}
