//! Window table functions and the older group windows, at planning.
//!
//! `TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE))` becomes a [`WindowTvf`] node over the
//! plan of `t`. `GROUP BY TUMBLE(ts, …)` is rewritten to that form before planning.

use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr as LogicalExpr, ExprSchemable, LogicalPlan};
use datafusion::scalar::ScalarValue;
use sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName, Query,
    Spanned, TableAlias, TableFactor,
};

use super::dialect::{TABLE_ARGUMENT, is_all_of};
use super::errors::PlanError;
use super::nodes::{TIME_ATTRIBUTE, WindowTvf};
use super::time_attribute::lost_behind;
use super::union::is_in_all_inputs;
use super::watermark::{ARRIVAL, is_changing};
use crate::operators::{WindowKind, WindowSpec};

/// DataFusion's hook for `TABLE(TUMBLE(…))`.
#[derive(Debug)]
pub(crate) struct WindowPlanner {
    next: AtomicUsize,
    zone: chrono_tz::Tz,
}

impl WindowPlanner {
    /// Plans windows for a session in `zone`.
    pub(crate) fn new(zone: chrono_tz::Tz) -> Self {
        Self { next: AtomicUsize::new(0), zone }
    }
}

impl RelationPlanner for WindowPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let (function, alias) = match relation {
            TableFactor::TableFunction { expr: Expr::Function(function), alias } => (function, alias),
            TableFactor::Table { name, alias, args: Some(args), .. } if is_window(&name) => {
                (call(&name.to_string(), args.args), alias)
            }
            other => return Ok(RelationPlanning::Original(Box::new(other))),
        };
        let name = function.name.to_string().to_uppercase();
        let plan = self.plan(&name, &function, context)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

fn is_window(name: &ObjectName) -> bool {
    matches!(name.to_string().to_uppercase().as_str(), "TUMBLE" | "HOP" | "CUMULATE" | "SESSION")
}

/// Names of the arguments in their order, as Flink allows them to be written out.
fn parameters(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "TUMBLE" => &["DATA", "TIMECOL", "SIZE", "OFFSET"],
        "HOP" => &["DATA", "TIMECOL", "SLIDE", "SIZE", "OFFSET"],
        "CUMULATE" => &["DATA", "TIMECOL", "STEP", "SIZE", "OFFSET"],
        _ => return None,
    })
}

impl WindowPlanner {
    fn plan(&self, name: &str, function: &Function, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
        let span = function.name.span();
        let Some(parameters) = parameters(name) else {
            let error = if name == "SESSION" {
                PlanError::new("SESSION windows are not supported yet").hint("TUMBLE, HOP and CUMULATE are")
            } else {
                PlanError::new(format!("table function '{}' not found", function.name))
                    .hint("the window table functions are TUMBLE, HOP and CUMULATE")
            };
            return Err(error.span(span).into());
        };
        let mut arguments: Vec<Option<Expr>> = vec![None; parameters.len()];
        for (place, argument) in list(function).iter().enumerate() {
            let (place, value) = match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => (Some(place), value.clone()),
                FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
                    (parameters.iter().position(|p| name.value.eq_ignore_ascii_case(p)), value.clone())
                }
                other => return Err(PlanError::new(format!("{name} does not take '{other}'")).span(span).into()),
            };
            match place.and_then(|p| arguments.get_mut(p)) {
                Some(slot) => *slot = Some(value),
                None => {
                    let error = PlanError::new(format!("{name} does not take the argument '{argument}'"));
                    return Err(error.span(span).hint(usage(name)).into());
                }
            }
        }
        let mut take = |index: usize| -> Result<Expr> {
            arguments[index].take().ok_or_else(|| {
                let what = format!("{name} lacks its argument {}", parameters[index]);
                PlanError::new(what).span(span).hint(usage(name)).into()
            })
        };
        let (table, descriptor) = (take(0)?, take(1)?);
        let input = context.plan(relation(&table).ok_or_else(|| {
            PlanError::new(format!("the first argument of {name} must be a table")).span(span).hint(usage(name))
        })?)?;
        let (time, time_span) = time_column(&descriptor, &input, name, context)?;
        check_zone(&time, input.schema(), name, self.zone, span)?;
        let mut interval = |index: usize| -> Result<i64> { interval_ms(&take(index)?, name, context) };
        let kind = match name {
            "TUMBLE" => WindowKind::Tumble { size_ms: interval(2)? },
            "HOP" => WindowKind::Hop { slide_ms: interval(2)?, size_ms: interval(3)? },
            _ => WindowKind::Cumulate { step_ms: interval(2)?, max_ms: interval(3)? },
        };
        check_lengths(kind, name, span)?;
        let offset_ms = match arguments.last_mut().and_then(Option::take) {
            Some(offset) => interval_ms(&offset, name, context)?,
            None => 0,
        };
        let spec = WindowSpec { kind, offset_ms };
        if let Some(column) = time.try_as_col()
            && let Some(place) = input.schema().maybe_index_of_column(column)
            && let Some(behind) = lost_behind(&input, place, spec)
        {
            return Err(behind.refused(column.name(), name, time_span).into());
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(WindowTvf::try_new(input, time, spec, number)?.into_plan())
    }
}

fn usage(name: &str) -> &'static str {
    match name {
        "TUMBLE" => "TUMBLE(TABLE t, DESCRIPTOR(time_column), INTERVAL '1' MINUTE [, offset])",
        "HOP" => "HOP(TABLE t, DESCRIPTOR(time_column), slide, size [, offset])",
        _ => "CUMULATE(TABLE t, DESCRIPTOR(time_column), step, max_size [, offset])",
    }
}

fn list(function: &Function) -> &[FunctionArg] {
    match &function.args {
        FunctionArguments::List(list) => &list.args,
        _ => &[],
    }
}

/// `TABLE t`, `TABLE (SELECT …)` or `(SELECT …)` as something that can stand in FROM.
fn relation(argument: &Expr) -> Option<TableFactor> {
    let derived = |query: &Query| TableFactor::Derived {
        lateral: false,
        subquery: Box::new(query.clone()),
        alias: None,
        sample: None,
    };
    match argument {
        Expr::Function(function) if function.name.to_string() == TABLE_ARGUMENT => match list(function).first()? {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Subquery(query))) => {
                Some(is_all_of(query).cloned().unwrap_or_else(|| derived(query)))
            }
            FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Nested(inner))) => relation(inner),
            _ => None,
        },
        Expr::Subquery(query) => Some(derived(query)),
        Expr::Identifier(name) => Some(table_factor(name.clone(), None)),
        _ => None,
    }
}

/// A plain table in FROM.
pub(crate) fn table_factor(name: Ident, alias: Option<TableAlias>) -> TableFactor {
    TableFactor::Table {
        name: ObjectName::from(vec![Ident { quote_style: Some('`'), ..name }]),
        alias,
        args: None,
        with_hints: vec![],
        version: None,
        with_ordinality: false,
        partitions: vec![],
        json_path: None,
        sample: None,
        index_hints: vec![],
    }
}

/// The time attribute that a window names, and where it stands.
fn time_column(
    descriptor: &Expr,
    input: &LogicalPlan,
    window: &str,
    context: &mut dyn RelationPlannerContext,
) -> Result<(LogicalExpr, sqlparser::tokenizer::Span)> {
    let column = match descriptor {
        Expr::Function(f) if f.name.to_string().eq_ignore_ascii_case("DESCRIPTOR") => match list(f) {
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(column))] => Some(column.clone()),
            _ => None,
        },
        _ => None,
    };
    let Some(column) = column else {
        let error = PlanError::new(format!("the second argument of {window} must be DESCRIPTOR(time_column)"));
        return Err(error.span(descriptor.span()).hint(usage(window)).into());
    };
    let (name, span) = (column.to_string().replace('`', ""), column.span());
    let schema = input.schema();
    let time = context.sql_to_expr(column, schema)?;
    let (_, field) = time.to_field(schema)?;
    let place = time.try_as_col().and_then(|column| schema.maybe_index_of_column(column));
    let attribute = field.metadata().get(TIME_ATTRIBUTE);
    let is_such = |field: &Field| field.metadata().get(TIME_ATTRIBUTE) == attribute;
    let in_all_inputs = place.is_none_or(|place| is_in_all_inputs(input, place, &is_such));
    if attribute.is_none() || !in_all_inputs {
        let found = super::types::flink_name(field.data_type());
        let is_time = matches!(field.data_type(), DataType::Timestamp(..));
        let hint = if place.is_some_and(|place| is_changing(input, place)) {
            // Time that is not event time has no windows: a repeated epoch would put rows into others.
            format!("a window needs {ARRIVAL}")
        } else if attribute.is_some() {
            // Without one, rows would be judged by no time, and no window would close; with one on another column, by that.
            format!(
                "all parts of a UNION ALL need one on it: WATERMARK FOR {name} AS {name} - INTERVAL '5' SECOND in each CREATE TABLE"
            )
        } else if is_time {
            format!("declare it in CREATE TABLE: WATERMARK FOR {name} AS {name} - INTERVAL '5' SECOND")
        } else {
            "a window needs the time column that the table's WATERMARK names".to_owned()
        };
        let error =
            PlanError::new(format!("'{name}' is {found} without a watermark, so {window} cannot use it as time"));
        return Err(error.span(span).hint(hint).into());
    }
    Ok((time, span))
}

/// Windows of a TIMESTAMP_LTZ lie on the grid of the session's zone in Flink; ours is that of UTC.
fn check_zone(
    time: &LogicalExpr,
    schema: &DFSchema,
    window: &str,
    zone: chrono_tz::Tz,
    span: sqlparser::tokenizer::Span,
) -> Result<()> {
    let (_, field) = time.to_field(schema)?;
    let is_local = matches!(field.data_type(), DataType::Timestamp(_, Some(_)));
    if is_local && zone != chrono_tz::UTC {
        let what = format!("{window} over a TIMESTAMP_LTZ in the time zone {zone} is not supported yet");
        // (Not "window a TIMESTAMP": what clocks on walls show goes back by an hour each autumn, and all rows of the next hour are late.)
        let column = time.try_as_col().map_or("ts", |column| column.name());
        let hint = format!(
            "keep windows in UTC: SET 'table.local-time-zone' = 'UTC'; or count by the zone's days or hours without a window: \
             GROUP BY DATE_FORMAT({column}, 'yyyy-MM-dd')"
        );
        return Err(PlanError::new(what).span(span).hint(hint).into());
    }
    Ok(())
}

/// Length of an interval literal in milliseconds.
fn interval_ms(expr: &Expr, window: &str, context: &mut dyn RelationPlannerContext) -> Result<i64> {
    let span = expr.span();
    let wrong = |message: String| PlanError::new(message).span(span).hint("write INTERVAL '1' MINUTE");
    let planned = context
        .sql_to_expr(expr.clone(), &DFSchema::empty())
        .map_err(|_| wrong(format!("{window} needs a constant interval here, found '{expr}'")))?;
    let value = fold_interval(&planned);
    let Some(ScalarValue::IntervalMonthDayNano(Some(interval))) = value else {
        return Err(wrong(format!("{window} needs an interval here, found '{expr}'")).into());
    };
    if interval.months != 0 {
        let error = wrong(format!("{window} cannot have a length in months: months differ"));
        return Err(error.hint("use days: INTERVAL '30' DAY").into());
    }
    let nanos = i64::from(interval.days) * 86_400_000_000_000 + interval.nanoseconds;
    if nanos % 1_000_000 != 0 {
        return Err(wrong(format!("{window} lengths are whole milliseconds, found '{expr}'")).into());
    }
    Ok(nanos / 1_000_000)
}

fn fold_interval(expr: &LogicalExpr) -> Option<ScalarValue> {
    match expr {
        LogicalExpr::Literal(value, _) => Some(value.clone()),
        LogicalExpr::Negative(inner) => match fold_interval(inner)? {
            ScalarValue::IntervalMonthDayNano(Some(v)) => Some(ScalarValue::IntervalMonthDayNano(Some(
                datafusion::arrow::datatypes::IntervalMonthDayNano::new(-v.months, -v.days, -v.nanoseconds),
            ))),
            _ => None,
        },
        LogicalExpr::Cast(cast) => fold_interval(&cast.expr),
        _ => None,
    }
}

fn check_lengths(kind: WindowKind, name: &str, span: sqlparser::tokenizer::Span) -> Result<()> {
    let (step, size, words) = match kind {
        WindowKind::Tumble { size_ms } => (size_ms, size_ms, ("size", "size")),
        WindowKind::Hop { slide_ms, size_ms } => (slide_ms, size_ms, ("slide", "size")),
        WindowKind::Cumulate { step_ms, max_ms } => (step_ms, max_ms, ("step", "maximum size")),
    };
    if step <= 0 || size <= 0 {
        return Err(PlanError::new(format!("{name} needs a length above zero")).span(span).into());
    }
    if size % step != 0 {
        let error = PlanError::new(format!("the {} of {name} must be a multiple of its {}", words.1, words.0));
        return Err(error.span(span).hint(usage(name)).into());
    }
    Ok(())
}

/// A function call in the parser's tree.
pub(crate) fn call(name: &str, args: Vec<FunctionArg>) -> Function {
    Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: vec![] }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    }
}
