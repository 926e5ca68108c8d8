//! Rows of an epoch between a stage and an operator: in memory, or a block of a file on the local disk.
//!
//! A block knows how many rows it has, so that plans can be given parts of it; it is read when somebody wants its columns, and
//! not kept. So several may read it, one after the other, and a stage may be run again over halves of its rows (`bisect.rs`).

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;

use crate::contracts::Result;
use crate::state::SpilledFile;

/// See the module's description.
#[derive(Debug, Clone)]
pub enum StoredRows {
    /// In memory.
    Held(RecordBatch),
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
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Held(batch) => batch.num_rows(),
            Self::Spilled(rows) => rows.rows,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
            Self::Held(batch) => Ok(batch),
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
