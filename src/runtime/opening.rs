//! Finding splits and opening them: all that a source has, or as many at a time as it says.
//!
//! ```text
//!  listed ─► waits for its parents ─► known: position, watermark ─► waits for its turn ─► read ─► ended
//!                                                                      ▲                   │
//!                                                                      └── looked into ◄───┘
//! ```
//!
//! Where more splits wait than can be open, each is looked into first: its first records are read. Then the slowest in event time
//! are read to their ends. So windows close while a long series of files is read, and each file is opened twice at most.
//!
//! Invariant: a split holds event time back from when it is known, read or not. So what waits for its turn brings nothing
//! that is late because others were read before it.

use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use tokio::sync::mpsc;

use super::driver::Driver;
use super::feed::TableSpecification;
use super::idleness::{Idleness, steady_ms};
use super::quotas::{Quota, Quotas};
use super::reader::{Brake, ReaderTask, TableMaker};
use super::rows::RowMaker;
use super::shared_decode::FeedDecoder;
use super::splits::{SplitState, Status, Unlogged};
use super::worker::Ending;
use crate::contracts::{Boundedness, Opened, OpenedAt, Position, Result, Split, StartPosition};
use crate::state::SavedSplit;

/// How a split is to be read.
pub(super) struct Opening {
    pub(super) position: Option<Position>,
    pub(super) start: StartPosition,
    pub(super) watermarks: Vec<i64>,
    pub(super) finished: bool,
}

impl Driver {
    /// Looks for splits that are not known yet, and opens those whose parents have ended and whose turn it is.
    pub(super) async fn discover(&mut self) -> Result<()> {
        self.discovered_ms = steady_ms(&self.clock);
        for index in 0..self.feeds.len() {
            self.discover_feed(index).await?;
        }
        // A listing may take long itself.
        self.listed_since.get_or_insert(self.clock.elapsed());
        Ok(())
    }

    pub(super) async fn discover_feed(&mut self, index: usize) -> Result<()> {
        let feed = &mut self.feeds[index];
        let splits = feed.specification.source.splits().await?;
        let saved = feed.saved.iter().chain(feed.catch_up.iter().flatten()).flatten();
        let now_ms = self.clock.now_ms();
        feed.splits.listed(&splits, saved, feed.specification.source.listing(), now_ms);
        for split in splits {
            // While queries catch up, those that only the others will read are no parents that somebody waits for.
            if !feed.splits.by_id.contains_key(&split.id) && !feed.waits_for_others(&split.id) {
                feed.waiting.push(split.id.clone(), split);
            }
        }
        self.start_waiting(index).await?;
        self.feeds[index].begun = true;
        Ok(())
    }

    /// Opens what need not wait any more.
    pub(super) async fn start_waiting(&mut self, index: usize) -> Result<()> {
        for _ in 0..self.feeds[index].waiting.len() {
            let Some(split) = self.feeds[index].waiting.pop() else { break };
            if self.feeds[index].is_ready(&split) {
                self.start(index, split).await?;
            } else {
                self.feeds[index].waiting.push(split.id.clone(), split);
            }
        }
        while self.feeds[index].has_turn() {
            let Some((_, number)) = self.feeds[index].splits.turns.first().copied() else { break };
            self.open(index, number, None).await?;
        }
        Ok(())
    }

    async fn start(&mut self, index: usize, split: Split) -> Result<()> {
        let feed = &self.feeds[index];
        let saved = feed.saved.iter().flatten().find_map(|table| table.splits.get(split.id.0.as_ref()));
        let (position, finished) = saved.map_or((None, false), |saved| (saved.position(), saved.finished));
        // A split that appears while the job runs, or has appeared since an earlier run, is read from its beginning:
        // nothing may be skipped. So are children of splits that have been read here.
        let follows = split.parents.iter().any(|parent| feed.splits.by_id.contains_key(parent));
        let asked = !feed.begun && !feed.goes_on() && !follows;
        let start =
            if asked { feed.specification.start } else { saved.map_or(StartPosition::TrimHorizon, saved_start) };
        // Nothing is added to what is complete: there is no newer record to wait for.
        let complete = feed.specification.source.most_open().is_some();
        let finished = finished || (complete && position.is_none() && start == StartPosition::Latest);
        let watermarks = feed.first_watermarks(&split);
        self.know(index, split, Opening { position, start, watermarks, finished }, false).await
    }

    /// Takes a split into account. It is opened now, or when it is its turn. With `quota`, its reader gives as many records as it is told.
    pub(super) async fn know(&mut self, index: usize, split: Split, opening: Opening, quota: bool) -> Result<()> {
        let Opening { position, start, watermarks, finished } = opening;
        let feed = &mut self.feeds[index];
        let number = feed.splits.list.len();
        let opened = Opened { at: opened_at(position.as_ref(), start), watermarks, finished };
        feed.splits.by_id.insert(split.id.clone(), number);
        for (time, watermark) in feed.times.iter_mut().zip(&opened.watermarks) {
            time.watermarks.push(*watermark);
        }
        feed.splits.list.push(SplitState {
            id: split.id.clone(),
            status: if finished { Status::Finished } else { Status::Waiting },
            position,
            start,
            idleness: Idleness::new(steady_ms(&self.clock)),
            brake: Arc::default(),
            behind_ms: None,
            really_finished: finished,
            unlogged: Unlogged { opened: Some(opened.clone()), ..Unlogged::default() },
            opened,
            quota: None,
            split,
            turn: None,
            reader: None,
        });
        if finished {
            return Ok(());
        }
        if feed.specification.source.most_open().is_some() {
            feed.wait(number);
            return Ok(());
        }
        self.open(index, number, quota.then(|| mpsc::channel(super::replay::QUOTAS_WAITING))).await
    }

    /// Opens a known split that has no reader.
    pub(super) async fn open(
        &mut self,
        index: usize,
        number: usize,
        quota: Option<(mpsc::Sender<Quota>, mpsc::Receiver<Quota>)>,
    ) -> Result<()> {
        let (feed, (quota, quotas)) = (&mut self.feeds[index], quota.unzip());
        let state = &mut feed.splits.list[number];
        if let Some(turn) = state.turn.take() {
            feed.splits.turns.remove(&(turn, number));
        }
        let looks = quotas.is_none() && feed.looks(number);
        let until = feed.until(&feed.splits.list[number].id);
        let state = &mut feed.splits.list[number];
        if until.as_ref().is_some_and(|until| until.is_reached_at(state.position.as_ref())) {
            state.status = Status::Finished;
            return Ok(());
        }
        let split = state.split.clone();
        let source = &feed.specification.source;
        let reader = source.open(&split, state.position.as_ref(), state.start).await?;
        // A start at the newest record is resolved now, and kept even if the run ends before the first answer.
        if state.position.is_none()
            && let Some(position) = reader.position()
        {
            state.opened.at = opened_at(Some(&position), state.start);
            if let Some(opened) = &mut state.unlogged.opened {
                opened.at.clone_from(&state.opened.at);
            }
            state.position = Some(position);
        }
        (state.status, state.quota) = (Status::Reading, quota);
        state.idleness = Idleness::new(steady_ms(&self.clock));
        let pending = state.idleness.pending();
        let brake: Arc<Brake> = Arc::clone(&state.brake);
        let watermarks: Vec<i64> = feed.times.iter().map(|time| time.watermarks[number]).collect();
        let constants = source.split_columns(&split)?;
        let split_metadata = source.split_metadata(&split)?;
        let stream = split_metadata
            .iter()
            .find(|(key, _)| key == "stream")
            .and_then(|(_, name)| Some(cast(name, &DataType::Utf8).ok()?.as_string::<i32>().value(0).to_owned()));
        let stream = stream.as_deref().unwrap_or(&feed.specification.stream);
        let table = |(table, watermark): (&TableSpecification, &i64)| TableMaker {
            name: table.name.as_str().into(),
            maker: RowMaker {
                schema: Arc::clone(&table.schema),
                stream: stream.into(),
                physical: table.physical,
                metadata: table.metadata.clone(),
                constants: constants.clone(),
                split_metadata: split_metadata.clone(),
                rule: table.watermark.clone(),
                watermark: *watermark,
                compute: self.compute.clone(),
            },
        };
        let task = ReaderTask {
            feed: index,
            split: number,
            reader,
            decoder: FeedDecoder::try_new(&feed.specification)?,
            tables: feed.specification.tables.iter().zip(&watermarks).map(table).collect(),
            events: self.sender.clone(),
            brake,
            pieces: Arc::clone(&self.pieces),
            max_records: self.limits.rows,
            max_bytes: self.limits.piece_bytes(),
            // Of what ends by itself, everything is there, though some of it may come later.
            ends_when_caught_up: self.ending != Ending::Run && source.boundedness() == Boundedness::Unbounded,
            quotas: Quotas::new(quotas),
            looks,
            until,
            clock: Arc::clone(&self.clock),
            pending,
        };
        feed.splits.list[number].reader = Some(self.crew.spawn(task.run()).abort_handle());
        feed.splits.open.insert(number);
        Ok(())
    }
}

/// Where a split begins that no record of has been read.
pub(super) fn saved_start(saved: &SavedSplit) -> StartPosition {
    saved.from_ms.map_or(StartPosition::TrimHorizon, StartPosition::AtTimestamp)
}

fn opened_at(position: Option<&Position>, start: StartPosition) -> OpenedAt {
    match (position, start) {
        (Some(position), _) => OpenedAt::After(position.to_string()),
        (None, StartPosition::TrimHorizon) => OpenedAt::TrimHorizon,
        (None, StartPosition::AtTimestamp(ms)) => OpenedAt::AtTimestamp(ms),
        (None, StartPosition::Latest) => OpenedAt::Latest,
    }
}
