//! Columns under construction: values and the gaps between them.
//!
//! Nothing is done for a row without a value. A column that gets a value for row 9 when it holds 5 rows
//! notes the gap 5..9 and fills it at once; so a field that an event type lacks costs nothing per event, and
//! a JSON null is simply no value. A row is taken back by cutting every column to the rows before it.
//!
//! Invariant: a column never holds more rows than the row being read, plus one. A value for a row that has
//! one already is a repeated key; the fast walk gives up on it ([`Stop::Repeat`]) and the record is read
//! again with care.

use std::sync::Arc;

use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::{FieldRef, Fields, TimeUnit};

use crate::formats::text::TimestampParser;

use super::reject::RejectReason;
use super::walk::Stop;

/// The longest array with 32-bit offsets.
const MAX_OFFSET: usize = i32::MAX as usize;
/// A side buffer is closed when it reaches this; views reach up to 2^31-1.
const SIDE_BUFFER_BYTES: usize = 1 << 30;

/// The rows without a value, as ascending ranges.
#[derive(Clone, Debug, Default)]
pub(super) struct Gaps(Vec<(usize, usize)>);

impl Gaps {
    fn add(&mut self, from: usize, to: usize) {
        self.0.push((from, to));
    }

    fn truncate(&mut self, rows: usize) {
        while let Some((from, to)) = self.0.last_mut() {
            if *from < rows {
                *to = rows.min(*to);
                return;
            }
            self.0.pop();
        }
    }

    pub(super) fn finish(self, rows: usize) -> Option<NullBuffer> {
        if self.0.is_empty() {
            return None;
        }
        let mut words = vec![u64::MAX; rows.div_ceil(64)];
        for (from, to) in self.0 {
            let mut at = from;
            while at < to {
                let (word, bit) = (at / 64, at % 64);
                let bits = (to - at).min(64 - bit);
                words[word] &= !(u64::MAX >> (64 - bits) << bit);
                at += bits;
            }
        }
        Some(NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(words), 0, rows)))
    }
}

/// Values of one size. `Fixed<()>` is a struct column: nothing but which rows there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Fixed<T> {
    pub values: Vec<T>,
    gaps: Gaps,
}

impl<T: Copy + Default> Fixed<T> {
    #[inline(always)]
    pub(super) fn push(&mut self, row: usize, value: T) -> Result<(), Stop> {
        if self.values.len() != row {
            self.catch_up(row)?;
        }
        self.values.push(value);
        Ok(())
    }

    #[inline(never)]
    fn catch_up(&mut self, row: usize) -> Result<(), Stop> {
        let rows = self.values.len();
        if rows > row {
            return Err(Stop::Repeat);
        }
        self.gaps.add(rows, row);
        self.values.resize(row, T::default());
        Ok(())
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.gaps.truncate(rows);
    }

    pub(super) fn take(&mut self, rows: usize) -> (Vec<T>, Option<NullBuffer>) {
        if self.values.len() < rows {
            self.gaps.add(self.values.len(), rows);
            self.values.resize(rows, T::default());
        }
        let Self { values, gaps } = std::mem::take(self);
        (values, gaps.finish(rows))
    }
}

/// Where each row's part ends in something of varying length: bytes of a text, items of a list.
#[derive(Clone, Debug)]
pub(super) struct Offsets {
    /// One more than rows; the first is 0.
    ends: Vec<i32>,
    gaps: Gaps,
}

impl Default for Offsets {
    fn default() -> Self {
        Self {
            ends: vec![0],
            gaps: Gaps::default(),
        }
    }
}

impl Offsets {
    pub(super) fn rows(&self) -> usize {
        self.ends.len() - 1
    }

    /// Where the next row's part begins.
    pub(super) fn end(&self) -> usize {
        self.ends.last().map_or(0, |end| *end as usize)
    }

    /// Fills up to `row`, which is about to be pushed.
    pub(super) fn begin(&mut self, row: usize) -> Result<usize, Stop> {
        let (rows, end) = (self.rows(), self.end());
        if rows > row {
            return Err(Stop::Repeat);
        }
        if rows < row {
            self.gaps.add(rows, row);
            self.ends.resize(row + 1, end as i32);
        }
        Ok(end)
    }

    pub(super) fn push(&mut self, end: usize) -> Result<(), Stop> {
        if end > MAX_OFFSET {
            return Err(Stop::Value(RejectReason::OutOfRange));
        }
        self.ends.push(end as i32);
        Ok(())
    }

    fn truncate(&mut self, rows: usize) -> usize {
        self.ends.truncate(rows + 1);
        self.gaps.truncate(rows);
        self.end()
    }

    pub(super) fn take(&mut self, rows: usize) -> (Vec<i32>, Option<NullBuffer>) {
        if self.rows() < rows {
            self.gaps.add(self.rows(), rows);
            self.ends.resize(rows + 1, self.end() as i32);
        }
        let Self { ends, gaps } = std::mem::take(self);
        (ends, gaps.finish(rows))
    }
}

/// Bytes of varying length, one after the other: Utf8 and Binary.
#[derive(Clone, Debug, Default)]
pub(super) struct VarBytes {
    pub offsets: Offsets,
    pub bytes: Vec<u8>,
}

impl VarBytes {
    /// Adds what `write` appends as the value of `row`.
    pub(super) fn push_with(&mut self, row: usize, write: impl FnOnce(&mut Vec<u8>) -> Result<(), Stop>) -> Result<(), Stop> {
        self.offsets.begin(row)?;
        write(&mut self.bytes)?;
        self.offsets.push(self.bytes.len())
    }

    fn truncate(&mut self, rows: usize) {
        let end = self.offsets.truncate(rows);
        self.bytes.truncate(end);
    }
}

/// Text that views cannot find in the chunk: it had escapes, or its record was copied.
///
/// View buffer 0 is the chunk, 1 the first of these.
#[derive(Clone, Debug, Default)]
pub(super) struct SideText {
    closed: Vec<Buffer>,
    pub open: Vec<u8>,
}

impl SideText {
    /// Makes room for `length` bytes; their buffer's number and their offset in it.
    pub(super) fn reserve(&mut self, length: usize) -> (u32, u32) {
        if !self.open.is_empty() && self.open.len() + length > SIDE_BUFFER_BYTES {
            self.closed.push(Buffer::from_vec(std::mem::take(&mut self.open)));
        }
        (self.closed.len() as u32 + 1, self.open.len() as u32)
    }

    /// How much is stored, for [`Self::truncate`].
    pub(super) fn mark(&self) -> (usize, usize) {
        (self.closed.len(), self.open.len())
    }

    /// Forgets what came after `mark`; a buffer that was closed since then stays, its tail unused.
    pub(super) fn truncate(&mut self, mark: (usize, usize)) {
        if self.closed.len() == mark.0 {
            self.open.truncate(mark.1);
        }
    }

    pub(super) fn take(&mut self) -> Vec<Buffer> {
        let Self { mut closed, open } = std::mem::take(self);
        if !open.is_empty() {
            closed.push(Buffer::from_vec(open));
        }
        closed
    }
}

#[derive(Clone, Debug)]
pub(super) struct TextColumn {
    pub views: Fixed<u128>,
    /// Some view points into a buffer.
    pub long: bool,
}

#[derive(Clone, Debug)]
pub(super) struct DecimalColumn {
    pub values: Fixed<i128>,
    pub precision: u8,
    pub scale: i8,
}

#[derive(Clone, Debug)]
pub(super) struct TimestampColumn {
    pub values: Fixed<i64>,
    pub parser: TimestampParser,
    pub unit: TimeUnit,
    pub zone: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub(super) struct StructColumn {
    pub present: Fixed<()>,
    /// Number of its keys among the machine's objects.
    pub object: usize,
    pub fields: Fields,
    pub columns: Vec<usize>,
}

#[derive(Clone, Debug)]
pub(super) struct ListColumn {
    pub offsets: Offsets,
    pub item: usize,
    pub field: FieldRef,
}

#[derive(Clone, Debug)]
pub(super) struct MapColumn {
    pub offsets: Offsets,
    pub keys: usize,
    pub values: usize,
    pub entries: FieldRef,
    pub ordered: bool,
}

/// One column of the schema, top-level or nested. Rows of a struct's columns are the struct's rows; rows
/// of a list's or map's columns are its items, counted over the whole batch.
///
/// `repr(u8)`: a tag of its own is quicker to tell than one hidden in a vector's capacity.
#[derive(Clone, Debug)]
#[repr(u8)]
pub(super) enum Column {
    Text(TextColumn),
    Chars(VarBytes),
    Binary(VarBytes),
    Boolean(Fixed<bool>),
    Int8(Fixed<i8>),
    Int16(Fixed<i16>),
    Int32(Fixed<i32>),
    Int64(Fixed<i64>),
    Float32(Fixed<f32>),
    Float64(Fixed<f64>),
    Decimal(DecimalColumn),
    Date(Fixed<i32>),
    Time(Fixed<i32>),
    Timestamp(TimestampColumn),
    Struct(StructColumn),
    List(ListColumn),
    Map(MapColumn),
}

/// Applies the same expression to whatever fixed-size values a column has, and others to the rest.
macro_rules! each_kind {
    ($column:expr, $fixed:ident => $on_fixed:expr, $offsets:ident => $on_offsets:expr) => {
        match $column {
            Column::Text(TextColumn { views: $fixed, .. }) => $on_fixed,
            Column::Boolean($fixed) => $on_fixed,
            Column::Int8($fixed) => $on_fixed,
            Column::Int16($fixed) => $on_fixed,
            Column::Int32($fixed) | Column::Date($fixed) | Column::Time($fixed) => $on_fixed,
            Column::Int64($fixed) | Column::Timestamp(TimestampColumn { values: $fixed, .. }) => $on_fixed,
            Column::Float32($fixed) => $on_fixed,
            Column::Float64($fixed) => $on_fixed,
            Column::Decimal(DecimalColumn { values: $fixed, .. }) => $on_fixed,
            Column::Struct(StructColumn { present: $fixed, .. }) => $on_fixed,
            Column::Chars(VarBytes { offsets: $offsets, .. })
            | Column::Binary(VarBytes { offsets: $offsets, .. })
            | Column::List(ListColumn { offsets: $offsets, .. })
            | Column::Map(MapColumn { offsets: $offsets, .. }) => $on_offsets,
        }
    };
}

impl Column {
    /// Rows held so far; one that ends without a value is not among them.
    pub(super) fn rows(&self) -> usize {
        each_kind!(self, fixed => fixed.values.len(), offsets => offsets.rows())
    }

    /// Makes room for `rows` values of one size.
    pub(super) fn reserve(&mut self, rows: usize) {
        each_kind!(self, fixed => fixed.values.reserve(rows), offsets => offsets.ends.reserve(rows));
    }
}

/// Cuts column `index`, and those below it, to `rows` rows.
pub(super) fn truncate(columns: &mut [Column], index: usize, rows: usize) {
    match &mut columns[index] {
        Column::Chars(values) | Column::Binary(values) => values.truncate(rows),
        Column::Struct(column) => {
            column.present.truncate(rows);
            for i in 0..column.columns.len() {
                if let Column::Struct(column) = &columns[index] {
                    truncate(columns, column.columns[i], rows);
                }
            }
        }
        Column::List(column) => {
            let (items, item) = (column.offsets.truncate(rows), column.item);
            truncate(columns, item, items);
        }
        Column::Map(column) => {
            let (items, keys, values) = (column.offsets.truncate(rows), column.keys, column.values);
            truncate(columns, keys, items);
            truncate(columns, values, items);
        }
        column => each_kind!(column, fixed => fixed.truncate(rows), _offsets => {}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nulls(buffer: Option<NullBuffer>, rows: usize) -> String {
        (0..rows).map(|i| if buffer.as_ref().is_some_and(|n| n.is_null(i)) { '0' } else { '1' }).collect()
    }

    #[test]
    fn gaps_become_nulls() {
        let mut column = Fixed::<i64>::default();
        for row in [0, 3, 4, 200] {
            column.push(row, row as i64).expect("ascending rows");
        }
        assert_eq!(column.push(200, 1), Err(Stop::Repeat));
        let (values, validity) = column.take(203);
        assert_eq!(values.len(), 203);
        assert_eq!(nulls(validity, 203), format!("10011{}100", "0".repeat(195)));
        // Nothing is left of it.
        assert_eq!(column.take(2).0, [0, 0]);
    }

    #[test]
    fn cutting_back_restores_the_state_before() {
        let mut column = Fixed::<i64>::default();
        column.push(0, 1).expect("row 0");
        column.push(5, 2).expect("row 5");
        for rows in [6, 5, 3, 1, 0] {
            let mut cut = column.clone();
            cut.truncate(rows);
            cut.push(7, 9).expect("row 7");
            let (values, validity) = cut.take(8);
            let expected: String = (0..8).map(|i| if (rows > 0 && i == 0) || (rows > 5 && i == 5) || i == 7 { '1' } else { '0' }).collect();
            assert_eq!(nulls(validity, 8), expected, "{rows}");
            assert_eq!(values[7], 9);
        }
    }

    #[test]
    fn offsets_know_their_rows() {
        let mut text = VarBytes::default();
        let mut push = |row, value: &[u8]| text.push_with(row, |out| {
            out.extend_from_slice(value);
            Ok(())
        });
        push(0, b"ab").expect("row 0");
        push(2, b"c").expect("row 2");
        assert_eq!(push(2, b"d"), Err(Stop::Repeat));
        text.truncate(2);
        assert_eq!(text.bytes, b"ab");
        let (ends, validity) = text.offsets.take(4);
        assert_eq!(ends, [0, 2, 2, 2, 2]);
        assert_eq!(nulls(validity, 4), "1000");
    }
}
