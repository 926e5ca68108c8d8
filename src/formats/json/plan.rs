//! From a schema to the machine that reads it, and from the machine's columns to arrays.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array,
    ListArray, MapArray, PrimitiveArray, StringArray, StructArray, Time32MillisecondArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{
    ArrowTimestampType, DataType, Field, Fields, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow::error::ArrowError;

use crate::formats::text::{TimestampFormat, TimestampParser};

use super::columns::{
    Column, DecimalColumn, Fixed, ListColumn, MapColumn, Offsets, SideText, StructColumn, TextColumn, TimestampColumn, VarBytes, truncate,
};
use super::learned::ObjectKeys;
use super::simd::validated_views;

/// Unwanted objects whose keys are learned, so as to skip them faster.
const UNWANTED_OBJECTS: usize = 32;

/// Why a schema cannot be read from JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JsonSchemaError {
    /// A column of a type that JSON is not read into; `column` is a dotted path.
    UnsupportedType { column: String, data_type: DataType },
    /// The prefilter's time path leads to no timestamp column of the schema.
    NoTimestamp { column: String },
}

impl std::fmt::Display for JsonSchemaError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnsupportedType { column, data_type } => write!(out, "column `{column}` has type {data_type}, which cannot be read from JSON"),
            Self::NoTimestamp { column } => write!(out, "`{column}` is no timestamp column"),
        }
    }
}

impl std::error::Error for JsonSchemaError {}

/// All columns of a schema, flat: a nested one is known by its number.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    pub columns: Vec<Column>,
    /// Dotted path of each column.
    pub paths: Vec<String>,
    /// Whether each column must have a value in each row.
    pub required: Vec<bool>,
    /// The record itself is number 0.
    pub objects: Vec<ObjectKeys>,
    /// No more are learned than this.
    max_objects: usize,
    pub side: SideText,
}

impl Machine {
    pub(super) fn new(fields: &Fields, format: TimestampFormat) -> Result<Self, JsonSchemaError> {
        let mut machine = Self::default();
        machine.add_object(fields, "", format)?;
        machine.max_objects = machine.objects.len() + UNWANTED_OBJECTS;
        Ok(machine)
    }

    /// Adds the keys and columns of an object; its number.
    fn add_object(&mut self, fields: &Fields, path: &str, format: TimestampFormat) -> Result<usize, JsonSchemaError> {
        let object = self.objects.len();
        // Holds the place while the objects inside are added.
        self.objects.push(ObjectKeys::new(&[], Vec::new()));
        let mut wanted = Vec::new();
        let mut required = Vec::new();
        for field in fields {
            let path = if path.is_empty() { field.name().clone() } else { format!("{path}.{}", field.name()) };
            let column = self.add_column(field, path, format)?;
            wanted.push((field.name().as_str(), column));
            if !field.is_nullable() {
                required.push(column);
            }
        }
        self.objects[object] = ObjectKeys::new(&wanted, required);
        Ok(object)
    }

    fn add_column(&mut self, field: &Field, path: String, format: TimestampFormat) -> Result<usize, JsonSchemaError> {
        let unsupported = || JsonSchemaError::UnsupportedType { column: path.clone(), data_type: field.data_type().clone() };
        let items = || format!("{path}[]");
        let column = match field.data_type() {
            DataType::Utf8View => Column::Text(TextColumn { views: Fixed::default(), long: false }),
            DataType::Utf8 => Column::Chars(VarBytes::default()),
            DataType::Binary => Column::Binary(VarBytes::default()),
            DataType::Boolean => Column::Boolean(Fixed::default()),
            DataType::Int8 => Column::Int8(Fixed::default()),
            DataType::Int16 => Column::Int16(Fixed::default()),
            DataType::Int32 => Column::Int32(Fixed::default()),
            DataType::Int64 => Column::Int64(Fixed::default()),
            DataType::Float32 => Column::Float32(Fixed::default()),
            DataType::Float64 => Column::Float64(Fixed::default()),
            DataType::Decimal128(precision, scale) => {
                Column::Decimal(DecimalColumn { values: Fixed::default(), precision: *precision, scale: *scale })
            }
            DataType::Date32 => Column::Date(Fixed::default()),
            DataType::Time32(TimeUnit::Millisecond) => Column::Time(Fixed::default()),
            DataType::Timestamp(unit, zone) => {
                if zone.as_deref().is_some_and(|zone| !matches!(zone, "UTC" | "+00:00")) {
                    return Err(unsupported());
                }
                Column::Timestamp(TimestampColumn { values: Fixed::default(), parser: TimestampParser::new(format, *unit), unit: *unit, zone: zone.clone() })
            }
            DataType::Struct(fields) => {
                let object = self.add_object(fields, &path, format)?;
                let columns = self.objects[object].columns.clone();
                Column::Struct(StructColumn { present: Fixed::default(), object, fields: fields.clone(), columns })
            }
            DataType::List(item) => {
                let column = self.add_column(item, items(), format)?;
                Column::List(ListColumn { offsets: Offsets::default(), item: column, field: Arc::clone(item) })
            }
            DataType::Map(entries, ordered) => {
                let DataType::Struct(fields) = entries.data_type() else {
                    return Err(unsupported());
                };
                let [key, value] = fields.as_ref() else {
                    return Err(unsupported());
                };
                if !matches!(key.data_type(), DataType::Utf8 | DataType::Utf8View) {
                    return Err(unsupported());
                }
                let keys = self.add_column(key, items(), format)?;
                let values = self.add_column(value, items(), format)?;
                Column::Map(MapColumn { offsets: Offsets::default(), keys, values, entries: Arc::clone(entries), ordered: *ordered })
            }
            _ => return Err(unsupported()),
        };
        self.columns.push(column);
        self.paths.push(path);
        self.required.push(!field.is_nullable());
        Ok(self.columns.len() - 1)
    }

    /// Begins to learn the keys of an unwanted object, the value of key `number`: its own number, if the key
    /// is one of those remembered and there are not too many objects already.
    #[cold]
    pub(super) fn learn_object(&mut self, number: usize) -> Option<usize> {
        if number == 0 || self.objects.len() >= self.max_objects {
            return None;
        }
        self.objects.push(ObjectKeys::new(&[], Vec::new()));
        Some(self.objects.len() - 1)
    }

    /// Makes room for `rows` rows in every column whose rows are the record's.
    pub(super) fn reserve(&mut self, object: usize, rows: usize) {
        for i in 0..self.objects[object].columns.len() {
            let column = &mut self.columns[self.objects[object].columns[i]];
            column.reserve(rows);
            if let Column::Struct(column) = column {
                let object = column.object;
                self.reserve(object, rows);
            }
        }
    }

    /// Takes back what was read for the rows from `rows` on, and the side text since `mark`.
    pub(super) fn roll_back(&mut self, rows: usize, mark: (usize, usize)) {
        self.truncate(rows);
        self.side.truncate(mark);
    }

    /// Takes back whatever was read for the rows from `rows` on.
    pub(super) fn truncate(&mut self, rows: usize) {
        for i in 0..self.objects[0].columns.len() {
            truncate(&mut self.columns, self.objects[0].columns[i], rows);
        }
    }

    /// The arrays of the record's columns; the machine is empty after it.
    pub(super) fn finish(&mut self, rows: usize, chunk: &Buffer) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut buffers = vec![chunk.clone()];
        buffers.append(&mut self.side.take());
        let columns = self.objects[0].columns.clone();
        self.finish_all(&columns, rows, &buffers)
    }

    fn finish_all(&mut self, columns: &[usize], rows: usize, buffers: &[Buffer]) -> Result<Vec<ArrayRef>, ArrowError> {
        columns.iter().map(|column| self.finish_column(*column, rows, buffers)).collect()
    }

    fn finish_column(&mut self, column: usize, rows: usize, buffers: &[Buffer]) -> Result<ArrayRef, ArrowError> {
        /// `Fixed` to the array type that its values are of.
        macro_rules! primitive {
            ($values:expr, $array:ty) => {{
                let (values, nulls) = $values.take(rows);
                Arc::new(<$array>::try_new(values.into(), nulls)?)
            }};
        }
        Ok(match &mut self.columns[column] {
            Column::Text(column) => {
                let (views, nulls) = column.views.take(rows);
                // Without long texts the array need not keep the chunk alive.
                let buffers = if std::mem::take(&mut column.long) { buffers.to_vec() } else { Vec::new() };
                Arc::new(validated_views(views, buffers, nulls))
            }
            Column::Chars(column) => {
                let (ends, nulls) = column.offsets.take(rows);
                let bytes = Buffer::from_vec(std::mem::take(&mut column.bytes));
                Arc::new(StringArray::try_new(OffsetBuffer::new(ends.into()), bytes, nulls)?)
            }
            Column::Binary(column) => {
                let (ends, nulls) = column.offsets.take(rows);
                let bytes = Buffer::from_vec(std::mem::take(&mut column.bytes));
                Arc::new(BinaryArray::try_new(OffsetBuffer::new(ends.into()), bytes, nulls)?)
            }
            Column::Boolean(values) => {
                let (values, nulls) = values.take(rows);
                Arc::new(BooleanArray::new(values.into(), nulls))
            }
            Column::Int8(values) => primitive!(values, Int8Array),
            Column::Int16(values) => primitive!(values, Int16Array),
            Column::Int32(values) => primitive!(values, Int32Array),
            Column::Int64(values) => primitive!(values, Int64Array),
            Column::Float32(values) => primitive!(values, Float32Array),
            Column::Float64(values) => primitive!(values, Float64Array),
            Column::Date(values) => primitive!(values, Date32Array),
            Column::Time(values) => primitive!(values, Time32MillisecondArray),
            Column::Decimal(column) => {
                let (values, nulls) = column.values.take(rows);
                let array = Decimal128Array::try_new(values.into(), nulls)?;
                Arc::new(array.with_precision_and_scale(column.precision, column.scale)?)
            }
            Column::Timestamp(column) => {
                let (values, nulls) = column.values.take(rows);
                let zone = column.zone.clone();
                match column.unit {
                    TimeUnit::Second => timestamps::<TimestampSecondType>(values, nulls, zone)?,
                    TimeUnit::Millisecond => timestamps::<TimestampMillisecondType>(values, nulls, zone)?,
                    TimeUnit::Microsecond => timestamps::<TimestampMicrosecondType>(values, nulls, zone)?,
                    TimeUnit::Nanosecond => timestamps::<TimestampNanosecondType>(values, nulls, zone)?,
                }
            }
            Column::Struct(column) => {
                let (present, nulls) = column.present.take(rows);
                let (fields, columns) = (column.fields.clone(), column.columns.clone());
                let arrays = self.finish_all(&columns, rows, buffers)?;
                Arc::new(StructArray::try_new_with_length(fields, arrays, nulls, present.len())?)
            }
            Column::List(column) => {
                let (ends, nulls) = column.offsets.take(rows);
                let (item, field) = (column.item, Arc::clone(&column.field));
                let items = self.finish_column(item, count(&ends), buffers)?;
                Arc::new(ListArray::try_new(field, OffsetBuffer::new(ends.into()), items, nulls)?)
            }
            Column::Map(column) => {
                let (ends, nulls) = column.offsets.take(rows);
                let (columns, field, ordered) = ([column.keys, column.values], Arc::clone(&column.entries), column.ordered);
                let arrays = self.finish_all(&columns, count(&ends), buffers)?;
                let DataType::Struct(fields) = field.data_type() else {
                    return Err(ArrowError::SchemaError("a map's entries are a struct".into()));
                };
                let entries = StructArray::try_new_with_length(fields.clone(), arrays, None, count(&ends))?;
                Arc::new(MapArray::try_new(field, OffsetBuffer::new(ends.into()), entries, nulls, ordered)?)
            }
        })
    }
}

fn count(ends: &[i32]) -> usize {
    ends.last().map_or(0, |end| *end as usize)
}

fn timestamps<T: ArrowTimestampType>(values: Vec<i64>, nulls: Option<NullBuffer>, zone: Option<Arc<str>>) -> Result<ArrayRef, ArrowError> {
    Ok(Arc::new(PrimitiveArray::<T>::try_new(values.into(), nulls)?.with_timezone_opt(zone)))
}
