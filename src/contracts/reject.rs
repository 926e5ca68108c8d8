//! Records that could not be used: nothing that came in vanishes silently.

use std::fmt;

use async_trait::async_trait;

use super::error::Result;

/// Why a record or row was refused. The text form is stable: dashboards count by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RejectReason {
    /// Not valid JSON or CSV.
    InvalidSyntax,
    /// Not valid UTF-8.
    InvalidUtf8,
    /// Valid JSON, but not an object.
    NotAnObject,
    /// Nested more than 128 levels deep.
    TooDeep,
    /// A value that does not fit the column's type.
    WrongType,
    /// A value of the right type outside the column's range or precision.
    OutOfRange,
    /// A NOT NULL column, or the time column of a watermark, is missing or null.
    MissingValue,
    /// Text that is no timestamp, date or time.
    BadTimestamp,
    /// The record arrived too long before its epoch.
    TooOld,
    /// The row came after its window had closed.
    Late,
    /// `REQUIRE(condition, 'reason')` did not hold.
    Required(String),
    /// The record or row makes a query fail.
    QueryFailed,
    /// A sink cannot store the row (key too long, empty key, item too large).
    SinkRefused(String),
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidSyntax => "invalid_syntax",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::NotAnObject => "not_an_object",
            Self::TooDeep => "too_deep",
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::MissingValue => "missing_value",
            Self::BadTimestamp => "bad_timestamp",
            Self::TooOld => "too_old",
            Self::Late => "late",
            Self::QueryFailed => "query_failed",
            Self::Required(reason) | Self::SinkRefused(reason) => reason,
        })
    }
}

/// One record that a decoder refused.
#[derive(Debug, Clone)]
pub struct Reject {
    /// Index of the record in its chunk.
    pub record: u32,
    /// Why.
    pub reason: RejectReason,
    /// Dotted path of the column, where one is to blame.
    pub column: Option<String>,
    /// What was found, at most some 100 characters.
    pub detail: String,
}

/// A line of the error output.
#[derive(Debug, Clone)]
pub struct RejectedRecord {
    /// Table (for decoding) or query (for `REQUIRE`, lateness and sinks) that refused it.
    pub origin: String,
    /// Stream, folder or other source it came from; empty where a row has no single record.
    pub stream: String,
    /// Shard or file.
    pub split: String,
    /// Sequence number within the split.
    pub sequence_number: String,
    /// Arrival, milliseconds since 1970.
    pub arrival_ms: Option<i64>,
    /// Why.
    pub reason: RejectReason,
    /// Dotted path of the column, where one is to blame.
    pub column: Option<String>,
    /// What was found.
    pub detail: String,
    /// The original bytes, or the row as JSON where there is no single record.
    pub record: Vec<u8>,
}

impl RejectedRecord {
    /// About how many bytes it has in memory.
    pub fn bytes(&self) -> usize {
        let texts = [&self.origin, &self.stream, &self.split, &self.sequence_number, &self.detail];
        let texts: usize = texts.into_iter().chain(&self.column).map(String::len).sum();
        size_of::<Self>() + texts + self.record.len()
    }
}

/// Where refused records go.
///
/// # Contract
/// A record is durable when `flush` has returned; lines keep the order in which they were written.
#[async_trait]
pub trait ErrorOutput: Send {
    /// Takes refused records.
    async fn write(&mut self, records: &[RejectedRecord]) -> Result<()>;

    /// Makes everything written so far durable.
    async fn flush(&mut self) -> Result<()>;
}
