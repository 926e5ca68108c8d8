//! Reading a Parquet file: only the leaves that are asked for, in the types that are asked for.
//!
//! Columns are found by name, fields of rows too. A column that the file lacks is NULL, so that files
//! written before a column was added stay readable. Row numbers within the file are sequence numbers.
//! A value that does not fit its column refuses its row; a type that no value of which could is an error.
//!
//! Files come from others, and may be damaged. The library does not always say so: here and there it panics, or takes as much memory as it
//! is told. The one is caught ([`caught`]), the other looked for before (`parquet_checks`, `parquet_pages`).

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StructArray, UInt32Array, new_null_array,
};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options, concat, take};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, RowGroups, RowSelector,
};
use parquet::arrow::{ProjectionMask, parquet_to_arrow_field_levels};
use parquet::errors::ParquetError;

use crate::connectors::blocking::ChunkReader;
use crate::connectors::line_file::{io_error, modified_ms};
use crate::contracts::{
    Arrivals, Error, Fetch, Position, Reject, RejectReason, Result, RowChunk, SequenceNumbers, SplitId, StartPosition,
};

use super::parquet_checks::metadata;
use super::parquet_pages::Pages;

/// Rows of a batch: large enough that the cost of a batch is small, small enough for the cache.
const BATCH_ROWS: usize = 16_384;

/// Reads one file.
pub(super) struct ParquetFile {
    path: PathBuf,
    split: SplitId,
    reader: ParquetRecordBatchReader,
    schema: SchemaRef,
    /// The same of rows that may be refused: each column may have NULLs.
    nullable: SchemaRef,
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
        caught(path, || {
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
            let hint = Some(metadata.schema().fields());
            let columns = parquet_to_arrow_field_levels(metadata.parquet_schema(), mask, hint);
            let columns = columns.map_err(|e| unreadable(path, e))?;
            let pages = Pages::new(file, Arc::clone(metadata.metadata()));
            let skip = usize::try_from(next_row).unwrap_or(usize::MAX).min(pages.num_rows());
            let rest = pages.num_rows() - skip;
            let read = (skip > 0).then(|| vec![RowSelector::skip(skip), RowSelector::select(rest)].into());
            let reader = ParquetRecordBatchReader::try_new_with_row_groups(&columns, &pages, BATCH_ROWS, read);
            let reader = reader.map_err(|e| unreadable(path, e))?;
            let nullable: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
            let nullable = Arc::new(Schema::new(nullable));
            Ok(Self { path: path.to_owned(), split, reader, schema, nullable, constants, next_row, modified_ms })
        })
    }
}

/// Runs what the library does with a file. Where it panics on what it did not expect, the file is to blame.
fn caught<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(Error::data(format!("'{}' cannot be read as Parquet: it is damaged", path.display()))))
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
    let metadata = Arc::new(metadata(file).map_err(|e| unreadable(path, e))?);
    let plain = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new()).map_err(|e| unreadable(path, e))?;
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

/// Whether there is a cast from one type to the other, for some values at least.
fn can_adapt(found: &DataType, wanted: &DataType) -> bool {
    match (found, wanted) {
        (DataType::Struct(found), DataType::Struct(wanted)) => wanted
            .iter()
            .all(|field| found.find(field.name()).is_none_or(|(_, own)| can_adapt(own.data_type(), field.data_type()))),
        (found, wanted) => found == wanted || can_cast_types(found, wanted),
    }
}

/// The rows from `first` on as [`adapt`] gives them. Halves are tried until single rows are left that do not fit: they are NULL.
fn adapt_some(array: &ArrayRef, field: &Field, first: usize, rejects: &mut Vec<Reject>) -> Result<ArrayRef> {
    match adapt(array, field.data_type()) {
        Err(error) if array.is_empty() => Err(error),
        Err(error) if array.len() == 1 => {
            let (reason, column) = (RejectReason::WrongType, Some(field.name().clone()));
            // The kernel's own words have the value.
            let detail = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            rejects.push(Reject { record: first as u32, reason, column, detail });
            Ok(new_null_array(field.data_type(), 1))
        }
        Err(_) => {
            let middle = array.len() / 2;
            let halves = [(0, middle), (middle, array.len() - middle)];
            let adapted = |(from, rows)| adapt_some(&array.slice(from, rows), field, first + from, rejects);
            let [one, other] = halves.map(adapted);
            Ok(concat(&[&*one?, &*other?])?)
        }
        fits => fits,
    }
}

impl ParquetFile {
    /// Rows under the table's columns, and those that do not fit them.
    fn rows(&self, batch: &RecordBatch) -> Result<(RecordBatch, Vec<Reject>)> {
        let rows = batch.num_rows();
        let mut rejects = Vec::new();
        let column = |field: &Arc<Field>| {
            if let Some((_, value)) = self.constants.iter().find(|(name, _)| name == field.name()) {
                return Ok(take(value, &UInt32Array::from(vec![0; rows]), None)?);
            }
            let Some(column) = batch.column_by_name(field.name()) else {
                return Ok(new_null_array(field.data_type(), rows));
            };
            if can_adapt(column.data_type(), field.data_type()) {
                return adapt_some(column, field, 0, &mut rejects);
            }
            let (path, name) = (self.path.display(), field.name());
            let why = format!("there is no cast from {} to {}", column.data_type(), field.data_type());
            Err(Error::data(format!("'{path}': column '{name}' does not fit its declared type: {why}")))
        };
        let columns = self.schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
        rejects.sort_by_key(|reject| reject.record);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.nullable), columns, &options).map_err(|e| {
            Error::data(format!("'{}' does not fit the table's columns", self.path.display())).caused_by(e)
        })?;
        Ok((batch, rejects))
    }

    fn next_rows(&mut self) -> Result<Option<Fetch>> {
        let Some(batch) = self.reader.next() else { return Ok(None) };
        let batch = batch
            .map_err(|e| Error::data(format!("'{}' cannot be read as Parquet", self.path.display())).caused_by(e))?;
        let (batch, rejects) = self.rows(&batch)?;
        let first = self.next_row;
        self.next_row += batch.num_rows() as u64;
        Ok(Some(Fetch::Rows(RowChunk {
            split: self.split.clone(),
            batch,
            sequence: SequenceNumbers::Dense { first },
            arrivals: Arrivals::Same(self.modified_ms),
            rejects,
        })))
    }
}

impl ChunkReader for ParquetFile {
    fn read(&mut self) -> Result<Option<Fetch>> {
        let path = self.path.clone();
        caught(&path, || self.next_rows())
    }

    fn unread(&mut self) -> Result<u64> {
        Ok(0)
    }

    fn grows(&self) -> bool {
        false
    }
}
