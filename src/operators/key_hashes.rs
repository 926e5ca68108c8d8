//! The keys of state rows in a form that can be hashed and compared.

use std::hash::BuildHasher;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::row::{RowConverter, Rows, SortField};

use crate::contracts::Result;

/// Turns some columns of a batch into keys. Keys of one of these can be compared with each other.
#[derive(Debug)]
pub(super) struct KeyHashes {
    columns: Vec<usize>,
    converter: RowConverter,
    hasher: foldhash::quality::FixedState,
}

impl KeyHashes {
    /// Keys out of `columns` of rows of `schema`.
    pub(super) fn try_new(schema: &Schema, columns: Vec<usize>) -> Result<Self> {
        let fields = columns.iter().map(|column| SortField::new(schema.field(*column).data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        // A fixed seed: the order of work, and so of results, is the same in every run.
        Ok(Self { columns, converter, hasher: foldhash::quality::FixedState::with_seed(0) })
    }

    /// The columns that keys are made of.
    pub(super) fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// Whether all rows have one key, the empty one.
    pub(super) fn are_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The keys of a batch; none when keys are empty.
    pub(super) fn rows(&self, batch: &RecordBatch) -> Result<Rows> {
        if self.are_empty() {
            return Ok(self.converter.empty_rows(0, 0));
        }
        let keys: Vec<ArrayRef> = self.columns.iter().map(|column| ArrayRef::clone(batch.column(*column))).collect();
        Ok(self.converter.convert_columns(&keys)?)
    }

    /// Hash of the key of a row.
    pub(super) fn hash(&self, keys: &Rows, row: usize) -> u64 {
        if self.are_empty() { 0 } else { self.hasher.hash_one(keys.row(row).data()) }
    }

    /// Keys and hashes of a batch.
    pub(super) fn hashed(&self, batch: &RecordBatch) -> Result<(Rows, Vec<u64>)> {
        let keys = self.rows(batch)?;
        let hashes = (0..batch.num_rows()).map(|row| self.hash(&keys, row)).collect();
        Ok((keys, hashes))
    }
}
