//! In a condition, what cannot fail comes first.
//!
//! ```text
//!   SELECT … FROM (SELECT … FROM t WHERE n <> 0) WHERE 12 / n BETWEEN 2 AND 5
//!
//!   12 / n >= 2 AND 12 / n <= 5 AND n <> 0         as DataFusion puts the two together
//!   n <> 0 AND 12 / n >= 2 AND 12 / n <= 5         as it goes on
//! ```
//!
//! DataFusion computes what a condition has twice in a projection below it, for all rows, if its first part has it. There nothing guards it
//! ([`Guarded`](crate::operators::Guarded)). So this comes right before that rule. Where a part of every order may fail, the order stays.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::split_binary;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator, binary_expr};
use datafusion::optimizer::{ApplyOrder, Optimizer, OptimizerConfig, OptimizerRule};

use crate::operators::is_safe_operator;

/// What DataFusion calls the rule that this comes before.
const COMMON_PARTS: &str = "common_sub_expression_eliminate";

/// DataFusion's rules, and this one.
pub(super) fn logical_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules = Optimizer::new().rules;
    let at = rules.iter().position(|rule| rule.name() == COMMON_PARTS).unwrap_or(rules.len());
    rules.insert(at, Arc::new(SafePartsFirst));
    rules
}

#[derive(Debug)]
struct SafePartsFirst;

impl OptimizerRule for SafePartsFirst {
    fn name(&self) -> &str {
        "safe_parts_first"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        // What aggregations compute names their states.
        if !matches!(plan, LogicalPlan::Filter(_) | LogicalPlan::Projection(_)) {
            return Ok(Transformed::no(plan));
        }
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr.transform_up(ordered)?.update_data(|expr| name.restore(expr)))
        })
    }
}

fn ordered(expr: Expr) -> Result<Transformed<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { op: op @ (Operator::And | Operator::Or), .. }) = expr else {
        return Ok(Transformed::no(expr));
    };
    let parts = split_binary(&expr, op);
    let fails: Vec<bool> = parts.iter().map(|part| may_fail(part)).collect();
    if fails.is_sorted() {
        return Ok(Transformed::no(expr));
    }
    let of = |wanted: bool| parts.iter().zip(&fails).filter(move |(_, fails)| **fails == wanted).map(|(part, _)| *part);
    let all = of(false).chain(of(true)).cloned();
    let together = all.reduce(|all, part| binary_expr(all, op, part));
    Ok(together.map_or_else(|| Transformed::no(expr.clone()), Transformed::yes))
}

/// Whether an expression may fail for a row. Only of what is known to be safe it says no.
fn may_fail(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) | Expr::Literal(..) => false,
        Expr::BinaryExpr(binary) => {
            let is_safe = is_safe_operator(binary.op) || divides_by_a_number(binary);
            !is_safe || may_fail(&binary.left) || may_fail(&binary.right)
        }
        Expr::Alias(alias) => may_fail(&alias.expr),
        Expr::Not(of)
        | Expr::IsNull(of)
        | Expr::IsNotNull(of)
        | Expr::IsTrue(of)
        | Expr::IsFalse(of)
        | Expr::IsUnknown(of)
        | Expr::IsNotTrue(of)
        | Expr::IsNotFalse(of)
        | Expr::IsNotUnknown(of) => may_fail(of),
        Expr::Between(between) => [&between.expr, &between.low, &between.high].into_iter().any(|of| may_fail(of)),
        Expr::InList(list) => may_fail(&list.expr) || list.list.iter().any(may_fail),
        Expr::Like(like) => may_fail(&like.expr) || may_fail(&like.pattern),
        _ => true,
    }
}

/// Whether it is a quotient, or what is left of one, by a number that is not zero.
fn divides_by_a_number(binary: &BinaryExpr) -> bool {
    let is_positive = |value: &ScalarValue| value.to_string().parse::<f64>().is_ok_and(|number| number > 0.0);
    matches!(binary.op, Operator::Divide | Operator::Modulo)
        && matches!(&*binary.right, Expr::Literal(value, _) if is_positive(value))
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};
    use datafusion::prelude::Expr;

    use super::*;

    fn divided() -> Expr {
        (lit(12) / col("n")).gt(lit(2))
    }

    fn text(expr: Expr) -> String {
        expr.transform_up(ordered).expect("it is ordered").data.to_string()
    }

    #[test]
    fn what_cannot_fail_comes_first_and_else_the_order_stays() {
        let (safe, other) = (col("n").not_eq(lit(0)), col("k").eq(lit("a")));
        let mixed = divided().and(safe.clone()).and(divided()).and(other.clone());
        assert_eq!(
            text(mixed),
            "n != Int32(0) AND k = Utf8(\"a\") AND Int32(12) / n > Int32(2) AND Int32(12) / n > Int32(2)"
        );
        let nested = divided().or(divided().and(safe.clone())).or(other);
        assert_eq!(
            text(nested),
            "k = Utf8(\"a\") OR Int32(12) / n > Int32(2) OR n != Int32(0) AND Int32(12) / n > Int32(2)"
        );
        let rest = divided().and((col("n") % lit(4)).not_eq(lit(0)));
        assert_eq!(text(rest), "n % Int32(4) != Int32(0) AND Int32(12) / n > Int32(2)");
        for same in [safe.clone().and(divided()), divided().and(divided()), safe] {
            assert_eq!(text(same.clone()), same.to_string());
        }
    }
}
