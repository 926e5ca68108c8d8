//! Maps and items: `map[key]` and `array[i]`, MAP_UNION, COLLECT, and the map of two arrays (behind `MAP[…]` and MAP_FROM_ARRAYS), in which a key that
//! occurs again takes the later value. MAP_KEYS, MAP_VALUES and MAP_ENTRIES are DataFusion's.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, MapArray, StructArray, UInt32Array, make_comparator};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{SortOptions, cast, concat, take};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};

use super::call::Call;
use super::collections::lists;
use super::function::{Definition, Nulls, Returns, define};
use super::types::{map, type_text};

pub(crate) const DEFINITIONS: &[Definition] = &[
    define("map_from_arrays", "ll", Returns::With(map_type), Nulls::Propagate, map_from_arrays),
    define("multiset_of", "l", Returns::With(multiset_type), Nulls::Propagate, multiset_of),
    define("item_of", "aa", Returns::With(item_of_type), Nulls::Possible, item_of),
    define("map_union", "mm*", Returns::Same(0), Nulls::Propagate, map_union),
];

fn map_type(fields: &[FieldRef], _: &[Option<&ScalarValue>]) -> Result<DataType> {
    match (fields[0].data_type(), fields[1].data_type()) {
        (DataType::List(key), DataType::List(value)) => Ok(map(key.data_type().clone(), value.data_type().clone())),
        _ => plan_err!("a map is made of an array of keys and one of values"),
    }
}

fn multiset_type(fields: &[FieldRef], _: &[Option<&ScalarValue>]) -> Result<DataType> {
    match fields[0].data_type() {
        DataType::List(item) => Ok(map(item.data_type().clone(), DataType::Int32)),
        other => plan_err!("{other} is not an array"),
    }
}

/// The items of an array that are not NULL, with how often each occurs: behind COLLECT.
fn multiset_of(call: &Call) -> Result<ArrayRef> {
    let lists = lists(call, 0)?;
    let items = lists.values();
    let compare = make_comparator(items, items, SortOptions::default())?;
    let (mut picked, mut counts): (Vec<u32>, Vec<i32>) = (vec![], vec![]);
    let mut ranges = vec![];
    for row in 0..call.rows {
        let start = picked.len();
        let range = lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize;
        for i in range.filter(|i| items.is_valid(*i)) {
            match picked[start..].iter().position(|known| compare(*known as usize, i) == Ordering::Equal) {
                Some(known) => counts[start + known] += 1,
                None => {
                    picked.push(i as u32);
                    counts.push(1);
                }
            }
        }
        ranges.push(start..picked.len());
    }
    let keys = take(items, &UInt32Array::from(picked), None)?;
    let counts: ArrayRef = Arc::new(arrow::array::Int32Array::from(counts));
    build(call.return_type, call.rows, &keys, &counts, |row| lists.is_valid(row).then(|| vec![ranges[row].clone()]))
}

fn item_of_type(fields: &[FieldRef], constants: &[Option<&ScalarValue>]) -> Result<DataType> {
    match (fields[0].data_type(), constants.get(1)) {
        (DataType::List(item), _) if fields[1].data_type().is_integer() => Ok(item.data_type().clone()),
        (DataType::List(_), _) => {
            plan_err!("the index of an array is an integer from 1, not {}", type_text(fields[1].data_type()))
        }
        (DataType::Map(entries, _), _) => match entries.data_type() {
            DataType::Struct(pair) => Ok(pair[1].data_type().clone()),
            other => plan_err!("{other} cannot be the entries of a map"),
        },
        (DataType::Struct(columns), Some(Some(ScalarValue::Utf8(Some(name))))) => match columns.find(name) {
            Some((_, column)) => Ok(column.data_type().clone()),
            None => plan_err!("{} has no field '{name}'", type_text(fields[0].data_type())),
        },
        (other, _) => plan_err!("{} has no items to take with […]; arrays and maps have", type_text(other)),
    }
}

/// `array[i]`, i from 1, and `map[key]`; NULL for what is not there.
fn item_of(call: &Call) -> Result<ArrayRef> {
    let array = call.array(0)?;
    let picked: UInt32Array = match array.data_type() {
        DataType::List(_) => {
            let (list, indexes) = (array.as_list::<i32>(), call.integers(1)?);
            let mut picked = Vec::with_capacity(call.rows);
            for row in 0..call.rows {
                picked.push(match indexes.get(row).filter(|_| list.is_valid(row)) {
                    None => None,
                    Some(index) if index < 1 => return exec_err!("an array has no item {index}; the first is 1"),
                    Some(index) if index > i64::from(list.value_length(row)) => None,
                    Some(index) => Some((i64::from(list.value_offsets()[row]) + index - 1) as u32),
                });
            }
            return Ok(take(list.values(), &UInt32Array::from(picked), None)?);
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let wanted = cast(&call.array(1)?, map.keys().data_type())?;
            let compare = make_comparator(map.keys(), &wanted, SortOptions::default())?;
            (0..call.rows)
                .map(|row| {
                    let mut range = map.value_offsets()[row] as usize..map.value_offsets()[row + 1] as usize;
                    let valid = map.is_valid(row) && wanted.is_valid(row);
                    range.find(|i| valid && compare(*i, row) == Ordering::Equal).map(|i| i as u32)
                })
                .collect()
        }
        _ => {
            let name = call.constant_text(1)?.unwrap_or_default();
            let row = array.as_struct();
            return match row.column_by_name(&name) {
                // A NULL row has only NULL fields.
                Some(column) => match row.nulls() {
                    Some(nulls) => {
                        Ok(arrow::compute::nullif(column, &arrow::array::BooleanArray::new(!nulls.inner(), None))?)
                    }
                    None => Ok(Arc::clone(column)),
                },
                None => exec_err!("there is no field '{name}'"),
            };
        }
    };
    Ok(take(array.as_map().values(), &picked, None)?)
}

/// Builds maps from pairs of keys and values; `entries` gives each row's ranges of them, `None` for NULL.
fn build(
    data_type: &DataType,
    rows: usize,
    keys: &ArrayRef,
    values: &ArrayRef,
    entries: impl Fn(usize) -> Option<Vec<Range<usize>>>,
) -> Result<ArrayRef> {
    let DataType::Map(field, ordered) = data_type else { return exec_err!("{data_type} is not a map") };
    let DataType::Struct(fields) = field.data_type() else { return exec_err!("{data_type} is not a map") };
    let compare = make_comparator(keys, keys, SortOptions::default())?;
    let (mut picked_keys, mut picked_values): (Vec<u32>, Vec<u32>) = (vec![], vec![]);
    let (mut lengths, mut valid) = (vec![], vec![]);
    for row in 0..rows {
        let start = picked_keys.len();
        let ranges = entries(row);
        valid.push(ranges.is_some());
        for i in ranges.into_iter().flatten().flatten() {
            if keys.is_null(i) {
                return exec_err!("a map has a NULL key; filter it out or give it a value with COALESCE");
            }
            match picked_keys[start..].iter().position(|known| compare(*known as usize, i) == Ordering::Equal) {
                Some(known) => picked_values[start + known] = i as u32,
                None => {
                    picked_keys.push(i as u32);
                    picked_values.push(i as u32);
                }
            }
        }
        lengths.push(picked_keys.len() - start);
    }
    let keys = take(keys, &UInt32Array::from(picked_keys), None)?;
    let values = take(values, &UInt32Array::from(picked_values), None)?;
    let columns = vec![cast(&keys, fields[0].data_type())?, cast(&values, fields[1].data_type())?];
    let entries = StructArray::try_new(fields.clone(), columns, None)?;
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(MapArray::try_new(Arc::clone(field), offsets, entries, Some(NullBuffer::from(valid)), *ordered)?))
}

fn map_from_arrays(call: &Call) -> Result<ArrayRef> {
    let (keys, values) = (lists(call, 0)?, lists(call, 1)?);
    for row in 0..call.rows {
        if keys.is_valid(row) && values.is_valid(row) && keys.value_length(row) != values.value_length(row) {
            return exec_err!(
                "a map cannot be made of {} keys and {} values",
                keys.value_length(row),
                values.value_length(row)
            );
        }
    }
    // Keys and values of a row lie at different offsets; bring both to the keys' order.
    let mut order = vec![0u32; keys.values().len()];
    for row in 0..call.rows {
        let (from, to) = (keys.value_offsets()[row] as usize, values.value_offsets()[row] as usize);
        if keys.is_valid(row) && values.is_valid(row) {
            (0..keys.value_length(row) as usize).for_each(|i| order[from + i] = (to + i) as u32);
        }
    }
    let values_in_order = if values.values().is_empty() {
        Arc::clone(values.values())
    } else {
        take(values.values(), &UInt32Array::from(order), None)?
    };
    build(call.return_type, call.rows, keys.values(), &values_in_order, |row| {
        let range = keys.value_offsets()[row] as usize..keys.value_offsets()[row + 1] as usize;
        (keys.is_valid(row) && values.is_valid(row)).then(|| vec![range])
    })
}

/// `MAP_UNION(a, b, …)`: later maps win.
fn map_union(call: &Call) -> Result<ArrayRef> {
    let arrays = (0..call.args.len())
        .map(|i| cast(&call.array(i)?, call.return_type).map_err(Into::into))
        .collect::<Result<Vec<_>>>()?;
    let maps: Vec<&MapArray> = arrays.iter().map(|array| array.as_map()).collect();
    let keys: Vec<&dyn Array> = maps.iter().map(|map| map.keys().as_ref()).collect();
    let values: Vec<&dyn Array> = maps.iter().map(|map| map.values().as_ref()).collect();
    let starts: Vec<usize> =
        maps.iter().scan(0, |next, map| Some(std::mem::replace(next, *next + map.keys().len()))).collect();
    build(call.return_type, call.rows, &concat(&keys)?, &concat(&values)?, |row| {
        let range = |(map, start): (&&MapArray, &usize)| {
            let offsets = map.value_offsets();
            map.is_valid(row).then(|| start + offsets[row] as usize..start + offsets[row + 1] as usize)
        };
        maps.iter().zip(&starts).map(range).collect()
    })
}
