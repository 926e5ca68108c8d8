//! Rows that make a query fail: they are found and left out; what cannot be left out stops the job, or is skipped, with its
//! position.

#![recursion_limit = "256"]
#![expect(clippy::disallowed_methods, reason = "the program under test lives in real time")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use job::{Variant, options, run};
use tidemill::job::{JobOptions, MemoryOptions};
use tidemill::runtime::{Ending, Summary};

#[path = "poison/accounted.rs"]
mod accounted;
#[path = "support/job.rs"]
mod job;
#[path = "poison/neighbours.rs"]
mod neighbours;
#[path = "poison/unfit.rs"]
mod unfit;
#[path = "poison/windows.rs"]
mod windows;
#[path = "poison/withdrawn.rs"]
mod withdrawn;

const VARIANTS: [Variant; 4] = [
    Variant { rows: usize::MAX, threads: 1, splits: 1 },
    Variant { rows: 1, threads: 1, splits: 1 },
    Variant { rows: 7, threads: 4, splits: 1 },
    Variant { rows: 10_000, threads: 4, splits: 1 },
];

/// Records whose `s` is no number.
const BAD: [usize; 4] = [0, 17, 18, 499];
const ROWS: usize = 500;

const JOB: &str = "
CREATE TABLE events (n BIGINT, s STRING, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '10' MINUTE)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE numbers (n BIGINT, s BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/numbers', 'format' = 'json');
CREATE TABLE sums (k BIGINT, c BIGINT, total BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/sums', 'format' = 'json');
CREATE TABLE ratios (w TIMESTAMP(3), ratio BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/ratios', 'format' = 'json');
CREATE TABLE everything (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/everything', 'format' = 'json');
INSERT INTO numbers SELECT n, CAST(s AS BIGINT) FROM events WHERE n >= 0;
INSERT INTO sums SELECT MOD(n, 3), COUNT(*), SUM(CAST(s AS BIGINT)) FROM events GROUP BY MOD(n, 3);
-- Of the 50 windows, the third has 3 fewer than the others: it divides by zero.
INSERT INTO ratios SELECT window_start, 70 / (COUNT(*) - 7) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end;
INSERT INTO everything SELECT n FROM events;
";

/// Record `n`; ten of them make a minute, but the third minute lacks three.
fn record(n: usize) -> String {
    let text = if BAD.contains(&n) { format!("none {n}") } else { n.to_string() };
    let minute = if (20..23).contains(&n) { 3 } else { n / 10 };
    format!(r#"{{"n":{n},"s":"{text}","at":"2026-03-01T{:02}:{:02}:{:02}Z"}}"#, minute / 60, minute % 60, n % 10 * 5)
}

/// A job in a folder, with its input in one file.
fn place(job: &str, records: impl Iterator<Item = usize>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("in")).unwrap();
    let lines: Vec<String> = records.map(record).collect();
    std::fs::write(folder.path().join("in/a.jsonl"), lines.join("\n") + "\n").unwrap();
    std::fs::write(folder.path().join("job.sql"), job).unwrap();
    folder
}

async fn ran(folder: &Path, variant: Variant) -> Result<Summary, String> {
    let parameters = BTreeMap::from([("DIR".to_owned(), folder.display().to_string())]);
    run(&options(folder.join("job.sql"), folder.join("local"), parameters, variant, Ending::Drain)).await
}

/// Lines below a folder, sorted.
fn lines(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "jsonl" || e == "json") {
                lines.extend(std::fs::read_to_string(path).unwrap().lines().map(str::to_owned));
            }
        }
    }
    lines.sort();
    lines
}

/// Refused records by query: what made them fail, and the record.
fn refused(folder: &Path, query: &str) -> Vec<serde_json::Value> {
    let all = lines(&folder.join("local/errors"));
    let all = all.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    all.filter(|line| line["origin"].as_str().unwrap().ends_with(query)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_make_a_query_fail_are_left_out_and_written_with_their_position() {
    for variant in VARIANTS {
        // The third minute has seven records.
        let folder = place(JOB, 0..ROWS);
        let summary = ran(folder.path(), variant).await.unwrap_or_else(|e| panic!("[{variant}] {e}"));
        let good: Vec<usize> = (0..ROWS).filter(|n| !BAD.contains(n)).collect();
        let mut wanted: Vec<String> = good.iter().map(|n| format!(r#"{{"n":{n},"s":{n}}}"#)).collect();
        wanted.sort();
        assert_eq!(lines(&folder.path().join("numbers")), wanted, "[{variant}]");
        assert_eq!(lines(&folder.path().join("everything")).len(), ROWS, "[{variant}] another query has all rows");
        let sum = |k: usize| {
            let of: Vec<&usize> = good.iter().filter(|n| *n % 3 == k).collect();
            format!(r#"{{"k":{k},"c":{},"total":{}}}"#, of.len(), of.into_iter().sum::<usize>())
        };
        let sums = lines(&folder.path().join("sums"));
        assert!(
            (0..3).all(|k| sums.contains(&sum(k))),
            "[{variant}] {:?} in {sums:?}",
            (0..3).map(sum).collect::<Vec<_>>()
        );
        for query in ["numbers", "sums"] {
            let refused = refused(folder.path(), query);
            let mut records: Vec<i64> = refused
                .iter()
                .map(|line| {
                    assert_eq!(line["reason"], "query_failed", "[{variant}] {line}");
                    assert!(line["detail"].as_str().unwrap().contains("none"), "[{variant}] {line}");
                    assert!(!line["sequence_number"].as_str().unwrap().is_empty(), "[{variant}] {line}");
                    let record: serde_json::Value = serde_json::from_str(line["record"].as_str().unwrap()).unwrap();
                    record["n"].as_i64().unwrap()
                })
                .collect();
            records.sort_unstable();
            assert_eq!(records, BAD.map(|n| n as i64), "[{variant}] {query}");
            let counts = summary.queries.iter().find(|counts| counts.name.ends_with(query)).unwrap();
            assert_eq!(counts.rejected["query_failed"], BAD.len() as u64, "[{variant}] {query}");
            assert_eq!(counts.used, good.len() as u64, "[{variant}] trial runs do not count: {query}");
        }
        // A result that makes the query fail comes from no single record: it is written itself.
        assert_eq!(lines(&folder.path().join("ratios")).len(), ROWS / 10 - 1, "[{variant}]");
        let refused = refused(folder.path(), "ratios");
        assert_eq!(refused.len(), 1, "[{variant}] {refused:?}");
        assert!(refused[0]["record"].as_str().unwrap().contains("2026-03-01T00:02:00"), "[{variant}] {}", refused[0]);
        let counts = summary.queries.iter().find(|counts| counts.name.ends_with("ratios")).unwrap();
        assert_eq!(counts.refused["query_failed"], 1, "[{variant}]");
    }
}

/// The rows that the job has left out are left out again; a result that fails, which is no single row's, is its query's failure alone.
#[test]
fn a_backfill_leaves_out_the_rows_that_the_job_has_left_out() {
    const ARCHIVE: &str = "
CREATE TABLE archive (n BIGINT, s STRING, at TIMESTAMP_LTZ(3), part BIGINT) PARTITIONED BY (part)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/../archive', 'format' = 'parquet');
INSERT INTO archive SELECT n, s, at, MOD(n, 4) FROM events;";
    let folder = place(&format!("{JOB}{ARCHIVE}"), 0..ROWS);
    let (live, again) = (folder.path().join("live"), folder.path().join("again"));
    std::fs::create_dir(&live).unwrap();
    std::fs::rename(folder.path().join("in"), live.join("in")).unwrap();
    let run = |args: &[&str], dir: &Path| {
        let (parameter, local) = (format!("DIR={}", dir.display()), dir.join("local").display().to_string());
        let args = [args, &["--local", &local, "--param", &parameter]].concat();
        let output = program(folder.path(), &args).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, said) = run(&["run", "job.sql", "--drain"], &live);
    assert_eq!(code, Some(0), "{said}");
    std::fs::create_dir(&again).unwrap();
    let archive = folder.path().join("archive").display().to_string();
    let (code, said) = run(&["backfill", "job.sql", "--from", &archive], &again);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("query job:numbers: 496 rows out, 0 late, 4 rejected"), "{said}");
    assert!(said.contains("query 'job:ratios': ") && !again.join("ratios").exists(), "{said}");
    for table in ["numbers", "everything"] {
        assert_eq!(lines(&again.join(table)), lines(&live.join(table)), "{table}");
    }
    let good = |k: usize| (0..ROWS).filter(move |n| n % 3 == k && !BAD.contains(n));
    let sum = |k| format!(r#"{{"k":{k},"c":{},"total":{}}}"#, good(k).count(), good(k).sum::<usize>());
    assert_eq!(lines(&again.join("sums")), [0, 1, 2].map(sum));
    for query in ["numbers", "sums"] {
        let refused = refused(&again, query);
        let mut found: Vec<i64> = refused
            .iter()
            .map(|line| {
                let record: serde_json::Value = serde_json::from_str(line["record"].as_str().unwrap()).unwrap();
                assert!(line["detail"].as_str().unwrap().contains("none"), "{line}");
                assert!(
                    line["reason"] == "query_failed" && line["split"].as_str().unwrap().ends_with(".parquet"),
                    "{line}"
                );
                record["n"].as_i64().unwrap()
            })
            .collect();
        found.sort_unstable();
        assert_eq!(found, BAD.map(|n| n as i64), "{query}");
    }
    // Where nothing else fails, that is no failure; and where bad rows are not to be looked for, they are the query's.
    let job = std::fs::read_to_string(folder.path().join("job.sql")).unwrap();
    let sound = job.replace("(COUNT(*) - 7)", "COUNT(*)");
    std::fs::write(folder.path().join("job.sql"), &sound).unwrap();
    let (code, said) = run(&["backfill", "job.sql", "--from", &archive], &folder.path().join("sound"));
    assert_eq!(code, Some(0), "{said}");
    let strict = format!("SET 'tidemill.bisect-batch-on-function-error' = 'false';\n{sound}");
    std::fs::write(folder.path().join("job.sql"), strict).unwrap();
    let (code, said) = run(&["backfill", "job.sql", "--from", &archive], &folder.path().join("strict"));
    assert!(
        code == Some(1) && said.contains("query 'job:sums': ") && said.contains("query job:ratios: 50 rows out"),
        "{said}"
    );
}

/// Of an hour the three first users that a condition over results lets through; the results of one user make it fail. Where memory is
/// short, rows of a closing window that a top-N cannot need are dropped before the stage above has them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_makes_the_condition_of_a_top_n_fail_is_left_out_with_little_memory_too() {
    let job = "
CREATE TABLE events (user_id STRING, n BIGINT, s STRING, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE firsts (user_id STRING, c BIGINT, s STRING, place BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/firsts', 'format' = 'json');
INSERT INTO firsts SELECT user_id, c, s, place FROM (
  SELECT user_id, c, s, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY c DESC, user_id) AS place FROM (
    SELECT window_start, window_end, user_id, SUM(n) AS c, MAX(s) AS s
    FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' HOUR)) GROUP BY window_start, window_end, user_id)
  WHERE CAST(s AS BIGINT) > 0) WHERE place <= 3;";
    let users = 30_000;
    let folder = place(job, std::iter::empty());
    let mut text = String::new();
    for user in 0..users {
        let s = if user == 17_000 { "none".to_owned() } else { format!("{:0>200}", user % 7) };
        writeln!(text, r#"{{"user_id":"u{user:0>200}","n":{user},"s":"{s}","at":"2026-03-01T00:30:00Z"}}"#).unwrap();
    }
    std::fs::write(folder.path().join("in/a.jsonl"), text).unwrap();
    for memory in [None, Some(0)] {
        for name in ["firsts", "local"] {
            let _ = std::fs::remove_dir_all(folder.path().join(name));
        }
        let parameters = BTreeMap::from([("DIR".to_owned(), folder.path().display().to_string())]);
        let spill = folder.path().join("spill");
        let variant = Variant { rows: 5_000, threads: 2, splits: 1 };
        let local = folder.path().join("local");
        let options = options(folder.path().join("job.sql"), local, parameters, variant, Ending::Drain);
        let memory = memory.map(|bytes| MemoryOptions { bytes, spill, asked: true, jobs: 1 });
        let summary = run(&JobOptions { memory: memory.clone(), ..options }).await.expect("it runs");
        assert_eq!(summary.spilled_bytes > 0, memory.is_some());
        let numbers = |line: &String| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            (line["place"].as_i64().unwrap(), line["c"].as_i64().unwrap())
        };
        let mut firsts: Vec<_> = lines(&folder.path().join("firsts")).iter().map(numbers).collect();
        firsts.sort_unstable();
        let last = users as i64 - 1;
        let wanted: Vec<i64> = (0..=last).rev().filter(|user| user % 7 > 0).take(3).collect();
        assert_eq!(firsts, [(1, wanted[0]), (2, wanted[1]), (3, wanted[2])], "{memory:?}");
        let refused = refused(folder.path(), "firsts");
        assert_eq!(refused.len(), 1, "{memory:?}: {refused:?}");
        assert!(refused[0]["record"].as_str().unwrap().contains("none"), "{memory:?}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_fails_for_too_many_rows_stops_the_job() {
    let folder = place(&format!("SET 'tidemill.maximum-failed-rows' = '3';{JOB}"), 0..ROWS);
    let error = ran(folder.path(), Variant::default()).await.expect_err("four rows fail");
    for part in ["query 'job:numbers", "more than 3 rows", "epoch 1", "500 record(s)", "tidemill.maximum-failed-rows"] {
        assert!(error.contains(part), "'{part}' in {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_old_goes_to_the_error_output_by_require() {
    let job = "
        CREATE TABLE events (n BIGINT, s STRING, at TIMESTAMP_LTZ(3))
        WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
        CREATE TABLE young (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/young', 'format' = 'json');
        INSERT INTO young SELECT n FROM events WHERE REQUIRE(at > CURRENT_TIMESTAMP - INTERVAL '1' HOUR, 'too old');";
    let folder = place(job, 0..20);
    ran(folder.path(), Variant::default()).await.expect("it runs");
    assert_eq!(lines(&folder.path().join("young")), Vec::<String>::new());
    assert_eq!(refused(folder.path(), "young").len(), 20);
}

const FAILING: &str = "SET 'tidemill.bisect-batch-on-function-error' = 'false';
SET 'tidemill.maximum-retry-attempts' = '2';
SET 'tidemill.retry-delay' = '10 ms';
CREATE TABLE clicks (n BIGINT, s STRING) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
CREATE TABLE counts (k STRING, c BIGINT, total BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
CREATE TABLE plain (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'plain');
INSERT INTO counts SELECT 'all', COUNT(*), SUM(CAST(s AS BIGINT)) FROM clicks;
INSERT INTO plain SELECT 'all', COUNT(*) FROM clicks;
";

fn program(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(args).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn produce(folder: &Path, records: impl Iterator<Item = usize>) {
    let text: Vec<String> = records.map(record).collect();
    std::fs::write(folder.join("new.jsonl"), text.join("\n") + "\n").unwrap();
    let done = program(folder, &["produce", "clicks", "--local", "local", "--from", "new.jsonl"]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn number(folder: &Path, sql: &str) -> Option<i64> {
    let file = folder.join("local/dynamodb.sqlite");
    let open = rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    open.query_row(sql, [], |row| row.get(0)).ok()
}

/// Ends a run in order. Answers what it has said.
fn stopped(mut child: Child) -> String {
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let status = child.wait().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(status.code(), Some(0), "{said}");
    said
}

/// What fails is mended where it stands, and the state goes on.
#[test]
fn a_query_that_was_mended_goes_on_with_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("job.sql"), FAILING).unwrap();
    let run = ["run", "job.sql", "--local", "local", "--from", "trim_horizon", "--epoch-interval", "50ms"];
    let once = [&run[..], &["--once"]].concat();
    let said = |args: &[&str]| {
        let output = program(folder, args).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    produce(folder, 30..40);
    assert!(said(&once).0);
    produce(folder, 0..30);
    let (_, stopped) = said(&run);
    assert!(stopped.contains("hint: mend the query, and start it once with --keep-state QUERY"), "{stopped}");
    std::fs::write(folder.join("job.sql"), FAILING.replace("SUM(CAST", "SUM(TRY_CAST")).unwrap();
    let (went, refused) = said(&once);
    assert!(!went && refused.contains("--keep-state job:counts"), "{refused}");
    let (went, kept) = said(&[&once[..], &["--keep-state", "counts"]].concat());
    assert!(went, "{kept}");
    for note in ["are repeated by the new SQL", "goes on with its state as it is (--keep-state)"] {
        assert!(kept.contains(note), "{kept}");
    }
    let good = (0..30).filter(|n| record(*n).contains("\"s\":\"none")).count();
    assert!(good > 0, "some fail");
    let expected: i64 = (0..40).filter(|n| !record(*n).contains("\"s\":\"none")).map(|n| n as i64).sum();
    assert_eq!(number(folder, "SELECT total FROM counts"), Some(expected));
    assert_eq!(number(folder, "SELECT c FROM counts"), Some(40));
    assert_eq!(number(folder, "SELECT c FROM plain"), Some(40));
    // Of other columns it cannot be.
    std::fs::write(
        folder.join("job.sql"),
        FAILING
            .replace("SUM(CAST(s AS BIGINT))", "MAX(n), MIN(n)")
            .replace("total BIGINT", "total BIGINT, least BIGINT"),
    )
    .unwrap();
    let (went, other) = said(&[&once[..], &["--keep-state", "counts"]].concat());
    assert!(!went && other.contains("query 'job:counts': the saved state of operator 0 has columns ("), "{other}");
    std::fs::write(folder.join("job.sql"), FAILING.replace("SUM(CAST", "SUM(TRY_CAST")).unwrap();
    assert!(said(&once).0, "nothing was written");
}

#[test]
fn an_epoch_that_fails_again_and_again_stops_the_job_or_is_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("job.sql"), FAILING).unwrap();
    let run = ["run", "job.sql", "--local", "local", "--from", "trim_horizon", "--epoch-interval"];
    // The first epoch of a run ends when all is read that is there, however long that takes: it alone fails.
    let (run, soon) = ([&run[..], &["1h"]].concat(), [&run[..], &["50ms"]].concat());
    // What went well stays.
    produce(folder, 30..40);
    let once = program(folder, &[&run[..], &["--once"]].concat()).output().unwrap();
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    produce(folder, 0..30);
    let output = program(folder, &run).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("failed (").count(), 2, "two retries: {said}");
    // The position: of each shard, the last record of the epoch, which the log has.
    let log = std::fs::read_to_string(folder.join("local/checkpoints/job/epochs.log")).unwrap();
    let entries = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(&line[line.find('{').unwrap()..]));
    let cut = entries.filter_map(|entry| entry.unwrap().get("cut").cloned()).next_back().unwrap();
    let splits = cut["splits"].as_array().unwrap().iter().filter(|split| split["records"] != 0);
    let text = |name: &serde_json::Value| name.as_str().filter(|text| !text.is_empty()).unwrap().to_owned();
    let place = splits.map(|split| {
        let (shard, last) = (text(&split["split"]), text(&split["after"]));
        format!("{} record(s) of clicks/{shard}, the last is {last}", split["records"])
    });
    let place = format!("epoch {} ({})", cut["epoch"], place.collect::<Vec<_>>().join("; "));
    for part in ["query 'job:counts'", &place, "the text 'none ", "' cannot be cast to BIGINT"] {
        // Two retries, and the error in the end.
        assert_eq!(said.matches(part).count(), 3, "'{part}' in {said}");
    }
    // Whoever sees the last error knows what can be done, though only the next process would refuse to try again.
    let last = said.rsplit("retries follows").next().unwrap();
    assert!(last.contains("hint: mend the query") && last.contains("tidemill.on-exhausted-retries"), "{said}");
    // Another process knows, and does not try it for ever.
    let output = program(folder, &run).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let failed = format!("has failed 3 times at {place}: ");
    for part in [failed.as_str(), "tidemill.on-exhausted-retries"] {
        assert!(said.contains(part), "'{part}' in {said}");
    }
    assert!(!said.contains("retries follows"), "{said}");
    assert_eq!(number(folder, "SELECT total FROM counts"), Some((30..40).sum::<i64>()));

    // Skipped by option: the other query has all, this one what came before and comes after.
    std::fs::write(folder.join("job.sql"), format!("SET 'tidemill.on-exhausted-retries' = 'skip';\n{FAILING}"))
        .unwrap();
    let child = program(folder, &soon).spawn().unwrap();
    produce(folder, 100..105);
    let wanted = (30..40).sum::<i64>() + (100..105).sum::<i64>();
    let started = Instant::now();
    while number(folder, "SELECT total FROM counts") != Some(wanted) && started.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = stopped(child);
    assert_eq!(number(folder, "SELECT total FROM counts"), Some(wanted), "{said}");
    assert_eq!(number(folder, "SELECT c FROM plain"), Some(45), "{said}");
    let refused = refused(folder, "counts");
    assert_eq!(refused.len(), 30, "{refused:?}");
    assert!(refused.iter().all(|line| line["reason"] == "query_failed" && line["stream"] == "clicks"), "{refused:?}");
}

/// Each of them fails for the first time in the attempt that leaves out the one before.
#[test]
fn an_epoch_is_left_out_of_several_queries_by_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let table = |name: &str| {
        format!(
            "CREATE TABLE {name} (k STRING, total BIGINT, PRIMARY KEY (k) NOT ENFORCED)
             WITH ('connector' = 'dynamodb', 'table-name' = '{name}');
             INSERT INTO {name} SELECT 'all', SUM(CAST(s AS BIGINT)) FROM clicks;\n"
        )
    };
    let job = format!("SET 'tidemill.on-exhausted-retries' = 'skip';\n{FAILING}{}{}", table("more"), table("most"));
    std::fs::write(folder.join("job.sql"), job).unwrap();
    produce(folder, 0..30);
    let run = ["run", "job.sql", "--local", "local", "--from", "trim_horizon"];
    let mut child = program(folder, &run).spawn().unwrap();
    let started = Instant::now();
    while number(folder, "SELECT c FROM plain") != Some(30) && started.elapsed() < Duration::from_secs(120) {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    stopped(child);
    for query in ["counts", "more", "most"] {
        assert_eq!(refused(folder, query).len(), 30, "{query}");
    }
}
