//! One task for each sink: it flushes an epoch while the next one is computed.
//!
//! What is about to appear is logged first; that it has appeared is said by the next entry of this sink, and where none follows at once, by
//! one of its own ([`Writer::settle`]). Until then a run after a kill lets it appear once more, which fails if somebody has taken it away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use tokio::sync::{mpsc, oneshot};

use super::changes::WaitingChanges;
use super::checkpoints::{CheckpointOrder, Report};
use super::error_orders::{ErrorsOrder, gone, refuse};
use super::patience::{FINISH_PATIENCE, FLUSH_PATIENCE, Patience};
use super::reader::{rejected_row, row_json};
use super::repeat::Committed;
use super::unwritten::Unwritten;
use crate::contracts::{
    Committable, EpochLog, EpochNumber, Error, LogEntry, RefusedRow, RejectReason, RejectedRecord, Result, Sink,
    batch_bytes, crash_point,
};
use crate::operators::StateLimit;
use crate::state::OperatorState;

/// What a writer is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Write the rows of an epoch and make them visible.
    Epoch {
        epoch: EpochNumber,
        now_ms: i64,
        /// The job has gone back, and these are rows that others have had.
        catches_up: bool,
        /// A run before has cut the epoch, and may have written it.
        repeats: bool,
        changes: Vec<WaitingChanges>,
    },
    /// Say up to which epoch all rows are durable, after everything before has been done.
    Checkpoint(CheckpointOrder),
    /// The run has ended in order: close what is open, and let it appear. One that ends otherwise leaves open files to the next run,
    /// which has their rows again: if they appeared now, they would lack what follows, and partitions would be called complete.
    Finish,
}

/// What a writer did.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) rows: u64,
    pub(crate) refused: BTreeMap<String, u64>,
}

/// Epochs that may wait for a sink before the queries wait too.
pub(crate) const EPOCHS_WAITING: usize = 2;

/// Bytes of rows from disk after which a sink that buffers them is flushed.
const FLUSHED_BYTES: usize = 8 << 20;

/// What a writer has of the run's life beside its sink.
#[derive(Default)]
pub(crate) struct WriterLog {
    /// What is about to appear is written there first.
    pub(crate) log: Option<Arc<dyn EpochLog>>,
    /// What a run that did not end in order had written there.
    pub(crate) committed: Committed,
    /// The last epoch of the saved state, which the run goes on from.
    pub(crate) after: EpochNumber,
    /// The last epoch whose refused rows have been reported.
    pub(crate) told_through: EpochNumber,
    /// The last epoch that the writer is not given again.
    pub(crate) last: EpochNumber,
    /// Whether an epoch may be flushed in parts: no two of its rows have the same key. Else the older one of them would be there after the
    /// first part, under the same version as the newer one: when the epoch is repeated, a value would go back.
    pub(crate) in_parts: bool,
    /// Whether rows in open files are to be kept for checkpoints: the query has state, so it cannot give them again.
    pub(crate) keeps_rows: bool,
    /// How many of them may be in memory.
    pub(crate) limit: Option<StateLimit>,
    /// Such rows of the run before.
    pub(crate) unwritten: Option<OperatorState>,
    /// What the sink of the run before wanted to be kept.
    pub(crate) sink: Option<String>,
    /// Where the writer says when its sink wants an epoch to end, whether or not rows come.
    pub(crate) due: Arc<AtomicI64>,
    /// Where the writer says at which epoch it is.
    pub(crate) writes: Arc<AtomicU64>,
    /// Where the writer says that it has recovered.
    pub(crate) recovered: Option<oneshot::Sender<()>>,
    /// Comes when all writers of the run have. Before that none may write: the first row has a sink of files remove what runs
    /// before have left in its folder, and what another sink has promised may lie there too. (Each has its own: those who wait for one
    /// `watch` are woken in an order that is left to chance.)
    pub(crate) all_recovered: Option<oneshot::Receiver<()>>,
    /// How long the sink may take when the run is asked to stop.
    pub(crate) patience: Option<Patience>,
}

/// Runs until it is told to finish, or the channel closes.
pub(crate) async fn run_writer(
    query: String,
    sink: Box<dyn Sink>,
    mut orders: mpsc::Receiver<Order>,
    errors: mpsc::Sender<ErrorsOrder>,
    start: WriterLog,
) -> Result<Written> {
    let patience_of_rows = if sink.closes_files() { FINISH_PATIENCE } else { FLUSH_PATIENCE };
    let mut writer = Writer {
        query,
        sink,
        patience_of_rows,
        errors,
        log: start.log,
        after: start.after,
        told_through: start.told_through,
        last: start.last,
        in_parts: start.in_parts,
        unwritten: start.keeps_rows.then(|| Unwritten::new(start.limit)),
        written: Written::default(),
        unsettled: None,
        due: start.due,
        writes: start.writes,
        patience: start.patience,
    };
    let query = writer.query.clone();
    let run = async {
        writer.recover(start.committed, start.sink.as_deref(), start.unwritten).await?;
        if let Some(recovered) = start.recovered {
            // A run that does not wait any more has failed for a reason of its own.
            let _ = recovered.send(());
        }
        if let Some(all) = start.all_recovered {
            let failed = |_| Error::internal("the run has failed before all its sinks had recovered");
            all.await.map_err(failed)?;
        }
        writer.write_again().await?;
        writer.tell_due();
        loop {
            let order = match orders.try_recv() {
                Ok(order) => order,
                Err(mpsc::error::TryRecvError::Disconnected) => break,
                Err(mpsc::error::TryRecvError::Empty) => {
                    writer.settle().await?;
                    let Some(order) = orders.recv().await else { break };
                    order
                }
            };
            match order {
                Order::Epoch { epoch, now_ms, catches_up, repeats, changes } => {
                    writer.sink.catches_up(catches_up);
                    writer.sink.repeats(repeats);
                    writer.write(epoch, now_ms, changes).await?;
                }
                Order::Checkpoint(order) => order.report(writer.report()).await,
                Order::Finish => {
                    let staged = within(&writer.patience, FINISH_PATIENCE, writer.sink.finish(writer.last)).await?;
                    writer.commit(writer.last, staged).await?;
                    writer.settle().await?;
                    break;
                }
            }
        }
        Ok(writer.written)
    };
    run.await.map_err(|e: Error| e.context(format!("query '{query}'")))
}

/// A sink and what is known of it.
struct Writer {
    query: String,
    sink: Box<dyn Sink>,
    errors: mpsc::Sender<ErrorsOrder>,
    log: Option<Arc<dyn EpochLog>>,
    after: EpochNumber,
    told_through: EpochNumber,
    last: EpochNumber,
    in_parts: bool,
    unwritten: Option<Unwritten>,
    written: Written,
    /// The epoch of what has appeared, while the log does not say so.
    unsettled: Option<EpochNumber>,
    due: Arc<AtomicI64>,
    writes: Arc<AtomicU64>,
    patience: Option<Patience>,
    /// How long the sink may take for the rows of an epoch when the run is asked to stop.
    patience_of_rows: Duration,
}

/// A call of a sink.
async fn within<T>(patience: &Option<Patience>, most: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    within_of("the sink", patience, most, call).await
}

/// What is waited for of somebody.
async fn within_of<T>(
    whom: &str,
    patience: &Option<Patience>,
    most: Duration,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    match patience {
        Some(patience) => patience.within(whom, most, call).await,
        None => call.await,
    }
}

impl Writer {
    /// Reaches the sink, lets appear what a run before has staged, and takes what that had in open files.
    async fn recover(
        &mut self,
        committed: Committed,
        snapshot: Option<&str>,
        unwritten: Option<OperatorState>,
    ) -> Result<()> {
        self.sink.open().await?;
        if let Some(snapshot) = snapshot {
            self.sink.restore(snapshot)?;
        }
        let Committed { appeared, promised, through } = committed;
        let unsettled = (!promised.is_empty()).then_some(EpochNumber(through));
        if !appeared.is_empty() || !promised.is_empty() {
            self.sink.recover(appeared, promised).await?;
        }
        self.unsettled = unsettled;
        if let (Some(held), Some(state)) = (&mut self.unwritten, unwritten) {
            held.restore(state)?;
        }
        let oldest = self.unwritten.as_ref().and_then(|held| held.epochs().next()).map(|kept| kept.epoch);
        let next = self.last.next();
        self.sink.check_repeat(oldest.map_or(next, |oldest| oldest.min(next)))
    }

    /// Writes again what a run before had in open files, and no epoch gives again.
    async fn write_again(&mut self) -> Result<()> {
        let Some(held) = self.unwritten.take() else { return Ok(()) };
        for kept in held.epochs() {
            let mut last_ms = 0;
            for changes in kept.changes() {
                let (now_ms, changes) = changes?;
                within(&self.patience, self.patience_of_rows, self.sink.write(kept.epoch, changes)).await?;
                last_ms = now_ms;
            }
            within(&self.patience, self.patience_of_rows, self.sink.flush(kept.epoch, last_ms)).await?;
            let staged = self.sink.prepare(kept.epoch).await?;
            // (A job that has gone back needs nothing that its log has up to there.)
            self.commit(kept.epoch.max(self.after), staged).await?;
        }
        self.unwritten = Some(held);
        Ok(())
    }

    async fn write(&mut self, epoch: EpochNumber, now_ms: i64, changes: Vec<WaitingChanges>) -> Result<()> {
        self.last = epoch;
        self.writes.store(epoch.0, Ordering::Relaxed);
        let (mut refused, mut refused_by_service, mut buffered, mut rooms) = (Vec::new(), false, 0, Vec::new());
        for changes in changes {
            let from_disk = !matches!(changes, WaitingChanges::Held(..));
            let (changes, room) = changes.load()?;
            // A sink may hold them until it is flushed.
            rooms.extend(room);
            if let Some(unwritten) = &mut self.unwritten {
                unwritten.add(epoch, now_ms, &changes)?;
            }
            let batch = changes.batch.clone();
            let outcome = within(&self.patience, self.patience_of_rows, self.sink.write(epoch, changes)).await?;
            self.written.rows += outcome.written;
            refused.extend(outcome.refused.into_iter().map(|row| refusal(&self.query, Some(&batch), row)));
            buffered += if from_disk { batch_bytes(&batch) } else { 0 };
            if buffered > FLUSHED_BYTES && self.in_parts && self.sink.flushes_parts() {
                buffered = 0;
                let outcome = within(&self.patience, self.patience_of_rows, self.sink.flush(epoch, now_ms)).await?;
                refused_by_service |= !outcome.refused.is_empty();
                refused.extend(outcome.refused.into_iter().map(|row| refusal(&self.query, None, row)));
                rooms.clear();
            }
        }
        let outcome = within(&self.patience, self.patience_of_rows, self.sink.flush(epoch, now_ms)).await?;
        drop(rooms);
        refused_by_service |= !outcome.refused.is_empty();
        refused.extend(outcome.refused.into_iter().map(|row| refusal(&self.query, None, row)));
        for record in &refused {
            *self.written.refused.entry(record.reason.to_string()).or_default() += 1;
        }
        if epoch > self.told_through {
            let waits = refused_by_service && !refused.is_empty();
            refuse(&self.errors, refused).await?;
            if waits {
                self.told().await?;
            }
        }
        crash_point("sink.flushed");
        let staged = self.sink.prepare(epoch).await?;
        self.commit(epoch, staged).await?;
        if let Some(unwritten) = &mut self.unwritten {
            unwritten.forget(self.sink.open_since());
        }
        self.tell_due();
        Ok(())
    }

    /// Waits until the error output has all that was sent to it. What a service refuses may not be refused when the epoch is repeated after a
    /// kill, where the next one has written the same item: nothing would tell of it then.
    async fn told(&mut self) -> Result<()> {
        let (done, told) = oneshot::channel();
        let told = async {
            self.errors.send(ErrorsOrder::Flush(done)).await.map_err(|_| gone())?;
            told.await.map_err(|_| gone())
        };
        within_of("the error output", &self.patience, FLUSH_PATIENCE, told).await
    }

    /// Says when the sink wants an epoch to end.
    fn tell_due(&self) {
        self.due.store(self.sink.wants_flush_at().unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Lets staged effects appear, once the log names them.
    async fn commit(&mut self, epoch: EpochNumber, staged: Vec<Committable>) -> Result<()> {
        if staged.is_empty() {
            return Ok(());
        }
        crash_point("staged");
        if let Some(log) = &self.log {
            let payloads = staged.iter().map(|committable| committable.payload.clone()).collect();
            log.append(&LogEntry::Committed { query: self.query.clone(), epoch: epoch.0, payloads }).await?;
        }
        crash_point("committable.logged");
        within(&self.patience, FINISH_PATIENCE, self.sink.commit(staged)).await?;
        crash_point("committed");
        self.unsettled = Some(epoch);
        Ok(())
    }

    /// Has the log say that all has appeared.
    async fn settle(&mut self) -> Result<()> {
        if let (Some(log), Some(epoch)) = (&self.log, self.unsettled.take()) {
            crash_point("settle.before");
            let (query, payloads) = (self.query.clone(), Vec::new());
            log.append(&LogEntry::Committed { query, epoch: epoch.0, payloads }).await?;
        }
        Ok(())
    }

    /// Everything that was written has been committed, or lies in open files.
    fn report(&self) -> Report {
        let durable_epoch = match self.sink.open_since() {
            Some(since) => EpochNumber(since.0.saturating_sub(1)),
            None => EpochNumber(u64::MAX),
        };
        let unwritten = self.unwritten.as_ref().and_then(Unwritten::snapshot);
        Report::Sink { query: self.query.clone(), durable_epoch, unwritten, sink: self.sink.snapshot() }
    }
}

fn refusal(query: &str, batch: Option<&RecordBatch>, row: RefusedRow) -> RejectedRecord {
    let record = row.record.unwrap_or_else(|| batch.map(|b| row_json(b, row.row)).unwrap_or_default());
    rejected_row(query, RejectReason::SinkRefused(row.reason), row.column, row.detail, record)
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
