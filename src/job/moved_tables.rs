//! Source tables that go by another name than in the checkpoint: a hint has come, gone or changed, or the table was renamed. Queries that go on
//! with their state must go on with its records, too: from where a new table begins, they would be given some twice, or lack others.

use std::collections::{BTreeMap, BTreeSet};

use super::changes::means;
use super::saved::StateOptions;
use crate::contracts::{Error, LogEntry, Result};
use crate::runtime::table_names;
use crate::sql::{JobPlan, without_hint};
use crate::state::Manifest;

/// Gives tables the positions that they have in `manifest` under other names, and answers what a person should know. `manifest` has only the
/// queries that go on (see [`reconcile`](super::changes::reconcile)); `log` is what is to be repeated behind it.
///
/// # Errors
/// A query that goes on reads a table that is not known, and nobody said whether it is one of those that are not read any more; or logged
/// epochs have it under another name.
pub(super) fn follow_tables(
    plan: &JobPlan,
    manifest: Option<&mut Manifest>,
    log: &[LogEntry],
    state: &StateOptions,
) -> Result<Vec<String>> {
    let known = Known::new(manifest.as_deref(), log);
    let now: BTreeSet<&str> = plan.sources.iter().map(|source| source.name.as_str()).collect();
    let unread: Vec<&str> = known.tables.iter().copied().filter(|name| !now.contains(name)).collect();
    let (mut notes, mut taken) = (Vec::new(), Vec::new());
    for source in plan.sources.iter().filter(|source| !known.tables.contains(source.name.as_str())) {
        let name = &source.name;
        let reads = plan.queries.iter().filter(|query| query.tables.contains(&source.table));
        let mut readers =
            reads.map(|query| &query.name).filter(|query| known.queries.contains(query.as_str())).peekable();
        let Some(reader) = readers.peek().copied() else { continue };
        let is_same = |name: &&str| without_hint(name) == source.spec.name;
        let mut was: Vec<&str> = unread.iter().copied().filter(is_same).collect();
        if was.is_empty() {
            // Others read it on without the hint, or with theirs.
            was = known.tables.iter().copied().filter(is_same).collect();
        }
        if was.is_empty() && readers.any(|query| state.keep_state.iter().any(|given| means(given, query))) {
            was.clone_from(&unread);
        }
        match was.as_slice() {
            [] if unread.is_empty() => {
                notes.push(format!("table '{name}' is new to query '{reader}': it is read from where it says"));
            }
            [] => return Err(is_renamed(reader, name, &unread)),
            _ if known.repeats > 0 => return Err(was_killed(reader, name, &was, known.repeats)),
            [was, others @ ..] if others.iter().all(|other| known.stand_alike(was, other)) => {
                notes.push(format!("table '{name}' was '{was}' before, and is read on from there"));
                taken.push((name, (*was).to_owned()));
            }
            _ => return Err(is_unclear(reader, name, &was)),
        }
    }
    let Some(manifest) = manifest else { return Ok(notes) };
    let Manifest { tables, reread, .. } = manifest;
    let (mut first, mut second) = (None, None);
    if let Some(reread) = reread {
        first = Some(&mut reread.tables);
        second = reread.catch_up.as_mut().map(|catch_up| &mut catch_up.tables);
    }
    for tables in [Some(tables), first, second].into_iter().flatten() {
        for (name, was) in &taken {
            if let Some(stands) = tables.get(was).cloned() {
                tables.insert((*name).clone(), stands);
            }
        }
    }
    Ok(notes)
}

/// What a checkpoint, and the log behind it, know.
struct Known<'a> {
    tables: BTreeSet<&'a str>,
    queries: BTreeSet<&'a str>,
    /// Epochs that are to be repeated.
    repeats: usize,
    manifest: Option<&'a Manifest>,
}

impl<'a> Known<'a> {
    /// Whether it makes no difference from which of two tables another one goes on.
    fn stand_alike(&self, one: &str, other: &str) -> bool {
        let all = |manifest: &'a Manifest| {
            let reread = manifest.reread.iter();
            let points =
                reread.flat_map(|reread| [Some(&reread.tables), reread.catch_up.as_ref().map(|of| &of.tables)]);
            points.flatten().chain([&manifest.tables])
        };
        self.manifest.is_some_and(|manifest| all(manifest).all(|tables| tables.get(one) == tables.get(other)))
    }

    fn new(manifest: Option<&'a Manifest>, log: &'a [LogEntry]) -> Self {
        let mut known = Self { tables: BTreeSet::new(), queries: BTreeSet::new(), repeats: 0, manifest };
        if let Some(manifest) = manifest {
            let points = manifest.reread.iter().map(|reread| &reread.tables).chain([&manifest.tables]);
            known.tables.extend(points.flat_map(BTreeMap::keys).map(String::as_str));
            known.queries.extend(manifest.queries.keys().map(String::as_str));
        }
        let after = manifest.map_or(0, Manifest::repeats_after);
        let mut cutters = BTreeSet::new();
        for entry in log {
            let LogEntry::Cut(cut) = entry else { continue };
            if cut.epoch > after {
                known.repeats += 1;
                cutters.insert(cut.generation);
                known.tables.extend(cut.splits.iter().flat_map(|split| table_names(&split.feed)));
                known.tables.extend(cut.tables.iter().map(|table| table.table.as_str()));
            }
        }
        for entry in log {
            if let LogEntry::Started { generation, queries, .. } = entry
                && cutters.contains(generation)
            {
                known.queries.extend(queries.keys().map(String::as_str));
            }
        }
        known
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}

fn is_renamed(query: &str, table: &str, unread: &[&str]) -> Error {
    let unread = quoted(unread);
    let error = format!(
        "the query '{query}' reads table '{table}', of which the checkpoint knows no position; it knows {unread}, which is not read any more"
    );
    Error::config(error).hint(format!(
        "if that is the same under another name, read on from there with --keep-state {query}; if '{table}' is another table, read it from \
         where it says with --reset {query}"
    ))
}

fn was_killed(query: &str, table: &str, was: &[&str], repeats: usize) -> Error {
    let was = quoted(was);
    let error = format!(
        "the run before did not end in order, so its last {repeats} epoch(s) are repeated, and the query '{query}' reads table '{table}' \
         now, which was {was} then"
    );
    Error::config(error).hint("undo the change and run once with --once; then change it")
}

fn is_unclear(query: &str, table: &str, was: &[&str]) -> Error {
    let was = quoted(was);
    let error = format!("the query '{query}' reads table '{table}' now, and that may have been any of {was} before");
    Error::config(error).hint(format!(
        "change one hint after the other, and run once with --once between; or read it from where it says with --reset {query}"
    ))
}
