//! JSON out of SQL values: JSON_OBJECT, JSON_ARRAY, JSON_STRING, JSON_QUOTE, JSON_UNQUOTE and the collecting
//! forms. Decimals are printed exactly, with their scale and never with an exponent; timestamps as ISO 8601
//! (`2026-02-12T10:00:00.5`, with `Z` for TIMESTAMP_LTZ); bytes as Base64.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err};

use super::call::Call;
use super::function::{Definition, Nulls, Returns, define};
use super::json_text::{JsonOf, quote, separate};

/// The first argument of json_object, json_array and json_object_of is written by the parser: `n` or `a` for
/// NULL or ABSENT ON NULL, then a letter a value: `r` for JSON text as it is, `v` for a value to print.
pub(crate) const DEFINITIONS: &[Definition] = &[
    define("json_object", "s[a*", Returns::Text, Nulls::Never, json_object),
    define("json_array", "s[a*", Returns::Text, Nulls::Never, json_array),
    define("json_object_of", "sll", Returns::Text, Nulls::Propagate, json_object_of),
    define("json_string", "a", Returns::Text, Nulls::Propagate, json_string),
    define("json_string_of", "a", Returns::Text, Nulls::Propagate, json_string),
    define("json_quote", "s", Returns::Text, Nulls::Propagate, json_quote),
    define("json_unquote", "s", Returns::Text, Nulls::Propagate, json_unquote),
    define("json", "s", Returns::Text, Nulls::Propagate, json),
];

/// The parser's letters: whether NULLs are absent, and which values are raw.
fn forms(call: &Call) -> Result<(bool, Vec<bool>)> {
    match call.constant_text(0)? {
        Some(letters) => Ok((letters.starts_with('a'), letters.chars().skip(1).map(|letter| letter == 'r').collect())),
        None => exec_err!("function {} is written by the parser only", call.name),
    }
}

fn rows(call: &Call, mut write: impl FnMut(usize, &mut String) -> Result<bool>) -> Result<ArrayRef> {
    let mut builder = StringViewBuilder::with_capacity(call.rows);
    let mut text = String::new();
    for row in 0..call.rows {
        text.clear();
        let present = write(row, &mut text)?;
        builder.append_option(present.then_some(text.as_str()));
    }
    Ok(Arc::new(builder.finish()))
}

fn json_object(call: &Call) -> Result<ArrayRef> {
    let (absent, raw) = forms(call)?;
    let mut pairs = vec![];
    for i in (1..call.args.len()).step_by(2) {
        if i + 1 == call.args.len() {
            return exec_err!("JSON_OBJECT has a key without a value");
        }
        let value = JsonOf::new(&call.array(i + 1)?, raw.get(i / 2).copied().unwrap_or(false))?;
        pairs.push((cast_strings(call, i)?, value));
    }
    // Flink writes the members in the order of their keys; of two with one key the last counts.
    let mut members = std::collections::BTreeMap::new();
    rows(call, |row, out| {
        members.clear();
        for (key, value) in &pairs {
            if absent && value.is_null(row) {
                continue;
            }
            let Some(key) = key.get(row) else {
                return exec_err!("JSON_OBJECT: a key is NULL; keys must be strings");
            };
            members.insert(key, value);
        }
        out.push('{');
        for (key, value) in &members {
            separate(out, '{');
            quote(key, out);
            out.push(':');
            value.write(row, out);
        }
        out.push('}');
        Ok(true)
    })
}

fn cast_strings(call: &Call, i: usize) -> Result<super::call::Column<arrow::array::StringViewArray>> {
    if !call.args[i].data_type().is_string() {
        return exec_err!("JSON_OBJECT: key {} is not a string", i / 2 + 1);
    }
    call.strings(i)
}

fn json_array(call: &Call) -> Result<ArrayRef> {
    let (absent, raw) = forms(call)?;
    let values = (1..call.args.len())
        .map(|i| JsonOf::new(&call.array(i)?, raw.get(i - 1).copied().unwrap_or(false)))
        .collect::<Result<Vec<_>>>()?;
    rows(call, |row, out| {
        out.push('[');
        for value in values.iter().filter(|value| !(absent && value.is_null(row))) {
            separate(out, '[');
            value.write(row, out);
        }
        out.push(']');
        Ok(true)
    })
}

/// The object of two lists of equal length: JSON_OBJECTAGG.
fn json_object_of(call: &Call) -> Result<ArrayRef> {
    let (absent, raw) = forms(call)?;
    let (keys, values) = (call.array(1)?, call.array(2)?);
    let (keys, values) = (keys.as_list::<i32>(), values.as_list::<i32>());
    let names = cast(keys.values(), &DataType::Utf8View)?;
    let names = names.as_string_view();
    let items = JsonOf::new(values.values(), raw.first().copied().unwrap_or(false))?;
    rows(call, |row, out| {
        if keys.is_null(row) || values.is_null(row) {
            return Ok(false);
        }
        let (from, to) = (keys.value_offsets()[row] as usize, values.value_offsets()[row] as usize);
        out.push('{');
        for i in 0..keys.value_length(row) as usize {
            if absent && items.is_null(to + i) {
                continue;
            }
            separate(out, '{');
            quote(names.value(from + i), out);
            out.push(':');
            items.write(to + i, out);
        }
        out.push('}');
        Ok(true)
    })
}

fn json_string(call: &Call) -> Result<ArrayRef> {
    let values = JsonOf::new(&call.array(0)?, false)?;
    rows(call, |row, out| {
        values.write(row, out);
        Ok(!values.is_null(row))
    })
}

/// `JSON_QUOTE(s)`: a JSON string in ASCII, with `/` escaped as Flink does.
fn json_quote(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    rows(call, |row, out| {
        let Some(text) = texts.get(row) else { return Ok(false) };
        let mut quoted = String::new();
        quote(text, &mut quoted);
        for c in quoted.chars() {
            match c {
                '/' => out.push_str("\\/"),
                c if c.is_ascii() => out.push(c),
                c => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
            }
        }
        Ok(true)
    })
}

/// `JSON_UNQUOTE(s)`: the text of a JSON string; anything else stays as it is.
fn json_unquote(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    call.text(|row| {
        let text = texts.get(row)?;
        Some(serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_string()))
    })
}

/// `JSON(s)`: a text checked to be JSON, without white space; it goes into JSON_OBJECT unquoted.
fn json(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    call.try_text(|row| match texts.get(row) {
        None => Ok(None),
        Some(text) => match serde_json::from_str::<serde_json::Value>(text) {
            Ok(value) => Ok(Some(value.to_string())),
            Err(error) => {
                exec_err!("function json: '{text}' is not JSON ({error}); leave JSON(…) out to store it as a string")
            }
        },
    })
}
