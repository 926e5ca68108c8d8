//! How a plan is run over rows that are on disk.
//!
//! What DataFusion's operators take from the memory pool, they spill. But they take it batch by batch: where nothing is held yet that could be
//! spilled, and a batch does not fit, the plan fails. So such a plan is run
//!
//! - **alone** (`Compute::turns`): another one may have all of the pool;
//! - with **batches of as many rows as the blocks on disk**, which have a bound in bytes (`output.rs`): 8,192 rows of 2 KiB are 16 MiB, and
//!   a sort wants twice that for each;
//! - with **room to merge**: a sort that spills has its batches and their keys, which may be as large, in memory once more than it has reserved;
//! - with **text of their own** below each sort: rows that were sorted or joined point into all batches that they came from, and each
//!   would be counted as all of these;
//! - **without `WindowAggExec`**, which asks no pool (`large_windows.rs`).
//!
//! The plan is made for the run: that takes microseconds, and the run reads a disk.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::WindowAggExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties, SendableRecordBatchStream,
};
use futures::StreamExt;
use tokio::sync::OwnedRwLockWriteGuard;

use super::compute::{Compute, StateLimit, failure, run_into};
use super::large_windows::{LargeWindowExec, outward};
use super::output::Output;
use super::panes::own_text;

/// Of what plans have left, of as much as operators may give (`job/memory.rs`), each sort keeps this part for merging. Three sorts in one plan
/// leave a quarter to hold rows.
const MERGE_PART: usize = 4;

/// A plan that has its turn. See the module's description.
#[derive(Debug)]
pub(super) struct LargeRun {
    plan: Arc<dyn ExecutionPlan>,
    compute: Compute,
    _turn: OwnedRwLockWriteGuard<()>,
}

impl LargeRun {
    /// Waits until the plan is alone. Its rows lie in blocks of `block_rows` rows.
    pub(super) async fn new(
        plan: &Arc<dyn ExecutionPlan>,
        compute: &Compute,
        block_rows: usize,
    ) -> crate::contracts::Result<Self> {
        let plan = owning(plan, compute)?;
        let turn = Arc::clone(&compute.turns).write_owned().await;
        let runtime = compute.context.runtime_env();
        let mut config = compute.context.session_config().clone().with_batch_size(block_rows.max(1));
        if let Some(limit) = &compute.limit {
            // Now there are only the indexes of reference tables.
            let free = limit.output_bytes.saturating_sub(runtime.memory_pool.reserved());
            config.options_mut().execution.sort_spill_reservation_bytes = free / MERGE_PART;
        }
        let context = TaskContext::default().with_session_config(config).with_runtime(runtime);
        Ok(Self { plan, compute: Compute { context: Arc::new(context), ..compute.clone() }, _turn: turn })
    }

    /// Runs the plan over what its slots have.
    pub(super) async fn run_into(&self, given: &mut Output) -> crate::contracts::Result<()> {
        run_into(&self.plan, &self.compute, given).await
    }

    /// A part of the plan as it is run in this turn, by [`Self::compute`].
    pub(super) fn part(&self, part: &Arc<dyn ExecutionPlan>) -> crate::contracts::Result<Arc<dyn ExecutionPlan>> {
        owning(part, &self.compute)
    }

    /// What it is run by.
    pub(super) fn compute(&self) -> &Compute {
        &self.compute
    }
}

/// The plan for rows that are on disk. The rows that it gives do not hold what they were made of.
fn owning(plan: &Arc<dyn ExecutionPlan>, compute: &Compute) -> crate::contracts::Result<Arc<dyn ExecutionPlan>> {
    let input = match &compute.limit {
        Some(limit) => adapted(plan, limit).map_err(failure)?,
        None => Arc::clone(plan),
    };
    Ok(Arc::new(OwnTextExec { input }))
}

/// The same, whose rows may.
pub(super) fn adapted(plan: &Arc<dyn ExecutionPlan>, limit: &StateLimit) -> Result<Arc<dyn ExecutionPlan>> {
    let children = plan.children();
    if children.is_empty() {
        return Ok(Arc::clone(plan));
    }
    let sorts = plan.downcast_ref::<SortExec>().is_some() || plan.downcast_ref::<WindowAggExec>().is_some();
    let child = |child: &Arc<dyn ExecutionPlan>| -> Result<Arc<dyn ExecutionPlan>> {
        let child = adapted(child, limit)?;
        // Rows of a leaf are as they were written: with their own.
        Ok(if sorts && !child.children().is_empty() { Arc::new(OwnTextExec { input: child }) } else { child })
    };
    let children = children.into_iter().map(child).collect::<Result<_>>()?;
    let as_before = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
    let plan = Arc::clone(plan).replace_children(children, as_before)?;
    Ok(if plan.downcast_ref::<WindowAggExec>().is_some() { Arc::new(LargeWindowExec::new(plan, limit)) } else { plan })
}

/// Passes rows on, with text of their own where they hold much else.
#[derive(Debug)]
struct OwnTextExec {
    input: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for OwnTextExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnText")
    }
}

impl ExecutionPlan for OwnTextExec {
    fn name(&self) -> &'static str {
        "OwnTextExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self { input: children.swap_remove(0) }))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let schema = input.schema();
        let owned = input.map(|batch| own_text(batch?).map_err(outward));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, owned)))
    }
}
