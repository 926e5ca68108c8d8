//! Values from text: integers, decimals, floating point, booleans, dates and times, straight from bytes.
//!
//! Shared by every format whose values are written as text (JSON, CSV). Nothing here knows JSON: quotes,
//! escapes and `null` are the caller's. Nothing allocates, nothing loops over an exponent, and no value
//! is ever rounded or wrapped in silence: a result is exact, or half-up where a DECIMAL's scale says so,
//! or an error.

mod numbers;
mod times;

pub use numbers::{Number, POWERS_OF_TEN, decimal_limit, parse_bool, parse_f32, parse_f64};
pub use times::{
    TimestampFormat, TimestampParser, parse_date, parse_time_millis, parse_timestamp_parts,
};

/// Why a text is not a value of the wanted type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextError {
    /// Not written as such a value at all, or (for an integer) not a whole number.
    Malformed,
    /// A value, but outside what the type holds.
    OutOfRange,
}

/// `text` without the bytes up to and including the space at either end: what Java's `trim` removes,
/// and so Flink before it parses a number.
pub fn trim(text: &[u8]) -> &[u8] {
    let mut text = text;
    while let [first, rest @ ..] = text
        && *first <= b' '
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && *last <= b' '
    {
        text = rest;
    }
    text
}
