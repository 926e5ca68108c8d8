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

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema, Result};
use datafusion::functions::core::named_struct;
use datafusion::functions_aggregate::{count::count_udaf, sum::sum_udaf};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Aggregate, AggregateUDF, Case, Expr, ExprSchemable, LogicalPlan, Projection};
use datafusion::prelude::lit;

use super::functions::sum_of_a_part;

/// How an aggregate that is not DISTINCT is taken up by the outer level.
fn outer_function(name: &str, own: &Arc<AggregateUDF>) -> Option<Arc<AggregateUDF>> {
    match name {
        // Numbers of rows.
        "count" => Some(sum_udaf()),
        "sum" | "min" | "max" | "bool_and" | "bool_or" | "bit_and" | "bit_or" => Some(Arc::clone(own)),
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
        let mut function = function.clone();
        if function.func.name() == "sum" {
            function.func = sum_of_a_part();
        }
        inner_aggregates.push(Expr::AggregateFunction(function).alias(part(index)));
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

/// Whether a call is a part of a SUM of FLOAT: see [`sum_of_a_part`].
pub(crate) fn is_part_of_a_float_sum(call: &Expr, input: &DFSchema) -> bool {
    let Expr::AggregateFunction(function) = unalias(call) else { return false };
    let is_float = |argument: &Expr| argument.get_type(input).is_ok_and(|of| of == DataType::Float32);
    function.func.name() == "sum"
        && function.params.args.first().is_some_and(is_float)
        && unalias(call).get_type(input).is_ok_and(|of| of == DataType::Float64)
}

/// Aggregates as they are run in one level. The set of a DISTINCT tells -0.0 from 0.0, by their bits, and GROUP BY does not, so it is given
/// 0.0 for both.
pub(crate) fn fold_zeros(aggregates: &[Expr], input: &DFSchema) -> Result<Vec<Expr>> {
    let fold = |expr: &Expr| {
        let Expr::AggregateFunction(function) = unalias(expr) else { return Ok(expr.clone()) };
        let mut function = function.clone();
        let mut is_folded = false;
        let params = &mut function.params;
        // What is a constant (a share of PERCENTILE_CONT) must stay one.
        let arguments = params.args.iter_mut().filter(|argument| !matches!(argument, Expr::Literal(..)));
        for argument in arguments.filter(|_| params.distinct) {
            let Some(folded) = with_one_zero(argument, input)? else { continue };
            // A DISTINCT is ordered by its own values only.
            for order in params.order_by.iter_mut().filter(|order| order.expr == *argument) {
                order.expr = folded.clone();
            }
            *argument = folded;
            is_folded = true;
        }
        let name = match expr {
            Expr::Alias(alias) => alias.name.clone(),
            other => other.schema_name().to_string(),
        };
        Ok(if is_folded { Expr::AggregateFunction(function).alias(name) } else { expr.clone() })
    };
    aggregates.iter().map(fold).collect()
}

/// A FLOAT or DOUBLE with 0.0 for -0.0.
fn with_one_zero(number: &Expr, input: &DFSchema) -> Result<Option<Expr>> {
    let zero = match number.get_type(input)? {
        DataType::Float32 => lit(0.0_f32),
        DataType::Float64 => lit(0.0_f64),
        _ => return Ok(None),
    };
    Ok(Some(number.clone() + zero))
}

/// `COUNT(DISTINCT a, b)`, which DataFusion does not have, as one of rows: as in Flink, what has a NULL in it does not count.
pub(super) fn of_one_value(call: &AggregateFunction, input: &DFSchema) -> Result<Option<AggregateFunction>> {
    let arguments = &call.params.args;
    if !call.params.distinct || arguments.len() < 2 || call.func.name() != "count" {
        return Ok(None);
    }
    let mut fields = Vec::new();
    for (place, argument) in arguments.iter().enumerate() {
        fields.push(lit(format!("c{place}")));
        fields.push(with_one_zero(argument, input)?.unwrap_or_else(|| argument.clone()));
    }
    let Some(all_there) = conjunction(arguments.iter().map(|argument| argument.clone().is_not_null())) else {
        return Ok(None);
    };
    let row = named_struct().call(fields);
    let value = Case::new(None, vec![(Box::new(all_there), Box::new(row))], None);
    let mut call = call.clone();
    call.params.args = vec![Expr::Case(value)];
    Ok(Some(call))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::sql::{Parameters, PlanOptions, SqlText, plan_job};

    /// A sum that was a FLOAT for each value has the state that it had, which is known by the text that it had.
    #[tokio::test]
    async fn states_of_sums_beside_a_distinct_count_are_known_as_before() {
        let job = "
            CREATE TABLE clicks (k STRING, f FLOAT, m DECIMAL(38, 0), at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at)
            WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
            CREATE TABLE sums (f FLOAT, m DECIMAL(38, 0), d DOUBLE, n BIGINT) WITH ('connector' = 'print');
            INSERT INTO sums SELECT SUM(f), SUM(m), SUM(CAST(f AS DOUBLE)), COUNT(DISTINCT k)
            FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' HOUR)) GROUP BY window_start, window_end;";
        let file = Arc::new(SqlText::new("job.sql", job.to_owned()));
        let options = PlanOptions { partitions: 1, batch: false, pruned: true, epoch_time_ms: Arc::default() };
        let plan = plan_job(&[file], &Parameters::default(), &options, None).await.expect("it is planned");
        let print = &plan.queries[0].graph.operators[0].fingerprint;
        assert!(
            print.contains("types Timestamp(ms), Timestamp(ms), Utf8View, Float32, Decimal128(38, 0), Float64 over"),
            "{print}"
        );
        assert!(print.contains("aggregate sum(clicks.f) AS __tm_part_0, sum(clicks.m) AS __tm_part_1"), "{print}");
    }
}
