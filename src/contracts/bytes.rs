//! How much memory rows take.
//!
//! Arrow's own count of what an array shows (`ArrayData::get_slice_memory_size`) has no text of views, and of a slice of lists the values of
//! all of them; states of ARRAY_AGG and of sets are lists of text. Whatever bounds rows in memory asks here.

use arrow::array::{Array, ArrayRef, AsArray, GenericByteViewArray, MAX_INLINE_VIEW_LEN, OffsetSizeTrait, RecordBatch};
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

/// About how many bytes each row of a batch has: together as many as [`batch_bytes`] counts.
#[derive(Debug, Default)]
pub(crate) struct RowBytes {
    /// All rows have these.
    fixed: usize,
    /// … and each has these; none where all columns are of fixed width.
    varying: Vec<usize>,
}

impl RowBytes {
    /// Those of a batch.
    pub(crate) fn of(batch: &RecordBatch) -> Self {
        let mut bytes = Self::default();
        batch.columns().iter().for_each(|column| bytes.add(column));
        bytes
    }

    /// Those of one row.
    pub(crate) fn row(&self, row: usize) -> usize {
        self.fixed + self.varying.get(row).copied().unwrap_or(0)
    }

    /// Those of the row that has most.
    pub(crate) fn widest(&self) -> usize {
        self.fixed + self.varying.iter().copied().max().unwrap_or(0)
    }

    fn add(&mut self, column: &ArrayRef) {
        match column.data_type() {
            DataType::Utf8View => self.add_views(column.as_string_view()),
            DataType::BinaryView => self.add_views(column.as_binary_view()),
            DataType::Utf8 => self.add_each(size_of::<i32>(), column.as_string::<i32>().offsets().lengths()),
            DataType::LargeUtf8 => self.add_each(size_of::<i64>(), column.as_string::<i64>().offsets().lengths()),
            DataType::Binary => self.add_each(size_of::<i32>(), column.as_binary::<i32>().offsets().lengths()),
            DataType::LargeBinary => self.add_each(size_of::<i64>(), column.as_binary::<i64>().offsets().lengths()),
            DataType::List(_) => self.add_lists(column.as_list::<i32>().offsets(), column.as_list::<i32>().values()),
            DataType::LargeList(_) => {
                self.add_lists(column.as_list::<i64>().offsets(), column.as_list::<i64>().values());
            }
            DataType::Struct(_) => column.as_struct().columns().iter().for_each(|column| self.add(column)),
            DataType::Map(_, _) => self.add_lists(column.as_map().offsets(), column.as_map().entries()),
            _ => self.fixed += column_bytes(column).div_ceil(column.len().max(1)),
        }
    }

    fn add_views<T: ByteViewType>(&mut self, views: &GenericByteViewArray<T>) {
        // A short value stands in its view.
        let beside = |length: u32| if length > MAX_INLINE_VIEW_LEN { length as usize } else { 0 };
        self.add_each(size_of::<u128>(), views.lengths().map(beside));
    }

    fn add_lists<O: OffsetSizeTrait>(&mut self, offsets: &OffsetBuffer<O>, values: &dyn Array) {
        let (from, end) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
        let mut each = Self::default();
        each.add(&values.slice(from, end - from));
        let mut at = 0;
        let lists = offsets.lengths().map(|length| {
            let own = at..at + length;
            at = own.end;
            if each.varying.is_empty() { length * each.fixed } else { own.map(|value| each.row(value)).sum() }
        });
        self.add_each(size_of::<O>(), lists);
    }

    fn add_each(&mut self, fixed: usize, varying: impl ExactSizeIterator<Item = usize>) {
        self.fixed += fixed;
        self.varying.resize(varying.len(), 0);
        self.varying.iter_mut().zip(varying).for_each(|(sum, own)| *sum += own);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::builder::{ListBuilder, MapBuilder, StringViewBuilder};
    use arrow::array::{BinaryArray, Int64Array, LargeStringArray, StringArray, StringViewArray, StructArray};
    use arrow::datatypes::{Field, Int64Type};

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

    #[test]
    fn rows_have_together_what_their_batch_has() {
        const ROWS: usize = 100;
        let text = |n: usize| "x".repeat(n * 10);
        let texts = || (0..ROWS).map(text);
        let mut lists = ListBuilder::new(StringViewBuilder::new());
        for n in 0..ROWS {
            (0..n % 4).for_each(|_| lists.values().append_value(text(n)));
            lists.append(true);
        }
        let views: ArrayRef = Arc::new(StringViewArray::from_iter_values(texts()));
        let field = Arc::new(Field::new("t", views.data_type().clone(), true));
        let columns: [(&str, ArrayRef); 7] = [
            ("numbers", Arc::new(Int64Array::from_iter_values(0..ROWS as i64))),
            ("strings", Arc::new(StringArray::from_iter_values(texts()))),
            ("large strings", Arc::new(LargeStringArray::from_iter_values(texts()))),
            ("bytes", Arc::new(BinaryArray::from_iter_values(texts()))),
            ("lists", Arc::new(lists.finish())),
            ("struct", Arc::new(StructArray::from(vec![(field, Arc::clone(&views))]))),
            ("views", views),
        ];
        let all = RecordBatch::try_from_iter(columns).expect("a batch");
        for batch in [all.clone(), all.slice(20, 50), all.slice(99, 1), all.slice(0, 0)] {
            let bytes = RowBytes::of(&batch);
            let each: Vec<usize> = (0..batch.num_rows()).map(|row| bytes.row(row)).collect();
            // There is one offset more than there are rows.
            let (sum, whole) = (each.iter().sum::<usize>(), batch_bytes(&batch));
            assert!(sum.abs_diff(whole) <= 100, "{sum} of {whole} of {} rows", batch.num_rows());
            assert_eq!(bytes.widest(), each.iter().copied().max().unwrap_or(bytes.widest()));
            for (row, own) in each.iter().enumerate() {
                let number = batch.column(0).as_primitive::<Int64Type>().value(row) as usize;
                let text = number * 10 * (5 + number % 4);
                assert!((text..text + 300).contains(own), "{own} of row {number}");
            }
        }
    }
}
