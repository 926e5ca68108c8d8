//! Rows as JSON text.
//!
//! A batch is prepared once (types are looked at per column, not per value); then rows are appended to
//! a byte buffer. Decimals are exact plain numbers; a NaN or infinity, which JSON has no number for, is
//! a string, as Flink writes it; binary is base64.

use std::io::Write;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array, Float32Array,
    Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, LargeStringArray, ListArray, MapArray, PrimitiveArray,
    RecordBatch, StringArray, StringViewArray, StructArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{ArrowTimestampType, DataType, Field, TimeUnit};
use base64::Engine;

use crate::contracts::{Error, Result};

use super::datetime::{
    TimestampStyle, place_point, write_date, write_decimal, write_integer, write_time, write_timestamp,
};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonStyle {
    /// How timestamps are spelt.
    pub timestamps: TimestampStyle,
    /// Whether a NULL field is left out, instead of written as `null`.
    pub skip_nulls: bool,
}

impl JsonStyle {
    /// Items and messages: RFC 3339 with milliseconds, and finer where the value is.
    pub const MESSAGE: Self = Self { timestamps: TimestampStyle::Rfc3339Millis, skip_nulls: false };
}

/// A batch, ready to be written row by row.
pub struct JsonRows {
    fields: Vec<(Vec<u8>, JsonColumn)>,
    style: JsonStyle,
}

impl JsonRows {
    /// Prepares all columns of a batch.
    pub fn try_new(batch: &RecordBatch, style: JsonStyle) -> Result<Self> {
        let schema = batch.schema_ref();
        Ok(Self { fields: prepare_fields(schema.fields().iter().map(AsRef::as_ref), batch.columns())?, style })
    }

    /// Appends row `row` as an object.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        write_object(&self.fields, row, self.style, out);
    }

    /// Appends the object with one more member at its end, given as JSON text (`"__op":"delete"`).
    pub fn write_with(&self, row: usize, member: &str, out: &mut Vec<u8>) {
        self.write(row, out);
        let empty = out.ends_with(b"{}");
        out.pop();
        if !empty {
            out.push(b',');
        }
        out.extend_from_slice(member.as_bytes());
        out.push(b'}');
    }
}

fn prepare_fields<'a>(
    fields: impl Iterator<Item = &'a Field>,
    columns: &[ArrayRef],
) -> Result<Vec<(Vec<u8>, JsonColumn)>> {
    let prepare = |(field, column): (&Field, &ArrayRef)| {
        let mut name = Vec::new();
        write_string(field.name(), &mut name);
        name.push(b':');
        let column = JsonColumn::try_new(column).map_err(|e| e.context(format!("column '{}'", field.name())))?;
        Ok((name, column))
    };
    fields.zip(columns).map(prepare).collect()
}

fn write_object(fields: &[(Vec<u8>, JsonColumn)], row: usize, style: JsonStyle, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut first = true;
    for (name, column) in fields {
        let null = column.is_null(row);
        if null && style.skip_nulls {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        out.extend_from_slice(name);
        if null {
            out.extend_from_slice(b"null");
        } else {
            column.write(row, style, out);
        }
    }
    out.push(b'}');
}

/// One column, ready to be written value by value.
pub struct JsonColumn {
    nulls: Option<NullBuffer>,
    values: Values,
}

enum Values {
    Null,
    Boolean(BooleanArray),
    Int8(Int8Array),
    Int16(Int16Array),
    Int32(Int32Array),
    Int64(Int64Array),
    UInt8(UInt8Array),
    UInt16(UInt16Array),
    UInt32(UInt32Array),
    UInt64(UInt64Array),
    Float32(Float32Array),
    Float64(Float64Array),
    Decimal128(Decimal128Array, i8),
    Decimal256(Decimal256Array, i8),
    Utf8(StringArray),
    LargeUtf8(LargeStringArray),
    Utf8View(StringViewArray),
    Binary(BinaryArray),
    Date(Date32Array),
    Time(Vec<i64>, TimeUnit),
    Timestamp(arrow::buffer::ScalarBuffer<i64>, TimeUnit, bool),
    Struct(Vec<(Vec<u8>, JsonColumn)>),
    List(arrow::buffer::OffsetBuffer<i32>, Box<JsonColumn>),
    Map(arrow::buffer::OffsetBuffer<i32>, Box<JsonColumn>, Box<JsonColumn>),
}

fn timestamps<T: ArrowTimestampType>(array: &dyn Array, zoned: bool) -> Values {
    let array: &PrimitiveArray<T> = array.as_primitive();
    Values::Timestamp(array.values().clone(), T::UNIT, zoned)
}

impl JsonColumn {
    /// Prepares a column.
    pub fn try_new(array: &ArrayRef) -> Result<Self> {
        use arrow::datatypes as t;
        let values = match array.data_type() {
            DataType::Null => Values::Null,
            DataType::Boolean => Values::Boolean(array.as_boolean().clone()),
            DataType::Int8 => Values::Int8(array.as_primitive().clone()),
            DataType::Int16 => Values::Int16(array.as_primitive().clone()),
            DataType::Int32 => Values::Int32(array.as_primitive().clone()),
            DataType::Int64 => Values::Int64(array.as_primitive().clone()),
            DataType::UInt8 => Values::UInt8(array.as_primitive().clone()),
            DataType::UInt16 => Values::UInt16(array.as_primitive().clone()),
            DataType::UInt32 => Values::UInt32(array.as_primitive().clone()),
            DataType::UInt64 => Values::UInt64(array.as_primitive().clone()),
            DataType::Float32 => Values::Float32(array.as_primitive().clone()),
            DataType::Float64 => Values::Float64(array.as_primitive().clone()),
            DataType::Decimal128(_, scale) => Values::Decimal128(array.as_primitive().clone(), *scale),
            DataType::Decimal256(_, scale) => Values::Decimal256(array.as_primitive().clone(), *scale),
            DataType::Utf8 => Values::Utf8(array.as_string().clone()),
            DataType::LargeUtf8 => Values::LargeUtf8(array.as_string().clone()),
            DataType::Utf8View => Values::Utf8View(array.as_string_view().clone()),
            DataType::Binary => Values::Binary(array.as_binary().clone()),
            DataType::Date32 => Values::Date(array.as_primitive().clone()),
            DataType::Time32(unit) => {
                let wide = arrow::compute::cast(array, &DataType::Int32)?;
                let values = wide.as_primitive::<t::Int32Type>().values().iter().map(|v| i64::from(*v)).collect();
                Values::Time(values, *unit)
            }
            DataType::Time64(unit) => {
                let wide = arrow::compute::cast(array, &DataType::Int64)?;
                Values::Time(wide.as_primitive::<t::Int64Type>().values().to_vec(), *unit)
            }
            DataType::Timestamp(unit, zone) => match unit {
                TimeUnit::Second => timestamps::<t::TimestampSecondType>(array, zone.is_some()),
                TimeUnit::Millisecond => timestamps::<t::TimestampMillisecondType>(array, zone.is_some()),
                TimeUnit::Microsecond => timestamps::<t::TimestampMicrosecondType>(array, zone.is_some()),
                TimeUnit::Nanosecond => timestamps::<t::TimestampNanosecondType>(array, zone.is_some()),
            },
            DataType::Struct(fields) => {
                let array: &StructArray = array.as_struct();
                Values::Struct(prepare_fields(fields.iter().map(AsRef::as_ref), array.columns())?)
            }
            DataType::List(_) => {
                let array: &ListArray = array.as_list();
                Values::List(array.offsets().clone(), Box::new(Self::try_new(array.values())?))
            }
            DataType::Map(_, _) => {
                let array: &MapArray = array.as_map();
                let keys = arrow::compute::cast(array.keys(), &DataType::Utf8)?;
                let (keys, values) = (Self::try_new(&keys)?, Self::try_new(array.values())?);
                Values::Map(array.offsets().clone(), Box::new(keys), Box::new(values))
            }
            DataType::LargeList(field) | DataType::FixedSizeList(field, _) | DataType::ListView(field) => {
                return Self::try_new(&arrow::compute::cast(array, &DataType::List(field.clone()))?);
            }
            DataType::Dictionary(_, value) => return Self::try_new(&arrow::compute::cast(array, value)?),
            DataType::Date64 => return Self::try_new(&arrow::compute::cast(array, &DataType::Date32)?),
            DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                return Self::try_new(&arrow::compute::cast(array, &DataType::Binary)?);
            }
            DataType::Float16 => return Self::try_new(&arrow::compute::cast(array, &DataType::Float32)?),
            other => return Err(Error::config(format!("values of type {other} cannot be written as JSON"))),
        };
        Ok(Self { nulls: array.nulls().cloned(), values })
    }

    /// Whether value `row` is NULL.
    pub fn is_null(&self, row: usize) -> bool {
        matches!(self.values, Values::Null) || self.nulls.as_ref().is_some_and(|n| n.is_null(row))
    }

    /// Appends value `row`, `null` when it is NULL.
    pub fn write_value(&self, row: usize, style: JsonStyle, out: &mut Vec<u8>) {
        if self.is_null(row) { out.extend_from_slice(b"null") } else { self.write(row, style, out) }
    }

    fn write(&self, row: usize, style: JsonStyle, out: &mut Vec<u8>) {
        match &self.values {
            Values::Null => out.extend_from_slice(b"null"),
            Values::Boolean(a) => out.extend_from_slice(if a.value(row) { b"true" } else { b"false" }),
            Values::Int8(a) => write_integer(a.value(row).into(), out),
            Values::Int16(a) => write_integer(a.value(row).into(), out),
            Values::Int32(a) => write_integer(a.value(row).into(), out),
            Values::Int64(a) => write_integer(a.value(row).into(), out),
            Values::UInt8(a) => write_integer(a.value(row).into(), out),
            Values::UInt16(a) => write_integer(a.value(row).into(), out),
            Values::UInt32(a) => write_integer(a.value(row).into(), out),
            Values::UInt64(a) => write_integer(a.value(row).into(), out),
            Values::Float32(a) => write_float(a.value(row), a.value(row).into(), out),
            Values::Float64(a) => write_float(a.value(row), a.value(row), out),
            Values::Decimal128(a, scale) => write_decimal(a.value(row), *scale, out),
            Values::Decimal256(a, scale) => write_decimal_256(&a.value(row).to_string(), *scale, out),
            Values::Utf8(a) => write_string(a.value(row), out),
            Values::LargeUtf8(a) => write_string(a.value(row), out),
            Values::Utf8View(a) => write_string(a.value(row), out),
            Values::Binary(a) => {
                out.push(b'"');
                out.extend_from_slice(base64::engine::general_purpose::STANDARD.encode(a.value(row)).as_bytes());
                out.push(b'"');
            }
            Values::Date(a) => quoted(out, |out| write_date(a.value(row).into(), out)),
            Values::Time(values, unit) => quoted(out, |out| write_time(values[row], *unit, out)),
            Values::Timestamp(values, unit, zoned) => {
                quoted(out, |out| write_timestamp(values[row], *unit, *zoned, style.timestamps, out));
            }
            Values::Struct(fields) => write_object(fields, row, style, out),
            Values::List(offsets, items) => {
                out.push(b'[');
                for item in offsets[row]..offsets[row + 1] {
                    if item > offsets[row] {
                        out.push(b',');
                    }
                    items.write_value(item as usize, style, out);
                }
                out.push(b']');
            }
            Values::Map(offsets, keys, values) => {
                out.push(b'{');
                for item in offsets[row]..offsets[row + 1] {
                    if item > offsets[row] {
                        out.push(b',');
                    }
                    keys.write_value(item as usize, style, out);
                    out.push(b':');
                    values.write_value(item as usize, style, out);
                }
                out.push(b'}');
            }
        }
    }
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn write_float(value: impl std::fmt::Debug, wide: f64, out: &mut Vec<u8>) {
    if wide.is_finite() {
        // Debug is the shortest text that reads back as the same number, with an exponent where it is long.
        write_formatted(out, format_args!("{value:?}"));
    } else {
        let text = if wide.is_nan() {
            "\"NaN\""
        } else if wide > 0.0 {
            "\"Infinity\""
        } else {
            "\"-Infinity\""
        };
        out.extend_from_slice(text.as_bytes());
    }
}

/// `write!` to a vector, which cannot fail.
pub(super) fn write_formatted(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    let _infallible = out.write_fmt(arguments);
}

pub(super) fn write_decimal_256(digits: &str, scale: i8, out: &mut Vec<u8>) {
    if scale > 0 {
        place_point(digits.as_bytes(), scale as usize, out);
    } else {
        out.extend_from_slice(digits.as_bytes());
        if digits != "0" {
            out.resize(out.len() + usize::from(scale.unsigned_abs()), b'0');
        }
    }
}

/// For each byte: 0 when it stands for itself in a JSON string, else what follows the backslash (`u` for `\u00XX`).
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 32 {
        table[i] = b'u';
        i += 1;
    }
    table[b'\n' as usize] = b'n';
    table[b'\r' as usize] = b'r';
    table[b'\t' as usize] = b't';
    table[8] = b'b';
    table[12] = b'f';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

/// Appends a JSON string.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    if !bytes.iter().fold(false, |found, b| found | (ESCAPES[*b as usize] != 0)) {
        out.extend_from_slice(bytes);
    } else {
        for byte in bytes {
            match ESCAPES[*byte as usize] {
                0 => out.push(*byte),
                b'u' => write_formatted(out, format_args!("\\u{byte:04x}")),
                escape => out.extend_from_slice(&[b'\\', escape]),
            }
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_read_back() {
        for text in ["", "plain", "a\"b\\c\n\t\u{1}\u{7f}é\u{1F600}"] {
            let mut out = Vec::new();
            write_string(text, &mut out);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn wide_integers_keep_every_digit() {
        let mut out = Vec::new();
        write_decimal_256("-123", 5, &mut out);
        assert_eq!(out, b"-0.00123");
    }
}
