//! What a test has seen while a job was killed: each alert that was published and marked, and each state of each counter. What is
//! wrong with it is found by these checks alone, so that a test can show that they find it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::stub::Fault;
use crate::stub::tables::Item;

/// Something that happened to an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Happening {
    /// A PublishBatch that was done, and whether the program has heard of it.
    Published { run: usize, id: String, heard: bool },
    /// The ledger has its entry.
    Marked { id: String },
}

/// Whether a fault lets a request be done, and its sender hear of it; `None` where it is not done, or nobody knows when.
pub(crate) fn done(fault: Fault) -> Option<bool> {
    match fault {
        Fault::None => Some(true),
        Fault::CutAfter | Fault::ServerErrorAfter => Some(false),
        _ => None,
    }
}

/// Alerts that came more than once, and why.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Doubles {
    /// The reply of the publication before was cut.
    pub(crate) by_cut: usize,
    /// A kill fell between the publication before and its mark.
    pub(crate) by_kill: usize,
    pub(crate) unexplained: Vec<String>,
}

/// Explains each publication after an alert's first.
pub(crate) fn doubles(happenings: &[Happening]) -> Doubles {
    let mut found = Doubles::default();
    let mut last: BTreeMap<&str, (usize, bool)> = BTreeMap::new();
    let mut marked: BTreeSet<&str> = BTreeSet::new();
    for happening in happenings {
        match happening {
            Happening::Marked { id } => {
                marked.insert(id);
            }
            Happening::Published { run, id, heard } => match last.insert(id, (*run, *heard)) {
                None => {}
                _ if marked.contains(id.as_str()) => {
                    found.unexplained.push(format!("'{id}' was published by run {run} though it was marked"));
                }
                Some((_, false)) => found.by_cut += 1,
                Some((before, true)) if before < *run => found.by_kill += 1,
                Some(_) => found.unexplained.push(format!("'{id}' was published twice by run {run}")),
            },
        }
    }
    found
}

/// What a reader of tables has seen.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    items: BTreeMap<(String, String), Item>,
    /// Readings of a table.
    pub(crate) looks: usize,
    pub(crate) problems: Vec<String>,
}

/// Tables whose items change; those of the others are written once they are complete.
pub(crate) const RUNNING: [&str; 2] = ["analytics-metrics", "page-views-added"];

/// Attributes of running counters that only grow: counts, sums of positive amounts, the time of the latest event.
const GROWING: [&str; 5] = ["view_count", "order_count", "error_count", "total_revenue", "last_updated"];

fn number(value: &Value) -> Option<i128> {
    value["N"].as_str()?.parse().ok()
}

fn has_gone_back(before: &Value, now: &Value) -> bool {
    match (number(before), number(now)) {
        (Some(before), Some(now)) => now < before,
        _ => now["S"].as_str() < before["S"].as_str(),
    }
}

impl Watched {
    /// Takes all items of a table, as a reader has found them now. `keys` are the names of its keys.
    pub(crate) fn see(&mut self, table: &str, keys: &[&str], items: Vec<Item>) {
        self.looks += 1;
        let mut there = BTreeSet::new();
        for item in items {
            let key = keys.iter().map(|key| item[*key].to_string()).collect::<Vec<_>>().join(" ");
            let key = (table.to_owned(), key);
            if let Some(before) = self.items.get(&key) {
                let running = RUNNING.contains(&table);
                for (name, value) in before.iter().filter(|(name, _)| !name.starts_with("tm_")) {
                    let Some(now) = item.get(name) else {
                        self.problems.push(format!("{key:?}: '{name}' has gone"));
                        continue;
                    };
                    let wrong = match running {
                        true => GROWING.contains(&name.as_str()) && has_gone_back(value, now),
                        false => value != now,
                    };
                    if wrong {
                        self.problems.push(format!("{key:?}: '{name}' was {value}, and is {now}"));
                    }
                }
            }
            there.insert(key.clone());
            self.items.insert(key, item);
        }
        for key in self.items.keys().filter(|key| key.0 == table && !there.contains(*key)) {
            self.problems.push(format!("{key:?} has gone"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn published(run: usize, id: &str, heard: bool) -> Happening {
        Happening::Published { run, id: id.to_owned(), heard }
    }

    fn marked(id: &str) -> Happening {
        Happening::Marked { id: id.to_owned() }
    }

    #[test]
    fn doubles_are_explained_or_told() {
        let cut = [published(1, "a", false), published(1, "a", true), marked("a")];
        assert_eq!(doubles(&cut), Doubles { by_cut: 1, ..Doubles::default() });
        let killed = [published(1, "a", true), published(2, "a", true), marked("a"), published(2, "b", true)];
        assert_eq!(doubles(&killed), Doubles { by_kill: 1, ..Doubles::default() });
        let twice = [published(1, "a", true), published(1, "a", true)];
        assert_eq!(doubles(&twice).unexplained.len(), 1);
        let forgotten = [published(1, "a", false), marked("a"), published(2, "a", true)];
        assert_eq!(doubles(&forgotten).unexplained.len(), 1);
    }

    fn item(page: &str, attributes: Value) -> Item {
        let mut item = attributes.as_object().unwrap().clone();
        item.insert("k".to_owned(), json!({ "S": page }));
        item
    }

    #[test]
    fn what_goes_back_changes_or_vanishes_is_seen() {
        let see = |table: &str, looks: &[Vec<Item>]| {
            let mut watched = Watched::default();
            looks.iter().for_each(|items| watched.see(table, &["k"], items.clone()));
            watched.problems
        };
        let count = |n: &str| vec![item("a", json!({ "view_count": { "N": n }, "tm_epoch": { "N": "9" } }))];
        assert_eq!(see("analytics-metrics", &[count("9"), count("10"), count("10")]), Vec::<String>::new());
        assert_eq!(see("analytics-metrics", &[count("9"), count("10"), count("9")]).len(), 1);
        assert_eq!(see("page-views-per-minute", &[count("9"), count("10")]).len(), 1);
        assert_eq!(see("analytics-metrics", &[count("9"), vec![]]).len(), 1);
        let time = |t: &str| vec![item("a", json!({ "last_updated": { "S": t } }))];
        assert_eq!(see("analytics-metrics", &[time("2026-02-12T10:00"), time("2026-02-12T09:59")]).len(), 1);
        assert_eq!(see("analytics-metrics", &[time("x"), vec![item("a", json!({}))]]).len(), 1);
    }
}
