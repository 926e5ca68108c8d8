//! Written files against expected rows: a multiset of rows, or for a sink with a key its last state.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use arrow::datatypes::{DataType, SchemaRef};
use serde_json::{Map, Value};

use crate::exact::canonical;

/// A table that a golden writes.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) name: String,
    pub(crate) key: Vec<String>,
    pub(crate) schema: SchemaRef,
}

type Row = Map<String, Value>;

/// What differs, a few lines for each sink.
pub(crate) fn differences(expected: &Path, sinks: &[Sink], output: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(expected)
        .expect("expected rows")
        .flatten()
        .filter_map(|file| file.file_name().to_str()?.strip_suffix(".jsonl").map(str::to_owned))
        .collect();
    names.sort();
    let unwanted = sinks.iter().filter(|sink| !names.contains(&sink.name));
    let mut found: Vec<String> =
        unwanted.map(|sink| format!("{}: what is expected of it is nowhere", sink.name)).collect();
    for name in names {
        let Some(sink) = sinks.iter().find(|sink| sink.name == name) else {
            found.push(format!("{name}: no query writes it"));
            continue;
        };
        let text = fs::read_to_string(expected.join(format!("{name}.jsonl"))).expect("expected rows");
        let wanted: Vec<Row> = text.lines().map(row).collect();
        match read(&output.join(&name), sink) {
            Ok(rows) => found.extend(compare(sink, wanted, rows).map(|text| format!("{name}: {text}"))),
            Err(problem) => found.push(format!("{name}: {problem}")),
        }
    }
    found
}

fn row(line: &str) -> Row {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("'{line}' is not a JSON object: {e}"))
}

/// All rows in the order of files and lines; with a key, the last of each.
fn read(folder: &Path, sink: &Sink) -> Result<Vec<Row>, String> {
    let mut files = Vec::new();
    list(folder, &mut files);
    files.sort_by_key(|file| file.file_name().map(ToOwned::to_owned));
    let mut rows = Vec::new();
    for file in files {
        let partitions = partitions(file.strip_prefix(folder).unwrap_or(&file), sink);
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        for line in text.lines() {
            let mut row: Row = serde_json::from_str(line).map_err(|e| format!("'{line}' is not JSON: {e}"))?;
            row.extend(partitions.clone());
            rows.push(row);
        }
    }
    if sink.key.is_empty() {
        return match rows.iter().find(|row| row.contains_key("__op")) {
            Some(_) => Err("an append stream has '__op'".to_owned()),
            None => Ok(rows),
        };
    }
    let mut last: BTreeMap<String, Option<Row>> = BTreeMap::new();
    for row in rows {
        let key: Vec<String> = sink.key.iter().map(|column| canonical(&row[column])).collect();
        let deleted = row.get("__op").is_some_and(|op| op == "delete");
        last.insert(key.join("\u{1}"), (!deleted).then_some(row));
    }
    Ok(last.into_values().flatten().collect())
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => list(&path, files),
            path => files.push(path),
        }
    }
}

/// Columns that stand in the names of folders.
fn partitions(file: &Path, sink: &Sink) -> Row {
    let parts = file.parent().into_iter().flat_map(Path::components);
    let parts = parts.filter_map(|part| part.as_os_str().to_str()?.split_once('='));
    let typed = |(name, text): (&str, &str)| {
        let is_text = sink.schema.field_with_name(name).is_ok_and(|f| !f.data_type().is_numeric());
        let value = match text {
            "__HIVE_DEFAULT_PARTITION__" => Value::Null,
            text if is_text => Value::String(unescaped(text)),
            text => serde_json::from_str(text).unwrap_or(Value::Null),
        };
        (name.to_owned(), value)
    };
    parts.map(typed).collect()
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits: String = rest.by_ref().take(2).map(char::from).collect();
        bytes.extend(u8::from_str_radix(&digits, 16));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn compare(sink: &Sink, wanted: Vec<Row>, found: Vec<Row>) -> Option<String> {
    let (wanted_rows, found_rows) = (wanted.len(), found.len());
    let mut counts: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in found {
        counts.entry(canonical(&Value::Object(row.clone()))).or_default().push(row);
    }
    let mut missing = Vec::new();
    for row in wanted {
        match counts.get_mut(&canonical(&Value::Object(row.clone()))).and_then(Vec::pop) {
            Some(_) => {}
            None => missing.push(row),
        }
    }
    let mut surplus: Vec<Row> = counts.into_values().flatten().collect();
    // What is left may be equal but for the last digits of doubles.
    missing.retain(|row| match surplus.iter().position(|other| close_rows(sink, row, other)) {
        Some(at) => {
            surplus.swap_remove(at);
            false
        }
        None => true,
    });
    if missing.is_empty() && surplus.is_empty() {
        return None;
    }
    let show = |sign: char, rows: &[Row]| -> String {
        rows.iter().take(3).map(|row| format!("\n    {sign} {}", Value::Object(row.clone()))).collect()
    };
    Some(format!(
        "{} of {wanted_rows} rows missing, {} of {found_rows} too many{}{}",
        missing.len(),
        surplus.len(),
        show('-', &missing),
        show('+', &surplus)
    ))
}

fn close_rows(sink: &Sink, a: &Row, b: &Row) -> bool {
    a.len() == b.len()
        && a.iter().all(|(name, value)| {
            let Some(other) = b.get(name) else { return false };
            let double = sink.schema.field_with_name(name).is_ok_and(|f| has_doubles(f.data_type()));
            if double { close(value, other) } else { canonical(value) == canonical(other) }
        })
}

fn has_doubles(data_type: &DataType) -> bool {
    format!("{data_type}").contains("Float")
}

fn close(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => {
            let (Some(x), Some(y)) = (x.as_f64(), y.as_f64()) else { return false };
            x == y || (x - y).abs() <= 1e-9 * x.abs().max(y.abs())
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| close(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(name, x)| y.get(name).is_some_and(|y| close(x, y)))
        }
        _ => a == b,
    }
}
