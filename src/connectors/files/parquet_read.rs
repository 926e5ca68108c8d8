//! Reading a Parquet file: only the leaves that are asked for, in the types that are asked for.
//!
//! Columns are found by name, fields of rows too. A column that the file lacks is NULL, so that files
//! written before a column was added stay readable. Row numbers within the file are sequence numbers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StructArray, UInt32Array, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;

use crate::connectors::blocking::ChunkReader;
use crate::connectors::line_file::{io_error, modified_ms};
use crate::contracts::{Arrivals, Error, Fetch, Position, Result, RowChunk, SequenceNumbers, SplitId, StartPosition};

/// Rows of a batch: large enough that the cost of a batch is small, small enough for the cache.
const BATCH_ROWS: usize = 16_384;

/// Reads one file.
pub(super) struct ParquetFile {
    path: PathBuf,
    split: SplitId,
    reader: ParquetRecordBatchReader,
    schema: SchemaRef,
    constants: Vec<(String, ArrayRef)>,
    next_row: u64,
    modified_ms: i64,
}

impl ParquetFile {
    /// Opens a file of this machine after row `resume`. `constants` are columns whose value is in the path. Blocks.
    pub(super) fn open(
        path: &Path,
        split: SplitId,
        schema: SchemaRef,
        constants: Vec<(String, ArrayRef)>,
        resume: Option<&Position>,
        start: StartPosition,
    ) -> Result<Self> {
        let file = File::open(path).map_err(|e| io_error(path, "opened", e))?;
        let modified_ms = modified_ms(&file.metadata().map_err(|e| io_error(path, "read", e))?);
        Self::over(file, path, modified_ms, split, schema, constants, resume, start)
    }

    /// The same over any bytes; `path` is their name in errors. Blocks.
    #[expect(clippy::too_many_arguments, reason = "what `open` takes, and what a file knows of itself")]
    pub(super) fn over<R: parquet::file::reader::ChunkReader + 'static>(
        file: R,
        path: &Path,
        modified_ms: i64,
        split: SplitId,
        schema: SchemaRef,
        constants: Vec<(String, ArrayRef)>,
        resume: Option<&Position>,
        start: StartPosition,
    ) -> Result<Self> {
        let metadata = read_metadata(&file, path, &schema)?;
        let mask = projection(&metadata, &schema);
        let rows = u64::try_from(metadata.metadata().file_metadata().num_rows()).unwrap_or(0);
        let next_row = match (resume, start) {
            (Some(position), _) => {
                let row: u64 = position.0.parse().map_err(|_| {
                    Error::corrupt(format!("position '{position}' is no row number of '{}'", path.display()))
                })?;
                row + 1
            }
            (None, StartPosition::TrimHorizon) => 0,
            (None, StartPosition::Latest) => rows,
            (None, StartPosition::AtTimestamp(ms)) if modified_ms < ms => rows,
            (None, StartPosition::AtTimestamp(_)) => 0,
        };
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
        let skip = usize::try_from(next_row.min(rows)).unwrap_or(usize::MAX);
        let reader = builder.with_projection(mask).with_batch_size(BATCH_ROWS).with_offset(skip).build();
        let reader = reader.map_err(|e| unreadable(path, e))?;
        Ok(Self { path: path.to_owned(), split, reader, schema, constants, next_row, modified_ms })
    }
}

fn unreadable(path: &Path, error: ParquetError) -> Error {
    let error = match error {
        ParquetError::External(inner) => match inner.downcast::<Error>() {
            Ok(own) => return *own,
            Err(inner) => ParquetError::External(inner),
        },
        other => other,
    };
    Error::data(format!("'{}' cannot be read as Parquet", path.display())).caused_by(error)
}

/// The file's metadata, with strings as views where views are asked for: that spares a copy of each.
fn read_metadata<R: parquet::file::reader::ChunkReader>(
    file: &R,
    path: &Path,
    wanted: &Schema,
) -> Result<ArrowReaderMetadata> {
    let plain = ArrowReaderMetadata::load(file, ArrowReaderOptions::new()).map_err(|e| unreadable(path, e))?;
    let fields = with_views(plain.schema().fields(), wanted.fields());
    if &fields == plain.schema().fields() {
        return Ok(plain);
    }
    let schema = Arc::new(Schema::new_with_metadata(fields, plain.schema().metadata().clone()));
    let options = ArrowReaderOptions::new().with_schema(schema);
    ArrowReaderMetadata::try_new(Arc::clone(plain.metadata()), options).map_err(|e| unreadable(path, e))
}

fn with_views(found: &Fields, wanted: &Fields) -> Fields {
    let view = |field: &Arc<Field>| {
        let Some((_, wanted)) = wanted.find(field.name()) else { return Arc::clone(field) };
        let data_type = match (field.data_type(), wanted.data_type()) {
            (DataType::Utf8 | DataType::LargeUtf8, DataType::Utf8View) => DataType::Utf8View,
            (DataType::Utf8View, DataType::Utf8) => DataType::Utf8,
            (DataType::Struct(found), DataType::Struct(wanted)) => DataType::Struct(with_views(found, wanted)),
            (other, _) => other.clone(),
        };
        Arc::new(field.as_ref().clone().with_data_type(data_type))
    };
    found.iter().map(view).collect()
}

/// The leaves of the file that the wanted columns need.
fn projection(metadata: &ArrowReaderMetadata, wanted: &Schema) -> ProjectionMask {
    let schema = metadata.parquet_schema();
    let needed = |leaf: usize| {
        let column = schema.column(leaf);
        let mut fields = wanted.fields();
        for name in column.path().parts() {
            match fields.find(name) {
                None => return false,
                Some((_, field)) => match field.data_type() {
                    DataType::Struct(inner) => fields = inner,
                    // All of a list, a map or a plain value.
                    _ => return true,
                },
            }
        }
        false
    };
    let mut leaves: Vec<usize> = (0..schema.num_columns()).filter(|leaf| needed(*leaf)).collect();
    // A row of which only fields are asked for that the file lacks still has its own NULLs: one leaf tells them.
    for field in wanted.fields().iter().filter(|f| matches!(f.data_type(), DataType::Struct(_))) {
        let below = |leaf: &usize| schema.column(*leaf).path().parts().first() == Some(field.name());
        if !leaves.iter().any(below) {
            leaves.extend((0..schema.num_columns()).find(below));
        }
    }
    ProjectionMask::leaves(schema, leaves)
}

/// `array` as `wanted`: rows by field name, missing fields as NULL, other types by a cast that may not fail.
fn adapt(array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
    match (array.data_type(), wanted) {
        (found, wanted) if found == wanted => Ok(Arc::clone(array)),
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let rows = array.as_struct();
            let child = |field: &Arc<Field>| match rows.column_by_name(field.name()) {
                Some(column) => adapt(column, field.data_type()),
                None => Ok(new_null_array(field.data_type(), rows.len())),
            };
            let children = fields.iter().map(child).collect::<Result<Vec<_>>>()?;
            Ok(Arc::new(StructArray::try_new(fields.clone(), children, rows.nulls().cloned())?))
        }
        _ => {
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            Ok(cast_with_options(array, wanted, &strict)?)
        }
    }
}

impl ParquetFile {
    fn rows(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let column = |field: &Arc<Field>| {
            if let Some((_, value)) = self.constants.iter().find(|(name, _)| name == field.name()) {
                return Ok(take(value, &UInt32Array::from(vec![0; rows]), None)?);
            }
            match batch.column_by_name(field.name()) {
                Some(column) => adapt(column, field.data_type()).map_err(|e| {
                    Error::data(format!(
                        "'{}': column '{}' does not fit its declared type",
                        self.path.display(),
                        field.name()
                    ))
                    .caused_by(e)
                }),
                None => Ok(new_null_array(field.data_type(), rows)),
            }
        };
        let columns = self.schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(|e| {
            Error::data(format!("'{}' does not fit the table's columns", self.path.display())).caused_by(e)
        })
    }
}

impl ChunkReader for ParquetFile {
    fn read(&mut self) -> Result<Option<Fetch>> {
        let Some(batch) = self.reader.next() else { return Ok(None) };
        let batch = batch
            .map_err(|e| Error::data(format!("'{}' cannot be read as Parquet", self.path.display())).caused_by(e))?;
        let batch = self.rows(&batch)?;
        let first = self.next_row;
        self.next_row += batch.num_rows() as u64;
        Ok(Some(Fetch::Rows(RowChunk {
            split: self.split.clone(),
            batch,
            sequence: SequenceNumbers::Dense { first },
            arrivals: Arrivals::Same(self.modified_ms),
        })))
    }

    fn unread(&mut self) -> Result<u64> {
        Ok(0)
    }

    fn grows(&self) -> bool {
        false
    }
}
