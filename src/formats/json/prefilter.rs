//! The test on the raw bytes: records that cannot matter are not read at all.
//!
//! When every query of a source wants, say, `event_type = 'purchase'`, a record without the bytes
//! `"purchase"` cannot match, unless escapes hide them: so a record is skipped only if it has neither the
//! bytes nor any backslash. What is not skipped is read in full, and the query's own filter decides.
//!
//! A skipped record is not checked to be JSON. It still gives its time to the watermark, if asked to: the
//! record is read up to that field, which is exact unless one of the path's names comes again behind it,
//! and then it is read in full.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};
use memchr::memmem::Finder;

pub use crate::contracts::SkippedTime;
use crate::formats::text::TimestampFormat;

use super::columns::Column;
use super::plan::Machine;
use super::simd::Simd;
use super::walker::{Stop, Walker};

/// Which records may be skipped unread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefilter {
    /// Bytes that a record must have, for instance `"purchase"` with its quotes.
    pub literal: Vec<u8>,
    /// Names from the record down to the timestamp to read from skipped records.
    pub time_path: Option<Vec<String>>,
}

/// The next place of something in the chunk, found once and used for every record up to it.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    searched_from: usize,
    /// The first place at or after `searched_from`; `usize::MAX` if there is none.
    found: usize,
}

impl Cursor {
    const NEW: Cursor = Cursor { searched_from: usize::MAX, found: 0 };

    /// The first place at or after `start`.
    #[inline(always)]
    fn next(&mut self, start: usize, chunk: &[u8], find: impl Fn(&[u8]) -> Option<usize>) -> usize {
        if self.found < start || self.searched_from > start {
            let rest = chunk.get(start..).unwrap_or_default();
            *self = Cursor { searched_from: start, found: find(rest).map_or(usize::MAX, |at| start + at) };
        }
        self.found
    }
}

/// The raw-byte test over the records of one chunk.
pub(super) struct ByteTest<'a> {
    literal: &'a Finder<'static>,
    literal_at: Cursor,
    backslash_at: Cursor,
}

impl<'a> ByteTest<'a> {
    pub(super) fn new(literal: &'a Finder<'static>) -> Self {
        Self { literal, literal_at: Cursor::NEW, backslash_at: Cursor::NEW }
    }

    /// True if the record `chunk[start..end]` has neither the literal nor a backslash.
    #[inline(always)]
    pub(super) fn skips(&mut self, chunk: &[u8], start: usize, end: usize) -> bool {
        // A place in this record where the literal begins but does not end is not the last word only if it
        // could begin again before; but then that one would not end here either.
        let literal = self.literal_at.next(start, chunk, |rest| self.literal.find(rest));
        if literal.saturating_add(self.literal.needle().len()) <= end {
            return false;
        }
        self.backslash_at.next(start, chunk, |rest| memchr::memchr(b'\\', rest)) >= end
    }
}

/// Reads the time of skipped records.
#[derive(Clone, Debug)]
pub(super) struct TimeReader {
    machine: Machine,
    column: usize,
    /// The path's names in quotes.
    names: Vec<Finder<'static>>,
}

impl TimeReader {
    /// `None` if `path` does not lead to a timestamp of the schema.
    pub(super) fn new(fields: &Fields, path: &[String], format: TimestampFormat) -> Option<Self> {
        let fields = only_path(fields, path)?;
        let machine = Machine::new(&fields, format).ok()?;
        let column = machine.columns.iter().position(|column| matches!(column, Column::Timestamp(_)))?;
        let names = path.iter().map(|name| Finder::new(&format!("\"{name}\"")).into_owned()).collect();
        Some(Self { machine, column, names })
    }

    /// The time of the record that `text` begins with; `walker` is set up to read it.
    #[inline(always)]
    pub(super) fn read<S: Simd>(&mut self, simd: S, text: &[u8], end: usize, max_depth: usize) -> Option<i64> {
        let mut walker = Walker::new(simd, text, end, None, &mut self.machine, max_depth);
        walker.stop_at = self.column;
        let found = walker.record(0);
        let rest = match found {
            // What was found may lie behind the end, or come again.
            Err(Stop::Found) => text.get(walker.fault.from..end),
            _ => None,
        };
        let time = match rest {
            Some(rest) if !self.names.iter().any(|name| name.find(rest).is_some()) => self.value(),
            _ => {
                self.machine.truncate(0);
                let mut walker = Walker::new(simd, text, end, None, &mut self.machine, max_depth);
                let read = walker.careful_record(0);
                if read.is_ok() { self.value() } else { None }
            }
        };
        self.machine.truncate(0);
        time
    }

    fn value(&self) -> Option<i64> {
        match &self.machine.columns[self.column] {
            Column::Timestamp(column) => column.values.values.first().copied(),
            _ => None,
        }
    }
}

/// The schema cut down to one timestamp, with nothing required.
fn only_path(fields: &Fields, path: &[String]) -> Option<Fields> {
    let (name, below) = path.split_first()?;
    let (_, field) = fields.find(name)?;
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(only_path(fields, below)?),
        DataType::Timestamp(..) if below.is_empty() => field.data_type().clone(),
        _ => return None,
    };
    Some(Fields::from(vec![Arc::new(Field::new(name, data_type, true))]))
}
