//! The same queries over archived Parquet: the batch plan, run by DataFusion at its own speed.
//!
//! Rows that were late when they came are left out again if the archive has kept the split's watermark (a metadata column
//! `watermark`); without it every row counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use datafusion::arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use tokio::sync::mpsc;

use super::archive::Archive;
use super::failing_rows::{Sound, run_sound};
use super::run::{JobOptions, errors_place, job_name, parameters, sink_tables};
use super::whole_archive::ArchiveUse;
use crate::connectors::files::s3_path;
use crate::connectors::{Connectors, JobContext};
use crate::contracts::{Changes, Clock, EpochNumber, Error, ErrorKind, RejectedRecord, Result, TableSpec};
use crate::operators::{Compute, Slot};
use crate::runtime::{ErrorsOrder, Order, WaitingChanges, WriterLog};
use crate::sql::{Batch, JobPlan, PlanOptions, QueryPlan, SlotTable, SourcePlan, TimeRange, plan_job};

/// What a person asks for on the command line.
#[derive(Debug, Clone)]
pub struct BackfillOptions {
    /// Paths, parameters, local folder and threads.
    pub job: JobOptions,
    /// Folder of the archive.
    pub from: PathBuf,
    /// Source tables whose rows the archive has; none: those that the query reads which writes it.
    pub tables: Vec<String>,
    /// Of which event time.
    pub range: TimeRange,
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
    /// Rows for which REQUIRE did not hold, and those that made it fail.
    pub rejected: u64,
}

/// What a backfill did.
#[derive(Debug)]
pub struct BackfillDone {
    /// By query.
    pub queries: Vec<Backfilled>,
    /// Why others failed, which have written nothing.
    pub failed: Vec<Error>,
    /// Accepted, but worth knowing.
    pub warnings: Vec<String>,
}

/// Runs the batch plans of a job over an archive.
pub async fn backfill(
    options: &BackfillOptions,
    clock: Arc<dyn Clock>,
) -> std::result::Result<BackfillDone, Vec<Error>> {
    let one = |e: Error| vec![e];
    if let TimeRange { start_ms: Some(start), end_exclusive_ms: Some(end) } = options.range
        && start >= end
    {
        let error = Error::config("--start is not before --end, which ends the time exclusively");
        return Err(one(error.hint("--start 2026-01-31T00:00:00Z --end 2026-02-01T00:00:00Z is the 31st of January")));
    }
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
    let batch = Batch { tables: &empty, range: options.range };
    let plan = plan_job(&files, &parameters, &plan_options, Some(batch)).await?;
    let name = job_name(&plan.settings, &options.job.paths);
    let generation = u64::try_from(clock.now_ms()).unwrap_or(0);
    let context = JobContext { job: format!("{name}-backfill"), generation };
    let connectors = Connectors::new(options.job.local.clone(), Arc::clone(&clock), context);
    // Of several sinks that write there, the first one counts.
    for query in plan.queries.iter().rev() {
        if fills_archive(query, &connectors, options).map_err(one)? {
            archive.written_by(&query.sink.spec);
        }
    }
    let archived = archived(&plan, &connectors, options).map_err(one)?;
    let tables = |source: &SourcePlan| match archived.contains(&source.table) {
        true => archive.table(source),
        false => empty(source),
    };
    let batch = Batch { tables: &tables, range: options.range };
    let plan = plan_job(&files, &parameters, &plan_options, Some(batch)).await?;
    let mut warnings = plan.warnings.clone();
    let of_archive = plan.sources.iter().filter(|source| archived.contains(&source.table));
    warnings.extend(of_archive.filter(|source| archive.forgets_lateness(source)).map(|source| {
        format!(
            "the archive has no watermark of the split for '{}': rows that were late count too (declare a metadata column FROM 'watermark' and archive it)",
            source.name
        )
    }));
    let sources = plan.sources.clone();
    let left_out = |query: &QueryPlan| {
        let why = left_out(query, &connectors, options)?;
        Ok(why.or_else(|| not_computable(query, &sources, &archived, options.range)))
    };
    warnings.extend(doubts(&plan, (&archive, &archived), (&connectors, options), left_out).map_err(one)?);
    let done = run_queries(plan, &connectors, &options.job, Vec::new(), left_out).await;
    let (queries, failed) = done.map_err(one)?;
    Ok(BackfillDone { queries, failed, warnings })
}

/// Runs planned batch queries one after the other; `rejects` go to the error output first. A query for which
/// `left_out` has a reason is not run. Answers what the queries did, and why others failed.
pub(super) async fn run_queries(
    plan: JobPlan,
    connectors: &Connectors,
    options: &JobOptions,
    rejects: Vec<RejectedRecord>,
    left_out: impl Fn(&QueryPlan) -> Result<Option<String>>,
) -> Result<(Vec<Backfilled>, Vec<Error>)> {
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
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for query in plan.queries {
        if let Some(why) = left_out(&query)? {
            done.push(Backfilled { name: query.name, outcome: Err(why), late: 0, rejected: 0 });
            continue;
        }
        match run_query(query, &references, connectors, &compute, error_sender.clone()).await? {
            Ok(query) => done.push(query),
            Err(error) => failed.push(error),
        }
    }
    drop(error_sender);
    error_task.await.map_err(|e| Error::internal("the error output ended early").caused_by(e))??;
    Ok((done, failed))
}

/// Why results may be other ones than those of the run.
fn doubts(
    plan: &JobPlan,
    (archive, archived): (&Archive, &BTreeSet<usize>),
    (connectors, options): (&Connectors, &BackfillOptions),
    left_out: impl Fn(&QueryPlan) -> Result<Option<String>>,
) -> Result<Vec<String>> {
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    for query in &plan.queries {
        if fills_archive(query, connectors, options)? {
            writers.push(query);
        } else if left_out(query)?.is_none() {
            readers.push(query);
        }
    }
    let sources = plan.sources.iter().filter(|source| archived.contains(&source.table)).collect();
    Ok(ArchiveUse { archive, writers, readers, sources }.doubts())
}

/// Why a query is not run.
fn left_out(query: &QueryPlan, connectors: &Connectors, options: &BackfillOptions) -> Result<Option<String>> {
    if query.sink.connector == "sns" && !options.alerts {
        return Ok(Some("alerts are not sent again (use --alerts)".to_owned()));
    }
    if writes_archive(query, connectors, options)? {
        return Ok(Some("it writes the archive that is read".to_owned()));
    }
    // In another local folder, it makes a new one.
    let writes = options.job.local.is_none() && is_copy(&options.from, &query.sink.spec)?;
    Ok(writes.then(|| "it writes the archive of which a copy is read".to_owned()))
}

/// Why a query has no right results over an archive of these tables, and of this event time.
fn not_computable(
    query: &QueryPlan,
    sources: &[SourcePlan],
    archived: &BTreeSet<usize>,
    range: TimeRange,
) -> Option<String> {
    let mut read = sources.iter().filter(|source| query.tables.contains(&source.table));
    if let Some(other) = read.clone().find(|source| !archived.contains(&source.table)) {
        return Some(format!("it reads '{}', whose rows the archive does not have (--table)", other.name));
    }
    if range.is_all() {
        return None;
    }
    if let Some(why) = query.needs_all {
        return Some(format!("{why}: it is computed without --start and --end"));
    }
    let timeless = read.find(|source| source.watermark.is_none())?;
    Some(format!("'{}' has no WATERMARK, so nothing says which of its rows --start and --end mean", timeless.name))
}

/// The source tables whose rows the archive has, by index: those that the queries read which write it, and others of the same stream.
///
/// # Errors
/// There may be several streams, and nobody has said which.
fn archived(plan: &JobPlan, connectors: &Connectors, options: &BackfillOptions) -> Result<BTreeSet<usize>> {
    if !options.tables.is_empty() {
        let known = |name: &String| plan.sources.iter().any(|source| source.spec.name == *name);
        if let Some(unknown) = options.tables.iter().find(|name| !known(name)) {
            let names: BTreeSet<&str> = plan.sources.iter().map(|source| source.spec.name.as_str()).collect();
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Error::config(format!("--table: no query reads a table '{unknown}'"))
                .hint(format!("they read {names}")));
        }
        let named = |source: &&SourcePlan| options.tables.contains(&source.spec.name);
        return Ok(plan.sources.iter().filter(named).map(|source| source.table).collect());
    }
    let mut written = BTreeSet::new();
    for query in &plan.queries {
        if fills_archive(query, connectors, options)? {
            written.extend(query.tables.iter().copied());
        }
    }
    let mut streams: BTreeMap<String, Vec<&SourcePlan>> = BTreeMap::new();
    for source in &plan.sources {
        let stream = connectors.source_identity(&source.spec, &source.connector)?;
        streams.entry(stream).or_default().push(source);
    }
    if !written.is_empty() {
        streams.retain(|_, tables| tables.iter().any(|source| written.contains(&source.table)));
    }
    if streams.len() > 1 {
        let names = streams.values().map(|tables| format!("'{}'", tables[0].name)).collect::<Vec<_>>().join(", ");
        return Err(Error::config(format!("the archive may have the rows of any of the tables {names}"))
            .hint("say of which with --table; each other stream needs an archive, and a backfill, of its own"));
    }
    Ok(streams.into_values().flatten().map(|source| source.table).collect())
}

/// Whether a query's files lie in the archive, or the archive among them.
fn writes_archive(query: &QueryPlan, connectors: &Connectors, options: &BackfillOptions) -> Result<bool> {
    let Some(target) = connectors.local_folder(&query.sink.spec, &query.sink.connector)? else { return Ok(false) };
    let (target, archive) = (real(&target), real(&options.from));
    Ok(target.starts_with(&archive) || archive.starts_with(&target))
}

/// Whether it is the query whose rows the archive has: it writes there, or where the archive has been copied from.
fn fills_archive(query: &QueryPlan, connectors: &Connectors, options: &BackfillOptions) -> Result<bool> {
    Ok(writes_archive(query, connectors, options)? || is_copy(&options.from, &query.sink.spec)?)
}

/// Whether a folder is named like a copy of the table's objects, DIR/BUCKET/PREFIX, or is in one, or has one in it.
fn is_copy(folder: &Path, table: &TableSpec) -> Result<bool> {
    // Of others, nothing is read.
    let path = table.option("path").filter(|_| table.option("format") == Some("parquet"));
    let Some((bucket, prefix)) = path.map_or(Ok(None), s3_path)? else { return Ok(false) };
    let (folder, objects) = (real(folder), Path::new(&bucket).join(prefix));
    let mut above = objects.ancestors().filter(|above| !above.as_os_str().is_empty());
    Ok(folder.ancestors().any(|folder| folder.ends_with(&objects)) || above.any(|above| folder.ends_with(above)))
}

/// The path without links, as far as it is there: a folder that a sink has not made yet is none that another name leads to.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let known = path.ancestors().find_map(|above| Some((above.canonicalize().ok()?, path.strip_prefix(above).ok()?)));
    known.map_or_else(|| path.clone(), |(known, rest)| known.join(rest))
}

/// Runs a query. One that its rows make fail, and not single ones, has written nothing; that is its own error, and no other query's.
async fn run_query(
    query: QueryPlan,
    references: &[RecordBatch],
    connectors: &Connectors,
    compute: &Compute,
    errors: mpsc::Sender<ErrorsOrder>,
) -> Result<std::result::Result<Backfilled, Error>> {
    let context = |e: Error| e.context(format!("query '{}'", query.name));
    let sink = connectors.sink(&query.sink.spec, &query.sink.connector)?;
    let mut graph = query.graph;
    let ran = graph.run_batch(references, compute).await;
    let ran = match ran {
        Ok(rows) => Ok(Sound { rows, failed: Vec::new() }),
        Err(error) => run_sound(&query.name, &graph, compute, error).await,
    };
    let Sound { rows, failed } = match ran {
        Ok(sound) => sound,
        Err(error) if error.kind() == ErrorKind::Data => return Ok(Err(context(error))),
        Err(error) => return Err(context(error)),
    };
    let (late, mut rejected, _) = graph.gates.take();
    rejected += failed.len() as u64;
    if !failed.is_empty() {
        // An output that has gone says why when it is awaited.
        let _ = errors.send(ErrorsOrder::Records(failed)).await;
    }
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
    Ok(Ok(Backfilled { name: query.name, outcome: Ok(written.rows), late, rejected }))
}
