//! Writing Parquet: which encodings pay.
//!
//! Measured on the clickstream archive (see the test `archive_rate`): dictionaries cost most where they
//! do not fit (ids), statistics where they say nothing (ids again). So the first batch is sampled, and a
//! column whose values are mostly distinct is written plainly and without statistics; times are packed as
//! deltas; everything else keeps its dictionary.

use std::collections::HashSet;
use std::fs::File;
use std::hash::Hash;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Decimal128Type, Int32Type, Int64Type, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use crate::contracts::{Error, Result, TableSpec};

/// Bounds of a row group: what a writer holds in memory.
const ROW_GROUP_ROWS: usize = 1 << 20;
const ROW_GROUP_BYTES: usize = 64 << 20;

/// Rows that are looked at to choose encodings.
const SAMPLE_ROWS: usize = 4_096;
/// Fewer values than this say nothing.
const SAMPLE_LEAST: usize = 256;

/// The compression that a table asks for; Snappy by default, as in Flink and Spark.
pub(super) fn compression(spec: &TableSpec) -> Result<Compression> {
    match spec.option("parquet.compression").unwrap_or("SNAPPY").to_ascii_uppercase().as_str() {
        "SNAPPY" => Ok(Compression::SNAPPY),
        "ZSTD" => {
            Ok(Compression::ZSTD(ZstdLevel::try_new(1).map_err(|e| Error::internal("zstd level 1").caused_by(e))?))
        }
        "UNCOMPRESSED" | "NONE" => Ok(Compression::UNCOMPRESSED),
        other => Err(Error::config(format!("table '{}': Parquet compression '{other}' is not built in", spec.name))
            .hint("SNAPPY, ZSTD or UNCOMPRESSED")),
    }
}

/// A writer whose encodings suit `sample`.
pub(super) fn writer(file: File, sample: &RecordBatch, compression: Compression) -> Result<ArrowWriter<File>> {
    let mut properties = WriterProperties::builder()
        .set_compression(compression)
        .set_created_by(concat!("tidemill ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_statistics_enabled(EnabledStatistics::Chunk);
    let schema: SchemaRef = sample.schema();
    for (field, column) in schema.fields().iter().zip(sample.columns()) {
        let column = column.slice(0, column.len().min(SAMPLE_ROWS));
        properties = tune(properties, &mut vec![field.name().clone()], &column);
    }
    ArrowWriter::try_new(file, schema, Some(properties.build()))
        .map_err(|e| Error::config("this schema cannot be written as Parquet").caused_by(e))
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
            .set_column_encoding(leaf(), Encoding::PLAIN)
            .set_column_statistics_enabled(leaf(), EnabledStatistics::None),
        _ => properties,
    }
}

/// Whether more than half of the values that are there differ.
fn mostly_distinct(column: &ArrayRef) -> bool {
    match column.data_type() {
        DataType::Utf8 => distinct(column.as_string::<i32>().iter()),
        DataType::LargeUtf8 => distinct(column.as_string::<i64>().iter()),
        DataType::Utf8View => distinct(column.as_string_view().iter()),
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
pub(super) fn failed(path: &std::path::Path, error: parquet::errors::ParquetError) -> Error {
    Error::unavailable(format!("Parquet file '{}' could not be written", path.display())).caused_by(error)
}
