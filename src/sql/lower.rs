//! Window table functions as plain plans.
//!
//! | function | lowered to |
//! |---|---|
//! | TUMBLE | a projection with the bounds |
//! | HOP, CUMULATE, sharing panes | a projection with the pane's start and the first open end |
//! | HOP, CUMULATE, expanded | a list of windows, unnested: one row for each window |
//!
//! The expanded form is right everywhere; sharing panes is the fast form for aggregates.

use std::sync::Arc;

use datafusion::common::{Column, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder, Projection, ScalarUDF, ScalarUDFImpl};
use datafusion::prelude::{cast, col, lit};

use super::nodes::WindowTvf;
use super::plan::TimeRange;
use crate::operators::{WATERMARK_COLUMN, WindowBound, WindowKind, WindowSpec, WindowStarts};

/// The forms of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WindowForm {
    /// A row for each window.
    Expanded,
    /// A row for each pane; the operator above knows.
    Panes,
}

pub(crate) fn call(function: impl ScalarUDFImpl + 'static, args: Vec<Expr>) -> Expr {
    Expr::ScalarFunction(ScalarFunction { func: Arc::new(ScalarUDF::new_from_impl(function)), args })
}

/// Lowers `node` over `input`, which may have more columns than `node`'s own input (hidden ones).
pub(crate) fn lower(node: &WindowTvf, input: LogicalPlan, form: WindowForm) -> Result<LogicalPlan> {
    let spec = node.spec;
    let time = node.time.clone();
    let own: Vec<Expr> = input.schema().iter().map(|(q, f)| Expr::Column(Column::new(q.cloned(), f.name()))).collect();
    let (input, start, end) = match (spec.kind, form) {
        (WindowKind::Tumble { size_ms }, _) => {
            let start = call(WindowBound::start(spec), vec![time.clone()]);
            (input, start, call(WindowBound::start_plus(spec, size_ms), vec![time]))
        }
        (_, WindowForm::Panes) => {
            let start = call(WindowBound::start(spec), vec![time.clone()]);
            let watermark = match input.schema().has_column_with_unqualified_name(WATERMARK_COLUMN) {
                true => super::compile::column(&input, WATERMARK_COLUMN),
                false => datafusion::prelude::lit(i64::MIN),
            };
            (input, start, call(WindowBound::first_open_end(spec), vec![time, watermark]))
        }
        (WindowKind::Hop { size_ms, .. }, WindowForm::Expanded) => {
            let (input, start) = expand(input, own.clone(), call(WindowStarts::starts(spec), vec![time]))?;
            let end = call(WindowBound::plus(spec, size_ms), vec![start.clone()]);
            (input, start, end)
        }
        (WindowKind::Cumulate { max_ms, .. }, WindowForm::Expanded) => {
            let (input, end) = expand(input, own.clone(), call(WindowStarts::ends(spec), vec![time]))?;
            // All windows of a row start where the longest one does.
            let longest = WindowSpec { kind: WindowKind::Tumble { size_ms: max_ms }, offset_ms: spec.offset_ms };
            let last_ms = call(WindowBound::plus(spec, -1), vec![end.clone()]);
            (input, call(WindowBound::start(longest), vec![last_ms]), end)
        }
    };
    let window_time = call(WindowBound::plus(spec, -1), vec![end.clone()]);
    let mut exprs = own;
    let bounds = &node_bounds(node);
    for (field, expr) in bounds.iter().zip([start, end, window_time]) {
        let expr = cast(expr, field.data_type().clone());
        let metadata = datafusion::common::metadata::FieldMetadata::new_from_field(field);
        exprs.push(expr.alias_with_metadata(field.name(), Some(metadata)));
    }
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
}

/// Of lowered windows, those that lie in `range` as a whole: of others a batch over that has a part of the rows only.
pub(crate) fn whole_windows(plan: LogicalPlan, range: TimeRange) -> Result<LogicalPlan> {
    let [start, end] = [3, 2].map(|behind| {
        let (qualifier, field) = plan.schema().qualified_field(plan.schema().fields().len() - behind);
        Expr::Column(Column::new(qualifier.cloned(), field.name()))
    });
    let time = |ms: i64| lit(ScalarValue::TimestampMillisecond(Some(ms), None));
    let begins = range.start_ms.map(|ms| start.gt_eq(time(ms)));
    let ends = range.end_exclusive_ms.map(|ms| end.lt_eq(time(ms)));
    match conjunction(begins.into_iter().chain(ends)) {
        Some(predicate) => Ok(LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(plan))?)),
        None => Ok(plan),
    }
}

/// The last three fields of the node.
fn node_bounds(node: &WindowTvf) -> Vec<Arc<datafusion::arrow::datatypes::Field>> {
    use datafusion::logical_expr::UserDefinedLogicalNodeCore;
    let fields = node.schema().fields();
    fields[fields.len() - 3..].to_vec()
}

/// Adds a list column and unnests it: a row for each element.
fn expand(input: LogicalPlan, mut own: Vec<Expr>, list: Expr) -> Result<(LogicalPlan, Expr)> {
    const NAME: &str = "__tm_windows";
    own.push(list.alias(NAME));
    let plan = LogicalPlanBuilder::new(input).project(own)?.unnest_column(Column::from_name(NAME))?.build()?;
    Ok((plan, col(NAME)))
}
