//! Sources: where records come from.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow::array::ArrayRef;
use async_trait::async_trait;

use super::error::Result;
use super::record::{Position, RawChunk, RowChunk};

/// Name of a split, unique and stable within its source (a shard id, a file's path).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SplitId(pub Arc<str>);

impl fmt::Display for SplitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A part of a source that is read in order by one reader at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Its name.
    pub id: SplitId,
    /// Bytes still to read where that is known, for progress only.
    pub bytes: Option<u64>,
    /// Splits that must have been read to their end before this one starts (parent shards).
    pub parents: Vec<SplitId>,
}

/// Where to start in a split that has no saved position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartPosition {
    /// The oldest record that is kept.
    TrimHorizon,
    /// Only records that arrive after the reader was opened.
    Latest,
    /// The first record that arrived at or after this time (milliseconds since 1970).
    AtTimestamp(i64),
}

/// Whether a source can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundedness {
    /// Every split ends, and no new one appears (files without `source.monitor-interval`).
    Bounded,
    /// Reading can go on for ever.
    Unbounded,
}

/// What a reader has.
#[derive(Debug)]
pub enum Fetch {
    /// Raw records for a decoder, at least one.
    Records(RawChunk),
    /// Typed rows, at least one.
    Rows(RowChunk),
    /// Everything that was there when asked has been read; more may come. The reader has waited up
    /// to its own polling pause before it said so.
    CaughtUp,
    /// The split has ended; the reader is not asked again.
    Finished,
}

/// Where earlier runs have left a split.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SplitProgress {
    /// The last record that counted; `None` when nothing of it has been read.
    pub after_exclusive: Option<Position>,
    /// Whether it has been read to its end.
    pub finished: bool,
    /// What those records were of (see [`Source::version`]).
    pub version: Option<String>,
}

/// Where earlier runs have left a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceProgress {
    /// Every split that was known, also those that have ended.
    pub splits: BTreeMap<SplitId, SplitProgress>,
    /// What the source itself wanted to be kept (see [`Source::snapshot`]).
    pub state: Option<String>,
}

/// A readable table.
///
/// # Contract
/// - `begin` is called once, before anything else. With `progress`, the source goes on: splits that are not in it have
///   appeared since and are read from their oldest record, whatever `start` says; one in it that has not ended and that
///   the source no longer has is never passed over in silence.
/// - Splits are stable: the same name means the same records in the same order, also after a restart. Where others can be put in their
///   place, `version` tells, and what has been read in part is not read on in another one.
/// - `open` with a position resumes *after* it; no record is read twice or skipped.
/// - New splits may appear between two calls of `splits`; one that was there does not disappear
///   while unread records are in it.
/// - Where `most_open` is a number, a split is complete when it is listed: it ends without anything being added.
#[async_trait]
pub trait Source: Send + Sync + fmt::Debug {
    /// Reaches the source, so that a wrong name is found at once, and tells it how it is going to be read.
    async fn begin(&self, _start: StartPosition, _progress: Option<&SourceProgress>) -> Result<()> {
        Ok(())
    }

    /// What a later run must know beside the splits' positions (a stream's creation time), as text.
    fn snapshot(&self) -> Option<String> {
        None
    }

    /// The version of what is read of this split, where another one can be put in its place under the same name (an object's ETag).
    /// `None` where that cannot be, or it has not been opened.
    fn version(&self, _split: &SplitId) -> Option<String> {
        None
    }

    /// What splits are called now that earlier runs have called so: other names where one split can be named in several ways (a file's
    /// path). What is not among them keeps its name. Asked when `begin` is done.
    ///
    /// # Errors
    /// Those of looking where they are.
    async fn known_as(&self, _earlier: Vec<SplitId>) -> Result<BTreeMap<SplitId, SplitId>> {
        Ok(BTreeMap::new())
    }

    /// All splits at this time, in the order in which they should be started. It is asked about once a second, between
    /// two epochs, and whenever a split has ended; a source behind a network answers from what it has last heard, and
    /// listens again in the background.
    async fn splits(&self) -> Result<Vec<Split>>;

    /// Whether a split of earlier runs is of a part of the source that the table names no more (a stream of several). `splits` does not name it
    /// either, but it is not gone: where it was left is kept, for when the table names it again.
    fn is_left_out(&self, _split: &SplitId) -> bool {
        false
    }

    /// Number of the listing that `splits` answers from, where one answer may be given several times.
    fn listing(&self) -> Option<u64> {
        None
    }

    /// Opens a split after `resume`, or at `start` when there is no position yet.
    async fn open(
        &self,
        split: &Split,
        resume: Option<&Position>,
        start: StartPosition,
    ) -> Result<Box<dyn SplitReader>>;

    /// Columns that have one value for all raw records of a split and are not in their bytes (Hive
    /// partitions in a file's path): name and an array of length 1. The decoder leaves them null, and
    /// the runtime fills them in. Typed rows carry them already. Metadata that the runtime has no rule for
    /// (`file.size`) is given under its key.
    fn split_columns(&self, _split: &Split) -> Result<Vec<(String, ArrayRef)>> {
        Ok(Vec::new())
    }

    /// METADATA that has one value for all records of a split and that the runtime cannot know (the stream, in a table of
    /// several): key and an array of length 1. It comes before the runtime's own rule for the key.
    fn split_metadata(&self, _split: &Split) -> Result<Vec<(String, ArrayRef)>> {
        Ok(Vec::new())
    }

    /// How many of its splits are read side by side; the others wait, in the order of `splits`, until one has ended.
    /// `None` for all of them, which is right for splits that may never end. What is complete when it is listed and may be there
    /// by the thousand (files) gives a number, since a reader costs memory.
    fn most_open(&self) -> Option<NonZeroUsize> {
        None
    }

    /// Called once when a run ends in order, after the last record has counted: what exists only for readers (a
    /// registered consumer) is given back. A failure is no reason to fail the run; the source logs it.
    async fn end(&self) {}

    /// Whether the source can end.
    fn boundedness(&self) -> Boundedness;
}

/// Reads one split in order.
///
/// # Contract
/// `next` is cancel-safe: dropping its future loses no record. A chunk's buffer should hold at least
/// [`RECORD_PADDING`](super::RECORD_PADDING) bytes after its last record, and about 1 MiB of records
/// when as much is available.
#[async_trait]
pub trait SplitReader: Send {
    /// The next records, or why there are none.
    async fn next(&mut self) -> Result<Fetch>;

    /// Where reading stands, also when no record has been read yet: a start at `Latest` is resolved once, and a later
    /// run goes on from there. Everything before it has been given out by `next`. `None` when only records tell.
    fn position(&self) -> Option<Position> {
        None
    }

    /// How far the last answer was behind the newest record of the split, in milliseconds, where the source says so.
    fn behind_ms(&self) -> Option<u64> {
        None
    }

    /// So many records from here on have been given to an earlier run. Said before each `next`, for sources that give records at a pace of their
    /// own: these need not wait for their time once more.
    fn repeats(&mut self, _records: u64) {}
}
