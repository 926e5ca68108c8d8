//! What `independent/clickstream.py` computes of the events in `tests/data`, and how services' contents are compared to it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::exact::canonical;
use crate::stub::tables::Item;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Tables and their keys.
pub(crate) const TABLES: [(&str, [(&str, &str); 2]); 4] = [
    ("analytics-metrics", [("metric_key", "S"), ("sort_key", "S")]),
    ("page-views-per-minute", [("page", "S"), ("window_start", "S")]),
    ("top-pages", [("window_start", "S"), ("rank", "N")]),
    ("revenue-by-category", [("category", "S"), ("window_start", "S")]),
];

pub(crate) fn expected(name: &str) -> Value {
    let path = Path::new(ROOT).join("tests/data/expected").join(format!("{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Items without what the SQL does not name, as text.
pub(crate) fn stored(items: Vec<Item>) -> Vec<String> {
    let text = |item: Item| {
        let visible = item.into_iter().filter(|(name, _)| !name.starts_with("tm_"));
        let text = |value: Value| value.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
        format!("{:?}", visible.map(|(name, value)| (name, text(value))).collect::<BTreeMap<_, _>>())
    };
    items.into_iter().map(text).collect()
}

/// What is wrong with a table, if anything.
pub(crate) fn table_difference(name: &str, expected: &Value, items: Vec<Item>) -> Option<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let wanted = expected[name].as_array().unwrap().iter().map(|item| {
        let present = item.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
        format!("{:?}", present.map(|(name, value)| (name.clone(), text(value))).collect::<BTreeMap<_, _>>())
    });
    difference(name, wanted.collect(), stored(items))
}

/// What is wrong with the alerts, if anything; each must be there once.
pub(crate) fn alerts_difference(expected: &Value, messages: &[String]) -> Option<String> {
    let wanted = expected["alerts"].as_array().unwrap().iter().map(|alert| canonical(&alert["message"]));
    let found = messages.iter().map(|message| canonical(&serde_json::from_str(message).unwrap()));
    difference("alerts", wanted.collect(), found.collect())
}

/// Compares two bags.
pub(crate) fn difference(what: &str, mut wanted: Vec<String>, mut found: Vec<String>) -> Option<String> {
    wanted.sort();
    found.sort();
    if wanted == found {
        return None;
    }
    let mut counts: BTreeMap<&String, i64> = BTreeMap::new();
    wanted.iter().for_each(|row| *counts.entry(row).or_default() += 1);
    found.iter().for_each(|row| *counts.entry(row).or_default() -= 1);
    let missing: Vec<_> = counts.iter().filter(|(_, n)| **n > 0).take(5).collect();
    let surplus: Vec<_> = counts.iter().filter(|(_, n)| **n < 0).take(5).collect();
    let (n, m) = (wanted.len(), found.len());
    Some(format!("{what}: {n} wanted, {m} found\nmissing: {missing:#?}\ntoo many: {surplus:#?}"))
}
