//! A sink that fails at an epoch by what it was given, again and again: as often as the job says; then the job stops, or its query goes on
//! without that epoch. (`poison` does so with a query that fails.)

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use tidemill::contracts::{EpochLog, Error, ErrorKind, LogEntry, Result};
use tidemill::runtime::{Ending, Summary};

use super::going_on::{EVENTS, Watched, events, job, ran, replace};
use super::{lines, numbers, refused};

const SQL: &str = "
SET 'tidemill.maximum-retry-attempts' = '2';
CREATE TABLE events (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE copies (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/copies', 'format' = 'json');
CREATE TABLE others (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/others', 'format' = 'json');
INSERT INTO copies SELECT n FROM events;
INSERT INTO others SELECT n FROM events;
";
/// With a row in each epoch, that of epoch 7 is the seventh.
const EPOCH: u64 = 7;
const ROW: i64 = 6;

/// Runs on with a sink that cannot take the rows of that epoch, which counts how often it got them.
async fn run(folder: &Path, settings: &str, got: &Arc<AtomicU32>) -> Result<Summary> {
    let options = job(folder, &format!("{settings}{SQL}"), Ending::Drain);
    let got = Arc::clone(got);
    let fails = move |epoch: tidemill::contracts::EpochNumber, rows: usize| {
        if epoch.0 != EPOCH || rows == 0 {
            return Ok(());
        }
        got.fetch_add(1, Ordering::Relaxed);
        Err(Error::data("the row has a colour that the sink does not know"))
    };
    let watched = |mut sink: Watched| {
        sink.before_flush = Box::new(fails);
        sink
    };
    ran(&options, |job| replace(job, "copies", watched)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_fails_again_and_again_stops_the_job_or_its_query_goes_on_without() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    events(folder);
    let got = Arc::new(AtomicU32::new(0));
    let place = format!("epoch {EPOCH} (1 record(s) of ");
    // It is tried twice more.
    for times in 1..=3 {
        let error = run(folder, "", &got).await.expect_err("the sink fails");
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Data, "{text}");
        for part in [&place, "a.jsonl, the last is ", "a colour that the sink does not know"] {
            assert!(text.contains(part), "'{part}' in {text}");
        }
        let says_what_to_do = error.hint_text().is_some_and(|hint| hint.contains("tidemill.on-exhausted-retries"));
        assert_eq!((got.load(Ordering::Relaxed), says_what_to_do), (times, times == 3), "{text}");
    }
    // Then no more, and each later run says so.
    for _ in 0..2 {
        let error = run(folder, "", &got).await.expect_err("it has failed too often");
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Poison, "{text}");
        for part in ["query 'job:copies' has failed 3 times at ", &place, "a colour that the sink does not know"] {
            assert!(text.contains(part), "'{part}' in {text}");
        }
        assert_eq!(got.load(Ordering::Relaxed), 3, "{text}");
    }
    // Or the query goes on without it.
    let skips = "SET 'tidemill.on-exhausted-retries' = 'skip';";
    let summary = run(folder, skips, &got).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(got.load(Ordering::Relaxed), 3);
    let all: Vec<i64> = (0..EVENTS).collect();
    assert_eq!(numbers(&lines(&folder.join("others"))), all, "the other query has all");
    let copies: Vec<i64> = all.into_iter().filter(|n| *n != ROW).collect();
    assert_eq!(numbers(&lines(&folder.join("copies"))), copies);
    let refused = refused(folder);
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0]["origin"] == "job:copies" && refused[0]["reason"] == "query_failed", "{refused:?}");
    let record: serde_json::Value = serde_json::from_str(refused[0]["record"].as_str().unwrap()).unwrap();
    assert_eq!(record["n"], ROW, "{refused:?}");
    let counts = summary.queries.iter().find(|counts| counts.name.ends_with("copies")).unwrap();
    assert_eq!(counts.rejected.get("query_failed"), Some(&1), "{:?}", counts.rejected);
}

/// A log that takes no cuts.
struct WithoutCuts(Arc<dyn EpochLog>);

#[async_trait]
impl EpochLog for WithoutCuts {
    async fn append(&self, entry: &LogEntry) -> Result<()> {
        match entry {
            LogEntry::Cut(_) => Err(Error::unavailable("the log takes no cuts")),
            other => self.0.append(other).await,
        }
    }

    async fn forget(&self, epoch: u64) -> Result<()> {
        self.0.forget(epoch).await
    }
}

/// The next run makes another epoch of that number, which it would count for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_at_an_epoch_whose_cut_is_not_logged_is_not_noted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    events(folder);
    let divides = SQL.replace("INTO copies SELECT n FROM", "INTO copies SELECT 10 / n FROM");
    let settings = "SET 'tidemill.bisect-batch-on-function-error' = 'false';";
    let options = job(folder, &format!("{settings}{divides}"), Ending::Drain);
    let log = folder.join("local/checkpoints/job/epochs.log");
    for (takes_cuts, noted) in [(false, 0), (true, 1)] {
        let outcome = ran(&options, |job| {
            let log = job.log.as_mut().unwrap();
            if !takes_cuts {
                log.log = Arc::new(WithoutCuts(Arc::clone(&log.log)));
            }
        });
        let error = outcome.await.expect_err("the first row divides by zero").to_string();
        assert!(error.contains(if takes_cuts { "zero" } else { "the log takes no cuts" }), "{error}");
        assert_eq!(std::fs::read_to_string(&log).unwrap().matches(r#"{"failed":"#).count(), noted, "{error}");
    }
}
