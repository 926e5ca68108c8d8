//! Epochs that fail where windows are open: those that are due close without the records of an epoch that is left out, and one of them may be
//! what fails, by what epochs before have put into it.

use std::collections::BTreeSet;

use super::*;

/// An epoch has the records of a minute.
const MINUTES: Variant = Variant { rows: 10, threads: 1, splits: 1 };
const SKIP: &str = "SET 'tidemill.on-exhausted-retries' = 'skip';";

/// A job whose windows of a minute give this, and which closes them ten minutes of event time later.
fn windows(settings: &str, given: &str) -> String {
    format!(
        "{settings}
SET 'tidemill.bisect-batch-on-function-error' = 'false';
SET 'tidemill.maximum-retry-attempts' = '1';
CREATE TABLE events (n BIGINT, s STRING, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '10' MINUTE)
WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/in', 'format' = 'json');
CREATE TABLE minutes (w TIMESTAMP(3), given BIGINT) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/minutes', 'format' = 'json');
CREATE TABLE everything (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/everything', 'format' = 'json');
INSERT INTO minutes SELECT window_start, {given} FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end;
INSERT INTO everything SELECT n FROM events;
"
    )
}

/// Else all records from there on would go to the error output, epoch by epoch, and no window would ever close again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_fails_when_it_closes_stops_the_job_and_no_epoch_is_left_out_for_it() {
    // The third minute has seven records.
    let divides = |settings: &str| windows(settings, "70 / (COUNT(*) - 7)");
    let folder = place(&divides(""), 0..ROWS);
    let job = folder.path().join("job.sql");
    for may_skip in [false, true] {
        let error = ran(folder.path(), MINUTES).await.expect_err("it divides by zero");
        assert!(error.contains("query 'job:minutes'") && error.contains("zero"), "{error}");
        assert_eq!(error.contains("on-exhausted-retries"), may_skip, "{error}");
    }
    let error = ran(folder.path(), MINUTES).await.expect_err("it has failed too often");
    assert!(error.contains("query 'job:minutes' has failed 2 times at epoch "), "{error}");
    std::fs::write(&job, divides(SKIP)).unwrap();
    for _ in 0..2 {
        let error = ran(folder.path(), MINUTES).await.expect_err("to leave records out does not help");
        for part in ["query 'job:minutes' fails at epoch ", " without its records too: ", "zero", "--keep-state"] {
            assert!(error.contains(part), "'{part}' in {error}");
        }
        assert!(!error.contains("on-exhausted-retries"), "{error}");
    }
    let log = std::fs::read_to_string(folder.path().join("local/checkpoints/job/epochs.log")).unwrap();
    assert_eq!(log.matches(r#"{"failed":"#).count(), 2, "no other epoch has been tried: {log}");
    assert_eq!(refused(folder.path(), "minutes").len(), 0);
    // Once it is mended, all is there.
    std::fs::write(&job, windows(SKIP, "70 / (COUNT(*) - 6)")).unwrap();
    let parameters = BTreeMap::from([("DIR".to_owned(), folder.path().display().to_string())]);
    let mut options = options(job, folder.path().join("local"), parameters, MINUTES, Ending::Drain);
    options.state.keep_state = vec!["minutes".to_owned()];
    run(&options).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(lines(&folder.path().join("minutes")).len(), ROWS / 10);
    assert_eq!(lines(&folder.path().join("everything")).len(), ROWS);
    assert_eq!(refused(folder.path(), "minutes").len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_close_at_an_epoch_that_is_left_out() {
    let folder = place(&windows(SKIP, "SUM(CAST(s AS BIGINT))"), 0..ROWS);
    // Of three epochs that fail, each does so twice, and is then left out: the first two, and the last that has records.
    for times in 1..=6 {
        let error = ran(folder.path(), MINUTES).await.expect_err("the epoch fails");
        assert!(error.contains("'none ") && error.contains("cannot be cast"), "{times}: {error}");
    }
    let summary = ran(folder.path(), MINUTES).await.unwrap_or_else(|e| panic!("{e}"));
    let left_out = || (0..20).chain(490..500_usize);
    let counts = summary.queries.iter().find(|counts| counts.name.ends_with("minutes")).unwrap();
    assert_eq!((counts.rejected["query_failed"], counts.used), (30, 470));
    let line = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let minutes: Vec<_> = lines(&folder.path().join("minutes")).iter().map(line).collect();
    assert_eq!(minutes.len(), ROWS / 10 - 3, "{minutes:?}");
    let sum: i64 = minutes.iter().map(|minute| minute["given"].as_i64().unwrap()).sum();
    assert_eq!(sum as usize, (0..ROWS).sum::<usize>() - left_out().sum::<usize>());
    // (Each run that has left an epoch out has told of it.)
    let refused = refused(folder.path(), "minutes");
    let told =
        refused.iter().map(|refused| line(&refused["record"].as_str().unwrap().to_owned())["n"].as_u64().unwrap());
    assert_eq!(told.collect::<BTreeSet<_>>(), left_out().map(|n| n as u64).collect::<BTreeSet<_>>());
    assert_eq!(lines(&folder.path().join("everything")).len(), ROWS, "another query has all rows");
}
