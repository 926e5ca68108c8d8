//! `GROUP BY a, a` groups by `a`.
//!
//! DataFusion's plan keeps both keys, where its schema has one, and fails when the first rows come.

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};

/// The plan with each key of an aggregation once.
pub(super) fn each_once(plan: LogicalPlan) -> Result<LogicalPlan> {
    let once = |node| match node {
        LogicalPlan::Aggregate(aggregate) if has_twice(&aggregate.group_expr) => {
            let Aggregate { input, group_expr, aggr_expr, .. } = aggregate;
            let mut keys: Vec<Expr> = Vec::new();
            for key in group_expr {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            Ok(Transformed::yes(LogicalPlan::Aggregate(Aggregate::try_new(input, keys, aggr_expr)?)))
        }
        node => Ok(Transformed::no(node)),
    };
    Ok(plan.transform_up_with_subqueries(once)?.data)
}

fn has_twice(keys: &[Expr]) -> bool {
    keys.iter().enumerate().any(|(place, key)| keys[..place].contains(key))
}
