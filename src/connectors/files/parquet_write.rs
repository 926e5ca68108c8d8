//! Writing Parquet: which encodings pay.
//!
//! Measured on the clickstream archive (see the test `archive_rate`): dictionaries cost most where they
//! do not fit (ids), statistics where they say nothing (ids again). So the first batch is sampled, and a
//! column whose values are mostly distinct is written plainly and without statistics, or, where each begins like the one
//! before (sequence numbers), as what differs; times are packed as deltas; everything else keeps its dictionary.

use std::collections::HashSet;
use std::hash::Hash;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Decimal128Type, Int32Type, Int64Type, SchemaRef};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use crate::connectors::options::{Options, parse_size};
use crate::contracts::{Error, Result, TableSpec};

use super::output::{Output, write_error};
use super::parquet_columns::ParquetFile;

/// Bounds of a row group: what a writer holds in memory.
const ROW_GROUP_ROWS: usize = 1 << 20;
const ROW_GROUP_BYTES: usize = 64 << 20;

/// Rows that are looked at to choose encodings.
const SAMPLE_ROWS: usize = 4_096;
/// Fewer values than this say nothing.
const SAMPLE_LEAST: usize = 256;

/// How a table wants its Parquet.
#[derive(Debug, Clone)]
pub(super) struct ParquetStyle {
    compression: Compression,
    /// Whether columns may have dictionaries, and statistics.
    dictionaries: bool,
    statistics: bool,
    row_group_bytes: usize,
    /// Columns by which rows are sorted: index in the file, and direction.
    sorted_by: Vec<SortingColumn>,
}

impl ParquetStyle {
    pub(super) fn of(spec: &TableSpec) -> Result<Self> {
        let options = Options(spec);
        // The second name is that of Hadoop's Parquet, which Flink hands on.
        let group = match options.text(&["parquet.row-group.size", "parquet.block.size"]) {
            Some(size) => usize::try_from(parse_size(size)?).unwrap_or(ROW_GROUP_BYTES).clamp(1 << 20, 1 << 30),
            None => ROW_GROUP_BYTES,
        };
        Ok(Self {
            compression: compression(spec)?,
            dictionaries: options.bool("parquet.enable.dictionary", true)?,
            statistics: options.bool("parquet.column.statistics.enabled", true)?,
            row_group_bytes: group,
            sorted_by: Vec::new(),
        })
    }

    /// With row groups that have their place in so many bytes.
    #[must_use]
    pub(super) fn within(mut self, memory: u64) -> Self {
        self.row_group_bytes = self.row_group_bytes.min(usize::try_from(memory).unwrap_or(usize::MAX));
        self
    }

    /// Says in each file by which of its columns (index, descending, nulls first) the rows are sorted.
    #[must_use]
    pub(super) fn sorted_by(mut self, columns: &[(usize, bool, bool)]) -> Self {
        self.sorted_by = columns
            .iter()
            .map(|(column, descending, nulls_first)| SortingColumn {
                column_idx: i32::try_from(*column).unwrap_or(i32::MAX),
                descending: *descending,
                nulls_first: *nulls_first,
            })
            .collect();
        self
    }
}

/// The compression that a table asks for; Snappy by default, as in Flink and Spark.
fn compression(spec: &TableSpec) -> Result<Compression> {
    let level = Options(spec).number("parquet.compression.codec.zstd.level")?;
    let name = spec.option("parquet.compression").unwrap_or("SNAPPY").to_ascii_uppercase();
    if level.is_some() && name != "ZSTD" {
        return Err(Error::config(format!("table '{}': a ZSTD level without ZSTD", spec.name))
            .hint("set 'parquet.compression' = 'ZSTD' too"));
    }
    match name.as_str() {
        "SNAPPY" => Ok(Compression::SNAPPY),
        "ZSTD" => {
            let level = i32::try_from(level.unwrap_or(1)).unwrap_or(i32::MAX);
            let level = ZstdLevel::try_new(level).map_err(|e| {
                Error::config(format!("table '{}': option 'parquet.compression.codec.zstd.level'", spec.name))
                    .caused_by(e)
                    .hint("1 is the fastest, 22 the smallest")
            })?;
            Ok(Compression::ZSTD(level))
        }
        "UNCOMPRESSED" | "NONE" => Ok(Compression::UNCOMPRESSED),
        other => Err(Error::config(format!("table '{}': Parquet compression '{other}' is not built in", spec.name))
            .hint("SNAPPY, ZSTD or UNCOMPRESSED")),
    }
}

/// A writer whose encodings suit `sample`.
pub(super) fn writer(output: Output, sample: &RecordBatch, style: &ParquetStyle) -> Result<ParquetFile> {
    let statistics = if style.statistics { EnabledStatistics::Chunk } else { EnabledStatistics::None };
    let mut properties = WriterProperties::builder()
        .set_compression(style.compression)
        .set_created_by(concat!("tidemill ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_dictionary_enabled(style.dictionaries)
        .set_statistics_enabled(statistics);
    let schema: SchemaRef = sample.schema();
    if style.sorted_by.is_empty() {
        for (field, column) in schema.fields().iter().zip(sample.columns()) {
            let column = column.slice(0, column.len().min(SAMPLE_ROWS));
            properties = tune(properties, &mut vec![field.name().clone()], &column);
        }
    } else {
        // A sorted column repeats itself whatever its values are, and its statistics are what a reader skips by.
        properties = properties.set_sorting_columns(Some(leaves(&schema, &style.sorted_by)));
    }
    ParquetFile::new(output, schema, properties.build(), (ROW_GROUP_ROWS, style.row_group_bytes))
        .map_err(|e| Error::config("this schema cannot be written as Parquet").caused_by(e))
}

/// Sorting columns count leaves, where the table counts its columns.
fn leaves(schema: &SchemaRef, columns: &[SortingColumn]) -> Vec<SortingColumn> {
    fn count(data_type: &DataType) -> usize {
        match data_type {
            DataType::Struct(fields) => fields.iter().map(|f| count(f.data_type())).sum(),
            DataType::List(field) | DataType::LargeList(field) | DataType::Map(field, _) => count(field.data_type()),
            _ => 1,
        }
    }
    let leaf = |column: &SortingColumn| {
        let before = schema.fields().iter().take(usize::try_from(column.column_idx).unwrap_or(0));
        let index = before.map(|f| count(f.data_type())).sum::<usize>();
        SortingColumn { column_idx: i32::try_from(index).unwrap_or(i32::MAX), ..*column }
    };
    columns.iter().map(leaf).collect()
}

fn tune(properties: WriterPropertiesBuilder, path: &mut Vec<String>, column: &ArrayRef) -> WriterPropertiesBuilder {
    let leaf = || ColumnPath::new(path.clone());
    match column.data_type() {
        DataType::Struct(fields) => {
            let array = column.as_struct();
            let mut properties = properties;
            for (field, child) in fields.iter().zip(array.columns()) {
                path.push(field.name().clone());
                properties = tune(properties, path, child);
                path.pop();
            }
            properties
        }
        DataType::Timestamp(_, _) | DataType::Time64(_) => properties
            .set_column_dictionary_enabled(leaf(), false)
            .set_column_encoding(leaf(), Encoding::DELTA_BINARY_PACKED),
        DataType::Int64 | DataType::Int32 if mostly_distinct(column) => properties
            .set_column_dictionary_enabled(leaf(), false)
            .set_column_encoding(leaf(), Encoding::DELTA_BINARY_PACKED),
        DataType::Decimal128(_, _) | DataType::Float64 if mostly_distinct(column) => {
            properties.set_column_dictionary_enabled(leaf(), false)
        }
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 if mostly_distinct(column) => properties
            .set_column_dictionary_enabled(leaf(), false)
            .set_column_encoding(leaf(), if alike(column) { Encoding::DELTA_BYTE_ARRAY } else { Encoding::PLAIN })
            .set_column_statistics_enabled(leaf(), EnabledStatistics::None),
        _ => properties,
    }
}

/// The values of a column of text; `None` for another one.
fn texts(column: &ArrayRef) -> Option<Box<dyn Iterator<Item = Option<&str>> + '_>> {
    Some(match column.data_type() {
        DataType::Utf8 => Box::new(column.as_string::<i32>().iter()),
        DataType::LargeUtf8 => Box::new(column.as_string::<i64>().iter()),
        DataType::Utf8View => Box::new(column.as_string_view().iter()),
        _ => return None,
    })
}

/// Whether texts share at least half of their bytes with the one before, at the front.
fn alike(column: &ArrayRef) -> bool {
    let Some(texts) = texts(column) else { return false };
    let (mut before, mut shared, mut bytes) = ("", 0, 0);
    for text in texts.flatten() {
        shared += before.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        bytes += text.len();
        before = text;
    }
    shared * 2 >= bytes
}

/// Whether more than half of the values that are there differ.
fn mostly_distinct(column: &ArrayRef) -> bool {
    if let Some(texts) = texts(column) {
        return distinct(texts);
    }
    match column.data_type() {
        DataType::Int32 => distinct(column.as_primitive::<Int32Type>().iter()),
        DataType::Int64 => distinct(column.as_primitive::<Int64Type>().iter()),
        DataType::Decimal128(_, _) => distinct(column.as_primitive::<Decimal128Type>().iter()),
        DataType::Float64 => {
            distinct(column.as_primitive::<arrow::datatypes::Float64Type>().iter().map(|v| v.map(f64::to_bits)))
        }
        _ => false,
    }
}

fn distinct<T: Eq + Hash>(values: impl Iterator<Item = Option<T>>) -> bool {
    let mut count = 0;
    let seen: HashSet<T> = values.flatten().inspect(|_| count += 1).collect();
    count >= SAMPLE_LEAST && seen.len() * 2 > count
}

/// The error of a failed write.
pub(super) fn failed(name: &str, error: ParquetError) -> Error {
    let error = match error {
        ParquetError::External(inner) => match inner.downcast::<Error>().map(|own| *own) {
            Ok(own) => return own,
            Err(inner) => match inner.downcast::<std::io::Error>() {
                Ok(io) => return write_error(name, *io),
                Err(inner) => ParquetError::External(inner),
            },
        },
        other => other,
    };
    Error::unavailable(format!("Parquet file '{name}' could not be written")).caused_by(error)
}
