//! What a run has left, to be compared with what an undisturbed one leaves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use rusqlite::types::Value;
use serde_json::Value as Json;

/// Every row of every table.
pub(crate) fn tables(local: &Path) -> BTreeMap<String, u64> {
    let store = rusqlite::Connection::open(local.join("dynamodb.sqlite")).expect("results");
    let mut names = store.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").expect("a query");
    let names: Vec<String> =
        names.query_map([], |row| row.get(0)).expect("names").map(|n| n.expect("a name")).collect();
    let mut rows = BTreeMap::new();
    for table in names {
        let mut query = store.prepare(&format!("SELECT * FROM \"{table}\"")).expect("a table");
        let columns: Vec<String> = query.column_names().map(str::to_owned).collect();
        let shown = query.query_map([], |row| {
            let mut cells = Vec::new();
            for (index, column) in columns.iter().enumerate() {
                match row.get::<_, Value>(index)? {
                    Value::Null => {}
                    value => cells.push(format!("{column}={value:?}")),
                }
            }
            cells.sort();
            Ok(format!("{table}: {}", cells.join(", ")))
        });
        for row in shown.expect("rows") {
            *rows.entry(row.expect("a row")).or_default() += 1;
        }
    }
    rows
}

/// Every message, by its id and what it says; when it was published is another matter.
pub(crate) fn alerts(local: &Path) -> BTreeMap<String, u64> {
    let mut messages = BTreeMap::new();
    let text = std::fs::read_to_string(local.join("sns/analytics-alerts.jsonl")).expect("alerts");
    for line in text.lines() {
        let message: Json = serde_json::from_str(line).expect("JSON");
        let shown = format!("{} {} {}", message["message_id"], message["subject"], message["message"]);
        *messages.entry(shown).or_default() += 1;
    }
    messages
}

pub(crate) fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// All files below a folder, none of them hidden.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    fn find(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            match entry.path() {
                path if path.is_dir() => find(&path, found),
                path => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    find(folder, &mut found);
    let hidden: Vec<&PathBuf> = found.iter().filter(|path| name(path).starts_with('.')).collect();
    assert!(hidden.is_empty(), "hidden files are left over: {hidden:?}");
    found
}

/// Every archived row.
pub(crate) fn archive(folder: &Path) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    for path in files(folder) {
        let reader = SerializedFileReader::new(std::fs::File::open(&path).expect("a file")).expect("Parquet");
        for row in reader.get_row_iter(None).expect("rows") {
            *rows.entry(row.expect("a row").to_string()).or_default() += 1;
        }
    }
    rows
}

/// Everything in the error output, once each, however often it is there: a kill may have it said again, and must not have it forgotten.
pub(crate) fn errors(local: &Path) -> BTreeMap<String, u64> {
    let mut refused = BTreeMap::new();
    for path in files(&local.join("errors")) {
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        // A line that the kill has cut off is of a record that the next run refuses again.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let line: Json = serde_json::from_str(line).expect("JSON");
            let mut shown = format!("{} {}: {}", line["reason"], line["origin"], line["split"]);
            match line["sequence_number"].as_str() {
                // A row that a query has made is no single record of the stream.
                None | Some("") => shown += &format!(" {}", line["record"]),
                Some(number) => shown += &format!(" {number}"),
            }
            refused.insert(shown, 1);
        }
    }
    refused
}

/// How often each reason is there.
pub(crate) fn reasons(errors: &BTreeMap<String, u64>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in errors.keys() {
        let reason = line.split('"').nth(1).expect("a reason");
        *counts.entry(reason.to_owned()).or_default() += 1;
    }
    counts
}

#[track_caller]
pub(crate) fn assert_same(what: &str, seed: u64, wanted: &BTreeMap<String, u64>, found: &BTreeMap<String, u64>) {
    let differs = |a: &BTreeMap<String, u64>, b: &BTreeMap<String, u64>| {
        a.iter()
            .filter(|(row, n)| b.get(*row) != Some(n))
            .take(3)
            .map(|(row, n)| format!("{n} x {row}"))
            .collect::<Vec<_>>()
    };
    assert!(!wanted.is_empty(), "there are no {what}");
    assert!(
        wanted == found,
        "{what}, CRASH_SEED={seed}: wanted {:#?}, found {:#?}",
        differs(wanted, found),
        differs(found, wanted)
    );
}
