//! The connector `kinesis`: streams of records in shards.
//!
//! `aws` has the streams of AWS, [`local`] the embedded ones of `--local`; [`produce`] puts JSON lines into either.

mod aws;
mod encode;
pub mod local;
pub mod produce;
mod sink;

use std::path::Path;
use std::sync::Arc;

use crate::contracts::{Clock, Error, Result, Sink, Source, StartPosition, TableSpec};

pub(crate) use aws::{Budget, NamedConsumer};

use super::RunCourse;
use super::aws::{AwsSession, AwsSessions};
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

/// The one stream of a table of the embedded Kinesis.
fn local_name(spec: &TableSpec) -> Result<&str> {
    let several =
        spec.option("stream").is_some_and(|name| name.contains(';')) || spec.option("stream.pattern").is_some();
    if several {
        return Err(Error::config(format!("table '{}': several streams in one table are read on AWS only", spec.name))
            .hint("with --local, name one stream"));
    }
    stream_name(spec)
}

/// The registered consumers with which a table reads streams of AWS.
pub(super) fn fan_out_consumers(spec: &TableSpec) -> Result<Vec<NamedConsumer>> {
    aws::fan_out_consumers(spec)
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
    let source = local::LocalKinesisSource::new(local, local_name(spec)?, clock, drains);
    let with_keys = spec.metadata.iter().any(|key| key == "partition-key");
    Ok(Arc::new(if with_keys { source.with_partition_keys() } else { source }))
}

/// A stream of the embedded Kinesis, to write.
pub(super) fn local_sink(spec: &TableSpec, local: &Path, clock: Arc<dyn Clock>) -> Result<Box<dyn Sink>> {
    Ok(Box::new(sink::LocalStreamSink::open(spec, local, local_name(spec)?, clock)?))
}

/// Streams of AWS, to read.
pub(super) fn aws_source(
    spec: &TableSpec,
    session: AwsSession,
    clock: Arc<dyn Clock>,
    budget: Arc<Budget>,
    course: RunCourse,
) -> Result<Arc<dyn Source>> {
    Ok(Arc::new(aws::KinesisSource::new(spec, session, clock, budget, course)?))
}

/// A stream of AWS, to write.
pub(super) fn aws_sink(spec: &TableSpec, session: AwsSession, clock: Arc<dyn Clock>) -> Result<Box<dyn Sink>> {
    Ok(Box::new(aws::AwsStreamSink::new(spec, session, clock)?))
}

/// A stream of AWS by name or ARN, for producing; credentials, region and endpoint are those of the environment.
pub async fn aws_target(stream: &str, clock: Arc<dyn Clock>) -> Result<Box<dyn produce::PutBatch>> {
    let sessions = AwsSessions::default();
    let session =
        if stream.starts_with("arn:") { sessions.of(&arn_spec(stream))? } else { sessions.default_session()? };
    let target = aws::AwsTarget::new(&session, stream).await?;
    target.reach(clock).await?;
    Ok(Box::new(Arc::new(target)))
}

/// A table that says no more than an ARN does: its region.
fn arn_spec(stream: &str) -> TableSpec {
    TableSpec::new(stream, Arc::new(arrow::datatypes::Schema::empty())).with_option("stream.arn", stream)
}
