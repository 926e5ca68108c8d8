//! Conditions of plans are guarded ([`Guarded`](crate::operators::Guarded)): the last of the physical rules, since others look into them.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use crate::operators::guard;

#[derive(Debug)]
pub(super) struct GuardedConditions;

impl PhysicalOptimizerRule for GuardedConditions {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(guarded).data()
    }

    fn name(&self) -> &str {
        "GuardedConditions"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn guarded(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let other = if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        filtered(filter)?
    } else if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        projected(projection)?
    } else if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        aggregated(aggregate)?
    } else {
        None
    };
    Ok(other.map_or_else(|| Transformed::no(Arc::clone(&plan)), Transformed::yes))
}

/// An expression, and whether it is another one now.
fn tried(expr: &Arc<dyn PhysicalExpr>, changed: &mut bool) -> Result<Arc<dyn PhysicalExpr>> {
    let guarded = guard(expr)?;
    *changed |= !Arc::ptr_eq(&guarded, expr);
    Ok(guarded)
}

fn filtered(filter: &FilterExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let mut changed = false;
    let predicate = tried(filter.predicate(), &mut changed)?;
    let build = || Ok(Arc::new(FilterExecBuilder::from(filter).with_predicate(predicate).build()?) as _);
    changed.then(build).transpose()
}

fn projected(projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let mut changed = false;
    let of = |own: &ProjectionExpr| {
        let ProjectionExpr { expr, alias } = own;
        Ok(ProjectionExpr { expr: tried(expr, &mut changed)?, alias: alias.clone() })
    };
    let computed = projection.expr().iter().map(of).collect::<Result<Vec<_>>>()?;
    let build = || Ok(Arc::new(ProjectionExec::try_new(computed, Arc::clone(projection.input()))?) as _);
    changed.then(build).transpose()
}

/// Keys, arguments and filters of an aggregation that reads rows.
fn aggregated(aggregate: &AggregateExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let reads_rows =
        matches!(aggregate.mode(), AggregateMode::Partial | AggregateMode::Single | AggregateMode::SinglePartitioned);
    if !reads_rows {
        return Ok(None);
    }
    let mut changed = false;
    let own = aggregate.group_expr();
    let key = |(expr, name): &(Arc<dyn PhysicalExpr>, String)| Ok((tried(expr, &mut changed)?, name.clone()));
    let keys = own.expr().iter().map(key).collect::<Result<Vec<_>>>()?;
    let call = |own: &Arc<AggregateFunctionExpr>| {
        let mut is_new = false;
        let expressions = own.all_expressions();
        let args = expressions.args.iter().map(|arg| tried(arg, &mut is_new)).collect::<Result<Vec<_>>>()?;
        // One that is computed the other way round would forget that it is.
        let is_new = is_new && !own.is_reversed();
        let new = is_new.then(|| own.with_new_expressions(args, expressions.order_by_exprs)).flatten();
        changed |= new.is_some();
        Ok(new.map_or_else(|| Arc::clone(own), Arc::new))
    };
    let calls = aggregate.aggr_expr().iter().map(call).collect::<Result<Vec<_>>>()?;
    let filter = |own: &Option<Arc<dyn PhysicalExpr>>| own.as_ref().map(|own| tried(own, &mut changed)).transpose();
    let filters = aggregate.filter_expr().iter().map(filter).collect::<Result<Vec<_>>>()?;
    if !changed {
        return Ok(None);
    }
    let groups = PhysicalGroupBy::new(keys, own.null_expr().to_vec(), own.groups().to_vec(), own.has_grouping_set());
    let (mode, input) = (*aggregate.mode(), Arc::clone(aggregate.input()));
    let other = AggregateExec::try_new(mode, groups, calls, filters, input, aggregate.input_schema())?;
    Ok(Some(Arc::new(other.with_new_limit_options(aggregate.limit_options()))))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::SessionContext;

    use crate::sql::session::planning_state;

    /// DataFusion computes one of the two the other way round, so that both take rows in one order.
    #[tokio::test]
    async fn what_is_aggregated_in_an_order_keeps_it() {
        let context = SessionContext::new_with_state(planning_state(chrono_tz::UTC, None));
        let sql = "SELECT array_agg(n ORDER BY k) AS up,
                     array_agg(CASE WHEN upper(s) = 'A' OR n > 2 THEN n ELSE -n END ORDER BY k DESC) AS down
                   FROM (VALUES (1, 3, 'a'), (2, 1, 'b'), (3, 2, 'b')) AS t (n, k, s)";
        let rows = context.sql(sql).await.expect("it is planned").collect().await.expect("it runs");
        let shown = pretty_format_batches(&rows).expect("it is shown").to_string();
        assert!(shown.contains("| [2, 3, 1] | [1, 3, -2] |"), "{shown}");
    }
}
