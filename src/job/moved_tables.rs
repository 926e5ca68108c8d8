//! Source tables that queries read under another name than before: a hint has come, gone or changed, or a table was renamed. Queries that go on
//! with their state must go on with its records, too: from where a new table begins, they would be given some twice, or lack others.
//!
//! Positions are saved by the name of a table and its hint, and of each query the checkpoint says which tables it has read.

use std::collections::{BTreeMap, BTreeSet};

use super::changes::{is_named, repeats_first};
use super::saved::StateOptions;
use crate::contracts::{Error, LogEntry, Result};
use crate::runtime::table_names;
use crate::sql::{JobPlan, QueryPlan, SourcePlan, hinted, without_hint};
use crate::state::{Manifest, SavedTable};

/// The source tables that a query reads, by the names under which their positions are saved.
pub(super) fn reads(sources: &[SourcePlan], query: &QueryPlan) -> Vec<String> {
    let own = sources.iter().filter(|source| query.tables.contains(&source.table));
    own.map(|source| source.name.clone()).collect()
}

/// Gives tables the positions that they have in `manifest` under other names, and answers what a person should know. `manifest` has only the
/// queries that go on (see [`reconcile`](super::changes::reconcile)); `log` is what is to be repeated behind it.
///
/// # Errors
/// A query that goes on reads a table that it has not read, and it cannot be told which of its own that was, or that one stands elsewhere; or
/// logged epochs have it under another name.
pub(super) fn follow_tables(
    plan: &JobPlan,
    manifest: Option<&mut Manifest>,
    log: &[LogEntry],
    state: &StateOptions,
) -> Result<Vec<String>> {
    is_repeated_as_it_was(plan, manifest.as_deref(), log, state)?;
    let Some(manifest) = manifest else { return Ok(Vec::new()) };
    let (mut notes, mut taken) = (Vec::new(), BTreeMap::new());
    for query in &plan.queries {
        let Some(before) = manifest.queries.get(&query.name) else { continue };
        let reads = reads(&plan.sources, query);
        let had = if before.reads.is_empty() { guessed(plan, manifest, &reads) } else { before.reads.clone() };
        let gone: Vec<&str> = had.iter().filter(|name| !reads.contains(name)).map(String::as_str).collect();
        // Where it reads a table in several places, one of them may have lost its hint.
        for was in gone.iter().filter(|was| !reads.iter().any(|name| !had.contains(name) && is_of_same(was, name))) {
            let stays = reads.iter().find(|name| is_of_same(was, name));
            if let Some(name) = stays.filter(|name| !stand_alike(manifest, was, name)) {
                return Err(is_elsewhere(&query.name, name, was));
            }
        }
        let is_kept = is_named(&state.keep_state, &query.name);
        for name in reads.iter().filter(|name| !had.contains(name)) {
            let mut was: Vec<&str> = gone.iter().copied().filter(|was| is_of_same(was, name)).collect();
            if was.is_empty() {
                // Where it reads the table in several places, one of them has got a hint.
                was = had.iter().map(String::as_str).filter(|was| is_of_same(was, name)).collect();
            }
            if was.is_empty() && is_kept {
                was.clone_from(&gone);
            }
            match was.as_slice() {
                [] if gone.is_empty() => {
                    notes.push(format!(
                        "table '{name}' is new to query '{}': it is read from where it says, or where others read it",
                        query.name
                    ));
                }
                [] => return Err(is_renamed(&query.name, name, &gone)),
                [was, others @ ..] if others.iter().all(|other| stand_alike(manifest, was, other)) => {
                    let of = taken.entry(name.clone()).or_insert_with(|| {
                        notes.push(format!("table '{name}' was '{was}' before, and is read on from there"));
                        if manifest.tables.contains_key(name) { name.clone() } else { (*was).to_owned() }
                    });
                    if !stand_alike(manifest, of, was) {
                        return Err(is_elsewhere(&query.name, name, was));
                    }
                }
                _ => return Err(is_unclear(&query.name, name, &was)),
            }
        }
    }
    for (name, was) in &taken {
        for tables in points(manifest) {
            if let Some(stands) = tables.get(was).cloned() {
                tables.insert(name.clone(), stands);
            }
        }
    }
    for query in &plan.queries {
        if let Some(saved) = manifest.queries.get_mut(&query.name) {
            saved.reads = reads(&plan.sources, query);
        }
    }
    Ok(notes)
}

/// What a query may have read that reads these tables now, where the checkpoint does not say it: it is of an earlier version of the program.
fn guessed(plan: &JobPlan, manifest: &Manifest, reads: &[String]) -> Vec<String> {
    let now: BTreeSet<&String> = plan.sources.iter().map(|source| &source.name).collect();
    let unread = || manifest.tables.keys().filter(|name| !now.contains(name));
    let mut had = BTreeSet::new();
    for name in reads {
        let is_same = |was: &&String| is_of_same(was, name);
        if manifest.tables.contains_key(name) {
            had.insert(name);
        } else if unread().any(|was| is_same(&was)) {
            had.extend(unread().filter(is_same));
        } else if manifest.tables.keys().any(|was| is_same(&was)) {
            had.extend(manifest.tables.keys().filter(is_same));
        } else {
            had.extend(unread());
        }
    }
    had.into_iter().cloned().collect()
}

/// Positions at all points from which a run that goes on from `manifest` reads.
fn points(manifest: &mut Manifest) -> impl Iterator<Item = &mut BTreeMap<String, SavedTable>> {
    let (mut first, mut second) = (None, None);
    if let Some(reread) = &mut manifest.reread {
        first = Some(&mut reread.tables);
        second = reread.catch_up.as_mut().map(|catch_up| &mut catch_up.tables);
    }
    [Some(&mut manifest.tables), first, second].into_iter().flatten()
}

/// Whether it makes no difference from which of two tables another one goes on.
fn stand_alike(manifest: &Manifest, one: &str, other: &str) -> bool {
    let reread = manifest.reread.as_ref();
    let catch_up = reread.and_then(|reread| reread.catch_up.as_ref());
    let points = [Some(&manifest.tables), reread.map(|of| &of.tables), catch_up.map(|of| &of.tables)];
    points.into_iter().flatten().all(|tables| tables.get(one) == tables.get(other))
}

/// Logged epochs have records of the tables that they were cut of, and of no others.
///
/// # Errors
/// A query that gets them reads another table instead of one that it had read then, or joins with another reference table.
fn is_repeated_as_it_was(
    plan: &JobPlan,
    manifest: Option<&Manifest>,
    log: &[LogEntry],
    state: &StateOptions,
) -> Result<()> {
    let after = manifest.map_or(0, Manifest::repeats_after);
    let cuts = || {
        log.iter().filter_map(|entry| match entry {
            LogEntry::Cut(cut) if cut.epoch > after => Some(cut),
            _ => None,
        })
    };
    let Some(last) = cuts().next_back() else { return Ok(()) };
    let joined: BTreeSet<&String> = cuts().flat_map(|cut| cut.references.keys()).collect();
    let begins_anew = |query: &QueryPlan| is_named(&state.reset, &query.name);
    let has = |name: &String| plan.references.iter().any(|reference| reference.name == *name);
    for name in plan.references.iter().map(|reference| &reference.name).filter(|name| !joined.contains(name)) {
        let is_same = |was: &&&String| without_hint(was) == without_hint(name) && !has(was);
        if let Some(was) = joined.iter().find(is_same).filter(|_| !plan.queries.iter().all(begins_anew)) {
            return Err(was_killed(cuts().count(), &format!("the reference table '{name}' was '{was}' then")));
        }
    }
    let cut_by = log.iter().rev().find_map(|entry| match entry {
        LogEntry::Started { generation, queries, reads, .. } if *generation == last.generation => {
            Some((queries, reads))
        }
        _ => None,
    });
    let logged: BTreeSet<&str> =
        cuts().flat_map(|cut| &cut.splits).flat_map(|split| table_names(&split.feed)).collect();
    for query in &plan.queries {
        let had = match cut_by {
            _ if begins_anew(query) => continue,
            Some((queries, _)) if !queries.contains_key(&query.name) => continue,
            Some((_, reads)) => reads.get(&query.name),
            None => manifest.and_then(|manifest| Some(&manifest.queries.get(&query.name)?.reads)),
        };
        let reads = reads(&plan.sources, query);
        let had: Vec<&str> = match had {
            Some(had) if !had.is_empty() => had.iter().map(String::as_str).collect(),
            // In logs of an earlier version: what has another hint there.
            _ => {
                let is_same = |was: &&str| reads.iter().any(|name| is_of_same(was, name));
                logged.iter().copied().filter(is_same).collect()
            }
        };
        let gone: Vec<&str> = had.iter().copied().filter(|was| !reads.iter().any(|name| name == was)).collect();
        let new = reads.iter().find(|name| !had.contains(&name.as_str()));
        if let Some(new) = new.filter(|_| !gone.is_empty()) {
            let (name, gone) = (&query.name, quoted(&gone));
            let what = format!("the query '{name}' reads table '{new}' now, which was {gone} then");
            return Err(was_killed(cuts().count(), &what));
        }
    }
    Ok(())
}

/// Whether two names are of one table, with hints or without, and of the same records: no hint says that they lie elsewhere.
fn is_of_same(one: &str, other: &str) -> bool {
    const PLACES: [&str; 3] = ["'stream'=", "'stream.arn'=", "'path'="];
    let places = |name| hinted(name).filter(|option| PLACES.iter().any(|key| option.starts_with(key)));
    without_hint(one) == without_hint(other) && places(one).eq(places(other))
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}

fn is_renamed(query: &str, table: &str, gone: &[&str]) -> Error {
    let gone = quoted(gone);
    let error = format!("the query '{query}' reads table '{table}' now, and read {gone} up to the last checkpoint");
    Error::config(error).hint(format!(
        "if that is the same under another name, read on from there with --keep-state {query}; if '{table}' is another table, read it from \
         where it says with --reset {query}"
    ))
}

fn was_killed(repeats: usize, what: &str) -> Error {
    let error = format!("{}, and {what}", repeats_first(repeats));
    Error::config(error).hint("undo the change and run once with --once; then change it")
}

fn is_unclear(query: &str, table: &str, was: &[&str]) -> Error {
    let was = quoted(was);
    let error = format!("the query '{query}' reads table '{table}' now, and that may have been any of {was} before");
    Error::config(error).hint(format!(
        "change one hint after the other, and run once with --once between; or read it from where it says with --reset {query}"
    ))
}

fn is_elsewhere(query: &str, table: &str, was: &str) -> Error {
    let error = format!(
        "the query '{query}' reads table '{table}' now, which others have read to another place than it has read '{was}'"
    );
    Error::config(error).hint(
        "give its hint a value that no other has, if only by a blank ('5 s', '5s'): then it is read on from where it was; or have both read to \
         one place first, with the unchanged files and --once while nothing comes",
    )
}

#[cfg(test)]
#[path = "moved_tables_tests.rs"]
mod tests;
