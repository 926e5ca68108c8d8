//! The connector `kinesis`: streams of records in shards.
//!
//! Without `--local` there is no stream to talk to in this version; [`local`] is the embedded one, and
//! [`produce`] puts JSON lines into either.

pub mod local;
pub mod produce;
mod sink;

use std::path::Path;
use std::sync::Arc;

use crate::contracts::{Clock, Error, Result, Sink, Source, StartPosition, TableSpec};

use super::options::{Options, parse_timestamp_ms};

/// Name of the stream that a table reads or writes: `stream`, or the last part of `stream.arn`.
pub(super) fn stream_name(spec: &TableSpec) -> Result<&str> {
    let options = Options(spec);
    match options.text(&["stream"]) {
        Some(name) => Ok(name),
        None => {
            let arn = options.require(&["stream.arn"])?;
            Ok(arn.rsplit('/').next().unwrap_or(arn))
        }
    }
}

/// Where the table's options say that reading starts.
pub(super) fn start_position(spec: &TableSpec) -> Result<Option<StartPosition>> {
    let options = Options(spec);
    let Some(text) = options.text(&["source.init.position", "scan.stream.initpos"]) else { return Ok(None) };
    match text.to_ascii_uppercase().as_str() {
        "TRIM_HORIZON" => Ok(Some(StartPosition::TrimHorizon)),
        "LATEST" => Ok(Some(StartPosition::Latest)),
        "AT_TIMESTAMP" => {
            let time = options.require(&["source.init.timestamp", "scan.stream.initpos-timestamp"])?;
            Ok(Some(StartPosition::AtTimestamp(parse_timestamp_ms(time)?)))
        }
        other => Err(Error::config(format!("table '{}': '{other}' is no start position", spec.name))
            .hint("LATEST, TRIM_HORIZON or AT_TIMESTAMP")),
    }
}

/// A stream of the embedded Kinesis, to read.
pub(super) fn local_source(
    spec: &TableSpec,
    local: &Path,
    clock: Arc<dyn Clock>,
    drains: bool,
) -> Result<Arc<dyn Source>> {
    Ok(Arc::new(local::LocalKinesisSource::new(local, stream_name(spec)?, clock, drains)))
}

/// A stream of the embedded Kinesis, to write.
pub(super) fn local_sink(spec: &TableSpec, local: &Path, clock: Arc<dyn Clock>) -> Result<Box<dyn Sink>> {
    Ok(Box::new(sink::LocalStreamSink::open(spec, local, stream_name(spec)?, clock)?))
}
