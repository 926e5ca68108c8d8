//! Raw records as they leave a source: many records in one shared buffer, with where each came from.
//!
//! A chunk is a structure of arrays, so that millions of small records cost no allocation each: one
//! buffer, a range for each record, and sequence numbers and arrival times that are mostly implied.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;

use super::reject::Reject;
use super::source::SplitId;

/// Bytes that should follow the last record in a chunk's buffer, so that vector loads may run past
/// the end of a record. A buffer without them is decoded by a slower path.
pub const RECORD_PADDING: usize = 64;

/// Byte range of one record in the chunk's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRange {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl RecordRange {
    /// The range as `usize`, for slicing.
    pub fn as_range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Where reading stands in a split: everything up to and including the record of that name has been
/// read. Only the connector that made it can read the text; for Kinesis it is a sequence number, for
/// a file a byte offset. Resuming is exclusive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position(pub Arc<str>);

impl Position {
    /// Whether reading that stands here has given the record that `other` names, too. So it has where that names none: it is a time, or the
    /// beginning.
    pub fn has_reached(&self, other: &Self) -> bool {
        match Order::of(other.record()) {
            Some(wanted) => Order::of(self.record()).is_some_and(|own| own >= wanted),
            None => true,
        }
    }

    /// Whether it names a record.
    pub fn names_record(&self) -> bool {
        Order::of(self.record()).is_some()
    }

    /// The name without the time that may follow it (see [`RawChunk::position_after`]).
    fn record(&self) -> &str {
        self.0.split_once('@').map_or(&*self.0, |(record, _)| record)
    }
}

/// Where a record lies among those of its split: by its number, and by that within it where several records came as one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Order<'a> {
    digits: usize,
    number: &'a str,
    /// A whole one is after all its parts.
    part: u64,
}

impl<'a> Order<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let (number, part) = match name.split_once('/') {
            Some((number, part)) => (number, part.parse().ok()?),
            None => (name, u64::MAX),
        };
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let number = number.trim_start_matches('0');
        Some(Self { digits: number.len(), number, part })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The sequence number of each record of a chunk, growing within a split.
#[derive(Debug, Clone)]
pub enum SequenceNumbers {
    /// `first, first + 1, …`
    Dense {
        /// Number of the chunk's first record.
        first: u64,
    },
    /// One number for each record, e.g. the byte offset of a line.
    Numbers(Arc<[u64]>),
    /// Decimal text of any length, as AWS Kinesis has it. Positions then carry the arrival time too
    /// (see [`RawChunk::position_after`]).
    Text(Arc<[Box<str>]>),
}

impl SequenceNumbers {
    /// Number of record `index` as text.
    pub fn get(&self, index: usize) -> Cow<'_, str> {
        match self {
            Self::Dense { first } => Cow::Owned((first + index as u64).to_string()),
            Self::Numbers(numbers) => Cow::Owned(numbers[index].to_string()),
            Self::Text(texts) => Cow::Borrowed(&texts[index]),
        }
    }

    /// Of `records` records, how many lie up to the one that `position` names; and whether no more of them can come: that one is among them, or
    /// one that follows it has come.
    pub fn through(&self, records: usize, position: &Position) -> (usize, bool) {
        let Some(last) = Order::of(position.record()) else { return (0, true) };
        let order = |index: usize, wanted: &dyn Fn(Order<'_>) -> bool| Order::of(&self.get(index)).is_some_and(wanted);
        let (mut low, mut high) = (0, records);
        while low < high {
            let middle = low.midpoint(high);
            if order(middle, &|own| own <= last) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low, low < records || (low > 0 && order(low - 1, &|own| own == last)))
    }

    fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::Dense { first } => Self::Dense { first: first + range.start as u64 },
            Self::Numbers(numbers) => Self::Numbers(numbers[range].into()),
            Self::Text(texts) => Self::Text(texts[range].to_vec().into()),
        }
    }
}

/// When the records of a chunk arrived at the stream, in milliseconds since 1970.
#[derive(Debug, Clone)]
pub enum Arrivals {
    /// All at the same time, e.g. the modification time of a file.
    Same(i64),
    /// One time for each record.
    Each(Arc<[i64]>),
}

impl Arrivals {
    /// Arrival of record `index`.
    pub fn get(&self, index: usize) -> i64 {
        match self {
            Self::Same(ms) => *ms,
            Self::Each(each) => each[index],
        }
    }
}

/// Consecutive raw records of one split.
#[derive(Debug, Clone)]
pub struct RawChunk {
    /// The split that the records were read from.
    pub split: SplitId,
    /// All bytes; decoded strings point into it. Smaller than 2 GiB.
    pub data: Buffer,
    /// Where each record lies in `data`, in order.
    pub records: Arc<[RecordRange]>,
    /// Sequence number of each record.
    pub sequence: SequenceNumbers,
    /// Arrival time of each record.
    pub arrivals: Arrivals,
    /// Partition key of each record, where the source has them.
    pub partition_keys: Option<Arc<[Box<str>]>>,
}

impl RawChunk {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Position after record `index`: its number; for numbers that are text, `<number>@<arrival in milliseconds>`, so
    /// that whoever resumes there can tell how old it is when the record itself is gone.
    pub fn position_after(&self, index: usize) -> Position {
        match &self.sequence {
            SequenceNumbers::Text(texts) => Position(format!("{}@{}", texts[index], self.arrivals.get(index)).into()),
            numbers => Position(numbers.get(index).into()),
        }
    }

    /// The bytes of record `index`.
    pub fn record(&self, index: usize) -> &[u8] {
        &self.data.as_slice()[self.records[index].as_range()]
    }

    /// Some of the records; the bytes are shared, not copied.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        Self {
            split: self.split.clone(),
            data: self.data.clone(),
            records: self.records[range.clone()].into(),
            sequence: self.sequence.slice(range.clone()),
            arrivals: match &self.arrivals {
                Arrivals::Same(ms) => Arrivals::Same(*ms),
                Arrivals::Each(each) => Arrivals::Each(each[range.clone()].into()),
            },
            partition_keys: self.partition_keys.as_ref().map(|keys| keys[range].to_vec().into()),
        }
    }
}

/// Consecutive rows of one split from a source that is typed already (Parquet, a generator).
#[derive(Debug, Clone)]
pub struct RowChunk {
    /// The split that the rows were read from.
    pub split: SplitId,
    /// The rows, with the physical columns that the source was asked for, in the asked order.
    pub batch: RecordBatch,
    /// Number of each row within the split.
    pub sequence: SequenceNumbers,
    /// Arrival time of each row.
    pub arrivals: Arrivals,
    /// Rows with a value that does not fit its column, in order: it is NULL in `batch`, and the row is to be refused. (NULL in a NOT NULL
    /// column is not among them.)
    pub rejects: Vec<Reject>,
}

impl RowChunk {
    /// Position after row `index`.
    pub fn position_after(&self, index: usize) -> Position {
        Position(self.sequence.get(index).into())
    }

    /// Some of the rows.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        Self {
            split: self.split.clone(),
            batch: self.batch.slice(range.start, range.len()),
            sequence: self.sequence.slice(range.clone()),
            arrivals: match &self.arrivals {
                Arrivals::Same(ms) => Arrivals::Same(*ms),
                Arrivals::Each(each) => Arrivals::Each(each[range.clone()].into()),
            },
            rejects: {
                let before = |row: usize| self.rejects.partition_point(|reject| (reject.record as usize) < row);
                let own = self.rejects[before(range.start)..before(range.end)].iter().cloned();
                own.map(|reject| Reject { record: reject.record - range.start as u32, ..reject }).collect()
            },
        }
    }
}
