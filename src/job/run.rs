//! From planned queries to a runtime job: sources, sinks and saved state are put in place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;

use crate::connectors::files::reference::{FileVersion, ReferenceFiles};
use crate::connectors::{Connectors, JobContext};
use crate::contracts::{Clock, Error, Result, StartPosition};
use crate::formats::{RawTest, decoder};
use crate::operators::Compute;
use crate::runtime::{
    DecoderFactory, Ending, EpochLimits, Job, QuerySpec, ReferenceLoader, TableSpecification, WatermarkRule,
};
use crate::sql::{JobPlan, Parameters, PlanOptions, SourcePlan, plan_job};
use crate::state::{SavedJob, StateStore};

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
    /// Tasks of a stage; the number of cores by default.
    pub threads: usize,
    /// Overrides the job's own epoch settings.
    pub epoch_interval: Option<Duration>,
    /// Overrides the job's own epoch settings.
    pub epoch_rows: Option<usize>,
}

/// A job that can be run, and where its state is saved afterwards.
pub struct Prepared {
    /// For the worker.
    pub job: Job,
    /// Where to save; `None` when nothing outlives the run.
    pub store: Option<StateStore>,
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

/// Plans a job and connects it.
pub async fn prepare(options: &JobOptions, clock: Arc<dyn Clock>) -> std::result::Result<Prepared, Vec<Error>> {
    let epoch_time = Arc::new(AtomicI64::new(clock.now_ms()));
    let plan = plan(options, &epoch_time).await?;
    connect(options, plan, clock, epoch_time).await.map_err(|e| vec![e])
}

async fn connect(
    options: &JobOptions,
    plan: JobPlan,
    clock: Arc<dyn Clock>,
    epoch_time: Arc<AtomicI64>,
) -> Result<Prepared> {
    let name = plan.settings.name.clone().unwrap_or_else(|| job_name(&options.paths));
    let store = options.local.as_ref().map(|dir| StateStore::new(dir.join("checkpoints").join(&name)));
    let (saved, generation) = saved_state(options, store.as_ref())?;
    let context = JobContext { job: name.clone(), generation };
    let connectors =
        Connectors::new(options.local.clone(), Arc::clone(&clock), context).draining(options.ending != Ending::Run);
    let mut tables = Vec::new();
    for source in &plan.sources {
        tables.push(table(source, &connectors, options)?);
    }
    let mut references: Vec<Box<dyn ReferenceLoader>> = Vec::new();
    for reference in &plan.references {
        let files = connectors.reference(&reference.spec, &reference.connector)?;
        references.push(Box::new(Reloading { files, version: None }));
    }
    let mut queries = Vec::new();
    for query in plan.queries {
        let sink = connectors.sink(&query.sink.spec, &query.sink.connector)?;
        queries.push(QuerySpec {
            name: query.name,
            graph: query.graph,
            tables: query.tables,
            gates: query.gates,
            key: query.sink.key,
            schema: query.sink.spec.schema,
            sink,
        });
    }
    let errors = connectors.error_output(&errors_path(&plan.settings.errors_path, options.local.as_deref()))?;
    let settings = &plan.settings;
    let limits = EpochLimits {
        interval: options
            .epoch_interval
            .unwrap_or_else(|| Duration::from_millis(u64::try_from(settings.epoch_interval_ms).unwrap_or(1_000))),
        rows: options.epoch_rows.unwrap_or(settings.epoch_rows).max(1),
    };
    let compute = Compute::new(options.threads);
    let job = Job {
        tables,
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
    };
    Ok(Prepared { job, store, warnings: plan.warnings, name })
}

/// The state of the run before, and the number of this one.
fn saved_state(options: &JobOptions, store: Option<&StateStore>) -> Result<(SavedJob, u64)> {
    let Some(store) = store else { return Ok((SavedJob::default(), 1)) };
    let generation = store.numbers()?.last().copied().unwrap_or(0) + 1;
    if options.fresh {
        store.clear()?;
        return Ok((SavedJob::default(), generation));
    }
    if let Some(saved) = store.latest()? {
        return Ok((saved, generation));
    }
    if let Some(local) = &options.local
        && !local.join("checkpoints").exists()
    {
        let results = ["dynamodb.sqlite", "sns", "s3"].iter().map(|n| local.join(n)).find(|p| p.exists());
        if let Some(path) = results {
            return Err(Error::config(format!("'{}' has results, but no saved state to go on from", path.display()))
                .hint("run with --fresh to read everything again and write over them, or use another folder"));
        }
    }
    Ok((SavedJob::default(), generation))
}

pub(super) fn job_name(paths: &[PathBuf]) -> String {
    let stem = paths.first().and_then(|path| {
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        path.file_stem().map(|stem| stem.to_string_lossy().into_owned())
    });
    stem.unwrap_or_else(|| "job".to_owned())
}

pub(super) fn errors_path(setting: &Option<String>, local: Option<&Path>) -> String {
    match (setting, local) {
        (Some(path), _) => path.clone(),
        (None, Some(local)) => local.join("errors").to_string_lossy().into_owned(),
        (None, None) => "errors".to_owned(),
    }
}

pub(super) fn table(source: &SourcePlan, connectors: &Connectors, options: &JobOptions) -> Result<TableSpecification> {
    let reader = connectors.source(&source.spec, &source.connector)?;
    let format = source.spec.option("format").or_else(|| source.spec.option("value.format")).map(str::to_owned);
    let decoder: Option<DecoderFactory> = match format.as_deref() {
        None | Some("parquet") => None,
        Some(format) => {
            let (format, spec) = (format.to_owned(), source.spec.clone());
            let test = raw_test(source);
            // Made once here, so that a wrong option is found before anything runs.
            decoder(&format, &spec, test.as_ref())?;
            Some(Arc::new(move || crate::formats::decoder(&format, &spec, test.as_ref())))
        }
    };
    let default = match (options.ending, &options.local) {
        (Ending::Run, None) => StartPosition::Latest,
        _ => StartPosition::TrimHorizon,
    };
    let start = match options.from {
        Some(from) => from,
        None => connectors.start_position(&source.spec, &source.connector)?.unwrap_or(default),
    };
    // Files are read side by side; without a bound, one could run hours of event time ahead.
    const FILE_DRIFT_MS: i64 = 60_000;
    let drift = match source.connector.as_str() {
        "filesystem" | "s3" => Some(FILE_DRIFT_MS),
        _ => None,
    };
    Ok(TableSpecification {
        table: source.table,
        name: source.name.clone(),
        stream: source.spec.option("stream").or_else(|| source.spec.option("path")).unwrap_or(&source.name).to_owned(),
        source: reader,
        decoder,
        schema: Arc::clone(&source.schema),
        physical: source.spec.schema.fields().len(),
        metadata: source.metadata.clone(),
        watermark: source.watermark.clone(),
        idle_timeout_ms: source.idle_timeout_ms,
        max_drift_ms: source.max_drift_ms.or(drift).filter(|_| source.watermark.is_some()),
        start,
    })
}

/// The raw-byte test, where time can be had without decoding.
fn raw_test(source: &SourcePlan) -> Option<RawTest> {
    let text = source.literal.clone()?;
    let time_column = match &source.watermark {
        None => None,
        Some(WatermarkRule::Delay { column, .. }) if *column < source.spec.schema.fields().len() => {
            Some(source.spec.schema.field(*column).name().clone())
        }
        Some(_) => return None,
    };
    Some(RawTest { text, time_column })
}

/// A reference table that is loaded again when its files change.
struct Reloading {
    files: ReferenceFiles,
    version: Option<FileVersion>,
}

#[async_trait]
impl ReferenceLoader for Reloading {
    async fn poll(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(version) = &self.version
            && self.files.version().await? == *version
        {
            return Ok(None);
        }
        let (version, rows) = self.files.load().await?;
        self.version = Some(version);
        Ok(Some(rows))
    }
}
