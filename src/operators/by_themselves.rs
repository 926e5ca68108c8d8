//! Which parts of a plan rows come through by themselves: what fails there for a row fails whatever other rows there are.
//!
//! ```text
//!   Projection                what fails from here on is no single row's fault: then the plan fails
//!     Aggregate, final
//!       Aggregate, partial    ┐
//!         Join                │ what each row comes through by itself, up to what the lowest aggregations and window
//!           reference table   │ functions take of it
//!           Filter            │
//!             the rows        ┘
//! ```
//!
//! A whole plan over a part of its rows is another query where rows depend on each other: a share of all in a partition may divide
//! by zero over one of its rows alone, and over all of them not. So rows that make a plan fail are looked for in these parts only.
//! What is read of reference tables is the same for each row, and depends on none.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};

use super::slot::SlotExec;

/// The parts of a plan that rows come through by themselves.
pub(crate) fn by_themselves(plan: &Arc<dyn ExecutionPlan>) -> Vec<Arc<dyn ExecutionPlan>> {
    if !reads_rows(plan) {
        return Vec::new();
    }
    match takes_rows(plan) || !needs_others(plan) {
        true => vec![Arc::clone(plan)],
        false => plan.children().into_iter().flat_map(by_themselves).collect(),
    }
}

/// The sides of a plan's joins that are made of reference tables alone, and may fail: no row is to blame then.
pub(crate) fn reference_sides(plan: &Arc<dyn ExecutionPlan>) -> Vec<Arc<dyn ExecutionPlan>> {
    match plan.children().as_slice() {
        [] => Vec::new(),
        _ if !reads_rows(plan) => vec![Arc::clone(plan)],
        children => children.iter().flat_map(|child| reference_sides(child)).collect(),
    }
}

/// Whether a plan reads anything but reference tables.
fn reads_rows(plan: &Arc<dyn ExecutionPlan>) -> bool {
    match plan.children().as_slice() {
        [] => !plan.downcast_ref::<SlotExec>().is_some_and(SlotExec::is_reference),
        children => children.iter().any(|child| reads_rows(child)),
    }
}

/// Whether what a plan gives for a row depends on other rows.
fn needs_others(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let gathers = matches!(plan.name(), "AggregateExec" | "WindowAggExec" | "BoundedWindowAggExec" | "SortExec");
    gathers && reads_rows(plan) || plan.children().into_iter().any(needs_others)
}

/// Whether it is one of the lowest nodes that gather rows: what it asks of a row (arguments, partition, order) is the row's own.
fn takes_rows(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let takes = match plan.downcast_ref::<AggregateExec>() {
        Some(aggregate) => !matches!(aggregate.mode(), AggregateMode::Final | AggregateMode::FinalPartitioned),
        None => matches!(plan.name(), "WindowAggExec" | "BoundedWindowAggExec" | "SortExec"),
    };
    takes && plan.children().into_iter().all(|input| !needs_others(unordered(input)))
}

/// The rows below what only puts them in order.
fn unordered(plan: &Arc<dyn ExecutionPlan>) -> &Arc<dyn ExecutionPlan> {
    let orders = matches!(
        plan.name(),
        "SortExec" | "SortPreservingMergeExec" | "CoalescePartitionsExec" | "CoalesceBatchesExec" | "RepartitionExec"
    );
    match plan.children().as_slice() {
        [input] if orders => unordered(input),
        _ => plan,
    }
}
