//! A job as one batch over what its sources have now: the same SQL, the same decoding, no epochs.
//!
//! This is the oracle of the goldens: the answer of a stream, once everything has been read, equals that of the batch
//! plan over the same records. Rows carry the watermark of their split as in a stream, so late rows are the same too.
//! Nothing is saved; files are named after the job with `-batch` behind it. What `REQUIRE` refuses is counted, and only
//! what could not be decoded goes to the error output.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::catalog::TableProvider;

use super::backfill::{Backfilled, run_queries};
use super::feeds::feeds;
use super::run::{JobOptions, job_name, parameters};
use crate::connectors::{Connectors, JobContext};
use crate::contracts::{Clock, Error, Result};
use crate::operators::{Compute, Slot};
use crate::runtime::{Ending, TableCounts, read_all};
use crate::sql::{Batch, PlanOptions, SlotTable, SourcePlan, TimeRange, plan_job};
use crate::state::SavedJob;

/// What a batch run did.
#[derive(Debug, Clone)]
pub struct BatchDone {
    /// By source table.
    pub tables: Vec<TableCounts>,
    /// By query.
    pub queries: Vec<Backfilled>,
    /// Accepted, but worth knowing.
    pub warnings: Vec<String>,
}

/// Reads the sources of a job to their present end and runs its batch plans over that.
pub async fn run_batch(options: &JobOptions, clock: Arc<dyn Clock>) -> std::result::Result<BatchDone, Vec<Error>> {
    let one = |e: Error| vec![e];
    let options = JobOptions { ending: Ending::Drain, ..options.clone() };
    let files = super::load(&options.paths).map_err(one)?;
    let plan_options = PlanOptions {
        partitions: options.threads,
        batch: true,
        pruned: true,
        epoch_time_ms: Arc::new(AtomicI64::new(clock.now_ms())),
    };
    // Each scan of a table has a slot of its own, which is filled once everything has been read.
    let leaves: Mutex<Vec<(usize, Arc<Slot>)>> = Mutex::default();
    let scan = |source: &SourcePlan| -> Result<Arc<dyn TableProvider>> {
        let slot = Slot::stream(Arc::clone(&source.schema), options.threads);
        leaves.lock().unwrap_or_else(PoisonError::into_inner).push((source.table, Arc::clone(&slot)));
        Ok(Arc::new(SlotTable { slot }))
    };
    let batch = Batch { tables: &scan, range: TimeRange::default() };
    let plan = plan_job(&files, &parameters(&options), &plan_options, Some(batch)).await?;
    let name = job_name(&plan.settings, &options.paths);
    let generation = u64::try_from(clock.now_ms()).unwrap_or(0);
    let context = JobContext { job: format!("{name}-batch"), generation };
    let connectors = Connectors::new(options.local.clone(), Arc::clone(&clock), context).draining(true);
    let feeds = feeds(&plan.sources, &connectors, &options, &SavedJob::default(), &[]).map_err(one)?;
    let compute = Compute::new(options.threads);
    let read = read_all(feeds, plan.tables, clock, compute).await.map_err(one)?;
    for (table, slot) in leaves.into_inner().unwrap_or_else(PoisonError::into_inner) {
        slot.fill(&read.tables[table]);
    }
    let warnings = plan.warnings.clone();
    let (queries, failed) = run_queries(plan, &connectors, &options, read.rejects, |_| Ok(None)).await.map_err(one)?;
    if !failed.is_empty() {
        return Err(failed);
    }
    Ok(BatchDone { tables: read.counts, queries, warnings })
}
