//! Which side of a join is kept from epoch to epoch.
//!
//! A join collects its left input once, and the plan of a stage is run again and again: so the left side
//! must be the reference table, and the streamed rows must be on the right. DataFusion chooses sides by
//! size, which it does not always know.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};

use super::errors::PlanError;
use crate::operators::SlotExec;

/// Puts the streamed side of every join on its right.
pub(crate) fn keep_references_left(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let swap = |node: Arc<dyn ExecutionPlan>| {
        let children = node.children();
        let [left, right] = children.as_slice() else { return Ok(Transformed::no(node)) };
        if !is_join(&node) || !is_streamed(left) {
            return Ok(Transformed::no(node));
        }
        if is_streamed(right) {
            let error = PlanError::new("a join of two streams is not supported yet").word("JOIN");
            return Err(error.hint("one side must be a reference table").into());
        }
        let swapped = if let Some(join) = node.downcast_ref::<HashJoinExec>() {
            join.swap_inputs(PartitionMode::CollectLeft)?
        } else if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
            join.swap_inputs()?
        } else if let Some(join) = node.downcast_ref::<CrossJoinExec>() {
            join.swap_inputs()?
        } else {
            return Err(PlanError::new("this form of join is not supported on a stream").word("JOIN").into());
        };
        Ok(Transformed::yes(swapped))
    };
    plan.transform_up(swap).data()
}

fn is_join(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.name().contains("Join")
}

/// Whether rows of an epoch come out of the plan.
fn is_streamed(plan: &Arc<dyn ExecutionPlan>) -> bool {
    match plan.downcast_ref::<SlotExec>() {
        Some(slot) => !slot.is_reference(),
        None => plan.children().into_iter().any(is_streamed),
    }
}
