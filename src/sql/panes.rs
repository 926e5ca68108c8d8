//! Whether the windows of an aggregation can share panes: only where their bounds are nowhere used but as its keys can a row stand for all of
//! its windows at once.
//!
//! It is judged by the plan as it is written. The optimiser may find that what keeps rows from standing for panes is not needed, and states are
//! known by what it leaves: so it is asked of that, too, and where the answers differ, what the state is known by says so.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};

use super::aggregate::flat_groups;
use super::compile::bounds_of;
use super::nodes::{WindowTvf, window_bound};

/// Whether the bounds of a window are nowhere used but as keys of the aggregation.
pub(super) fn bounds_only_pass(aggregate: &Aggregate, number: usize) -> bool {
    are_keys(aggregate, number) && are_passed_on(&aggregate.input, number, false)
}

/// The same of an aggregation's normal form, which may have two levels: the optimiser makes them of a DISTINCT.
pub(super) fn bounds_would_pass(normal: &LogicalPlan, number: usize) -> bool {
    are_passed_on(normal, number, true)
}

fn uses(expr: &Expr, schema: &DFSchema, number: usize) -> bool {
    let is_bound = |column: &&Column| {
        schema.field_from_column(column).is_ok_and(|field| window_bound(field).is_some_and(|(_, of)| of == number))
    };
    expr.column_refs().iter().any(is_bound)
}

fn is_plain(expr: &Expr) -> bool {
    matches!(expr, Expr::Column(_))
}

/// Whether an aggregation uses the bounds as keys only. (A set that leaves them out would mix windows.)
fn are_keys(aggregate: &Aggregate, number: usize) -> bool {
    let schema = aggregate.input.schema();
    let has_sets = aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_)));
    let in_groups = flat_groups(aggregate).into_iter().any(|expr| !is_plain(expr) && uses(expr, schema, number));
    !has_sets && !in_groups && !aggregate.aggr_expr.iter().any(|expr| uses(expr, schema, number))
}

/// Whether the bounds are passed on as they are, up to what a plan gives, and are keys where `may_group` allows aggregations.
fn are_passed_on(plan: &LogicalPlan, number: usize, may_group: bool) -> bool {
    let mut only = true;
    let _ = plan.apply(|node| {
        match node {
            LogicalPlan::Extension(extension)
                if extension.node.as_any().downcast_ref::<WindowTvf>().is_some_and(|tvf| tvf.number == number) =>
            {
                return Ok(TreeNodeRecursion::Jump);
            }
            LogicalPlan::Aggregate(aggregate) if may_group => {
                only &= are_keys(aggregate, number);
                return Ok(TreeNodeRecursion::Continue);
            }
            LogicalPlan::Union(_) | LogicalPlan::Distinct(_) | LogicalPlan::Aggregate(_) => {
                only &= bounds_of(node).iter().all(|(_, of, _)| *of != number);
            }
            _ => {}
        }
        for input in node.inputs() {
            for expr in node.expressions() {
                let bare = match &expr {
                    Expr::Alias(alias) => is_plain(&alias.expr),
                    other => is_plain(other),
                };
                only &= bare && matches!(node, LogicalPlan::Projection(_)) || !uses(&expr, input.schema(), number);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    only
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::sql::{Parameters, PlanOptions, SqlText, plan_job};

    /// What the state of an aggregate over a view of windows is known by, and whether it has panes.
    async fn known(window: &str, column: &str, condition: &str, aggregate: &str) -> (String, bool) {
        let job = format!(
            "CREATE TABLE clicks (n BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at)
             WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
             CREATE TABLE results (n BIGINT) WITH ('connector' = 'print');
             CREATE VIEW windows AS SELECT n, window_start, window_end{column} FROM TABLE({window}) {condition};
             INSERT INTO results SELECT {aggregate} FROM windows GROUP BY window_start, window_end;"
        );
        let file = Arc::new(SqlText::new("job.sql", job));
        let options = PlanOptions { partitions: 1, batch: false, pruned: true, epoch_time_ms: Arc::default() };
        let planned = plan_job(&[file], &Parameters::default(), &options, None).await;
        let plan = planned.unwrap_or_else(|errors| panic!("{column} {condition} {aggregate}: {errors:?}"));
        let query = &plan.queries[0];
        (query.graph.operators[0].fingerprint.clone(), query.notes[0].contains("panes of"))
    }

    /// What is not in the normal form can keep rows from standing for panes. Such a state is not taken for one with panes, nor the other way round.
    #[tokio::test]
    async fn states_with_panes_and_without_are_known_as_other_ones() {
        const IN_EACH: &str = "\nwith each row in each of its windows";
        const LABEL: &str = ", DATE_FORMAT(window_start, 'HH:mm') AS label";
        for window in [
            "HOP(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' MINUTE, INTERVAL '5' MINUTES)",
            "CUMULATE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' MINUTE, INTERVAL '5' MINUTES)",
        ] {
            // The optimiser makes two levels of a DISTINCT that stands alone.
            for aggregate in ["COUNT(*)", "AVG(DISTINCT n)", "COUNT(DISTINCT n)"] {
                let (plain, has_panes) = known(window, "", "", aggregate).await;
                assert!(has_panes && !plain.contains(IN_EACH), "{window} {aggregate}: {plain}");
                let labelled = known(window, LABEL, "", aggregate).await;
                assert_eq!(labelled, (format!("{plain}{IN_EACH}"), false), "{window} {aggregate}");
            }
            let (always, has_panes) = known(window, "", "WHERE TRUE OR window_start < window_end", "COUNT(*)").await;
            assert!(!has_panes && always.ends_with(IN_EACH), "{window}: {always}");
            // A condition is in the text.
            let condition = "WHERE window_start < TIMESTAMP '2026-01-01 00:00:00'";
            let (filtered, has_panes) = known(window, "", condition, "COUNT(*)").await;
            assert!(!has_panes && !filtered.contains(IN_EACH), "{window}: {filtered}");
        }
        let tumble = "TUMBLE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' MINUTE)";
        assert_eq!(known(tumble, LABEL, "", "COUNT(*)").await, known(tumble, "", "", "COUNT(*)").await);
    }
}
