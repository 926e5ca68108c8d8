//! `COUNT(DISTINCT x)` as two levels of GROUP BY.
//!
//! DataFusion keeps a set for each group; with many groups that takes twenty times the time and memory
//! of the same as distinct (group, value) rows ("Measured on peers" in the design). So
//!
//! ```sql
//! SELECT g, COUNT(*), SUM(y), COUNT(DISTINCT x) FROM t GROUP BY g
//! ```
//!
//! becomes
//!
//! ```sql
//! SELECT g, SUM(c), SUM(s), COUNT(x) FROM (
//!   SELECT g, x, COUNT(*) AS c, SUM(y) AS s FROM t GROUP BY g, x) GROUP BY g
//! ```
//!
//! which holds where all DISTINCT arguments are the same expression and the others can be aggregated
//! twice. Elsewhere DataFusion's own form is used: right, but slower.

use std::sync::Arc;

use datafusion::common::{Column, Result};
use datafusion::functions_aggregate::{count::count_udaf, sum::sum_udaf};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::{Aggregate, AggregateUDF, Expr, ExprSchemable, LogicalPlan, Projection};

/// How an aggregate that is not DISTINCT is taken up by the outer level.
fn outer_function(name: &str, own: &Arc<AggregateUDF>) -> Option<Arc<AggregateUDF>> {
    match name {
        "count" | "sum" => Some(sum_udaf()),
        "min" | "max" | "bool_and" | "bool_or" | "bit_and" | "bit_or" => Some(Arc::clone(own)),
        _ => None,
    }
}

fn unalias(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unalias(&alias.expr),
        other => other,
    }
}

/// The two-level form, or `None` where it does not apply.
pub(crate) fn two_levels(aggregate: &Aggregate) -> Result<Option<LogicalPlan>> {
    if aggregate.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_))) {
        return Ok(None);
    }
    let mut value: Option<Expr> = None;
    let mut functions = Vec::new();
    for expr in &aggregate.aggr_expr {
        let Expr::AggregateFunction(function) = unalias(expr) else { return Ok(None) };
        let params = &function.params;
        if !params.order_by.is_empty() || params.null_treatment.is_some() {
            return Ok(None);
        }
        if params.distinct {
            let [argument] = params.args.as_slice() else { return Ok(None) };
            let same = value.as_ref().is_none_or(|v| v == argument);
            if !same || params.filter.is_some() || !matches!(function.func.name(), "count" | "sum" | "min" | "max") {
                return Ok(None);
            }
            value = Some(argument.clone());
        } else if outer_function(function.func.name(), &function.func).is_none() {
            return Ok(None);
        }
        functions.push(function.clone());
    }
    let Some(value) = value else { return Ok(None) };

    const VALUE: &str = "__tm_distinct";
    let part = |index: usize| format!("__tm_part_{index}");
    let mut inner_groups = aggregate.group_expr.clone();
    inner_groups.push(value.alias(VALUE));
    let mut inner_aggregates = Vec::new();
    for (index, function) in functions.iter().enumerate().filter(|(_, f)| !f.params.distinct) {
        inner_aggregates.push(Expr::AggregateFunction(function.clone()).alias(part(index)));
    }
    let inner = Aggregate::try_new(Arc::clone(&aggregate.input), inner_groups, inner_aggregates)?;

    let groups = aggregate.group_expr.len();
    let group_columns: Vec<Expr> =
        (0..groups).map(|i| Expr::Column(Column::from(inner.schema.qualified_field(i)))).collect();
    let column = |name: String| Expr::Column(Column::from_name(name));
    let mut outer_aggregates = Vec::new();
    for (index, function) in functions.iter().enumerate() {
        let (func, argument) = if function.params.distinct {
            let func = if function.func.name() == "count" { count_udaf() } else { Arc::clone(&function.func) };
            (func, column(VALUE.to_owned()))
        } else {
            match outer_function(function.func.name(), &function.func) {
                Some(func) => (func, column(part(index))),
                None => return Ok(None),
            }
        };
        let params = AggregateFunctionParams {
            args: vec![argument],
            distinct: false,
            filter: None,
            order_by: vec![],
            null_treatment: None,
        };
        let call = Expr::AggregateFunction(AggregateFunction { func, params });
        outer_aggregates.push(call.alias(format!("__tm_out_{index}")));
    }
    let outer = Aggregate::try_new(Arc::new(LogicalPlan::Aggregate(inner)), group_columns, outer_aggregates)?;

    // The names and types of the aggregation that this stands for.
    let mut output = Vec::new();
    for (index, (qualifier, field)) in aggregate.schema.iter().enumerate() {
        let (own_qualifier, own) = outer.schema.qualified_field(index);
        let mut expr = Expr::Column(Column::from((own_qualifier, own)));
        if own.data_type() != field.data_type() {
            expr = expr.cast_to(field.data_type(), &outer.schema)?;
        }
        let is_same = own.name() == field.name() && own_qualifier == qualifier && own.data_type() == field.data_type();
        output.push(if is_same { expr } else { expr.alias_qualified(qualifier.cloned(), field.name()) });
    }
    Ok(Some(LogicalPlan::Projection(Projection::try_new(output, Arc::new(LogicalPlan::Aggregate(outer)))?)))
}
