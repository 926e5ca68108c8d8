//! Running a plan once: all partitions at the same time, results in their order.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::SessionConfig;
use futures::TryStreamExt;

use crate::contracts::{Error, ErrorKind, Result};

/// What runs plans: DataFusion's context and the number of partitions of a streamed stage.
#[derive(Debug, Clone)]
pub struct Compute {
    /// Session settings, memory pool and functions of the runs.
    pub context: Arc<TaskContext>,
    /// Partitions of a stage over streamed rows.
    pub partitions: usize,
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
        Self { context: Arc::new(TaskContext::default().with_session_config(config)), partitions }
    }
}

/// Runs a plan and returns its rows, partition after partition. Empty batches are left out.
pub async fn run_partitions(plan: &Arc<dyn ExecutionPlan>, compute: &Compute) -> Result<Vec<RecordBatch>> {
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
    for task in tasks {
        let part = task.await.map_err(|e| Error::internal("a stage's task ended early").caused_by(e))??;
        rows.extend(part);
    }
    Ok(rows)
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

/// A failure while rows were computed is the data's or the query's, not the machine's.
pub(crate) fn failure(error: datafusion::error::DataFusionError) -> Error {
    use datafusion::error::DataFusionError as E;
    let error = match error {
        // One of our own, on its way through a plan.
        E::External(source) => match source.downcast::<Error>() {
            Ok(own) => return *own,
            Err(other) => E::External(other),
        },
        other => other,
    };
    let kind = match error.find_root() {
        E::Internal(_) | E::Plan(_) | E::SchemaError(..) => ErrorKind::Internal,
        E::ResourcesExhausted(_) => ErrorKind::Unavailable,
        _ => ErrorKind::Data,
    };
    Error::new(kind, error.strip_backtrace())
}
