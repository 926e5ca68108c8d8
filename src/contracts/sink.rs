//! Sinks: where results go.

use arrow::array::RecordBatch;
use async_trait::async_trait;

use super::error::{Error, Result};
use super::time::EpochNumber;

/// What a row does to the sink's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Insert the row, or replace the row of the same primary key.
    Upsert,
    /// Remove the row of this primary key; other columns carry no meaning.
    Delete,
}

/// Rows for a sink, in the column order of the INSERT (see [`TableSpec`](super::TableSpec)).
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// The rows. Column names are those of the sink's columns that the INSERT writes.
    pub batch: RecordBatch,
    /// What each row does; `None` means that all rows are upserts (or plain appends). A primary key
    /// occurs at most once in the changes of one query and epoch.
    pub kinds: Option<Vec<ChangeKind>>,
}

/// A row that the sink cannot store. The rest of the batch has been taken.
#[derive(Debug, Clone)]
pub struct RefusedRow {
    /// Row in the batch.
    pub row: usize,
    /// Short reason for counting, e.g. `key_too_long`.
    pub reason: String,
    /// Column to blame.
    pub column: Option<String>,
    /// What was found.
    pub detail: String,
    /// What was refused, as text or JSON, where the batch is not at hand any more: of a refusal by [`Sink::flush`].
    pub record: Option<Vec<u8>>,
}

/// What became of a written batch.
#[derive(Debug, Default)]
pub struct WriteOutcome {
    /// Rows taken.
    pub written: u64,
    /// Rows refused; the runtime sends them to the error output.
    pub refused: Vec<RefusedRow>,
}

/// An effect that is staged and waits for the checkpoint that names it (e.g. a finished file).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committable {
    /// Opaque to everything but the sink; UTF-8 text so that manifests stay readable.
    pub payload: String,
}

/// A writable table.
///
/// # Contract
/// - `open` is called once, before the first `write`, also when nothing will be written.
/// - `write` may buffer. When `flush(epoch)` returns, keyed results of that epoch are visible;
///   files may stay open over many epochs.
/// - `prepare` stages what is to become visible with a checkpoint; `commit` makes it so and is
///   idempotent: committing twice, also in another process, changes nothing.
/// - `finish` ends the input: open files are closed and staged, as `prepare`.
/// - Writing the same epoch again leaves the same table (replay).
///
/// A sink whose rows are visible when `flush` returns stages nothing and holds nothing back: for it most methods are there.
#[async_trait]
pub trait Sink: Send {
    /// Reaches the service, so that a missing table or right is found before the first row.
    async fn open(&mut self) -> Result<()> {
        Ok(())
    }

    /// Goes on after a run that did not end in order; called once, after `open`, before the first `write`, with what that run had
    /// staged and logged, in order. What is `promised` may be visible or not, and is now made so; what has `appeared` was visible
    /// by then, as the last saved state or the log says, and need not be there any more: whoever reads it may have taken it away.
    /// The epochs in both may be written again; a sink that can tell leaves them out.
    async fn recover(&mut self, _appeared: Vec<Committable>, promised: Vec<Committable>) -> Result<()> {
        self.commit(promised).await
    }

    /// Whether the sink can tell rows that are written again from those that were: of epochs from `first` on, as the run before had given them.
    /// Called once, after `recover`, before any sink of the run is given a row.
    ///
    /// # Errors
    /// The table is another than it was, in such a way that rows would be there twice, or not at all.
    fn check_repeat(&self, _first: EpochNumber) -> Result<()> {
        Ok(())
    }

    /// What a later run must know beside rows and committables, as text; taken between two epochs, when nothing is staged.
    fn snapshot(&self) -> Option<String> {
        None
    }

    /// Takes what [`Self::snapshot`] gave in an earlier run; called before `recover`.
    fn restore(&mut self, _snapshot: &str) -> Result<()> {
        Ok(())
    }

    /// The first epoch of which rows lie in open files, where some do: those are lost in a crash, and written again.
    fn open_since(&self) -> Option<EpochNumber> {
        None
    }

    /// Whether the epochs that follow are such as catch up: the job has gone back, and the sink is given once more rows of which others
    /// are still to come. What is held to be complete by the time that has passed is not complete then, though these epochs have the time of today.
    fn catches_up(&mut self, _catches_up: bool) {}

    /// Whether the epochs that follow are such as a run before has cut, which may have written them, and later ones. The others are later than
    /// all that the job has written.
    fn repeats(&mut self, _repeats: bool) {}

    /// Takes rows of an epoch.
    async fn write(&mut self, epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome>;

    /// Ends an epoch. `now_ms` is the epoch's time, for rolling by age.
    async fn flush(&mut self, epoch: EpochNumber, now_ms: i64) -> Result<WriteOutcome>;

    /// Whether an epoch of more rows than memory may have is flushed in parts: `flush` sends what `write` has buffered, and more
    /// rows of the same epoch follow. For sinks that buffer the rows of an epoch, and for which it makes no difference.
    fn flushes_parts(&self) -> bool {
        false
    }

    /// Whether `write` and `flush` close and upload files, which takes longer than sending the rows of an epoch.
    fn closes_files(&self) -> bool {
        false
    }

    /// Time (as of `flush`) from which it wants an epoch to end, though no row has come for it: something is too old to
    /// wait longer.
    fn wants_flush_at(&self) -> Option<i64> {
        None
    }

    /// Stages effects for a checkpoint.
    async fn prepare(&mut self, _epoch: EpochNumber) -> Result<Vec<Committable>> {
        Ok(Vec::new())
    }

    /// Makes staged effects visible. A sink that stages nothing cannot: it is given some where the table was another's when the run
    /// before staged them.
    async fn commit(&mut self, committables: Vec<Committable>) -> Result<()> {
        if committables.is_empty() {
            return Ok(());
        }
        let error = "the run before has promised files of the table, which had another connector, and they may not have appeared yet";
        Err(Error::config(error).hint("undo the change and run once with --once"))
    }

    /// Closes everything that is open and stages it; called once, after the last flush.
    async fn finish(&mut self, _epoch: EpochNumber) -> Result<Vec<Committable>> {
        Ok(Vec::new())
    }
}
