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

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::crew::Crew;
use super::progress::{LastCheckpoint, Progress};
use super::writer::ErrorsOrder;
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
    /// State of a query's operators.
    State { query: String, plan: String, operators: Vec<OperatorState> },
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
    /// Positions at the end of earlier checkpoints' epochs, from which epochs may have to be cut again.
    history: VecDeque<Reread>,
    /// No epoch has been cut behind the last of these points.
    is_fresh: bool,
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
        let mut history: VecDeque<Reread> = saved.reread.iter().cloned().collect();
        // Where some queries have still to catch up with the others, the point where these stand has no epoch yet.
        let is_fresh =
            !history.back().is_some_and(|reread| reread.catch_up.is_some() && reread.after_epoch == saved.epoch);
        if is_fresh {
            let tables = saved.tables.clone();
            history.push_back(point(EpochNumber(saved.epoch), tables));
        }
        Self {
            state: Begun::Idle(Box::new(checkpointing.store)),
            interval: checkpointing.interval,
            last: clock.elapsed(),
            clock,
            crew,
            log,
            generation,
            history,
            is_fresh,
            counts: CheckpointCounts::default(),
            progress,
        }
    }

    /// The run has begun to read these tables, which earlier points do not know.
    pub(crate) fn begun(&mut self, tables: BTreeMap<String, SavedTable>) {
        for (name, table) in tables {
            for reread in self.history.iter_mut().filter(|reread| !reread.tables.contains_key(&name)) {
                reread.tables.insert(name.clone(), table.clone());
            }
        }
    }

    /// An epoch has been cut; records that arrived before `oldest_ms` were too old for it.
    pub(crate) fn cut(&mut self, oldest_ms: Option<i64>) {
        // The first one behind a point took the oldest; later ones may have had another setting.
        if std::mem::take(&mut self.is_fresh)
            && let Some(reread) = self.history.back_mut()
        {
            reread.oldest_ms = oldest_ms;
        }
    }

    /// Queries have caught up with the others at the end of `epoch`.
    pub(crate) fn caught_up(&mut self, epoch: EpochNumber) {
        let others = self.history.back().and_then(|reread| reread.catch_up.as_ref());
        // In epochs of the log, it was so before the checkpoint.
        if let Some(tables) = others.map(|others| others.tables.clone()) {
            self.history.push_back(point(epoch, tables));
            self.is_fresh = true;
        }
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
            history: self.history.iter().cloned().collect(),
            clock: Arc::clone(&self.clock),
            log: self.log.clone(),
            generation: self.generation,
            errors,
        };
        self.history.push_back(point(epoch, tables.clone()));
        self.is_fresh = true;
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
                    while self.history.get(1).is_some_and(|reread| reread.after_epoch <= done.needed_after) {
                        self.history.pop_front();
                    }
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

/// Where tables stand at the end of an epoch.
fn point(epoch: EpochNumber, tables: BTreeMap<String, SavedTable>) -> Reread {
    Reread { after_epoch: epoch.0, tables, ..Reread::default() }
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
    history: Vec<Reread>,
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
                Report::State { query, plan, operators } => {
                    let saved = queries.entry(query).or_default();
                    (saved.plan, saved.operators) = (plan, operators);
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
    /// A query without state whose sink has rows in open files gets these epochs once more. The newest earlier checkpoint
    /// that is old enough knows the positions.
    fn needed(&self, queries: &BTreeMap<String, SavedQuery>) -> (Option<Reread>, u64) {
        let stateless = queries.values().filter(|query| query.operators.is_empty());
        let least = stateless.map(|query| query.durable_epoch).min().unwrap_or(self.epoch);
        let reread = if least < self.epoch {
            let known = self.history.iter().rev().find(|reread| reread.after_epoch <= least);
            known.or(self.history.first()).cloned()
        } else {
            None
        };
        let after = Reread::repeats_after(reread.as_ref(), self.epoch);
        // What sinks have committed in the epochs that are written again is known from the log.
        let log_after = queries.values().map(|query| query.durable_epoch).min().map_or(after, |least| least.min(after));
        (reread, log_after)
    }
}
