//! Rows of an epoch between a stage and an operator: in memory, or a block of a file on the local disk.
//!
//! A block knows how many rows it has, so that plans can be given parts of it; it is read when somebody wants its columns, and
//! not kept. So several may read it, one after the other, and a stage may be run again over halves of its rows (`bisect.rs`).

use std::ops::RangeInclusive;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;

use super::hash_run::held_rows_in;
use super::key_hashes::KeyHashes;
use super::panes::own_text;
use super::shared_bytes::BytesPart;
use crate::contracts::{Result, batch_bytes};
use crate::state::SpilledFile;

/// What rows in memory have taken of the room for them, given back with the last of those that share it. None where they are not counted.
pub type Room = Option<Arc<BytesPart>>;

/// See the module's description.
#[derive(Debug, Clone)]
pub enum StoredRows {
    /// In memory.
    Held(RecordBatch, Room),
    /// On disk.
    Spilled(SpilledRows),
}

/// A block of a spilled file.
#[derive(Debug, Clone)]
pub struct SpilledRows {
    file: Arc<SpilledFile>,
    block: usize,
    rows: usize,
    /// Under these names they are read.
    schema: SchemaRef,
}

impl StoredRows {
    /// Rows in memory that are not counted: of an epoch, or on their way to whoever counts them.
    pub fn held(batch: RecordBatch) -> Self {
        Self::Held(batch, None)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Held(batch, _) => batch.num_rows(),
            Self::Spilled(rows) => rows.rows,
        }
    }

    /// About how many bytes they have in memory, or would have.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Held(batch, _) => batch_bytes(batch),
            Self::Spilled(rows) => rows.bytes(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many columns they have.
    pub fn num_columns(&self) -> usize {
        match self {
            Self::Held(batch, _) => batch.num_columns(),
            Self::Spilled(rows) => rows.schema.fields().len(),
        }
    }

    /// Whether they are on disk.
    pub fn is_spilled(&self) -> bool {
        matches!(self, Self::Spilled(_))
    }

    /// The rows themselves.
    ///
    /// # Errors
    /// The disk's.
    pub fn load(self) -> Result<RecordBatch> {
        match self {
            Self::Held(batch, _) => Ok(batch),
            Self::Spilled(rows) => rows.load(),
        }
    }
}

impl SpilledRows {
    /// The blocks of a file, in order, with the columns' names of `schema`.
    pub(crate) fn of<'a>(file: &'a Arc<SpilledFile>, schema: &'a SchemaRef) -> impl Iterator<Item = Self> + 'a {
        let blocks = file.block_rows().iter().enumerate();
        blocks.map(|(block, rows)| Self { file: Arc::clone(file), block, rows: *rows, schema: Arc::clone(schema) })
    }

    /// The same with other names of columns.
    #[must_use]
    pub fn under(self, schema: &SchemaRef) -> Self {
        Self { schema: Arc::clone(schema), ..self }
    }

    /// About how many bytes it has in memory when it is read.
    pub(super) fn bytes(&self) -> usize {
        self.file.block_bytes()[self.block]
    }

    /// How many rows it has.
    pub fn num_rows(&self) -> usize {
        self.rows
    }

    /// Reads it.
    ///
    /// # Errors
    /// The disk's.
    pub fn load(&self) -> Result<RecordBatch> {
        relabelled(self.file.reader()?.read(self.block)?, &self.schema)
    }
}

/// Rows under the names that the plan above expects.
pub(super) fn relabelled(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)?)
}

/// Those of the rows whose hashes are in a range, in their order. They hold no more than themselves: of each block there may be few.
pub(super) fn rows_in_range(
    rows: &[StoredRows],
    hashes: &KeyHashes,
    range: &RangeInclusive<u64>,
) -> Result<Vec<RecordBatch>> {
    let mut found = Vec::new();
    for rows in rows {
        for batch in held_rows_in(&[rows.clone().load()?], hashes, range)? {
            if batch.num_rows() > 0 {
                found.push(own_text(batch)?);
            }
        }
    }
    Ok(found)
}
