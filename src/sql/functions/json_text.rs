//! The JSON text of SQL values, a column at a time.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use datafusion::common::Result;

use super::cast_text::{write_clock, write_date};
use super::json_functions::number_text;
use super::time_pattern::fraction;
use super::times::Times;

/// Prints the values of one array as JSON.
pub(super) struct JsonOf {
    array: ArrayRef,
    kind: Kind,
}

enum Kind {
    Null,
    /// The array has been cast to Utf8View.
    Text,
    /// JSON text already.
    Raw,
    /// As arrow prints it: integers and booleans.
    Plain,
    Float,
    Double,
    Decimal(i8),
    Time(Times, Clock),
    Bytes,
    List(Box<JsonOf>),
    Map(ArrayRef, Box<JsonOf>),
    Row(Vec<(String, JsonOf)>),
}

#[derive(Clone, Copy, PartialEq)]
enum Clock {
    Date,
    Time,
    Local,
    Instant,
}

impl JsonOf {
    pub(super) fn new(array: &ArrayRef, raw: bool) -> Result<JsonOf> {
        let mut array = Arc::clone(array);
        let kind = match array.data_type() {
            DataType::Null => Kind::Null,
            data_type if data_type.is_string() => {
                array = cast(&array, &DataType::Utf8View)?;
                if raw { Kind::Raw } else { Kind::Text }
            }
            DataType::Float32 => Kind::Float,
            DataType::Float64 => Kind::Double,
            DataType::Decimal128(_, scale) => Kind::Decimal(*scale),
            DataType::Timestamp(_, zone) => {
                let clock = if zone.is_some() { Clock::Instant } else { Clock::Local };
                Kind::Time(Times::new(&array, false, chrono_tz::Tz::UTC)?, clock)
            }
            DataType::Date32 => Kind::Time(Times::new(&array, false, chrono_tz::Tz::UTC)?, Clock::Date),
            DataType::Time32(_) | DataType::Time64(_) => {
                Kind::Time(Times::new(&array, false, chrono_tz::Tz::UTC)?, Clock::Time)
            }
            data_type if data_type.is_binary() => {
                array = cast(&array, &DataType::Binary)?;
                Kind::Bytes
            }
            DataType::List(_) => Kind::List(Box::new(JsonOf::new(array.as_list::<i32>().values(), false)?)),
            DataType::Map(..) => {
                let map = array.as_map();
                Kind::Map(cast(map.keys(), &DataType::Utf8View)?, Box::new(JsonOf::new(map.values(), false)?))
            }
            DataType::Struct(fields) => {
                let columns = fields.iter().zip(array.as_struct().columns());
                let columns = columns.map(|(field, column)| Ok((field.name().clone(), JsonOf::new(column, false)?)));
                Kind::Row(columns.collect::<Result<_>>()?)
            }
            _ => {
                array = cast(&array, &DataType::Utf8View)?;
                Kind::Plain
            }
        };
        Ok(JsonOf { array, kind })
    }

    pub(super) fn is_null(&self, row: usize) -> bool {
        matches!(self.kind, Kind::Null) || self.array.is_null(row)
    }

    pub(super) fn write(&self, row: usize, out: &mut String) {
        if self.is_null(row) {
            out.push_str("null");
            return;
        }
        match &self.kind {
            Kind::Null => out.push_str("null"),
            Kind::Text => quote(self.array.as_string_view().value(row), out),
            Kind::Raw | Kind::Plain => out.push_str(self.array.as_string_view().value(row)),
            Kind::Float => write_number(f64::from(self.array.as_primitive::<Float32Type>().value(row)), out),
            Kind::Double => write_number(self.array.as_primitive::<Float64Type>().value(row), out),
            Kind::Decimal(scale) => write_decimal(self.array.as_primitive::<Decimal128Type>().value(row), *scale, out),
            Kind::Time(times, clock) => write_time(times, *clock, row, out),
            Kind::Bytes => {
                out.push('"');
                STANDARD.encode_string(self.array.as_binary::<i32>().value(row), out);
                out.push('"');
            }
            Kind::List(values) => {
                let offsets = self.array.as_list::<i32>().value_offsets();
                out.push('[');
                for i in offsets[row]..offsets[row + 1] {
                    separate(out, '[');
                    values.write(i as usize, out);
                }
                out.push(']');
            }
            Kind::Map(keys, values) => {
                let offsets = self.array.as_map().value_offsets();
                out.push('{');
                for i in offsets[row]..offsets[row + 1] {
                    separate(out, '{');
                    quote(keys.as_string_view().value(i as usize), out);
                    out.push(':');
                    values.write(i as usize, out);
                }
                out.push('}');
            }
            Kind::Row(fields) => {
                out.push('{');
                for (name, field) in fields {
                    separate(out, '{');
                    quote(name, out);
                    out.push(':');
                    field.write(row, out);
                }
                out.push('}');
            }
        }
    }
}

/// A comma, unless the bracket has just been opened.
pub(super) fn separate(out: &mut String, open: char) {
    if !out.ends_with(open) {
        out.push(',');
    }
}

/// A JSON string; only what must be escaped is.
pub(crate) fn quote(text: &str, out: &mut String) {
    out.push('"');
    let mut plain = 0;
    for (i, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 => "\\b",
            0x0c => "\\f",
            0..0x20 => {
                out.push_str(&text[plain..i]);
                let _ = write!(out, "\\u{byte:04X}");
                plain = i + 1;
                continue;
            }
            _ => continue,
        };
        out.push_str(&text[plain..i]);
        out.push_str(escape);
        plain = i + 1;
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

/// JSON has no NaN and no infinities: they are NULL.
fn write_number(value: f64, out: &mut String) {
    if value.is_finite() {
        let mut text = String::new();
        super::cast_text::write_double(value, &mut text);
        out.push_str(&number_text(&text));
    } else {
        out.push_str("null");
    }
}

pub(crate) fn write_decimal(value: i128, scale: i8, out: &mut String) {
    if value < 0 {
        out.push('-');
    }
    let digits = value.unsigned_abs();
    if scale <= 0 {
        let _ = write!(out, "{digits}");
        out.extend(std::iter::repeat_n('0', if digits == 0 { 0 } else { usize::from(scale.unsigned_abs()) }));
        return;
    }
    let unit = 10u128.pow(u32::from(scale.unsigned_abs()));
    let _ = write!(out, "{}.{:0width$}", digits / unit, digits % unit, width = usize::from(scale.unsigned_abs()));
}

fn write_time(times: &Times, clock: Clock, row: usize, out: &mut String) {
    let Some(moment) = times.instant(row) else { return };
    out.push('"');
    if clock != Clock::Time {
        write_date(moment.days(), out);
    }
    if clock != Clock::Date {
        if clock != Clock::Time {
            out.push('T');
        }
        write_clock(moment.second_of_day(), out);
        if moment.nanos > 0 {
            out.push('.');
            fraction(moment.nanos, 9, out);
            out.truncate(out.trim_end_matches('0').len());
        }
        if clock == Clock::Instant {
            out.push('Z');
        }
    }
    out.push('"');
}
