//! What a query passes on of the rows of its tables: whether its results can stand for a table, as those of an archive do in a backfill.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::DFSchema;
use datafusion::logical_expr::expr_rewriter::unnormalize_col;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};

use super::normal::in_words;
use super::planner::declared_name;

/// See the module's description.
#[derive(Debug, Clone, Default)]
pub struct PassedOn {
    /// Each place where a table is read: the table's name, and the conditions of the rows that go on from there, in words.
    pub places: Vec<(String, BTreeSet<String>)>,
    /// Whether its rows are those of one place, each once; else they are groups, or joined, or of several places.
    pub row_by_row: bool,
    /// For each column of the sink that has a column of that place, in a type that keeps all of it: which one.
    pub columns: BTreeMap<String, String>,
}

impl PassedOn {
    /// Of a query's normal form; `sink` are the columns that it gives, with their places in it.
    pub(super) fn of<'a>(normal: &LogicalPlan, sink: impl Iterator<Item = (&'a Field, usize)>) -> Self {
        let mut places = Vec::new();
        collect(normal, BTreeSet::new(), &mut places);
        let same = |(column, place): (&Field, usize)| {
            let kept = keeps_all(normal.schema().field(place).data_type(), column.data_type());
            Some((column.name().clone(), same_column(normal, place).filter(|_| kept)?))
        };
        Self { places, row_by_row: is_row_by_row(normal), columns: sink.filter_map(same).collect() }
    }
}

/// Adds the places below a plan; `above` are conditions that its rows pass next.
fn collect(plan: &LogicalPlan, above: BTreeSet<String>, places: &mut Vec<(String, BTreeSet<String>)>) {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let own = scan.filters.iter().flat_map(split_conjunction).map(without_qualifiers);
            places.push((declared_name(scan.table_name.table()).to_owned(), above.into_iter().chain(own).collect()));
        }
        LogicalPlan::Filter(filter) => {
            let own = split_conjunction(&filter.predicate).into_iter().map(without_qualifiers);
            collect(&filter.input, above.into_iter().chain(own).collect(), places);
        }
        LogicalPlan::SubqueryAlias(alias) => collect(&alias.input, above, places),
        // Above it, columns may have other names; only what decides of the query's own rows is asked for there.
        LogicalPlan::Projection(projection) => collect(&projection.input, above, places),
        other => other.inputs().into_iter().for_each(|input| collect(input, BTreeSet::new(), places)),
    }
}

fn is_row_by_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(_) => true,
        LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Projection(_) => {
            plan.inputs().into_iter().all(is_row_by_row)
        }
        _ => false,
    }
}

/// In words: one condition has the same in a view and in a query, whatever they call the table.
fn without_qualifiers(condition: &Expr) -> String {
    in_words(&unnormalize_col(condition.clone()))
}

/// The column of the table at the bottom that a column of these rows is.
fn same_column(plan: &LogicalPlan, column: usize) -> Option<String> {
    match plan {
        LogicalPlan::TableScan(scan) => Some(scan.projected_schema.field(column).name().clone()),
        LogicalPlan::Projection(projection) => {
            let input = &projection.input;
            same_column(input, column_of(projection.expr.get(column)?, input.schema())?)
        }
        LogicalPlan::SubqueryAlias(alias) => same_column(&alias.input, column),
        LogicalPlan::Filter(filter) => same_column(&filter.input, column),
        _ => None,
    }
}

/// The column that an expression is, under another name or in a type that keeps all of it.
fn column_of(expr: &Expr, input: &DFSchema) -> Option<usize> {
    let kept = |from: &Expr| {
        let all = keeps_all(&from.get_type(input).ok()?, &expr.get_type(input).ok()?);
        column_of(from, input).filter(|_| all)
    };
    match expr {
        Expr::Column(column) => input.maybe_index_of_column(column),
        Expr::Alias(alias) => column_of(&alias.expr, input),
        Expr::Cast(cast) => kept(&cast.expr),
        // What CAST is in Flink's rules.
        Expr::ScalarFunction(cast) if cast.name() == "cast_to" => kept(cast.args.first()?),
        _ => None,
    }
}

/// Whether the values of one type come back from the other as they were.
fn keeps_all(from: &DataType, to: &DataType) -> bool {
    let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8);
    let is_finer = |(from, to): (&DataType, &DataType)| match (from, to) {
        (DataType::Timestamp(from, from_zone), DataType::Timestamp(to, to_zone)) => from <= to && from_zone == to_zone,
        (DataType::Decimal128(digits, scale), DataType::Decimal128(more, finer)) => {
            scale <= finer && i16::from(*digits) - i16::from(*scale) <= i16::from(*more) - i16::from(*finer)
        }
        _ => false,
    };
    from == to
        || (is_text(to) && !from.is_nested() && !matches!(from, DataType::Timestamp(_, Some(_))))
        || is_finer((from, to))
        || (from.is_integer() && to.is_integer())
        || (from.is_floating() && *to == DataType::Float64)
}
