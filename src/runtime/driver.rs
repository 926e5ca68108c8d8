//! Cutting the input into epochs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio::sync::mpsc;

use super::accounting::TableCounts;
use super::crew::Crew;
use super::epoch::{Epoch, EpochLimits, EpochRecords, with_floor};
use super::feed::{Feed, FeedSpecification};
use super::gathered::{Gathered, RowsFrom};
use super::idleness::steady_ms;
use super::reader::{Event, Piece};
use super::repeat::Logged;
use super::replay::{logged_progress, note_versions, rename_splits};
use super::splits::{MISSED_LISTINGS, SplitState, Status};
use super::worker::Ending;
use crate::contracts::{Boundedness, Clock, EpochCut, Error, Result, SplitId, StartPosition};
use crate::operators::Compute;
use crate::state::{Reread, SavedSplit, SavedTable};

/// Pieces that may lie decoded between readers and driver. With pieces of some 5,000 records that is
/// about one epoch: the next one is decoded while this one is computed. In bytes they are one epoch at most, since none has more than
/// its share ([`EpochLimits::piece_bytes`]).
pub(super) const PIECES_WAITING: usize = 24;
/// Time between two looks for new splits.
const DISCOVERY_MS: i64 = 1_000;

pub(crate) struct Driver {
    pub(super) feeds: Vec<Feed>,
    pub(super) slots: usize,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) sender: mpsc::Sender<Event>,
    pub(super) pieces: Arc<AtomicU32>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) compute: Compute,
    pub(super) limits: EpochLimits,
    pub(super) ending: Ending,
    /// When new splits were last looked for, by the steady clock.
    pub(super) discovered_ms: i64,
    /// When they had been looked for once.
    pub(super) listed_since: Option<Duration>,
    pub(super) first_epoch: bool,
    /// When the last epoch was cut.
    cut: Option<Duration>,
    /// Records that arrived before were too old for all that some queries have to catch up with.
    oldest_ms: Option<i64>,
    /// Epochs that an earlier run has cut and that are to be cut again.
    pub(super) replay: VecDeque<EpochCut>,
    pub(super) crew: Crew,
}

/// How long epochs are, and when the last one ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Course {
    pub(crate) limits: EpochLimits,
    pub(crate) ending: Ending,
}

impl Driver {
    pub(crate) fn new(
        feeds: Vec<FeedSpecification>,
        slots: usize,
        clock: Arc<dyn Clock>,
        compute: Compute,
        Course { limits, ending }: Course,
        saved: Reread,
        crew: Crew,
    ) -> Self {
        let (sender, events) = mpsc::channel(PIECES_WAITING);
        let Reread { mut tables, catch_up, oldest_ms, .. } = saved;
        let mut catch_up = catch_up.map(|catch_up| catch_up.tables);
        let mut feed = |specification: FeedSpecification| {
            let of_tables = |tables: &mut BTreeMap<String, SavedTable>| {
                specification.tables.iter().map(|table| tables.remove(&table.name)).collect::<Vec<_>>()
            };
            let (saved, catch_up) = (of_tables(&mut tables), catch_up.as_mut().map(of_tables));
            Feed { catch_up, ..Feed::new(specification, saved) }
        };
        Self {
            feeds: feeds.into_iter().map(&mut feed).collect(),
            slots,
            events,
            sender,
            pieces: Arc::default(),
            clock,
            compute,
            limits,
            ending,
            discovered_ms: i64::MIN,
            listed_since: None,
            first_epoch: true,
            cut: None,
            oldest_ms,
            replay: VecDeque::new(),
            crew,
        }
    }

    /// Tells the sources how they are going to be read, and starts their first splits: those of the log when there are
    /// epochs to `replay`, else all.
    pub(super) async fn begin(&mut self, mut logged: Logged) -> Result<()> {
        for feed in &mut self.feeds {
            let specification = &feed.specification;
            feed.begun_before = specification.tables.iter().any(|table| logged.tables.contains(&table.table));
            feed.begun = feed.begun_before;
            // All tables of a feed stand at the same positions.
            let mut progress = feed.progress().or_else(|| logged_progress(feed, &logged.cuts));
            note_versions(feed, &logged.cuts, &mut progress);
            feed.specification.source.begin(feed.specification.start, progress.as_ref()).await?;
            rename_splits(feed, &mut logged.cuts).await?;
        }
        self.replay = logged.cuts;
        let replaying = !self.replay.is_empty();
        self.feeds.iter_mut().for_each(|feed| feed.splits.replaying = replaying);
        if self.replay.is_empty() { self.discover().await } else { Ok(()) }
    }

    /// Gathers the next epoch. Returns early, with what there is, when `stop` turns true.
    pub(crate) async fn next(&mut self, stop: &mut tokio::sync::watch::Receiver<bool>) -> Result<Epoch> {
        let mut epoch = Epoch::new(self.slots);
        if self.has_caught_up() {
            self.read_for_all().await?;
        }
        if let Some(cut) = self.replay.pop_front() {
            // A source may give nothing for as long as its service is away.
            tokio::select! {
                biased;
                true = async { stop.wait_for(|stop| *stop).await.is_ok() } => {
                    // What has been gathered is in the log, and so is the cut, which nobody has taken note of.
                    self.replay.push_front(cut);
                    return Ok(Epoch { last: true, ..Epoch::new(self.slots) });
                }
                gathered = self.gather_logged(&mut epoch, &cut) => gathered?,
            }
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
            if self.has_caught_up() {
                if epoch.total_rows > 0 {
                    break;
                }
                self.read_for_all().await?;
            }
            if !self.catches_up() && self.is_done() {
                epoch.last = true;
                break;
            }
            if epoch.total_rows >= self.limits.rows || epoch.total_bytes >= self.limits.bytes as u64 {
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
                // Where nobody can stop it any more, that is no reason to go round.
                true = async { stop.changed().await.is_ok() } => {}
            }
        }
        self.first_epoch = false;
        self.cut = Some(self.clock.elapsed());
        let now = self.clock.now_ms();
        epoch.now_ms = now;
        // What is caught up with may have been young enough when the others had it.
        let of_today = self.limits.record_age_ms.map(|age| now.saturating_sub(age));
        epoch.oldest_ms = if self.catches_up() { self.oldest_ms } else { of_today };
        let steady = steady_ms(&self.clock);
        if !epoch.last && self.ending == Ending::Run && steady.saturating_sub(self.discovered_ms) >= DISCOVERY_MS {
            self.discover().await?;
        }
        epoch.floors = self.floors();
        for feed in &mut self.feeds {
            for time in &mut feed.times {
                time.advance(&feed.splits.list, steady);
            }
        }
        epoch.standings = self.standings();
        self.close(&mut epoch)?;
        Ok(epoch)
    }

    /// Up to where windows have fired, by feed and table.
    pub(super) fn floors(&self) -> Vec<Vec<i64>> {
        self.feeds.iter().map(|feed| feed.times.iter().map(|time| time.floor).collect()).collect()
    }

    /// Puts the gathered rows in order, now that the epoch's time and event time are known.
    pub(super) fn close(&mut self, epoch: &mut Epoch) -> Result<()> {
        let mut gathered = std::mem::take(&mut epoch.gathered);
        gathered.sort_by(|a, b| (a.feed, &a.split).cmp(&(b.feed, &b.split)));
        for mut rows in gathered {
            let refused = rows.refuse_old(epoch, &self.feeds[rows.feed].specification)?;
            self.feeds[rows.feed].counts[rows.table].refused_after_decoding(&refused);
            epoch.rejects.extend(refused);
            if rows.batch.num_rows() == 0 {
                continue;
            }
            let slot = self.feeds[rows.feed].specification.tables[rows.table].table;
            let floor = epoch.floors[rows.feed][rows.table];
            if floor > i64::MIN {
                rows.batch = with_floor(&rows.batch, floor)?;
            }
            epoch.rows[slot].push(rows.batch.clone());
            if !epoch.raw.contains_key(&rows.from.piece) {
                epoch.typed.insert((rows.from.piece, slot), rows);
            }
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
        match self.ending {
            Ending::Run => self.feeds.iter().all(Feed::has_ended),
            // What still waits when nothing is read waits for a split that only this run has ended: a later run reads it.
            Ending::Once | Ending::Drain => self.feeds.iter().all(|feed| feed.splits.all_finished()),
        }
    }

    pub(super) async fn take(&mut self, event: Event, epoch: &mut Epoch) -> Result<()> {
        match event {
            Event::Piece(piece) => self.take_piece(*piece, epoch),
            Event::CaughtUp { feed, split, position, at_ms } => {
                let feed = &mut self.feeds[feed];
                let state = &mut feed.splits.list[split];
                state.idleness.nothing(at_ms);
                if state.status == Status::Reading {
                    state.status = Status::CaughtUp;
                }
                state.behind_ms = Some(0);
                state.position = position.or(state.position.take());
                feed.splits.apply_brakes(&feed.times);
            }
            Event::Finished { feed: index, split, really, position } => {
                // A drained stream ends here, as far as its windows are concerned.
                let ended = really || self.ending != Ending::Once || self.catches_up();
                let status = if ended { Status::Finished } else { Status::Paused };
                let feed = &mut self.feeds[index];
                feed.ended(split, status, really, position);
                let source = &feed.specification.source;
                let unbounded = source.boundedness() == Boundedness::Unbounded && source.most_open().is_none();
                if really && unbounded {
                    // What takes its place (the children of a shard that was split) is read without delay.
                    self.discover_feed(index).await?;
                } else {
                    self.start_waiting(index).await?;
                }
            }
            Event::Looked { feed: index, split } => {
                let feed = &mut self.feeds[index];
                feed.wait(split);
                feed.splits.apply_brakes(&feed.times);
                self.start_waiting(index).await?;
            }
            Event::Gone { .. } => return Err(Error::internal("a reader misses records that no logged epoch has")),
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
        state.behind_ms = piece.behind_ms_at(self.clock.now_ms());
        state.position = Some(piece.position);
        state.idleness.data(steady_ms(&self.clock));
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
                let from = RowsFrom {
                    piece: piece.number,
                    stream: Arc::clone(&piece.stream),
                    sequence: piece.sequence.clone(),
                    arrivals: piece.arrivals.clone(),
                    records: part.records,
                };
                let split = state.id.clone();
                epoch.gathered.push(Gathered { feed: piece.feed, split, table, batch: part.batch, from });
            }
        }
        feed.splits.apply_brakes(&feed.times);
        epoch.total_rows += piece.records as usize;
        epoch.total_bytes += piece.bytes;
        if let Some(chunk) = piece.raw {
            epoch.raw.insert(piece.number, EpochRecords { stream: piece.stream, chunk });
        }
    }

    /// How far the split furthest behind is behind the newest record, in milliseconds, where sources say so. One that does not answer has been
    /// at its newest record when it last did: it may be behind for as long.
    pub(crate) fn behind_ms(&self) -> Option<u64> {
        let now_ms = steady_ms(&self.clock);
        let behind = |split: &SplitState| {
            let is_asked = matches!(split.status, Status::Reading | Status::CaughtUp);
            let silent = if is_asked { split.idleness.silent_ms(now_ms) } else { 0 };
            Some(split.behind_ms?.saturating_add(silent))
        };
        self.feeds.iter().flat_map(|feed| &feed.splits.list).filter_map(behind).max()
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
        for split in self.feeds.iter().flat_map(|feed| &feed.splits.list) {
            if let Some(reader) = &split.reader {
                reader.abort();
            }
        }
    }

    /// Where reading stands, between two epochs.
    pub(crate) fn saved_tables(&self, drained: bool) -> BTreeMap<String, SavedTable> {
        let mut saved = BTreeMap::new();
        // A run that ends by itself asks once.
        let listings = if self.ending == Ending::Run { MISSED_LISTINGS } else { 1 };
        let now_ms = self.clock.now_ms();
        for feed in &self.feeds {
            let source = &feed.specification.source;
            for ((table, time), before) in feed.specification.tables.iter().zip(&feed.times).zip(&feed.saved) {
                let split = |(s, watermark): (&SplitState, &i64)| {
                    // A split that ended only because the run did goes on in the next one.
                    let bounded = source.boundedness() == Boundedness::Bounded;
                    let finished = s.status == Status::Finished && (bounded || s.really_finished);
                    let after_exclusive = s.position.as_ref().map(ToString::to_string);
                    let from_ms = match s.start {
                        StartPosition::AtTimestamp(ms) if s.position.is_none() => Some(ms),
                        _ => None,
                    };
                    let is_read_on = after_exclusive.is_some() && !finished;
                    let version = if is_read_on { source.version(&s.id) } else { None };
                    let watermark_ms = *watermark;
                    (
                        s.id.0.to_string(),
                        SavedSplit { after_exclusive, from_ms, watermark_ms, finished, version, gone_ms: None },
                    )
                };
                // What a drained run has closed, each of its queries knows; any other has closed what its watermark passed.
                let fired = if drained { i64::MIN } else { time.reported.0 };
                let floor = time.floor.max(fired);
                // A split that has ended and that the source has not named for long will never be asked for again.
                let is_kept = |s: &SplitState| !s.really_finished || !feed.splits.is_forgotten(&s.id, listings, now_ms);
                let kept = feed.splits.list.iter().zip(&time.watermarks).filter(|(s, _)| is_kept(s));
                let mut splits: BTreeMap<String, SavedSplit> = kept.map(split).collect();
                let is_left_out = |id: &SplitId| source.is_left_out(id);
                let at = (listings, now_ms);
                splits.extend(before.iter().flat_map(|b| feed.splits.not_yet_read(b, at, is_left_out)));
                feed.splits.note_gone(&mut splits, listings, is_left_out);
                saved.insert(table.name.clone(), SavedTable { splits, floor, source: source.snapshot() });
            }
        }
        saved
    }
}
