//! `UNION ALL`: the rows of several sub-plans with the same columns.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::Field;
use datafusion::common::{Column, JoinType, Result};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, Projection, Union};
use datafusion::prelude::lit;

use super::compile::{Compiler, HIDDEN, Kind, Mode, Piece, column, has_hidden, visible_columns};
use super::errors::PlanError;
use super::nodes::{WindowTvf, window_bound};
use crate::operators::{WATERMARK_COLUMN, WEIGHT_COLUMN};

impl Compiler<'_> {
    pub(super) async fn union(&mut self, union: &Union, deltas: bool) -> Result<Piece> {
        let mut pieces = Vec::new();
        for input in &union.inputs {
            pieces.push(Box::pin(self.compile(input, deltas)).await?);
        }
        let still = pieces.iter().filter(|p| p.kind == Kind::Still).count();
        if still > 0 && still < pieces.len() && self.mode == Mode::Stream {
            return Err(PlanError::new("a UNION of constant rows with those of a stream is not supported yet")
                .word("UNION")
                .hint("give the constant rows with an INSERT of their own (INSERT INTO … VALUES …); below an aggregation they must come with the records of a source")
                .into());
        }
        let updates = pieces.iter().any(|p| matches!(p.kind, Kind::Update { .. }));
        let weighed = pieces.iter().any(|p| p.kind == Kind::Update { deltas: true });
        let watermarked = pieces.iter().any(|p| has_hidden(&p.plan, WATERMARK_COLUMN));
        // All inputs must have the same columns: hidden ones that only some have are dropped, but for the weight, which rows that are final
        // have implicitly, and the watermark: rows of closed windows come as event time passes them, and are never late.
        let common: Vec<&str> = HIDDEN
            .iter()
            .copied()
            .filter(|name| ![WATERMARK_COLUMN, WEIGHT_COLUMN].contains(name))
            .filter(|name| pieces.iter().all(|p| has_hidden(&p.plan, name)))
            .collect();
        let mut inputs = Vec::new();
        let mut slots = Vec::new();
        for piece in pieces {
            let own_or = |name: &str, other: Expr| match has_hidden(&piece.plan, name) {
                true => column(&piece.plan, name),
                false => other.alias(name),
            };
            let mut exprs = visible_columns(&piece.plan);
            exprs.extend(watermarked.then(|| own_or(WATERMARK_COLUMN, lit(i64::MIN))));
            exprs.extend(common.iter().map(|name| column(&piece.plan, name)));
            exprs.extend(weighed.then(|| own_or(WEIGHT_COLUMN, lit(1i8))));
            inputs.push(Arc::new(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(piece.plan))?)));
            slots.extend(piece.inputs);
        }
        let plan = LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?);
        let kind = match updates {
            true => Kind::Update { deltas: weighed },
            // All of them: once, as VALUES are.
            false if still == union.inputs.len() => Kind::Still,
            false => Kind::Append { closed: BTreeSet::new() },
        };
        Ok(Piece { plan, inputs: slots, kind })
    }
}

/// Whether a column of a plan is a bound of this kind of a window, in all inputs of the unions that it comes through.
pub(super) fn is_bound(plan: &LogicalPlan, column: &Column, kind: &str) -> bool {
    let is = |field: &Field| window_bound(field).is_some_and(|(of, _)| of == kind);
    plan.schema().maybe_index_of_column(column).is_some_and(|index| is_in_all_inputs(plan, index, &is))
}

/// Whether a column of a plan is such a one, in all inputs of the unions that it comes through. The field of a union's own column does not
/// say that: it has what any of the inputs has.
pub(super) fn is_in_all_inputs(plan: &LogicalPlan, index: usize, is: &dyn Fn(&Field) -> bool) -> bool {
    let at = |input: &LogicalPlan, index: usize| is_in_all_inputs(input, index, is);
    // What is computed, or is marked here, is what its field says.
    let through = |input: &LogicalPlan, mut expr: &Expr| loop {
        expr = match expr {
            Expr::Alias(alias) if alias.metadata.is_none() => alias.expr.as_ref(),
            Expr::Cast(cast) => cast.expr.as_ref(),
            Expr::Column(column) => {
                break input.schema().maybe_index_of_column(column).is_none_or(|index| at(input, index));
            }
            _ => break true,
        }
    };
    is(plan.schema().field(index))
        && match plan {
            LogicalPlan::Union(union) => union.inputs.iter().all(|input| at(input, index)),
            LogicalPlan::Projection(projection) => through(&projection.input, &projection.expr[index]),
            LogicalPlan::Aggregate(aggregate) => match aggregate.group_expr.get(index) {
                Some(expr) => through(&aggregate.input, expr),
                None => true,
            },
            LogicalPlan::SubqueryAlias(alias) => at(&alias.input, index),
            LogicalPlan::Filter(filter) => at(&filter.input, index),
            LogicalPlan::Distinct(Distinct::All(input)) => at(input, index),
            LogicalPlan::Window(window) if index < window.input.schema().fields().len() => at(&window.input, index),
            LogicalPlan::Join(join)
                if matches!(join.join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full) =>
            {
                let left = join.left.schema().fields().len();
                if index < left { at(&join.left, index) } else { at(&join.right, index - left) }
            }
            LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<WindowTvf>() {
                Some(tvf) if index < tvf.input.schema().fields().len() => at(&tvf.input, index),
                _ => true,
            },
            _ => true,
        }
}
