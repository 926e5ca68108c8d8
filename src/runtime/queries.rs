//! Queries of a run: they compute epochs at the same time, and hand what they give to their writers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use futures::future::try_join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::accounting::QueryCounts;
use super::changes::changes;
use super::checkpoints::{CheckpointOrder, Report};
use super::crew::Crew;
use super::driver::Driver;
use super::epoch::{Epoch, EpochRecords};
use super::error_orders::{ErrorsOrder, refuse};
use super::failures::Failures;
use super::gathered::origins;
use super::inputs::{Floors, Inputs};
use super::reader::{rejected, rejected_row, row_json};
use super::restored::RestoredQuery;
use super::worker::QuerySpec;
use super::writer::{EPOCHS_WAITING, Order, WriterLog, Written, run_writer};
use crate::contracts::{EpochNumber, Error, Reject, RejectReason, RejectedRecord, Result};
use crate::operators::{Compute, FailedRow, GateKind, QueryGraph, QueryOutput, RowOrigin, StateLimit};
use crate::state::SavedQuery;

/// A query and its writer.
pub(super) struct RunningQuery {
    pub(super) name: String,
    /// What a checkpoint says of it beside its states.
    known_by: SavedQuery,
    pub(super) told_through: ToldThrough,
    pub(super) graph: QueryGraph,
    tables: Vec<usize>,
    gates: Vec<GateKind>,
    key: Vec<usize>,
    schema: SchemaRef,
    limit: Option<StateLimit>,
    orders: mpsc::Sender<Order>,
    writer: JoinHandle<Result<Written>>,
    pub(super) counts: QueryCounts,
    /// Why it does not have the epoch that is computed.
    skipped: Option<String>,
    /// Up to where its windows over each table had closed before this run, or before the end of the input that was repeated: rows for them
    /// are late, though for those of other queries they may not be.
    pub(super) floors: Floors,
    /// It has had all epochs up to this one.
    pub(super) after: EpochNumber,
    /// It is given what queries with state have had before the job went back.
    pub(super) catches_up: bool,
    /// When its sink wants an epoch to end, though no row has come.
    pub(super) due: Arc<AtomicI64>,
    /// The epoch that its sink is writing.
    writes: Arc<AtomicU64>,
    /// Its sink has been reached, and shows what the run before has promised.
    recovered: oneshot::Receiver<()>,
}

/// Up to which epoch what is refused has been written by earlier runs. Epochs of open files are read again by queries without state, and
/// refuse the same records, unless something else decides of them now: then all are told once more.
#[derive(Debug, Clone, Copy)]
pub(super) struct ToldThrough {
    /// What could not be decoded.
    pub(super) by_decoding: EpochNumber,
    /// What the query and its sink refuse.
    pub(super) by_query: EpochNumber,
}

impl ToldThrough {
    /// With the state as of the epoch `saved_epoch`.
    fn of(query: &QuerySpec, saved: Option<&SavedQuery>, saved_epoch: EpochNumber) -> Self {
        let reads_again = query.graph.operators.is_empty();
        let is_same = saved.is_none_or(|saved| saved.refusal_rules == query.refusal_rules);
        let through = |is_same: bool| if reads_again && !is_same { EpochNumber(0) } else { saved_epoch };
        Self { by_decoding: through(is_same), by_query: through(is_same && !query.looks_up) }
    }
}

/// Starts a query's writer.
pub(super) fn start_query(
    restored: RestoredQuery,
    errors: mpsc::Sender<ErrorsOrder>,
    mut log: WriterLog,
    compute: &Compute,
    crew: &Crew,
) -> RunningQuery {
    let RestoredQuery { query, saved } = restored;
    let told_through = ToldThrough::of(&query, saved.as_ref(), log.after);
    let mut graph = query.graph;
    let mut after = log.after;
    let due = Arc::new(AtomicI64::new(i64::MAX));
    let writes = Arc::new(AtomicU64::new(0));
    (log.due, log.writes) = (Arc::clone(&due), Arc::clone(&writes));
    log.keeps_rows = !graph.operators.is_empty();
    log.in_parts = query.key.is_empty() || query.has_each_key_once;
    log.limit.clone_from(&compute.limit);
    log.told_through = told_through.by_query;
    if let Some(state) = saved {
        (log.unwritten, log.sink) = (state.unwritten, state.sink);
        if graph.operators.is_empty() {
            after = EpochNumber(state.durable_epoch);
            // VALUES that lie in open files are given once more: in the epoch that gave them, which is among those that it gets again.
            graph.started &= after >= log.after;
        }
    }
    log.last = after;
    let (orders, receiver) = mpsc::channel(EPOCHS_WAITING);
    let (has_recovered, recovered) = oneshot::channel();
    log.recovered = Some(has_recovered);
    let writer = crew.spawn(run_writer(query.name.clone(), query.sink, receiver, errors, log));
    let counts = QueryCounts { name: query.name.clone(), ..QueryCounts::default() };
    RunningQuery {
        name: query.name,
        known_by: SavedQuery {
            plan: query.plan,
            reads: query.reads,
            refusal_rules: query.refusal_rules,
            ..SavedQuery::default()
        },
        told_through,
        floors: graph.closed(),
        graph,
        tables: query.tables,
        gates: query.gates,
        key: query.key,
        schema: query.schema,
        limit: compute.limit.clone(),
        orders,
        writer,
        counts,
        skipped: None,
        after,
        catches_up: false,
        due,
        writes,
        recovered,
    }
}

/// Waits until the sinks of all queries have recovered.
///
/// # Errors
/// The first one of a sink.
pub(super) async fn all_recovered(queries: &mut [RunningQuery]) -> Result<()> {
    let recovered = queries.iter_mut().map(async |query| match (&mut query.recovered).await {
        Ok(()) => Ok(()),
        Err(_) => Err(writer_error(query).await),
    });
    try_join_all(recovered).await.map(drop)
}

/// Runs the epoch through all queries that are given it, at the same time; `catches_up` are those that others have had. Rows stay in `pending` until they are sent.
pub(super) async fn run_queries(
    queries: Vec<RunningQuery>,
    inputs: &Inputs<'_>,
    compute: &Compute,
    (epoch, catches_up): (EpochNumber, bool),
    failures: &mut Failures,
) -> Result<Vec<RunningQuery>> {
    let mut tasks = Vec::with_capacity(queries.len());
    for mut query in queries {
        let is_given = query.is_given(epoch, catches_up);
        let skips = if is_given { failures.skips(&query.name, epoch.0)?.map(str::to_owned) } else { None };
        // Windows that are due close all the same: where it is one of them that fails, no record is to blame, and none after it either.
        let without_rows = skips.is_some().then(|| inputs.without_rows());
        let (inputs, compute) = (Arc::clone(inputs.above(&query.floors)), compute.clone());
        let name = query.name.clone();
        let task = tokio::spawn(async move {
            if !is_given {
                query.graph.pass(&inputs)?;
                return Ok(query);
            }
            let rows: usize = query.tables.iter().map(|t| inputs.tables[*t].rows).sum();
            query.counts.rows_in += rows as u64;
            query.graph.pending = query.graph.process(without_rows.as_ref().unwrap_or(&inputs), &compute).await?;
            if !inputs.closes && query.tables.len() > 1 {
                // Windows may have closed ahead of a table that is quiet.
                query.floors = query.graph.closed();
            }
            query.skipped = skips;
            Ok::<_, Error>(query)
        });
        tasks.push((name, task));
    }
    let mut done = Vec::with_capacity(tasks.len());
    for (name, task) in tasks {
        let computed = task.await.map_err(|e| Error::internal("a query's task ended early").caused_by(e)).flatten();
        match computed {
            Ok(query) => done.push(query),
            Err(error) => {
                failures.failed(&name, epoch.0);
                return Err(error.context(format!("query '{name}'")));
            }
        }
    }
    Ok(done)
}

/// An epoch whose queries have computed it.
pub(super) struct EpochContext<'a> {
    pub(super) driver: &'a Driver,
    pub(super) epoch: &'a Epoch,
    pub(super) epoch_number: EpochNumber,
    pub(super) now_ms: i64,
    /// Whether only queries that catch up are given it.
    pub(super) catches_up: bool,
    /// Whether a run before has cut it.
    pub(super) repeats: bool,
}

impl EpochContext<'_> {
    /// A row of the epoch that is refused, by its number: the record that it was, or itself where its source has no records.
    fn rejected(
        &self,
        query: &RunningQuery,
        origin: u64,
        reason: RejectReason,
        detail: String,
    ) -> Result<RejectedRecord> {
        let (piece, record) = ((origin >> 32) as u32, origin as u32);
        if let Some(EpochRecords { stream, chunk, .. }) = self.epoch.raw.get(&piece) {
            return Ok(rejected(&query.name, stream, chunk, Reject { record, reason, column: None, detail }));
        }
        let of_table = |table: &usize| {
            let rows = self.epoch.typed.get(&(piece, *table))?;
            Some((rows, rows.row_of(origin)?))
        };
        let Some((rows, row)) = query.tables.iter().find_map(of_table) else {
            return Err(Error::internal(format!(
                "record {record} of piece {piece} is refused, and in no row of its epoch"
            )));
        };
        let physical = self.driver.feeds[rows.feed].specification.tables[rows.table].physical;
        rows.refused(row, physical, &query.name, reason, detail)
    }

    /// A record or row that made a query fail.
    fn failed(&self, query: &RunningQuery, row: FailedRow) -> Result<RejectedRecord> {
        match row.origin {
            Some(origin) => self.rejected(query, origin, RejectReason::QueryFailed, row.detail),
            None => Ok(result_rejected(query, RejectReason::QueryFailed, row.detail, &row.row)),
        }
    }

    /// All rows of the epoch that a query reads. What did not become one has been told of by then.
    fn all(&self, query: &RunningQuery, detail: &str) -> Result<Vec<RejectedRecord>> {
        let batches = query.tables.iter().flat_map(|table| &self.epoch.rows[*table]);
        // A record that two tables have a row of is one.
        let all: BTreeSet<u64> = batches.flat_map(origins).copied().collect();
        let reject = |origin| self.rejected(query, origin, RejectReason::QueryFailed, detail.to_owned());
        all.into_iter().map(reject).collect()
    }
}

/// A row that comes from no single record.
fn result_rejected(query: &RunningQuery, reason: RejectReason, detail: String, row: &RecordBatch) -> RejectedRecord {
    rejected_row(&query.name, reason, None, detail, row_json(row, 0))
}

/// Sends what a query gave to its writer, and what its gates refused to the error output.
pub(super) async fn finish_query(
    query: &mut RunningQuery,
    context: &EpochContext<'_>,
    late_to_errors: bool,
    errors: &mpsc::Sender<ErrorsOrder>,
) -> Result<()> {
    let (late, _, refused) = query.graph.gates.take();
    query.counts.late += late;
    let mut records = Vec::new();
    for row in refused {
        let reason = match &query.gates[row.gate] {
            GateKind::Late if !late_to_errors => continue,
            GateKind::Late => RejectReason::Late,
            GateKind::Require(reason) => {
                let counts = match row.origin {
                    RowOrigin::Record(_) => &mut query.counts.rejected,
                    RowOrigin::Result(_) => &mut query.counts.refused,
                };
                *counts.entry(reason.clone()).or_default() += 1;
                RejectReason::Required(reason.clone())
            }
        };
        records.push(match row.origin {
            RowOrigin::Record(origin) => context.rejected(query, origin, reason, String::new())?,
            RowOrigin::Result(row) => result_rejected(query, reason, String::new(), &row),
        });
    }
    let QueryOutput { rows, failed, failed_results } = std::mem::take(&mut query.graph.pending);
    let reason = RejectReason::QueryFailed.to_string();
    if !failed.is_empty() {
        *query.counts.rejected.entry(reason.clone()).or_default() += failed.len() as u64;
    }
    if !failed_results.is_empty() {
        *query.counts.refused.entry(reason.clone()).or_default() += failed_results.len() as u64;
    }
    for row in failed.into_iter().chain(failed_results) {
        records.push(context.failed(query, row)?);
    }
    if let Some(detail) = query.skipped.take() {
        let count: usize =
            query.tables.iter().flat_map(|table| &context.epoch.rows[*table]).map(|b| b.num_rows()).sum();
        *query.counts.rejected.entry(reason).or_default() += count as u64;
        records.extend(context.all(query, &detail)?);
    }
    if context.epoch_number > query.told_through.by_query {
        refuse(errors, records).await?;
    }
    let changes = changes(rows, query.graph.mode, &query.key, &query.schema, query.limit.as_ref())?;
    query.counts.rows_out += changes.iter().map(|changes| changes.num_rows() as u64).sum::<u64>();
    let EpochContext { epoch_number: epoch, now_ms, catches_up, repeats, .. } = *context;
    let order = Order::Epoch { epoch, now_ms, catches_up, repeats, changes };
    order_query(query, order).await
}

/// Reports a query's state, and passes the order on to its writer.
pub(super) async fn checkpoint_query(query: &mut RunningQuery, order: CheckpointOrder) -> Result<()> {
    let state = SavedQuery { operators: query.graph.snapshot(), ..query.known_by.clone() };
    order.report(Report::State { query: query.name.clone(), state }).await;
    order_query(query, Order::Checkpoint(order)).await
}

async fn order_query(query: &mut RunningQuery, order: Order) -> Result<()> {
    match query.orders.send(order).await {
        Ok(()) => Ok(()),
        Err(_) => Err(writer_error(query).await),
    }
}

/// Whether the query's writer is there. Where nothing comes from the sources, nothing is sent to it either that would find out.
pub(super) async fn check_writer(query: &mut RunningQuery) -> Result<()> {
    match query.orders.is_closed() {
        true => Err(writer_error(query).await),
        false => Ok(()),
    }
}

/// Why a writer has gone: its own error.
async fn writer_error(query: &mut RunningQuery) -> Error {
    match (&mut query.writer).await {
        Ok(Err(error)) => error,
        Ok(Ok(_)) => Error::internal("a writer ended early").context(format!("query '{}'", query.name)),
        Err(error) => Error::internal("a writer's task failed").caused_by(error),
    }
}

impl RunningQuery {
    /// Whether it is given an epoch, which may be one of those that catch up.
    pub(super) fn is_given(&self, epoch: EpochNumber, catches_up: bool) -> bool {
        epoch > self.after && (self.catches_up || !catches_up)
    }

    /// See [`QueryGraph::reopen`].
    pub(super) fn reopen(&mut self) {
        self.graph.reopen();
        self.floors = self.graph.closed();
    }

    /// The epoch at which its sink is.
    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }
}

/// Closes a query's sink and takes its state. What is open in the sink appears if the run `finishes`.
pub(super) async fn end_query(
    query: RunningQuery,
    epoch: EpochNumber,
    finishes: bool,
) -> Result<(QueryCounts, SavedQuery)> {
    if finishes {
        // A writer that has gone says why below.
        let _ = query.orders.send(Order::Finish).await;
    }
    drop(query.orders);
    let written = query.writer.await.map_err(|e| Error::internal("a writer's task failed").caused_by(e))??;
    let mut counts = query.counts;
    for (reason, rows) in written.refused {
        *counts.refused.entry(reason).or_default() += rows;
    }
    let mut graph = query.graph;
    counts.used = graph.gates.used();
    let taken = counts.used + counts.late + counts.rejected.values().sum::<u64>();
    // More taken than read would wrap to a sum that the check refuses.
    counts.filtered = (!graph.multiplies()).then(|| counts.rows_in.saturating_sub(taken));
    graph.reopen();
    let saved = SavedQuery { durable_epoch: epoch.0, operators: graph.snapshot(), ..query.known_by };
    debug_assert!(counts.rows_out >= written.rows, "a sink cannot take more rows than it was given");
    Ok((counts, saved))
}
