//! Running a plan once: all partitions at the same time, results in their order.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::SessionConfig;
use futures::TryStreamExt;
use tokio::sync::{OwnedSemaphorePermit, RwLock, Semaphore};

use super::output::Output;
use super::shared_bytes::SharedBytes;
use crate::contracts::{Error, ErrorKind, Result};
use crate::state::{MORE_DISK, SpillFolder};

/// What runs plans: DataFusion's context and the number of partitions of a streamed stage.
#[derive(Debug, Clone)]
pub struct Compute {
    /// Session settings, memory pool and functions of the stages' runs.
    pub context: Arc<TaskContext>,
    /// The same where states are merged and read out: what these take is bounded by what operators give them.
    pub merges: Arc<TaskContext>,
    /// Partitions of a stage over streamed rows.
    pub partitions: usize,
    /// What operators may keep in memory; `None` is everything.
    pub limit: Option<StateLimit>,
    /// Shared by plans that run; a plan over rows that are on disk is alone. It takes all of the memory pool, and others, which
    /// have nothing yet that they could spill, would get none.
    pub turns: Arc<RwLock<()>>,
}

/// What operators may keep in memory, and where the rest goes. Clones share what is counted.
#[derive(Debug, Clone)]
pub struct StateLimit {
    /// Where state goes that does not fit.
    pub folder: Arc<SpillFolder>,
    /// Bytes that the state of all queries may have in memory.
    pub bytes: usize,
    /// Bytes of rows that operators and stages of all queries may have given and have in memory together, until those have gone
    /// whom they are for; what is more goes to disk.
    pub output_bytes: usize,
    /// Bytes that the whole process may have.
    pub process_bytes: usize,
    /// Those of them that are this job's: it may be one of several.
    pub job_bytes: usize,
    /// Of [`Self::output_bytes`], those that are in memory.
    pub given: SharedBytes,
    /// Rows of open files that are kept for checkpoints, of all queries.
    pub open_rows: SharedBytes,
    /// Shared by windows that are read out.
    pub(crate) reads: Arc<Semaphore>,
}

/// Windows that are read out share as much as operators may give, in so many parts.
const READ_PARTS: usize = 64;
/// What is read of a window at a time is there as states, in the hash table over them, and as the rows that become of them.
const COPIES_OF_A_READ: usize = 3;

impl StateLimit {
    /// A limit of a job that has the process for itself.
    pub fn new(folder: Arc<SpillFolder>, bytes: usize, output_bytes: usize, process_bytes: usize) -> Self {
        Self {
            folder,
            bytes,
            output_bytes,
            process_bytes,
            job_bytes: process_bytes,
            given: SharedBytes::default(),
            open_rows: SharedBytes::default(),
            reads: Arc::new(Semaphore::new(READ_PARTS)),
        }
    }

    /// Waits until so many bytes of states may be read out of a window at a time, beside those of other queries.
    pub(super) async fn read(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let part = (self.output_bytes / READ_PARTS).max(1);
        let parts = bytes.saturating_mul(COPIES_OF_A_READ).div_ceil(part).clamp(1, READ_PARTS);
        let read = Arc::clone(&self.reads).acquire_many_owned(parts as u32).await;
        read.map_err(|e| Error::internal("windows cannot be read out any more").caused_by(e))
    }

    /// Down to how many bytes an operator is to put its state on disk, in the midst of taking rows, when it `holds` so many that can go
    /// there. Between two epochs that is decided for all of them together.
    pub(super) fn relief(&self, holds: usize) -> Option<usize> {
        (holds > self.bytes / 2).then_some(self.bytes / 4)
    }
}

/// Whether a plan has failed because the memory pool had no more.
pub(super) fn is_exhausted(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    source.is_some_and(|e: &DataFusionError| matches!(e.find_root(), DataFusionError::ResourcesExhausted(_)))
}

/// Rows after which a partial aggregation asks itself whether it pays, and the share of groups among them from which it
/// does not: then the rest of the epoch's rows become states as they are, and are hashed once, when they are merged.
/// Of 131,072 rows an epoch, two tasks see 65,536 each. (user, page) of one minute are 0.8 groups a row, and hashing
/// them twice took a third of such a query.
const PROBE_ROWS: usize = 8_192;
const PROBE_SHARE: f64 = 0.6;

impl Compute {
    /// Runs of streamed stages in `partitions` tasks.
    pub fn new(partitions: usize) -> Self {
        let mut config = SessionConfig::new();
        let execution = &mut config.options_mut().execution;
        execution.skip_partial_aggregation_probe_rows_threshold = PROBE_ROWS;
        execution.skip_partial_aggregation_probe_ratio_threshold = PROBE_SHARE;
        let context = Arc::new(TaskContext::default().with_session_config(config));
        Self { merges: Arc::clone(&context), context, partitions, limit: None, turns: Arc::default() }
    }

    /// The same within a limit: stages run in `runtime`, and state beyond `limit` goes to disk.
    #[must_use]
    pub fn within(self, limit: StateLimit, runtime: Arc<RuntimeEnv>) -> Self {
        let mut config = self.context.session_config().clone();
        // Each sort keeps so much for merging what it has spilled: DataFusion's 10 MiB would leave room for three sorts in the
        // smallest pool (`job/memory.rs`, where plans have as much as output has).
        let reserved = &mut config.options_mut().execution.sort_spill_reservation_bytes;
        *reserved = (*reserved).min(limit.output_bytes / 16);
        let context = TaskContext::default().with_session_config(config).with_runtime(runtime);
        Self { context: Arc::new(context), limit: Some(limit), ..self }
    }

    /// For plans over states.
    pub(super) fn merging(&self) -> Self {
        Self { context: Arc::clone(&self.merges), ..self.clone() }
    }
}

/// The same plan in nodes of its own, for one run.
///
/// DataFusion's nodes note what each execution has taken, and forget nothing: a plan that runs each second would hold
/// 10 to 20 KiB more after each (`benches/soak.py`). So what is executed is a copy that goes with its run; making it takes a few
/// microseconds. Leaves are shared, and so is what a hash join has built of its reference table. (Its own notes are shared with it:
/// `graph` makes such plans anew now and then.) Other joins keep their tables in themselves, so they are taken as they are.
fn fresh(plan: &Arc<dyn ExecutionPlan>) -> std::result::Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    let children = plan.children();
    let keeps = matches!(plan.name(), "CrossJoinExec" | "NestedLoopJoinExec" | "PiecewiseMergeJoinExec");
    if children.is_empty() || keeps {
        return Ok(Arc::clone(plan));
    }
    let children = children.into_iter().map(fresh).collect::<std::result::Result<_, DataFusionError>>()?;
    let as_before = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
    let plan = Arc::clone(plan).replace_children(children, as_before)?;
    // This one takes its notes along.
    if plan.name() == "SortExec" { plan.reset_state() } else { Ok(plan) }
}

/// Runs a plan and returns its rows, partition after partition. Empty batches are left out.
pub async fn run_partitions(plan: &Arc<dyn ExecutionPlan>, compute: &Compute) -> Result<Vec<RecordBatch>> {
    let plan = &fresh(plan).map_err(failure)?;
    let count = plan.output_partitioning().partition_count();
    let mut rows = Vec::new();
    if count == 1 {
        collect(plan.execute(0, Arc::clone(&compute.context)).map_err(failure)?, &mut rows).await?;
        return Ok(rows);
    }
    let mut tasks = Vec::with_capacity(count);
    for partition in 0..count {
        let stream = plan.execute(partition, Arc::clone(&compute.context)).map_err(failure)?;
        tasks.push(tokio::spawn(async move {
            let mut rows = Vec::new();
            collect(stream, &mut rows).await.map(|()| rows)
        }));
    }
    let mut failed = None;
    for task in tasks {
        // All of them are waited for: nothing of a run that has failed goes on.
        match task.await.map_err(|e| Error::internal("a stage's task ended early").caused_by(e)).flatten() {
            Ok(part) => rows.extend(part),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(rows), Err)
}

/// Runs a plan, whose rows nobody needs.
pub async fn run_through(plan: &Arc<dyn ExecutionPlan>, compute: &Compute) -> Result<()> {
    let plan = fresh(plan).map_err(failure)?;
    let mut tasks = Vec::new();
    for partition in 0..plan.output_partitioning().partition_count() {
        let mut stream = plan.execute(partition, Arc::clone(&compute.context)).map_err(failure)?;
        tasks.push(tokio::spawn(async move {
            while stream.try_next().await.map_err(failure)?.is_some() {}
            Ok(())
        }));
    }
    let mut outcome = Ok(());
    for task in tasks {
        let done = task.await.map_err(|e| Error::internal("a stage's task ended early").caused_by(e)).flatten();
        outcome = outcome.and(done);
    }
    outcome
}

/// Runs a plan and adds its rows to `out` as they come, partition after partition, so that not all of them need be in memory.
pub(super) async fn run_into(plan: &Arc<dyn ExecutionPlan>, compute: &Compute, out: &mut Output) -> Result<()> {
    let plan = fresh(plan).map_err(failure)?;
    for partition in 0..plan.output_partitioning().partition_count() {
        let mut stream = plan.execute(partition, Arc::clone(&compute.context)).map_err(failure)?;
        while let Some(batch) = stream.try_next().await.map_err(failure)? {
            if batch.num_rows() > 0 {
                out.add(batch)?;
            }
        }
    }
    Ok(())
}

async fn collect(
    mut stream: datafusion::execution::SendableRecordBatchStream,
    rows: &mut Vec<RecordBatch>,
) -> Result<()> {
    while let Some(batch) = stream.try_next().await.map_err(failure)? {
        if batch.num_rows() > 0 {
            rows.push(batch);
        }
    }
    Ok(())
}

/// What helps where memory is not enough.
pub(super) const MORE_MEMORY: &str = "give the job more --memory, or make fewer groups or shorter windows";

/// A failure while rows were computed is the data's or the query's, not the machine's.
pub(crate) fn failure(error: DataFusionError) -> Error {
    use DataFusionError as E;
    let error = match error {
        // One of our own, on its way through a plan.
        E::External(source) => match source.downcast::<Error>() {
            Ok(own) => return *own,
            Err(other) => E::External(other),
        },
        other => other,
    };
    // Some nodes give one error to several others, so it is only lent.
    if let Some(own) = causes(&error).find_map(|cause| cause.downcast_ref::<Error>()) {
        return own.again();
    }
    // No row is to blame for a disk.
    if causes(&error).any(|cause| cause.is::<std::io::Error>()) {
        let what = "cannot write or read what a plan has put on disk";
        return Error::unavailable(what).of_this_machine().caused_by(error).hint(MORE_DISK);
    }
    let kind = match error.find_root() {
        E::Internal(_) | E::Plan(_) | E::SchemaError(..) => ErrorKind::Internal,
        E::ResourcesExhausted(_) => {
            let what =
                "what a sort, join or aggregation must have in memory is more than the fifth that plans have of it";
            return Error::unavailable(what).of_this_machine().caused_by(error).hint(MORE_MEMORY);
        }
        _ => ErrorKind::Data,
    };
    Error::new(kind, error.strip_backtrace())
}

/// What has caused an error, from the top down.
fn causes(error: &DataFusionError) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    type Cause = dyn std::error::Error + 'static;
    std::iter::successors(std::error::Error::source(error), |cause: &&Cause| (*cause).source())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array};
    use datafusion::physical_expr::expressions::{col, lit};
    use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
    use datafusion::physical_plan::filter::FilterExec;
    use datafusion::physical_plan::sorts::sort::SortExec;

    use super::super::slot::{Slot, SlotExec};
    use super::*;

    /// Else the epoch is noted as one that no query can take, and stays so when the disk has room again.
    #[test]
    fn a_disk_and_memory_are_not_the_data_s_fault() {
        use std::io;
        type E = DataFusionError;
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let shared = |error: E| E::Shared(Arc::new(error));
        let in_arrow = datafusion::arrow::error::ArrowError::IoError("the writer".to_owned(), full());
        for error in [
            E::IoError(full()),
            E::IoError(io::Error::from_raw_os_error(24)),
            shared(E::IoError(full())).context("a sort"),
            E::ArrowError(Box::new(in_arrow), None),
            E::ResourcesExhausted("no more".to_owned()),
            shared(E::ResourcesExhausted("no more".to_owned())),
        ] {
            let text = error.to_string();
            let error = failure(error);
            assert_eq!((error.kind(), error.is_of_this_machine()), (ErrorKind::Unavailable, true), "{text}");
            assert!(error.hint_text().is_some_and(|hint| hint.contains("--memory")), "{error}");
        }
        // One of our own keeps its kind, by whatever nodes it has come.
        let own = || Error::unavailable("the table does not answer").hint("wait");
        for error in [E::External(Box::new(own())), shared(E::External(Box::new(own()))).context("a join")] {
            let error = failure(error);
            assert_eq!((error.kind(), error.is_of_this_machine()), (ErrorKind::Unavailable, false));
            assert_eq!(error.to_string(), own().to_string());
        }
        assert_eq!(failure(E::Execution("no number".to_owned())).kind(), ErrorKind::Data);
    }

    #[tokio::test]
    async fn a_plan_holds_no_more_after_many_runs() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let batch = RecordBatch::try_from_iter([("a", column)]).expect("a batch");
        let slot = Slot::stream(batch.schema(), 1);
        let leaf = Arc::new(SlotExec::try_new(Arc::clone(&slot), None).expect("a leaf"));
        let filter = Arc::new(FilterExec::try_new(lit(true), leaf).expect("a filter"));
        let order = LexOrdering::new([PhysicalSortExpr::new_default(col("a", &batch.schema()).expect("a column"))]);
        let plan: Arc<dyn ExecutionPlan> = Arc::new(SortExec::new(order.expect("an order"), filter));
        let compute = Compute::new(1);
        for _ in 0..10 {
            slot.fill(std::slice::from_ref(&batch));
            assert_eq!(run_partitions(&plan, &compute).await.expect("it runs"), std::slice::from_ref(&batch));
        }
        let noted = |plan: &Arc<dyn ExecutionPlan>| plan.metrics().map_or(0, |metrics| metrics.iter().count());
        let noted = noted(&plan) + noted(plan.children()[0]);
        assert_eq!(noted, 0, "what a run notes goes with it");
    }
}
