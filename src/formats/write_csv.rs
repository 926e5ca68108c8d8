//! Rows as CSV text, as Flink writes it: no header (unless asked for), quotes only where they are needed.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;

use crate::contracts::{Error, Result};

use super::csv::CsvOptions;
use super::datetime::TimestampStyle;
use super::write_json::{JsonColumn, JsonStyle};

const STYLE: JsonStyle = JsonStyle { timestamps: TimestampStyle::Sql, skip_nulls: false };

/// A batch, ready to be written row by row.
pub struct CsvRows {
    columns: Vec<Column>,
    options: CsvOptions,
}

enum Column {
    /// Text, written as it is or in quotes.
    Text(ArrayRef),
    /// Values whose JSON text, without quotes, is their CSV text.
    Scalar(JsonColumn),
    /// Items joined by the array delimiter.
    List(ArrayRef, Box<Column>),
    Row(ArrayRef, Vec<Column>),
}

impl Column {
    fn try_new(array: &ArrayRef) -> Result<Self> {
        Ok(match array.data_type() {
            DataType::Utf8 => Self::Text(array.clone()),
            DataType::Utf8View | DataType::LargeUtf8 => Self::Text(arrow::compute::cast(array, &DataType::Utf8)?),
            DataType::List(_) => {
                let items = Self::try_new(array.as_list::<i32>().values())?;
                Self::List(array.clone(), Box::new(items))
            }
            DataType::Struct(_) => {
                let columns = array.as_struct().columns().iter().map(Self::try_new).collect::<Result<_>>()?;
                Self::Row(array.clone(), columns)
            }
            DataType::Map(_, _) => return Err(Error::config("a MAP cannot be written as CSV")),
            _ => Self::Scalar(JsonColumn::try_new(array)?),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Text(array) | Self::List(array, _) | Self::Row(array, _) => array.is_null(row),
            Self::Scalar(column) => column.is_null(row),
        }
    }

    fn write(&self, row: usize, options: &CsvOptions, out: &mut Vec<u8>) {
        let null = |out: &mut Vec<u8>| out.extend_from_slice(options.null_literal.as_deref().unwrap_or("").as_bytes());
        let join = |at: usize, first: usize, out: &mut Vec<u8>| {
            if at > first {
                out.push(options.array_delimiter);
            }
        };
        match self {
            _ if self.is_null(row) => null(out),
            Self::Text(array) => out.extend_from_slice(array.as_string::<i32>().value(row).as_bytes()),
            Self::Scalar(column) => {
                let from = out.len();
                column.write_value(row, STYLE, out);
                if out[from] == b'"' {
                    out.remove(from);
                    out.pop();
                }
            }
            Self::List(array, items) => {
                let offsets = array.as_list::<i32>().offsets();
                let (first, last) = (offsets[row] as usize, offsets[row + 1] as usize);
                for item in first..last {
                    join(item, first, out);
                    items.write(item, options, out);
                }
            }
            Self::Row(_, columns) => {
                for (at, column) in columns.iter().enumerate() {
                    join(at, 0, out);
                    column.write(row, options, out);
                }
            }
        }
    }
}

impl CsvRows {
    /// Prepares all columns of a batch.
    pub fn try_new(batch: &RecordBatch, options: &CsvOptions) -> Result<Self> {
        let named = |(field, column): (&arrow::datatypes::FieldRef, &ArrayRef)| {
            Column::try_new(column).map_err(|e| e.context(format!("column '{}'", field.name())))
        };
        let columns = batch.schema_ref().fields().iter().zip(batch.columns()).map(named).collect::<Result<_>>()?;
        Ok(Self { columns, options: options.clone() })
    }

    /// Appends row `row` without a line end.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        let begin = out.len();
        for (at, column) in self.columns.iter().enumerate() {
            if at > 0 {
                out.push(self.options.delimiter);
            }
            let from = out.len();
            column.write(row, &self.options, out);
            if !column.is_null(row) {
                quote_if_needed(from, &self.options, out);
            }
        }
        if let Some(quote) = self.options.quote.filter(|_| out.len() == begin) {
            // An empty line is no record.
            out.extend([quote, quote]);
        }
    }

    /// Appends the names of the columns.
    pub fn write_header(batch: &RecordBatch, options: &CsvOptions, out: &mut Vec<u8>) {
        for (at, field) in batch.schema_ref().fields().iter().enumerate() {
            if at > 0 {
                out.push(options.delimiter);
            }
            let from = out.len();
            out.extend_from_slice(field.name().as_bytes());
            quote_if_needed(from, options, out);
        }
    }
}

/// Puts quotes, or where there are none escapes, around what of `out[from..]` would not read back without them.
fn quote_if_needed(from: usize, options: &CsvOptions, out: &mut Vec<u8>) {
    let field = &out[from..];
    let special = |b: &u8| {
        matches!(*b, b'\n' | b'\r')
            || *b == options.delimiter
            || Some(*b) == options.quote
            || Some(*b) == options.escape
    };
    let like_null = options.null_literal.as_ref().is_some_and(|n| n.as_bytes() == field);
    let like_comment = options.comments && field.first() == Some(&b'#');
    if !field.iter().any(special) && !like_null && !like_comment {
        return;
    }
    let field = out.split_off(from);
    match (options.quote, options.escape) {
        (Some(quote), escape) => {
            out.push(quote);
            for byte in field {
                if byte == quote || Some(byte) == escape {
                    out.push(byte);
                }
                out.push(byte);
            }
            out.push(quote);
        }
        (None, Some(escape)) => {
            for (at, byte) in field.into_iter().enumerate() {
                if special(&byte) || (at == 0 && like_comment) {
                    out.push(escape);
                }
                out.push(byte);
            }
        }
        (None, None) => out.extend(field),
    }
}
