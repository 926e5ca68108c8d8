//! Formats: bytes to rows, and rows to bytes. No I/O here.

pub mod csv;
pub mod datetime;
pub mod json;
mod json_decoder;
pub mod lines;
pub mod text;
pub mod write_csv;
pub mod write_json;

pub use json_decoder::RawTest;

use crate::contracts::{Decoder, Error, Result, TableSpec};

/// Makes the decoder of a table whose records are in `format`. `test` lets it leave out records that no
/// query can use.
pub fn decoder(format: &str, spec: &TableSpec, test: Option<&RawTest>) -> Result<Box<dyn Decoder>> {
    match format {
        "json" => Ok(Box::new(json_decoder::JsonTable::try_new(spec, test)?)),
        "csv" => Ok(Box::new(csv::CsvDecoder::try_new(spec)?)),
        other => Err(Error::config(format!("table '{}': records in format '{other}' cannot be read", spec.name))),
    }
}
