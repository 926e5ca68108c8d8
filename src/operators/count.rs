//! Counts the rows of source tables that a query uses: those that reach its first operator or its sink.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties, SendableRecordBatchStream,
};
use futures::StreamExt;

use super::gate::GateReport;

/// Passes rows on and counts them.
#[derive(Debug)]
pub struct CountExec {
    input: Arc<dyn ExecutionPlan>,
    report: Arc<GateReport>,
}

impl CountExec {
    /// Counts the rows of `input` as used.
    pub fn new(input: Arc<dyn ExecutionPlan>, report: Arc<GateReport>) -> Self {
        Self { input, report }
    }
}

impl DisplayAs for CountExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Count")
    }
}

impl ExecutionPlan for CountExec {
    fn name(&self) -> &'static str {
        "CountExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
        Ok(Arc::new(Self::new(children.swap_remove(0), Arc::clone(&self.report))))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let (schema, report) = (input.schema(), self.report.run());
        let counted = input.inspect(move |batch| {
            if let Ok(batch) = batch {
                report.used(batch.num_rows());
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counted)))
    }
}

/// Where a plan gets its rows.
pub(super) fn leaves(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let children = plan.children();
    if children.is_empty() { 1 } else { children.into_iter().map(leaves).sum() }
}

/// Whether a plan can give more rows than it takes: then rows used cannot be compared with rows read.
pub fn multiplies(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let name = plan.name();
    name == "UnnestExec" || name.ends_with("JoinExec") || plan.children().into_iter().any(multiplies)
}
