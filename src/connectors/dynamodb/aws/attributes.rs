//! Arrow values as DynamoDB's attribute values.
//!
//! Scalars are those of the embedded table (`cells`), so that both store the same digits and the same text; lists, maps,
//! rows and sets have types of their own here. NULL is no attribute at the top, and the type NULL within a list, map
//! or row.

use std::collections::{BTreeSet, HashMap};

use arrow::array::{Array, ArrayRef, AsArray, MapArray, StringArray, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use crate::contracts::{Error, Result};

use super::super::cells::{Cell, CellColumn, Unstorable};

/// DynamoDB nests documents up to 32 levels deep ("Quotas").
const MAX_LEVELS: usize = 32;

/// A column, ready to be read value by value.
pub(super) enum AttributeColumn {
    Scalar(CellColumn),
    List(Items),
    Set(Items),
    Map(Option<NullBuffer>, OffsetBuffer<i32>, StringArray, Box<AttributeColumn>),
    Row(Option<NullBuffer>, Vec<(String, AttributeColumn)>),
}

/// Elements of lists: where those of each row lie.
pub(super) struct Items {
    nulls: Option<NullBuffer>,
    offsets: OffsetBuffer<i32>,
    values: Box<AttributeColumn>,
}

impl AttributeColumn {
    /// Prepares a column; with `set`, its lists are sets.
    pub(super) fn try_new(array: &ArrayRef, set: bool) -> Result<Self> {
        Self::nested(array, set, 1)
    }

    fn nested(array: &ArrayRef, set: bool, level: usize) -> Result<Self> {
        if level > MAX_LEVELS {
            return Err(Error::config(format!("DynamoDB nests values {MAX_LEVELS} levels deep at most")));
        }
        let nulls = array.nulls().cloned();
        Ok(match array.data_type() {
            DataType::List(field) => {
                let list = array.as_list::<i32>();
                let nested = matches!(
                    field.data_type(),
                    DataType::List(_) | DataType::Struct(_) | DataType::Map(_, _) | DataType::Boolean
                );
                if set && nested {
                    return Err(Error::config(format!("a set of {} is no DynamoDB set", field.data_type()))
                        .hint("sets hold strings, numbers or binary values"));
                }
                let values = Box::new(Self::nested(list.values(), false, level + 1)?);
                let items = Items { nulls, offsets: list.offsets().clone(), values };
                if set { Self::Set(items) } else { Self::List(items) }
            }
            DataType::LargeList(field) | DataType::FixedSizeList(field, _) | DataType::ListView(field) => {
                return Self::nested(&cast(array, &DataType::List(field.clone()))?, set, level);
            }
            other if set => {
                return Err(Error::config(format!("values of type {other} cannot be DynamoDB sets"))
                    .hint("name ARRAY columns in 'sink.sets'"));
            }
            DataType::Map(_, _) => {
                let map: &MapArray = array.as_map();
                let keys = cast(map.keys(), &DataType::Utf8)?.as_string::<i32>().clone();
                let values = Box::new(Self::nested(map.values(), false, level + 1)?);
                Self::Map(nulls, map.offsets().clone(), keys, values)
            }
            DataType::Struct(fields) => {
                let row: &StructArray = array.as_struct();
                let named = fields.iter().zip(row.columns()).map(|(field, column)| {
                    let column = Self::nested(column, false, level + 1);
                    column
                        .map(|c| (field.name().clone(), c))
                        .map_err(|e| e.context(format!("field '{}'", field.name())))
                });
                Self::Row(nulls, named.collect::<Result<_>>()?)
            }
            DataType::Dictionary(_, value) => return Self::nested(&cast(array, value)?, set, level),
            _ => Self::Scalar(CellColumn::try_new(array)?),
        })
    }

    /// The scalars of a key column.
    pub(super) fn scalar(&self) -> Option<&CellColumn> {
        if let Self::Scalar(cells) = self { Some(cells) } else { None }
    }

    /// Value `row`; `None` is no attribute: NULL, or an empty set, which DynamoDB does not take.
    pub(super) fn value(&self, row: usize) -> std::result::Result<Option<AttributeValue>, Unstorable> {
        let null = |nulls: &Option<NullBuffer>| nulls.as_ref().is_some_and(|n| n.is_null(row));
        Ok(match self {
            Self::Scalar(cells) => match cells.cell(row)? {
                Cell::Missing => None,
                Cell::Integer(v) => Some(AttributeValue::N(v.to_string())),
                Cell::Boolean(v) => Some(AttributeValue::Bool(v)),
                Cell::Number(text) => Some(AttributeValue::N(text)),
                Cell::Text(text) => Some(AttributeValue::S(text.into_owned())),
                Cell::Binary(bytes) => Some(AttributeValue::B(Blob::new(bytes))),
            },
            Self::List(items) if null(&items.nulls) => None,
            Self::List(items) => {
                Some(AttributeValue::L(items.of(row).map(|i| items.values.inner(i)).collect::<Result<_, _>>()?))
            }
            Self::Set(items) if null(&items.nulls) => None,
            Self::Set(items) => items.set(row)?,
            Self::Map(nulls, _, _, _) | Self::Row(nulls, _) if null(nulls) => None,
            Self::Map(_, offsets, keys, values) => {
                let range = offsets[row] as usize..offsets[row + 1] as usize;
                let members = range.map(|i| Ok((keys.value(i).to_owned(), values.inner(i)?)));
                Some(AttributeValue::M(members.collect::<Result<HashMap<_, _>, Unstorable>>()?))
            }
            Self::Row(_, fields) => {
                let members = fields.iter().map(|(name, column)| Ok((name.clone(), column.inner(row)?)));
                Some(AttributeValue::M(members.collect::<Result<HashMap<_, _>, Unstorable>>()?))
            }
        })
    }

    /// A value within another.
    fn inner(&self, row: usize) -> std::result::Result<AttributeValue, Unstorable> {
        Ok(self.value(row)?.unwrap_or(AttributeValue::Null(true)))
    }
}

impl Items {
    fn of(&self, row: usize) -> std::ops::Range<usize> {
        self.offsets[row] as usize..self.offsets[row + 1] as usize
    }

    /// A set: equal elements once, in the order of their text.
    fn set(&self, row: usize) -> std::result::Result<Option<AttributeValue>, Unstorable> {
        let (mut texts, mut numbers, mut binaries) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for item in self.of(row) {
            match self.values.value(item)? {
                Some(AttributeValue::S(text)) => drop(texts.insert(text)),
                Some(AttributeValue::N(number)) => drop(numbers.insert(number)),
                Some(AttributeValue::B(bytes)) => drop(binaries.insert(bytes.into_inner())),
                _ => return Err(("null_in_set", "a set has a NULL among its elements".to_owned())),
            }
        }
        Ok(match (texts.is_empty(), numbers.is_empty(), binaries.is_empty()) {
            (false, _, _) => Some(AttributeValue::Ss(texts.into_iter().collect())),
            (_, false, _) => Some(AttributeValue::Ns(numbers.into_iter().collect())),
            (_, _, false) => Some(AttributeValue::Bs(binaries.into_iter().map(Blob::new).collect())),
            _ => None,
        })
    }
}

/// Size of a value as DynamoDB counts it ("DynamoDB item sizes and formats"): UTF-8 bytes of text; a number about a byte
/// for two digits and one more; a list or map 3 bytes, and one more for each element.
pub(super) fn size(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(number) => number.len().div_ceil(2) + 1,
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        AttributeValue::Ss(texts) => texts.iter().map(String::len).sum(),
        AttributeValue::Ns(numbers) => numbers.iter().map(|n| n.len().div_ceil(2) + 1).sum(),
        AttributeValue::Bs(list) => list.iter().map(|b| b.as_ref().len()).sum(),
        AttributeValue::L(items) => 3 + items.iter().map(|item| 1 + size(item)).sum::<usize>(),
        AttributeValue::M(members) => 3 + members.iter().map(|(name, v)| 1 + name.len() + size(v)).sum::<usize>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Builder, ListBuilder, MapBuilder, StringBuilder};
    use arrow::datatypes::Field;

    use super::*;

    fn one(array: ArrayRef, set: bool) -> std::result::Result<Option<AttributeValue>, Unstorable> {
        AttributeColumn::try_new(&array, set).unwrap().value(0)
    }

    #[test]
    fn nested_values_have_dynamodbs_own_types() {
        let n = |v: &str| AttributeValue::N(v.to_owned());
        let mut list = ListBuilder::new(Int64Builder::new());
        list.append_value([Some(2), None, Some(2)]);
        list.append_value([Some(10), Some(2), Some(10)]);
        list.append_value([None::<i64>; 0]);
        list.append_null();
        let list: ArrayRef = Arc::new(list.finish());
        assert_eq!(
            one(list.clone(), false),
            Ok(Some(AttributeValue::L(vec![n("2"), AttributeValue::Null(true), n("2")])))
        );
        assert_eq!(one(list.clone(), true).unwrap_err().0, "null_in_set");
        let sets = AttributeColumn::try_new(&list, true).unwrap();
        assert_eq!(sets.value(1), Ok(Some(AttributeValue::Ns(vec!["10".into(), "2".into()]))));
        assert_eq!((sets.value(2), sets.value(3)), (Ok(None), Ok(None)));
        let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        map.keys().append_value("a");
        map.values().append_value(1);
        map.append(true).unwrap();
        let map: ArrayRef = Arc::new(map.finish());
        let expected = AttributeValue::M(HashMap::from([("a".to_owned(), n("1"))]));
        assert_eq!(one(map.clone(), false), Ok(Some(expected.clone())));
        assert_eq!(size(&expected), 3 + 1 + 1 + 2);
        let row = StructArray::from(vec![
            (Arc::new(Field::new("m", map.data_type().clone(), true)), map),
            (
                Arc::new(Field::new("flag", DataType::Boolean, true)),
                Arc::new(arrow::array::BooleanArray::from(vec![None])) as ArrayRef,
            ),
        ]);
        let members = HashMap::from([("m".to_owned(), expected), ("flag".to_owned(), AttributeValue::Null(true))]);
        assert_eq!(one(Arc::new(row), false), Ok(Some(AttributeValue::M(members))));
        assert_eq!(
            one(Arc::new(arrow::array::BooleanArray::from(vec![true])), false),
            Ok(Some(AttributeValue::Bool(true)))
        );
    }

    #[test]
    fn what_cannot_be_a_set() {
        for array in [
            Arc::new(arrow::array::Int64Array::from(vec![1])) as ArrayRef,
            Arc::new(ListBuilder::new(ListBuilder::new(Int64Builder::new())).finish()),
        ] {
            assert!(AttributeColumn::try_new(&array, true).is_err());
        }
    }
}
