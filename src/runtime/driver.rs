//! Cutting the input into epochs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::accounting::TableCounts;
use super::crew::Crew;
use super::epoch::{Epoch, EpochLimits, with_floor};
use super::feed::{Feed, FeedSpecification};
use super::reader::{Brake, Event, Piece, Quotas, ReaderTask, TableMaker};
use super::rows::RowMaker;
use super::shared_decode::FeedDecoder;
use super::splits::{SplitState, Status, Unlogged};
use super::worker::Ending;
use crate::contracts::{Boundedness, Clock, EpochCut, Opened, OpenedAt, Position, Result, Split, StartPosition};
use crate::operators::Compute;
use crate::state::{SavedSplit, SavedTable};

/// Pieces that may lie decoded between readers and driver. With pieces of some 5,000 records that is
/// about one epoch: the next one is decoded while this one is computed.
const PIECES_WAITING: usize = 24;
/// Time between two looks for new splits.
const DISCOVERY_MS: i64 = 1_000;

pub(crate) struct Driver {
    pub(super) feeds: Vec<Feed>,
    slots: usize,
    pub(super) events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    readers: Vec<JoinHandle<()>>,
    pieces: Arc<AtomicU32>,
    pub(super) clock: Arc<dyn Clock>,
    compute: Compute,
    limits: EpochLimits,
    ending: Ending,
    discovered_ms: i64,
    first_epoch: bool,
    /// When the last epoch was cut.
    cut: Option<Duration>,
    /// Epochs that an earlier run has cut and that are to be cut again.
    pub(super) replay: VecDeque<EpochCut>,
    crew: Crew,
}

/// How a split is opened.
pub(super) struct Opening {
    pub(super) position: Option<Position>,
    pub(super) start: StartPosition,
    pub(super) watermarks: Vec<i64>,
    pub(super) finished: bool,
}

impl Driver {
    pub(crate) fn new(
        feeds: Vec<FeedSpecification>,
        slots: usize,
        clock: Arc<dyn Clock>,
        compute: Compute,
        limits: EpochLimits,
        ending: Ending,
        mut saved: BTreeMap<String, SavedTable>,
        crew: Crew,
    ) -> Self {
        let (sender, events) = mpsc::channel(PIECES_WAITING);
        let mut feed = |specification: FeedSpecification| {
            let saved = specification.tables.iter().map(|table| saved.remove(&table.name)).collect();
            Feed::new(specification, saved)
        };
        Self {
            feeds: feeds.into_iter().map(&mut feed).collect(),
            slots,
            events,
            sender,
            readers: Vec::new(),
            pieces: Arc::default(),
            clock,
            compute,
            limits,
            ending,
            discovered_ms: i64::MIN,
            first_epoch: true,
            cut: None,
            replay: VecDeque::new(),
            crew,
        }
    }

    /// Tells the sources how they are going to be read, and starts their first splits: those of the log when there are
    /// epochs to `replay`, else all.
    pub(crate) async fn begin(&mut self, replay: VecDeque<EpochCut>) -> Result<()> {
        for feed in &self.feeds {
            let specification = &feed.specification;
            // All tables of a feed stand at the same positions.
            let progress = feed.saved.iter().flatten().next().map(SavedTable::progress);
            specification.source.begin(specification.start, progress.as_ref()).await?;
        }
        self.replay = replay;
        if self.replay.is_empty() { self.discover().await } else { Ok(()) }
    }

    /// Looks for splits that are not read yet, and starts those whose parents have ended.
    pub(super) async fn discover(&mut self) -> Result<()> {
        self.discovered_ms = self.clock.now_ms();
        for index in 0..self.feeds.len() {
            self.discover_feed(index).await?;
        }
        Ok(())
    }

    async fn discover_feed(&mut self, index: usize) -> Result<()> {
        let feed = &mut self.feeds[index];
        let splits = feed.specification.source.splits().await?;
        feed.splits.listed = splits.iter().map(|split| split.id.clone()).collect();
        for split in splits {
            let known = feed.splits.by_id.contains_key(&split.id);
            if !known && !feed.waiting.iter().any(|w| w.id == split.id) {
                feed.waiting.push_back(split);
            }
        }
        self.start_waiting(index).await
    }

    async fn start_waiting(&mut self, index: usize) -> Result<()> {
        for _ in 0..self.feeds[index].waiting.len() {
            let Some(split) = self.feeds[index].waiting.pop_front() else { break };
            if self.feeds[index].is_ready(&split) {
                self.start(index, split).await?;
            } else {
                self.feeds[index].waiting.push_back(split);
            }
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
        let asked = self.first_epoch && !feed.goes_on() && !follows;
        let start = if asked { feed.specification.start } else { StartPosition::TrimHorizon };
        let watermarks = feed.first_watermarks(&split);
        self.open(index, &split, Opening { position, start, watermarks, finished }, None).await
    }

    /// Opens a split. With `quota`, its reader gives as many records as it is told.
    pub(super) async fn open(
        &mut self,
        index: usize,
        split: &Split,
        opening: Opening,
        quota: Option<(mpsc::Sender<u64>, mpsc::Receiver<u64>)>,
    ) -> Result<()> {
        let Opening { mut position, start, watermarks, finished } = opening;
        let (feed, (quota, quotas)) = (&mut self.feeds[index], quota.unzip());
        let number = feed.splits.list.len();
        let brake = Arc::new(Brake::default());
        if !finished {
            let reader = feed.specification.source.open(split, position.as_ref(), start).await?;
            // A start at the newest record is resolved now, and kept even if the run ends before the first answer.
            position = position.or_else(|| reader.position());
            let constants = feed.specification.source.split_columns(split)?;
            let split_metadata = feed.specification.source.split_metadata(split)?;
            let stream = split_metadata
                .iter()
                .find(|(key, _)| key == "stream")
                .and_then(|(_, name)| Some(cast(name, &DataType::Utf8).ok()?.as_string::<i32>().value(0).to_owned()));
            let stream = stream.as_deref().unwrap_or(&feed.specification.stream);
            let table = |(table, watermark): (&super::feed::TableSpecification, &i64)| TableMaker {
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
                brake: Arc::clone(&brake),
                pieces: Arc::clone(&self.pieces),
                max_records: self.limits.rows,
                ends_when_caught_up: self.ending != Ending::Run,
                quotas: Quotas::new(quotas),
            };
            self.readers.push(self.crew.spawn(task.run()));
        }
        let at = match (&position, start) {
            (Some(position), _) => OpenedAt::After(position.to_string()),
            (None, StartPosition::TrimHorizon) => OpenedAt::TrimHorizon,
            (None, StartPosition::AtTimestamp(ms)) => OpenedAt::AtTimestamp(ms),
            (None, StartPosition::Latest) => OpenedAt::Latest,
        };
        feed.splits.by_id.insert(split.id.clone(), number);
        for (time, watermark) in feed.times.iter_mut().zip(&watermarks) {
            time.watermarks.push(*watermark);
        }
        feed.splits.list.push(SplitState {
            id: split.id.clone(),
            status: if finished { Status::Finished } else { Status::Reading },
            position,
            data_ms: self.clock.now_ms(),
            brake,
            behind_ms: None,
            really_finished: finished,
            unlogged: Unlogged { opened: Some(Opened { at, watermarks, finished }), ..Unlogged::default() },
            quota,
        });
        Ok(())
    }

    /// Gathers the next epoch. Returns early, with what there is, when `stop` turns true.
    pub(crate) async fn next(&mut self, stop: &mut tokio::sync::watch::Receiver<bool>) -> Result<Epoch> {
        let mut epoch = Epoch::new(self.slots);
        if !self.replay.is_empty() && *stop.borrow() {
            epoch.last = true;
            return Ok(epoch);
        }
        if let Some(cut) = self.replay.pop_front() {
            self.gather_logged(&mut epoch, &cut).await?;
            self.first_epoch = false;
            epoch.logged = Some(cut);
            return Ok(epoch);
        }
        let clock = Arc::clone(&self.clock);
        let timer = clock.sleep(self.time_left());
        tokio::pin!(timer);
        loop {
            if *stop.borrow() {
                epoch.last = true;
                break;
            }
            if self.is_done() {
                epoch.last = true;
                break;
            }
            if epoch.total_rows >= self.limits.rows {
                break;
            }
            // The first results should be seen soon, not after a whole interval.
            if self.first_epoch && epoch.total_rows > 0 && self.feeds.iter().all(|feed| feed.splits.all_caught_up()) {
                break;
            }
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => self.take(event, &mut epoch).await?,
                    None => epoch.last = true,
                },
                () = &mut timer => break,
                _ = stop.changed() => {}
            }
        }
        self.first_epoch = false;
        self.cut = Some(self.clock.elapsed());
        let now = self.clock.now_ms();
        if !epoch.last && self.ending == Ending::Run && now - self.discovered_ms >= DISCOVERY_MS {
            self.discover().await?;
        }
        epoch.floors = self.floors();
        for feed in &mut self.feeds {
            for time in &mut feed.times {
                time.advance(&feed.splits.list, now);
            }
        }
        self.close(&mut epoch)?;
        Ok(epoch)
    }

    /// Up to where windows have fired, by feed and table.
    pub(super) fn floors(&self) -> Vec<Vec<i64>> {
        self.feeds.iter().map(|feed| feed.times.iter().map(|time| time.floor).collect()).collect()
    }

    /// Puts the gathered rows in order, now that event time is known.
    pub(super) fn close(&self, epoch: &mut Epoch) -> Result<()> {
        let mut gathered = std::mem::take(&mut epoch.gathered);
        gathered.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (feed, _, table, batch) in gathered {
            let slot = self.feeds[feed].specification.tables[table].table;
            let floor = epoch.floors[feed][table];
            epoch.rows[slot].push(if floor > i64::MIN { with_floor(&batch, floor)? } else { batch });
        }
        for feed in &self.feeds {
            feed.splits.apply_brakes(&feed.times);
            for (table, time) in feed.specification.tables.iter().zip(&feed.times) {
                epoch.watermarks[table.table] = time.reported;
            }
        }
        Ok(())
    }

    /// How long the next epoch stays open. A live job counts from cut to cut, so that computing an epoch does not make
    /// the next one wait longer; but at least half of the interval, so that epochs grow when computing is slow.
    fn time_left(&self) -> Duration {
        let interval = self.limits.interval;
        match self.cut {
            Some(cut) if self.ending == Ending::Run => {
                interval.saturating_sub(self.clock.elapsed().saturating_sub(cut)).max(interval / 2)
            }
            _ => interval,
        }
    }

    /// Whether everything has been read, and nothing else can come.
    fn is_done(&self) -> bool {
        let ended = self.feeds.iter().all(|feed| feed.splits.all_finished());
        let over =
            |feed: &Feed| feed.specification.source.boundedness() == Boundedness::Bounded && feed.waiting.is_empty();
        // What still waits when nothing is read waits for a split that only this run has ended: a later run reads it.
        ended && (self.ending != Ending::Run || self.feeds.iter().all(over))
    }

    pub(super) async fn take(&mut self, event: Event, epoch: &mut Epoch) -> Result<()> {
        match event {
            Event::Piece(piece) => self.take_piece(*piece, epoch),
            Event::CaughtUp { feed, split, position } => {
                let feed = &mut self.feeds[feed];
                let state = &mut feed.splits.list[split];
                if state.status == Status::Reading {
                    state.status = Status::CaughtUp;
                }
                state.behind_ms = Some(0);
                state.position = position.or(state.position.take());
                feed.splits.apply_brakes(&feed.times);
            }
            Event::Finished { feed: index, split, really, position } => {
                // A drained stream ends here, as far as its windows are concerned.
                let ended = really || self.ending != Ending::Once;
                let feed = &mut self.feeds[index];
                let state = &mut feed.splits.list[split];
                state.status = if ended { Status::Finished } else { Status::Paused };
                state.really_finished = really;
                state.behind_ms = Some(0);
                state.position = position.or(state.position.take());
                feed.splits.apply_brakes(&feed.times);
                if really && feed.specification.source.boundedness() == Boundedness::Unbounded {
                    // What takes its place (the children of a shard that was split) is read without delay.
                    self.discover_feed(index).await?;
                } else {
                    self.start_waiting(index).await?;
                }
            }
            Event::Failed(error) => return Err(error),
        }
        Ok(())
    }

    pub(super) fn take_piece(&mut self, piece: Piece, epoch: &mut Epoch) {
        let feed = &mut self.feeds[piece.feed];
        let state = &mut feed.splits.list[piece.split];
        state.status = Status::Reading;
        state.unlogged.records += piece.records;
        state.unlogged.after = Some(piece.position.clone());
        state.position = Some(piece.position);
        state.behind_ms = piece.behind_ms;
        state.data_ms = self.clock.now_ms();
        for (table, part) in piece.parts.into_iter().enumerate() {
            let counts = &mut feed.counts[table];
            counts.records += piece.records;
            counts.bytes += piece.bytes;
            counts.decoded += part.decoded;
            counts.skipped += part.skipped;
            for reject in &part.rejects {
                *counts.rejected.entry(reject.reason.to_string()).or_default() += 1;
            }
            feed.times[table].watermarks[piece.split] = part.watermark;
            epoch.rejects.extend(part.rejects);
            if part.batch.num_rows() > 0 {
                epoch.gathered.push((piece.feed, state.id.clone(), table, part.batch));
            }
        }
        feed.splits.apply_brakes(&feed.times);
        epoch.total_rows += piece.records as usize;
        if let Some(raw) = piece.raw {
            epoch.raw.insert(piece.number, (piece.feed, raw));
        }
    }

    /// How far the split furthest behind is behind the newest record, in milliseconds, where sources say so.
    pub(crate) fn behind_ms(&self) -> Option<u64> {
        self.feeds.iter().flat_map(|feed| &feed.splits.list).filter_map(|s| s.behind_ms).max()
    }

    /// Whether a table is read by a feed.
    pub(crate) fn feeds_table(&self, feed: usize, table: usize) -> bool {
        self.feeds[feed].specification.tables.iter().any(|of_feed| of_feed.table == table)
    }

    /// What people call the source of a feed.
    pub(crate) fn stream(&self, feed: usize) -> &str {
        &self.feeds[feed].specification.stream
    }

    /// Counts of each table.
    pub(crate) fn counts(&self) -> impl Iterator<Item = &TableCounts> {
        self.feeds.iter().flat_map(|feed| &feed.counts)
    }

    /// Tells the sources that the run has ended in order.
    pub(crate) async fn end(&self) {
        for feed in &self.feeds {
            feed.specification.source.end().await;
        }
    }

    /// Stops reading.
    pub(crate) fn stop(&mut self) {
        for reader in &self.readers {
            reader.abort();
        }
    }

    /// Where reading stands, between two epochs. `closed` is the end of the last window that a drained run has closed.
    pub(crate) fn saved_tables(&self, drained: bool, closed: Option<i64>) -> BTreeMap<String, SavedTable> {
        let mut saved = BTreeMap::new();
        for feed in &self.feeds {
            let source = &feed.specification.source;
            for (table, time) in feed.specification.tables.iter().zip(&feed.times) {
                let split = |(s, watermark): (&SplitState, &i64)| {
                    // A split that ended only because the run did goes on in the next one.
                    let bounded = source.boundedness() == Boundedness::Bounded;
                    let finished = s.status == Status::Finished && (bounded || s.really_finished);
                    let after_exclusive = s.position.as_ref().map(ToString::to_string);
                    (s.id.0.to_string(), SavedSplit { after_exclusive, watermark_ms: *watermark, finished })
                };
                // A drained run says what it has closed; any other has closed what its watermark passed.
                let fired = if drained { i64::MIN } else { time.reported.0 };
                let floor = time.floor.max(closed.unwrap_or(i64::MIN)).max(fired);
                // A split that has ended and that the source no longer names will never be asked for again.
                let is_kept = |s: &SplitState| !s.really_finished || feed.splits.listed.contains(&s.id);
                let kept = feed.splits.list.iter().zip(&time.watermarks).filter(|(s, _)| is_kept(s));
                let splits = kept.map(split).collect();
                saved.insert(table.name.clone(), SavedTable { splits, floor, source: source.snapshot() });
            }
        }
        saved
    }
}
