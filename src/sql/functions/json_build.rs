//! JSON out of SQL values: JSON_OBJECT, JSON_ARRAY, JSON_STRING, JSON_QUOTE, JSON_UNQUOTE and the collecting
//! forms. Decimals are printed exactly, with their scale and never with an exponent; timestamps as ISO 8601
//! (`2026-02-12T10:00:00.5`, with `Z` for TIMESTAMP_LTZ); bytes as Base64.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use datafusion::common::{Result, exec_err};

use super::cast_text::{write_clock, write_date};
use super::function::{Call, Definition, Nulls, Returns, define};
use super::time_pattern::fraction;
use super::times::Times;

/// The first argument of json_object, json_array and json_object_of is written by the parser: `n` or `a` for
/// NULL or ABSENT ON NULL, then a letter a value: `r` for JSON text as it is, `v` for a value to print.
pub(crate) const DEFINITIONS: &[Definition] = &[
    define("json_object", "s[a*", Returns::Text, Nulls::Never, json_object),
    define("json_array", "s[a*", Returns::Text, Nulls::Never, json_array),
    define("json_object_of", "sll", Returns::Text, Nulls::Propagate, json_object_of),
    define("json_string", "a", Returns::Text, Nulls::Propagate, json_string),
    define("json_string_of", "a", Returns::Text, Nulls::Propagate, json_string),
    define("json_quote", "s", Returns::Text, Nulls::Propagate, json_quote),
    define("json_unquote", "s", Returns::Text, Nulls::Propagate, json_unquote),
    define("json", "s", Returns::Text, Nulls::Propagate, json),
];

/// Prints the values of one array as JSON.
struct JsonOf {
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
    fn new(array: &ArrayRef, raw: bool) -> Result<JsonOf> {
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
            DataType::Time32(_) | DataType::Time64(_) => Kind::Time(Times::new(&array, false, chrono_tz::Tz::UTC)?, Clock::Time),
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

    fn is_null(&self, row: usize) -> bool {
        matches!(self.kind, Kind::Null) || self.array.is_null(row)
    }

    fn write(&self, row: usize, out: &mut String) {
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
fn separate(out: &mut String, open: char) {
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
        super::cast_text::write_double(value, out);
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

/// The parser's letters: whether NULLs are absent, and which values are raw.
fn forms(call: &Call) -> Result<(bool, Vec<bool>)> {
    match call.strings(0)?.get(0) {
        Some(letters) => Ok((letters.starts_with('a'), letters.chars().skip(1).map(|letter| letter == 'r').collect())),
        None => exec_err!("function {} is written by the parser only", call.name),
    }
}

fn rows(call: &Call, mut write: impl FnMut(usize, &mut String) -> Result<bool>) -> Result<ArrayRef> {
    let mut builder = StringViewBuilder::with_capacity(call.rows);
    let mut text = String::new();
    for row in 0..call.rows {
        text.clear();
        let present = write(row, &mut text)?;
        builder.append_option(present.then_some(text.as_str()));
    }
    Ok(Arc::new(builder.finish()))
}

fn json_object(call: &Call) -> Result<ArrayRef> {
    let (absent, raw) = forms(call)?;
    let mut pairs = vec![];
    for i in (1..call.args.len()).step_by(2) {
        if i + 1 == call.args.len() {
            return exec_err!("JSON_OBJECT has a key without a value");
        }
        let value = JsonOf::new(&call.array(i + 1)?, raw.get(i / 2).copied().unwrap_or(false))?;
        pairs.push((cast_strings(call, i)?, value));
    }
    rows(call, |row, out| {
        out.push('{');
        for (key, value) in &pairs {
            if absent && value.is_null(row) {
                continue;
            }
            let Some(key) = key.get(row) else {
                return exec_err!("JSON_OBJECT: a key is NULL; keys must be strings");
            };
            separate(out, '{');
            quote(key, out);
            out.push(':');
            value.write(row, out);
        }
        out.push('}');
        Ok(true)
    })
}

fn cast_strings(call: &Call, i: usize) -> Result<super::function::Column<arrow::array::StringViewArray>> {
    if !call.args[i].data_type().is_string() {
        return exec_err!("JSON_OBJECT: key {} is not a string", i / 2 + 1);
    }
    call.strings(i)
}

fn json_array(call: &Call) -> Result<ArrayRef> {
    let (absent, raw) = forms(call)?;
    let values = (1..call.args.len())
        .map(|i| JsonOf::new(&call.array(i)?, raw.get(i - 1).copied().unwrap_or(false)))
        .collect::<Result<Vec<_>>>()?;
    rows(call, |row, out| {
        out.push('[');
        for value in values.iter().filter(|value| !(absent && value.is_null(row))) {
            separate(out, '[');
            value.write(row, out);
        }
        out.push(']');
        Ok(true)
    })
}

/// The object of two lists of equal length: JSON_OBJECTAGG.
fn json_object_of(call: &Call) -> Result<ArrayRef> {
    let (absent, raw) = forms(call)?;
    let (keys, values) = (call.array(1)?, call.array(2)?);
    let (keys, values) = (keys.as_list::<i32>(), values.as_list::<i32>());
    let names = cast(keys.values(), &DataType::Utf8View)?;
    let names = names.as_string_view();
    let items = JsonOf::new(values.values(), raw.first().copied().unwrap_or(false))?;
    rows(call, |row, out| {
        if keys.is_null(row) || values.is_null(row) {
            return Ok(false);
        }
        let (from, to) = (keys.value_offsets()[row] as usize, values.value_offsets()[row] as usize);
        out.push('{');
        for i in 0..keys.value_length(row) as usize {
            if absent && items.is_null(to + i) {
                continue;
            }
            separate(out, '{');
            quote(names.value(from + i), out);
            out.push(':');
            items.write(to + i, out);
        }
        out.push('}');
        Ok(true)
    })
}

fn json_string(call: &Call) -> Result<ArrayRef> {
    let values = JsonOf::new(&call.array(0)?, false)?;
    rows(call, |row, out| {
        values.write(row, out);
        Ok(!values.is_null(row))
    })
}

/// `JSON_QUOTE(s)`: a JSON string in ASCII, with `/` escaped as Flink does.
fn json_quote(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    rows(call, |row, out| {
        let Some(text) = texts.get(row) else { return Ok(false) };
        let mut quoted = String::new();
        quote(text, &mut quoted);
        for c in quoted.chars() {
            match c {
                '/' => out.push_str("\\/"),
                c if c.is_ascii() => out.push(c),
                c => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
            }
        }
        Ok(true)
    })
}

/// `JSON_UNQUOTE(s)`: the text of a JSON string; anything else stays as it is.
fn json_unquote(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    call.text(|row| {
        let text = texts.get(row)?;
        Some(serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_string()))
    })
}

/// `JSON(s)`: a text checked to be JSON, without white space; it goes into JSON_OBJECT unquoted.
fn json(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    call.try_text(|row| match texts.get(row) {
        None => Ok(None),
        Some(text) => match serde_json::from_str::<serde_json::Value>(text) {
            Ok(value) => Ok(Some(value.to_string())),
            Err(error) => exec_err!("function json: '{text}' is not JSON ({error}); leave JSON(…) out to store it as a string"),
        },
    })
}
