//! What an epoch takes: bounds in bytes, and the maximum age of records; and that both are repeated as they were after a kill. What
//! becomes of reference tables and of files when a run goes on.

#![recursion_limit = "256"]
#![expect(clippy::disallowed_methods, reason = "the program under test lives in real time")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use job::{Variant, options, run};
use serde_json::Value;
use tidemill::runtime::{Ending, Summary};

mod clock;
mod drained;
mod failing_sink;
mod failing_source;
mod going_on;
mod gone_back;
#[path = "../support/job.rs"]
mod job;
mod lambda;
mod made_rows;
mod new_tables;
mod references;
mod stopping;
mod unions;

const VARIANTS: [Variant; 3] = [
    Variant { rows: usize::MAX, threads: 1, splits: 1 },
    Variant { rows: 1, threads: 1, splits: 1 },
    Variant { rows: 3, threads: 4, splits: 1 },
];

async fn ran(folder: &Path, sql: &str, variant: Variant) -> Summary {
    ended(folder, sql, variant, Ending::Drain).await
}

async fn ended(folder: &Path, sql: &str, variant: Variant, ending: Ending) -> Summary {
    let file = folder.join("job.sql");
    std::fs::write(&file, sql).unwrap();
    let parameters = BTreeMap::from([("DIR".to_owned(), folder.display().to_string())]);
    let options = options(file, folder.join("local"), parameters, variant, ending);
    run(&options).await.unwrap_or_else(|e| panic!("[{variant}] {e}"))
}

/// Lines of the files of a folder, whatever theirs are called, sorted.
fn lines(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_file() && !path.file_name().unwrap().to_string_lossy().starts_with(['.', '_']) {
            lines.extend(std::fs::read_to_string(path).unwrap().lines().map(str::to_owned));
        }
    }
    lines.sort();
    lines
}

fn refused(folder: &Path) -> Vec<Value> {
    lines(&folder.join("local/errors")).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(lines: &[String]) -> Vec<i64> {
    let mut numbers: Vec<i64> =
        lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_i64().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

/// Makes a file of this text that was written `age` ago.
fn write(file: &Path, text: &str, age: Duration) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
    grow_old(file, age);
}

fn grow_old(file: &Path, age: Duration) {
    std::fs::File::options().append(true).open(file).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

const HOUR: Duration = Duration::from_secs(3_600);

/// Two tables that read the same records, so that each has its own answer; one has event time, and one a condition that is
/// tested on the raw bytes.
const AGES: &str = "
SET 'tidemill.maximum-record-age' = '1 h';
CREATE TABLE events (n BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE again (n BIGINT, kind STRING) WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE young (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/young', 'format' = 'json');
CREATE TABLE odd (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/odd', 'format' = 'json');
INSERT INTO young SELECT n FROM events;
INSERT INTO odd SELECT n FROM again WHERE kind = 'odd';
";

fn event(n: i64) -> String {
    format!(r#"{{"n":{n},"at":"2026-03-01T00:00:{n:02}Z","kind":"{}"}}"#, if n % 2 == 0 { "even" } else { "odd" })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_are_too_old_go_to_the_error_output_with_their_position() {
    for variant in VARIANTS {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        // In the old file one is no JSON, and one has no time: refused for that, and rows are not records any more.
        let old = [event(1), "{".to_owned(), event(2), r#"{"n":3,"kind":"odd"}"#.to_owned(), event(4), event(5)];
        let young: Vec<String> = (11..=20).map(event).collect();
        write(&folder.join("in/a.jsonl"), &(old.join("\n") + "\n"), 2 * HOUR);
        write(&folder.join("in/b.jsonl"), &(young.join("\n") + "\n"), HOUR / 2);
        let summary = ran(folder, AGES, variant).await;
        assert_eq!(numbers(&lines(&folder.join("young"))), (11..=20).collect::<Vec<_>>(), "[{variant}]");
        assert_eq!(numbers(&lines(&folder.join("odd"))), [11, 13, 15, 17, 19], "[{variant}]");
        let refused = refused(folder);
        let by = |origin: &str, reason: &str| {
            let mut records = Vec::new();
            for line in refused.iter().filter(|line| line["origin"] == origin && line["reason"] == reason) {
                assert!(line["split"].as_str().unwrap().ends_with("a.jsonl"), "[{variant}] {line}");
                // The number of a line is where it begins.
                let at: usize = line["sequence_number"].as_str().unwrap().parse().unwrap();
                let record = line["record"].as_str().unwrap();
                assert!((old.join("\n") + "\n")[at..].starts_with(record), "[{variant}] {line}");
                records.push(record.to_owned());
            }
            records.sort();
            records
        };
        assert_eq!(by("events", "too_old"), [event(1), event(2), event(4), event(5)], "[{variant}] {refused:?}");
        assert_eq!(by("again", "too_old"), [event(1), old[3].clone(), event(5)], "[{variant}] {refused:?}");
        assert_eq!(by("events", "missing_value"), [old[3].clone()], "[{variant}] {refused:?}");
        let line = refused.iter().find(|line| line["reason"] == "too_old").unwrap();
        assert!(line["detail"].as_str().unwrap().ends_with(" ms old, more than 3600000"), "[{variant}] {line}");
        assert!(line["arrival"].is_string() && line["stream"].as_str().unwrap().ends_with("/in"), "[{variant}] {line}");
        let table = |name: &str| summary.tables.iter().find(|table| table.name == name).unwrap();
        let (events, again) = (table("events"), table("again"));
        assert_eq!((events.records, events.decoded, events.rejected["too_old"]), (16, 10, 4), "[{variant}] {events:?}");
        assert_eq!((again.decoded, again.skipped, again.rejected["too_old"]), (5, 8, 3), "[{variant}] {again:?}");
        let rows = |name: &str| summary.queries.iter().find(|query| query.name.ends_with(name)).unwrap().rows_in;
        assert_eq!((rows("young"), rows("odd")), (10, 5), "[{variant}]");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_rows_grow_old_too() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let table = "(n BIGINT, at TIMESTAMP_LTZ(3))";
    let job = |age: &str, from: &str, to: &str| {
        let sink = if to == "packed" { "parquet" } else { "json" };
        let source = if from == "packed" { "parquet" } else { "json" };
        format!(
            "SET 'tidemill.maximum-record-age' = '{age}';
            CREATE TABLE events {table} WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/{from}', 'format' = '{source}');
            CREATE TABLE copies {table} WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/{to}', 'format' = '{sink}');
            INSERT INTO copies SELECT n, at FROM events;"
        )
    };
    let events: Vec<String> = (1..=9).map(event).collect();
    write(&folder.join("in/a.jsonl"), &(events.join("\n") + "\n"), 2 * HOUR);
    ran(folder, &job("-1", "in", "packed"), Variant::default()).await;
    let entries = || std::fs::read_dir(folder.join("packed")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = entries().filter(|path| path.extension().is_some_and(|e| e == "parquet")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    for (age, left) in [(2 * HOUR, 0), (HOUR / 2, 9)] {
        grow_old(&files[0], age);
        let place = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.join("packed"), place.path().join("packed")).unwrap();
        let summary = ran(place.path(), &job("1 h", "packed", "out"), Variant { rows: 2, ..Variant::default() }).await;
        assert_eq!(lines(&place.path().join("out")).len(), left);
        assert_eq!(summary.tables[0].rejected.get("too_old").copied().unwrap_or(0), 9 - left as u64);
        let refused = refused(place.path());
        assert_eq!(refused.len(), 9 - left);
        for (line, n) in refused.iter().zip(1..) {
            let record: Value = serde_json::from_str(line["record"].as_str().unwrap()).unwrap();
            assert_eq!((&record["n"], record.as_object().unwrap().len()), (&Value::from(n), 2), "{line}");
        }
    }
}

#[test]
fn an_age_has_a_unit() {
    let folder = tempfile::tempdir().unwrap();
    for (age, good) in [("3600", false), ("0 s", false), ("soon", false), ("90 s", true), ("-1", true)] {
        std::fs::write(
            folder.path().join("job.sql"),
            counting(&format!("SET 'tidemill.maximum-record-age' = '{age}';")),
        )
        .unwrap();
        let output = program(folder.path(), &["check", "job.sql"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), good, "{age}: {said}");
        assert!(good || said.contains("is not an age") && said.contains("with the unit"), "{age}: {said}");
    }
}

fn program(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidemill")).args(args).current_dir(folder).output().unwrap()
}

/// Runs a job that counts, to the end or to `crash`.
#[track_caller]
fn run_once(folder: &Path, settings: &str, crash: Option<&str>) {
    std::fs::write(folder.join("job.sql"), counting(settings)).unwrap();
    run_job(folder, &["--from", "trim_horizon", "--epoch-interval", "1h"], crash);
}

/// Runs `job.sql`, to the end or to `crash`, a place and which time.
#[track_caller]
fn run_job(folder: &Path, more: &[&str], crash: Option<&str>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(["run", "job.sql", "--local", "local", "--once"]).args(more).current_dir(folder);
    if let Some(crash) = crash {
        command.env("TIDEMILL_CRASH_AT", crash);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), crash.is_none(), "{said}");
    assert!(crash.is_none() || output.status.code().is_none(), "it ended by itself: {said}");
}

fn counting(settings: &str) -> String {
    format!(
        "{settings}
        CREATE TABLE clicks (n BIGINT, at TIMESTAMP_LTZ(3)) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
        CREATE TABLE counts (k STRING, c BIGINT, total BIGINT, PRIMARY KEY (k) NOT ENFORCED)
        WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
        INSERT INTO counts SELECT 'all', COUNT(*), SUM(n) FROM clicks;"
    )
}

/// Puts events into the stream; each has this many more bytes.
fn produce(folder: &Path, events: std::ops::Range<i64>, bytes: usize) {
    let filling = "x".repeat(bytes);
    let text: Vec<String> = events.map(|n| format!(r#"{{"n":{n},"filling":"{filling}"}}"#)).collect();
    std::fs::write(folder.join("new.jsonl"), text.join("\n") + "\n").unwrap();
    let output = program(folder, &["produce", "clicks", "--local", "local", "--from", "new.jsonl"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// How many were counted, and their sum.
fn counted(folder: &Path) -> (i64, i64) {
    let file = folder.join("local/dynamodb.sqlite");
    let store = rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    store.query_row("SELECT c, total FROM counts", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

/// The cuts of the log.
fn cuts(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("local/checkpoints/job/epochs.log")).unwrap();
    let entries = text.lines().map(|line| serde_json::from_str::<Value>(&line[line.find('{').unwrap()..]).unwrap());
    entries.filter_map(|entry| entry.get("cut").cloned()).collect()
}

#[test]
fn a_repeated_epoch_refuses_what_it_had_refused_whatever_the_setting_says_now() {
    for crash in ["cut.after:1", "sink.flushed:1"] {
        // Taken in time: they are taken when the epoch is repeated, too, though by now they are too old.
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        produce(folder, 0..30, 10);
        run_once(folder, "SET 'tidemill.maximum-record-age' = '10 min';", Some(crash));
        std::thread::sleep(Duration::from_millis(50));
        run_once(folder, "SET 'tidemill.maximum-record-age' = '20 ms';", None);
        assert_eq!(counted(folder), (30, (0..30).sum()), "{crash}");
        assert_eq!(refused(folder).len(), 0, "{crash}");

        // Refused: they are refused again, though any age will do now.
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        produce(folder, 0..30, 10);
        std::thread::sleep(Duration::from_millis(50));
        run_once(folder, "SET 'tidemill.maximum-record-age' = '20 ms';", Some(crash));
        let cut = &cuts(folder)[0];
        assert_eq!(cut["oldest_ms"].as_i64().unwrap() + 20, cut["now_ms"].as_i64().unwrap(), "{cut}");
        run_once(folder, "", None);
        produce(folder, 100..105, 10);
        run_once(folder, "", None);
        assert_eq!(counted(folder), (5, (100..105).sum()), "{crash}");
        let refused = refused(folder);
        // At least once: what had been written before the kill is written again.
        let records: BTreeSet<String> = refused.iter().map(|line| line["record"].to_string()).collect();
        assert_eq!(records.len(), 30, "{crash}: {refused:?}");
        assert!(refused.iter().all(|line| line["reason"] == "too_old" && line["origin"] == "clicks"), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_closes_when_it_has_enough_bytes() {
    let whole = tempfile::tempdir().unwrap();
    produce(whole.path(), 0..60, 50_000);
    let all = async |settings: &str| ran(whole.path(), &counting(settings), Variant::default()).await;
    // Three megabytes. By default that is one epoch, and the end.
    let by_default = all("").await;
    assert!(by_default.epochs <= 2, "{}", by_default.epochs);
    assert_eq!(counted(whole.path()), (60, (0..60).sum()));
    for (bytes, at_least, at_most) in [(500_000, 4, 8), (100_000, 30, 62), (1, 60, 62)] {
        let _ = std::fs::remove_dir_all(whole.path().join("local/checkpoints"));
        let _ = std::fs::remove_file(whole.path().join("local/dynamodb.sqlite"));
        let summary = all(&format!("SET 'tidemill.epoch.bytes' = '{bytes}';")).await;
        assert!((at_least..=at_most).contains(&summary.epochs), "{bytes}: {} epochs", summary.epochs);
        assert_eq!(counted(whole.path()), (60, (0..60).sum()), "{bytes}");
    }
}

#[test]
fn epochs_that_were_closed_by_their_bytes_are_repeated_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    produce(folder, 0..60, 50_000);
    run_once(folder, "SET 'tidemill.epoch.bytes' = '300000';", Some("cut.after:4"));
    let before = cuts(folder);
    assert_eq!(before.len(), 4);
    let records = |cut: &Value| -> u64 {
        cut["splits"].as_array().unwrap().iter().map(|split| split["records"].as_u64().unwrap()).sum()
    };
    // Six records are somewhat more than 300,000 bytes, five are less.
    assert!(before.iter().all(|cut| records(cut) == 6), "{before:?}");
    run_once(folder, "", Some("cut.after:1"));
    let after = cuts(folder);
    assert_eq!(after[..4], before[..], "the log is kept until a checkpoint has it");
    assert_eq!(records(&after[4]), 60 - before.iter().map(records).sum::<u64>(), "what is left is one epoch now");
    run_once(folder, "SET 'tidemill.epoch.bytes' = '1';", None);
    assert_eq!(counted(folder), (60, (0..60).sum()));
}

#[test]
fn records_that_are_gone_when_an_epoch_is_repeated_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    produce(folder, 0..30, 10);
    run_once(folder, "", Some("cut.after:1"));
    let cut = &cuts(folder)[0];
    let shard = &cut["splits"][0];
    let (split, after) = (shard["split"].as_str().unwrap(), shard["after"].as_str().unwrap());
    std::fs::write(folder.join(format!("local/kinesis/clicks/{split}.log")), "").unwrap();
    let args = ["run", "job.sql", "--local", "local", "--once", "--from", "trim_horizon"];
    let output = program(folder, &args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    let lost = format!(
        "split '{split}' of 'clicks' has lost {} of the records, through {after}, that epoch {} of the run before was cut of",
        shard["records"], cut["epoch"]
    );
    assert!(said.contains(&lost) && said.contains("--fresh"), "{said}");
}
