//! Checkpoints of a running job.
//!
//! ```text
//!   driver: epoch N is cut ─► order ─► each query's task: its state ─► its writer: up to where its sink is durable
//!                                            │ report                         │ report
//!                                            └──────────► collector ◄─────────┘
//!                                                            │ state files, manifest; then the log is shortened
//! ```
//!
//! An order goes through the same queues as epochs do, so what is reported is as of the end of epoch N, and nothing
//! waits: batches are shared with the collector, which encodes and writes them while later epochs are computed. One
//! checkpoint is under way at a time; when it takes longer than the interval, the next one begins when it has ended.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::crew::Crew;
use super::error_orders::ErrorsOrder;
use super::points::{Points, newest_before};
use super::progress::{LastCheckpoint, Progress};
use crate::contracts::{Clock, EpochLog, EpochNumber, Error, ErrorKind, Result, crash_point};
use crate::state::{CheckpointStore, OperatorState, Reread, SavedJob, SavedQuery, SavedTable, Stamp};

/// Where a run keeps its checkpoints, and how often it makes one.
pub struct Checkpointing {
    /// The checkpoints.
    pub store: CheckpointStore,
    /// Time between two; zero is only at the end of the run.
    pub interval: Duration,
}

/// What a part of a query says for a checkpoint.
#[derive(Debug)]
pub(crate) enum Report {
    /// State of a query's operators, and what it is known by; nothing of its sink.
    State { query: String, state: SavedQuery },
    /// Up to which epoch a query's rows are durable in its sink, and those that are not and cannot be computed again.
    Sink { query: String, durable_epoch: EpochNumber, unwritten: Option<OperatorState>, sink: Option<String> },
}

/// Asks a query for its reports; sent after the last epoch that they are to contain.
#[derive(Debug, Clone)]
pub(crate) struct CheckpointOrder {
    reports: mpsc::Sender<Report>,
}

impl CheckpointOrder {
    /// Gives a report. There is room for all: nothing waits.
    pub(crate) async fn report(&self, report: Report) {
        // A collector that has gone has failed, and says so itself.
        let _ = self.reports.send(report).await;
    }
}

/// What checkpoints have cost in a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointCounts {
    /// How many were made.
    pub checkpoints: u64,
    /// How many could not be written, and were followed by a later one.
    pub failed: u64,
    /// Bytes written by all of them.
    pub written_bytes: u64,
    /// Bytes that the last one names.
    pub total_bytes: u64,
    /// From the order to the manifest: the longest, and all together.
    pub longest: Duration,
    /// See `longest`.
    pub together: Duration,
}

impl CheckpointCounts {
    fn add(&mut self, written_bytes: u64, total_bytes: u64, took: Duration) {
        self.checkpoints += 1;
        self.written_bytes += written_bytes;
        self.total_bytes = total_bytes;
        self.longest = self.longest.max(took);
        self.together += took;
    }
}

/// Makes the checkpoints of a run.
pub(crate) struct Checkpointer {
    state: Begun,
    interval: Duration,
    clock: Arc<dyn Clock>,
    crew: Crew,
    log: Option<Arc<dyn EpochLog>>,
    generation: u64,
    /// When the last one began.
    last: Duration,
    points: Points,
    counts: CheckpointCounts,
    progress: Arc<Progress>,
}

/// The store is with the checkpoint that is under way.
enum Begun {
    Idle(Box<CheckpointStore>),
    UnderWay(JoinHandle<(Box<CheckpointStore>, Result<Option<Done>>)>),
    Lost,
}

/// What a checkpoint has brought.
struct Done {
    cost: LastCheckpoint,
    total_bytes: u64,
    /// The last epoch that nobody needs again.
    needed_after: u64,
}

impl Checkpointer {
    /// A run begins after the epoch and with the tables of `saved`.
    pub(crate) fn new(
        checkpointing: Checkpointing,
        saved: &SavedJob,
        log: Option<Arc<dyn EpochLog>>,
        generation: u64,
        clock: Arc<dyn Clock>,
        crew: Crew,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            state: Begun::Idle(Box::new(checkpointing.store)),
            interval: checkpointing.interval,
            last: clock.elapsed(),
            clock,
            crew,
            log,
            generation,
            points: Points::of(saved),
            counts: CheckpointCounts::default(),
            progress,
        }
    }

    /// An epoch has been cut, or is repeated; records that arrived before `oldest_ms` were too old for it.
    pub(crate) fn cut(&mut self, epoch: EpochNumber, oldest_ms: Option<i64>) {
        self.points.cut(epoch, oldest_ms);
    }

    /// The run has begun to read these tables, which earlier points do not know.
    pub(crate) fn begun(&mut self, tables: &BTreeMap<String, SavedTable>) {
        self.points.begun(tables);
    }

    /// Queries have caught up with the others at the end of `epoch`.
    pub(crate) fn caught_up(&mut self, epoch: EpochNumber) {
        self.points.caught_up(epoch);
    }

    /// Whether it is time for the next one.
    pub(crate) async fn is_due(&mut self) -> Result<bool> {
        if let Begun::UnderWay(task) = &self.state
            && !task.is_finished()
        {
            return Ok(false);
        }
        self.settle().await?;
        Ok(!self.interval.is_zero() && self.clock.elapsed().saturating_sub(self.last) >= self.interval)
    }

    /// Begins a checkpoint after `epoch`. The order is for each of `queries` queries and its writer; what they and the driver
    /// have sent to `errors` before is part of it.
    pub(crate) async fn begin(
        &mut self,
        epoch: EpochNumber,
        tables: BTreeMap<String, SavedTable>,
        queries: usize,
        errors: mpsc::Sender<ErrorsOrder>,
    ) -> Result<CheckpointOrder> {
        self.settle().await?;
        let Begun::Idle(mut store) = std::mem::replace(&mut self.state, Begun::Lost) else {
            return Err(Error::internal("the checkpoints of the job were lost"));
        };
        self.last = self.clock.elapsed();
        let (reports, receiver) = mpsc::channel(2 * queries.max(1));
        let collect = Collect {
            epoch: epoch.0,
            queries,
            choice: self.points.choice(&tables),
            clock: Arc::clone(&self.clock),
            log: self.log.clone(),
            generation: self.generation,
            errors,
        };
        self.points.add(epoch.0, tables.clone());
        self.state = Begun::UnderWay(self.crew.spawn(async move {
            let done = collect.run(&mut store, tables, receiver).await;
            (store, done)
        }));
        Ok(CheckpointOrder { reports })
    }

    /// Waits for the checkpoint that is under way.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        if let Begun::UnderWay(task) = &mut self.state {
            let (store, done) =
                task.await.map_err(|e| Error::internal("the task that writes checkpoints died").caused_by(e))?;
            self.state = Begun::Idle(store);
            match done {
                Ok(Some(done)) => {
                    let LastCheckpoint { took, written_bytes, .. } = done.cost;
                    self.counts.add(written_bytes, done.total_bytes, took);
                    *self.progress.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(done.cost);
                    let (ms, named) = (took.as_millis(), done.total_bytes);
                    tracing::info!("checkpoint of {written_bytes} bytes in {ms} ms, which names {named}");
                    self.points.needed_after(done.needed_after);
                }
                Ok(None) => {}
                // The log still has everything since the last one: a later one makes up for it.
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    self.counts.failed += 1;
                    tracing::warn!("no checkpoint: {error}");
                }
                Err(error) => return Err(error.context("checkpoint")),
            }
        }
        Ok(())
    }

    /// The last checkpoint of a run that ends in order: everything is durable, nothing of the log is needed.
    pub(crate) async fn finish(mut self, saved: &SavedJob) -> Result<CheckpointCounts> {
        self.settle().await?;
        let Begun::Idle(mut store) = self.state else {
            return Err(Error::internal("the checkpoints of the job were lost"));
        };
        let began = self.clock.elapsed();
        let stamp = Stamp { generation: self.generation, time_ms: self.clock.now_ms() };
        let committed = match store.commit(saved, saved.epoch, stamp).await {
            // A number that this run has taken already, without knowing it.
            Err(e) if e.kind() == ErrorKind::Unavailable => store.commit(saved, saved.epoch, stamp).await,
            committed => committed,
        };
        let committed = committed.map_err(|e| e.context("the last checkpoint"))?;
        let took = self.clock.elapsed().saturating_sub(began);
        tidy(&store, self.log.as_ref(), saved.epoch).await?;
        self.counts.add(committed.written_bytes, committed.total_bytes, took);
        Ok(self.counts)
    }
}

/// Removes what a checkpoint makes needless. What cannot be removed now is removed later.
async fn tidy(store: &CheckpointStore, log: Option<&Arc<dyn EpochLog>>, log_after: u64) -> Result<()> {
    let swept = store.sweep().await;
    let shortened = match log {
        Some(log) => {
            crash_point("forget.before");
            log.forget(log_after).await
        }
        None => Ok(()),
    };
    crash_point("forget.after");
    for outcome in [swept, shortened] {
        match outcome {
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Config) => {
                tracing::warn!("not tidied: {error}");
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

/// One checkpoint.
struct Collect {
    epoch: u64,
    queries: usize,
    /// Points of which the checkpoint may name one.
    choice: Vec<Arc<Reread>>,
    clock: Arc<dyn Clock>,
    log: Option<Arc<dyn EpochLog>>,
    generation: u64,
    errors: mpsc::Sender<ErrorsOrder>,
}

impl Collect {
    /// `None` when a query has gone before it reported: then the run fails, and says why.
    async fn run(
        self,
        store: &mut CheckpointStore,
        tables: BTreeMap<String, SavedTable>,
        mut reports: mpsc::Receiver<Report>,
    ) -> Result<Option<Done>> {
        let began = self.clock.elapsed();
        let mut queries: BTreeMap<String, SavedQuery> = BTreeMap::new();
        let mut missing = 2 * self.queries;
        while let Some(report) = reports.recv().await {
            missing -= 1;
            match report {
                Report::State { query, state } => {
                    let saved = queries.entry(query).or_default();
                    let (durable_epoch, unwritten) = (saved.durable_epoch, saved.unwritten.take());
                    *saved = SavedQuery { durable_epoch, unwritten, sink: saved.sink.take(), ..state };
                }
                Report::Sink { query, durable_epoch, unwritten, sink } => {
                    let saved = queries.entry(query).or_default();
                    saved.durable_epoch = durable_epoch.0.min(self.epoch);
                    (saved.unwritten, saved.sink) = (unwritten, sink);
                }
            }
            if missing == 0 {
                break;
            }
        }
        if missing > 0 {
            return Ok(None);
        }
        // Records that were refused are not read again: they must be in the error output.
        let (flushed, done) = oneshot::channel();
        if self.errors.send(ErrorsOrder::Flush(flushed)).await.is_err() || done.await.is_err() {
            return Ok(None);
        }
        crash_point("errors.flushed");
        let (reread, log_after) = self.needed(&queries);
        let saved = SavedJob { epoch: self.epoch, tables, queries, reread };
        let needed_after = saved.repeats_after();
        let stamp = Stamp { generation: self.generation, time_ms: self.clock.now_ms() };
        let committed = store.commit(&saved, log_after, stamp).await?;
        let at = self.clock.elapsed();
        let (took, written_bytes) = (at.saturating_sub(began), committed.written_bytes);
        tidy(store, self.log.as_ref(), log_after).await?;
        let cost = LastCheckpoint { at, took, written_bytes };
        Ok(Some(Done { cost, total_bytes: committed.total_bytes, needed_after }))
    }

    /// From where epochs have to be cut again, and up to where the log is not needed.
    ///
    /// A query without state whose sink has rows in open files gets these epochs once more.
    fn needed(&self, queries: &BTreeMap<String, SavedQuery>) -> (Option<Reread>, u64) {
        let stateless = queries.values().filter(|query| query.operators.is_empty());
        let least = stateless.map(|query| query.durable_epoch).min().unwrap_or(self.epoch);
        let reread = if least < self.epoch { newest_before(&self.choice, least) } else { None };
        let after = Reread::repeats_after(reread.as_ref(), self.epoch);
        // What sinks have committed in the epochs that are written again is known from the log.
        let log_after = queries.values().map(|query| query.durable_epoch).min().map_or(after, |least| least.min(after));
        (reread, log_after)
    }
}
