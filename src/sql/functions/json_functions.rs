//! Reading JSON: JSON_VALUE, JSON_QUERY, JSON_EXISTS, IS JSON. Rules: Flink's `SqlJsonUtils`; the clauses
//! ON EMPTY and ON ERROR arrive as arguments, written by the parser (`syntax`).
//!
//! | | value | JSON null | nothing there, strict | nothing there, lax | array or object | not JSON |
//! |---|---|---|---|---|---|---|
//! | JSON_VALUE | its text | NULL | ON ERROR | ON EMPTY | ON ERROR, lax: ON EMPTY | ON ERROR |
//! | JSON_QUERY | ON ERROR, lax: ON EMPTY | NULL | ON ERROR | ON EMPTY | its text | ON ERROR |
//! | JSON_EXISTS | true | false | ON ERROR | false | true | ON ERROR |
//!
//! The defaults are NULL, and FALSE for JSON_EXISTS. Numbers are printed as Java's `BigDecimal` does, so
//! `1.50` stays `1.50`. JSON_VALUE by names and indexes reads only what it needs (`json_walk`).

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, ListBuilder, StringViewArray, StringViewBuilder};
use datafusion::common::{Result, exec_err};
use serde_json::Value;

use super::call::{Call, Column};
use super::function::{Definition, Nulls, Returns, define};
use super::json_path::{Found, Path};

pub(crate) const DEFINITIONS: &[Definition] = &[
    define("json_value", "ss[ssss", Returns::Text, Nulls::Possible, json_value),
    define("json_query", "ss[sss", Returns::Text, Nulls::Possible, json_query),
    define("json_query_array", "ss[sss", Returns::Texts, Nulls::Possible, json_query_array),
    define("json_exists", "ss[s", Returns::Boolean, Nulls::Possible, json_exists),
    define("is_json", "s[s", Returns::Boolean, Nulls::Never, is_json),
];

/// Parses the JSON value that a text starts with; what follows it does not matter, as in Flink.
fn parse(text: &str) -> Option<Value> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    // What follows is not looked at, but a number or a word must have ended.
    let ended = text[values.byte_offset()..].chars().next().is_none_or(char::is_whitespace);
    (ended || value.is_object() || value.is_array() || value.is_string()).then_some(value)
}

/// The compiled path of each row.
struct Paths {
    texts: Column<StringViewArray>,
    last: Option<(String, Path)>,
}

impl Paths {
    fn new(call: &Call) -> Result<Self> {
        Ok(Paths { texts: call.strings(1)?, last: None })
    }

    fn get(&mut self, row: usize) -> Result<Option<&Path>> {
        let Some(text) = self.texts.get(row) else { return Ok(None) };
        if self.last.as_ref().is_none_or(|(known, _)| known != text) {
            self.last = Some((text.to_string(), Path::parse(text)?));
        }
        Ok(self.last.as_ref().map(|(_, path)| path))
    }
}

/// A constant argument of the clauses.
fn clause(call: &Call, i: usize, default: &str) -> Result<String> {
    match call.has(i) {
        true => Ok(call.constant_text(i)?.unwrap_or_else(|| default.to_owned())),
        false => Ok(default.to_string()),
    }
}

enum Outcome<T> {
    Value(T),
    Null,
    Empty,
    Error(String),
}

fn nothing<T>(path: &Path) -> Outcome<T> {
    if path.lax { Outcome::Empty } else { Outcome::Error(format!("there is nothing at '{}'", path.text())) }
}

/// `json_value(s, path[, on empty, its default, on error, its default])`.
fn json_value(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    let mut paths = Paths::new(call)?;
    let (on_empty, on_error) = (clause(call, 2, "null")?, clause(call, 4, "null")?);
    let default = |i: usize| if call.has(i) { call.strings(i).map(Some) } else { Ok(None) };
    let (empty_default, error_default) = (default(3)?, default(5)?);
    call.try_text(|row| {
        let (Some(text), Some(path)) = (texts.get(row), paths.get(row)?) else { return Ok(None) };
        let fallback = |kind: &str, default: &Option<Column<StringViewArray>>, problem: String| match kind {
            "default" => Ok(default.as_ref().and_then(|default| default.get(row)).map(str::to_string)),
            "error" => exec_err!("function json_value: {problem}"),
            _ => Ok(None),
        };
        match scalar(text, path) {
            Outcome::Value(value) => Ok(Some(value)),
            Outcome::Null => Ok(None),
            Outcome::Empty => fallback(&on_empty, &empty_default, format!("there is nothing at '{}'", path.text())),
            Outcome::Error(problem) => fallback(&on_error, &error_default, problem),
        }
    })
}

fn scalar(text: &str, path: &Path) -> Outcome<String> {
    let root;
    let found = match path.find_in(text) {
        Some(Err(_)) => return Outcome::Error(not_json(text)),
        Some(Ok(None)) => Found::Nothing,
        Some(Ok(Some(value))) => {
            root = value;
            Found::One(&root)
        }
        None => match parse(text) {
            None => return Outcome::Error(not_json(text)),
            Some(value) => {
                root = value;
                path.find(&root)
            }
        },
    };
    match found {
        Found::One(Value::Null) => Outcome::Null,
        Found::One(Value::String(value)) => Outcome::Value(value.clone()),
        Found::One(Value::Number(number)) => Outcome::Value(number_text(number.as_str())),
        Found::One(Value::Bool(value)) => Outcome::Value(value.to_string()),
        Found::Nothing => nothing(path),
        Found::One(_) | Found::Many(_) if path.lax => Outcome::Empty,
        Found::One(_) | Found::Many(_) => {
            Outcome::Error(format!("'{}' is an array or object; use JSON_QUERY", path.text()))
        }
    }
}

fn not_json(text: &str) -> String {
    let start: String = text.chars().take(40).collect();
    format!("'{start}' is not JSON")
}

/// A number as `BigDecimal.toString` prints it: as written, but `1e3` is `1E+3`, `1e-3` is `0.001`, and one that begins with
/// seven zeros has an exponent.
pub(crate) fn number_text(text: &str) -> String {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some(parts) => parts,
        None if text.trim_start_matches('-').starts_with("0.000000") => (text, "0"),
        None => return text.to_string(),
    };
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let Ok(exponent) = exponent.parse::<i64>() else { return text.to_string() };
    let digits = format!("{whole}{fraction}");
    let digits = match digits.trim_start_matches('0') {
        "" => "0",
        digits => digits,
    };
    let scale = fraction.len() as i64 - exponent;
    let adjusted = digits.len() as i64 - 1 - scale;
    let mut out = String::from(sign);
    if scale >= 0 && adjusted >= -6 {
        let padded = format!("{digits:0>width$}", width = scale as usize + 1);
        let (whole, fraction) = padded.split_at(padded.len() - scale as usize);
        out.push_str(whole);
        if !fraction.is_empty() {
            out.push('.');
            out.push_str(fraction);
        }
        return out;
    }
    let (first, rest) = digits.split_at(1);
    out.push_str(first);
    if !rest.is_empty() {
        out.push('.');
        out.push_str(rest);
    }
    if adjusted != 0 {
        let _ = write!(out, "E{adjusted:+}");
    }
    out
}

/// The array or object at a path, wrapped if asked.
fn query(text: &str, path: &Path, wrapper: &str) -> Outcome<Value> {
    let Some(root) = parse(text) else { return Outcome::Error(not_json(text)) };
    let found = match path.find(&root) {
        Found::One(Value::Null) => return Outcome::Null,
        Found::One(value) => value.clone(),
        Found::Many(values) => Value::Array(values.into_iter().cloned().collect()),
        Found::Nothing => return nothing(path),
    };
    let wrap = wrapper == "unconditional" || wrapper == "conditional" && !found.is_array();
    match found {
        value if wrap => Outcome::Value(Value::Array(vec![value])),
        value @ (Value::Array(_) | Value::Object(_)) => Outcome::Value(value),
        _ if path.lax => Outcome::Empty,
        _ => Outcome::Error(format!("'{}' is no array or object; use JSON_VALUE or WITH WRAPPER", path.text())),
    }
}

/// `json_query(s, path[, wrapper, on empty, on error])` for each row.
fn queries(call: &Call, mut take: impl FnMut(Option<Value>)) -> Result<()> {
    let texts = call.strings(0)?;
    let mut paths = Paths::new(call)?;
    let (wrapper, on_empty, on_error) =
        (clause(call, 2, "without")?, clause(call, 3, "null")?, clause(call, 4, "null")?);
    let fallback = |kind: &str, problem: String| match kind {
        "array" => Ok(Some(Value::Array(vec![]))),
        "object" => Ok(Some(Value::Object(serde_json::Map::new()))),
        "error" => exec_err!("function json_query: {problem}"),
        _ => Ok(None),
    };
    for row in 0..call.rows {
        let (Some(text), Some(path)) = (texts.get(row), paths.get(row)?) else {
            take(None);
            continue;
        };
        take(match query(text, path, &wrapper) {
            Outcome::Value(value) => Some(value),
            Outcome::Null => None,
            Outcome::Empty => fallback(&on_empty, format!("there is nothing at '{}'", path.text()))?,
            Outcome::Error(problem) => fallback(&on_error, problem)?,
        });
    }
    Ok(())
}

fn json_query(call: &Call) -> Result<ArrayRef> {
    let mut builder = StringViewBuilder::with_capacity(call.rows);
    queries(call, |value| builder.append_option(value.map(|value| value.to_string())))?;
    Ok(Arc::new(builder.finish()))
}

/// JSON_QUERY … RETURNING ARRAY<STRING>.
fn json_query_array(call: &Call) -> Result<ArrayRef> {
    let mut lists = ListBuilder::new(StringViewBuilder::new());
    queries(call, |value| match value {
        Some(Value::Array(items)) => {
            for item in items {
                lists.values().append_option(match item {
                    Value::Null => None,
                    Value::String(text) => Some(text),
                    other => Some(other.to_string()),
                });
            }
            lists.append(true);
        }
        _ => lists.append(false),
    })?;
    Ok(Arc::new(lists.finish()))
}

/// `json_exists(s, path[, on error])`: false for a JSON null, too.
fn json_exists(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    let mut paths = Paths::new(call)?;
    let on_error = clause(call, 2, "false")?;
    let mut values = Vec::with_capacity(call.rows);
    for row in 0..call.rows {
        let (Some(text), Some(path)) = (texts.get(row), paths.get(row)?) else {
            values.push(None);
            continue;
        };
        let root = parse(text);
        let found = root.as_ref().map(|root| path.find(root));
        values.push(match found {
            Some(Found::One(value)) => Some(!value.is_null()),
            Some(Found::Many(_)) => Some(true),
            Some(Found::Nothing) if path.lax => Some(false),
            Some(Found::Nothing) | None => match on_error.as_str() {
                "true" => Some(true),
                "unknown" => None,
                "error" => return exec_err!("function json_exists: there is nothing at '{}'", path.text()),
                _ => Some(false),
            },
        });
    }
    Ok(Arc::new(arrow::array::BooleanArray::from(values)))
}

/// `is_json(s[, VALUE | OBJECT | ARRAY | SCALAR])`; false for NULL.
fn is_json(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    let kind = clause(call, 1, "VALUE")?;
    call.flags(|row| {
        Some(texts.get(row).and_then(parse).is_some_and(|value| match kind.as_str() {
            "OBJECT" => value.is_object(),
            "ARRAY" => value.is_array(),
            "SCALAR" => !value.is_object() && !value.is_array(),
            _ => true,
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_big_decimals() {
        for (json, text) in [
            ("1.50", "1.50"),
            ("1e3", "1E+3"),
            ("1.5e-3", "0.0015"),
            ("12e1", "1.2E+2"),
            ("-1E-9", "-1E-9"),
            ("0.0000001", "1E-7"),
            ("-0.00000015", "-1.5E-7"),
            ("0.000001", "0.000001"),
            ("5", "5"),
        ] {
            assert_eq!(number_text(json), text);
        }
    }
}
