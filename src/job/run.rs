//! From planned queries to a runtime job: sources, sinks and saved state are put in place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use super::feeds::feeds;
use super::fresh::{Start, refuse_beside_objects};
use super::memory::MemoryOptions;
use super::moved_tables::reads;
use super::refusal_rules::refusal_rules;
use super::replica::lease_place;
use super::saved::{SavedRun, StateOptions, saved_run};
use crate::connectors::files::s3_path;
use crate::connectors::{Connectors, JobContext};
use crate::contracts::{Clock, Error, ErrorOutput, Result, StartPosition, TableSpec, crash_point};
use crate::operators::Compute;
use crate::runtime::{Ending, EpochLimits, Job, QuerySpec, ReferenceSpecification};
use crate::sql::{JobPlan, Parameters, PlanOptions, QueryPlan, Settings, plan_job};

/// What a person asks for on the command line.
#[derive(Debug, Clone)]
pub struct JobOptions {
    /// Folders and files.
    pub paths: Vec<PathBuf>,
    /// Folder of the embedded stand-ins.
    pub local: Option<PathBuf>,
    /// How the run ends.
    pub ending: Ending,
    /// Where to start instead of the tables' own options.
    pub from: Option<StartPosition>,
    /// `--param K=V`.
    pub parameters: BTreeMap<String, String>,
    /// Forget saved positions and state.
    pub fresh: bool,
    /// Where state is kept, and which one to go on from.
    pub state: StateOptions,
    /// Tasks of a stage; the number of cores by default.
    pub threads: usize,
    /// Overrides the job's own epoch settings.
    pub epoch_interval: Option<Duration>,
    /// Overrides the job's own epoch settings.
    pub epoch_rows: Option<usize>,
    /// Memory of the process; `None` is without a bound.
    pub memory: Option<MemoryOptions>,
}

impl JobOptions {
    /// What was asked for once has been begun, by a run of this number: a later one goes on from that.
    pub fn go_on(&mut self, generation: Option<u64>) {
        self.fresh = false;
        let state = &mut self.state;
        (state.previous_checkpoint, state.from_savepoint) = (false, None);
        // What becomes of queries is done only when a checkpoint says so: until then it must be said again, of what was there before.
        state.asked_before = state.asked_before.or(generation);
    }
}

/// A job that can be run.
pub struct Prepared {
    /// For the worker.
    pub job: Job,
    /// Accepted, but worth knowing.
    pub warnings: Vec<String>,
    /// Name of the job.
    pub name: String,
}

/// Parameters from the command line, then the environment.
pub(super) fn parameters(options: &JobOptions) -> Parameters {
    Parameters::new(options.parameters.clone(), std::env::vars().collect())
}

/// Plans a job.
pub async fn plan(options: &JobOptions, epoch_time_ms: &Arc<AtomicI64>) -> std::result::Result<JobPlan, Vec<Error>> {
    let files = super::load(&options.paths).map_err(|e| vec![e])?;
    let plan_options = PlanOptions {
        partitions: options.threads,
        batch: false,
        pruned: true,
        epoch_time_ms: Arc::clone(epoch_time_ms),
    };
    plan_job(&files, &parameters(options), &plan_options, None).await
}

/// Parses and plans only; answers the warnings.
pub async fn check(options: &JobOptions) -> std::result::Result<Vec<String>, Vec<Error>> {
    plan(options, &Arc::default()).await.map(|plan| plan.warnings)
}

/// A job that is planned, and what its `now()` answers, in milliseconds.
pub(super) type Planned = (JobPlan, Arc<AtomicI64>);

/// Plans a job to be run from now on.
pub(super) async fn plan_from_now(
    options: &JobOptions,
    clock: &Arc<dyn Clock>,
) -> std::result::Result<Planned, Vec<Error>> {
    let epoch_time = Arc::new(AtomicI64::new(clock.now_ms()));
    Ok((plan(options, &epoch_time).await?, epoch_time))
}

/// Connects a planned job.
pub(super) async fn connect_planned(
    options: &JobOptions,
    (plan, epoch_time): Planned,
    clock: Arc<dyn Clock>,
) -> std::result::Result<Prepared, Vec<Error>> {
    // It reaches many services: boxed, so that the types of the futures around it stay small.
    Box::pin(connect(options, plan, clock, epoch_time)).await.map_err(|e| vec![e])
}

/// Plans a job and connects it.
pub async fn prepare(options: &JobOptions, clock: Arc<dyn Clock>) -> std::result::Result<Prepared, Vec<Error>> {
    let planned = plan_from_now(options, &clock).await?;
    connect_planned(options, planned, clock).await
}

async fn connect(
    options: &JobOptions,
    plan: JobPlan,
    clock: Arc<dyn Clock>,
    epoch_time: Arc<AtomicI64>,
) -> Result<Prepared> {
    let name = job_name(&plan.settings, &options.paths);
    if options.fresh {
        // Before anything is forgotten.
        refuse_beside_objects(Start { options, plan: &plan, job: &name, clock: &clock }).await?;
    }
    let mut memory_notes = Vec::new();
    let memory = match &options.memory {
        Some(memory) => memory.share_out(&mut memory_notes)?,
        None => None,
    };
    let limit = memory.as_ref().map(|memory| &memory.limit);
    let SavedRun { mut saved, log, checkpointing, anew, notes } =
        saved_run(options, &plan, &name, &clock, limit).await?;
    if anew.is_some() && !options.fresh {
        // The one that was killed may have been told where to begin; this one has not.
        refuse_beside_objects(Start { options, plan: &plan, job: &name, clock: &clock }).await?;
    }
    // Without a log nothing is kept that could count runs and epochs. The time grows from run to run too.
    let by_time = || u64::try_from(clock.now_ms()).unwrap_or(1);
    if log.is_none() {
        saved.epoch = by_time();
    }
    let generation = log.as_ref().map_or_else(by_time, |log| log.generation);
    let context = JobContext { job: name.clone(), generation };
    let connectors = Connectors::new(options.local.clone(), Arc::clone(&clock), context)
        .draining(options.ending != Ending::Run)
        .handed_over(options.ending == Ending::Run && lease_place(options, &plan.settings).is_some())
        .with_files_memory(options.memory.as_ref().map(|memory| memory.files_bytes(files_sinks(&plan.queries))))
        .within(options.state.outside.clone());
    let mut warnings = plan.warnings;
    warnings.extend(notes);
    warnings.extend(memory_notes);
    let sinks = sink_tables(&plan.queries);
    let place = errors_place(&plan.settings.errors_path, options.local.as_deref(), &name, &sinks);
    if options.fresh || anew.is_some() {
        let mut moved = Vec::new();
        for query in &plan.queries {
            moved.extend(connectors.set_aside(&query.sink.spec, &query.sink.connector)?);
        }
        moved.extend(connectors.set_errors_aside(&place.path)?);
        crash_point("fresh.aside");
        if let (Some(log), Some(done)) = (&log, &anew) {
            log.log.append(done).await?;
        }
        warnings.extend(moved.iter().map(|moved| {
            let (from, to) = (moved.from.display(), moved.to.display());
            format!("--fresh: {} file(s) of earlier runs were moved from '{from}' to '{to}'", moved.files)
        }));
    }
    let entries = log.as_ref().map_or(&[][..], |log| &log.entries);
    let feeds = feeds(&plan.sources, &connectors, options, &saved, entries)?;
    let mut references = Vec::new();
    let most_bytes = memory.as_ref().map(|memory| memory.reference_bytes / plan.references.len().max(1));
    for reference in &plan.references {
        let loader = connectors.reloaded_reference(&reference.spec, &reference.connector, most_bytes)?;
        let (name, schema) = (reference.name.clone(), Arc::clone(&reference.spec.schema));
        references.push(ReferenceSpecification { name, schema, most_bytes, loader });
    }
    super::lookups::connect(&plan.lookups, &connectors).await?;
    let mut queries = Vec::new();
    for query in plan.queries {
        let sink = connectors.sink(&query.sink.spec, &query.sink.connector)?;
        queries.push(QuerySpec {
            reads: reads(&plan.sources, &query),
            refusal_rules: refusal_rules(&plan.settings, &plan.sources, &query),
            looks_up: !query.lookups.is_empty(),
            name: query.name,
            plan: query.normal,
            graph: query.graph,
            tables: query.tables,
            gates: query.gates,
            key: query.sink.key,
            has_each_key_once: query.sink.has_each_key_once,
            schema: query.sink.spec.schema,
            sink,
        });
    }
    let errors = place.open(&connectors)?;
    let settings = &plan.settings;
    let bytes = settings.epoch_bytes;
    let limits = EpochLimits {
        bytes: options.memory.as_ref().map_or(bytes, |memory| memory.epoch_bytes(bytes)),
        record_age_ms: settings.record_age_ms,
        interval: options
            .epoch_interval
            .unwrap_or_else(|| Duration::from_millis(u64::try_from(settings.epoch_interval_ms).unwrap_or(1_000))),
        rows: {
            let rows = options.epoch_rows.unwrap_or(settings.epoch_rows).max(1);
            options.memory.as_ref().map_or(rows, |memory| memory.epoch_rows(rows))
        },
    };
    let compute = Compute::new(options.threads);
    let compute = match memory {
        Some(memory) => compute.within(memory.limit, memory.runtime),
        None => compute,
    };
    let job = Job {
        feeds,
        slots: plan.tables,
        references,
        queries,
        errors,
        late_to_errors: settings.late_to_errors,
        clock,
        epoch_time,
        compute,
        limits,
        ending: options.ending,
        saved,
        log,
        checkpointing,
        retries: settings.retries,
    };
    Ok(Prepared { job, warnings, name })
}

fn files_sinks(queries: &[QueryPlan]) -> usize {
    queries.iter().filter(|query| matches!(query.sink.connector.as_str(), "filesystem" | "s3")).count()
}

/// Name of a job: its own setting, else that of its first folder, or of its first file without `.sql`.
pub(super) fn job_name(settings: &Settings, paths: &[PathBuf]) -> String {
    if let Some(name) = &settings.name {
        return name.clone();
    }
    let name = paths.first().and_then(|path| {
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        let is_sql = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("sql")) && !path.is_dir();
        let name = if is_sql { path.file_stem() } else { path.file_name() };
        name.map(|name| name.to_string_lossy().into_owned())
    });
    name.unwrap_or_else(|| "job".to_owned())
}

/// What versions called the job that took the end of a folder's name, from its last dot on, for an ending; `None` where that is the
/// same.
pub(super) fn earlier_name(settings: &Settings, paths: &[PathBuf]) -> Option<String> {
    let path = paths.first().filter(|_| settings.name.is_none())?;
    let path = path.canonicalize().unwrap_or_else(|_| path.clone());
    let stem = path.file_stem()?.to_string_lossy().into_owned();
    (stem != job_name(settings, paths)).then_some(stem)
}

/// Where refused records go.
#[derive(Debug)]
pub(super) struct ErrorsPlace<'a> {
    pub(super) path: String,
    /// A table that is reached in the same way, where the path was derived from it.
    pub(super) beside: Option<&'a TableSpec>,
}

impl ErrorsPlace<'_> {
    pub(super) fn open(&self, connectors: &Connectors) -> Result<Box<dyn ErrorOutput>> {
        let opened = match self.beside {
            Some(spec) => connectors.error_output_beside(&self.path, spec),
            None => connectors.error_output(&self.path),
        };
        opened.map_err(|e| e.context("error output"))
    }
}

/// Connector and table of each query's sink.
pub(super) fn sink_tables(queries: &[QueryPlan]) -> Vec<(String, TableSpec)> {
    queries.iter().map(|q| (q.sink.connector.clone(), q.sink.spec.clone())).collect()
}

/// The setting `tidemill.errors.path`; else `DIR/errors` of `--local DIR`; else `errors/<job>/` in the bucket of the first
/// table that the job writes to S3 (a worker's own disk may be gone with it); else the folder `errors`.
pub(super) fn errors_place<'a>(
    setting: &Option<String>,
    local: Option<&Path>,
    job: &str,
    sinks: &'a [(String, TableSpec)],
) -> ErrorsPlace<'a> {
    let in_bucket = |(connector, spec): &'a (String, TableSpec)| {
        let path = spec.option("path").filter(|_| matches!(connector.as_str(), "filesystem" | "s3"))?;
        let (bucket, _) = s3_path(path).ok()??;
        Some(ErrorsPlace { path: format!("s3://{bucket}/errors/{job}"), beside: Some(spec) })
    };
    let plain = |path: String| ErrorsPlace { path, beside: None };
    match (setting, local) {
        (Some(path), _) => plain(path.clone()),
        (None, Some(local)) => plain(local.join("errors").to_string_lossy().into_owned()),
        (None, None) => sinks.iter().find_map(in_bucket).unwrap_or_else(|| plain("errors".to_owned())),
    }
}
