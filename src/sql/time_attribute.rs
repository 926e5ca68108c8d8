//! Whether a column of a plan still tells the time of its rows as they come: only of such a column can windows be made.
//!
//! ```text
//!   12:00     12:01     12:02                13:00
//!   ├─ a window of an hour, and its ranking ─┤ rows from 12:00 on come
//!   ├─────────┤─────────┤─────── … ──────────┤ minutes over them: all but the last have closed
//! ```
//!
//! A row of a source comes before event time has passed it, or is late, as its split's watermark says. An operator with state gives rows
//! when a window closes, or with the first row of a key, and they have no watermark. What a window over them would drop by their own time
//! depends on how epochs were cut, and nobody could say which records were late. So behind one, windows are made of what event time has
//! just come to: of `window_time`; behind a ranking also of its rows' own time, by windows that cannot have closed before. (Flink refuses the
//! same behind DISTINCT and GROUP BY; behind a ranking it drops what is late then.)

use datafusion::arrow::datatypes::Field;
use datafusion::common::ExprSchema;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};
use sqlparser::tokenizer::Span;

use super::aggregate::{closing_window, describe, flat_groups};
use super::errors::PlanError;
use super::nodes::{WindowTvf, find_tvf, window_bound};
use crate::operators::WindowSpec;

/// Behind what a column tells the time no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    Distinct,
    Union,
    GroupBy,
    /// Over rows that come when these windows close.
    Over(WindowSpec),
}

impl Behind {
    /// Why `window` cannot have the column called `name`, which stands at `span`.
    pub(super) fn refused(self, name: &str, window: &str, span: Span) -> PlanError {
        let within = "SELECT DISTINCT window_start, window_end, window_time, … and DESCRIPTOR(window_time)";
        let (what, hint) = match self {
            Self::Distinct => ("SELECT DISTINCT", format!("let rows be distinct within windows: {within}")),
            Self::Union => ("UNION", format!("UNION ALL keeps the time; or let rows be distinct within windows: {within}")),
            Self::GroupBy => (
                "GROUP BY",
                "take the time of the groups' window: GROUP BY window_start, window_end, window_time, … and DESCRIPTOR(window_time)".to_owned(),
            ),
            Self::Over(spec) => {
                let shape = describe(&spec, false);
                ("OVER", format!("DESCRIPTOR(window_time), the time of its window; or a {window} whose windows have those of {shape} as a whole"))
            }
        };
        let why = match self {
            Self::Over(_) => {
                "its rows come when their window closes, and windows that end within that one have closed before"
            }
            _ => "its rows may come when windows of their time have closed",
        };
        PlanError::new(format!("'{name}' has no watermark behind {what}, so {window} cannot use it as time: {why}"))
            .span(span)
            .hint(hint)
    }
}

/// Behind what a time attribute of the plan can make no windows of this shape.
pub(super) fn lost_behind(plan: &LogicalPlan, index: usize, spec: WindowSpec) -> Option<Behind> {
    let below = |input: &LogicalPlan, index: usize| lost_behind(input, index, spec);
    match plan {
        LogicalPlan::Projection(projection) => {
            let Expr::Column(column) = passed_on(projection.expr.get(index)?) else { return None };
            below(&projection.input, projection.input.schema().maybe_index_of_column(column)?)
        }
        LogicalPlan::SubqueryAlias(alias) => below(&alias.input, index),
        LogicalPlan::Filter(filter) => below(&filter.input, index),
        LogicalPlan::Unnest(unnest) => below(&unnest.input, *unnest.dependency_indices.get(index)?),
        LogicalPlan::Union(union) => union.inputs.iter().find_map(|input| below(input, index)),
        LogicalPlan::Join(join) => match index.checked_sub(join.left.schema().fields().len()) {
            None => below(&join.left, index),
            Some(index) => below(&join.right, index),
        },
        LogicalPlan::Extension(extension) => {
            let tvf = extension.node.as_any().downcast_ref::<WindowTvf>()?;
            // Its own bounds come last.
            if index < tvf.input.schema().fields().len() { below(&tvf.input, index) } else { None }
        }
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let fields = input.schema().fields();
            let is_kept = is_of_closed(fields.get(index)?, fields.iter().map(|field| &**field));
            let what = if matches!(**input, LogicalPlan::Union(_)) { Behind::Union } else { Behind::Distinct };
            (!is_kept).then_some(what)
        }
        LogicalPlan::Aggregate(aggregate) => {
            let schema = aggregate.input.schema();
            let field = |group: &Expr| match group {
                Expr::Column(column) => schema.field_from_column(column).ok().map(|field| &**field),
                _ => None,
            };
            let groups: Vec<Option<&Field>> = flat_groups(aggregate).into_iter().map(field).collect();
            let time = groups.get(index).copied().flatten();
            let is_kept = time.is_some_and(|time| is_of_closed(time, groups.iter().copied().flatten()));
            (!is_kept).then_some(Behind::GroupBy)
        }
        LogicalPlan::Window(window) => {
            let field = window.input.schema().fields().get(index)?;
            let (number, _) = closing_window(window)?;
            if window_bound(field) == Some(("time", number)) {
                return None;
            }
            let over = || {
                let closing = find_tvf(&window.input, number)?.spec;
                (!spec.has_whole(&closing)).then_some(Behind::Over(closing))
            };
            below(&window.input, index).or_else(over)
        }
        _ => None,
    }
}

/// What an expression of a projection only passes on, or gives in another type.
fn passed_on(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => passed_on(&alias.expr),
        Expr::Cast(cast) => passed_on(&cast.expr),
        other => other,
    }
}

/// Whether rows that are equal in `keys` come when the window closes whose `window_time` this is.
fn is_of_closed<'f>(time: &Field, mut keys: impl Iterator<Item = &'f Field>) -> bool {
    let Some(("time", number)) = window_bound(time) else { return false };
    keys.any(|key| matches!(window_bound(key), Some(("start" | "end", of)) if of == number))
}
