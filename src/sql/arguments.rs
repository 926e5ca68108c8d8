//! The arguments of aggregates: what an aggregate must know before any row, what is computed of each row below the aggregation, and whether
//! anything can be made of them at all.
//!
//! DataFusion makes accumulators when the first rows come, and says only then that it has none for them, or that a share of `CAST(0.5 AS
//! DOUBLE)` is no literal. Here both are settled while a query is planned.

use std::borrow::Cow;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema, DataFusionError, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Aggregate, AggregateUDF, Expr, GroupingSet};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::prelude::lit;

use super::distinct::of_one_value;
use super::errors::PlanError;
use super::jargon::plain;
use super::text::lower_first;

/// The aggregation in a form that can be computed, under the same names. What can be as it is stays so: saved states are known by its text.
pub(super) fn computable(aggregate: &Aggregate, options: Arc<ConfigOptions>) -> Result<Cow<'_, Aggregate>> {
    let schema = aggregate.input.schema();
    let context = SimplifyContext::builder().with_schema(Arc::clone(schema)).with_config_options(options).build();
    let simplifier = ExprSimplifier::new(context);
    let other_form = |expr: &Expr| -> Result<Option<Expr>> {
        let (call, qualifier, name) = match expr {
            Expr::Alias(alias) => (alias.expr.as_ref(), alias.relation.clone(), alias.name.clone()),
            other => (other, None, other.schema_name().to_string()),
        };
        let Expr::AggregateFunction(call) = call else { return Ok(None) };
        let call = match with_constants(call, &simplifier)? {
            Some(call) => Some(call),
            None => of_one_value(call, schema)?,
        };
        Ok(call.map(|call| Expr::AggregateFunction(call).alias_qualified(qualifier, name)))
    };
    let other_forms = aggregate.aggr_expr.iter().map(other_form).collect::<Result<Vec<_>>>()?;
    if other_forms.iter().all(Option::is_none) {
        return Ok(Cow::Borrowed(aggregate));
    }
    let calls = other_forms.into_iter().zip(&aggregate.aggr_expr);
    let calls = calls.map(|(other, own)| other.unwrap_or_else(|| own.clone())).collect();
    Ok(Cow::Owned(Aggregate::try_new(Arc::clone(&aggregate.input), aggregate.group_expr.clone(), calls)?))
}

/// The place of the first argument that an aggregate must know before any row, and what it and the next one are.
fn constants(name: &str) -> Option<(usize, [&'static str; 2])> {
    Some(match name {
        "percentile_cont" | "approx_percentile_cont" => (1, ["share", "size"]),
        "approx_percentile_cont_with_weight" => (2, ["share", "size"]),
        "nth_value" => (1, ["number", "number"]),
        "string_agg" => (1, ["separator", "separator"]),
        _ => return None,
    })
}

/// The call with literals where DataFusion takes nothing else, if it has other constants there.
fn with_constants(call: &AggregateFunction, simplifier: &ExprSimplifier) -> Result<Option<AggregateFunction>> {
    let Some((first, are)) = constants(call.func.name()) else { return Ok(None) };
    let mut changed: Option<AggregateFunction> = None;
    for (place, argument) in call.params.args.iter().enumerate().skip(first) {
        if matches!(argument, Expr::Literal(..)) {
            continue;
        }
        let Expr::Literal(value, _) = simplifier.simplify(argument.clone())?.unalias() else {
            let what = are[(place - first).min(1)];
            let error = PlanError::new(format!("the {what} of {} must be a constant", shown(&call.func)));
            return Err(error
                .one_of(names(&call.func))
                .hint("write a value, or what is computed of values alone: all rows have the same")
                .into());
        };
        // NTH_VALUE takes no other integer.
        let value = if value.data_type().is_signed_integer() { value.cast_to(&DataType::Int64)? } else { value };
        changed.get_or_insert_with(|| call.clone()).params.args[place] = lit(value);
    }
    Ok(changed)
}

/// Begins the names of computed keys and arguments.
const COMPUTED: &str = "__tm_argument_";

/// What the stage below an aggregation must give.
#[derive(Default)]
pub(super) struct Arguments {
    columns: Vec<Column>,
    computed: Vec<Expr>,
}

impl Arguments {
    /// The columns of the stage: those of `input` that are used, in its order, then what is computed of them.
    pub(super) fn into_columns(mut self, input: &DFSchema) -> Vec<Expr> {
        self.columns.sort_by_key(|column| input.maybe_index_of_column(column));
        let computed = self.computed.into_iter().enumerate().map(|(i, e)| e.alias(format!("{COMPUTED}{i}")));
        self.columns.into_iter().map(Expr::Column).chain(computed).collect()
    }

    pub(super) fn lift_all(&mut self, exprs: &[Expr]) -> Result<Vec<Expr>> {
        exprs.iter().map(|e| self.lift(e)).collect()
    }

    /// The expression over plain columns; what it computes is taken down into the stage.
    fn lift(&mut self, expr: &Expr) -> Result<Expr> {
        Ok(match expr {
            Expr::Column(column) => {
                if !self.columns.contains(column) {
                    self.columns.push(column.clone());
                }
                expr.clone()
            }
            Expr::Literal(..) => expr.clone(),
            Expr::Alias(alias) => self.lift(&alias.expr)?.alias(alias.name.clone()),
            Expr::GroupingSet(GroupingSet::Rollup(exprs)) => {
                Expr::GroupingSet(GroupingSet::Rollup(self.lift_all(exprs)?))
            }
            Expr::GroupingSet(GroupingSet::Cube(exprs)) => Expr::GroupingSet(GroupingSet::Cube(self.lift_all(exprs)?)),
            Expr::GroupingSet(GroupingSet::GroupingSets(sets)) => {
                let sets = sets.iter().map(|set| self.lift_all(set)).collect::<Result<_>>()?;
                Expr::GroupingSet(GroupingSet::GroupingSets(sets))
            }
            Expr::AggregateFunction(function) => {
                let mut function = function.clone();
                let params = &mut function.params;
                params.args = self.lift_all(&params.args)?;
                if let Some(filter) = &params.filter {
                    params.filter = Some(Box::new(self.lift(filter)?));
                }
                for sort in &mut params.order_by {
                    sort.expr = self.lift(&sort.expr)?;
                }
                Expr::AggregateFunction(function)
            }
            other => {
                let at = self.computed.iter().position(|e| e == other).unwrap_or_else(|| {
                    self.computed.push(other.clone());
                    self.computed.len() - 1
                });
                Expr::Column(Column::from_name(format!("{COMPUTED}{at}")))
            }
        })
    }
}

/// Refuses a plan with an aggregate for which there is no accumulator.
pub(super) fn check_accumulators(plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
    if let Some(aggregation) = plan.downcast_ref::<AggregateExec>() {
        let has_groups = !aggregation.group_expr().is_true_no_grouping();
        for call in aggregation.aggr_expr() {
            // As `AggregateExec` makes it.
            let made = match has_groups && call.groups_accumulator_supported() {
                true => call.create_groups_accumulator().map(drop),
                false => call.create_accumulator().map(drop),
            };
            made.map_err(|error| refused(call, &error))?;
            // For groups it keeps no set, though its states are planned as one.
            if has_groups && call.is_distinct() && call.fun().name() == "bit_xor" {
                return Err(not_distinct(call).into());
            }
        }
    }
    plan.children().into_iter().try_for_each(check_accumulators)
}

fn refused(call: &AggregateFunctionExpr, error: &DataFusionError) -> PlanError {
    if call.is_distinct() {
        return not_distinct(call);
    }
    let (message, hint) = plain(&error.find_root().strip_backtrace());
    let refused = PlanError::new(lower_first(&message)).one_of(names(call.fun()));
    match hint {
        Some(hint) => refused.hint(hint),
        None => refused,
    }
}

fn not_distinct(call: &AggregateFunctionExpr) -> PlanError {
    let name = shown(call.fun());
    PlanError::new(format!("{name}(DISTINCT …) is not supported"))
        .one_of(names(call.fun()))
        .hint(format!("take different values first: SELECT k, {name}(x) FROM (SELECT DISTINCT k, x FROM …) GROUP BY k"))
}

/// The name of an aggregate in messages.
fn shown(function: &AggregateUDF) -> String {
    match function.name() {
        "string_agg" => "LISTAGG".to_owned(),
        name => name.to_uppercase(),
    }
}

/// The names that an aggregate can have in a query.
fn names(function: &AggregateUDF) -> Vec<String> {
    let listagg = (function.name() == "string_agg").then_some("listagg");
    let aliases = function.aliases().iter().map(String::as_str);
    listagg.into_iter().chain([function.name()]).chain(aliases).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use datafusion::functions_aggregate::all_default_aggregate_functions;

    use super::*;
    use crate::contracts::Error;
    use crate::sql::{Parameters, PlanOptions, SqlText, plan_job};

    /// A call of each aggregate, with all arguments that it takes.
    const CALLS: [&str; 38] = [
        "any_value(s)",
        "approx_distinct(s)",
        "approx_median(x)",
        "approx_percentile_cont(x, 0.5, 100)",
        "approx_percentile_cont_with_weight(x, y, 0.5)",
        "array_agg(s)",
        "avg(x)",
        "bit_and(n)",
        "bit_or(n)",
        "bit_xor(n)",
        "bool_and(b)",
        "bool_or(b)",
        "corr(x, y)",
        "count(DISTINCT s, n)",
        "covar_pop(x, y)",
        "covar_samp(x, y)",
        "first_value(s)",
        "last_value(s)",
        "max(x)",
        "median(x)",
        "min(x)",
        "nth_value(s, 2)",
        "percentile_cont(x, 0.5)",
        "regr_avgx(x, y)",
        "regr_avgy(x, y)",
        "regr_count(x, y)",
        "regr_intercept(x, y)",
        "regr_r2(x, y)",
        "regr_slope(x, y)",
        "regr_sxx(x, y)",
        "regr_sxy(x, y)",
        "regr_syy(x, y)",
        "stddev(x)",
        "stddev_pop(x)",
        "string_agg(s, '|')",
        "sum(n)",
        "var(x)",
        "var_pop(x)",
    ];
    const WINDOW: &str =
        "TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end";
    /// With a window, running with a key, and running without one.
    const FORMS: [&str; 3] = [WINDOW, "t GROUP BY s", "t"];

    async fn planned(call: &str, from: &str) -> Result<(), Vec<Error>> {
        let job = format!(
            "CREATE TABLE t (s STRING, n INT, b BOOLEAN, x DOUBLE, y DOUBLE, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
             WITH ('connector' = 'kinesis', 'stream' = 't', 'format' = 'json');
             CREATE TABLE o (a STRING) WITH ('connector' = 'print');
             INSERT INTO o SELECT CAST({call} AS STRING) FROM {from};"
        );
        let file = Arc::new(SqlText::new("job.sql", job));
        let options = PlanOptions { partitions: 1, batch: false, pruned: true, epoch_time_ms: Arc::default() };
        plan_job(&[file], &Parameters::default(), &options, None).await.map(|_| ())
    }

    /// And so it is executed: accumulators have been made.
    #[tokio::test]
    async fn every_aggregate_is_planned_with_a_window_and_without() {
        let name = |call: &&str| call.split('(').next().unwrap_or_default().to_owned();
        let called: BTreeSet<String> = CALLS.iter().map(name).collect();
        let there = all_default_aggregate_functions();
        // GROUPING is no aggregate once a query is planned.
        let there = there.iter().map(|function| function.name().to_owned()).filter(|name| name != "grouping");
        assert_eq!(called, there.collect());
        for call in CALLS {
            for from in FORMS {
                let planned = planned(call, from).await;
                assert!(planned.is_ok(), "{call} FROM {from}: {planned:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_must_be_known_before_any_row_is_a_constant_of_any_form() {
        for call in [
            "PERCENTILE_CONT(1 - 0.5) WITHIN GROUP (ORDER BY x)",
            "PERCENTILE_CONT(DISTINCT x, CAST('0.5' AS DOUBLE))",
            "APPROX_PERCENTILE_CONT(x, 1, 50 + 50)",
            "APPROX_PERCENTILE_CONT_WITH_WEIGHT(x, y, 1e0 / 2)",
            "NTH_VALUE(s, 1 + 1 ORDER BY n)",
            "NTH_VALUE(s, CAST(2 AS INT) ORDER BY n)",
            "LISTAGG(s, CAST('|' AS STRING))",
            "LISTAGG(s, CONCAT(',', ' '))",
        ] {
            for from in FORMS {
                let planned = planned(call, from).await;
                assert!(planned.is_ok(), "{call} FROM {from}: {planned:?}");
            }
        }
        for (call, message) in [
            ("PERCENTILE_CONT(x, y)", "the share of PERCENTILE_CONT must be a constant"),
            ("PERCENTILE_CONT(x, RAND())", "the share of PERCENTILE_CONT must be a constant"),
            ("APPROX_PERCENTILE_CONT(x, 0.5, n)", "the size of APPROX_PERCENTILE_CONT must be a constant"),
            ("NTH_VALUE(s, n)", "the number of NTH_VALUE must be a constant"),
            ("LISTAGG(s, s)", "the separator of LISTAGG must be a constant"),
        ] {
            for from in FORMS {
                let errors = planned(call, from).await.expect_err(call);
                assert!(errors.iter().all(|error| error.message() == message), "{call} FROM {from}: {errors:?}");
            }
        }
    }
}
