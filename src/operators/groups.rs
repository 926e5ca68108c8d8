//! Which rows of closing windows must come together into the plan that reads them.
//!
//! A plan of projections, filters and partial aggregations may be run over any parts of its rows. One that aggregates to the end
//! (there is one above the window of a `COUNT(DISTINCT x)` on two levels) may be run over parts that do not divide its groups. So
//! windows below such a plan are read out by hashes of columns that it groups by, and what closes need not be in memory all at
//! once before it is counted.

use std::sync::Arc;

use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::slot::SlotExec;

/// Whether a plan gives the same rows (or partial states) whether it is run over all of its rows or over parts of them.
pub(super) fn is_distributive(plan: &Arc<dyn ExecutionPlan>) -> bool {
    takes_parts(plan) && plan.children().into_iter().all(is_distributive)
}

/// The same of one node.
fn takes_parts(plan: &Arc<dyn ExecutionPlan>) -> bool {
    match plan.name() {
        "SlotExec"
        | "ProjectionExec"
        | "FilterExec"
        | "GateExec"
        | "CountExec"
        | "CoalesceBatchesExec"
        | "CoalescePartitionsExec"
        | "RepartitionExec"
        | "CooperativeExec" => true,
        "AggregateExec" => {
            plan.downcast_ref::<AggregateExec>().is_some_and(|aggregate| *aggregate.mode() == AggregateMode::Partial)
        }
        _ => false,
    }
}

/// The columns of the rows, as they come into the plan's leaf, by which its one aggregation groups. `None` for a plan that has none, or that
/// needs all rows at once for another reason.
pub(super) fn grouped_by(plan: &Arc<dyn ExecutionPlan>) -> Option<Vec<usize>> {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>()
        && matches!(aggregate.mode(), AggregateMode::Single | AggregateMode::SinglePartitioned)
    {
        let plain = aggregate.group_expr().is_single() && is_distributive(aggregate.input());
        let groups = aggregate.group_expr().expr().iter();
        return plain.then(|| groups.filter_map(|(group, _)| column_of(aggregate.input(), group)).collect());
    }
    let children = plan.children();
    let [child] = children.as_slice() else { return None };
    if takes_parts(plan) { grouped_by(child) } else { None }
}

/// The column of the leaf's rows that an expression over the rows of `plan` is, if it is one.
fn column_of(plan: &Arc<dyn ExecutionPlan>, expression: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    let (mut plan, mut index) = (plan, expression.downcast_ref::<Column>()?.index());
    loop {
        if let Some(leaf) = plan.downcast_ref::<SlotExec>() {
            return leaf.column(index);
        }
        (plan, index) = column_below(plan, index)?;
    }
}

/// Where a column of a plan's rows comes from, where the plan only passes it on: the plan below, and the column of its rows.
pub(super) fn column_below(plan: &Arc<dyn ExecutionPlan>, index: usize) -> Option<(&Arc<dyn ExecutionPlan>, usize)> {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let column = projection.expr().get(index)?.expr.downcast_ref::<Column>()?;
        return Some((projection.input(), column.index()));
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        let index = filter.projection().as_ref().map_or(Some(index), |columns| columns.get(index).copied())?;
        return Some((filter.input(), index));
    }
    match (plan.name(), plan.children().as_slice()) {
        (
            "CooperativeExec" | "CountExec" | "CoalesceBatchesExec" | "CoalescePartitionsExec" | "RepartitionExec",
            [child],
        ) => Some((child, index)),
        _ => None,
    }
}
