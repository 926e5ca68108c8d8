//! The life of a run: epochs from start to end, then flush and save.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::accounting::{QueryCounts, Summary};
use super::changes::changes;
use super::checkpoints::{CheckpointOrder, Checkpointer, Checkpointing, Report};
use super::driver::Driver;
use super::epoch::{Epoch, EpochLimits};
use super::feed::FeedSpecification;
use super::memory::MemoryWatch;
use super::progress::{Progress, report};
use super::reader::rejected;
use super::repeat::{JobLog, Repeated, append, repeated};
use super::writer::{EPOCHS_WAITING, ErrorsOrder, Order, WriterLog, Written, run_errors, run_writer};
use crate::contracts::{
    Clock, EpochCut, EpochLog, EpochNumber, Error, ErrorOutput, LogEntry, Reject, RejectReason, Result, Sink, Watermark,
};
use crate::operators::{Compute, EpochInputs, EqualityTest, GateKind, QueryGraph, TableRows};
use crate::state::{SavedJob, SavedQuery};

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// When it is told to (or when all its sources have ended).
    Run,
    /// When everything that is there has been read; windows close, as at the end of the input.
    Drain,
    /// When everything that is there has been read; windows stay open.
    Once,
}

/// A query and its sink.
pub struct QuerySpec {
    /// `file:sink`.
    pub name: String,
    /// What it computes, in its normal form.
    pub plan: String,
    /// The query.
    pub graph: QueryGraph,
    /// Source tables that it reads.
    pub tables: Vec<usize>,
    /// What its gates check, by number.
    pub gates: Vec<GateKind>,
    /// Primary key among the sink's columns.
    pub key: Vec<usize>,
    /// Schema of the rows for the sink.
    pub schema: SchemaRef,
    /// Where rows go.
    pub sink: Box<dyn Sink>,
}

/// Loads a reference table.
#[async_trait]
pub trait ReferenceLoader: Send {
    /// The rows, when they are loaded for the first time or have changed.
    async fn poll(&mut self) -> Result<Option<RecordBatch>>;
}

/// Everything a run needs.
pub struct Job {
    /// Sources, each with the tables that read it.
    pub feeds: Vec<FeedSpecification>,
    /// Length of the epoch's inputs.
    pub slots: usize,
    /// Reference tables.
    pub references: Vec<Box<dyn ReferenceLoader>>,
    /// The queries.
    pub queries: Vec<QuerySpec>,
    /// Where refused records go.
    pub errors: Box<dyn ErrorOutput>,
    /// Whether late rows go there too.
    pub late_to_errors: bool,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What `now()` answers, in milliseconds.
    pub epoch_time: Arc<AtomicI64>,
    /// What runs plans.
    pub compute: Compute,
    /// When epochs close.
    pub limits: EpochLimits,
    /// How the run ends.
    pub ending: Ending,
    /// Where an earlier run stopped.
    pub saved: SavedJob,
    /// Where cuts are written; `None` when nothing outlives the run.
    pub log: Option<JobLog>,
    /// Where checkpoints are kept; `None` when nothing outlives the run.
    pub checkpointing: Option<Checkpointing>,
}

/// While no rows come, epochs follow each other no faster than this, however short they are.
const QUIET: std::time::Duration = std::time::Duration::from_millis(200);

/// Runs jobs.
#[derive(Debug)]
pub struct Worker;

pub(super) struct RunningQuery {
    pub(super) name: String,
    plan: String,
    pub(super) graph: QueryGraph,
    tables: Vec<usize>,
    gates: Vec<GateKind>,
    key: Vec<usize>,
    schema: SchemaRef,
    orders: mpsc::Sender<Order>,
    writer: JoinHandle<Result<Written>>,
    counts: QueryCounts,
    /// It has had all epochs up to this one.
    after: EpochNumber,
    /// When its sink wants an epoch to end, though no row has come.
    due: Arc<AtomicI64>,
}

impl Worker {
    /// Runs a job until it ends or `stop` turns true.
    ///
    /// # Errors
    /// The first failure of a source, query or sink, with its name. Nothing is saved then.
    pub async fn run(mut job: Job, mut stop: watch::Receiver<bool>, progress: Arc<Progress>) -> Result<Summary> {
        let started = job.clock.elapsed();
        let Repeated { cuts, mut committed } = repeated(&job)?;
        let generation = job.log.as_ref().map_or(0, |log| log.generation);
        let log: Option<Arc<dyn EpochLog>> = job.log.map(|log| log.log);
        let clock = Arc::clone(&job.clock);
        let mut checkpointer = job
            .checkpointing
            .map(|checkpointing| Checkpointer::new(checkpointing, &job.saved, log.clone(), generation, clock));
        let after = EpochNumber(job.saved.epoch);
        let (error_sender, error_receiver) = mpsc::channel(16);
        let errors = tokio::spawn(run_errors(job.errors, error_receiver));
        let (mut queries, mut memory) = (Vec::new(), MemoryWatch::default());
        for query in job.queries {
            let committed = committed.remove(&query.name).unwrap_or_default();
            let log = WriterLog { log: log.clone(), committed, after, ..WriterLog::default() };
            queries.push(start_query(query, &mut job.saved, error_sender.clone(), log, &job.compute).await?);
            memory.keep(&mut queries, &job.compute, started).await?;
        }
        let mut driver = Driver::new(
            job.feeds,
            job.slots,
            Arc::clone(&job.clock),
            job.compute.clone(),
            job.limits,
            job.ending,
            match job.saved.reread.take() {
                Some(reread) => reread.tables,
                None => std::mem::take(&mut job.saved.tables),
            },
        );
        driver.begin(cuts).await?;
        let mut epoch_number = after;
        let mut saved_epoch = after;
        let mut summary = Summary::default();
        let mut told = vec![Watermark::MIN; job.slots];
        let mut ran = job.clock.elapsed();
        let tests = tests_of(&queries, job.slots);
        loop {
            let mut epoch = driver.next(&mut stop).await?;
            let last = epoch.last;
            if last && driver.is_replaying() {
                // Stopped between two logged epochs: the last checkpoint and the log have everything for the next run.
                checkpointer = None;
                break;
            }
            let mut references = Vec::new();
            for reference in &mut job.references {
                references.push(reference.poll().await?);
            }
            let loaded = references.iter().any(Option::is_some);
            let first = summary.epochs == 0;
            let repeats = epoch.logged.is_some();
            let now_ms = job.clock.now_ms();
            let due = queries.iter().any(|query| query.due.load(Ordering::Relaxed) <= now_ms);
            // Time alone moves watermarks at each epoch, which may be short, and mostly closes nothing.
            let quiet_over = job.clock.elapsed().saturating_sub(ran) >= QUIET;
            let moved = epoch.watermarks != told && (quiet_over || told.contains(&Watermark::MIN));
            if epoch.total_rows > 0 || moved || loaded || first || last || repeats || due {
                told.clone_from(&epoch.watermarks);
                ran = job.clock.elapsed();
                let cut = match epoch.logged.take() {
                    Some(cut) => cut,
                    None => {
                        let stopped = *stop.borrow();
                        let closes = last && !stopped && job.ending != Ending::Once;
                        let (splits, tables) = driver.cut_of(&epoch);
                        let epoch = epoch_number.next().0;
                        EpochCut { epoch, generation, now_ms, closes, splits, tables }
                    }
                };
                let (closes, now_ms) = (cut.closes, cut.now_ms);
                epoch_number = EpochNumber(cut.epoch);
                summary.epochs += 1;
                job.epoch_time.store(now_ms, Ordering::Relaxed);
                report(&progress, &driver, &epoch);
                let inputs = Arc::new(inputs(&epoch, &tests, references, closes));
                // The cut is written while the queries compute; nothing leaves the process before both are done.
                let entry = (!repeats).then_some(LogEntry::Cut(cut));
                let computed = run_queries(queries, &inputs, &job.compute, epoch_number);
                let (computed, logged) = tokio::join!(computed, append(log.as_ref(), entry.as_ref()));
                queries = computed?;
                logged?;
                // Up to the saved state, they have been written.
                let rejects = std::mem::take(&mut epoch.rejects);
                let is_new = epoch_number > after && !rejects.is_empty();
                if is_new && error_sender.send(ErrorsOrder::Records(rejects)).await.is_err() {
                    return Err(errors_failed(errors).await);
                }
                let context = EpochContext { driver: &driver, epoch: &epoch, epoch_number, now_ms, saved: after };
                for query in queries.iter_mut().filter(|query| query.after < epoch_number) {
                    finish_query(query, &context, job.late_to_errors, &error_sender).await?;
                }
                memory.keep(&mut queries, &job.compute, job.clock.elapsed()).await?;
                progress.epochs.store(summary.epochs, Ordering::Relaxed);
                let rows_out = queries.iter().map(|q| q.counts.rows_out).sum();
                progress.rows_out.store(rows_out, Ordering::Relaxed);
                if repeats {
                    let closed = if closes { queries.iter_mut().filter_map(|q| q.graph.reopen()).max() } else { None };
                    driver.go_on(closes, closed).await?;
                }
            }
            if let Some(checkpointer) = &mut checkpointer
                && !last
                && epoch_number > saved_epoch
                && !driver.is_replaying()
                && checkpointer.is_due().await?
            {
                saved_epoch = epoch_number;
                let tables = driver.saved_tables(false, None);
                let errors = error_sender.clone();
                let order = checkpointer.begin(epoch_number, tables, queries.len(), errors).await?;
                for query in &mut queries {
                    checkpoint_query(query, order.clone()).await?;
                }
            }
            if last {
                break;
            }
        }
        let drained = job.ending == Ending::Drain && !*stop.borrow();
        let mut saved = SavedJob { epoch: epoch_number.0, ..SavedJob::default() };
        let mut closed = None;
        for query in queries {
            let (counts, state, end) = end_query(query, epoch_number).await?;
            closed = closed.max(end);
            saved.queries.insert(counts.name.clone(), state);
            summary.queries.push(counts);
        }
        drop(error_sender);
        errors.await.map_err(|e| Error::internal("the error output ended early").caused_by(e))??;
        driver.stop();
        saved.tables = driver.saved_tables(drained, closed.filter(|_| drained));
        driver.end().await;
        summary.tables = driver.counts().cloned().collect();
        summary.elapsed = job.clock.elapsed().saturating_sub(started);
        summary.check()?;
        summary.spilled_bytes = job.compute.limit.as_ref().map_or(0, |limit| limit.folder.bytes().0);
        if let Some(checkpointer) = checkpointer {
            summary.checkpoints = Some(checkpointer.finish(&saved).await?);
        }
        Ok(summary)
    }
}

/// The tests under which queries read each table, each once.
fn tests_of(queries: &[RunningQuery], tables: usize) -> Vec<Vec<EqualityTest>> {
    let mut tests: Vec<Vec<EqualityTest>> = vec![Vec::new(); tables];
    for (table, test) in queries.iter().flat_map(|query| query.graph.tests()) {
        if !tests[table].contains(test) {
            tests[table].push(test.clone());
        }
    }
    tests
}

fn inputs(
    epoch: &Epoch,
    tests: &[Vec<EqualityTest>],
    references: Vec<Option<RecordBatch>>,
    closes: bool,
) -> EpochInputs {
    let watermarks = if closes { vec![Watermark::MAX; epoch.watermarks.len()] } else { epoch.watermarks.clone() };
    let tables = epoch.rows.iter().zip(tests).map(|(rows, tests)| TableRows::new(rows, tests)).collect();
    EpochInputs { tables, watermarks, references }
}

async fn start_query(
    query: QuerySpec,
    saved: &mut SavedJob,
    errors: mpsc::Sender<ErrorsOrder>,
    mut log: WriterLog,
    compute: &Compute,
) -> Result<RunningQuery> {
    let mut graph = query.graph;
    let mut after = log.after;
    let due = Arc::new(AtomicI64::new(i64::MAX));
    log.due = Arc::clone(&due);
    log.keeps_rows = !graph.operators.is_empty();
    if let Some(state) = saved.queries.remove(&query.name) {
        graph.restore(state.operators, compute).await.map_err(|e| e.context(format!("query '{}'", query.name)))?;
        (log.unwritten, log.sink) = (state.unwritten, state.sink);
        if graph.operators.is_empty() {
            after = EpochNumber(state.durable_epoch);
        }
    }
    let (orders, receiver) = mpsc::channel(EPOCHS_WAITING);
    let writer = tokio::spawn(run_writer(query.name.clone(), query.sink, receiver, errors, log));
    let counts = QueryCounts { name: query.name.clone(), ..QueryCounts::default() };
    Ok(RunningQuery {
        name: query.name,
        plan: query.plan,
        graph,
        tables: query.tables,
        gates: query.gates,
        key: query.key,
        schema: query.schema,
        orders,
        writer,
        counts,
        after,
        due,
    })
}

/// Runs the epoch through all queries at the same time. Rows stay in `pending` until they are sent.
async fn run_queries(
    queries: Vec<RunningQuery>,
    inputs: &Arc<EpochInputs>,
    compute: &Compute,
    epoch: EpochNumber,
) -> Result<Vec<RunningQuery>> {
    let mut tasks = Vec::with_capacity(queries.len());
    for mut query in queries {
        let (inputs, compute) = (Arc::clone(inputs), compute.clone());
        tasks.push(tokio::spawn(async move {
            let context = |error: Error| error.context(format!("query '{}'", query.name));
            if epoch <= query.after {
                query.graph.pass(&inputs).map_err(context)?;
                return Ok(query);
            }
            let output = query.graph.process(&inputs, &compute).await.map_err(context)?;
            let rows: usize = query.tables.iter().map(|t| inputs.tables[*t].rows).sum();
            query.counts.rows_in += rows as u64;
            query.graph.pending = output.rows;
            Ok::<_, Error>(query)
        }));
    }
    let mut done = Vec::with_capacity(tasks.len());
    for task in tasks {
        done.push(task.await.map_err(|e| Error::internal("a query's task ended early").caused_by(e))??);
    }
    Ok(done)
}

struct EpochContext<'a> {
    driver: &'a Driver,
    epoch: &'a Epoch,
    epoch_number: EpochNumber,
    now_ms: i64,
    /// Up to this epoch, what was refused has been written.
    saved: EpochNumber,
}

/// Sends what a query gave to its writer, and what its gates refused to the error output.
async fn finish_query(
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
                *query.counts.rejected.entry(reason.clone()).or_default() += 1;
                RejectReason::Required(reason.clone())
            }
        };
        let Some(origin) = row.origin else { continue };
        let Some((table, chunk)) = context.epoch.raw.get(&((origin >> 32) as u32)) else { continue };
        let reject = Reject { record: origin as u32, reason, column: None, detail: String::new() };
        records.push(rejected(&query.name, context.driver.stream(*table), chunk, reject));
    }
    let is_new = context.epoch_number > context.saved && !records.is_empty();
    if is_new && errors.send(ErrorsOrder::Records(records)).await.is_err() {
        return Err(Error::internal("the error output has gone"));
    }
    let rows = std::mem::take(&mut query.graph.pending);
    let changes = changes(rows, query.graph.mode, &query.key, &query.schema)?;
    query.counts.rows_out += changes.iter().map(|c| c.batch.num_rows() as u64).sum::<u64>();
    let order = Order::Epoch { epoch: context.epoch_number, now_ms: context.now_ms, changes };
    order_query(query, order).await
}

/// Reports a query's state, and passes the order on to its writer.
async fn checkpoint_query(query: &mut RunningQuery, order: CheckpointOrder) -> Result<()> {
    let (name, plan, operators) = (query.name.clone(), query.plan.clone(), query.graph.snapshot());
    order.report(Report::State { query: name, plan, operators }).await;
    order_query(query, Order::Checkpoint(order)).await
}

async fn order_query(query: &mut RunningQuery, order: Order) -> Result<()> {
    if query.orders.send(order).await.is_err() {
        // The writer has gone: its own error says why.
        let outcome = (&mut query.writer).await;
        return Err(match outcome {
            Ok(Err(error)) => error,
            Ok(Ok(_)) => Error::internal("a writer ended early").context(format!("query '{}'", query.name)),
            Err(error) => Error::internal("a writer's task failed").caused_by(error),
        });
    }
    Ok(())
}

/// Closes a query's sink and takes its state.
async fn end_query(query: RunningQuery, epoch: EpochNumber) -> Result<(QueryCounts, SavedQuery, Option<i64>)> {
    drop(query.orders);
    let written = query.writer.await.map_err(|e| Error::internal("a writer's task failed").caused_by(e))??;
    let mut counts = query.counts;
    counts.refused = written.refused;
    let mut graph = query.graph;
    counts.used = graph.used.load(Ordering::Relaxed);
    let taken = counts.used + counts.late + counts.rejected.values().sum::<u64>();
    // More taken than read would wrap to a sum that the check refuses.
    counts.filtered = (!graph.multiplies()).then(|| counts.rows_in.saturating_sub(taken));
    let closed = graph.reopen();
    let (plan, operators) = (query.plan, graph.snapshot());
    let saved = SavedQuery { plan, durable_epoch: epoch.0, operators, unwritten: None, sink: None };
    debug_assert!(counts.rows_out >= written.rows, "a sink cannot take more rows than it was given");
    Ok((counts, saved, closed))
}

async fn errors_failed(errors: JoinHandle<Result<()>>) -> Error {
    match errors.await {
        Ok(Err(error)) => error,
        _ => Error::internal("the error output ended early"),
    }
}
