//! The same queries over archived Parquet: the batch plan, run by DataFusion at its own speed.
//!
//! The archive's columns are found by the names that they have in the source table. Rows that were late
//! when they came are left out again if the archive has kept the split's watermark (a metadata column
//! `watermark`); without it every row counts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::ViewTable;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::Expr;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, cast, lit};
use tokio::sync::mpsc;

use super::run::{JobOptions, errors_place, job_name, parameters, sink_tables};
use crate::connectors::{Connectors, JobContext};
use crate::contracts::{Changes, Clock, EpochNumber, Error, RejectedRecord, Result};
use crate::operators::{Compute, TIME_COLUMN, WATERMARK_COLUMN};
use crate::runtime::{ErrorsOrder, Order, WaitingChanges, WatermarkRule, WriterLog};
use crate::sql::{JobPlan, PlanOptions, QueryPlan, SourcePlan, plan_job};

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
    let archive = Archive::open(options).await.map_err(one)?;
    let plan_options = PlanOptions {
        partitions: options.job.threads,
        batch: true,
        // The archive's own columns are read, and Parquet prunes by itself.
        pruned: false,
        epoch_time_ms: Arc::new(AtomicI64::new(clock.now_ms())),
    };
    let tables = |source: &SourcePlan| archive.table(source);
    let plan = plan_job(&files, &parameters(&options.job), &plan_options, Some(&tables)).await?;
    let mut warnings = plan.warnings.clone();
    warnings.extend(plan.sources.iter().filter(|s| archive.forgets_lateness(s)).map(|source| {
        format!(
            "the archive has no watermark of the split for '{}': rows that were late count too (declare a metadata column FROM 'watermark' and archive it)",
            source.name
        )
    }));
    let name = job_name(&plan.settings, &options.job.paths);
    let generation = u64::try_from(clock.now_ms()).unwrap_or(0);
    let context = JobContext { job: format!("{name}-backfill"), generation };
    let connectors = Connectors::new(options.job.local.clone(), Arc::clone(&clock), context);
    let done = run_queries(plan, &connectors, &options.job, Vec::new(), |query| left_out(query, options)).await;
    Ok((done.map_err(one)?, warnings))
}

/// Runs planned batch queries one after the other; `rejects` go to the error output first. A query for which
/// `left_out` has a reason is not run.
pub(super) async fn run_queries(
    plan: JobPlan,
    connectors: &Connectors,
    options: &JobOptions,
    rejects: Vec<RejectedRecord>,
    left_out: impl Fn(&QueryPlan) -> Option<String>,
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
        if let Some(why) = left_out(&query) {
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
fn left_out(query: &QueryPlan, options: &BackfillOptions) -> Option<String> {
    if query.sink.connector == "sns" && !options.alerts {
        return Some("alerts are not sent again (use --alerts)".to_owned());
    }
    if matches!(query.sink.connector.as_str(), "filesystem" | "s3") {
        let target = query.sink.spec.option("path").unwrap_or_default();
        let target = match (target.strip_prefix("s3://"), &options.job.local) {
            (Some(key), Some(local)) => local.join("s3").join(key),
            _ => PathBuf::from(target),
        };
        let same = |a: &PathBuf, b: &PathBuf| {
            a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a.starts_with(b))
        };
        if same(&target, &options.from) || same(&options.from, &target) {
            return Some("it writes the archive that is read".to_owned());
        }
    }
    None
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
    let order = Order::Epoch { epoch: EpochNumber(1), now_ms: 0, changes };
    for order in [order, Order::Finish] {
        // A writer that has gone says why when it is awaited.
        let _ = orders.send(order).await;
    }
    drop(orders);
    let written = writer.await.map_err(|e| Error::internal("a writer's task failed").caused_by(e))??;
    Ok(Backfilled { name: query.name, outcome: Ok(written.rows), late, rejected })
}

/// The Parquet files of an archive.
struct Archive {
    plan: datafusion::logical_expr::LogicalPlan,
    schema: SchemaRef,
    start_ms: Option<i64>,
    end_exclusive_ms: Option<i64>,
}

impl Archive {
    async fn open(options: &BackfillOptions) -> Result<Self> {
        let folder = &options.from;
        let unreadable = |e| Error::config(format!("cannot read Parquet in '{}'", folder.display())).caused_by(e);
        if !folder.is_dir() {
            return Err(Error::config(format!("there is no folder '{}'", folder.display()))
                .hint("--from names the folder of the archive, e.g. DIR/s3/my-analytics-archive/events"));
        }
        let config = SessionConfig::new().with_target_partitions(options.job.threads);
        let context = SessionContext::new_with_config(config);
        let path = format!("{}/", folder.to_string_lossy().trim_end_matches('/'));
        let frame = context.read_parquet(path, ParquetReadOptions::default()).await.map_err(unreadable)?;
        let plan = frame.into_unoptimized_plan();
        let schema = Arc::clone(plan.schema().inner());
        if schema.fields().is_empty() {
            return Err(Error::config(format!("there are no Parquet files in '{}'", folder.display())));
        }
        Ok(Self { plan, schema, start_ms: options.start_ms, end_exclusive_ms: options.end_exclusive_ms })
    }

    fn forgets_lateness(&self, source: &SourcePlan) -> bool {
        let kept = source.watermark_column.as_ref().is_some_and(|name| self.schema.field_with_name(name).is_ok());
        source.watermark.is_some() && !kept
    }

    fn column(&self, name: &str) -> Option<Expr> {
        let (qualifier, field) = self.plan.schema().iter().find(|(_, f)| f.name() == name)?;
        Some(Expr::Column(Column::new(qualifier.cloned(), field.name())))
    }

    /// The archive under the columns of a source table.
    fn table(&self, source: &SourcePlan) -> Result<Arc<dyn TableProvider>> {
        let planned = |e| Error::config(format!("table '{}' over the archive", source.name)).caused_by(e);
        let millis = |expr: Expr| cast(cast(expr, DataType::Timestamp(TimeUnit::Millisecond, None)), DataType::Int64);
        let time = match &source.watermark {
            Some(WatermarkRule::Delay { column, .. }) => self.column(source.schema.field(*column).name()),
            Some(WatermarkRule::Computed(_)) => {
                return Err(Error::config(format!(
                    "table '{}' computes its time column, which backfill does not support yet",
                    source.name
                ))
                .hint("archive the time as a column, and declare a table over it"));
            }
            None => None,
        };
        let mut exprs = Vec::new();
        for field in source.schema.fields() {
            let expr = match (field.name().as_str(), &time) {
                (TIME_COLUMN, Some(time)) => millis(time.clone()),
                (WATERMARK_COLUMN, _) => {
                    let kept = source.watermark_column.as_ref().and_then(|name| self.column(name));
                    let least = lit(i64::MIN);
                    match kept {
                        Some(kept) => datafusion::functions::expr_fn::coalesce(vec![millis(kept), least]),
                        None => least,
                    }
                }
                (name, _) => self.declared(name, field, source)?,
            };
            exprs.push(expr.alias(field.name()));
        }
        let mut builder = datafusion::logical_expr::LogicalPlanBuilder::new(self.plan.clone());
        if let Some(time) = &time {
            let bound = |ms: i64| lit(ms);
            if let Some(start) = self.start_ms {
                builder = builder.filter(millis(time.clone()).gt_eq(bound(start))).map_err(planned)?;
            }
            if let Some(end) = self.end_exclusive_ms {
                builder = builder.filter(millis(time.clone()).lt(bound(end))).map_err(planned)?;
            }
        }
        let plan = builder.project(exprs).and_then(|b| b.build()).map_err(planned)?;
        Ok(Arc::new(ViewTable::new(plan, None)))
    }

    fn declared(&self, name: &str, field: &Field, source: &SourcePlan) -> Result<Expr> {
        match self.column(name) {
            Some(column) => {
                let same = self.schema.field_with_name(name).is_ok_and(|f| f.data_type() == field.data_type());
                Ok(if same { column } else { cast(column, field.data_type().clone()) })
            }
            None if source.required.iter().any(|used| used == name) => {
                let names: Vec<&str> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
                Err(Error::config(format!(
                    "the archive has no column '{name}', which queries of '{}' use",
                    source.name
                ))
                .hint(format!("it has {}", names.join(", "))))
            }
            None => {
                let null = ScalarValue::try_from(field.data_type())
                    .map_err(|e| Error::internal("a NULL of a column's type").caused_by(e))?;
                Ok(lit(null))
            }
        }
    }
}
