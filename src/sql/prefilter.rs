//! The raw-byte test: when every query of a table asks one field to equal the same text, a record that
//! does not contain that text need not be parsed.
//!
//! Invariant: a record that is passed over is none that the condition keeps, or that a REQUIRE below it refuses
//! (`tests/skipped.rs`).

use std::collections::BTreeMap;

use datafusion::common::DFSchema;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};
use serde::de::IgnoredAny;

use super::nodes::WindowTvf;
use super::require::is_require;
use super::required::path_of;

/// Text that each use of a table demands of a column whose values are in the bytes of its records, as `is_in_records` says of a table
/// and a column; by the table's name in plans. Tables with a use that demands nothing, or another text, are left out.
pub(crate) fn common_equality(
    plans: &[LogicalPlan],
    is_in_records: impl Fn(&str, &str) -> bool,
) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut uses: Vec<(&LogicalPlan, Vec<Demand>)> = plans.iter().map(|plan| (plan, Vec::new())).collect();
    while let Some((plan, demands)) = uses.pop() {
        let below = demands_below(plan, demands, &mut 0);
        if let LogicalPlan::TableScan(scan) = plan {
            let table = scan.table_name.table();
            let shows = |demand: &Demand| is_in_records(table, &demand.path[0]) && is_plain(&demand.text);
            let texts: Vec<String> =
                below.iter().filter(|demand| shows(demand)).map(|demand| demand.text.clone()).collect();
            match found.get_mut(table) {
                Some(common) => common.retain(|text| texts.contains(text)),
                None => drop(found.insert(table.to_owned(), texts)),
            }
        }
        uses.extend(plan.inputs().into_iter().map(|input| (input, below.clone())));
    }
    found.into_iter().filter_map(|(table, texts)| Some((table, texts.into_iter().next()?))).collect()
}

/// `column = 'text'`, asked of each row of a node.
#[derive(Debug, Clone)]
pub(crate) struct Demand {
    /// To know it again.
    pub(crate) number: usize,
    /// Names from the node's columns down to the one that is asked for.
    pub(crate) path: Vec<String>,
    /// What it must equal.
    pub(crate) text: String,
    /// The condition as it stands in the filter that asks, at that filter only.
    pub(crate) conjunct: Option<Expr>,
}

/// What is asked of each row below `plan`, when `demands` are asked of each row of it. Nodes that make rows out of
/// several, or other rows, pass nothing on. `given` counts the numbers of demands.
pub(crate) fn demands_below(plan: &LogicalPlan, demands: Vec<Demand>, given: &mut usize) -> Vec<Demand> {
    let named = |(column, rest): (usize, Vec<String>), schema: &DFSchema| {
        [vec![schema.field(column).name().clone()], rest].concat()
    };
    match plan {
        LogicalPlan::TableScan(_) | LogicalPlan::SubqueryAlias(_) => demands,
        LogicalPlan::Extension(extension) if extension.node.as_any().is::<WindowTvf>() => demands,
        LogicalPlan::Filter(filter) => {
            let schema = filter.input.schema();
            // REQUIRE speaks of every row that its own WHERE lets through, whatever a query above wants of them.
            let requires = split_conjunction(&filter.predicate).into_iter().any(|e| !matches!(is_require(e), Ok(None)));
            let mut below = if requires { Vec::new() } else { demands };
            for conjunct in split_conjunction(&filter.predicate) {
                if let Some((path, text)) = equality(conjunct, schema) {
                    *given += 1;
                    let conjunct = Some(conjunct.clone());
                    below.push(Demand { number: *given, path: named(path, schema), text, conjunct });
                }
            }
            below
        }
        LogicalPlan::Projection(projection) => {
            let schema = projection.input.schema();
            let through = |demand: Demand| {
                let (name, rest) = demand.path.split_first()?;
                let at = projection.schema.index_of_column_by_name(None, name)?;
                let below = named(path_of(&projection.expr[at], schema)?, schema);
                Some(Demand { path: [below, rest.to_vec()].concat(), ..demand })
            };
            demands.into_iter().filter_map(through).collect()
        }
        _ => Vec::new(),
    }
}

/// The column and the text of `column = 'text'`.
fn equality(conjunct: &Expr, schema: &DFSchema) -> Option<((usize, Vec<String>), String)> {
    let Expr::BinaryExpr(binary) = conjunct else { return None };
    let sides = [(&binary.left, &binary.right), (&binary.right, &binary.left)];
    sides.into_iter().filter(|_| binary.op == Operator::Eq).find_map(|(column, value)| {
        // A plan that is not optimised yet casts the literal to the column's kind of text.
        let value = match value.as_ref() {
            Expr::Cast(cast) if cast.field.data_type().is_string() => cast.expr.as_ref(),
            other => other,
        };
        let Expr::Literal(value, _) = value else { return None };
        Some((path_of(column, schema)?, value.try_as_str()??.to_owned()))
    })
}

/// Text that stands in JSON as it is, and in no other way: it has no escapes, and is no JSON itself, since a column of text takes a number, an
/// array or `true` as it is written.
fn is_plain(text: &str) -> bool {
    let is_as_written = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'/'));
    text.len() >= 3 && is_as_written && serde_json::from_str::<IgnoredAny>(text).is_err()
}
