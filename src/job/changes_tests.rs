//! What comes of comparing a job with its saved state.

use std::sync::Arc;

use super::*;
use crate::contracts::EpochCut;
use crate::runtime::RECORDS;
use crate::sql::{Parameters, PlanOptions, SqlText, plan_job};
use crate::state::{MANIFEST_VERSION, ManifestOperator};

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
    LogEntry::Started { generation, queries, anew: false, behind: None, reads: Default::default() }
}

fn started(generation: u64, queries: &[QueryPlan]) -> LogEntry {
    started_as(generation, queries, |normal| normal)
}

fn cut(epoch: u64, generation: u64) -> LogEntry {
    LogEntry::Cut(EpochCut { epoch, generation, ..EpochCut::default() })
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
    // As an earlier version wrote one of which its text left something out.
    let sums = |sum: &str| format!("INSERT INTO counts SELECT n, SUM({sum}) FROM clicks GROUP BY n;");
    let (whole, other) = (planned(&sums("n - (n - 7)")).await, planned(&sums("n - (n - 8)")).await);
    assert!(whole[0].normal.contains("\nin full: "));
    let earlier = [started_as(1, &whole, |normal| normal.split("\nin full: ").next().unwrap_or_default()), cut(1, 1)];
    assert!(!refused(&earlier, &whole) && refused(&earlier, &other));
    // What a checkpoint has is not repeated.
    let log = [started(1, &old), cut(0, 1), started(2, &[])];
    assert!(!refused(&log, &new));
}

fn manifest(epoch: u64, generation: u64, queries: &[(&QueryPlan, u64)]) -> Manifest {
    let named = |(query, durable_epoch): &(&QueryPlan, u64)| {
        let (plan, durable_epoch) = (query.normal.clone(), *durable_epoch);
        let query = ManifestQuery {
            plan,
            in_full: true,
            reads: Vec::new(),
            refusal_rules: String::new(),
            durable_epoch,
            operators: Vec::new(),
            unwritten: None,
            sink: None,
        };
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
    let committed = |payloads: &[&str]| {
        let payloads = payloads.iter().map(|payload| (*payload).to_owned()).collect();
        LogEntry::Committed { query: "job:counts".to_owned(), epoch: 3, payloads }
    };
    let log = |more: &[LogEntry]| [&[started(1, &own), cut(3, 1), committed(&["a file"])], more].concat();
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
    // The query itself has said that all has appeared, or a run after the kill has; and then it has promised another one.
    assert!(may_go(manifest(2, 0, &[]), &log(&[committed(&[])])));
    assert!(may_go(manifest(2, 0, &[]), &log(&[started(2, &own), committed(&[])])));
    assert!(!may_go(manifest(2, 0, &[]), &log(&[committed(&[]), committed(&["another"])])));
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

/// The next attempt of a run whose checkpoint has what was asked for goes on from that; else it does the same once more.
#[tokio::test]
async fn what_was_asked_for_is_done_once_however_often_a_run_is_tried() {
    let (old, new) = (planned(STATELESS).await, planned("INSERT INTO counts SELECT n, n * 2 FROM clicks;").await);
    let named = || vec!["counts".to_owned()];
    let again =
        |reset, drop_state| StateOptions { asked_before: Some(2), reset, drop_state, ..StateOptions::default() };
    let reset = |generation, log: &[LogEntry]| {
        let mut manifest = manifest(4, generation, &[(&new[0], 4)]);
        let outcome = reconcile(&new, Some(&mut manifest), log, &again(named(), vec![]));
        outcome.map(|_| manifest.queries.is_empty()).map_err(|error| error.message().to_owned())
    };
    // No checkpoint of its own yet, and one that it, or a run after it, has made.
    assert_eq!([1, 2, 3].map(|generation| reset(generation, &[])), [Ok(true), Ok(false), Ok(false)]);
    // Epochs of the run before are repeated by the new SQL as long as there are any; those of the attempt itself are of its SQL.
    let by_old = [started(1, &old), cut(5, 1), started(2, &new)];
    assert_eq!((reset(1, &by_old), reset(2, &by_old)), (Ok(true), Ok(false)));
    let changed_again = [started(1, &old), cut(5, 1), started(2, &old), cut(6, 2)];
    assert!(reset(1, &changed_again).is_err_and(|error| error.contains("has changed")));
    // One that is gone, and has been dropped; and one that another run has put back.
    let dropped = |generation, queries: &[(&QueryPlan, u64)]| {
        reconcile(&[], Some(&mut manifest(4, generation, queries)), &[], &again(vec![], named())).is_ok()
    };
    assert!(dropped(1, &[(&old[0], 3)]) && dropped(2, &[]) && !dropped(3, &[(&old[0], 3)]));
}

#[tokio::test]
async fn the_state_of_a_query_that_is_still_there_is_not_dropped() {
    let queries = planned("INSERT INTO counts SELECT n, COUNT(*) FROM clicks GROUP BY n;").await;
    let dropping = |name: &str| StateOptions { drop_state: vec![name.to_owned()], ..StateOptions::default() };
    for given in ["counts", "job:counts"] {
        let mut saved = manifest(7, 1, &[(&queries[0], 7)]);
        let error = reconcile(&queries, Some(&mut saved), &[], &dropping(given)).expect_err("it is still there");
        assert!(error.message().contains("'job:counts' is still in the job"), "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--reset job:counts")), "{error}");
        assert!(saved.queries.contains_key("job:counts"), "nothing has happened to it");
    }
    // One of the same sink that has left another file is meant.
    let mut saved = manifest(7, 1, &[(&queries[0], 7)]);
    let moved = saved.queries["job:counts"].clone();
    saved.queries.insert("old:counts".to_owned(), moved);
    // (The other one has operators, and nothing is saved of them.)
    let both = StateOptions { reset: vec!["job:counts".to_owned()], ..dropping("counts") };
    let done = reconcile(&queries, Some(&mut saved), &[], &both).expect("one is gone");
    assert!(done.notes.iter().any(|note| note.contains("'old:counts' is gone")), "{:?}", done.notes);
}

/// A stricter one does not withdraw what it would not have let through.
#[tokio::test]
async fn rows_that_another_having_leaves_are_told() {
    let query =
        |select: &str, having: &str| format!("INSERT INTO counts SELECT {select} FROM clicks GROUP BY n {having};");
    let (plain, double) = ("n, COUNT(*)", "n, COUNT(*) * 2");
    let (three, hundred) = ("HAVING COUNT(*) >= 3", "HAVING COUNT(*) >= 100");
    for (before, now, told) in [
        ((plain, three), (plain, hundred), true),
        ((plain, ""), (plain, hundred), true),
        ((plain, three), (plain, ""), false),
        ((plain, three), (double, three), false),
        ((plain, three), (plain, three), false),
    ] {
        let [old, new] = [planned(&query(before.0, before.1)).await, planned(&query(now.0, now.1)).await];
        let operator = |fingerprint: &String| ManifestOperator {
            fingerprint: fingerprint.clone(),
            watermark_ms: None,
            rows: 1,
            files: Vec::new(),
            dead: None,
        };
        let operators = old[0].graph.operators.iter().map(|own| operator(&own.fingerprint)).collect();
        let mut saved = manifest(7, 1, &[(&old[0], 7)]);
        saved.queries.get_mut("job:counts").expect("it is there").operators = operators;
        let reconciled = reconcile(&new, Some(&mut saved), &[], &StateOptions::default()).expect("it goes on");
        let of_it = |note: &String| note.contains("'job:counts' has another HAVING") && note.contains("into 'counts'");
        assert_eq!(reconciled.notes.iter().any(of_it), told, "{before:?}, {now:?}: {:?}", reconciled.notes);
    }
}
