//! The JSON decoder behind the [`Decoder`] trait: options of the table in, rejects in the words of the
//! error output out.

use crate::contracts::{Decoded, Decoder, Error, RawChunk, Reject, RejectReason, Result, TableSpec};

use super::json::{JsonDecoder, JsonOptions, Prefilter, RejectReason as JsonReason};
use super::text::TimestampFormat;

/// Text that a record must contain to be of use to any query, and the time that it gives all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTest {
    /// The text, as the value of some field.
    pub text: String,
    /// Name of the time column, which must be a plain column of the record.
    pub time_column: Option<String>,
}

/// Decodes JSON records of one table.
#[derive(Debug)]
pub(super) struct JsonTable(JsonDecoder);

impl JsonTable {
    pub(super) fn try_new(spec: &TableSpec, test: Option<&RawTest>) -> Result<Self> {
        let timestamp_format = match spec.option("json.timestamp-format.standard") {
            None => TimestampFormat::Any,
            Some(text) if text.eq_ignore_ascii_case("SQL") => TimestampFormat::Sql,
            Some(text) if text.eq_ignore_ascii_case("ISO-8601") => TimestampFormat::Iso8601,
            Some(other) => {
                return Err(Error::config(format!("table '{}': no timestamp format '{other}'", spec.name))
                    .hint("'SQL' or 'ISO-8601'; both are read when the option is left out"));
            }
        };
        let prefilter = test.map(|test| Prefilter {
            literal: format!("\"{}\"", test.text).into_bytes(),
            time_path: test.time_column.as_ref().map(|name| vec![name.clone()]),
        });
        let options = JsonOptions { timestamp_format, prefilter, ..JsonOptions::default() };
        let decoder = JsonDecoder::try_new(spec.decoded(), options)
            .map_err(|error| Error::config(format!("table '{}'", spec.name)).caused_by(error))?;
        Ok(Self(decoder))
    }
}

impl Decoder for JsonTable {
    fn decode(&mut self, chunk: &RawChunk) -> Decoded {
        let decoded = self.0.decode(&chunk.data, &chunk.records);
        let reject = |r: super::json::Reject| Reject {
            record: r.record,
            reason: reason(r.reason),
            column: r.column,
            detail: r.detail,
        };
        Decoded {
            batch: decoded.batch,
            rows: decoded.rows,
            rejects: decoded.rejects.into_iter().map(reject).collect(),
            skipped: decoded.skipped,
            skipped_time: decoded.skipped_time,
        }
    }
}

fn reason(reason: JsonReason) -> RejectReason {
    match reason {
        JsonReason::InvalidUtf8 => RejectReason::InvalidUtf8,
        JsonReason::NotAnObject => RejectReason::NotAnObject,
        JsonReason::TooDeep => RejectReason::TooDeep,
        JsonReason::WrongType | JsonReason::BadBase64 => RejectReason::WrongType,
        JsonReason::OutOfRange => RejectReason::OutOfRange,
        JsonReason::MissingField => RejectReason::MissingValue,
        JsonReason::BadTimestamp | JsonReason::BadDate | JsonReason::BadTime => RejectReason::BadTimestamp,
        _ => RejectReason::InvalidSyntax,
    }
}
