//! JSON records straight to Arrow: from the bytes of a chunk to a record batch, with nothing in between.
//!
//! ```
//! # use std::sync::Arc;
//! # use arrow::buffer::Buffer;
//! # use arrow::datatypes::{DataType, Field, Schema};
//! use tidemill::contracts::RecordRange;
//! use tidemill::formats::json::{JsonDecoder, JsonOptions};
//!
//! let schema = Schema::new(vec![Field::new("page", DataType::Utf8View, true)]);
//! let mut decoder = JsonDecoder::try_new(Arc::new(schema), JsonOptions::default())?;
//! let chunk = Buffer::from(b"{\"page\":\"/\",\"user\":7}\n{\"page\":".as_slice());
//! let decoded = decoder.decode(&chunk, &[RecordRange { start: 0, end: 21 }, RecordRange { start: 22, end: 30 }]);
//! assert_eq!(decoded.batch.num_rows(), 1);
//! assert_eq!(decoded.rejects[0].reason.as_str(), "invalid_json");
//! # Ok::<(), tidemill::formats::json::JsonSchemaError>(())
//! ```
//!
//! **What it keeps.** The records accepted are exactly those that `serde_json::from_slice::<Value>` accepts
//! (with `arbitrary_precision`) and that are objects; of repeated keys the last counts; a record that is
//! refused leaves no trace in the batch. `tests/json_fuzz.rs` holds it to that against serde_json itself.
//! (One exception: serde_json gives a meaning of its own to the key `$serde_json::private::Number`.)
//!
//! **What it is not.** No tree or tape of a record is made, no value is looked at twice in the common case,
//! and it infers nothing: the schema says what is wanted, everything else is checked and dropped.
//!
//! The way of a record:
//!
//! 1. [`prefilter`]: may it be skipped for what bytes it lacks?
//! 2. [`walk`]: the fast way over the wanted objects, with the keys guessed by [`learned`] and what is not
//!    wanted checked by [`skip`]; values go into [`columns`], all but the commonest pairs by [`values`], lists
//!    and maps by [`nested`].
//! 3. [`careful`]: a second, slower reading if the first met a repeated key or a wrong type.
//! 4. UTF-8, if a byte above 0x7F was seen.
//! 5. At the end of the call, [`plan`] makes arrays of the columns.
//!
//! Conversions are those of Flink's JSON format, but nothing is lost in silence: 1.5 is no INT, a number
//! too large is refused. A value for a string column becomes its JSON text; `"12.5"` is a number to a
//! numeric column; a DECIMAL is rounded half-up to its scale; a TIMESTAMP never reads a bare number.

mod base64;
mod careful;
mod columns;
mod decoder;
mod learned;
mod nested;
mod numbers;
mod output;
mod plan;
mod prefilter;
mod reject;
mod simd;
mod skip;
mod strings;
mod values;
mod walk;

pub use decoder::JsonDecoder;
pub use output::Decoded;
pub use plan::JsonSchemaError;
pub use prefilter::{Prefilter, SkippedTime};
pub use reject::{Reject, RejectReason};

use super::text::TimestampFormat;

/// How records are read.
#[derive(Clone, Debug)]
pub struct JsonOptions {
    /// Spellings of a timestamp that are read.
    pub timestamp_format: TimestampFormat,
    /// Which records may be skipped for the bytes that they lack.
    pub prefilter: Option<Prefilter>,
    /// A record in which objects and arrays are nested this deep is refused; at most 128. With 128, 127
    /// levels are read, as serde_json does.
    pub max_depth: usize,
    /// Never use vector instructions, for tests and benches.
    pub portable: bool,
}

impl Default for JsonOptions {
    fn default() -> Self {
        Self {
            timestamp_format: TimestampFormat::default(),
            prefilter: None,
            max_depth: skip::MAX_DEPTH,
            portable: false,
        }
    }
}
