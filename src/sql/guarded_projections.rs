//! A projection that computes something stays above the filter that guards it.
//!
//! ```text
//!   SELECT n, x / n FROM t WHERE n <> 0
//!
//!   Projection  n, x / n               Filter  n <> 0
//!     Filter  n <> 0          not        Projection  n, x / n      fails for n = 0
//!       t                                  t
//! ```
//!
//! DataFusion's rule of this name takes a projection below a filter where it has fewer columns than it reads, also where what it computes can
//! fail (`FilterExec::try_swapping_with_projection`). SQL computes what it selects for rows that WHERE lets through. So this rule stands
//! in its place: it moves projections as that one does, but only those of columns go below a filter.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::{ProjectionExec, remove_unnecessary_projections, try_embed_projection};

/// What DataFusion calls the rule, which its list has twice.
const PROJECTION_PUSHDOWN: &str = "ProjectionPushdown";

/// DataFusion's rules, with this one in the place of its own.
pub(super) fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let rules = PhysicalOptimizer::new().rules.into_iter();
    rules
        .map(|rule| if rule.name() == PROJECTION_PUSHDOWN { Arc::new(GuardedProjections) as _ } else { rule })
        .collect()
}

#[derive(Debug)]
struct GuardedProjections;

impl PhysicalOptimizerRule for GuardedProjections {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_down(moved).data()
    }

    fn name(&self) -> &str {
        PROJECTION_PUSHDOWN
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn moved(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some((projection, filter)) = guarded(&plan) else { return remove_unnecessary_projections(plan) };
    // The filter gives on what is computed from alone. Not where the projection says more of its columns than they say themselves.
    let plain = ProjectionExec::try_new(projection.expr().to_vec(), Arc::clone(projection.input()))?;
    let embedded = if plain.schema() == plan.schema() { try_embed_projection(projection, filter)? } else { None };
    Ok(embedded.map_or_else(|| Transformed::no(Arc::clone(&plan)), Transformed::yes))
}

/// A projection that computes something, and the filter below it.
fn guarded(plan: &Arc<dyn ExecutionPlan>) -> Option<(&ProjectionExec, &FilterExec)> {
    let projection = plan.downcast_ref::<ProjectionExec>()?;
    let filter = projection.input().downcast_ref::<FilterExec>()?;
    let computes = projection.expr().iter().any(|computed| computed.expr.downcast_ref::<Column>().is_none());
    computes.then_some((projection, filter))
}
