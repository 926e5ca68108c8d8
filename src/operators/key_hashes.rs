//! The keys of state rows in a form that can be hashed and compared.

use std::hash::BuildHasher;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type, Schema};
use datafusion::arrow::row::{RowConverter, Rows, SortField};

use crate::contracts::Result;

/// Hashes from a multiple of this on, and as many as this, are those of one group (see [`KeyHashes::grouped`]).
pub(super) const GROUP: u64 = 1 << 32;

/// Turns some columns of a batch into keys. Keys of one of these can be compared with each other.
#[derive(Debug)]
pub(super) struct KeyHashes {
    columns: Vec<usize>,
    /// Those of them whose hash comes first, where that is not said of all.
    first: Option<Box<KeyHashes>>,
    converter: RowConverter,
    hasher: foldhash::quality::FixedState,
}

impl KeyHashes {
    /// Keys out of `columns` of rows of `schema`.
    pub(super) fn try_new(schema: &Schema, columns: Vec<usize>) -> Result<Self> {
        let fields = columns.iter().map(|column| SortField::new(schema.field(*column).data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        // A fixed seed: the order of work, and so of results, is the same in every run.
        Ok(Self { columns, first: None, converter, hasher: foldhash::quality::FixedState::with_seed(0) })
    }

    /// The same keys, but that hashes of rows which are equal in `first`, columns of the key, have the same first half. So such rows lie
    /// together, within one of the ranges that begin at a multiple of [`GROUP`], and there may be any number of them.
    pub(super) fn grouped(schema: &Schema, columns: Vec<usize>, first: Vec<usize>) -> Result<Self> {
        let first = Some(Box::new(Self::try_new(schema, first)?));
        Ok(Self { first, ..Self::try_new(schema, columns)? })
    }

    /// The columns by which rows lie together, where these are not all that keys are made of.
    pub(super) fn grouped_by(&self) -> Option<&[usize]> {
        self.first.as_ref().map(|first| first.columns.as_slice())
    }

    /// The columns that keys are made of.
    pub(super) fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// Whether all rows have one key, the empty one.
    pub(super) fn are_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The keys of a batch; none when keys are empty.
    pub(super) fn rows(&self, batch: &RecordBatch) -> Result<Rows> {
        if self.are_empty() {
            return Ok(self.converter.empty_rows(0, 0));
        }
        let keys: Vec<ArrayRef> = self.columns.iter().map(|column| one_zero(batch.column(*column))).collect();
        Ok(self.converter.convert_columns(&keys)?)
    }

    /// Hash of the key of a row, where keys are not grouped.
    pub(super) fn hash(&self, keys: &Rows, row: usize) -> u64 {
        if self.are_empty() { 0 } else { self.hasher.hash_one(keys.row(row).data()) }
    }

    /// Keys and hashes of a batch.
    pub(super) fn hashed(&self, batch: &RecordBatch) -> Result<(Rows, Vec<u64>)> {
        let keys = self.rows(batch)?;
        let mut hashes: Vec<u64> = (0..batch.num_rows()).map(|row| self.hash(&keys, row)).collect();
        if let Some(first) = &self.first {
            let (_, groups) = first.hashed(batch)?;
            for (hash, group) in hashes.iter_mut().zip(groups) {
                *hash = group & !(GROUP - 1) | *hash >> 32;
            }
        }
        Ok((keys, hashes))
    }
}

/// The same numbers with one zero: `GROUP BY` has -0.0 and 0.0 in one group, a table that is looked up has one key for them, and Arrow's rows
/// tell them apart.
pub(super) fn one_zero(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        // -0.0 + 0.0 is 0.0, whatever else is there stays what it is.
        DataType::Float32 => Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(|n| n + 0.0)),
        DataType::Float64 => Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(|n| n + 0.0)),
        _ => Arc::clone(column),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Float32Array, Float64Array};

    use super::*;

    #[test]
    fn there_is_one_zero_and_nothing_else_is_changed() {
        let numbers = [Some(0.0), Some(-0.0), None, Some(f64::NAN), Some(1.5), Some(-1.5), Some(1e-30)];
        let small: Float32Array = numbers.iter().map(|n| n.map(|n| n as f32)).collect();
        let columns: [(&str, ArrayRef); 2] =
            [("a", Arc::new(numbers.iter().copied().collect::<Float64Array>())), ("b", Arc::new(small))];
        for column in columns {
            let batch = RecordBatch::try_from_iter([column]).expect("a batch");
            let hashes = KeyHashes::try_new(&batch.schema(), vec![0]).expect("keys");
            let (keys, hashed) = hashes.hashed(&batch).expect("hashed");
            for (one, other) in (0..numbers.len()).flat_map(|one| (0..one).map(move |other| (one, other))) {
                let same = (other, one) == (0, 1);
                assert_eq!(keys.row(one) == keys.row(other), same, "{one} {other}");
                assert_eq!(hashed[one] == hashed[other], same, "{one} {other}");
            }
        }
    }
}
