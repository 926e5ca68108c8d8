//! The raw-byte test: when every query of a table asks one field to equal the same text, a record that
//! does not contain that text need not be parsed.

use std::collections::BTreeMap;

use datafusion::common::DFSchema;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};

use super::nodes::WindowTvf;
use super::require::is_require;
use super::required::path_of;

/// Text that each use of a table demands, by the table's name in plans. Tables with a use that demands
/// nothing, or another text, are left out.
pub(crate) fn common_equality(plans: &[LogicalPlan]) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, Option<Vec<String>>> = BTreeMap::new();
    for plan in plans {
        visit(plan, &mut Vec::new(), &mut found);
    }
    found.into_iter().filter_map(|(table, texts)| Some((table, texts?.into_iter().next()?))).collect()
}

/// `demands` are the texts that filters above ask for, as far as nothing between may change rows.
fn visit(plan: &LogicalPlan, demands: &mut Vec<String>, found: &mut BTreeMap<String, Option<Vec<String>>>) {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let table = scan.table_name.table().to_owned();
            let merged = match found.remove(&table) {
                None => Some(demands.clone()),
                Some(before) => {
                    before.map(|texts| texts.into_iter().filter(|t| demands.contains(t)).collect::<Vec<_>>())
                }
            };
            found.insert(table, merged.filter(|texts| !texts.is_empty()));
        }
        LogicalPlan::Filter(filter) => {
            let mut below = demands.clone();
            let conjuncts = split_conjunction(&filter.predicate).into_iter();
            let texts = conjuncts.filter_map(|c| equality(c, filter.input.schema())).map(|(_, text)| text);
            below.extend(texts.filter(|text| is_plain(text)));
            visit(&filter.input, &mut below, found);
        }
        LogicalPlan::SubqueryAlias(alias) => visit(&alias.input, demands, found),
        // A projection may compute the tested column from several; only what is plainly passed counts.
        LogicalPlan::Projection(projection) => {
            let schema = projection.input.schema();
            let plain = projection.expr.iter().all(|e| path_of(e, schema).is_some());
            visit(&projection.input, &mut if plain { demands.clone() } else { Vec::new() }, found);
        }
        LogicalPlan::Extension(extension) if extension.node.as_any().is::<WindowTvf>() => {
            for input in extension.node.inputs() {
                visit(input, demands, found);
            }
        }
        other => {
            for input in other.inputs() {
                visit(input, &mut Vec::new(), found);
            }
        }
    }
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

/// Text that stands in JSON as it is: no escapes, no other spelling.
fn is_plain(text: &str) -> bool {
    text.len() >= 3 && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'/'))
}
