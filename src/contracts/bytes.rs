//! How much memory rows take.
//!
//! Arrow's own count of what an array shows (`ArrayData::get_slice_memory_size`) has no text of views, and of a slice of lists the values of
//! all of them; states of ARRAY_AGG and of sets are lists of text. Whatever bounds rows in memory asks here.

use arrow::array::{Array, ArrayRef, AsArray, GenericByteViewArray, OffsetSizeTrait, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{ByteViewType, DataType};

/// About how many bytes the values of a batch have: only those that it shows, for many batches are slices of one.
pub fn batch_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(column_bytes).sum()
}

/// The same of a column.
fn column_bytes(column: &ArrayRef) -> usize {
    let nulls = column.nulls().map_or(0, |nulls| nulls.len().div_ceil(8));
    nulls
        + match column.data_type() {
            DataType::Utf8View => view_bytes(column.as_string_view()),
            DataType::BinaryView => view_bytes(column.as_binary_view()),
            DataType::List(_) => nested_bytes(column.as_list::<i32>().offsets(), column.as_list::<i32>().values()),
            DataType::LargeList(_) => nested_bytes(column.as_list::<i64>().offsets(), column.as_list::<i64>().values()),
            DataType::Struct(_) => column.as_struct().columns().iter().map(column_bytes).sum(),
            DataType::Map(_, _) => nested_bytes(column.as_map().offsets(), column.as_map().entries()),
            // What Arrow cannot say of a type is at most what its buffers hold.
            _ => column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_buffer_memory_size()),
        }
}

fn view_bytes<T: ByteViewType>(views: &GenericByteViewArray<T>) -> usize {
    views.len() * size_of::<u128>() + views.total_buffer_bytes_used()
}

fn nested_bytes<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, values: &dyn Array) -> usize {
    let (from, end) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
    size_of_val(&**offsets) + column_bytes(&values.slice(from, end - from))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::StructArray;
    use arrow::array::builder::{ListBuilder, MapBuilder, StringViewBuilder};
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn nested_text_counts_and_of_a_slice_only_its_own() {
        const ROWS: usize = 100;
        let text = "x".repeat(1_000);
        let mut lists = ListBuilder::new(StringViewBuilder::new());
        let mut maps = MapBuilder::new(None, StringViewBuilder::new(), StringViewBuilder::new());
        for _ in 0..ROWS {
            lists.values().append_value(&text);
            lists.append(true);
            maps.keys().append_value("a key");
            maps.values().append_value(&text);
            maps.append(true).expect("as many keys as values");
        }
        let (lists, maps): (ArrayRef, ArrayRef) = (Arc::new(lists.finish()), Arc::new(maps.finish()));
        let within = Arc::new(Field::new("l", lists.data_type().clone(), true));
        let rows: ArrayRef = Arc::new(StructArray::from(vec![(within, Arc::clone(&lists))]));
        for column in [lists, maps, rows] {
            let batch = RecordBatch::try_from_iter([("a", column)]).expect("a batch");
            let (all, tenth) = (batch_bytes(&batch), batch_bytes(&batch.slice(20, ROWS / 10)));
            let text = ROWS * text.len();
            assert!((text..text * 11 / 10).contains(&all), "{all} of {}", batch.schema());
            assert!((text / 10..text / 9).contains(&tenth), "{tenth} of {}", batch.schema());
        }
    }
}
