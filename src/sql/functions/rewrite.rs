//! Rewrites of a parsed statement, before DataFusion plans it: forms whose meaning differs become calls of
//! our functions, and number literals get Flink's types (7 is an INT, 1e3 a DOUBLE, 0.5 a DECIMAL(2, 1)).
//!
//! | form | becomes |
//! |---|---|
//! | IF(c, a, b), IFNULL(a, b) | CASE, COALESCE |
//! | MOD(a, b) | a % b |
//! | EXTRACT(u FROM t), FLOOR(t TO u), CEIL(t TO u) | time_part, floor_time, ceil_time |
//! | SUBSTRING, POSITION, OVERLAY | calls of our functions of those names (locate for POSITION) |
//! | CAST, TRY_CAST, TIMESTAMP '…', TIME '…' | cast_to, try_cast_to with the type's name |
//! | x LIKE p [ESCAPE c] | a pattern whose escape is the backslash, which is DataFusion's |
//! | x SIMILAR TO p | similar_to |
//! | (a, b) OVERLAPS (c, d) | two comparisons of their ends |
//! | a[i], m[k], a[i].f | item_of, get_field |
//! | LISTAGG(x), COLLECT(x) | string_agg(x, ','), multiset_of(array_agg(x)) |
//! | (a, b) as a selected column, ROW(a, b) | named_struct with `EXPR$0`, `EXPR$1` |
//!
//! Integer literals become INT where their type shows: as operands of arithmetic, results of CASE, items,
//! selected columns, VALUES and arguments of functions whose type follows them. Comparisons, LIMIT, ORDER BY
//! and GROUP BY keep them as they are, for DataFusion's planner looks at those.
//!
//! Only the syntax tree is known here, no types; what depends on types is decided in `operators`. Positions
//! stay where the tree keeps them.

use std::ops::ControlFlow;

use sqlparser::ast::helpers::attached_token::AttachedToken;
use sqlparser::ast::{
    AccessExpr, Array, BinaryOperator, CaseWhen, CastKind, CeilFloorKind, DateTimeField, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName, Query, Select, SelectItem, SetExpr,
    Spanned, Statement, Subscript, UnaryOperator, Value, ValueWithSpan, VisitMut, VisitorMut,
};

use super::interval::normal_interval;
use super::literals::{time_literal, typed, typed_fraction};
use super::syntax::{call, row_of, text};

/// Gives a statement's expressions Flink's meaning. Do this once for each statement, before planning.
pub fn rewrite(statement: &mut Statement) {
    let _ = statement.visit(&mut Rewriter);
}

/// The same for a lone expression (a computed column, a watermark).
pub fn rewrite_expr(expr: &mut Expr) {
    let _ = expr.visit(&mut Rewriter);
}

/// The same for a lone query.
pub fn rewrite_query(query: &mut Query) {
    let _ = query.visit(&mut Rewriter);
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        rewrite_one(expr);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                if let Expr::Tuple(values) = expr {
                    let span = values.first().map_or(sqlparser::tokenizer::Span::empty(), Spanned::span);
                    values.iter_mut().for_each(typed);
                    *expr = row_of(std::mem::take(values), span);
                }
                typed(expr);
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let SetExpr::Values(values) = query.body.as_mut() {
            values.rows.iter_mut().flat_map(|row| &mut row.content).for_each(typed);
        }
        ControlFlow::Continue(())
    }
}

/// Functions whose result type follows the type of a literal argument.
const TYPED: &[&str] = &[
    "abs",
    "sign",
    "ceil",
    "floor",
    "ceiling",
    "greatest",
    "least",
    "coalesce",
    "nullif",
    "element",
    "typeof",
    "sum",
    "avg",
    "min",
    "max",
    "json_string",
    "json_object",
    "json_array",
    "named_struct",
    "cardinality",
    "make_array",
    "first_value",
    "last_value",
];

fn rewrite_one(expr: &mut Expr) {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::Number(digits, _), span }) => {
            if let Some(typed) = typed_fraction(digits, *span) {
                *expr = typed;
            }
        }
        Expr::BinaryOp { left, op, right } => match op {
            BinaryOperator::Plus
            | BinaryOperator::Minus
            | BinaryOperator::Multiply
            | BinaryOperator::Divide
            | BinaryOperator::Modulo => {
                typed(left);
                typed(right);
            }
            BinaryOperator::Overlaps => {
                if let Some(test) = overlaps(left, right) {
                    *expr = test;
                }
            }
            _ => {}
        },
        Expr::Case { conditions, else_result, .. } => {
            conditions.iter_mut().for_each(|when| typed(&mut when.result));
            if let Some(value) = else_result {
                typed(value);
            }
        }
        Expr::Array(Array { elem, .. }) => elem.iter_mut().for_each(typed),
        Expr::Interval(interval) => normal_interval(interval),
        Expr::TypedString(literal) => {
            if let Some(cast) = time_literal(literal) {
                *expr = cast;
            }
        }
        Expr::Cast { kind, expr: value, data_type, format: None, array: false } => {
            let function =
                if matches!(kind, CastKind::TryCast | CastKind::SafeCast) { "try_cast_to" } else { "cast_to" };
            let span = value.span();
            *expr = call(function, span, vec![(**value).clone(), text(data_type.to_string())]);
        }
        Expr::Function(function) => {
            // Functions have no case, quoted or not.
            if let [sqlparser::ast::ObjectNamePart::Identifier(name)] = function.name.0.as_mut_slice() {
                name.quote_style = None;
            }
            if let Some(replacement) = rewrite_function(function) {
                *expr = replacement;
            }
        }
        _ => rewrite_form(expr),
    }
}

/// Syntactic forms that are functions of ours.
fn rewrite_form(expr: &mut Expr) {
    let span = expr.span();
    *expr = match std::mem::replace(expr, Expr::value(Value::Null)) {
        Expr::CompoundFieldAccess { root, access_chain } => access(*root, access_chain),
        Expr::Extract { field, expr, .. } => call("time_part", span, vec![text(field.to_string()), *expr]),
        Expr::Floor { expr, field: CeilFloorKind::DateTimeField(field) } => rounded("floor", *expr, &field, span),
        Expr::Ceil { expr, field: CeilFloorKind::DateTimeField(field) } => rounded("ceil", *expr, &field, span),
        Expr::Position { expr, r#in } => call("locate", span, vec![*expr, *r#in]),
        Expr::Substring { expr, substring_from, substring_for, .. } => {
            let from = substring_from.map_or_else(|| Expr::value(Value::Number("1".into(), false)), |from| *from);
            let mut args = vec![*expr, from];
            args.extend(substring_for.map(|length| *length));
            call("substring", span, args)
        }
        Expr::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
            let mut args = vec![*expr, *overlay_what, *overlay_from];
            args.extend(overlay_for.map(|length| *length));
            call("overlay", span, args)
        }
        Expr::Like { negated, any: false, expr, pattern, escape_char } => {
            let pattern = Box::new(like_pattern(*pattern, escape_char.as_ref()));
            Expr::Like { negated, any: false, expr, pattern, escape_char: None }
        }
        Expr::SimilarTo { negated, expr, pattern, escape_char } => {
            let mut args = vec![*expr, *pattern];
            args.extend(escape_char.map(Expr::Value));
            let test = call("similar_to", span, args);
            if negated { Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(test) } } else { test }
        }
        other => other,
    };
}

/// `a.b[i]['k'].c`: DataFusion plans no name after brackets, and finds no keys that are views.
fn access(root: Expr, chain: Vec<AccessExpr>) -> Expr {
    let indexed = |access: &AccessExpr| matches!(access, AccessExpr::Subscript(Subscript::Index { .. }));
    let named = |access: &AccessExpr| matches!(access, AccessExpr::Dot(Expr::Identifier(_)));
    if !chain.iter().any(indexed) || !chain.iter().all(|access| indexed(access) || named(access)) {
        return Expr::CompoundFieldAccess { root: Box::new(root), access_chain: chain };
    }
    let mut base = root;
    for access in chain {
        let span = base.span();
        base = match (access, base) {
            (AccessExpr::Dot(Expr::Identifier(name)), Expr::Identifier(table)) => {
                Expr::CompoundIdentifier(vec![table, name])
            }
            (AccessExpr::Dot(Expr::Identifier(name)), Expr::CompoundIdentifier(mut names)) => {
                names.push(name);
                Expr::CompoundIdentifier(names)
            }
            (AccessExpr::Dot(Expr::Identifier(name)), base) => call("get_field", span, vec![base, text(name.value)]),
            (AccessExpr::Subscript(Subscript::Index { index }), base) => call("item_of", span, vec![base, index]),
            (_, base) => base,
        };
    }
    base
}

fn rounded(name: &str, expr: Expr, field: &DateTimeField, span: sqlparser::tokenizer::Span) -> Expr {
    match field {
        DateTimeField::NoDateTime => call(name, span, vec![expr]),
        field => call(&format!("{name}_time"), span, vec![expr, text(field.to_string())]),
    }
}

/// The plain expressions of a call's arguments.
fn arguments(function: &mut Function) -> Vec<&mut Expr> {
    match &mut function.args {
        FunctionArguments::List(list) => (list.args.iter_mut())
            .filter_map(|arg| match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
                _ => None,
            })
            .collect(),
        _ => vec![],
    }
}

fn rename(function: &mut Function, name: &str) {
    let span = function.name.span();
    function.name = ObjectName::from(vec![Ident::with_span(span, name)]);
}

fn rewrite_function(function: &mut Function) -> Option<Expr> {
    let name = match function.name.0.as_slice() {
        [part] => part.as_ident()?.value.to_ascii_lowercase(),
        _ => return None,
    };
    let span = function.name.span();
    if function.over.is_none()
        && (TYPED.contains(&name.as_str()) || name.starts_with("array_") || name.starts_with("map_"))
    {
        arguments(function).into_iter().for_each(typed);
    }
    match name.as_str() {
        "current_timestamp" | "localtimestamp" | "current_date" | "current_time" | "localtime" => {
            // A precision, as in LOCALTIMESTAMP(3), changes nothing: all are of milliseconds.
            function.args = FunctionArguments::List(FunctionArgumentList {
                duplicate_treatment: None,
                args: vec![],
                clauses: vec![],
            });
        }
        "round" | "truncate" => {
            if let Some(value) = arguments(function).into_iter().next() {
                typed(value);
            }
        }
        "if" => {
            let mut args: Vec<Expr> = arguments(function).into_iter().map(|arg| arg.clone()).collect();
            args.iter_mut().for_each(typed);
            let [condition, result, otherwise] = <[Expr; 3]>::try_from(args).ok()?;
            return Some(Expr::Case {
                case_token: AttachedToken::empty(),
                end_token: AttachedToken::empty(),
                operand: None,
                conditions: vec![CaseWhen { condition, result }],
                else_result: Some(Box::new(otherwise)),
            });
        }
        "ifnull" => {
            arguments(function).into_iter().for_each(typed);
            rename(function, "coalesce");
        }
        "mod" => {
            let mut args: Vec<Expr> = arguments(function).into_iter().map(|arg| arg.clone()).collect();
            args.iter_mut().for_each(typed);
            let [left, right] = <[Expr; 2]>::try_from(args).ok()?;
            let [left, right] = [left, right].map(|operand| Box::new(Expr::Nested(Box::new(operand))));
            return Some(Expr::Nested(Box::new(Expr::BinaryOp { left, op: BinaryOperator::Modulo, right })));
        }
        "timestampdiff" | "timestampadd" => {
            if let Some(unit) = arguments(function).into_iter().next()
                && let Expr::Identifier(word) = unit
            {
                *unit = text(word.value.clone());
            }
        }
        "listagg" => {
            let separated = arguments(function).len() > 1;
            rename(function, "string_agg");
            if let (FunctionArguments::List(list), false) = (&mut function.args, separated) {
                list.args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(text(","))));
            }
        }
        "translate3" => rename(function, "translate"),
        "collect" => {
            let span = function.name.span();
            let mut values = function.clone();
            rename(&mut values, "array_agg");
            return Some(call("multiset_of", span, vec![Expr::Function(values)]));
        }
        "row" => {
            let values = arguments(function).into_iter().map(|arg| arg.clone()).collect();
            let mut row = row_of(values, span);
            rewrite_one(&mut row);
            return Some(row);
        }
        _ => {}
    }
    None
}

/// Flink's LIKE has no escape unless ESCAPE names one; DataFusion's is always the backslash.
fn like_pattern(pattern: Expr, escape: Option<&ValueWithSpan>) -> Expr {
    let escape = escape.and_then(|escape| escape.value.clone().into_string());
    match pattern {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(literal), span }) => {
            let converted = super::conditional::backslash_pattern(
                &literal,
                escape.as_deref().and_then(|escape| escape.chars().next()),
            );
            Expr::Value(Value::SingleQuotedString(converted).with_span(span))
        }
        pattern => {
            let span = pattern.span();
            let mut args = vec![pattern];
            args.extend(escape.map(text));
            call("like_pattern", span, args)
        }
    }
}

/// `(a, b) OVERLAPS (c, d)`, where b and d are ends or lengths: `a <= d' AND c <= b'`, ends put in order.
fn overlaps(left: &Expr, right: &Expr) -> Option<Expr> {
    let pair = |side: &Expr| -> Option<(Expr, Expr)> {
        let Expr::Tuple(values) = side else { return None };
        let [start, end] = values.as_slice() else { return None };
        let end = match end {
            Expr::Interval(_) => {
                Expr::BinaryOp { left: Box::new(start.clone()), op: BinaryOperator::Plus, right: Box::new(end.clone()) }
            }
            end => end.clone(),
        };
        Some((start.clone(), end))
    };
    let ((a, b), (c, d)) = (pair(left)?, pair(right)?);
    let extreme = |name: &str, x: &Expr, y: &Expr| call(name, x.span(), vec![x.clone(), y.clone()]);
    let at_most = |x: Expr, y: Expr| Expr::BinaryOp { left: Box::new(x), op: BinaryOperator::LtEq, right: Box::new(y) };
    let first = at_most(extreme("least", &a, &b), extreme("greatest", &c, &d));
    let second = at_most(extreme("least", &c, &d), extreme("greatest", &a, &b));
    Some(Expr::Nested(Box::new(Expr::BinaryOp {
        left: Box::new(first),
        op: BinaryOperator::And,
        right: Box::new(second),
    })))
}
