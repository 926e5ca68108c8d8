//! Columns without the bytes that they do not show: Arrow IPC writes whole buffers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericListArray, MapArray, OffsetSizeTrait, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::DataType;

/// The same values in buffers of their own, where a column or what is nested in it shows less than it holds.
pub(super) fn compact(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View => {
            let texts = column.as_string_view();
            let held: usize = texts.data_buffers().iter().map(|buffer| buffer.len()).sum();
            if held > texts.total_buffer_bytes_used() { Arc::new(texts.gc()) } else { Arc::clone(column) }
        }
        DataType::BinaryView => {
            let bytes = column.as_binary_view();
            let held: usize = bytes.data_buffers().iter().map(|buffer| buffer.len()).sum();
            if held > bytes.total_buffer_bytes_used() { Arc::new(bytes.gc()) } else { Arc::clone(column) }
        }
        DataType::List(_) => list(column.as_list::<i32>()),
        DataType::LargeList(_) => list(column.as_list::<i64>()),
        DataType::Struct(fields) => {
            let own = column.as_struct();
            let columns = own.columns().iter().map(compact).collect();
            let made = StructArray::try_new_with_length(fields.clone(), columns, own.nulls().cloned(), own.len());
            made.map_or_else(|_| Arc::clone(column), |made| Arc::new(made) as ArrayRef)
        }
        DataType::Map(field, sorted) => {
            let map = column.as_map();
            let (offsets, from, len) = rebased(map.offsets());
            let entries = compact(&(Arc::new(map.entries().slice(from, len)) as ArrayRef));
            let made = MapArray::try_new(
                Arc::clone(field),
                offsets,
                entries.as_struct().clone(),
                map.nulls().cloned(),
                *sorted,
            );
            made.map_or_else(|_| Arc::clone(column), |made| Arc::new(made) as ArrayRef)
        }
        _ => Arc::clone(column),
    }
}

fn list<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> ArrayRef {
    let (offsets, from, len) = rebased(list.offsets());
    let values = compact(&list.values().slice(from, len));
    let field = match list.data_type() {
        DataType::List(field) | DataType::LargeList(field) => Arc::clone(field),
        _ => return Arc::new(list.clone()),
    };
    let made = GenericListArray::<O>::try_new(field, offsets, values, list.nulls().cloned());
    made.map_or_else(|_| Arc::new(list.clone()) as ArrayRef, |made| Arc::new(made) as ArrayRef)
}

/// Offsets that begin at 0, and the stretch of values that they name.
fn rebased<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> (OffsetBuffer<O>, usize, usize) {
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    let own: Vec<O> = offsets.iter().map(|offset| *offset - first).collect();
    (OffsetBuffer::new(own.into()), first.as_usize(), (last - first).as_usize())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ListBuilder, StringViewBuilder};

    use super::*;

    #[test]
    fn nested_texts_lose_what_they_do_not_show() {
        let mut lists = ListBuilder::new(StringViewBuilder::new());
        for n in 0..1_000 {
            lists.append_value([Some(format!("a text that is not inlined {n}")), None]);
        }
        lists.append_null();
        let lists: ArrayRef = Arc::new(lists.finish());
        let few = lists.slice(990, 11);
        let compacted = compact(&few);
        assert_eq!(&compacted, &few);
        let held = |column: &ArrayRef| -> usize {
            column.as_list::<i32>().values().as_string_view().data_buffers().iter().map(|b| b.len()).sum()
        };
        assert!(held(&few) > 20_000 && held(&compacted) < 400, "{} {}", held(&few), held(&compacted));
        let fields = vec![Arc::new(arrow::datatypes::Field::new("l", few.data_type().clone(), true))];
        let nested: ArrayRef = Arc::new(StructArray::new(fields.into(), vec![Arc::clone(&few)], None));
        let compacted = compact(&nested);
        assert_eq!(&compacted, &nested);
        assert!(held(compacted.as_struct().column(0)) < 400);
    }
}
