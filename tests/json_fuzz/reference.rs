//! What a record should become: from serde_json's `Value`, by the plainest means.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::*;
use serde_json::{Number, Value};

/// One value, whatever its type.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Null,
    Text(String),
    /// The JSON text of a number, object or array: its spelling is the record's (serde_json respells
    /// exponents), so it is compared by meaning.
    Json(Value),
    Number(i128),
    Float(f64),
    Bytes(Vec<u8>),
    List(Vec<Cell>),
    Map(BTreeMap<String, Cell>),
    Struct(Vec<Cell>),
}

impl PartialEq for Cell {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Cell::Null, Cell::Null) => true,
            (Cell::Text(a), Cell::Text(b)) => a == b,
            (Cell::Text(text), Cell::Json(value)) | (Cell::Json(value), Cell::Text(text)) => {
                serde_json::from_str::<Value>(text).is_ok_and(|parsed| parsed == *value)
            }
            (Cell::Number(a), Cell::Number(b)) => a == b,
            (Cell::Float(a), Cell::Float(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
            (Cell::Bytes(a), Cell::Bytes(b)) => a == b,
            (Cell::List(a), Cell::List(b)) | (Cell::Struct(a), Cell::Struct(b)) => a == b,
            (Cell::Map(a), Cell::Map(b)) => a == b,
            _ => false,
        }
    }
}

type Outcome<T> = Result<T, String>;

fn fail<T>(reason: &str) -> Outcome<T> {
    Err(reason.to_string())
}

/// The row of a record, or the reason that it has none.
pub(crate) fn expected(record: &[u8], fields: &Fields) -> Outcome<Vec<Cell>> {
    if std::str::from_utf8(record).is_err() {
        return fail("invalid_utf8");
    }
    match serde_json::from_slice::<Value>(record) {
        Err(error) if error.to_string().contains("recursion limit") => fail("too_deep"),
        Err(_) => fail("invalid_json"),
        Ok(Value::Object(object)) => row(&object, fields),
        Ok(_) => fail("not_an_object"),
    }
}

fn row(object: &serde_json::Map<String, Value>, fields: &Fields) -> Outcome<Vec<Cell>> {
    let cells: Vec<Cell> = fields
        .iter()
        .map(|field| object.get(field.name()).map_or(Ok(Cell::Null), |value| convert(value, field.data_type())))
        .collect::<Outcome<_>>()?;
    let missing = fields.iter().zip(&cells).any(|(field, cell)| !field.is_nullable() && *cell == Cell::Null);
    if missing { fail("missing_field") } else { Ok(cells) }
}

fn item(value: &Value, field: &Field) -> Outcome<Cell> {
    match convert(value, field.data_type())? {
        Cell::Null if !field.is_nullable() => fail("missing_field"),
        cell => Ok(cell),
    }
}

fn convert(value: &Value, data_type: &DataType) -> Outcome<Cell> {
    if value.is_null() {
        return Ok(Cell::Null);
    }
    match (data_type, value) {
        (DataType::Utf8 | DataType::Utf8View, Value::String(text)) => Ok(Cell::Text(text.clone())),
        (DataType::Utf8 | DataType::Utf8View, Value::Bool(value)) => Ok(Cell::Text(value.to_string())),
        (DataType::Utf8 | DataType::Utf8View, other) => Ok(Cell::Json(other.clone())),
        (DataType::Boolean, Value::Bool(value)) => Ok(Cell::Number(i128::from(*value))),
        (DataType::Boolean, Value::String(text)) => match trim(text).to_ascii_lowercase().as_str() {
            "true" => Ok(Cell::Number(1)),
            "false" => Ok(Cell::Number(0)),
            _ => fail("wrong_type"),
        },
        (DataType::Int8, value) => integer(value, 8),
        (DataType::Int16, value) => integer(value, 16),
        (DataType::Int32, value) => integer(value, 32),
        (DataType::Int64, value) => integer(value, 64),
        (DataType::Float32, value) => float(value, |text| text.parse::<f32>().ok().map(f64::from)),
        (DataType::Float64, value) => float(value, |text| text.parse().ok()),
        (DataType::Decimal128(precision, scale), value) => decimal(value, u32::from(*precision), i64::from(*scale)),
        (DataType::Date32, Value::String(text)) => match text.as_bytes() {
            bytes if bytes.len() == 10 => day(text).map_or(fail("bad_date"), |day| Ok(Cell::Number(day.into()))),
            _ => fail("bad_date"),
        },
        (DataType::Date32, Value::Number(_)) => fail("bad_date"),
        (DataType::Time32(_), Value::String(text)) => match clock(text) {
            Some((seconds, nanos, "")) => Ok(Cell::Number(i128::from(seconds) * 1_000 + i128::from(nanos) / 1_000_000)),
            _ => fail("bad_time"),
        },
        (DataType::Time32(_), Value::Number(_)) => fail("bad_time"),
        (DataType::Timestamp(unit, _), Value::String(text)) => timestamp(text, *unit),
        (DataType::Timestamp(..), Value::Number(_)) => fail("bad_timestamp"),
        (DataType::Binary, Value::String(text)) => {
            base64(text).map_or(fail("bad_base64"), |bytes| Ok(Cell::Bytes(bytes)))
        }
        (DataType::Struct(fields), Value::Object(object)) => Ok(Cell::Struct(row(object, fields)?)),
        (DataType::List(field), Value::Array(items)) => {
            Ok(Cell::List(items.iter().map(|value| item(value, field)).collect::<Outcome<_>>()?))
        }
        (DataType::Map(entries, _), Value::Object(object)) => {
            let DataType::Struct(fields) = entries.data_type() else { unreachable!("a map's entries are a struct") };
            // Errors in an order of their own: with several bad entries any of their reasons will do.
            object
                .iter()
                .map(|(key, value)| Ok((key.clone(), item(value, &fields[1])?)))
                .collect::<Outcome<_>>()
                .map(Cell::Map)
        }
        _ => fail("wrong_type"),
    }
}

fn trim(text: &str) -> &str {
    text.trim_matches(|c| c <= ' ')
}

/// A number's text, from a number or a string.
fn number_text(value: &Value) -> Outcome<String> {
    match value {
        Value::Number(number) => Ok(Number::to_string(number)),
        Value::String(text) => Ok(trim(text).to_string()),
        _ => fail("wrong_type"),
    }
}

/// Sign, digits and the power of ten that they are to be multiplied by; powers beyond reason are cut.
fn parts(text: &str) -> Option<(bool, String, i64)> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let size = digits
                .trim_start_matches('0')
                .get(..6)
                .map_or_else(|| digits.trim_start_matches('0').parse().unwrap_or(0), |_| 100_000);
            (mantissa, if exponent.starts_with('-') { -size } else { size })
        }
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| (negative, digits, exponent - fraction.len() as i64))
}

/// The digits times 10^power, as whole digits and a fraction's digits, both written out.
fn written_out(digits: &str, power: i64) -> (String, String) {
    if digits.bytes().all(|b| b == b'0') {
        return ("0".into(), String::new());
    }
    let (whole, fraction) = if power >= 0 {
        (format!("{digits}{}", "0".repeat(power as usize)), String::new())
    } else {
        let padded = format!("{}{digits}", "0".repeat((-power) as usize));
        let (whole, fraction) = padded.split_at(padded.len() - (-power) as usize);
        (whole.to_string(), fraction.to_string())
    };
    (whole.trim_start_matches('0').to_string(), fraction)
}

fn integer(value: &Value, bits: u32) -> Outcome<Cell> {
    let text = number_text(value)?;
    let Some((negative, digits, power)) = parts(&text) else { return fail("wrong_type") };
    let (whole, fraction) = written_out(&digits, power);
    if fraction.bytes().any(|b| b != b'0') {
        return fail("wrong_type");
    }
    if whole.len() > 30 {
        return fail("out_of_range");
    }
    let magnitude: i128 = if whole.is_empty() { 0 } else { whole.parse().expect("digits") };
    let value = if negative { -magnitude } else { magnitude };
    let limit = 1i128 << (bits - 1);
    if value < -limit || value >= limit { fail("out_of_range") } else { Ok(Cell::Number(value)) }
}

fn decimal(value: &Value, precision: u32, scale: i64) -> Outcome<Cell> {
    let text = number_text(value)?;
    let Some((negative, digits, power)) = parts(&text) else { return fail("wrong_type") };
    let (whole, fraction) = written_out(&digits, power + scale);
    if whole.len() > 38 {
        return fail("out_of_range");
    }
    let magnitude: i128 = if whole.is_empty() { 0 } else { whole.parse().expect("digits") };
    let magnitude = magnitude + i128::from(fraction.bytes().next().is_some_and(|first| first >= b'5'));
    if magnitude.to_string().len() > precision as usize {
        return fail("out_of_range");
    }
    Ok(Cell::Number(if negative { -magnitude } else { magnitude }))
}

fn float(value: &Value, parse: impl Fn(&str) -> Option<f64>) -> Outcome<Cell> {
    let text = number_text(value)?;
    match text.as_str() {
        "NaN" => return Ok(Cell::Float(f64::NAN)),
        "Infinity" | "+Infinity" => return Ok(Cell::Float(f64::INFINITY)),
        "-Infinity" => return Ok(Cell::Float(f64::NEG_INFINITY)),
        _ => {}
    }
    match parts(&text).and_then(|_| parse(&text)) {
        None => fail("wrong_type"),
        Some(value) if value.is_infinite() => fail("out_of_range"),
        Some(value) => Ok(Cell::Float(value)),
    }
}

fn digits(text: &str, range: std::ops::Range<usize>) -> Option<i64> {
    let part = text.as_bytes().get(range)?;
    part.iter().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
}

/// Days from 1970-01-01 to the date that `text` begins with, counted year by year.
fn day(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let (year, month, day) = (digits(text, 0..4)?, digits(text, 5..7)?, digits(text, 8..10)?);
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let valid = bytes[4] == b'-'
        && bytes[7] == b'-'
        && (1..=12).contains(&month)
        && day >= 1
        && day <= lengths[month as usize - 1];
    let year_days = |year: i64| 365 + i64::from(leap(year));
    let years: i64 =
        if year >= 1970 { (1970..year).map(year_days).sum() } else { -(year..1970).map(year_days).sum::<i64>() };
    valid.then(|| years + lengths[..month as usize - 1].iter().sum::<i64>() + day - 1)
}

/// Seconds of the day, nanoseconds, and what follows.
fn clock(text: &str) -> Option<(i64, i64, &str)> {
    let (hour, minute) = (digits(text, 0..2)?, digits(text, 3..5)?);
    if text.as_bytes()[2] != b':' || hour > 23 || minute > 59 {
        return None;
    }
    let seconds = hour * 3_600 + minute * 60;
    let Some(rest) = text[5..].strip_prefix(':') else { return Some((seconds, 0, &text[5..])) };
    let second = digits(rest, 0..2).filter(|second| *second < 60)?;
    let Some(fraction) = rest[2..].strip_prefix('.') else { return Some((seconds + second, 0, &rest[2..])) };
    let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
    let nanos = format!("{:0<9}", &fraction[..length]);
    (length <= 9).then(|| (seconds + second, nanos.parse().expect("digits"), &fraction[length..]))
}

fn timestamp(text: &str, unit: TimeUnit) -> Outcome<Cell> {
    let parse = || {
        let day = day(text)?;
        if !matches!(text.as_bytes().get(10)?, b'T' | b't' | b' ') {
            return None;
        }
        let (seconds, nanos, zone) = clock(text.get(11..)?)?;
        let offset = match zone {
            "" | "Z" | "z" => 0,
            _ => {
                let sign = match zone.as_bytes()[0] {
                    b'+' => 1,
                    b'-' => -1,
                    _ => return None,
                };
                let plain = if zone.len() == 6 && zone.as_bytes()[3] == b':' {
                    zone.replace(':', "")
                } else {
                    zone.to_string()
                };
                let minutes = match plain.len() {
                    3 => 0,
                    5 => digits(&plain, 3..5).filter(|minutes| *minutes < 60)?,
                    _ => return None,
                };
                let offset = digits(&plain, 1..3)? * 3_600 + minutes * 60;
                if offset > 18 * 3_600 {
                    return None;
                }
                sign * offset
            }
        };
        Some((i128::from(day) * 86_400 + i128::from(seconds - offset)) * 1_000_000_000 + i128::from(nanos))
    };
    let Some(nanos) = parse() else { return fail("bad_timestamp") };
    let per_unit = match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    };
    let value = nanos.div_euclid(per_unit);
    if i64::try_from(value).is_ok() { Ok(Cell::Number(value)) } else { fail("out_of_range") }
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let plain = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - plain.len() > 2 || plain.len() % 4 == 1 {
        return None;
    }
    let mut bits = String::new();
    for character in plain.chars() {
        bits += &format!("{:06b}", alphabet.find(character)?);
    }
    let whole = bits.len() / 8 * 8;
    if bits[whole..].contains('1') {
        return None;
    }
    Some((0..whole).step_by(8).map(|at| u8::from_str_radix(&bits[at..at + 8], 2).expect("bits")).collect())
}

/// The value of `array` at `row`.
pub(crate) fn cell(array: &ArrayRef, row: usize) -> Cell {
    if array.is_null(row) {
        return Cell::Null;
    }
    match array.data_type() {
        DataType::Utf8View => Cell::Text(array.as_string_view().value(row).to_string()),
        DataType::Utf8 => Cell::Text(array.as_string::<i32>().value(row).to_string()),
        DataType::Boolean => Cell::Number(array.as_boolean().value(row).into()),
        DataType::Int8 => Cell::Number(array.as_primitive::<Int8Type>().value(row).into()),
        DataType::Int16 => Cell::Number(array.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => Cell::Number(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Cell::Number(array.as_primitive::<Int64Type>().value(row).into()),
        DataType::Float32 => Cell::Float(array.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => Cell::Float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => Cell::Number(array.as_primitive::<Decimal128Type>().value(row)),
        DataType::Date32 => Cell::Number(array.as_primitive::<Date32Type>().value(row).into()),
        DataType::Time32(_) => Cell::Number(array.as_primitive::<Time32MillisecondType>().value(row).into()),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Cell::Number(array.as_primitive::<TimestampMillisecondType>().value(row).into())
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            Cell::Number(array.as_primitive::<TimestampNanosecondType>().value(row).into())
        }
        DataType::Binary => Cell::Bytes(array.as_binary::<i32>().value(row).to_vec()),
        DataType::Struct(_) => {
            Cell::Struct(array.as_struct().columns().iter().map(|column| cell(column, row)).collect())
        }
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            Cell::List((0..items.len()).map(|i| cell(&items, i)).collect())
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            let mut map = BTreeMap::new();
            for i in 0..entries.len() {
                let Cell::Text(key) = cell(keys, i) else { unreachable!("keys are texts") };
                assert!(map.insert(key, cell(values, i)).is_none(), "keys are unique");
            }
            Cell::Map(map)
        }
        other => unreachable!("{other} is not in the schema"),
    }
}
