//! What is converted between the wall clock and instants without a CAST, by the session's zone.
//!
//! `ltz >= TIMESTAMP '…'`, BETWEEN, IN, CASE, COALESCE and UNION ALL bring their sides to one type. DataFusion does so
//! with casts of Arrow, for which the wall clock is that of UTC, for so the types of TIMESTAMP_LTZ are written. Each
//! CAST that somebody wrote is a call of `cast_to` by then, so all that are left between the two are of that kind.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, ScalarUDF};
use datafusion::optimizer::AnalyzerRule;
use datafusion::prelude::lit;

use super::types::type_text;

/// Makes such casts calls of `cast_to`. Goes behind the rule that brings types together.
#[derive(Debug)]
pub(crate) struct LocalTimes {
    pub cast_to: Arc<ScalarUDF>,
}

impl AnalyzerRule for LocalTimes {
    fn name(&self) -> &str {
        "local_times"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let rewritten = expr.transform_up(|expr| {
                    let Expr::Cast(cast) = &expr else { return Ok(Transformed::no(expr)) };
                    let to = cast.field.data_type();
                    if !cast.expr.get_type(&schema).is_ok_and(|from| crosses(&from, to)) {
                        return Ok(Transformed::no(expr));
                    }
                    let call = self.cast_to.call(vec![(*cast.expr).clone(), lit(type_text(to))]);
                    Ok(Transformed::yes(call))
                })?;
                Ok(rewritten.update_data(|expr| name.restore(expr)))
            })?
            .map_data(LogicalPlan::recompute_schema)
        })?;
        Ok(rewritten.data)
    }
}

/// Whether one side is of instants and the other of the wall clock; text is as it is read.
fn crosses(from: &DataType, to: &DataType) -> bool {
    use DataType::{Date32, Timestamp};
    match (from, to) {
        (Timestamp(_, a), Timestamp(_, b)) => a.is_some() != b.is_some(),
        (Date32, Timestamp(_, zone)) | (Timestamp(_, zone), Date32) => zone.is_some(),
        (from, Timestamp(_, zone)) if from.is_string() => zone.is_some(),
        (Timestamp(_, zone), to) if to.is_string() => zone.is_some(),
        _ => false,
    }
}
