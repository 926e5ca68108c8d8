//! GROUPING SETS, ROLLUP and CUBE over a window: each set must have the window's bounds.
//!
//! A row of a set without them belongs to no window, so nothing would ever close it: it is a total over all time, which is no row of
//! an append stream. Flink makes a running aggregate of all sets then, whose windows never close either. So it is refused, for a stream
//! and for the batch of the same query.

use std::collections::BTreeSet;

use datafusion::common::{Column, ExprSchema, Result};
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet};

use super::errors::PlanError;
use super::nodes::window_bound;

/// Refuses sets that leave out a bound of window `number` which others have.
pub(super) fn check_bounds(aggregate: &Aggregate, number: usize) -> Result<()> {
    let [Expr::GroupingSet(set)] = aggregate.group_expr.as_slice() else { return Ok(()) };
    let schema = aggregate.input.schema();
    let bounds = |exprs: &[Expr]| {
        let columns = exprs.iter().filter_map(|expr| if let Expr::Column(column) = expr { Some(column) } else { None });
        let is_bound = |column: &&Column| {
            let bound = schema.field_from_column(column).ok().and_then(|field| window_bound(field));
            bound.is_some_and(|(kind, of)| of == number && kind != "time")
        };
        columns.filter(is_bound).map(|column| column.name.clone()).collect::<BTreeSet<String>>()
    };
    // ROLLUP and CUBE have the empty set, too. Beside other keys they have become GROUPING SETS by now.
    let (form, word, of_sets) = match set {
        GroupingSet::Rollup(exprs) => ("ROLLUP", "ROLLUP", vec![bounds(exprs), BTreeSet::new()]),
        GroupingSet::Cube(exprs) => ("CUBE", "CUBE", vec![bounds(exprs), BTreeSet::new()]),
        GroupingSet::GroupingSets(sets) => ("GROUPING SETS", "GROUP", sets.iter().map(|set| bounds(set)).collect()),
    };
    let all: BTreeSet<&String> = of_sets.iter().flatten().collect();
    if of_sets.iter().all(|set| set.len() == all.len()) {
        return Ok(());
    }
    let names = all.into_iter().rev().cloned().collect::<Vec<_>>();
    let what = format!("a grouping set leaves out {}: its rows would never be final", names.join(" or "));
    let hint = format!("put the window before the sets: GROUP BY window_start, window_end, {form} (…)");
    Err(PlanError::new(what).word(word).hint(hint).into())
}
