//! A job whose SQL has changed since its last checkpoint: which queries go on, and which must not without being told to.
//!
//! Each operator's fingerprint is what it computes, in its normal form: equal ones keep their state, whatever stands above
//! them. A query that is new begins without state behind the checkpoint. One that is gone, or whose operators have changed,
//! needs a word from a person. After a kill the logged epochs are repeated, and then a query must be the same as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use datafusion::arrow::datatypes::FieldRef;

use super::places::{Moved, follow, is_same_state};
use super::saved::StateOptions;
use crate::contracts::{Error, LogEntry, Result};
use crate::operators::ChangeMode;
use crate::runtime::{columns_of_open_rows, identity, is_identity_of, is_text_of, without_hint_numbers};
use crate::sql::QueryPlan;
use crate::state::{Manifest, ManifestQuery, OperatorState};

/// Lines of a difference that are shown.
const LINES_SHOWN: usize = 40;

/// What comes of comparing a job with its saved state.
#[derive(Debug)]
pub(super) struct Reconciled {
    /// What a person should know.
    pub(super) notes: Vec<String>,
    /// By query: the last epoch up to which all that its sink had promised in the log has appeared.
    pub(super) appeared: BTreeMap<String, u64>,
}

/// Takes out of `saved` what no query goes on with.
///
/// # Errors
/// A query has changed or is gone, and nobody said what shall become of its state; or somebody named a query that there is
/// not.
pub(super) fn reconcile(
    queries: &[QueryPlan],
    mut manifest: Option<&mut Manifest>,
    log: &[LogEntry],
    state: &StateOptions,
) -> Result<Reconciled> {
    let mut appeared = all_appeared(queries, manifest.as_deref(), log);
    let Moved { notes: mut notes_of_places, gone: displaced, renamed, unclear } = match &mut manifest {
        Some(manifest) => follow(queries, manifest, log)?,
        None => Moved::default(),
    };
    let mut nothing = BTreeMap::new();
    let (epoch, checkpointed_by, saved) = match &mut manifest {
        Some(manifest) => (manifest.epoch, manifest.generation, &mut manifest.queries),
        None => (0, 0, &mut nothing),
    };
    // What the log has of them up to there is done, whatever they were called.
    appeared.extend(renamed.into_iter().map(|name| (name, epoch)));
    let mut cutters = log.iter().filter_map(|entry| match entry {
        LogEntry::Cut(cut) if cut.epoch > epoch => Some(cut.generation),
        _ => None,
    });
    let repeats = cutters.clone().count();
    // The SQL by which epochs were cut is that of the run that has cut the last of them. Those that have begun since, and were killed
    // before they had cut one of their own, may have had other queries, or none.
    let by = cutters.next_back();
    let started = log.iter().rev().find_map(|entry| match entry {
        LogEntry::Started { generation, queries, .. } if by.is_none_or(|by| by == *generation) => Some(queries),
        _ => None,
    });
    let has = |name: &str| queries.iter().any(|query| query.name == name);
    let begun = log.iter().flat_map(|entry| match entry {
        LogEntry::Started { queries, .. } => queries.keys().collect(),
        _ => Vec::new(),
    });
    let of_saved = saved.keys().chain(displaced.iter().map(|(name, _)| name));
    let names: Vec<&str> = of_saved.chain(begun).map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect();
    let known = |given: &String| {
        if names.iter().any(|name| means(given, name)) {
            return Ok(());
        }
        let names = if names.is_empty() {
            "there is no saved state".to_owned()
        } else {
            format!("there are {}", names.join(", "))
        };
        Err(Error::config(format!("no saved query is called '{given}'")).hint(names))
    };
    let is_gone_or_unknown = |given: &String| {
        let is_displaced = displaced.iter().any(|(name, _)| means(given, name));
        let is_gone = is_displaced || names.iter().any(|name| means(given, name) && !has(name));
        match queries.iter().find(|query| means(given, &query.name)) {
            Some(query) if !is_gone => {
                let name = &query.name;
                Err(Error::config(format!("the query '{name}' is still in the job, so --drop-state would do nothing"))
                    .hint(format!(
                        "to begin it without state, use --reset {name}; to drop it, take it out of the job first"
                    )))
            }
            _ => Ok(()),
        }
    };
    if state.asked_before.is_none() {
        state.drop_state.iter().try_for_each(is_gone_or_unknown)?;
        state.drop_state.iter().chain(&state.reset).chain(&state.keep_state).try_for_each(known)?;
    }
    // An attempt of this process before may have done what was asked for, and later ones go on from that.
    let still = |of: Option<u64>| state.asked_before.is_none_or(|generation| of.is_none_or(|of| of < generation));
    // The last entry of a query says that what the ones before have promised is done.
    let mut last = BTreeMap::new();
    for entry in log {
        if let LogEntry::Committed { query, epoch, payloads } = entry {
            last.insert(query, (epoch, payloads));
        }
    }
    for (query, (epoch, payloads)) in last {
        let has_appeared = payloads.is_empty() || appeared.get(query).is_some_and(|appeared| epoch <= appeared);
        if !has(query) && !has_appeared {
            return Err(has_promised(query));
        }
    }
    let mut notes = Vec::new();
    notes.append(&mut notes_of_places);
    let missing: Vec<String> = saved.keys().filter(|name| !has(name)).cloned().collect();
    let missing =
        missing.iter().filter_map(|name| saved.remove_entry(name)).map(|(name, query)| (name, query, repeats));
    // Of those whose names others have, nothing is repeated.
    let gone: Vec<_> = missing.chain(displaced.into_iter().map(|(name, query)| (name, query, 0))).collect();
    for (name, query, repeats) in &gone {
        let dropped = still(Some(checkpointed_by)) && is_named(&state.drop_state, name);
        let loses = !query.operators.is_empty() || query.durable_epoch < epoch || *repeats > 0;
        if loses && !dropped {
            let is_new = |own: &&QueryPlan| !saved.contains_key(&own.name) && is_named_anew(own, name, query);
            return Err(is_gone(name, query, (epoch, *repeats), queries.iter().find(is_new)));
        }
        let open = lost_rows(query, epoch).map(|lost| format!("; {lost}")).unwrap_or_default();
        notes.push(format!("query '{name}' is gone, and so is its state{open}"));
    }
    let is_gone = |name: &String| gone.iter().any(|(gone, ..)| gone == name);
    // One that was new since the last checkpoint has no state there.
    let begun = started.into_iter().flat_map(|queries| queries.keys());
    for name in begun.filter(|name| repeats > 0 && !has(name) && !is_gone(name)) {
        notes
            .push(format!("query '{name}' is gone: what its sink lacks of the last {repeats} epoch(s) is not written"));
    }
    let had_queries = !saved.is_empty();
    // A checkpoint in a folder may take the beginning of its run out of the log; then it has what that run computed, or one after it that has
    // repeated those epochs as far as it was allowed to.
    let by_checkpoint = started.is_none() && by.is_some_and(|by| checkpointed_by >= by);
    let mut anew = BTreeMap::new();
    for query in queries {
        let named = is_named(&state.reset, &query.name);
        let reset = named && still(Some(checkpointed_by));
        let cut_by = match started {
            Some(queries) => queries.get(&query.name).cloned(),
            None => saved.get(&query.name).filter(|_| by_checkpoint).map(|before| identity(&before.plan)),
        };
        let keeps = !named && is_named(&state.keep_state, &query.name);
        if repeats > 0 && !(named && still(by)) && cut_by.is_some_and(|of| !is_identity_of(&of, &query.normal)) {
            if !keeps {
                return Err(changed_after_kill(&query.name, saved.get(&query.name), &query.normal, (epoch, repeats)));
            }
            notes.push(format!("query '{}' has changed: {repeats} epoch(s) are repeated by the new SQL", query.name));
        }
        notes.extend(saved.get(&query.name).filter(|_| !reset).and_then(|before| leaves_rows(query, before)));
        let is_unclear = unclear.contains(&query.name);
        if let Some(before) = saved.get_mut(&query.name).filter(|_| keeps) {
            if is_unclear {
                return Err(whose_is_unclear(&query.name));
            }
            notes.extend(keep_state(query, before)?);
        }
        match saved.get_mut(&query.name) {
            None if had_queries => {
                notes.push(format!("query '{}' is new: it begins behind the last checkpoint", query.name));
            }
            None => {}
            Some(before) if reset => {
                if before.unwritten.as_ref().is_some_and(|rows| rows.rows > 0) {
                    return Err(Error::config(format!(
                        "query '{}' has rows that its sink has not written",
                        query.name
                    ))
                    .hint("run the unchanged files once with --once, and then the changed ones"));
                }
                let open = lost_rows(before, epoch).map(|lost| format!("; {lost}")).unwrap_or_default();
                saved.remove(&query.name);
                anew.insert(query.name.as_str(), None);
                notes.push(format!("query '{}' begins without state behind the last checkpoint{open}", query.name));
            }
            Some(before) => same_operators(query, before, is_unclear)?,
        }
    }
    if let Some(manifest) = manifest {
        manifest.rename_catching_up(&anew);
    }
    Ok(Reconciled { notes, appeared })
}

/// The last epoch up to which all that each query's sink has promised has appeared: of those of the job, and of those in the log.
fn all_appeared(queries: &[QueryPlan], saved: Option<&Manifest>, log: &[LogEntry]) -> BTreeMap<String, u64> {
    let logged = log.iter().filter_map(|entry| match entry {
        LogEntry::Committed { query, .. } => Some(query),
        _ => None,
    });
    let names: BTreeSet<&String> = queries.iter().map(|query| &query.name).chain(logged).collect();
    names.into_iter().map(|name| (name.clone(), appeared(saved, log, name))).collect()
}

fn appeared(saved: Option<&Manifest>, log: &[LogEntry], name: &str) -> u64 {
    let Some(manifest) = saved else { return 0 };
    if let Some(query) = manifest.queries.get(name) {
        return query.durable_epoch;
    }
    // A checkpoint names all queries of its run: one that is missing had left the job before, and might, since all of it had appeared.
    // Except that in a bucket, the first one of a run is made before its sinks let appear what they find in the log, and a query that
    // begins without state is not in it.
    let has = |entry: &LogEntry| match entry {
        LogEntry::Started { generation, queries, .. } => {
            *generation == manifest.generation && queries.contains_key(name)
        }
        _ => false,
    };
    if log.iter().any(has) { manifest.log_after } else { manifest.epoch }
}

/// Whether a person has named a query.
pub(super) fn is_named(given: &[String], name: &str) -> bool {
    given.iter().any(|given| means(given, name))
}

/// `file:sink`, or the sink alone.
fn means(given: &str, name: &str) -> bool {
    given == name || name.rsplit_once(':').is_some_and(|(_, sink)| sink == given)
}

/// Takes the state of a query as that of another one. Whether it has the same columns is seen when it is loaded. Answers what a person
/// should know, if there is a difference.
fn keep_state(query: &QueryPlan, before: &mut ManifestQuery) -> Result<Option<String>> {
    let own = &query.graph.operators;
    if own.len() != before.operators.len() {
        let (name, had, has) = (&query.name, before.operators.len(), own.len());
        let error =
            format!("the query '{name}' has {has} operator(s) with state, and had {had} when its state was saved");
        return Err(
            Error::config(error).hint(format!("undo the change; or let it begin without state with --reset {name}"))
        );
    }
    let (mut is_changed, in_full) = (false, before.in_full);
    for (own, before) in own.iter().zip(&mut before.operators) {
        is_changed |= !is_text_of(&before.fingerprint, &own.fingerprint, in_full);
        before.fingerprint.clone_from(&own.fingerprint);
    }
    before.in_full = true;
    let note = || format!("query '{}' has changed, and goes on with its state as it is (--keep-state)", query.name);
    Ok(is_changed.then(note))
}

/// What a person should know where the condition above a running aggregate is another one: it stands above what is withdrawn, too, so it lets no
/// row be removed that it would not have let through.
fn leaves_rows(query: &QueryPlan, before: &ManifestQuery) -> Option<String> {
    if query.graph.mode != ChangeMode::Delta || before.operators.is_empty() || !is_same_state(query, before) {
        return None;
    }
    let [before, own] = [&before.plan, &query.normal].map(|text| without_hint_numbers(text));
    let before: BTreeSet<&str> = conditions(&before).collect();
    conditions(&own).any(|condition| !before.contains(condition)).then(|| {
        format!(
            "query '{}' has another HAVING: rows that the old one has let into '{}' and the new one does not let through stay there as they are, \
             each until the new one lets its key through; remove them there",
            query.name, query.sink.name
        )
    })
}

/// The conditions of a plan. Those below operators that are the same are the same, too.
fn conditions(plan: &str) -> impl Iterator<Item = &str> {
    plan.lines().map(str::trim).filter(|line| line.starts_with("Filter: "))
}

/// Rows that the sink of the run before had in open files are written again first, with the columns that they have.
///
/// # Errors
/// The sink takes others now.
pub(super) fn fits_open_files(query: &QueryPlan, unwritten: Option<&OperatorState>) -> Result<()> {
    let takes = query.sink.spec.schema.fields();
    let fits = |own: &[FieldRef]| {
        let same =
            |(a, b): (&FieldRef, &FieldRef)| a.name() == b.name() && a.data_type().equals_datatype(b.data_type());
        own.len() == takes.len() && own.iter().zip(takes).all(same)
    };
    let of = unwritten.iter().flat_map(|state| &state.pieces);
    let mut of = of.filter_map(|piece| columns_of_open_rows(piece.rows.schema()));
    let Some(other) = of.find(|own| !fits(own)) else { return Ok(()) };
    let named = |fields: &[FieldRef]| fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
    let error = format!(
        "the query '{}' has rows in open files with other columns: they have ({}), and the table now takes ({})",
        query.name,
        named(other),
        named(takes)
    );
    Err(Error::config(error).hint("run the unchanged files once with --once, and then the changed ones"))
}

/// INSERTs have come or gone beside it, so it may not be the one that had its name.
fn whose_is_unclear(name: &str) -> Error {
    let error = format!(
        "the state of '{name}' may be another query's: INSERTs of one file into one table are told apart by their place, and some have come or gone"
    );
    Error::config(error).hint(ONE_BY_ONE)
}

/// What to do where several INSERTs of a file have changed.
const ONE_BY_ONE: &str = "change one thing after the other: first add, move or take away INSERTs as they were, and run once with --once; then change \
                          the query";

fn same_operators(query: &QueryPlan, before: &mut ManifestQuery, is_unclear: bool) -> Result<()> {
    let own = &query.graph.operators;
    if is_same_state(query, before) {
        // Those of an earlier version say less, and the next checkpoint is to say all.
        for (own, before) in own.iter().zip(&mut before.operators) {
            before.fingerprint.clone_from(&own.fingerprint);
        }
        before.in_full = true;
        return Ok(());
    }
    let mut texts = own.iter().zip(&before.operators).map(|(own, before)| (&own.fingerprint, &before.fingerprint));
    let differs = texts.find(|(own, saved)| !is_text_of(saved, own, before.in_full));
    let (own, saved) = differs.unwrap_or((&query.normal, &before.plan));
    let error = format!(
        "the query '{}' has changed since its state was saved:\n{}",
        query.name,
        difference(saved, own).trim_end()
    );
    if is_unclear {
        let error = format!(
            "{error}\n(INSERTs of one file into one table are told apart by their place, and some have come or gone: this may be a comparison \
             with another one)"
        );
        return Err(Error::config(error)
            .hint(format!("{ONE_BY_ONE}; or let it begin without state with --reset {}", query.name)));
    }
    Err(Error::config(error).hint(format!(
        "undo the change; or keep this query until its windows have closed, and give the changed one another file name or \
         sink; or let it begin without state with --reset {}, and have what is then incomplete computed from the archive by \
         tidemill backfill; or, where what is stored means the same, let it go on from there with --keep-state {}",
        query.name, query.name
    )))
}

/// What who lets a query go, or begin anew, should know: its records are not read again for it.
fn lost_rows(query: &ManifestQuery, epoch: u64) -> Option<String> {
    let open = query.operators.is_empty() && query.durable_epoch < epoch;
    open.then(|| {
        format!("what it had in open files then, of epochs {} to {epoch}, is in no file", query.durable_epoch + 1)
    })
}

/// What is said of a job that has changed before its last epochs were repeated.
pub(super) fn repeats_first(repeats: usize) -> String {
    format!("the run before did not end in order, so its last {repeats} epoch(s) are repeated")
}

fn changed_after_kill(name: &str, before: Option<&ManifestQuery>, plan: &str, (epoch, repeats): (u64, usize)) -> Error {
    let shown = before.map(|before| format!(":\n{}", difference(&before.plan, plan).trim_end())).unwrap_or_default();
    let lost = before.and_then(|before| lost_rows(before, epoch)).map(|lost| format!(" ({lost})")).unwrap_or_default();
    Error::config(format!(
        "{}, and the query '{name}' has changed since{shown}",
        repeats_first(repeats)
    ))
    .hint(format!(
        "undo the change and run once; or, if it had to be mended, let these epochs be repeated by the new SQL with --keep-state {name}; or \
         let the query begin without state with --reset {name}{lost}"
    ))
}

/// Nobody else can let them appear, or remove them: they lie where the query's sink has put them.
fn has_promised(name: &str) -> Error {
    let error = format!(
        "the query '{name}' is not in the job any more, and the run before has promised files of it that may not have appeared yet"
    );
    Error::config(error).hint("put it back and run the unchanged files once with --once; then it may go")
}

/// Whether a query does what a saved one has done, for the same table.
fn is_named_anew(own: &QueryPlan, name: &str, before: &ManifestQuery) -> bool {
    means(&own.sink.name, name) && is_same_state(own, before) && is_identity_of(&identity(&before.plan), &own.normal)
}

fn is_gone(name: &str, query: &ManifestQuery, (epoch, repeats): (u64, usize), now: Option<&QueryPlan>) -> Error {
    let rows: u64 = query.operators.iter().map(|operator| operator.rows).sum();
    let what = match (rows, repeats) {
        (0, 0) => "rows that its sink has not written".to_owned(),
        (0, _) => format!("{repeats} epoch(s) of the run before to repeat"),
        (rows, _) => format!("{rows} rows of state"),
    };
    let error = Error::config(format!("the query '{name}' is not in the job any more, and has {what}"));
    let lost = lost_rows(query, epoch).map(|lost| format!(" ({lost})")).unwrap_or_default();
    let drop = format!("forget its state with --drop-state {name}{lost}");
    match now {
        Some(now) => error.hint(format!(
            "'{}' computes the same, but a query's state goes by the name of its file: give that back its name; or {drop}",
            now.name
        )),
        None => error.hint(format!("put it back, or {drop}")),
    }
}

/// Lines of both texts: `-` only in the first, `+` only in the second.
pub(super) fn difference(before: &str, after: &str) -> String {
    let [before, after] = [before, after].map(without_hint_numbers);
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    // Longest common subsequence from each pair of ends; plans have some dozen lines.
    let mut common = vec![vec![0_u32; after.len() + 1]; before.len() + 1];
    for i in (0..before.len()).rev() {
        for j in (0..after.len()).rev() {
            common[i][j] =
                if before[i] == after[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < before.len() || j < after.len() {
        if i < before.len() && j < after.len() && before[i] == after[j] {
            lines.push(format!("    {}", before[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == after.len() || (i < before.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(format!("  - {}", before[i]));
            i += 1;
        } else {
            lines.push(format!("  + {}", after[j]));
            j += 1;
        }
    }
    let mut text = String::new();
    for line in lines.iter().take(LINES_SHOWN) {
        let _ = writeln!(text, "{line}");
    }
    if lines.len() > LINES_SHOWN {
        let _ = writeln!(text, "  … and {} lines more", lines.len() - LINES_SHOWN);
    }
    text
}

#[cfg(test)]
#[path = "changes_tests.rs"]
mod tests;
