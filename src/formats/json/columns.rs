//! Columns under construction, one kind for each type of the schema.
//!
//! A row is taken back by cutting every column to the rows before it.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, Fields, TimeUnit};

use crate::formats::text::TimestampParser;

use super::storage::{Fixed, Offsets, VarBytes};

#[derive(Clone, Debug)]
pub(super) struct TextColumn {
    pub views: Fixed<u128>,
    /// Some view points into a buffer.
    pub long: bool,
}

#[derive(Clone, Debug)]
pub(super) struct DecimalColumn {
    pub values: Fixed<i128>,
    pub precision: u8,
    pub scale: i8,
}

#[derive(Clone, Debug)]
pub(super) struct TimestampColumn {
    pub values: Fixed<i64>,
    pub parser: TimestampParser,
    pub unit: TimeUnit,
    pub zone: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub(super) struct StructColumn {
    pub present: Fixed<()>,
    /// Number of its keys among the machine's objects.
    pub object: usize,
    pub fields: Fields,
    pub columns: Vec<usize>,
}

#[derive(Clone, Debug)]
pub(super) struct ListColumn {
    pub offsets: Offsets,
    pub item: usize,
    pub field: FieldRef,
}

#[derive(Clone, Debug)]
pub(super) struct MapColumn {
    pub offsets: Offsets,
    pub keys: usize,
    pub values: usize,
    pub entries: FieldRef,
    pub ordered: bool,
}

/// One column of the schema, top-level or nested. Rows of a struct's columns are the struct's rows; rows
/// of a list's or map's columns are its items, counted over the whole batch.
///
/// `repr(u8)`: a tag of its own is quicker to tell than one hidden in a vector's capacity.
#[derive(Clone, Debug)]
#[repr(u8)]
pub(super) enum Column {
    Text(TextColumn),
    Chars(VarBytes),
    Binary(VarBytes),
    Boolean(Fixed<bool>),
    Int8(Fixed<i8>),
    Int16(Fixed<i16>),
    Int32(Fixed<i32>),
    Int64(Fixed<i64>),
    Float32(Fixed<f32>),
    Float64(Fixed<f64>),
    Decimal(DecimalColumn),
    Date(Fixed<i32>),
    Time(Fixed<i32>),
    Timestamp(TimestampColumn),
    Struct(StructColumn),
    List(ListColumn),
    Map(MapColumn),
}

/// Applies the same expression to whatever fixed-size values a column has, and others to the rest.
macro_rules! each_kind {
    ($column:expr, $fixed:ident => $on_fixed:expr, $offsets:ident => $on_offsets:expr) => {
        match $column {
            Column::Text(TextColumn { views: $fixed, .. }) => $on_fixed,
            Column::Boolean($fixed) => $on_fixed,
            Column::Int8($fixed) => $on_fixed,
            Column::Int16($fixed) => $on_fixed,
            Column::Int32($fixed) | Column::Date($fixed) | Column::Time($fixed) => $on_fixed,
            Column::Int64($fixed) | Column::Timestamp(TimestampColumn { values: $fixed, .. }) => $on_fixed,
            Column::Float32($fixed) => $on_fixed,
            Column::Float64($fixed) => $on_fixed,
            Column::Decimal(DecimalColumn { values: $fixed, .. }) => $on_fixed,
            Column::Struct(StructColumn { present: $fixed, .. }) => $on_fixed,
            Column::Chars(VarBytes { offsets: $offsets, .. })
            | Column::Binary(VarBytes { offsets: $offsets, .. })
            | Column::List(ListColumn { offsets: $offsets, .. })
            | Column::Map(MapColumn { offsets: $offsets, .. }) => $on_offsets,
        }
    };
}

impl Column {
    /// Rows held so far; one that ends without a value is not among them.
    pub(super) fn rows(&self) -> usize {
        each_kind!(self, fixed => fixed.values.len(), offsets => offsets.rows())
    }

    /// Makes room for `rows` values of one size.
    pub(super) fn reserve(&mut self, rows: usize) {
        each_kind!(self, fixed => fixed.values.reserve(rows), offsets => offsets.reserve(rows));
    }
}

/// Cuts column `index`, and those below it, to `rows` rows.
pub(super) fn truncate(columns: &mut [Column], index: usize, rows: usize) {
    match &mut columns[index] {
        Column::Chars(values) | Column::Binary(values) => values.truncate(rows),
        Column::Struct(column) => {
            column.present.truncate(rows);
            for i in 0..column.columns.len() {
                if let Column::Struct(column) = &columns[index] {
                    truncate(columns, column.columns[i], rows);
                }
            }
        }
        Column::List(column) => {
            let (items, item) = (column.offsets.truncate(rows), column.item);
            truncate(columns, item, items);
        }
        Column::Map(column) => {
            let (items, keys, values) = (column.offsets.truncate(rows), column.keys, column.values);
            truncate(columns, keys, items);
            truncate(columns, values, items);
        }
        column => each_kind!(column, fixed => fixed.truncate(rows), _offsets => {}),
    }
}
