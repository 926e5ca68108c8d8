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

type Parsed<T = Expr> = Result<T, ParserError>;

/// Reads CAST and TRY_CAST (to any Flink type), MAP[…], ROW(…), CEILING and FLOOR … TO, and the JSON functions.
pub fn parse_prefix(parser: &mut Parser) -> Option<Parsed> {
    let first = parser.peek_token_ref();
    let span = first.span;
    let name = match &first.token {
        Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_lowercase(),
        _ => return None,
    };
    let opened = &parser.peek_nth_token_ref(1).token;
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
            let kind = ["VALUE", "OBJECT", "ARRAY", "SCALAR"].into_iter().find(|kind| take(parser, kind)).unwrap_or("VALUE");
            let test = call("is_json", span, vec![left.clone(), text(kind)]);
            Some(Ok(negate(test, negated)))
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
fn take(parser: &mut Parser, word: &str) -> bool {
    let found = matches!(&parser.peek_token_ref().token, Token::Word(next) if next.quote_style.is_none() && next.value.eq_ignore_ascii_case(word));
    if found {
        parser.next_token();
    }
    found
}

fn expect(parser: &mut Parser, word: &str) -> Parsed<()> {
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
fn type_text(parser: &mut Parser) -> Parsed<String> {
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

/// What a JSON function does on an empty result or an error: `null`, `error`, `default` and so on.
struct Behaviour {
    on_empty: (String, Expr),
    on_error: (String, Expr),
}

/// `{NULL | ERROR | DEFAULT x | TRUE | FALSE | UNKNOWN | EMPTY ARRAY | EMPTY OBJECT} ON {EMPTY | ERROR}`, up to two.
fn behaviour(parser: &mut Parser, on_error: &str) -> Parsed<Behaviour> {
    let null = || Expr::value(Value::Null);
    let mut found = Behaviour { on_empty: ("null".into(), null()), on_error: (on_error.into(), null()) };
    loop {
        let mut value = null();
        let kind = if take(parser, "DEFAULT") {
            value = parser.parse_expr()?;
            "default".to_string()
        } else if take(parser, "EMPTY") {
            let kind = if take(parser, "OBJECT") { "object" } else { "array" };
            take(parser, "ARRAY");
            kind.to_string()
        } else if let Some(kind) = ["NULL", "ERROR", "TRUE", "FALSE", "UNKNOWN"].into_iter().find(|kind| take(parser, kind)) {
            kind.to_ascii_lowercase()
        } else {
            return Ok(found);
        };
        expect(parser, "ON")?;
        if take(parser, "EMPTY") {
            found.on_empty = (kind, value);
        } else {
            expect(parser, "ERROR")?;
            found.on_error = (kind, value);
        }
    }
}

/// Input and path, the first two arguments of each JSON query function.
fn input_and_path(parser: &mut Parser) -> Parsed<Vec<Expr>> {
    let input = parser.parse_expr()?;
    parser.expect_token(&Token::Comma)?;
    Ok(vec![input, parser.parse_expr()?])
}

/// `RETURNING type`; STRING is what the functions give anyway.
fn returning(parser: &mut Parser) -> Parsed<Option<String>> {
    if !take(parser, "RETURNING") {
        return Ok(None);
    }
    let type_text = type_text(parser)?;
    Ok(Some(type_text).filter(|name| !name.eq_ignore_ascii_case("string")))
}

fn json_value(parser: &mut Parser, name: &str, span: Span) -> Parsed {
    let mut args = input_and_path(parser)?;
    let returning = returning(parser)?;
    let behaviour = behaviour(parser, "null")?;
    parser.expect_token(&Token::RParen)?;
    let strict = behaviour.on_error.0 == "error";
    for (kind, value) in [behaviour.on_empty, behaviour.on_error] {
        args.push(text(kind));
        args.push(call("cast_to", span, vec![value, text("STRING")]));
    }
    let value = call(name, span, args);
    Ok(match returning {
        Some(returning) => call(if strict { "cast_to" } else { "try_cast_to" }, span, vec![value, text(returning)]),
        None => value,
    })
}

fn json_query(parser: &mut Parser, name: &str, span: Span) -> Parsed {
    let mut args = input_and_path(parser)?;
    let returning = returning(parser)?;
    let wrapper = if take(parser, "WITHOUT") {
        take(parser, "ARRAY");
        expect(parser, "WRAPPER")?;
        "without"
    } else if take(parser, "WITH") {
        let conditional = take(parser, "CONDITIONAL");
        if !conditional {
            take(parser, "UNCONDITIONAL");
        }
        take(parser, "ARRAY");
        expect(parser, "WRAPPER")?;
        if conditional { "conditional" } else { "unconditional" }
    } else {
        "without"
    };
    let behaviour = behaviour(parser, "null")?;
    parser.expect_token(&Token::RParen)?;
    args.extend([text(wrapper), text(behaviour.on_empty.0), text(behaviour.on_error.0)]);
    Ok(call(if returning.is_some() { "json_query_array" } else { name }, span, args))
}

fn json_exists(parser: &mut Parser, name: &str, span: Span) -> Parsed {
    let mut args = input_and_path(parser)?;
    let behaviour = behaviour(parser, "false")?;
    parser.expect_token(&Token::RParen)?;
    args.push(text(behaviour.on_error.0));
    Ok(call(name, span, args))
}

/// `NULL ON NULL` or `ABSENT ON NULL`, which the first letter stands for.
fn on_null(parser: &mut Parser, default: char) -> Parsed<char> {
    let found = if take(parser, "NULL") {
        'n'
    } else if take(parser, "ABSENT") {
        'a'
    } else {
        return Ok(default);
    };
    expect(parser, "ON")?;
    expect(parser, "NULL")?;
    Ok(found)
}

/// `r` for a value that is JSON text already, `v` for others.
fn form_of(value: &Expr) -> char {
    let raw = ["json_object", "json_array", "json", "json_string_of", "json_object_of"];
    match value {
        Expr::Function(function) if raw.iter().any(|name| function.name.to_string().eq_ignore_ascii_case(name)) => 'r',
        _ => 'v',
    }
}

/// `JSON_OBJECT([KEY] k VALUE v, … [{NULL | ABSENT} ON NULL])`, and JSON_OBJECTAGG of one such pair.
fn json_object(parser: &mut Parser, name: &str, span: Span) -> Parsed {
    let mut pairs = vec![];
    let mut forms = String::new();
    while parser.peek_token_ref().token != Token::RParen && !at_on_null(parser) {
        let keyed = matches!(&parser.peek_token_ref().token, Token::Word(word) if word.value.eq_ignore_ascii_case("KEY"))
            && !matches!(&parser.peek_nth_token_ref(1).token, Token::Word(word) if word.value.eq_ignore_ascii_case("VALUE"));
        if keyed {
            parser.next_token();
        }
        pairs.push(parser.parse_expr()?);
        expect(parser, "VALUE")?;
        let value = parser.parse_expr()?;
        forms.push(form_of(&value));
        pairs.push(value);
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    forms.insert(0, on_null(parser, 'n')?);
    parser.expect_token(&Token::RParen)?;
    if name == "json_objectagg" {
        let collected = pairs.into_iter().map(|part| call("array_agg", span, vec![part]));
        return Ok(call("json_object_of", span, std::iter::once(text(forms)).chain(collected).collect()));
    }
    pairs.insert(0, text(forms));
    Ok(call(name, span, pairs))
}

/// `JSON_ARRAY(v, … [{NULL | ABSENT} ON NULL])`, and JSON_ARRAYAGG of one such value.
fn json_array(parser: &mut Parser, name: &str, span: Span) -> Parsed {
    let mut values = vec![];
    let mut forms = String::new();
    while parser.peek_token_ref().token != Token::RParen && !at_on_null(parser) {
        let value = parser.parse_expr()?;
        forms.push(form_of(&value));
        values.push(value);
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    forms.insert(0, on_null(parser, 'a')?);
    parser.expect_token(&Token::RParen)?;
    if name == "json_arrayagg" {
        let [value] = values.as_slice() else {
            return Err(ParserError::ParserError(format!("JSON_ARRAYAGG takes one value{}", span.start)));
        };
        let mut collected = call("array_agg", span, vec![value.clone()]);
        if let (Expr::Function(function), true) = (&mut collected, forms.starts_with('a')) {
            function.filter = Some(Box::new(Expr::IsNotNull(Box::new(value.clone()))));
        }
        return Ok(call("json_string_of", span, vec![collected]));
    }
    values.insert(0, text(forms));
    Ok(call(name, span, values))
}

fn at_on_null(parser: &Parser) -> bool {
    let is = |n: usize, wanted: &str| matches!(&parser.peek_nth_token_ref(n).token, Token::Word(word) if word.value.eq_ignore_ascii_case(wanted));
    (is(0, "NULL") || is(0, "ABSENT")) && is(1, "ON")
}
