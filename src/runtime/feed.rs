//! What is read once: a source, and the tables that see its records.
//!
//! Tables that name the same stream are one *feed* where they start at the same place. Each split of a feed has one
//! reader; records are decoded once for all tables where their columns allow it. What each table keeps for itself is what
//! it makes of the records: its columns, event time, idle rule and counts.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;

use super::accounting::TableCounts;
use super::rows::WatermarkRule;
use super::splits::{FeedSplits, Queue, Status};
use super::table_time::TableTime;
use crate::contracts::{Boundedness, Decoder, MetadataColumn, Position, Result, Source, Split, SplitId, StartPosition};
use crate::state::SavedTable;

/// Makes a decoder for a split.
pub type DecoderFactory = Arc<dyn Fn() -> Result<Box<dyn Decoder>> + Send + Sync>;

/// A source and the tables that read it.
pub struct FeedSpecification {
    /// What people call the source: stream or path.
    pub stream: String,
    /// Where records come from. When it is typed, it gives the columns of all its tables.
    pub source: Arc<dyn Source>,
    /// Where to start without a saved position.
    pub start: StartPosition,
    /// Decodes the columns of all tables at once; `None` when the source is typed, or each table decodes for itself.
    pub shared: Option<DecoderFactory>,
    /// Its tables, at least one.
    pub tables: Vec<TableSpecification>,
}

/// A source table as the runtime needs it.
pub struct TableSpecification {
    /// Index in the epoch's inputs.
    pub table: usize,
    /// Name in SQL.
    pub name: String,
    /// Decodes this table's columns alone: every record, or those that the shared decoder refuses. `None` when the
    /// source is typed.
    pub decoder: Option<DecoderFactory>,
    /// Columns of an epoch's rows.
    pub schema: SchemaRef,
    /// Number of physical columns, which come first.
    pub physical: usize,
    /// Metadata columns, which follow.
    pub metadata: Vec<MetadataColumn>,
    /// How event time moves.
    pub watermark: Option<WatermarkRule>,
    /// Time without data after which a split is idle.
    pub idle_timeout_ms: Option<i64>,
    /// How far a split may be ahead of the slowest.
    pub max_drift_ms: Option<i64>,
}

/// A feed while it is read.
pub(crate) struct Feed {
    pub(crate) specification: FeedSpecification,
    pub(crate) splits: FeedSplits,
    /// Event time of each table.
    pub(crate) times: Vec<TableTime>,
    pub(crate) counts: Vec<TableCounts>,
    /// How earlier runs have left each table.
    pub(crate) saved: Vec<Option<SavedTable>>,
    /// Splits that wait for their parents.
    pub(crate) waiting: Queue<SplitId, Split>,
    /// This run, or one whose epochs it repeats, has begun to read it: what appears from now on is read from its beginning.
    pub(crate) begun: bool,
    /// The same of runs before this one.
    pub(super) begun_before: bool,
    /// While some queries catch up: where the others stand, by table.
    pub(super) catch_up: Option<Vec<Option<SavedTable>>>,
}

impl Feed {
    pub(crate) fn new(specification: FeedSpecification, saved: Vec<Option<SavedTable>>) -> Self {
        let time = |(table, saved): (&TableSpecification, &Option<SavedTable>)| {
            let mut time = TableTime::new(table.watermark.is_some(), table.idle_timeout_ms, table.max_drift_ms);
            time.resume(saved.as_ref().map_or(i64::MIN, |saved| saved.floor));
            time
        };
        let times = specification.tables.iter().zip(&saved).map(time).collect();
        let first = specification.tables.first().map(|t| t.name.clone());
        let counts = specification.tables.iter().map(|table| TableCounts {
            name: table.name.clone(),
            read_with: first.clone().filter(|first| *first != table.name),
            ..TableCounts::default()
        });
        let counts = counts.collect();
        let splits = FeedSplits::of(specification.source.as_ref());
        let waiting = Queue::default();
        Self { specification, splits, times, counts, saved, waiting, begun: false, begun_before: false, catch_up: None }
    }

    /// Its name in the epoch log.
    pub(crate) fn name(&self) -> String {
        feed_name(&self.specification)
    }

    /// Whether an earlier run has read it.
    pub(crate) fn goes_on(&self) -> bool {
        self.saved.iter().any(Option::is_some)
    }

    /// The split's watermark for each table when it is opened: as saved; else that of its parents, but never in windows
    /// that have fired.
    pub(crate) fn first_watermarks(&self, split: &Split) -> Vec<i64> {
        let parents: Vec<usize> = split.parents.iter().filter_map(|p| self.splits.by_id.get(p).copied()).collect();
        let own = |(time, saved): (&TableTime, &Option<SavedTable>)| {
            let saved = saved.as_ref().and_then(|table| table.splits.get(split.id.0.as_ref()));
            let inherited = parents.iter().map(|at| time.watermarks[*at]).max().unwrap_or(i64::MIN);
            saved.map_or(inherited.max(time.reported.0).max(time.floor), |saved| saved.watermark_ms)
        };
        self.times.iter().zip(&self.saved).map(own).collect()
    }

    /// Whether one more split may be read beside those that are.
    pub(crate) fn has_turn(&self) -> bool {
        self.specification.source.most_open().is_none_or(|most| self.splits.open.len() < most.get())
    }

    /// Whether a split that is opened now is only looked into, so that its first records tell where it stands in time: where
    /// more of them wait than can be open, and somebody asks for time. Then the slowest are read first, as if all were open.
    pub(crate) fn looks(&self, number: usize) -> bool {
        let Some(most) = self.specification.source.most_open() else { return false };
        let has_time = self.times.iter().any(|time| time.has_watermark);
        has_time
            && self.splits.list[number].position.is_none()
            && self.splits.open.len() + self.splits.turns.len() >= most.get()
    }

    /// Everything that its source has named so far has been read.
    pub(super) fn is_read(&self) -> bool {
        self.splits.all_finished() && self.waiting.is_empty()
    }

    /// The same, and nothing else can come.
    pub(super) fn has_ended(&self) -> bool {
        self.specification.source.boundedness() == Boundedness::Bounded && self.is_read()
    }

    /// A split waits for its turn.
    pub(crate) fn wait(&mut self, number: usize) {
        let with_time = self.times.iter().filter(|time| time.has_watermark);
        let watermark = with_time.map(|time| time.watermarks[number]).min().unwrap_or(i64::MIN);
        self.splits.wait(number, watermark);
    }

    /// A reader has ended.
    pub(crate) fn ended(&mut self, split: usize, status: Status, really: bool, position: Option<Position>) {
        let state = &mut self.splits.list[split];
        state.status = status;
        state.really_finished = really;
        state.behind_ms = Some(0);
        state.position = position.or(state.position.take());
        state.unlogged.ended = really && self.specification.source.most_open().is_some();
        state.reader = None;
        self.splits.open.remove(&split);
        self.splits.apply_brakes(&self.times);
    }

    /// Whether a split may be started: its parents have been read.
    pub(crate) fn is_ready(&self, split: &Split) -> bool {
        let ended = |parent: &SplitId| match self.splits.by_id.get(parent) {
            // One that only the run has ended has more records, which come before its children's.
            Some(at) => {
                let parent = &self.splits.list[*at];
                // While queries catch up, it is read up to where the others stand, who have had what its children bring until there.
                let is_reached = self.catch_up.is_some() && parent.status == Status::Finished;
                parent.really_finished || is_reached
            }
            // Gone, or finished and forgotten; but one that waits itself has not even begun.
            None => !self.waiting.has(parent),
        };
        split.parents.iter().all(ended)
    }
}

/// The tables of a feed, which name it.
pub(crate) fn feed_name(specification: &FeedSpecification) -> String {
    let names: Vec<&str> = specification.tables.iter().map(|table| table.name.as_str()).collect();
    names.join(BETWEEN_NAMES)
}

const BETWEEN_NAMES: &str = " + ";

/// The tables of the feed of this name, in their order.
pub(crate) fn table_names(feed: &str) -> impl Iterator<Item = &str> {
    feed.split(BETWEEN_NAMES)
}

/// Whether a table is one of the feed of this name.
pub(crate) fn is_of_feed(table: &str, feed: &str) -> bool {
    table_names(feed).any(|name| name == table)
}
