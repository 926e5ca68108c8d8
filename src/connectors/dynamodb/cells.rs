//! Arrow values as DynamoDB attributes: what is stored, how large it is, and what cannot be stored.

use std::borrow::Cow;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, Decimal256Array, Float64Array, Int64Array,
    StringArray, StringViewArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, i256};

use crate::contracts::{Error, Result};
use crate::formats::datetime::{write_decimal, write_integer};
use crate::formats::write_json::{JsonColumn, JsonStyle};

/// DynamoDB keeps 38 significant digits.
const NUMBER_DIGITS: u32 = 38;
/// Numbers reach up to 9.99…E+125 and down to 1E-130.
const NUMBER_LIMIT: f64 = 1e126;
const NUMBER_LEAST: f64 = 1e-130;

/// One attribute's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell<'a> {
    /// No such attribute.
    Missing,
    /// A number that fits 64 bits.
    Integer(i64),
    Boolean(bool),
    /// Any other number, in plain digits without needless zeros.
    Number(String),
    /// A string, a time, or a list or map as JSON.
    Text(Cow<'a, str>),
    Binary(&'a [u8]),
}

impl Cell<'_> {
    /// Size as DynamoDB counts it: UTF-8 bytes, and for a number about a byte for two digits and one more.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Missing => 0,
            Self::Boolean(_) => 1,
            Self::Integer(v) => (v.unsigned_abs().checked_ilog10().unwrap_or(0) as usize + 2) / 2 + 1,
            Self::Number(text) => text.len() / 2 + 1,
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// Why a value cannot be stored: a reason for counting, and what was found.
pub(super) type Unstorable = (&'static str, String);

/// A column, ready to be read value by value.
pub(super) struct CellColumn {
    array: ArrayRef,
    values: Values,
}

enum Values {
    Integer(Int64Array),
    Boolean(BooleanArray),
    Decimal(Decimal128Array, i8),
    /// Decimals of more digits than DynamoDB keeps: those that need them are refused, row by row.
    Wide(Decimal256Array, i8),
    Float(Float64Array),
    /// Printed on its own: widening 0.1f32 would show digits that were never there.
    Float32(arrow::array::Float32Array),
    Utf8(StringArray),
    View(StringViewArray),
    Binary(BinaryArray),
    /// Text in quotes as JSON, stored without them (dates, times).
    Quoted(JsonColumn),
    /// Lists, maps and rows.
    Json(JsonColumn),
}

impl CellColumn {
    pub(super) fn try_new(array: &ArrayRef) -> Result<Self> {
        let values = match array.data_type() {
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32 => Values::Integer(cast(array, &DataType::Int64)?.as_primitive().clone()),
            DataType::UInt64 => Values::Decimal(cast(array, &DataType::Decimal128(20, 0))?.as_primitive().clone(), 0),
            DataType::Boolean => Values::Boolean(array.as_boolean().clone()),
            DataType::Decimal128(_, scale) => Values::Decimal(array.as_primitive().clone(), *scale),
            DataType::Decimal256(_, scale) => Values::Wide(array.as_primitive().clone(), *scale),
            DataType::Float32 => Values::Float32(array.as_primitive::<Float32Type>().clone()),
            DataType::Float64 => Values::Float(array.as_primitive().clone()),
            DataType::Utf8 => Values::Utf8(array.as_string().clone()),
            DataType::LargeUtf8 => Values::Utf8(cast(array, &DataType::Utf8)?.as_string().clone()),
            DataType::Utf8View => Values::View(array.as_string_view().clone()),
            DataType::Binary => Values::Binary(array.as_binary().clone()),
            DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Values::Binary(cast(array, &DataType::Binary)?.as_binary().clone())
            }
            DataType::Timestamp(_, _)
            | DataType::Date32
            | DataType::Date64
            | DataType::Time32(_)
            | DataType::Time64(_) => Values::Quoted(JsonColumn::try_new(array)?),
            DataType::Dictionary(_, value) => return Self::try_new(&cast(array, value)?),
            DataType::Struct(_)
            | DataType::List(_)
            | DataType::Map(_, _)
            | DataType::LargeList(_)
            | DataType::FixedSizeList(_, _)
            | DataType::Null => Values::Json(JsonColumn::try_new(array)?),
            other => return Err(Error::config(format!("values of type {other} cannot be DynamoDB attributes"))),
        };
        Ok(Self { array: array.clone(), values })
    }

    /// Value `row`.
    pub(super) fn cell(&self, row: usize) -> std::result::Result<Cell<'_>, Unstorable> {
        if self.array.is_null(row) || self.array.data_type() == &DataType::Null {
            return Ok(Cell::Missing);
        }
        let json = |column: &JsonColumn| {
            let mut out = Vec::new();
            column.write_value(row, JsonStyle::MESSAGE, &mut out);
            String::from_utf8_lossy(&out).into_owned()
        };
        match &self.values {
            Values::Integer(a) => Ok(Cell::Integer(a.value(row))),
            Values::Boolean(a) => Ok(Cell::Boolean(a.value(row))),
            Values::Decimal(a, scale) => decimal(a.value(row), *scale),
            Values::Wide(a, scale) => wide_decimal(a.value(row), *scale),
            Values::Float(a) => float(a.value(row), || a.value(row).to_string()),
            Values::Float32(a) => float(a.value(row).into(), || a.value(row).to_string()),
            Values::Utf8(a) => Ok(Cell::Text(Cow::Borrowed(a.value(row)))),
            Values::View(a) => Ok(Cell::Text(Cow::Borrowed(a.value(row)))),
            Values::Binary(a) => Ok(Cell::Binary(a.value(row))),
            Values::Quoted(column) => Ok(Cell::Text(Cow::Owned(json(column).trim_matches('"').to_owned()))),
            Values::Json(column) => Ok(Cell::Text(Cow::Owned(json(column)))),
        }
    }
}

fn decimal(mut unscaled: i128, mut scale: i8) -> std::result::Result<Cell<'static>, Unstorable> {
    while scale > 0 && unscaled % 10 == 0 {
        unscaled /= 10;
        scale -= 1;
    }
    if scale == 0
        && let Ok(small) = i64::try_from(unscaled)
    {
        return Ok(Cell::Integer(small));
    }
    let mut text = Vec::new();
    write_decimal(unscaled, scale, &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let digits = unscaled.unsigned_abs().checked_ilog10().map_or(1, |d| d + 1);
    if digits > NUMBER_DIGITS {
        return Err(("number_out_of_range", format!("{text} has {digits} digits, DynamoDB keeps {NUMBER_DIGITS}")));
    }
    Ok(Cell::Number(text))
}

fn wide_decimal(mut unscaled: i256, mut scale: i8) -> std::result::Result<Cell<'static>, Unstorable> {
    let ten = i256::from_i128(10);
    while scale > 0 && unscaled % ten == i256::ZERO {
        unscaled /= ten;
        scale -= 1;
    }
    match unscaled.to_i128() {
        Some(narrow) => decimal(narrow, scale),
        None => {
            let digits = unscaled.to_string().trim_start_matches('-').len();
            let detail = format!("{unscaled} (times 1E-{scale}) has {digits} digits, DynamoDB keeps {NUMBER_DIGITS}");
            Err(("number_out_of_range", detail))
        }
    }
}

fn float(value: f64, text: impl FnOnce() -> String) -> std::result::Result<Cell<'static>, Unstorable> {
    if !value.is_finite() {
        return Err(("not_a_number", format!("{value} is no number for DynamoDB")));
    }
    let size = value.abs();
    if size >= NUMBER_LIMIT || (size > 0.0 && size < NUMBER_LEAST) {
        return Err(("number_out_of_range", format!("{value:e} is outside of DynamoDB's range")));
    }
    // Below 2^63 every whole double is an i64.
    if value.fract() == 0.0 && size < 9_223_372_036_854_775_808.0 {
        return Ok(Cell::Integer(value as i64));
    }
    Ok(Cell::Number(text()))
}

/// A cell as text, for messages about it.
pub(super) fn describe(cell: &Cell<'_>) -> String {
    let text: Cow<'_, str> = match cell {
        Cell::Missing => "NULL".into(),
        Cell::Boolean(v) => v.to_string().into(),
        Cell::Integer(v) => {
            let mut out = Vec::new();
            write_integer((*v).into(), &mut out);
            String::from_utf8_lossy(&out).into_owned().into()
        }
        Cell::Number(text) => text.as_str().into(),
        Cell::Text(text) => text.as_ref().into(),
        Cell::Binary(bytes) => return format!("{} bytes", bytes.len()),
    };
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact_and_without_noise() {
        assert_eq!(decimal(1250, 2), Ok(Cell::Number("12.5".into())));
        assert_eq!(decimal(199_900, 2), Ok(Cell::Integer(1999)));
        assert_eq!(decimal(0, 5), Ok(Cell::Integer(0)));
        assert_eq!(decimal(12_345_678_901_234_567_890, 0), Ok(Cell::Number("12345678901234567890".into())));
        assert_eq!(float(3.0, || "3".into()), Ok(Cell::Integer(3)));
        assert_eq!(float(0.1, || "0.1".into()), Ok(Cell::Number("0.1".into())));
        assert!(float(f64::NAN, String::new).is_err() && float(1e200, String::new).is_err());
    }
}
