//! Columns that are filled from the text of CSV fields.
//!
//! Unlike arrow's builders they can be cut back to a shorter length, so that a record which turns out to
//! be bad at its last field leaves no trace.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array,
    ListArray, PrimitiveArray, StringArray, StructArray, Time32MillisecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, FieldRef, Fields, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use base64::Engine;

use crate::contracts::{Error, Reject, RejectReason, Result};
use crate::formats::text::{
    Number, TextError, TimestampFormat, TimestampParser, parse_bool, parse_date, parse_f32, parse_f64,
    parse_time_millis, trim,
};

use super::CsvOptions;

/// Why a record is refused.
pub(super) struct Problem {
    reason: RejectReason,
    column: Option<String>,
    detail: String,
}

impl Problem {
    pub(super) fn new(reason: RejectReason, detail: String) -> Self {
        Self { reason, column: None, detail }
    }

    pub(super) fn in_column(mut self, column: &str) -> Self {
        self.column = Some(column.to_owned());
        self
    }

    pub(super) fn reject(self, record: u32) -> Reject {
        Reject { record, reason: self.reason, column: self.column, detail: self.detail }
    }

    fn value(reason: RejectReason, text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        Self::new(reason, text.chars().take(100).collect())
    }
}

fn problem(error: TextError, malformed: RejectReason, text: &[u8]) -> Problem {
    let reason = if error == TextError::OutOfRange { RejectReason::OutOfRange } else { malformed };
    Problem::value(reason, text)
}

/// One column.
pub(super) struct CsvColumn {
    /// The wanted type; what is gathered may be a wider one that is cast at the end.
    data_type: DataType,
    /// Of the items of a list or a row, a text that means NULL. (Of a whole field, the decoder knows.)
    null_literal: Option<Vec<u8>>,
    valid: Vec<bool>,
    values: Values,
}

enum Values {
    Text { bytes: Vec<u8>, ends: Vec<i32>, binary: bool },
    Boolean(Vec<bool>),
    Integer(Vec<i64>, i64, i64),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal(Vec<i128>, u8, i8),
    Date(Vec<i32>),
    Time(Vec<i32>),
    Timestamp(Vec<i64>, Box<TimestampParser>),
    List { ends: Vec<i32>, items: Box<CsvColumn>, delimiter: u8, field: FieldRef },
    Row { fields: Fields, columns: Vec<CsvColumn>, delimiter: u8 },
}

impl CsvColumn {
    pub(super) fn try_new(data_type: &DataType, options: &CsvOptions) -> Result<Self> {
        let integer = |min: i64, max: i64| Values::Integer(Vec::new(), min, max);
        let values = match data_type {
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => {
                Values::Text { bytes: Vec::new(), ends: Vec::new(), binary: false }
            }
            DataType::Binary | DataType::BinaryView | DataType::LargeBinary => {
                Values::Text { bytes: Vec::new(), ends: Vec::new(), binary: true }
            }
            DataType::Boolean => Values::Boolean(Vec::new()),
            DataType::Int8 => integer(i8::MIN.into(), i8::MAX.into()),
            DataType::Int16 => integer(i16::MIN.into(), i16::MAX.into()),
            DataType::Int32 => integer(i32::MIN.into(), i32::MAX.into()),
            DataType::Int64 => integer(i64::MIN, i64::MAX),
            DataType::Float32 => Values::Float32(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            DataType::Decimal128(precision, scale) => Values::Decimal(Vec::new(), *precision, *scale),
            DataType::Date32 => Values::Date(Vec::new()),
            DataType::Time32(_) | DataType::Time64(_) => Values::Time(Vec::new()),
            DataType::Timestamp(unit, _) => {
                Values::Timestamp(Vec::new(), Box::new(TimestampParser::new(TimestampFormat::Any, *unit)))
            }
            DataType::List(field) => Values::List {
                ends: Vec::new(),
                items: Box::new(Self::try_new(field.data_type(), options)?),
                delimiter: options.array_delimiter,
                field: field.clone(),
            },
            DataType::Struct(fields) => Values::Row {
                fields: fields.clone(),
                columns: fields.iter().map(|f| Self::try_new(f.data_type(), options)).collect::<Result<_>>()?,
                delimiter: options.array_delimiter,
            },
            other => return Err(Error::config(format!("CSV has no form for values of type {other}"))),
        };
        let null_literal = options.null_literal.as_ref().map(|text| text.as_bytes().to_vec());
        Ok(Self { data_type: data_type.clone(), null_literal, valid: Vec::new(), values })
    }

    /// Whether an empty field means NULL here: it does for all but text. In quotes, as in a record of one field, it does where no value
    /// is empty.
    pub(super) fn is_empty_null(&self, text: &[u8], quoted: bool) -> bool {
        let may_be_empty = match self.values {
            Values::Text { binary, .. } => !binary || quoted,
            Values::List { .. } | Values::Row { .. } => quoted,
            _ => false,
        };
        text.is_empty() && !may_be_empty
    }

    pub(super) fn push_null(&mut self) {
        self.valid.push(false);
        match &mut self.values {
            Values::Text { bytes, ends, .. } => ends.push(bytes.len() as i32),
            Values::Boolean(v) => v.push(false),
            Values::Integer(v, ..) => v.push(0),
            Values::Float32(v) => v.push(0.0),
            Values::Float64(v) => v.push(0.0),
            Values::Decimal(v, ..) => v.push(0),
            Values::Date(v) | Values::Time(v) => v.push(0),
            Values::Timestamp(v, _) => v.push(0),
            Values::List { ends, items, .. } => ends.push(items.valid.len() as i32),
            Values::Row { columns, .. } => columns.iter_mut().for_each(Self::push_null),
        }
    }

    /// Appends a value. After an error, what was appended in part must be cut back with `truncate`.
    pub(super) fn push(&mut self, text: &[u8], quoted: bool) -> Result<(), Problem> {
        if self.is_empty_null(text, quoted) {
            self.push_null();
            return Ok(());
        }
        let wrong = |e: TextError| problem(e, RejectReason::WrongType, text);
        let bad_time = |e: TextError| problem(e, RejectReason::BadTimestamp, text);
        match &mut self.values {
            Values::Text { bytes, ends, binary } => {
                if *binary {
                    let decoded = base64::engine::general_purpose::STANDARD.decode_vec(text, bytes);
                    decoded.map_err(|_| Problem::value(RejectReason::WrongType, text))?;
                } else {
                    bytes.extend_from_slice(text);
                }
                ends.push(bytes.len() as i32);
            }
            Values::Boolean(v) => v.push(parse_bool(trim(text)).map_err(wrong)?),
            Values::Integer(v, min, max) => {
                let value = Number::parse(trim(text)).and_then(|n| n.to_i64()).map_err(wrong)?;
                if value < *min || value > *max {
                    return Err(Problem::value(RejectReason::OutOfRange, text));
                }
                v.push(value);
            }
            Values::Float32(v) => v.push(parse_f32(trim(text)).map_err(wrong)?),
            Values::Float64(v) => v.push(parse_f64(trim(text)).map_err(wrong)?),
            Values::Decimal(v, precision, scale) => {
                let number = Number::parse(trim(text)).map_err(wrong)?;
                v.push(number.to_decimal(*precision, *scale).map_err(wrong)?);
            }
            Values::Date(v) => v.push(parse_date(trim(text)).map_err(bad_time)?),
            Values::Time(v) => v.push(parse_time_millis(trim(text)).map_err(bad_time)?),
            Values::Timestamp(v, parser) => v.push(parser.parse(trim(text)).map_err(bad_time)?),
            Values::List { ends, items, delimiter, .. } => {
                for item in text.split(|b| b == delimiter) {
                    items.push_item(item)?;
                }
                ends.push(items.valid.len() as i32);
            }
            Values::Row { columns, delimiter, .. } => {
                let mut parts = text.split(|b| b == delimiter);
                for column in columns.iter_mut() {
                    let part = parts.next().ok_or_else(|| Problem::value(RejectReason::WrongType, text))?;
                    column.push_item(part)?;
                }
                if parts.next().is_some() {
                    return Err(Problem::value(RejectReason::WrongType, text));
                }
            }
        }
        self.valid.push(true);
        Ok(())
    }

    /// Appends an item of a list or a row.
    fn push_item(&mut self, text: &[u8]) -> Result<(), Problem> {
        if self.null_literal.as_deref() == Some(text) {
            self.push_null();
            return Ok(());
        }
        self.push(text, false)
    }

    /// Forgets all values from `length` on.
    pub(super) fn truncate(&mut self, length: usize) {
        self.valid.truncate(length);
        let last = |ends: &[i32]| ends.last().map_or(0, |e| *e as usize);
        match &mut self.values {
            Values::Text { bytes, ends, .. } => {
                ends.truncate(length);
                bytes.truncate(last(ends));
            }
            Values::Boolean(v) => v.truncate(length),
            Values::Integer(v, ..) => v.truncate(length),
            Values::Float32(v) => v.truncate(length),
            Values::Float64(v) => v.truncate(length),
            Values::Decimal(v, ..) => v.truncate(length),
            Values::Date(v) | Values::Time(v) => v.truncate(length),
            Values::Timestamp(v, _) => v.truncate(length),
            Values::List { ends, items, .. } => {
                ends.truncate(length);
                items.truncate(last(ends));
            }
            Values::Row { columns, .. } => columns.iter_mut().for_each(|c| c.truncate(length)),
        }
    }

    /// Takes the values as an array of the wanted type.
    pub(super) fn finish(&mut self) -> ArrayRef {
        let valid = std::mem::take(&mut self.valid);
        let rows = valid.len();
        let nulls = valid.contains(&false).then(|| NullBuffer::from(valid));
        let array: ArrayRef = match &mut self.values {
            Values::Text { bytes, ends, binary } => {
                let offsets = offsets(std::mem::take(ends));
                let bytes = std::mem::take(bytes);
                if *binary {
                    Arc::new(BinaryArray::new(offsets, bytes.into(), nulls))
                } else {
                    Arc::new(StringArray::new(offsets, bytes.into(), nulls))
                }
            }
            Values::Boolean(v) => Arc::new(BooleanArray::new(std::mem::take(v).into(), nulls)),
            Values::Integer(v, ..) => Arc::new(Int64Array::new(std::mem::take(v).into(), nulls)),
            Values::Float32(v) => Arc::new(Float32Array::new(std::mem::take(v).into(), nulls)),
            Values::Float64(v) => Arc::new(Float64Array::new(std::mem::take(v).into(), nulls)),
            Values::Decimal(v, precision, scale) => {
                let array = Decimal128Array::new(std::mem::take(v).into(), nulls);
                let typed = array.with_precision_and_scale(*precision, *scale);
                Arc::new(typed.expect("precision and scale came from a valid type"))
            }
            Values::Date(v) => Arc::new(Date32Array::new(std::mem::take(v).into(), nulls)),
            Values::Time(v) => Arc::new(Time32MillisecondArray::new(std::mem::take(v).into(), nulls)),
            Values::Timestamp(v, _) => timestamps(&self.data_type, std::mem::take(v), nulls),
            Values::List { ends, items, field, .. } => {
                Arc::new(ListArray::new(field.clone(), offsets(std::mem::take(ends)), items.finish(), nulls))
            }
            Values::Row { fields, columns, .. } => {
                let arrays: Vec<_> = columns.iter_mut().map(Self::finish).collect();
                if arrays.is_empty() {
                    Arc::new(StructArray::new_empty_fields(rows, nulls))
                } else {
                    Arc::new(StructArray::new(fields.clone(), arrays, nulls))
                }
            }
        };
        if array.data_type() == &self.data_type {
            return array;
        }
        cast(&array, &self.data_type).expect("values were checked against the range of their type")
    }
}

fn offsets(mut ends: Vec<i32>) -> OffsetBuffer<i32> {
    ends.insert(0, 0);
    OffsetBuffer::new(ends.into())
}

fn timestamps(data_type: &DataType, values: Vec<i64>, nulls: Option<NullBuffer>) -> ArrayRef {
    let DataType::Timestamp(unit, zone) = data_type else { return Arc::new(Int64Array::new(values.into(), nulls)) };
    let zone = zone.clone();
    match unit {
        TimeUnit::Second => {
            Arc::new(PrimitiveArray::<TimestampSecondType>::new(values.into(), nulls).with_timezone_opt(zone))
        }
        TimeUnit::Millisecond => {
            Arc::new(PrimitiveArray::<TimestampMillisecondType>::new(values.into(), nulls).with_timezone_opt(zone))
        }
        TimeUnit::Microsecond => {
            Arc::new(PrimitiveArray::<TimestampMicrosecondType>::new(values.into(), nulls).with_timezone_opt(zone))
        }
        TimeUnit::Nanosecond => {
            Arc::new(PrimitiveArray::<TimestampNanosecondType>::new(values.into(), nulls).with_timezone_opt(zone))
        }
    }
}
