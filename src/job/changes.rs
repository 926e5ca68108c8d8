//! A job whose SQL has changed since its last checkpoint: which queries go on, and which must not without being told to.
//!
//! Each operator's fingerprint is what it computes, in its normal form: equal ones keep their state, whatever stands above
//! them. A query that is new begins without state behind the checkpoint. One that is gone, or whose operators have changed,
//! needs a word from a person. After a kill the logged epochs are repeated, and then a query must be the same as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::saved::StateOptions;
use crate::contracts::{Error, LogEntry, Result};
use crate::runtime::{identity, is_identity_of};
use crate::sql::QueryPlan;
use crate::state::{Manifest, ManifestQuery};

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
    saved: Option<&mut Manifest>,
    log: &[LogEntry],
    state: &StateOptions,
) -> Result<Reconciled> {
    let appeared = all_appeared(queries, saved.as_deref(), log);
    let mut nothing = BTreeMap::new();
    let (epoch, checkpointed_by, saved) = match saved {
        Some(manifest) => (manifest.epoch, manifest.generation, &mut manifest.queries),
        None => (0, 0, &mut nothing),
    };
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
    let known = |given: &String| {
        let begun = log.iter().flat_map(|entry| match entry {
            LogEntry::Started { queries, .. } => queries.keys().collect(),
            _ => Vec::new(),
        });
        let names: Vec<&str> =
            saved.keys().chain(begun).map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect();
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
    state.drop_state.iter().chain(&state.reset).chain(&state.keep_state).try_for_each(known)?;
    let has = |name: &str| queries.iter().any(|query| query.name == name);
    for entry in log {
        if let LogEntry::Committed { query, epoch, .. } = entry
            && !has(query)
            && appeared.get(query).is_none_or(|appeared| epoch > appeared)
        {
            return Err(has_promised(query));
        }
    }
    let mut notes = Vec::new();
    let gone: Vec<String> = saved.keys().filter(|name| !has(name)).cloned().collect();
    for name in &gone {
        let Some(query) = saved.remove(name) else { continue };
        let dropped = state.drop_state.iter().any(|given| means(given, name));
        let loses = !query.operators.is_empty() || query.durable_epoch < epoch || repeats > 0;
        if loses && !dropped {
            return Err(is_gone(name, &query, repeats));
        }
        notes.push(format!("query '{name}' is gone, and so is its state"));
    }
    // One that was new since the last checkpoint has no state there.
    let begun = started.into_iter().flat_map(|queries| queries.keys());
    for name in begun.filter(|name| repeats > 0 && !has(name) && !gone.contains(name)) {
        notes
            .push(format!("query '{name}' is gone: what its sink lacks of the last {repeats} epoch(s) is not written"));
    }
    let had_queries = !saved.is_empty();
    // A checkpoint in a folder may take the beginning of its run out of the log; then it has what that run computed, or one after it that has
    // repeated those epochs as far as it was allowed to.
    let by_checkpoint = started.is_none() && by.is_some_and(|by| checkpointed_by >= by);
    for query in queries {
        let reset = state.reset.iter().any(|given| means(given, &query.name));
        let cut_by = match started {
            Some(queries) => queries.get(&query.name).cloned(),
            None => saved.get(&query.name).filter(|_| by_checkpoint).map(|before| identity(&before.plan)),
        };
        let keeps = !reset && state.keep_state.iter().any(|given| means(given, &query.name));
        if repeats > 0 && !reset && cut_by.is_some_and(|of| !is_identity_of(&of, &query.normal)) {
            if !keeps {
                return Err(changed_after_kill(&query.name, saved.get(&query.name), &query.normal, repeats));
            }
            notes.push(format!("query '{}' has changed: {repeats} epoch(s) are repeated by the new SQL", query.name));
        }
        if let Some(before) = saved.get_mut(&query.name).filter(|_| keeps) {
            notes.extend(keep_state(query, before)?);
        }
        match saved.get(&query.name) {
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
                saved.remove(&query.name);
                notes.push(format!("query '{}' begins without state behind the last checkpoint", query.name));
            }
            Some(before) => same_operators(query, before)?,
        }
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
    let mut is_changed = false;
    for (own, before) in own.iter().zip(&mut before.operators) {
        is_changed |= own.fingerprint != before.fingerprint;
        before.fingerprint.clone_from(&own.fingerprint);
    }
    let note = || format!("query '{}' has changed, and goes on with its state as it is (--keep-state)", query.name);
    Ok(is_changed.then(note))
}

fn same_operators(query: &QueryPlan, before: &ManifestQuery) -> Result<()> {
    let own: Vec<&str> = query.graph.operators.iter().map(|operator| operator.fingerprint.as_str()).collect();
    let saved: Vec<&str> = before.operators.iter().map(|operator| operator.fingerprint.as_str()).collect();
    if own == saved {
        return Ok(());
    }
    let differs = own.iter().zip(&saved).find(|(own, saved)| own != saved);
    let (own, saved) = match differs {
        Some((own, saved)) => ((*own).to_owned(), (*saved).to_owned()),
        None => (query.normal.clone(), before.plan.clone()),
    };
    let error = format!(
        "the query '{}' has changed since its state was saved:\n{}",
        query.name,
        difference(&saved, &own).trim_end()
    );
    Err(Error::config(error).hint(format!(
        "undo the change; or keep this query until its windows have closed, and give the changed one another file name or \
         sink; or let it begin without state with --reset {}, and have what is then incomplete computed from the archive by \
         tidemill backfill; or, where what is stored means the same, let it go on from there with --keep-state {}",
        query.name, query.name
    )))
}

fn changed_after_kill(name: &str, before: Option<&ManifestQuery>, plan: &str, repeats: usize) -> Error {
    let shown = before.map(|before| format!(":\n{}", difference(&before.plan, plan).trim_end())).unwrap_or_default();
    Error::config(format!(
        "the run before did not end in order, so its last {repeats} epoch(s) are repeated, and the query '{name}' has \
         changed since{shown}"
    ))
    .hint(format!(
        "undo the change and run once; or, if it had to be mended, let these epochs be repeated by the new SQL with --keep-state {name}; or \
         let the query begin without state with --reset {name}"
    ))
}

/// Nobody else can let them appear, or remove them: they lie where the query's sink has put them.
fn has_promised(name: &str) -> Error {
    let error = format!(
        "the query '{name}' is not in the job any more, and the run before has promised files of it that may not have appeared yet"
    );
    Error::config(error).hint("put it back and run the unchanged files once with --once; then it may go")
}

fn is_gone(name: &str, query: &ManifestQuery, repeats: usize) -> Error {
    let rows: u64 = query.operators.iter().map(|operator| operator.rows).sum();
    let what = match (rows, repeats) {
        (0, 0) => "rows that its sink has not written".to_owned(),
        (0, _) => format!("{repeats} epoch(s) of the run before to repeat"),
        (rows, _) => format!("{rows} rows of state"),
    };
    Error::config(format!("the query '{name}' is not in the job any more, and has {what}"))
        .hint(format!("put it back, or forget its state with --drop-state {name}"))
}

/// Lines of both texts: `-` only in the first, `+` only in the second.
pub(super) fn difference(before: &str, after: &str) -> String {
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
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::contracts::EpochCut;
    use crate::runtime::RECORDS;
    use crate::sql::{Parameters, PlanOptions, SqlText, plan_job};
    use crate::state::MANIFEST_VERSION;

    #[test]
    fn a_difference_shows_what_went_and_what_came() {
        let shown = difference("a\nb\nc\nd", "a\nx\nc\nd\ne");
        assert_eq!(shown, "    a\n  - b\n  + x\n    c\n    d\n  + e\n");
        let long: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert!(difference(&long, "").ends_with("… and 60 lines more\n"));
    }

    #[test]
    fn a_query_is_known_by_its_name_or_its_sink() {
        assert!(means("job:per_hour", "job:per_hour") && means("per_hour", "job:per_hour"));
        assert!(!means("hour", "job:per_hour") && !means("job", "job:per_hour"));
    }
    const SOURCE: &str = "
        CREATE TABLE clicks (n BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
        CREATE TABLE counts (k BIGINT, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
        WITH ('connector' = 'dynamodb', 'table-name' = 'counts');";

    async fn planned(insert: &str) -> Vec<QueryPlan> {
        let file = Arc::new(SqlText::new("job.sql", format!("{SOURCE}{insert}")));
        let options = PlanOptions { partitions: 1, batch: false, pruned: true, epoch_time_ms: Arc::default() };
        plan_job(&[file], &Parameters::default(), &options, None).await.expect("it is planned").queries
    }

    fn started_as(generation: u64, queries: &[QueryPlan], known: fn(&str) -> &str) -> LogEntry {
        let queries = queries.iter().map(|query| (query.name.clone(), identity(known(&query.normal)))).collect();
        LogEntry::Started { generation, queries, anew: false }
    }

    fn started(generation: u64, queries: &[QueryPlan]) -> LogEntry {
        started_as(generation, queries, |normal| normal)
    }

    fn cut(epoch: u64, generation: u64) -> LogEntry {
        LogEntry::Cut(EpochCut {
            epoch,
            generation,
            now_ms: 0,
            oldest_ms: None,
            closes: false,
            splits: Vec::new(),
            tables: Vec::new(),
            references: BTreeMap::new(),
        })
    }

    #[tokio::test]
    async fn logged_epochs_are_repeated_by_the_sql_that_has_cut_them_whoever_has_begun_since() {
        let old = planned("INSERT INTO counts SELECT n, COUNT(*) FROM clicks GROUP BY n;").await;
        let new = planned("INSERT INTO counts SELECT n, COUNT(*) * 2 FROM clicks GROUP BY n;").await;
        let reset = StateOptions { reset: vec!["counts".to_owned()], ..StateOptions::default() };
        let refused =
            |log: &[LogEntry], queries: &[QueryPlan]| match reconcile(queries, None, log, &StateOptions::default()) {
                Ok(_) => false,
                Err(error) => {
                    assert!(error.message().contains("the query 'job:counts' has changed"), "{error}");
                    true
                }
            };
        // As an earlier version of the program wrote it.
        let earlier = [started_as(1, &old, |normal| normal.split(RECORDS).next().unwrap_or_default()), cut(1, 1)];
        assert!(!refused(&earlier, &old) && refused(&earlier, &new));
        let log = |later: &[LogEntry]| [&[started(1, &old), cut(1, 1)], later].concat();
        // Killed behind their first entry: a rewind, a run with --reset, --from-savepoint or --fresh.
        for later in [vec![], vec![started(2, &[])], vec![started(2, &new)], vec![started(2, &[]), started(3, &new)]] {
            assert!(refused(&log(&later), &new), "{later:?}");
            assert!(!refused(&log(&later), &old), "{later:?}");
            reconcile(&new, None, &log(&later), &reset).expect("it is asked for");
        }
        // A run with --reset that has cut one of its own.
        let log = log(&[started(2, &new), cut(2, 2)]);
        assert!(!refused(&log, &new) && refused(&log, &old));
        // What a checkpoint has is not repeated.
        let log = [started(1, &old), cut(0, 1), started(2, &[])];
        assert!(!refused(&log, &new));
    }

    fn manifest(epoch: u64, generation: u64, queries: &[(&QueryPlan, u64)]) -> Manifest {
        let named = |(query, durable_epoch): &(&QueryPlan, u64)| {
            let (plan, durable_epoch) = (query.normal.clone(), *durable_epoch);
            let query = ManifestQuery { plan, durable_epoch, operators: Vec::new(), unwritten: None, sink: None };
            ("job:counts".to_owned(), query)
        };
        Manifest {
            version: MANIFEST_VERSION,
            program: "tidemill".to_owned(),
            number: 1,
            nonce: "n".to_owned(),
            generation,
            time_ms: 0,
            epoch,
            // Files of another query are open.
            log_after: 0,
            from: None,
            tables: BTreeMap::new(),
            reread: None,
            references: BTreeMap::new(),
            queries: queries.iter().map(named).collect(),
        }
    }

    const STATELESS: &str = "INSERT INTO counts SELECT n, n FROM clicks;";

    #[tokio::test]
    async fn what_a_query_has_promised_keeps_it_until_a_checkpoint_says_that_all_has_appeared() {
        let own = planned(STATELESS).await;
        let committed = LogEntry::Committed { query: "job:counts".to_owned(), epoch: 3, payloads: Vec::new() };
        let log = |more: &[LogEntry]| [&[started(1, &own), cut(3, 1), committed.clone()], more].concat();
        let may_go = |mut manifest: Manifest, log: &[LogEntry]| {
            let state = StateOptions { drop_state: vec!["counts".to_owned()], ..StateOptions::default() };
            match reconcile(&[], Some(&mut manifest), log, &state) {
                Ok(_) => true,
                Err(error) => {
                    assert!(error.message().contains("has promised files"), "{error}");
                    false
                }
            }
        };
        assert!(!may_go(manifest(4, 1, &[(&own[0], 2)]), &log(&[])));
        assert!(may_go(manifest(4, 1, &[(&own[0], 3)]), &log(&[])));
        // It is new since the checkpoint.
        assert!(!may_go(manifest(2, 0, &[]), &log(&[])));
        // A run without it has made one: nothing of it is asked for any more.
        let gone = started(2, &[]);
        for epoch in [3, 5] {
            assert!(may_go(manifest(epoch, 2, &[]), &log(std::slice::from_ref(&gone))));
        }
        // A run that has it, and has let it begin without state, made the first one when it took over, before anything had appeared.
        assert!(!may_go(manifest(4, 2, &[]), &log(&[started(2, &own)])));
    }

    /// In a folder, a checkpoint may take the beginning of its run out of the log.
    #[tokio::test]
    async fn without_the_beginning_of_a_run_its_checkpoint_says_what_it_computes() {
        let (old, new) = (planned(STATELESS).await, planned("INSERT INTO counts SELECT n, n * 2 FROM clicks;").await);
        let refused = |generation, log: &[LogEntry], queries: &[QueryPlan]| {
            let mut manifest = manifest(4, generation, &[(&old[0], 4)]);
            match reconcile(queries, Some(&mut manifest), log, &StateOptions::default()) {
                Ok(_) => false,
                Err(error) => {
                    assert!(error.message().contains("the query 'job:counts' has changed"), "{error}");
                    true
                }
            }
        };
        for log in [vec![cut(5, 1)], vec![cut(5, 1), started(2, &[])], vec![cut(5, 1), started(2, &new)]] {
            // The run itself, or one that has repeated some of its epochs, and was told that it may.
            for generation in [1, 2] {
                assert!(refused(generation, &log, &new), "{log:?}");
                assert!(!refused(generation, &log, &old), "{log:?}");
            }
        }
        assert!(!refused(1, &[cut(4, 1)], &new), "there is nothing to repeat");
        assert!(refused(1, &[started(2, &new), cut(5, 2)], &old) && !refused(1, &[started(2, &new), cut(5, 2)], &new));
    }
}
