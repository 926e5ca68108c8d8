//! Maps: MAP_UNION, and the map of two arrays (behind `MAP[…]` and MAP_FROM_ARRAYS), in which a key that
//! occurs again takes the later value. MAP_KEYS, MAP_VALUES and MAP_ENTRIES are DataFusion's.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, MapArray, StructArray, UInt32Array, make_comparator};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{SortOptions, cast, concat, take};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};

use super::collections::lists;
use super::function::{Call, Definition, Nulls, Returns, define};
use super::types::map;

pub(crate) const DEFINITIONS: &[Definition] = &[
    define("map_from_arrays", "ll", Returns::With(map_type), Nulls::Propagate, map_from_arrays),
    define("map_union", "mm*", Returns::Same(0), Nulls::Propagate, map_union),
];

fn map_type(fields: &[FieldRef], _: &[Option<&ScalarValue>]) -> Result<DataType> {
    match (fields[0].data_type(), fields[1].data_type()) {
        (DataType::List(key), DataType::List(value)) => Ok(map(key.data_type().clone(), value.data_type().clone())),
        _ => plan_err!("a map is made of an array of keys and one of values"),
    }
}

/// Builds maps from pairs of keys and values; `entries` gives each row's ranges of them, `None` for NULL.
fn build(data_type: &DataType, rows: usize, keys: &ArrayRef, values: &ArrayRef, entries: impl Fn(usize) -> Option<Vec<Range<usize>>>) -> Result<ArrayRef> {
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
            return exec_err!("a map cannot be made of {} keys and {} values", keys.value_length(row), values.value_length(row));
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
    let values_in_order = if values.values().is_empty() { Arc::clone(values.values()) } else { take(values.values(), &UInt32Array::from(order), None)? };
    build(call.return_type, call.rows, keys.values(), &values_in_order, |row| {
        let range = keys.value_offsets()[row] as usize..keys.value_offsets()[row + 1] as usize;
        (keys.is_valid(row) && values.is_valid(row)).then(|| vec![range])
    })
}

/// `MAP_UNION(a, b, …)`: later maps win.
fn map_union(call: &Call) -> Result<ArrayRef> {
    let arrays = (0..call.args.len()).map(|i| cast(&call.array(i)?, call.return_type).map_err(Into::into)).collect::<Result<Vec<_>>>()?;
    let maps: Vec<&MapArray> = arrays.iter().map(|array| array.as_map()).collect();
    let keys: Vec<&dyn Array> = maps.iter().map(|map| map.keys().as_ref()).collect();
    let values: Vec<&dyn Array> = maps.iter().map(|map| map.values().as_ref()).collect();
    let starts: Vec<usize> = maps.iter().scan(0, |next, map| Some(std::mem::replace(next, *next + map.keys().len()))).collect();
    build(call.return_type, call.rows, &concat(&keys)?, &concat(&values)?, |row| {
        let range = |(map, start): (&&MapArray, &usize)| {
            let offsets = map.value_offsets();
            map.is_valid(row).then(|| start + offsets[row] as usize..start + offsets[row + 1] as usize)
        };
        maps.iter().zip(&starts).map(range).collect()
    })
}
