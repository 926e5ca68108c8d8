//! INSERTs of one file into one table, which are told apart by their place among each other (`file:sink`, `file:sink#2`, …): when one comes or
//! goes before others, those are known by what they compute, and go on with their state under the name that they have now.
//!
//! Sinks do not know these names: what they keep of a row, an alert or a file is under the job's name and the table's. So nothing is written
//! twice, or refused as older, under another name. What the epoch log has is under the names of the run that has written it; therefore nothing is renamed
//! while anything in it that is needed goes by other names than those of now.

use std::collections::{BTreeMap, BTreeSet};

use crate::contracts::{Error, LogEntry, Result};
use crate::runtime::{identity, is_identity_of, is_text_of};
use crate::sql::QueryPlan;
use crate::state::{Manifest, ManifestQuery};

/// What has become of saved queries whose place has changed.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// What a person should know.
    pub(super) notes: Vec<String>,
    /// Saved queries that no query goes on with, by the names that they had. Others may have these names now.
    pub(super) gone: Vec<(String, ManifestQuery)>,
    /// All names of groups in which something was renamed, old ones and those of now.
    pub(super) renamed: BTreeSet<String>,
    /// Queries of groups in which INSERTs have come or gone and others have changed: what their names meant before cannot be told.
    pub(super) unclear: BTreeSet<String>,
}

/// Gives saved queries the names that the same queries have now.
///
/// # Errors
/// Something has another name now, and the run before has left something under the old one.
pub(super) fn follow(queries: &[QueryPlan], manifest: &mut Manifest, log: &[LogEntry]) -> Result<Moved> {
    let mut moved = Moved::default();
    let bases: BTreeSet<&str> = queries.iter().map(base).collect();
    for at in &bases {
        let own: Vec<&QueryPlan> = queries.iter().filter(|query| base(query) == *at).collect();
        let mut before: Vec<String> = manifest.queries.keys().filter(|name| is_of(name, at, &bases)).cloned().collect();
        // As they stood in the file.
        before.sort_by_key(|name| (name.len(), name.clone()));
        if own.len().max(before.len()) > 1 {
            Group { at, own, before }.follow(manifest, log, &mut moved)?;
        }
    }
    Ok(moved)
}

/// `file:sink` of a query, without its number.
fn base(query: &QueryPlan) -> &str {
    if query.name.ends_with(&query.sink.name) {
        return &query.name;
    }
    query.name.rsplit_once('#').map_or(&query.name, |(base, _)| base)
}

/// Whether a saved query was one of those into `at`.
fn is_of(name: &str, at: &str, bases: &BTreeSet<&str>) -> bool {
    let number = name.strip_prefix(at).and_then(|rest| rest.strip_prefix('#'));
    // A table may be called `sink#2`.
    name == at || (number.is_some_and(|number| number.parse::<u32>().is_ok()) && !bases.contains(name))
}

/// How much two queries have in common.
#[derive(Clone, Copy)]
enum Alike {
    /// They compute the same.
    All,
    /// Their operators do, of which there are some.
    State,
}

/// Whether operators compute the same.
pub(super) fn is_same_state(own: &QueryPlan, before: &ManifestQuery) -> bool {
    let (own, in_full) = (&own.graph.operators, before.in_full);
    let mut both = own.iter().zip(&before.operators);
    own.len() == before.operators.len()
        && both.all(|(own, before)| is_text_of(&before.fingerprint, &own.fingerprint, in_full))
}

fn alike(own: &QueryPlan, before: &ManifestQuery, as_to: Alike) -> bool {
    is_same_state(own, before)
        && match as_to {
            Alike::All => is_identity_of(&identity(&before.plan), &own.normal),
            Alike::State => !before.operators.is_empty(),
        }
}

struct Group<'a> {
    at: &'a str,
    own: Vec<&'a QueryPlan>,
    /// Names of saved ones, in the order in which they stood.
    before: Vec<String>,
}

impl Group<'_> {
    /// For each query, the saved one that it goes on with. Those that compute the same come first, and among equal ones those in the same place.
    fn pairs(&self, manifest: &Manifest) -> Vec<Option<String>> {
        let mut pairs: Vec<Option<String>> = vec![None; self.own.len()];
        for (as_to, in_place) in [(Alike::All, true), (Alike::All, false), (Alike::State, true), (Alike::State, false)]
        {
            for (at, own) in self.own.iter().enumerate() {
                let fits = |name: &&String| {
                    (!in_place || **name == own.name)
                        && !pairs.iter().flatten().any(|taken| taken == *name)
                        && manifest.queries.get(*name).is_some_and(|before| alike(own, before, as_to))
                };
                if pairs[at].is_none() {
                    pairs[at] = self.before.iter().find(fits).cloned();
                }
            }
        }
        pairs
    }

    fn follow(&self, manifest: &mut Manifest, log: &[LogEntry], moved: &mut Moved) -> Result<()> {
        let pairs = self.pairs(manifest);
        let paired: BTreeSet<&String> = pairs.iter().flatten().collect();
        let alone: Vec<&QueryPlan> =
            self.own.iter().zip(&pairs).filter(|(_, pair)| pair.is_none()).map(|(own, _)| *own).collect();
        let renames = || self.own.iter().zip(&pairs).filter_map(|(own, was)| Some((*own, was.as_ref()?)));
        let first = renames().find(|(own, was)| own.name != **was);
        if first.is_some() || alone.len() != self.before.len() - paired.len() {
            moved.unclear.extend(alone.iter().map(|query| query.name.clone()));
        }
        let Some((own, was)) = first else { return Ok(()) };
        if !self.nothing_is_left(manifest, log) {
            return Err(self.not_now(&own.name, was));
        }
        let mut saved: Vec<(String, ManifestQuery)> =
            self.before.iter().filter_map(|name| manifest.queries.remove_entry(name)).collect();
        for (own, was) in renames() {
            let Some(at) = saved.iter().position(|(name, _)| name == was) else { continue };
            manifest.queries.insert(own.name.clone(), saved.swap_remove(at).1);
            if own.name != *was {
                moved
                    .notes
                    .push(format!("query '{}' was '{was}' before, and goes on with the state of that", own.name));
            }
        }
        // Those that had open files when the job went back go on to catch up.
        let mut names: BTreeMap<&str, Option<&str>> = self.before.iter().map(|name| (name.as_str(), None)).collect();
        names.extend(renames().map(|(own, was)| (was.as_str(), Some(own.name.as_str()))));
        manifest.rename_catching_up(&names);
        saved.sort_by_key(|(name, _)| self.before.iter().position(|before| before == name));
        moved.gone.extend(saved);
        moved.renamed.extend(self.own.iter().map(|query| query.name.clone()).chain(self.before.iter().cloned()));
        Ok(())
    }

    /// Whether all that the log has under names of this group, and that is needed, goes by the names of now.
    fn nothing_is_left(&self, manifest: &Manifest, log: &[LogEntry]) -> bool {
        let are_these = |queries: &BTreeMap<String, String>| {
            let has = |own: &&QueryPlan| queries.get(&own.name).is_some_and(|of| is_identity_of(of, &own.normal));
            self.own.iter().all(has)
        };
        // Since the job has gone back, the log has what runs have done which had these names already (and gone back has somebody without any).
        let by_these = |entry: &LogEntry| match entry {
            LogEntry::Started { queries, .. } => queries.is_empty() || are_these(queries),
            _ => true,
        };
        let all_by_these = || {
            matches!(log.first(), Some(LogEntry::Started { .. })) && log.iter().all(by_these) && manifest.catches_up()
        };
        let is_open = |name: &String| manifest.queries.get(name).is_some_and(|of| of.durable_epoch < manifest.epoch);
        if self.before.iter().any(is_open) && log.iter().any(|entry| entry.epoch().is_some()) && !all_by_these() {
            return false;
        }
        let has_these = |generation: u64| {
            log.iter().any(|entry| match entry {
                LogEntry::Started { generation: of, queries, .. } => *of == generation && are_these(queries),
                _ => false,
            })
        };
        log.iter().all(|entry| match entry {
            LogEntry::Cut(cut) if cut.epoch > manifest.epoch => has_these(cut.generation),
            _ => true,
        })
    }

    fn not_now(&self, name: &str, was: &str) -> Error {
        let error = format!(
            "INSERTs of one file into one table are told apart by their place, and '{name}' is what '{was}' was before; but the run before did not \
             end in order, and what it has left goes by the old places of '{}'",
            self.at
        );
        Error::config(error)
            .hint("put all of them back in their old places and run once with --once; then they may come, go and move")
    }
}
