//! The same queries over archived Parquet: the batch plan, run by DataFusion at its own speed.
//!
//! Rows that were late when they came are left out again if the archive has kept the split's watermark (a metadata column
//! `watermark`); without it every row counts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use datafusion::arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use tokio::sync::mpsc;

use super::archive::Archive;
use super::run::{JobOptions, errors_place, job_name, parameters, sink_tables};
use crate::connectors::{Connectors, JobContext};
use crate::contracts::{Changes, Clock, EpochNumber, Error, RejectedRecord, Result};
use crate::operators::{Compute, Slot};
use crate::runtime::{ErrorsOrder, Order, WaitingChanges, WriterLog};
use crate::sql::{JobPlan, PlanOptions, QueryPlan, SlotTable, SourcePlan, plan_job};

/// What a person asks for on the command line.
#[derive(Debug, Clone)]
pub struct BackfillOptions {
    /// Paths, parameters, local folder and threads.
    pub job: JobOptions,
    /// Folder of the archive.
    pub from: PathBuf,
    /// First event time, milliseconds since 1970.
    pub start_ms: Option<i64>,
    /// End of event time, exclusive.
    pub end_exclusive_ms: Option<i64>,
    /// Send alerts too.
    pub alerts: bool,
}

/// What a backfill did to one query.
#[derive(Debug, Clone)]
pub struct Backfilled {
    /// `file:sink`.
    pub name: String,
    /// Rows written, or why the query was left out.
    pub outcome: std::result::Result<u64, String>,
    /// Rows left out because they were late when they came.
    pub late: u64,
    /// Rows for which REQUIRE did not hold.
    pub rejected: u64,
}

/// Runs the batch plans of a job over an archive. Answers what each query did, and warnings.
pub async fn backfill(
    options: &BackfillOptions,
    clock: Arc<dyn Clock>,
) -> std::result::Result<(Vec<Backfilled>, Vec<String>), Vec<Error>> {
    let one = |e: Error| vec![e];
    let files = super::load(&options.job.paths).map_err(one)?;
    let mut archive = Archive::open(options).await.map_err(one)?;
    let plan_options = PlanOptions {
        partitions: options.job.threads,
        batch: true,
        // The archive's own columns are read, and Parquet prunes by itself.
        pruned: false,
        epoch_time_ms: Arc::new(AtomicI64::new(clock.now_ms())),
    };
    let parameters = parameters(&options.job);
    // Planned without rows first: how its folders are to be read, only the table says that has written them.
    let empty = |source: &SourcePlan| -> Result<Arc<dyn TableProvider>> {
        Ok(Arc::new(SlotTable { slot: Slot::stream(Arc::clone(&source.schema), options.job.threads) }))
    };
    let plan = plan_job(&files, &parameters, &plan_options, Some(&empty)).await?;
    let name = job_name(&plan.settings, &options.job.paths);
    let generation = u64::try_from(clock.now_ms()).unwrap_or(0);
    let context = JobContext { job: format!("{name}-backfill"), generation };
    let connectors = Connectors::new(options.job.local.clone(), Arc::clone(&clock), context);
    // Of several sinks that write there, the first one counts.
    for query in plan.queries.iter().rev() {
        if writes_archive(query, &connectors, options).map_err(one)? {
            archive.written_by(&query.sink.spec);
        }
    }
    let tables = |source: &SourcePlan| archive.table(source);
    let plan = plan_job(&files, &parameters, &plan_options, Some(&tables)).await?;
    let mut warnings = plan.warnings.clone();
    warnings.extend(plan.sources.iter().filter(|s| archive.forgets_lateness(s)).map(|source| {
        format!(
            "the archive has no watermark of the split for '{}': rows that were late count too (declare a metadata column FROM 'watermark' and archive it)",
            source.name
        )
    }));
    let left_out = |query: &QueryPlan| left_out(query, &connectors, options);
    let done = run_queries(plan, &connectors, &options.job, Vec::new(), left_out).await;
    Ok((done.map_err(one)?, warnings))
}

/// Runs planned batch queries one after the other; `rejects` go to the error output first. A query for which
/// `left_out` has a reason is not run.
pub(super) async fn run_queries(
    plan: JobPlan,
    connectors: &Connectors,
    options: &JobOptions,
    rejects: Vec<RejectedRecord>,
    left_out: impl Fn(&QueryPlan) -> Result<Option<String>>,
) -> Result<Vec<Backfilled>> {
    let mut references = Vec::new();
    for reference in &plan.references {
        let files = connectors.reference(&reference.spec, &reference.connector)?;
        references.push(files.load().await?.1);
    }
    super::lookups::connect(&plan.lookups, connectors).await?;
    let sinks = sink_tables(&plan.queries);
    let name = job_name(&plan.settings, &options.paths);
    let place = errors_place(&plan.settings.errors_path, options.local.as_deref(), &name, &sinks);
    let errors = place.open(connectors)?;
    let (error_sender, error_receiver) = mpsc::channel(4);
    let error_task = tokio::spawn(crate::runtime::run_errors(errors, error_receiver));
    if !rejects.is_empty() {
        // An output that has gone says why when it is awaited.
        let _ = error_sender.send(ErrorsOrder::Records(rejects)).await;
    }
    let compute = Compute::new(options.threads);
    let mut done = Vec::new();
    for query in plan.queries {
        if let Some(why) = left_out(&query)? {
            done.push(Backfilled { name: query.name, outcome: Err(why), late: 0, rejected: 0 });
            continue;
        }
        done.push(run_query(query, &references, connectors, &compute, error_sender.clone()).await?);
    }
    drop(error_sender);
    error_task.await.map_err(|e| Error::internal("the error output ended early").caused_by(e))??;
    Ok(done)
}

/// Why a query is not run.
fn left_out(query: &QueryPlan, connectors: &Connectors, options: &BackfillOptions) -> Result<Option<String>> {
    if query.sink.connector == "sns" && !options.alerts {
        return Ok(Some("alerts are not sent again (use --alerts)".to_owned()));
    }
    let writes = writes_archive(query, connectors, options)?;
    Ok(writes.then(|| "it writes the archive that is read".to_owned()))
}

/// Whether a query's files lie in the archive, or the archive among them.
fn writes_archive(query: &QueryPlan, connectors: &Connectors, options: &BackfillOptions) -> Result<bool> {
    let Some(target) = connectors.local_folder(&query.sink.spec, &query.sink.connector)? else { return Ok(false) };
    let (target, archive) = (real(&target), real(&options.from));
    Ok(target.starts_with(&archive) || archive.starts_with(&target))
}

/// The path without links, as far as it is there: a folder that a sink has not made yet is none that another name leads to.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let known = path.ancestors().find_map(|above| Some((above.canonicalize().ok()?, path.strip_prefix(above).ok()?)));
    known.map_or_else(|| path.clone(), |(known, rest)| known.join(rest))
}

async fn run_query(
    query: QueryPlan,
    references: &[RecordBatch],
    connectors: &Connectors,
    compute: &Compute,
    errors: mpsc::Sender<ErrorsOrder>,
) -> Result<Backfilled> {
    let context = |e: Error| e.context(format!("query '{}'", query.name));
    let sink = connectors.sink(&query.sink.spec, &query.sink.connector)?;
    let mut graph = query.graph;
    let rows = graph.run_batch(references, compute).await.map_err(context)?;
    let (late, rejected, _) = graph.gates.take();
    let (orders, receiver) = mpsc::channel(1);
    let writer =
        tokio::spawn(crate::runtime::run_writer(query.name.clone(), sink, receiver, errors, WriterLog::default()));
    let schema = &query.sink.spec.schema;
    let changes = rows
        .into_iter()
        .map(|b| {
            let batch = RecordBatch::try_new(Arc::clone(schema), b.columns().to_vec())?;
            Ok(WaitingChanges::Held(Changes { batch, kinds: None }, None))
        })
        .collect::<Result<Vec<_>>>()?;
    let order = Order::Epoch { epoch: EpochNumber(1), now_ms: 0, catches_up: false, repeats: false, changes };
    for order in [order, Order::Finish] {
        // A writer that has gone says why when it is awaited.
        let _ = orders.send(order).await;
    }
    drop(orders);
    let written = writer.await.map_err(|e| Error::internal("a writer's task failed").caused_by(e))??;
    Ok(Backfilled { name: query.name, outcome: Ok(written.rows), late, rejected })
}
