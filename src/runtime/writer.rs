//! One task for each sink: it flushes an epoch while the next one is computed.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use tokio::sync::mpsc;

use super::reader::row_json;
use crate::contracts::{
    Changes, Committable, EpochLog, EpochNumber, Error, ErrorOutput, LogEntry, RefusedRow, RejectReason,
    RejectedRecord, Result, Sink,
};

/// What a writer is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Write the rows of an epoch and make them visible.
    Epoch { epoch: EpochNumber, now_ms: i64, changes: Vec<Changes> },
}

/// What a writer did.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) rows: u64,
    pub(crate) refused: BTreeMap<String, u64>,
}

/// Epochs that may wait for a sink before the queries wait too.
pub(crate) const EPOCHS_WAITING: usize = 2;

/// What a writer has of the run's life beside its sink.
#[derive(Default)]
pub(crate) struct WriterLog {
    /// What is about to appear is written there first.
    pub(crate) log: Option<Arc<dyn EpochLog>>,
    /// What a run that did not end in order had written there.
    pub(crate) committed: Vec<Committable>,
    /// The last epoch of the saved state, which the run goes on from.
    pub(crate) after: EpochNumber,
}

/// Runs until the channel closes, then closes the sink.
pub(crate) async fn run_writer(
    query: String,
    mut sink: Box<dyn Sink>,
    mut orders: mpsc::Receiver<Order>,
    errors: mpsc::Sender<Vec<RejectedRecord>>,
    WriterLog { log, committed, after }: WriterLog,
) -> Result<Written> {
    let mut written = Written::default();
    let mut last = after;
    let context = |error: Error| error.context(format!("query '{query}'"));
    sink.open().await.map_err(context)?;
    if !committed.is_empty() {
        sink.recover(committed).await.map_err(context)?;
    }
    while let Some(Order::Epoch { epoch, now_ms, changes }) = orders.recv().await {
        last = epoch;
        let mut refused = Vec::new();
        for changes in changes {
            let batch = changes.batch.clone();
            let outcome = sink.write(epoch, changes).await.map_err(context)?;
            written.rows += outcome.written;
            refused.extend(outcome.refused.into_iter().map(|row| refusal(&query, Some(&batch), row)));
        }
        let outcome = sink.flush(epoch, now_ms).await.map_err(context)?;
        refused.extend(outcome.refused.into_iter().map(|row| refusal(&query, None, row)));
        for record in &refused {
            *written.refused.entry(record.reason.to_string()).or_default() += 1;
        }
        if !refused.is_empty() && errors.send(refused).await.is_err() {
            return Err(context(Error::internal("the error output has gone")));
        }
        let staged = sink.prepare(epoch).await.map_err(context)?;
        commit(&query, sink.as_mut(), log.as_ref(), epoch, staged).await.map_err(context)?;
    }
    let staged = sink.finish(last).await.map_err(context)?;
    commit(&query, sink.as_mut(), log.as_ref(), last, staged).await.map_err(context)?;
    Ok(written)
}

/// Lets staged effects appear, once the log names them.
async fn commit(
    query: &str,
    sink: &mut dyn Sink,
    log: Option<&Arc<dyn EpochLog>>,
    epoch: EpochNumber,
    staged: Vec<Committable>,
) -> Result<()> {
    if staged.is_empty() {
        return Ok(());
    }
    if let Some(log) = log {
        let payloads = staged.iter().map(|committable| committable.payload.clone()).collect();
        log.append(&LogEntry::Committed { query: query.to_owned(), epoch: epoch.0, payloads }).await?;
    }
    sink.commit(staged).await
}

fn refusal(query: &str, batch: Option<&RecordBatch>, row: RefusedRow) -> RejectedRecord {
    RejectedRecord {
        origin: query.to_owned(),
        stream: String::new(),
        split: String::new(),
        sequence_number: String::new(),
        arrival_ms: None,
        reason: RejectReason::SinkRefused(row.reason),
        column: row.column,
        detail: row.detail,
        record: batch.map(|b| row_json(b, row.row)).unwrap_or_default(),
    }
}

/// Writes refused records until the channel closes.
pub(crate) async fn run_errors(
    mut output: Box<dyn ErrorOutput>,
    mut records: mpsc::Receiver<Vec<RejectedRecord>>,
) -> Result<()> {
    while let Some(list) = records.recv().await {
        output.write(&list).await?;
        while let Ok(more) = records.try_recv() {
            output.write(&more).await?;
        }
        output.flush().await?;
    }
    output.flush().await
}
