//! The connector `firehose`: a record of a delivery stream for each row, as a line of JSON.
//!
//! At least once, without order: Firehose has neither keys nor conditions.

mod aws;
mod local;

use std::path::Path;
use std::sync::Arc;

use crate::contracts::{Changes, Clock, Error, RefusedRow, Result, Sink, TableSpec};
use crate::formats::datetime::TimestampStyle;
use crate::formats::write_json::{JsonRows, JsonStyle};

use super::aws::AwsSession;
use super::options::Options;

/// "Amazon Data Firehose quotas": a record has at most 1,000 KiB before it is encoded.
const MAX_RECORD_BYTES: usize = 1_000 * 1_024;

/// A sink into Firehose on AWS.
pub(super) fn aws_sink(
    spec: &TableSpec,
    session: AwsSession,
    clock: Arc<dyn Clock>,
    job: &str,
) -> Result<Box<dyn Sink>> {
    Ok(Box::new(aws::AwsDeliverySink::try_new(spec, session, clock, job)?))
}

/// A sink into `DIR/firehose/<delivery stream>.jsonl`.
pub(super) fn local_sink(spec: &TableSpec, local: &Path) -> Result<Box<dyn Sink>> {
    Ok(Box::new(local::LocalDeliverySink::try_new(spec, local)?))
}

/// Name of the delivery stream. It is a part of a file's name, too.
fn delivery_stream(spec: &TableSpec) -> Result<&str> {
    let name = Options(spec).require(&["delivery-stream"])?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) || name.starts_with('.') {
        return Err(Error::config(format!("'{name}' is no name for a delivery stream (table '{}')", spec.name))
            .hint("up to 64 letters, digits, '_', '-' and '.'"));
    }
    Ok(name)
}

/// How rows become records.
#[derive(Debug, Clone, Copy)]
struct Encoding(JsonStyle);

impl Encoding {
    fn of(spec: &TableSpec) -> Result<Self> {
        let options = Options(spec);
        if !options.require(&["format"])?.eq_ignore_ascii_case("json") {
            return Err(Error::config(format!("table '{}': records of Firehose are in format 'json'", spec.name)));
        }
        let iso = options.text(&["json.timestamp-format.standard"]).is_some_and(|v| v.eq_ignore_ascii_case("ISO-8601"));
        Ok(Self(JsonStyle {
            timestamps: if iso { TimestampStyle::Iso8601 } else { TimestampStyle::Sql },
            skip_nulls: options.bool("json.encode.ignore-null-fields", false)?,
        }))
    }

    /// Records of the rows, each with its line end, and rows that are too large for one.
    fn records(self, changes: &Changes) -> Result<(Vec<Vec<u8>>, Vec<RefusedRow>)> {
        if changes.kinds.is_some() {
            return Err(
                Error::config("a delivery stream takes append streams only").hint("write updates to a keyed table")
            );
        }
        let rows = JsonRows::try_new(&changes.batch, self.0)?;
        let (mut records, mut refused) = (Vec::new(), Vec::new());
        for row in 0..changes.batch.num_rows() {
            let mut record = Vec::new();
            rows.write(row, &mut record);
            record.push(b'\n');
            if record.len() > MAX_RECORD_BYTES {
                let detail = format!("record of {} bytes, at most {MAX_RECORD_BYTES}", record.len());
                refused.push(RefusedRow {
                    row,
                    reason: "record_too_large".to_owned(),
                    column: None,
                    detail,
                    record: None,
                });
            } else {
                records.push(record);
            }
        }
        Ok((records, refused))
    }
}
