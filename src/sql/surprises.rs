//! What a query may do that its author hardly wants: rows that replace each other because the sink's key lacks a column,
//! and places of a top-N that depend on arrival. Accepted, but told.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};

use super::nodes::window_bound;

/// For each column of a plan, the columns of the aggregation below that it is made of; `None` where rows are no groups.
fn made_of(plan: &LogicalPlan) -> Option<(&Aggregate, Vec<BTreeSet<usize>>)> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            let columns = (0..aggregate.schema.fields().len()).map(|index| BTreeSet::from([index]));
            Some((aggregate, columns.collect()))
        }
        LogicalPlan::Projection(projection) => {
            let (aggregate, below) = made_of(&projection.input)?;
            let columns = projection.expr.iter().map(|expr| behind(expr, &projection.input, &below));
            Some((aggregate, columns.collect()))
        }
        LogicalPlan::SubqueryAlias(alias) => made_of(&alias.input),
        LogicalPlan::Filter(filter) => made_of(&filter.input),
        _ => None,
    }
}

fn behind(expr: &Expr, input: &LogicalPlan, below: &[BTreeSet<usize>]) -> BTreeSet<usize> {
    let columns = expr.column_refs();
    let indexes = columns.iter().filter_map(|column| input.schema().maybe_index_of_column(column));
    indexes.flat_map(|index| below[index].iter().copied()).collect()
}

/// Names of what an aggregation groups by that does not follow from the group columns `known`.
fn open_groups(aggregate: &Aggregate, known: &BTreeSet<usize>) -> Vec<String> {
    let groups = &aggregate.group_expr;
    if groups.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
        return Vec::new();
    }
    let bound = |expr: &Expr| {
        let Expr::Column(column) = expr else { return None };
        let index = aggregate.input.schema().maybe_index_of_column(column)?;
        window_bound(aggregate.input.schema().field(index)).map(|(_, window)| window)
    };
    let known_columns: Vec<&Expr> = known.iter().filter_map(|index| groups.get(*index)).collect();
    let follows = |expr: &Expr| {
        // One bound of a window tells the others (of CUMULATE, only the end does, and it is asked for beside the start).
        let same_window = bound(expr).is_some_and(|window| known_columns.iter().any(|k| bound(k) == Some(window)));
        // A constant, or computed from columns that are known.
        let of_known =
            expr.column_refs().into_iter().all(|column| known_columns.contains(&&Expr::Column(column.clone())));
        same_window || of_known
    };
    let open = groups.iter().enumerate().filter(|(index, expr)| !known.contains(index) && !follows(expr));
    open.map(|(index, _)| aggregate.schema.field(index).name().replace(['\u{1}', '\u{2}'], "")).collect()
}

/// A sink's key that is narrower than the groups of the query. `places` are the key's columns in the plan's output.
pub(super) fn narrow_key(plan: &LogicalPlan, places: &[usize], sink: &str) -> Option<String> {
    if places.is_empty() {
        return None;
    }
    let (aggregate, columns) = made_of(plan)?;
    let known = places.iter().filter_map(|place| columns.get(*place)).flatten().copied().collect();
    let open = open_groups(aggregate, &known);
    (!open.is_empty()).then(|| {
        format!(
            "the key of '{sink}' does not say '{}', by which the query groups: rows that differ only there replace each other",
            open.join("', '")
        )
    })
}

/// Rankings whose order leaves ties.
pub(super) fn ties(plan: &LogicalPlan) -> Vec<String> {
    let mut found = Vec::new();
    let _ = plan.apply(|node| {
        if let LogicalPlan::Window(window) = node {
            for expr in &window.window_expr {
                let _ = expr.apply(|expr| {
                    found.extend(tie(expr, &window.input));
                    Ok(TreeNodeRecursion::Continue)
                });
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

fn tie(expr: &Expr, input: &LogicalPlan) -> Option<String> {
    let Expr::WindowFunction(function) = expr else { return None };
    if !function.fun.name().eq_ignore_ascii_case("row_number") {
        return None;
    }
    let (partition, order) = (&function.params.partition_by, &function.params.order_by);
    let ordered = order.iter().map(|sort| &sort.expr);
    match made_of(input) {
        Some((aggregate, columns)) => {
            let known = partition.iter().chain(ordered).flat_map(|expr| behind(expr, input, &columns)).collect();
            let open = open_groups(aggregate, &known);
            (!open.is_empty()).then(|| {
                format!(
                    "rows that tie in the ORDER BY of ROW_NUMBER() are placed by chance: add '{}' to it",
                    open.join("', '")
                )
            })
        }
        // Rows as they come: one column is hardly ever unique, and of several the last may well be.
        None if order.len() < 2 => Some(
            "rows that tie in the ORDER BY of ROW_NUMBER() are placed as they arrive: add a column that tells them apart"
                .to_owned(),
        ),
        None => None,
    }
}
