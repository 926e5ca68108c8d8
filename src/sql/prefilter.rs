//! The raw-byte test: when every query of a table asks one field to equal the same text, a record that
//! does not contain that text need not be parsed.

use std::collections::BTreeMap;

use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};

use super::nodes::WindowTvf;
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
            let schema = filter.input.schema();
            for conjunct in split_conjunction(&filter.predicate) {
                if let Expr::BinaryExpr(binary) = conjunct
                    && binary.op == Operator::Eq
                {
                    for (column, value) in [(&binary.left, &binary.right), (&binary.right, &binary.left)] {
                        if let (Some(_), Expr::Literal(value, _)) = (path_of(column, schema), value.as_ref())
                            && let Some(Some(text)) = value.try_as_str()
                            && is_plain(text)
                        {
                            below.push(text.to_owned());
                        }
                    }
                }
            }
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

/// Text that stands in JSON as it is: no escapes, no other spelling.
fn is_plain(text: &str) -> bool {
    text.len() >= 3 && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'/'))
}
