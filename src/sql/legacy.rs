//! The older group windows, `GROUP BY TUMBLE(ts, INTERVAL '1' MINUTE)`, rewritten to window table
//! functions before planning. Published Flink jobs are full of them.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, Query, Select, SetExpr,
    Spanned, TableFactor, VisitMut, visit_expressions_mut,
};

use super::errors::PlanError;
use super::windows::call;

/// Rewrites all SELECTs of the query, also those in subqueries and CTEs.
pub(crate) fn rewrite_group_windows(query: &mut Query) -> Result<(), PlanError> {
    struct Visitor(Result<(), PlanError>);
    impl sqlparser::ast::VisitorMut for Visitor {
        type Break = ();

        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            match set(query.body.as_mut()) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    self.0 = Err(error);
                    ControlFlow::Break(())
                }
            }
        }
    }
    let mut visitor = Visitor(Ok(()));
    let _ = query.visit(&mut visitor);
    visitor.0
}

fn set(body: &mut SetExpr) -> Result<(), PlanError> {
    match body {
        SetExpr::Select(select) => rewrite(select),
        SetExpr::SetOperation { left, right, .. } => {
            set(left)?;
            set(right)
        }
        // Nested queries are visited by themselves.
        _ => Ok(()),
    }
}

fn function_name(expr: &Expr) -> Option<(String, &Function)> {
    match expr {
        Expr::Function(function) if function.over.is_none() => {
            Some((function.name.to_string().to_uppercase(), function))
        }
        _ => None,
    }
}

fn is_group_window(name: &str) -> bool {
    matches!(name, "TUMBLE" | "HOP" | "SESSION")
}

fn rewrite(select: &mut Select) -> Result<(), PlanError> {
    let GroupByExpr::Expressions(groups, _) = &mut select.group_by else { return Ok(()) };
    let found = groups.iter().position(|g| function_name(g).is_some_and(|(name, _)| is_group_window(&name)));
    let Some(at) = found else { return Ok(()) };
    let Some((name, function)) = function_name(&groups[at]) else { return Ok(()) };
    let span = function.name.span();
    if name == "SESSION" {
        return Err(PlanError::new("SESSION windows are not supported yet").span(span).hint("TUMBLE and HOP are"));
    }
    let FunctionArguments::List(list) = &function.args else { return Ok(()) };
    let mut arguments = list.args.clone();
    let texts: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let expected = if name == "HOP" { 3 } else { 2 };
    if arguments.len() < expected {
        let usage = format!("{name}(time_column, {}INTERVAL '1' MINUTE)", if name == "HOP" { "slide, " } else { "" });
        return Err(PlanError::new(format!("{name} needs {expected} arguments")).span(span).hint(usage));
    }
    let bounds = ["window_start", "window_end", "window_time"].map(|n| Expr::Identifier(Ident::new(n)));
    groups.splice(at..=at, bounds);

    let [from] = select.from.as_mut_slice() else { return Err(joined(&name, span)) };
    if !from.joins.is_empty() {
        return Err(joined(&name, span));
    }
    let (table, alias) = match &from.relation {
        TableFactor::Table { name: table, alias, .. } => {
            let ident = table.0.last().and_then(|p| p.as_ident()).cloned().unwrap_or_else(|| Ident::new("t"));
            let query = super::dialect::all_of(ident.clone());
            let alias = alias.clone().or_else(|| {
                Some(sqlparser::ast::TableAlias {
                    explicit: true,
                    name: Ident {
                        value: ident.value.split(super::text::HINT_MARK).next().unwrap_or_default().into(),
                        ..ident
                    },
                    columns: vec![],
                    at: None,
                })
            });
            (Expr::Subquery(Box::new(query)), alias)
        }
        TableFactor::Derived { subquery, alias, .. } => (Expr::Subquery(subquery.clone()), alias.clone()),
        _ => return Err(joined(&name, span)),
    };
    let unnamed = |expr: Expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr));
    let time = match arguments.remove(0) {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(time)) => match time {
            // `t.ts` names the table that is now inside the function.
            Expr::CompoundIdentifier(mut parts) if parts.len() > 1 => {
                Expr::Identifier(parts.pop().unwrap_or_else(|| Ident::new("")))
            }
            other => other,
        },
        other => return Err(PlanError::new(format!("{name} does not take '{other}'")).span(span)),
    };
    let table = Expr::Function(call(super::dialect::TABLE_ARGUMENT, vec![unnamed(table)]));
    let descriptor = Expr::Function(call("DESCRIPTOR", vec![unnamed(time)]));
    let mut given = vec![unnamed(table), unnamed(descriptor)];
    given.append(&mut arguments);
    let mut tvf = call(&name, given);
    // The place of the old call, for errors.
    tvf.name = sqlparser::ast::ObjectName::from(vec![Ident { value: name.clone(), quote_style: None, span }]);
    from.relation = TableFactor::TableFunction { expr: Expr::Function(tvf), alias };

    // TUMBLE_START(ts, …) and its kin name the bounds.
    let mut other: Option<PlanError> = None;
    let mut rename = |expr: &mut Expr| {
        if let Some((called, function)) = function_name(expr) {
            let is_bound = ["TUMBLE_", "HOP_", "SESSION_"].iter().any(|prefix| called.starts_with(prefix));
            let own = match &function.args {
                FunctionArguments::List(list) => list.args.iter().map(ToString::to_string).collect(),
                _ => Vec::new(),
            };
            if is_bound && (!called.starts_with(&format!("{name}_")) || own != texts) {
                let what = format!("{called} is not of the window that GROUP BY has");
                let hint = format!("it must have the same arguments: {called}({})", texts.join(", "));
                other.get_or_insert(PlanError::new(what).span(function.name.span()).hint(hint));
            }
            let bound = called.strip_prefix(&format!("{name}_")).and_then(|rest| match rest {
                "START" => Some("window_start"),
                "END" => Some("window_end"),
                "ROWTIME" | "PROCTIME" => Some("window_time"),
                _ => None,
            });
            if let Some(bound) = bound {
                *expr = Expr::Identifier(Ident::new(bound));
            }
        }
        ControlFlow::<()>::Continue(())
    };
    let _ = visit_expressions_mut(&mut select.projection, &mut rename);
    if let Some(having) = &mut select.having {
        let _ = visit_expressions_mut(having, &mut rename);
    }
    if let GroupByExpr::Expressions(groups, _) = &mut select.group_by {
        let _ = visit_expressions_mut(groups, &mut rename);
    }
    other.map_or(Ok(()), Err)
}

fn joined(name: &str, span: sqlparser::tokenizer::Span) -> PlanError {
    PlanError::new(format!("GROUP BY {name}(…) over a join is not supported"))
        .span(span)
        .hint(format!("use the window table function: FROM TABLE({name}(TABLE t, DESCRIPTOR(ts), …)) JOIN …"))
}
