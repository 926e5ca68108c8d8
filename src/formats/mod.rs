//! Formats: bytes to rows, and rows to bytes. No I/O here.

pub mod csv;
pub mod datetime;
pub mod lines;
pub mod text;
pub mod write_csv;
pub mod write_json;

use crate::contracts::{Decoder, Error, Result, TableSpec};

/// Makes the decoder of a table whose records are in `format`.
pub fn decoder(format: &str, spec: &TableSpec) -> Result<Box<dyn Decoder>> {
    match format {
        // The seam for the JSON decoder: `"json" => Ok(Box::new(json::JsonDecoder::try_new(spec, …)?)),`
        "csv" => Ok(Box::new(csv::CsvDecoder::try_new(spec)?)),
        other => Err(Error::config(format!("table '{}': records in format '{other}' cannot be read", spec.name))),
    }
}
