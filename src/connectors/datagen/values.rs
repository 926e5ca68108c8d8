//! Values for each column: a hash of seed, column and row number, shaped by the column's options.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray,
    MapArray, RecordBatch, RecordBatchOptions, StringArray, StructArray, TimestampMillisecondArray, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use sha2::{Digest, Sha256};

use crate::connectors::options::{Options, parse_duration};
use crate::contracts::{Error, Result, TableSpec, splitmix64};

/// Flink's defaults.
const TEXT_LENGTH: i64 = 100;
const COLLECTION_LENGTH: i64 = 3;

/// Makes rows of a table.
pub(super) struct Generator {
    schema: SchemaRef,
    columns: Vec<Column>,
}

struct Column {
    /// Mixed from the seed and the column's name: independent of other columns and their order.
    salt: u64,
    data_type: DataType,
    null_rate: f64,
    kind: Kind,
}

enum Kind {
    Sequence {
        start: i64,
        end: i64,
    },
    Integer {
        min: i64,
        max: i64,
    },
    Float {
        min: f64,
        max: f64,
    },
    Decimal {
        min: i128,
        max: i128,
    },
    Boolean,
    Text {
        length: usize,
        binary: bool,
    },
    /// Up to so many milliseconds before now; without a value, now.
    Time {
        max_past_ms: i64,
    },
    Day {
        max_past_ms: i64,
    },
    TimeOfDay,
    List {
        length: usize,
        item: Box<Column>,
        field: FieldRef,
    },
    Map {
        length: usize,
        key: Box<Column>,
        value: Box<Column>,
        entries: FieldRef,
    },
    Row(Vec<Column>, arrow::datatypes::Fields),
}

/// Between 0 and 1, 1 excluded.
fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

fn between(random: u64, min: i128, max: i128) -> i128 {
    let width = max.wrapping_sub(min).wrapping_add(1) as u128;
    let wide = (u128::from(random) << 64) | u128::from(splitmix64(random));
    if width == 0 { wide as i128 } else { min.wrapping_add((wide % width) as i128) }
}

impl Generator {
    pub(super) fn try_new(spec: &TableSpec, seed: u64) -> Result<Self> {
        let column =
            |field: &FieldRef| Column::try_new(spec, &format!("fields.{}", field.name()), field.data_type(), seed);
        let columns = spec.schema.fields().iter().map(column).collect::<Result<_>>()?;
        Ok(Self { schema: spec.schema.clone(), columns })
    }

    /// Rows until the first sequence is used up.
    pub(super) fn sequence_rows(&self) -> Option<u64> {
        self.columns.iter().filter_map(Column::sequence_rows).min()
    }

    /// Rows `first..first + count`.
    pub(super) fn rows(&self, first: u64, count: usize, now_ms: i64) -> Result<RecordBatch> {
        let rows: Vec<u64> = (first..first + count as u64).collect();
        let arrays = self.columns.iter().map(|c| c.array(&rows, now_ms)).collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)?)
    }
}

impl Column {
    fn try_new(spec: &TableSpec, path: &str, data_type: &DataType, seed: u64) -> Result<Self> {
        let options = Options(spec);
        let key = |name: &str| format!("{path}.{name}");
        let text = |name: &str| spec.option(&key(name));
        let number = |name: &str| options.number(&key(name));
        let salt = Sha256::digest(path.as_bytes()).iter().take(8).fold(0u64, |a, b| (a << 8) | u64::from(*b));
        let float = |name: &str| -> Result<Option<f64>> {
            let Some(value) = text(name) else { return Ok(None) };
            let parsed = value.trim().parse::<f64>().ok().filter(|v| v.is_finite());
            parsed.map(Some).ok_or_else(|| Error::config(format!("option '{}': '{value}' is no number", key(name))))
        };
        let null_rate = float("null-rate")?.unwrap_or(0.0);
        let kind = match text("kind").unwrap_or("random") {
            "sequence" => {
                let need = |name: &str| -> Result<i64> {
                    number(name)?.ok_or_else(|| {
                        Error::config(format!("table '{}': a sequence needs '{}'", spec.name, key(name)))
                    })
                };
                Kind::Sequence { start: need("start")?, end: need("end")? }
            }
            "random" => Self::random(spec, path, data_type, seed)?,
            other => {
                return Err(Error::config(format!("option '{}': there is no kind '{other}'", key("kind")))
                    .hint("random or sequence"));
            }
        };
        Ok(Self { salt: splitmix64(salt ^ splitmix64(seed)), data_type: data_type.clone(), null_rate, kind })
    }

    fn random(spec: &TableSpec, path: &str, data_type: &DataType, seed: u64) -> Result<Kind> {
        let options = Options(spec);
        let key = |name: &str| format!("{path}.{name}");
        let text = |name: &str| spec.option(&key(name));
        let child = |name: &str, data_type: &DataType| Self::try_new(spec, &key(name), data_type, seed);
        let length = |default: i64| -> Result<usize> {
            let length = options.number(&key("length"))?.unwrap_or(default);
            usize::try_from(length).map_err(|_| Error::config(format!("option '{}' is negative", key("length"))))
        };
        let integer = |min: i64, max: i64| -> Result<Kind> {
            let low = options.number(&key("min"))?.unwrap_or(min).max(min);
            let high = options.number(&key("max"))?.unwrap_or(max).min(max);
            check_order(path, low <= high)?;
            Ok(Kind::Integer { min: low, max: high })
        };
        let float = |name: &str, default: f64| -> Result<f64> {
            let Some(value) = text(name) else { return Ok(default) };
            value.trim().parse().map_err(|_| Error::config(format!("option '{}': '{value}' is no number", key(name))))
        };
        let max_past_ms = || -> Result<i64> {
            let past = text("max-past").map(parse_duration).transpose()?.unwrap_or_default();
            Ok(i64::try_from(past.as_millis()).unwrap_or(i64::MAX))
        };
        Ok(match data_type {
            DataType::Int8 => integer(i8::MIN.into(), i8::MAX.into())?,
            DataType::Int16 => integer(i16::MIN.into(), i16::MAX.into())?,
            DataType::Int32 => integer(i32::MIN.into(), i32::MAX.into())?,
            DataType::Int64 => integer(i64::MIN, i64::MAX)?,
            DataType::Float32 | DataType::Float64 => {
                // The full range of FLOAT, as Flink; for DOUBLE too, where max - min must stay finite.
                let (min, max) = (float("min", f64::from(f32::MIN))?, float("max", f64::from(f32::MAX))?);
                check_order(path, min <= max)?;
                Kind::Float { min, max }
            }
            DataType::Decimal128(precision, scale) => {
                let limit = 10i128.pow(u32::from(*precision)) - 1;
                let unscaled =
                    |name: &str, default: i128| -> Result<i128> {
                        let Some(value) = text(name) else { return Ok(default) };
                        let parsed = arrow::compute::kernels::cast_utils::parse_decimal::<
                            arrow::datatypes::Decimal128Type,
                        >(value.trim(), *precision, *scale);
                        parsed.map_err(|_| {
                            Error::config(format!("option '{}': '{value}' does not fit {data_type}", key(name)))
                        })
                    };
                let (min, max) = (unscaled("min", -limit)?, unscaled("max", limit)?);
                check_order(path, min <= max)?;
                Kind::Decimal { min, max }
            }
            DataType::Boolean => Kind::Boolean,
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => {
                Kind::Text { length: length(TEXT_LENGTH)?, binary: false }
            }
            DataType::Binary | DataType::BinaryView | DataType::LargeBinary => {
                Kind::Text { length: length(TEXT_LENGTH)?, binary: true }
            }
            DataType::Timestamp(_, _) => Kind::Time { max_past_ms: max_past_ms()? },
            DataType::Date32 => Kind::Day { max_past_ms: max_past_ms()? },
            DataType::Time32(_) | DataType::Time64(_) => Kind::TimeOfDay,
            DataType::List(field) => Kind::List {
                length: length(COLLECTION_LENGTH)?,
                item: Box::new(child("element", field.data_type())?),
                field: field.clone(),
            },
            DataType::Map(entries, _) => {
                let DataType::Struct(parts) = entries.data_type() else {
                    return Err(Error::internal("the entries of a MAP are a row"));
                };
                Kind::Map {
                    length: length(COLLECTION_LENGTH)?,
                    key: Box::new(child("key", parts[0].data_type())?),
                    value: Box::new(child("value", parts[1].data_type())?),
                    entries: entries.clone(),
                }
            }
            DataType::Struct(fields) => {
                let columns = fields.iter().map(|f| child(f.name(), f.data_type())).collect::<Result<_>>()?;
                Kind::Row(columns, fields.clone())
            }
            other => {
                return Err(Error::config(format!("table '{}': datagen makes no values of type {other}", spec.name)));
            }
        })
    }

    fn sequence_rows(&self) -> Option<u64> {
        match &self.kind {
            Kind::Sequence { start, end } => {
                Some(u64::try_from(i128::from(*end) - i128::from(*start) + 1).unwrap_or(0))
            }
            Kind::Row(columns, _) => columns.iter().filter_map(Self::sequence_rows).min(),
            _ => None,
        }
    }

    /// Values of `rows`, which are numbers of rows or of items in them.
    fn array(&self, rows: &[u64], now_ms: i64) -> Result<ArrayRef> {
        if self.null_rate >= 1.0 {
            return Ok(new_null_array(&self.data_type, rows.len()));
        }
        let random = |row: &u64| splitmix64(self.salt ^ splitmix64(*row));
        let nulls = (self.null_rate > 0.0).then(|| {
            let valid = rows.iter().map(|row| unit(splitmix64(random(row) ^ 0x006E_756C_6C73)) >= self.null_rate);
            NullBuffer::from(valid.collect::<Vec<_>>())
        });
        let days = |ms: i64| i32::try_from(ms.div_euclid(86_400_000)).unwrap_or(0);
        let past = |row: &u64, max: i64| now_ms.saturating_sub(between(random(row), 0, max.into()) as i64);
        let array: ArrayRef = match &self.kind {
            Kind::Sequence { start, .. } => {
                let values: Vec<i64> = rows.iter().map(|row| start.wrapping_add(*row as i64)).collect();
                Arc::new(Int64Array::new(values.into(), nulls))
            }
            Kind::Integer { min, max } => {
                let value = |row: &u64| between(random(row), (*min).into(), (*max).into()) as i64;
                Arc::new(Int64Array::new(rows.iter().map(value).collect::<Vec<_>>().into(), nulls))
            }
            Kind::Float { min, max } => {
                let values = rows.iter().map(|row| min + unit(random(row)) * (max - min));
                Arc::new(Float64Array::new(values.collect::<Vec<_>>().into(), nulls))
            }
            Kind::Decimal { min, max } => {
                let values = rows.iter().map(|row| between(random(row), *min, *max)).collect::<Vec<_>>();
                let array = Decimal128Array::new(values.into(), nulls);
                Arc::new(array.with_data_type(self.data_type.clone()))
            }
            Kind::Boolean => {
                let values: Vec<bool> = rows.iter().map(|row| random(row) & 1 == 1).collect();
                Arc::new(BooleanArray::new(values.into(), nulls))
            }
            Kind::Text { length, binary } => {
                let values: Vec<Vec<u8>> = rows.iter().map(|row| hex(random(row), *length)).collect();
                let offsets = OffsetBuffer::from_lengths(values.iter().map(Vec::len));
                let bytes = values.concat().into();
                if *binary {
                    Arc::new(BinaryArray::new(offsets, bytes, nulls))
                } else {
                    Arc::new(StringArray::new(offsets, bytes, nulls))
                }
            }
            Kind::Time { max_past_ms } => {
                let values: Vec<i64> = rows.iter().map(|row| past(row, *max_past_ms)).collect();
                let zone = match &self.data_type {
                    DataType::Timestamp(_, zone) => zone.clone(),
                    _ => None,
                };
                Arc::new(TimestampMillisecondArray::new(values.into(), nulls).with_timezone_opt(zone))
            }
            Kind::Day { max_past_ms } => {
                let values: Vec<i32> = rows.iter().map(|row| days(past(row, *max_past_ms))).collect();
                Arc::new(Date32Array::new(values.into(), nulls))
            }
            Kind::TimeOfDay => {
                let values = rows.iter().map(|row| between(random(row), 0, 86_399_999) as i32).collect::<Vec<_>>();
                Arc::new(arrow::array::Time32MillisecondArray::new(values.into(), nulls))
            }
            Kind::List { length, item, field } => {
                let items = item.array(&self.item_rows(rows, *length), now_ms)?;
                let offsets = OffsetBuffer::from_lengths(rows.iter().map(|_| *length));
                Arc::new(ListArray::try_new(field.clone(), offsets, items, nulls)?)
            }
            Kind::Map { length, key, value, entries } => {
                let item_rows = self.item_rows(rows, *length);
                let DataType::Struct(parts) = entries.data_type() else {
                    return Err(Error::internal("the entries of a MAP are a row"));
                };
                let columns = vec![key.array(&item_rows, now_ms)?, value.array(&item_rows, now_ms)?];
                let pairs = StructArray::try_new(parts.clone(), columns, None)?;
                let offsets = OffsetBuffer::from_lengths(rows.iter().map(|_| *length));
                Arc::new(MapArray::try_new(entries.clone(), offsets, pairs, nulls, false)?)
            }
            Kind::Row(columns, fields) => {
                let arrays = columns.iter().map(|c| c.array(rows, now_ms)).collect::<Result<Vec<_>>>()?;
                Arc::new(StructArray::try_new(fields.clone(), arrays, nulls)?)
            }
        };
        if array.data_type() == &self.data_type {
            return Ok(array);
        }
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(&array, &self.data_type, &strict)
            .map_err(|e| Error::config(format!("a generated value does not fit {}", self.data_type)).caused_by(e))
    }

    /// Numbers for the items of collections: mixed with the row's, so that they are unlike in each row.
    fn item_rows(&self, rows: &[u64], length: usize) -> Vec<u64> {
        rows.iter()
            .flat_map(|row| (0..length as u64).map(|item| splitmix64(self.salt ^ *row).wrapping_add(item)))
            .collect()
    }
}

fn check_order(path: &str, ordered: bool) -> Result<()> {
    if ordered { Ok(()) } else { Err(Error::config(format!("option '{path}.min' is above '{path}.max'"))) }
}

/// `length` hex digits, as Flink's strings.
fn hex(mut random: u64, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 16);
    while out.len() < length {
        out.extend_from_slice(format!("{random:016x}").as_bytes());
        random = splitmix64(random);
    }
    out.truncate(length);
    out
}
