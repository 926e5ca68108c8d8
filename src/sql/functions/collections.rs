//! Arrays where Flink's rules are not DataFusion's: positions are INT and 0 when absent, NULL items equal each
//! other, REMOVE removes all. Answers are built by picking items of the argument (`take`), so they work for
//! items of any type. ARRAY_DISTINCT, REVERSE, UNION, JOIN, MAX and so on are DataFusion's own.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DynComparator, ListArray, UInt32Array, make_comparator, new_empty_array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{SortOptions, cast, concat, take};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, exec_err};

use super::function::{Call, Definition, Nulls, Returns, define};

pub(crate) const DEFINITIONS: &[Definition] = &[
    define("cardinality", "a", Returns::Int, Nulls::Propagate, cardinality),
    define("element", "l", Returns::With(item_type), Nulls::Possible, element),
    define("array_contains", "la", Returns::Boolean, Nulls::Propagate, |call| find(call, Find::Contains)),
    define("array_position", "la", Returns::Int, Nulls::Propagate, |call| find(call, Find::Position)),
    define("array_remove", "la", Returns::Same(0), Nulls::Propagate, array_remove),
    define("array_slice", "li[i", Returns::Same(0), Nulls::Propagate, array_slice),
    define("array_sort", "l[bb", Returns::Same(0), Nulls::Propagate, array_sort),
    define("array_append", "la", Returns::With(extended_type), Nulls::Propagate, |call| extend(call, false)),
    define("array_prepend", "la", Returns::With(extended_type), Nulls::Propagate, |call| extend(call, true)),
];

fn item_type(fields: &[FieldRef], _: &[Option<&ScalarValue>]) -> Result<DataType> {
    match fields[0].data_type() {
        DataType::List(item) => Ok(item.data_type().clone()),
        other => exec_err!("{other} is not an array"),
    }
}

/// The array's type, with items that may be NULL if the new one may be.
fn extended_type(fields: &[FieldRef], _: &[Option<&ScalarValue>]) -> Result<DataType> {
    match fields[0].data_type() {
        DataType::List(item) if item.data_type().is_null() => Ok(DataType::new_list(fields[1].data_type().clone(), true)),
        DataType::List(item) => {
            let nullable = item.is_nullable() || fields[1].is_nullable();
            Ok(DataType::List(Arc::new(Field::new(item.name(), item.data_type().clone(), nullable))))
        }
        other => exec_err!("{other} is not an array"),
    }
}

/// An array argument with `rows` rows.
pub(crate) fn lists(call: &Call, i: usize) -> Result<ListArray> {
    let array = call.array(i)?;
    array.as_list_opt::<i32>().cloned().ok_or_else(|| exec_datafusion_err!("argument {} of function {} is no array", i + 1, call.name))
}

fn range(list: &ListArray, row: usize) -> std::ops::Range<usize> {
    list.value_offsets()[row] as usize..list.value_offsets()[row + 1] as usize
}

/// Builds an array column by naming, for each row, the items to take from `values`; `None` makes a NULL.
pub(crate) fn pick(
    data_type: &DataType,
    rows: usize,
    values: &ArrayRef,
    mut choose: impl FnMut(usize, &mut Vec<u32>) -> Result<Option<()>>,
) -> Result<ArrayRef> {
    let (DataType::List(item), mut picked) = (data_type, vec![]) else { return exec_err!("{data_type} is not an array") };
    let mut lengths = Vec::with_capacity(rows);
    let mut valid = Vec::with_capacity(rows);
    for row in 0..rows {
        let before = picked.len();
        valid.push(choose(row, &mut picked)?.is_some());
        lengths.push(picked.len() - before);
    }
    let items = if picked.is_empty() { new_empty_array(values.data_type()) } else { take(values, &UInt32Array::from(picked), None)? };
    let items = if items.data_type() == item.data_type() { items } else { cast(&items, item.data_type())? };
    Ok(Arc::new(ListArray::try_new(Arc::clone(item), OffsetBuffer::from_lengths(lengths), items, Some(NullBuffer::from(valid)))?))
}

fn cardinality(call: &Call) -> Result<ArrayRef> {
    let array = call.array(0)?;
    match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            call.ints(|row| list.is_valid(row).then(|| list.value_length(row)))
        }
        DataType::Map(..) => {
            let map = array.as_map();
            call.ints(|row| map.is_valid(row).then(|| map.value_length(row)))
        }
        DataType::Null => call.ints(|_| None),
        other => exec_err!("function cardinality takes an array or map, not {other}"),
    }
}

/// `ELEMENT(a)`: the only item; NULL if there is none, an error if there are more.
fn element(call: &Call) -> Result<ArrayRef> {
    let list = lists(call, 0)?;
    let mut picked = Vec::with_capacity(call.rows);
    for row in 0..call.rows {
        let range = range(&list, row);
        if range.len() > 1 && list.is_valid(row) {
            return exec_err!("function element: the array has {} items, not one", range.len());
        }
        picked.push((list.is_valid(row) && range.len() == 1).then_some(range.start as u32));
    }
    Ok(take(list.values(), &UInt32Array::from(picked), None)?)
}

#[derive(Clone, Copy, PartialEq)]
enum Find {
    Contains,
    Position,
}

/// The list, the wanted items as the list's items are, and how to compare item i with the item wanted in row j.
fn wanted(call: &Call) -> Result<(ListArray, ArrayRef, DynComparator)> {
    let list = lists(call, 0)?;
    let items = call.array(1)?;
    // The wider of the two types, lest 1.5 be looked for as 1.
    let common = datafusion::logical_expr::type_coercion::binary::comparison_coercion(list.values().data_type(), items.data_type())
        .unwrap_or_else(|| list.values().data_type().clone());
    let (values, wanted) = (cast(list.values(), &common)?, cast(&items, &common)?);
    let comparator = make_comparator(&values, &wanted, SortOptions::default())?;
    Ok((list, items, comparator))
}

fn find(call: &Call, find: Find) -> Result<ArrayRef> {
    let (list, items, compare) = wanted(call)?;
    let position = |row: usize| range(&list, row).position(|i| compare(i, row) == Ordering::Equal);
    if find == Find::Contains {
        return call.flags(|row| list.is_valid(row).then(|| position(row).is_some()));
    }
    call.ints(|row| (list.is_valid(row) && items.is_valid(row)).then(|| position(row).map_or(0, |at| at as i32 + 1)))
}

fn array_remove(call: &Call) -> Result<ArrayRef> {
    let (list, _, compare) = wanted(call)?;
    pick(call.return_type, call.rows, list.values(), |row, picked| {
        picked.extend(range(&list, row).filter(|i| compare(*i, row) != Ordering::Equal).map(|i| i as u32));
        Ok(list.is_valid(row).then_some(()))
    })
}

/// `ARRAY_SLICE(a, start[, end])`, both inclusive, from the end if negative; 0 is 1.
fn array_slice(call: &Call) -> Result<ArrayRef> {
    let (list, starts) = (lists(call, 0)?, call.integers(1)?);
    let ends = if call.has(2) { Some(call.integers(2)?) } else { None };
    pick(call.return_type, call.rows, list.values(), |row, picked| {
        let end = ends.as_ref().map_or(Some(-1), |ends| ends.get(row));
        let (Some(start), Some(end), true) = (starts.get(row), end, list.is_valid(row)) else { return Ok(None) };
        let range = range(&list, row);
        let length = range.len() as i64;
        let absolute = |index: i64| match index {
            0 => 1,
            1.. => index,
            _ => (length + index + 1).max(0),
        };
        let (first, last) = (absolute(start).max(1), absolute(end).min(length));
        if first <= last {
            picked.extend((first..=last).map(|index| (range.start as i64 + index - 1) as u32));
        }
        Ok(Some(()))
    })
}

/// `ARRAY_SORT(a[, ascending[, nulls first]])`; NULLs are first when ascending, else last.
fn array_sort(call: &Call) -> Result<ArrayRef> {
    let list = lists(call, 0)?;
    let flag = |i: usize, default: bool| -> Result<bool> {
        match call.has(i) {
            true => Ok(call.booleans(i)?.get(0).unwrap_or(default)),
            false => Ok(default),
        }
    };
    let ascending = flag(1, true)?;
    let nulls_first = flag(2, ascending)?;
    let options = SortOptions { descending: !ascending, nulls_first };
    let compare = make_comparator(list.values(), list.values(), options)?;
    pick(call.return_type, call.rows, list.values(), |row, picked| {
        let start = picked.len();
        picked.extend(range(&list, row).map(|i| i as u32));
        picked[start..].sort_by(|a, b| compare(*a as usize, *b as usize));
        Ok(list.is_valid(row).then_some(()))
    })
}

/// ARRAY_APPEND and ARRAY_PREPEND.
fn extend(call: &Call, front: bool) -> Result<ArrayRef> {
    let list = lists(call, 0)?;
    let DataType::List(item) = call.return_type else { return exec_err!("{} is not an array", call.return_type) };
    let (values, items) = (cast(list.values(), item.data_type())?, cast(&call.array(1)?, item.data_type())?);
    let all = concat(&[&values, &items])?;
    pick(call.return_type, call.rows, &all, |row, picked| {
        let new = (values.len() + row) as u32;
        if front {
            picked.push(new);
        }
        picked.extend(range(&list, row).map(|i| i as u32));
        if !front {
            picked.push(new);
        }
        Ok(list.is_valid(row).then_some(()))
    })
}
