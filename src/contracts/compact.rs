//! Columns without the bytes that they do not show: Arrow IPC writes whole buffers, and memory holds them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, GenericListArray, MapArray, OffsetSizeTrait, RecordBatch, RecordBatchOptions, StructArray,
};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::DataType;

use super::Result;

/// Whether text in these buffers is worth a copy, of which so many bytes are shown.
type IsWasteful = fn(&[Buffer], usize) -> bool;

/// The same rows, without most of what they hold and do not show: rows that were taken out of others hold all text of those.
pub(crate) fn without_garbage(rows: RecordBatch) -> Result<RecordBatch> {
    // A builder takes 8 KiB for its first text, so what is not filled counts.
    let is_wasteful: IsWasteful = |buffers, shown| buffers.iter().map(Buffer::capacity).sum::<usize>() > 2 * shown;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let columns = rows.columns().iter().map(|column| compact_if(is_wasteful, column)).collect();
    Ok(RecordBatch::try_new_with_options(rows.schema(), columns, &options)?)
}

/// The same values in buffers of their own, where a column or what is nested in it shows less than it holds.
pub(crate) fn compact(column: &ArrayRef) -> ArrayRef {
    compact_if(|buffers, shown| buffers.iter().map(Buffer::len).sum::<usize>() > shown, column)
}

fn compact_if(is_wasteful: IsWasteful, column: &ArrayRef) -> ArrayRef {
    let compact = |column: &ArrayRef| compact_if(is_wasteful, column);
    match column.data_type() {
        DataType::Utf8View => {
            let texts = column.as_string_view();
            let is_wasteful = is_wasteful(texts.data_buffers(), texts.total_buffer_bytes_used());
            if is_wasteful { Arc::new(texts.gc()) } else { Arc::clone(column) }
        }
        DataType::BinaryView => {
            let bytes = column.as_binary_view();
            let is_wasteful = is_wasteful(bytes.data_buffers(), bytes.total_buffer_bytes_used());
            if is_wasteful { Arc::new(bytes.gc()) } else { Arc::clone(column) }
        }
        DataType::List(_) => list(is_wasteful, column.as_list::<i32>()),
        DataType::LargeList(_) => list(is_wasteful, column.as_list::<i64>()),
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

fn list<O: OffsetSizeTrait>(is_wasteful: IsWasteful, list: &GenericListArray<O>) -> ArrayRef {
    let (offsets, from, len) = rebased(list.offsets());
    let values = compact_if(is_wasteful, &list.values().slice(from, len));
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
    use arrow::array::{ListBuilder, StringViewArray, StringViewBuilder, UInt32Array};
    use arrow::compute::{concat_batches, take_record_batch};

    use super::*;

    /// As the state of a key whose text changes each epoch.
    #[test]
    fn what_is_merged_again_and_again_holds_its_own_text() {
        let epoch = |n: usize| -> RecordBatch {
            let texts = StringViewArray::from_iter_values([format!("the last text of a key, from epoch {n}")]);
            let mut lists = ListBuilder::new(StringViewBuilder::new());
            lists.append_value([Some(format!("a text of a list of epoch {n}"))]);
            let columns: [(&str, ArrayRef); 2] = [("t", Arc::new(texts)), ("l", Arc::new(lists.finish()))];
            RecordBatch::try_from_iter(columns).unwrap()
        };
        let mut state = epoch(0);
        for n in 1..1_000 {
            let both = concat_batches(&state.schema(), [&state, &epoch(n)]).unwrap();
            // The younger one lives.
            state = without_garbage(take_record_batch(&both, &UInt32Array::from(vec![1])).unwrap()).unwrap();
        }
        assert!(state.get_array_memory_size() < 4_000, "{} bytes for a row", state.get_array_memory_size());
        assert_eq!(state, epoch(999));
    }

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
