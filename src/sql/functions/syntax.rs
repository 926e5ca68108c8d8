//! Forms of Flink SQL that sqlparser does not read: hooks for a `Dialect`.
//!
//! [`parse_prefix`] belongs into `Dialect::parse_prefix`, [`parse_infix`] into `Dialect::parse_infix`. They
//! return `None` for all that sqlparser reads itself. What they read becomes calls of functions of this
//! module; the name keeps the span of the word that opened the form.

use sqlparser::ast::{
    DateTimeField, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    ObjectName, UnaryOperator, Value,
};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Span, Token};

pub(super) type Parsed<T = Expr> = Result<T, ParserError>;

/// Reads CAST and TRY_CAST (to any Flink type), MAP[…], ROW(…), CEILING and FLOOR … TO, and the JSON functions.
pub fn parse_prefix(parser: &mut Parser) -> Option<Parsed> {
    let first = parser.peek_token_ref();
    let span = first.span;
    let name = match &first.token {
        Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_lowercase(),
        _ => return None,
    };
    let opened = &parser.peek_nth_token_ref(1).token;
    use super::json_syntax::{json_array, json_exists, json_object, json_query, json_value};
    type Form = fn(&mut Parser, &str, Span) -> Parsed;
    let form: Form = match (name.as_str(), opened) {
        ("cast" | "try_cast", Token::LParen) => cast,
        ("map", Token::LBracket) => map,
        ("row", Token::LParen) => row,
        ("ceil" | "ceiling" | "floor", Token::LParen) => round_to,
        ("json_value", Token::LParen) => json_value,
        ("json_query", Token::LParen) => json_query,
        ("json_exists", Token::LParen) => json_exists,
        ("json_object" | "json_objectagg", Token::LParen) => json_object,
        ("json_array" | "json_arrayagg", Token::LParen) => json_array,
        _ => return None,
    };
    parser.next_token();
    parser.next_token();
    Some(form(parser, &name, span))
}

/// Reads `IS [NOT] JSON [VALUE | OBJECT | ARRAY | SCALAR]` and `[NOT] BETWEEN SYMMETRIC a AND b`.
pub fn parse_infix(parser: &mut Parser, left: &Expr, precedence: u8) -> Option<Parsed> {
    let word = |n: usize| match &parser.peek_nth_token_ref(n).token {
        Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
        _ => String::new(),
    };
    let negated = word(0) == "NOT" || word(1) == "NOT";
    let span = parser.peek_token_ref().span;
    let words = [word(0), word(1), word(2)];
    match [words[0].as_str(), words[1].as_str(), words[2].as_str()] {
        ["IS", "JSON", _] | ["IS", "NOT", "JSON"] => {
            skip(parser, if negated { 3 } else { 2 });
            let kind =
                ["VALUE", "OBJECT", "ARRAY", "SCALAR"].into_iter().find(|kind| take(parser, kind)).unwrap_or("VALUE");
            let test = call("is_json", span, vec![left.clone(), text(kind)]);
            Some(Ok(negate(test, negated)))
        }
        // sqlparser reads everything behind FROM as the right side, an AND too.
        ["IS", "DISTINCT", "FROM"] | ["IS", "NOT", "DISTINCT"] => {
            skip(parser, if negated { 4 } else { 3 });
            let right = parser.parse_subexpr(precedence);
            let (left, right) = (Box::new(left.clone()), right.map(Box::new));
            Some(right.map(|right| match negated {
                true => Expr::IsNotDistinctFrom(left, right),
                false => Expr::IsDistinctFrom(left, right),
            }))
        }
        ["BETWEEN", "SYMMETRIC", _] | ["NOT", "BETWEEN", "SYMMETRIC"] => {
            skip(parser, if negated { 3 } else { 2 });
            Some(between_symmetric(parser, left, negated, precedence))
        }
        ["BETWEEN", "ASYMMETRIC", _] => {
            skip(parser, 2);
            Some(bounds(parser, precedence).map(|(low, high)| between(left, low, high)))
        }
        _ => None,
    }
}

fn skip(parser: &mut Parser, tokens: usize) {
    for _ in 0..tokens {
        parser.next_token();
    }
}

fn bounds(parser: &mut Parser, precedence: u8) -> Parsed<(Expr, Expr)> {
    let low = parser.parse_subexpr(precedence)?;
    expect(parser, "AND")?;
    Ok((low, parser.parse_subexpr(precedence)?))
}

fn between(expr: &Expr, low: Expr, high: Expr) -> Expr {
    Expr::Between { expr: Box::new(expr.clone()), negated: false, low: Box::new(low), high: Box::new(high) }
}

fn between_symmetric(parser: &mut Parser, left: &Expr, negated: bool, precedence: u8) -> Parsed {
    let (low, high) = bounds(parser, precedence)?;
    let either = Expr::BinaryOp {
        left: Box::new(between(left, low.clone(), high.clone())),
        op: sqlparser::ast::BinaryOperator::Or,
        right: Box::new(between(left, high, low)),
    };
    Ok(negate(Expr::Nested(Box::new(either)), negated))
}

fn negate(expr: Expr, negated: bool) -> Expr {
    if negated { Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) } } else { expr }
}

/// A call of one of our functions in the place of the form at `span`.
pub(crate) fn call(name: &str, span: Span, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::with_span(span, name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: vec![] }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

/// A string literal.
pub(crate) fn text(value: impl Into<String>) -> Expr {
    Expr::value(Value::SingleQuotedString(value.into()))
}

/// Takes a word, in any case, if it comes next.
pub(super) fn take(parser: &mut Parser, word: &str) -> bool {
    let found = matches!(&parser.peek_token_ref().token, Token::Word(next) if next.quote_style.is_none() && next.value.eq_ignore_ascii_case(word));
    if found {
        parser.next_token();
    }
    found
}

pub(super) fn expect(parser: &mut Parser, word: &str) -> Parsed<()> {
    if take(parser, word) {
        return Ok(());
    }
    let found = parser.peek_token();
    parser.expected(word, found)
}

/// `CAST(x AS type)`: the type is kept as text, since sqlparser knows no ROW<…> and no TIMESTAMP_LTZ.
fn cast(parser: &mut Parser, name: &str, span: Span) -> Parsed {
    let value = parser.parse_expr()?;
    expect(parser, "AS")?;
    let type_text = type_text(parser)?;
    parser.expect_token(&Token::RParen)?;
    let function = if name == "cast" { "cast_to" } else { "try_cast_to" };
    Ok(call(function, span, vec![value, text(type_text)]))
}

/// The tokens of a type, up to a comma or bracket that is not its own.
pub(super) fn type_text(parser: &mut Parser) -> Parsed<String> {
    let start = parser.peek_token();
    let mut depth = 0;
    let mut out = String::new();
    loop {
        let next = parser.peek_token();
        match &next.token {
            Token::LParen | Token::Lt => depth += 1,
            Token::RParen | Token::Comma if depth == 0 => break,
            Token::RParen | Token::Gt => depth -= 1,
            Token::ShiftRight if depth >= 2 => depth -= 2,
            Token::Word(word) if depth == 0 && !out.is_empty() && is_clause(&word.value) => break,
            Token::EOF | Token::SemiColon => return parser.expected("')' after the type", next),
            _ => {}
        }
        if matches!(next.token, Token::Word(_)) && !out.is_empty() && !out.ends_with(['(', '<']) {
            out.push(' ');
        }
        out.push_str(&next.token.to_string());
        parser.next_token();
    }
    match super::types::parse_type(&out) {
        Ok(_) => Ok(out),
        Err(error) => {
            let problem = error.strip_backtrace().trim_start_matches("Error during planning: ").to_string();
            Err(ParserError::ParserError(format!("{problem}{}", start.span.start)))
        }
    }
}

/// Words that end the type after RETURNING.
fn is_clause(word: &str) -> bool {
    ["NULL", "ERROR", "DEFAULT", "EMPTY", "WITH", "WITHOUT"].iter().any(|clause| word.eq_ignore_ascii_case(clause))
}

/// `MAP[k, v, …]`: the keys and the values as arrays.
fn map(parser: &mut Parser, _: &str, span: Span) -> Parsed {
    let items = match parser.consume_token(&Token::RBracket) {
        true => vec![],
        false => {
            let items = parser.parse_comma_separated(Parser::parse_expr)?;
            parser.expect_token(&Token::RBracket)?;
            items
        }
    };
    if items.len() % 2 != 0 {
        return Err(ParserError::ParserError(format!("MAP[…] has a key without a value{}", span.start)));
    }
    let every_second = |first: usize| {
        let elem = items.iter().skip(first).step_by(2).cloned().collect();
        Expr::Array(sqlparser::ast::Array { elem, named: true })
    };
    Ok(call("map_from_arrays", span, vec![every_second(0), every_second(1)]))
}

/// `ROW(a, b)`, whose fields have the names `EXPR$0`, `EXPR$1`.
fn row(parser: &mut Parser, _: &str, span: Span) -> Parsed {
    let values = parser.parse_comma_separated(Parser::parse_expr)?;
    parser.expect_token(&Token::RParen)?;
    Ok(row_of(values, span))
}

pub(crate) fn row_of(values: Vec<Expr>, span: Span) -> Expr {
    let args = values.into_iter().enumerate().flat_map(|(i, value)| [text(format!("EXPR${i}")), value]);
    call("named_struct", span, args.collect())
}

/// `FLOOR(x)`, `FLOOR(t TO unit)` and the same of CEIL and CEILING.
fn round_to(parser: &mut Parser, name: &str, span: Span) -> Parsed {
    let value = parser.parse_expr()?;
    let up = name != "floor";
    if take(parser, "TO") {
        let unit: DateTimeField = parser.parse_date_time_field()?;
        parser.expect_token(&Token::RParen)?;
        return Ok(call(if up { "ceil_time" } else { "floor_time" }, span, vec![value, text(unit.to_string())]));
    }
    parser.expect_token(&Token::RParen)?;
    Ok(call(if up { "ceil" } else { "floor" }, span, vec![value]))
}
