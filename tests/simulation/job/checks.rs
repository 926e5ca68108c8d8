//! What must have come of a stream, computed from its events alone.

use std::collections::{BTreeMap, BTreeSet};

use super::scenario::WINDOW_MS;
use super::sinks::{Row, Services};
use super::stream::Stream;

/// What is wrong with the results.
pub(crate) fn problems(stream: &Stream, services: &Services, windows: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut per_window: BTreeMap<(u64, String), u64> = BTreeMap::new();
    for event in stream.events() {
        *counts.entry(event.key.clone()).or_default() += 1;
        *per_window.entry((event.time_ms / WINDOW_MS, event.key.clone())).or_default() += 1;
    }
    let items = services.items.lock().expect("no panic while it is held");
    for (key, wanted) in &counts {
        let found = items.get(&("counts".to_owned(), key.clone())).map(|item| item.row["n"].clone());
        if found.as_deref() != Some(wanted.to_string().as_str()) {
            problems.push(format!("counts of {key}: {found:?}, not {wanted}"));
        }
    }
    let of = |n: usize, what: &str, list: Vec<String>| match list.len() {
        0 => None,
        _ => Some(format!("{n} {what}: {:?}", &list[..list.len().min(5)])),
    };
    let mut copies: BTreeMap<u64, u64> = stream.events().map(|event| (event.id, 0)).collect();
    for row in services.rows("copies") {
        *copies.entry(row["id"].parse().expect("a number")).or_default() += 1;
    }
    let lost: Vec<String> = copies.iter().filter(|(_, n)| **n == 0).map(|(id, _)| id.to_string()).collect();
    let doubled: Vec<String> = copies.iter().filter(|(_, n)| **n > 1).map(|(id, _)| id.to_string()).collect();
    problems.extend(of(lost.len(), "copies are lost", lost));
    problems.extend(of(doubled.len(), "copies are doubled", doubled));

    let wanted: BTreeSet<(String, u64)> =
        per_window.iter().map(|((window, key), n)| (format!("{} {key}", window * WINDOW_MS), *n)).collect();
    for table in windows {
        if *table == "alerts" {
            problems.extend(services.alert_problems(stream));
            continue;
        }
        let found: Vec<Row> = match *table {
            "window_items" => {
                items.iter().filter(|((of, _), _)| of == table).map(|(_, item)| item.row.clone()).collect()
            }
            table => services.rows(table),
        };
        let named = |row: &Row| {
            let start = chrono::NaiveDateTime::parse_from_str(&row["window_start"], "%Y-%m-%dT%H:%M:%S%.f");
            let ms = start.expect("a time").and_utc().timestamp_millis();
            (format!("{ms} {}", row["k"]), row["n"].parse::<u64>().expect("a number"))
        };
        let found: Vec<(String, u64)> = found.iter().map(named).collect();
        let set: BTreeSet<(String, u64)> = found.iter().cloned().collect();
        let missing: Vec<String> = wanted.difference(&set).map(|w| format!("{w:?}")).collect();
        let wrong: Vec<String> = set.difference(&wanted).map(|w| format!("{w:?}")).collect();
        problems.extend(of(missing.len(), &format!("windows are missing in {table}"), missing));
        problems.extend(of(wrong.len(), &format!("windows are wrong in {table}"), wrong));
        if found.len() != set.len() {
            problems.push(format!("{table} has {} windows twice", found.len() - set.len()));
        }
    }
    problems
}
