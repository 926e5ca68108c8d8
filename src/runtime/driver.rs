//! Cutting the input into epochs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::accounting::TableCounts;
use super::reader::{Brake, Event, Piece, ReaderTask};
use super::rows::RowMaker;
use super::splits::{SplitState, Status, TableSplits};
use super::worker::{Ending, TableSpecification};
use crate::contracts::{Boundedness, Clock, RawChunk, RejectedRecord, Result, Split, StartPosition, Watermark};
use crate::operators::{Compute, WATERMARK_COLUMN};
use crate::state::{SavedSplit, SavedTable};

/// When an epoch closes.
#[derive(Debug, Clone, Copy)]
pub struct EpochLimits {
    /// Longest time that it stays open.
    pub interval: Duration,
    /// Rows at which it closes before its time.
    pub rows: usize,
}

/// The input of one epoch.
#[derive(Debug, Default)]
pub(crate) struct Epoch {
    pub(crate) rows: Vec<Vec<RecordBatch>>,
    pub(crate) watermarks: Vec<Watermark>,
    pub(crate) rejects: Vec<RejectedRecord>,
    /// Records by the number in the origin column, with the table's index among specifications.
    pub(crate) raw: BTreeMap<u32, (usize, RawChunk)>,
    /// No more will come.
    pub(crate) last: bool,
    pub(crate) total_rows: usize,
}

/// Pieces that may lie decoded between readers and driver. With pieces of some 5,000 records that is
/// about one epoch: the next one is decoded while this one is computed.
const PIECES_WAITING: usize = 24;
/// Time between two looks for new splits.
const DISCOVERY_MS: i64 = 1_000;

pub(crate) struct Driver {
    specifications: Vec<TableSpecification>,
    tables: Vec<TableSplits>,
    pub(crate) counts: Vec<TableCounts>,
    slots: usize,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    readers: Vec<JoinHandle<()>>,
    pieces: Arc<AtomicU32>,
    clock: Arc<dyn Clock>,
    compute: Compute,
    limits: EpochLimits,
    ending: Ending,
    saved: BTreeMap<String, SavedTable>,
    waiting: Vec<VecDeque<Split>>,
    discovered_ms: i64,
    /// Pieces that came while the driver waited for another reason.
    first_epoch: bool,
    /// When the last epoch was cut.
    cut: Option<Duration>,
}

impl Driver {
    pub(crate) fn new(
        specifications: Vec<TableSpecification>,
        slots: usize,
        clock: Arc<dyn Clock>,
        compute: Compute,
        limits: EpochLimits,
        ending: Ending,
        saved: BTreeMap<String, SavedTable>,
    ) -> Self {
        let (sender, events) = mpsc::channel(PIECES_WAITING);
        let tables = specifications
            .iter()
            .map(|s| {
                let mut table = TableSplits::new(s.watermark.is_some(), s.idle_timeout_ms, s.max_drift_ms);
                if let Some(saved) = saved.get(&s.name) {
                    table.floor = saved.floor;
                }
                table
            })
            .collect();
        let counts =
            specifications.iter().map(|s| TableCounts { name: s.name.clone(), ..TableCounts::default() }).collect();
        let waiting = specifications.iter().map(|_| VecDeque::new()).collect();
        Self {
            specifications,
            tables,
            counts,
            slots,
            events,
            sender,
            readers: Vec::new(),
            pieces: Arc::default(),
            clock,
            compute,
            limits,
            ending,
            saved,
            waiting,
            discovered_ms: i64::MIN,
            first_epoch: true,
            cut: None,
        }
    }

    /// Tells the sources how they are going to be read, and starts their first splits.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        for index in 0..self.specifications.len() {
            let specification = &self.specifications[index];
            let progress = self.saved.get(&specification.name).map(SavedTable::progress);
            let began = specification.source.begin(specification.start, progress.as_ref()).await;
            began.map_err(|e| e.context(format!("table '{}'", specification.name)))?;
        }
        self.discover().await
    }

    /// Looks for splits that are not read yet, and starts those whose parents have ended.
    async fn discover(&mut self) -> Result<()> {
        self.discovered_ms = self.clock.now_ms();
        for index in 0..self.specifications.len() {
            self.discover_table(index).await?;
        }
        Ok(())
    }

    async fn discover_table(&mut self, index: usize) -> Result<()> {
        let splits = self.specifications[index].source.splits().await?;
        self.tables[index].listed = splits.iter().map(|split| split.id.clone()).collect();
        for split in splits {
            let known = self.tables[index].by_id.contains_key(&split.id);
            if !known && !self.waiting[index].iter().any(|w| w.id == split.id) {
                self.waiting[index].push_back(split);
            }
        }
        self.start_waiting(index).await
    }

    async fn start_waiting(&mut self, index: usize) -> Result<()> {
        for _ in 0..self.waiting[index].len() {
            let Some(split) = self.waiting[index].pop_front() else { break };
            let table = &self.tables[index];
            let ready = split.parents.iter().all(|parent| match table.by_id.get(parent) {
                // One that only the run has ended has more records, which come before its children's.
                Some(at) => table.splits[*at].really_finished,
                // Gone, or finished and forgotten; but one that waits itself has not even begun.
                None => !self.waiting[index].iter().any(|w| w.id == *parent),
            });
            if ready {
                self.start(index, split).await?;
            } else {
                self.waiting[index].push_back(split);
            }
        }
        Ok(())
    }

    async fn start(&mut self, index: usize, split: Split) -> Result<()> {
        let specification = &self.specifications[index];
        let saved = self.saved.get(&specification.name).and_then(|t| t.splits.get(split.id.0.as_ref())).cloned();
        let table = &mut self.tables[index];
        let parents = split.parents.iter().filter_map(|p| table.by_id.get(p)).map(|at| table.splits[*at].watermark);
        // Windows that have fired do not open again for a split that appears later.
        let inherited = parents.max().unwrap_or(i64::MIN).max(table.reported.0).max(table.floor);
        let (position, watermark, finished) = match &saved {
            Some(saved) => (saved.position(), saved.watermark_ms, saved.finished),
            None => (None, inherited, false),
        };
        let brake = Arc::new(Brake::default());
        let number = table.splits.len();
        table.by_id.insert(split.id.clone(), number);
        table.splits.push(SplitState {
            id: split.id.clone(),
            status: if finished { Status::Finished } else { Status::Reading },
            watermark,
            position: position.clone(),
            data_ms: self.clock.now_ms(),
            brake: Arc::clone(&brake),
            behind_ms: None,
            really_finished: finished,
        });
        if finished {
            return Ok(());
        }
        // A split that appears while the job runs, or has appeared since an earlier run, is read from its beginning:
        // nothing may be skipped. So are children of splits that have been read here.
        let goes_on = self.saved.contains_key(&specification.name);
        let follows = split.parents.iter().any(|parent| table.by_id.contains_key(parent));
        let start =
            if self.first_epoch && !goes_on && !follows { specification.start } else { StartPosition::TrimHorizon };
        let reader = specification.source.open(&split, position.as_ref(), start).await?;
        // A start at the newest record is resolved now, and kept even if the run ends before the first answer.
        table.splits[number].position = position.or_else(|| reader.position());
        let split_metadata = specification.source.split_metadata(&split)?;
        let stream = split_metadata.iter().find(|(key, _)| key == "stream").and_then(|(_, name)| {
            Some(datafusion::arrow::compute::cast(name, &DataType::Utf8).ok()?.as_string::<i32>().value(0).into())
        });
        let task = ReaderTask {
            table: index,
            table_name: specification.name.as_str().into(),
            split: number,
            reader,
            decoder: specification.decoder.as_ref().map(|make| make()).transpose()?,
            maker: RowMaker {
                schema: Arc::clone(&specification.schema),
                stream: stream.unwrap_or_else(|| specification.stream.as_str().into()),
                physical: specification.physical,
                metadata: specification.metadata.clone(),
                constants: specification.source.split_columns(&split)?,
                split_metadata,
                rule: specification.watermark.clone(),
                watermark,
                compute: self.compute.clone(),
            },
            events: self.sender.clone(),
            brake,
            pieces: Arc::clone(&self.pieces),
            max_records: self.limits.rows,
            ends_when_caught_up: self.ending != Ending::Run,
        };
        self.readers.push(tokio::spawn(task.run()));
        Ok(())
    }

    /// Gathers the next epoch. Returns early, with what there is, when `stop` turns true.
    pub(crate) async fn next(&mut self, stop: &mut tokio::sync::watch::Receiver<bool>) -> Result<Epoch> {
        let mut epoch = Epoch { rows: vec![Vec::new(); self.slots], ..Epoch::default() };
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
            if self.first_epoch && epoch.total_rows > 0 && self.tables.iter().all(TableSplits::all_caught_up) {
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
        epoch.watermarks = vec![Watermark::MIN; self.slots];
        for (index, specification) in self.specifications.iter().enumerate() {
            let table = &mut self.tables[index];
            let floor = table.floor;
            let watermark = table.advance(now);
            table.apply_brakes();
            epoch.watermarks[specification.table] = watermark;
            if floor > i64::MIN {
                for batch in &mut epoch.rows[specification.table] {
                    *batch = with_floor(batch, floor)?;
                }
            }
        }
        Ok(epoch)
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
        let ended = self.tables.iter().all(TableSplits::all_finished);
        let bounded = self.specifications.iter().all(|s| s.source.boundedness() == Boundedness::Bounded);
        // What still waits when nothing is read waits for a split that only this run has ended: a later run reads it.
        ended && (self.ending != Ending::Run || (bounded && self.waiting.iter().all(VecDeque::is_empty)))
    }

    async fn take(&mut self, event: Event, epoch: &mut Epoch) -> Result<()> {
        match event {
            Event::Piece(piece) => self.take_piece(*piece, epoch),
            Event::CaughtUp { table, split, position } => {
                let state = &mut self.tables[table].splits[split];
                if state.status == Status::Reading {
                    state.status = Status::CaughtUp;
                }
                state.behind_ms = Some(0);
                state.position = position.or(state.position.take());
                self.tables[table].apply_brakes();
            }
            Event::Finished { table, split, really, position } => {
                // A drained stream ends here, as far as its windows are concerned.
                let ended = really || self.ending != Ending::Once;
                let state = &mut self.tables[table].splits[split];
                state.status = if ended { Status::Finished } else { Status::Paused };
                state.really_finished = really;
                state.behind_ms = Some(0);
                state.position = position.or(state.position.take());
                self.tables[table].apply_brakes();
                if really && self.specifications[table].source.boundedness() == Boundedness::Unbounded {
                    // What takes its place (the children of a shard that was split) is read without delay.
                    self.discover_table(table).await?;
                } else {
                    self.start_waiting(table).await?;
                }
            }
            Event::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn take_piece(&mut self, piece: Piece, epoch: &mut Epoch) {
        let counts = &mut self.counts[piece.table];
        counts.records += piece.records;
        counts.bytes += piece.bytes;
        counts.decoded += piece.decoded;
        counts.skipped += piece.skipped;
        for reject in &piece.rejects {
            *counts.rejected.entry(reject.reason.to_string()).or_default() += 1;
        }
        let table = &mut self.tables[piece.table];
        let state = &mut table.splits[piece.split];
        state.status = Status::Reading;
        state.watermark = piece.watermark;
        state.position = Some(piece.position);
        state.behind_ms = piece.behind_ms;
        state.data_ms = self.clock.now_ms();
        table.apply_brakes();
        epoch.rejects.extend(piece.rejects);
        epoch.total_rows += piece.records as usize;
        if piece.batch.num_rows() > 0 {
            epoch.rows[self.specifications[piece.table].table].push(piece.batch);
        }
        if let Some(raw) = piece.raw {
            epoch.raw.insert(piece.number, (piece.table, raw));
        }
    }

    /// How far the split furthest behind is behind the newest record, in milliseconds, where sources say so.
    pub(crate) fn behind_ms(&self) -> Option<u64> {
        self.tables.iter().flat_map(|t| &t.splits).filter_map(|s| s.behind_ms).max()
    }

    /// Name and stream of a table, by its index among specifications.
    pub(crate) fn stream(&self, index: usize) -> &str {
        &self.specifications[index].stream
    }

    /// Tells the sources that the run has ended in order.
    pub(crate) async fn end(&self) {
        for specification in &self.specifications {
            specification.source.end().await;
        }
    }

    /// Stops reading and says where reading stands. `closed` is the end of the last window that a
    /// drained run has closed.
    pub(crate) fn stop(&mut self, drained: bool, closed: Option<i64>) -> BTreeMap<String, SavedTable> {
        for reader in &self.readers {
            reader.abort();
        }
        let mut saved = BTreeMap::new();
        for (specification, table) in self.specifications.iter().zip(&self.tables) {
            let split = |s: &SplitState| {
                // A split that ended only because the run did goes on in the next one.
                let bounded = specification.source.boundedness() == Boundedness::Bounded;
                let finished = s.status == Status::Finished && (bounded || s.really_finished);
                let after_exclusive = s.position.as_ref().map(ToString::to_string);
                (s.id.0.to_string(), SavedSplit { after_exclusive, watermark_ms: s.watermark, finished })
            };
            // A drained run says what it has closed; any other has closed what its watermark passed.
            let fired = if drained { i64::MIN } else { table.reported.0 };
            let floor = table.floor.max(closed.unwrap_or(i64::MIN)).max(fired);
            // A split that has ended and that the source no longer names will never be asked for again.
            let kept = table.splits.iter().filter(|s| !s.really_finished || table.listed.contains(&s.id));
            let splits = kept.map(split).collect();
            let source = specification.source.snapshot();
            saved.insert(specification.name.clone(), SavedTable { splits, floor, source });
        }
        saved
    }
}

/// The watermark column raised to `floor`.
fn with_floor(batch: &RecordBatch, floor: i64) -> Result<RecordBatch> {
    let Ok(index) = batch.schema_ref().index_of(WATERMARK_COLUMN) else { return Ok(batch.clone()) };
    let raised: Int64Array = batch.column(index).as_primitive::<Int64Type>().unary(|ms| ms.max(floor));
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    debug_assert_eq!(raised.len(), batch.num_rows());
    columns[index] = Arc::new(raised);
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &options)?)
}
