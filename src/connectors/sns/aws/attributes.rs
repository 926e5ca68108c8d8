//! Columns as message attributes.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use aws_sdk_sns::primitives::Blob;
use aws_sdk_sns::types::MessageAttributeValue;
use base64::Engine;

use crate::contracts::{Error, Result};
use crate::formats::write_json::{JsonColumn, JsonStyle};

/// A name and a value with its type.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attribute {
    pub(super) name: String,
    pub(super) value: MessageAttributeValue,
}

impl Attribute {
    /// A text. SNS takes no empty one: there is no attribute then.
    pub(super) fn of_text(name: &str, kind: &str, text: impl Into<String>) -> Result<Option<Self>> {
        let text = text.into();
        if text.is_empty() {
            return Ok(None);
        }
        let value = MessageAttributeValue::builder().data_type(kind).string_value(text).build();
        Ok(Some(Self { name: name.to_owned(), value: value.map_err(incomplete)? }))
    }

    /// The value; binary as base64.
    pub(super) fn text(&self) -> String {
        match &self.value.binary_value {
            Some(binary) => base64::engine::general_purpose::STANDARD.encode(binary.as_ref()),
            None => self.value.string_value.clone().unwrap_or_default(),
        }
    }

    /// Bytes that count as the message's: name, type and value.
    pub(super) fn bytes(&self) -> usize {
        let text = self.value.string_value.as_ref().map_or(0, String::len);
        let binary = self.value.binary_value.as_ref().map_or(0, |b| b.as_ref().len());
        self.name.len() + self.value.data_type.len() + text + binary
    }
}

fn incomplete(e: aws_sdk_sns::error::BuildError) -> Error {
    Error::internal("a message attribute without its type").caused_by(e)
}

/// The attributes of a batch's rows: numbers are `Number`, binary is `Binary`, a list is a `String.Array` (filters look
/// into it), everything else is `String`.
pub(super) struct AttributeColumns {
    columns: Vec<(String, Values)>,
}

enum Values {
    Text(ArrayRef),
    Binary(ArrayRef),
    /// Written as JSON, without the quotes of a string.
    Json(&'static str, JsonColumn),
}

impl AttributeColumns {
    pub(super) fn try_new(batch: &RecordBatch, without: &[&str]) -> Result<Self> {
        let schema = batch.schema();
        let named = schema.fields().iter().zip(batch.columns()).filter(|(f, _)| !without.contains(&f.name().as_str()));
        let prepare = |(field, column): (&arrow::datatypes::FieldRef, &ArrayRef)| {
            let values = match column.data_type() {
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                    Values::Text(cast(column, &DataType::Utf8)?)
                }
                DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                    Values::Binary(cast(column, &DataType::Binary)?)
                }
                DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _) => {
                    Values::Json("String.Array", JsonColumn::try_new(column)?)
                }
                other if other.is_numeric() => Values::Json("Number", JsonColumn::try_new(column)?),
                _ => Values::Json("String", JsonColumn::try_new(column)?),
            };
            Ok((field.name().clone(), values))
        };
        Ok(Self { columns: named.map(prepare).collect::<Result<_>>()? })
    }

    /// The attributes of row `row`; NULL is none.
    pub(super) fn of(&self, row: usize) -> Result<Vec<Attribute>> {
        let mut found = Vec::with_capacity(self.columns.len() + 1);
        for (name, values) in &self.columns {
            found.extend(match values {
                Values::Text(texts) if texts.is_valid(row) => {
                    Attribute::of_text(name, "String", texts.as_string::<i32>().value(row))?
                }
                Values::Binary(binaries) if binaries.is_valid(row) => {
                    let bytes = binaries.as_binary::<i32>().value(row);
                    let value = MessageAttributeValue::builder().data_type("Binary").binary_value(Blob::new(bytes));
                    let value = value.build().map_err(incomplete)?;
                    (!bytes.is_empty()).then(|| Attribute { name: name.clone(), value })
                }
                Values::Json(kind, column) if !column.is_null(row) => {
                    let mut json = Vec::new();
                    column.write_value(row, JsonStyle::MESSAGE, &mut json);
                    let text = String::from_utf8_lossy(&json);
                    let plain = text.trim_matches('"');
                    // A number that is none (NaN) is text.
                    let kind = if *kind == "Number" && plain.len() != text.len() { "String" } else { kind };
                    Attribute::of_text(name, kind, plain)?
                }
                _ => None,
            });
        }
        Ok(found)
    }
}
