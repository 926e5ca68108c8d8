//! What a checkpoint says, and what has changed between two of them, for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::changes::difference;
use crate::contracts::Watermark;
use crate::runtime::without_hint_numbers;
use crate::state::{Manifest, ManifestOperator, ManifestReference, SavedSplit, SavedTable, shown_digest};

/// All of it.
pub(super) fn everything(manifest: &Manifest, name: &str) -> String {
    let mut text = format!("{name}: {}\n", short(manifest));
    let _ = writeln!(text, "  written by {} in run {}", manifest.program, manifest.generation);
    for (table, saved) in &manifest.tables {
        let _ = writeln!(text, "  table {table}");
        for (split, at) in &saved.splits {
            let _ = writeln!(text, "    {split}: {}", stands(at));
        }
    }
    let catch_up =
        manifest.reread.iter().filter_map(|reread| Some((&reread.tables, &reread.catch_up.as_ref()?.queries)));
    for (tables, queries) in catch_up {
        let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
        let _ = writeln!(text, "  read again first, for {} alone", queries.join(", "));
        for (table, saved) in tables {
            for (split, at) in &saved.splits {
                let _ = writeln!(text, "    {table}, {split}: {}", stands(at));
            }
        }
    }
    for (table, version) in &manifest.references {
        let _ = writeln!(text, "  reference table {table}: {}", shown(version));
    }
    for (query, saved) in &manifest.queries {
        let _ = writeln!(text, "  query {query}: durable up to epoch {}", saved.durable_epoch);
        for (number, operator) in saved.operators.iter().enumerate() {
            let _ = writeln!(text, "    operator {number}: {}", size(operator));
            for line in operator.fingerprint.lines() {
                let _ = writeln!(text, "      {line}");
            }
        }
        if let Some(unwritten) = &saved.unwritten {
            let _ = writeln!(text, "    in open files of its sink: {}", size(unwritten));
        }
    }
    text
}

/// What differs between two checkpoints, each with its name.
pub(super) fn changed((before, name_before): (&Manifest, &str), (after, name_after): (&Manifest, &str)) -> String {
    let mut text = format!("{name_before}: {}\n{name_after}: {}\n", short(before), short(after));
    for table in keys(&before.tables, &after.tables) {
        let none = SavedTable::default();
        let [old, new] = [before, after].map(|manifest| manifest.tables.get(table).unwrap_or(&none));
        for split in keys(&old.splits, &new.splits) {
            let (was, is) = (old.splits.get(split), new.splits.get(split));
            if was != is {
                let at = |at: Option<&SavedSplit>| at.map_or_else(|| "not known".to_owned(), stands);
                let _ = writeln!(text, "  table {table}, {split}: {} -> {}", at(was), at(is));
            }
        }
    }
    for table in keys(&before.references, &after.references) {
        let (was, is) = (before.references.get(table), after.references.get(table));
        if was != is {
            let version = |version: Option<&ManifestReference>| version.map_or_else(|| "none".to_owned(), shown);
            let _ = writeln!(text, "  reference table {table}: {} -> {}", version(was), version(is));
        }
    }
    for query in keys(&before.queries, &after.queries) {
        let (Some(old), Some(new)) = (before.queries.get(query), after.queries.get(query)) else {
            let only = if before.queries.contains_key(query) { name_before } else { name_after };
            let _ = writeln!(text, "  query {query}: only in {only}");
            continue;
        };
        for number in 0..old.operators.len().max(new.operators.len()) {
            let (was, is) = (old.operators.get(number), new.operators.get(number));
            if let (Some(was), Some(is)) = (was, is)
                && without_hint_numbers(&was.fingerprint) != without_hint_numbers(&is.fingerprint)
            {
                let _ = writeln!(text, "  query {query}, operator {number}:");
                text.push_str(&difference(&was.fingerprint, &is.fingerprint));
            }
            if was != is {
                let _ = writeln!(text, "  query {query}, operator {number}: {}", became(was, is));
            }
        }
        let (was, is) = (old.unwritten.as_ref(), new.unwritten.as_ref());
        if was != is {
            let _ = writeln!(text, "  query {query}, in open files of its sink: {}", became(was, is));
        }
    }
    text
}

fn keys<'a, T>(before: &'a BTreeMap<String, T>, after: &'a BTreeMap<String, T>) -> BTreeSet<&'a String> {
    before.keys().chain(after.keys()).collect()
}

/// What a split is by now.
fn stands(at: &SavedSplit) -> String {
    let mut text = match (&at.after_exclusive, at.from_ms) {
        (Some(position), _) => format!("after {position}"),
        (None, Some(ms)) => format!("arrivals from {}", Watermark(ms)),
        (None, None) => "from its beginning".to_owned(),
    };
    if let Some(version) = &at.version {
        let _ = write!(text, " of version {version}");
    }
    let end = if at.finished { ", finished" } else { "" };
    let _ = write!(text, ", watermark {}{end}", Watermark(at.watermark_ms));
    text
}

pub(super) fn short(manifest: &Manifest) -> String {
    let files = manifest.files().count();
    let from = manifest.from.as_ref().map(|from| format!(", from {from}")).unwrap_or_default();
    format!(
        "{}, epoch {}, {} bytes in {files} files{from}",
        Watermark(manifest.time_ms),
        manifest.epoch,
        manifest.bytes()
    )
}

/// State that has changed, where there is any.
fn became(was: Option<&ManifestOperator>, is: Option<&ManifestOperator>) -> String {
    let [was, is] = [was, is].map(|operator| operator.map_or_else(|| "none".to_owned(), size));
    if was == is { format!("{is}, written anew") } else { format!("{was} -> {is}") }
}

fn size(operator: &ManifestOperator) -> String {
    let bytes = operator.all_files().map(|file| file.bytes).fold(0, u64::saturating_add);
    let watermark = operator.watermark_ms.map(|ms| format!(", watermark {}", Watermark(ms))).unwrap_or_default();
    format!("{} rows, {bytes} bytes in {} files{watermark}", operator.rows, operator.all_files().count())
}

/// A version of a reference table. Its cuts have the whole digest.
fn shown(version: &ManifestReference) -> String {
    let bytes: u64 = version.files.iter().map(|file| file.bytes).sum();
    let digest = shown_digest(&version.digest);
    format!("version {digest}, {} rows, {bytes} bytes", version.rows)
}
