//! The clauses inside SQL's JSON functions (`RETURNING`, `ON EMPTY`, `KEY … VALUE …`), read for `syntax`.

use sqlparser::ast::{Expr, Value};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Span, Token};

use super::syntax::{Parsed, call, expect, take, text, type_text};

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
        } else if let Some(kind) =
            ["NULL", "ERROR", "TRUE", "FALSE", "UNKNOWN"].into_iter().find(|kind| take(parser, kind))
        {
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

pub(super) fn json_value(parser: &mut Parser, name: &str, span: Span) -> Parsed {
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

pub(super) fn json_query(parser: &mut Parser, name: &str, span: Span) -> Parsed {
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

pub(super) fn json_exists(parser: &mut Parser, name: &str, span: Span) -> Parsed {
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
pub(super) fn json_object(parser: &mut Parser, name: &str, span: Span) -> Parsed {
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
pub(super) fn json_array(parser: &mut Parser, name: &str, span: Span) -> Parsed {
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
