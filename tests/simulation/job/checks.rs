//! What must have come of a stream, computed from its events alone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tidemill::state::DEFAULT_KEPT;

use super::alerts::Delivery;
use super::queries::Work;
use super::refusals::refused_problems;
use super::sinks::{Row, Services};
use super::stream::{Event, Stream};

/// Objects of the log in which runs begin, and nothing else: as `state/object_epoch_log.rs` keeps them, and the newest.
const BEGINNINGS_KEPT: usize = 65;

/// What is wrong with the results.
pub(crate) fn problems(stream: &Stream, services: &Services, work: &Work) -> Vec<String> {
    let mut problems = Vec::new();
    let events: Vec<Event> = stream.events().cloned().collect();
    let of = |n: usize, what: &str, list: Vec<String>| match list.len() {
        0 => None,
        _ => Some(format!("{n} {what}: {:?}", &list[..list.len().min(5)])),
    };
    services.read_errors();
    let mut copies: BTreeMap<u64, u64> = stream.events().map(|event| (event.id, 0)).collect();
    for row in services.rows("copies") {
        *copies.entry(row["id"].parse().expect("a number")).or_default() += 1;
    }
    let lost: Vec<String> = copies.iter().filter(|(_, n)| **n == 0).map(|(id, _)| id.to_string()).collect();
    let doubled: Vec<String> = copies.iter().filter(|(_, n)| **n > 1).map(|(id, _)| id.to_string()).collect();
    problems.extend(of(lost.len(), "copies are lost", lost));
    if !services.has_gone_back() {
        problems.extend(of(doubled.len(), "copies are doubled", doubled));
    }

    for query in &work.queries {
        let (table, wanted) = (query.table.as_str(), sorted(query.expected(&events).rows));
        let (wanted, found) = match query.is_items {
            true => (wanted, sorted(services.stored(table))),
            false if query.may_repeat() => (once(wanted), once(sorted(services.put_rows(table)))),
            false if services.has_gone_back() => (once(wanted), once(sorted(services.rows(table)))),
            false => (wanted, sorted(services.rows(table))),
        };
        let missing: Vec<String> = without(&wanted, &found);
        let wrong: Vec<String> = without(&found, &wanted);
        problems.extend(of(missing.len(), &format!("results are missing in {table}"), missing));
        problems.extend(of(wrong.len(), &format!("results are wrong or doubled in {table}"), wrong));
    }
    if work.alerts {
        problems.extend(services.alert_problems(stream, work.delivery == Some(Delivery::AtMostOnce)));
    }
    if let Some(delivery) = work.delivery.filter(|_| !services.has_gone_back()) {
        problems.extend(services.delivery_problems(delivery, stream));
    }
    problems.extend(refused_problems(stream, services, work));
    let left = services.bucket.lock().expect("no panic while it is held").left_over();
    problems.extend(of(left.len(), "uploads are left over", left));
    problems
}

/// What is kept of checkpoints, and named by nothing; half-written files; more checkpoints than were to be kept, or epochs of the log.
pub(crate) fn left_behind(stored: &BTreeMap<String, Bytes>) -> Vec<String> {
    let mut problems = Vec::new();
    let manifests = stored.iter().filter(|(name, _)| name.starts_with("manifests/"));
    let named: BTreeSet<&str> =
        manifests.clone().flat_map(|(_, content)| std::str::from_utf8(content).expect("JSON").split('"')).collect();
    let unnamed: Vec<&String> = stored
        .keys()
        .filter(|name| name.starts_with("state/") || name.starts_with("references/"))
        .filter(|name| !named.contains(name.as_str()))
        .collect();
    if !unnamed.is_empty() {
        let savepoints: Vec<&String> = stored.keys().filter(|name| name.starts_with("savepoints/")).collect();
        problems.push(format!("no checkpoint names {unnamed:?} (there are {savepoints:?})"));
    }
    if manifests.clone().count() > DEFAULT_KEPT {
        problems.push(format!("there are {} checkpoints", manifests.count()));
    }
    // What a checkpoint covers of the log goes, but for the newest object of all. Where a run begins stays for a while, to fence one that has
    // slept since: also of one that has failed before it has done anything, of which there may be many.
    let log = stored.iter().filter(|(name, _)| name.starts_with("log/"));
    let has_epochs = |content: &[u8]| std::str::from_utf8(content).is_ok_and(|text| text.contains("\"epoch\":"));
    let (epochs, beginnings): (Vec<_>, Vec<_>) = log.partition(|(_, content)| has_epochs(content));
    if epochs.len() > 1 || beginnings.len() > BEGINNINGS_KEPT {
        let names: Vec<&String> = epochs.iter().map(|(name, _)| *name).collect();
        problems.push(format!(
            "epochs of the log are left which checkpoints cover, in {names:?}, and {} beginnings of runs",
            beginnings.len()
        ));
    }
    let hidden = |name: &&String| name.rsplit('/').next().is_some_and(|file| file.starts_with('.'));
    problems.extend(stored.keys().filter(hidden).map(|name| format!("'{name}' was left half written")));
    problems
}

/// Rows, and how often each is there.
fn sorted(rows: Vec<Row>) -> BTreeMap<Row, u64> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row).or_default() += 1;
    }
    counts
}

/// The same, of which each may be there often.
fn once(counts: BTreeMap<Row, u64>) -> BTreeMap<Row, u64> {
    counts.into_keys().map(|row| (row, 1)).collect()
}

/// Rows of `some` that are not, or not so often, in `others`.
fn without(some: &BTreeMap<Row, u64>, others: &BTreeMap<Row, u64>) -> Vec<String> {
    let more = some.iter().filter(|(row, n)| others.get(row).is_none_or(|other| other < n));
    more.map(|(row, n)| format!("{n} of {row:?}")).collect()
}
