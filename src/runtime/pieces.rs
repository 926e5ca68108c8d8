//! How what a source gives at once is cut into pieces: by records, so that epochs can be cut between them, and by bytes, so that
//! epochs and what waits for them keep their bounds when records are large.

use crate::contracts::{RawChunk, RowChunk};

/// Where a piece ends that begins at record `from` and may go on to `until`: before it has more than `most` bytes, but with one
/// record at least.
pub(super) fn until_bytes(chunk: &RawChunk, from: usize, until: usize, most: usize) -> usize {
    let until = until.min(chunk.len());
    if chunk.data.len() <= most {
        return until;
    }
    let mut bytes = 0;
    let mut fits = |length: usize| {
        bytes += length;
        bytes <= most
    };
    let lengths = chunk.records[from..until].iter().map(|record| record.as_range().len());
    from + lengths.take_while(|length| fits(*length)).count().max(1)
}

/// Bytes of typed rows. A slice of a batch knows only the size of the whole: each row counts as the mean.
pub(super) struct RowBytes {
    rows: u128,
    bytes: u128,
}

impl RowBytes {
    pub(super) fn of(chunk: &RowChunk) -> Self {
        Self { rows: chunk.batch.num_rows() as u128, bytes: chunk.batch.get_array_memory_size() as u128 }
    }

    /// Rows that have `bytes`, but one at least.
    pub(super) fn rows_of(&self, bytes: usize) -> usize {
        let rows = self.rows * bytes as u128 / self.bytes.max(1);
        usize::try_from(rows.max(1)).unwrap_or(usize::MAX)
    }

    /// Bytes of the first `rows` rows.
    pub(super) fn up_to(&self, rows: usize) -> u64 {
        u64::try_from(self.bytes * rows as u128 / self.rows.max(1)).unwrap_or(u64::MAX)
    }
}

/// The records of `all` rows when the rows `out` (in order) are taken out.
pub(super) fn left(records: Option<Vec<u32>>, all: usize, out: &[usize]) -> Option<Vec<u32>> {
    if out.is_empty() {
        return records;
    }
    let mut records = records.unwrap_or_else(|| (0..all as u32).collect());
    let mut row = 0;
    records.retain(|_| {
        row += 1;
        out.binary_search(&(row - 1)).is_err()
    });
    Some(records)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::arrow::buffer::Buffer;

    use super::*;
    use crate::contracts::{Arrivals, RecordRange, SequenceNumbers, SplitId};

    #[test]
    fn pieces_end_before_they_have_too_many_bytes() {
        let ranges = [(0, 10), (10, 20), (20, 60), (60, 61)].map(|(start, end)| RecordRange { start, end });
        let chunk = RawChunk {
            split: SplitId("s".into()),
            data: Buffer::from_vec(vec![b' '; 61]),
            records: Arc::new(ranges),
            sequence: SequenceNumbers::Dense { first: 0 },
            arrivals: Arrivals::Same(0),
            partition_keys: None,
        };
        assert_eq!(until_bytes(&chunk, 0, usize::MAX, 61), 4);
        assert_eq!(until_bytes(&chunk, 0, 3, 61), 3);
        assert_eq!(until_bytes(&chunk, 0, usize::MAX, 20), 2);
        // One record is a piece, however large it is.
        assert_eq!(until_bytes(&chunk, 2, usize::MAX, 20), 3);
        assert_eq!(until_bytes(&chunk, 3, usize::MAX, 20), 4);
        assert_eq!(until_bytes(&chunk, 0, 1, 15), 1);
        let mut pieces = Vec::new();
        let mut from = 0;
        while from < chunk.len() {
            from = until_bytes(&chunk, from, usize::MAX, 1);
            pieces.push(from);
        }
        assert_eq!(pieces, [1, 2, 3, 4]);
    }

    #[test]
    fn parts_of_typed_rows_have_the_bytes_of_the_whole() {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1_000));
        let batch = RecordBatch::try_from_iter([("n", column)]).expect("a batch");
        let whole = batch.get_array_memory_size();
        let (sequence, arrivals, rejects) = (SequenceNumbers::Dense { first: 0 }, Arrivals::Same(0), Vec::new());
        let bytes = RowBytes::of(&RowChunk { split: SplitId("s".into()), batch, sequence, arrivals, rejects });
        assert_eq!(bytes.up_to(1_000), whole as u64);
        let parts = [0, 7, 500, 1_000].map(|row| bytes.up_to(row));
        assert!(parts.is_sorted() && parts[0] == 0 && parts[1] > 0, "{parts:?}");
        assert_eq!((bytes.rows_of(0), bytes.rows_of(whole)), (1, 1_000));
        assert!((400..=500).contains(&bytes.rows_of(whole / 2)));
    }

    #[test]
    fn rows_that_are_left_know_their_records() {
        assert_eq!(left(None, 4, &[]), None);
        assert_eq!(left(None, 4, &[0, 2]), Some(vec![1, 3]));
        assert_eq!(left(Some(vec![5, 6, 9]), 3, &[1]), Some(vec![5, 9]));
    }
}
