//! The program as a person meets it: help, checks, explanations, runs, and what happens between two runs.
//!
//! `INSTA_UPDATE=always cargo test --test cli` writes the snapshots anew.

#![expect(clippy::disallowed_methods, reason = "the program under test lives in real time")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use insta::assert_snapshot;
use regex::Regex;
use tempfile::TempDir;

const COMMANDS: [&str; 11] =
    ["run", "fleet", "check", "explain", "produce", "backfill", "provision", "iam", "athena", "state", "demo"];

/// A folder of its own for a test.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A folder with these files.
    fn with(files: &[(&str, &str)]) -> Self {
        let place = Self::new();
        for (name, text) in files {
            std::fs::write(place.path().join(name), text).unwrap();
        }
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("COLUMNS").env_remove("RUST_LOG");
        // No account of whoever runs the tests, and no wait for a metadata service.
        command.env_remove("AWS_REGION").env_remove("AWS_DEFAULT_REGION").env_remove("AWS_PROFILE");
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_CONFIG_FILE", "none");
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a command says and how it ends, without what differs from run to run.
    fn said(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let mut text = format!("$ tidemill {}\n", args.join(" "));
        text.push_str(&String::from_utf8_lossy(&output.stdout));
        if !output.stderr.is_empty() {
            text.push_str(&format!("--- standard error\n{}", String::from_utf8_lossy(&output.stderr)));
        }
        text.push_str(&format!("--- exit code {}\n", output.status.code().unwrap_or(-1)));
        self.normal(&text)
    }

    fn normal(&self, text: &str) -> String {
        let text =
            text.replace(&self.path().display().to_string(), "[DIR]").replace(env!("CARGO_MANIFEST_DIR"), "[TOP]");
        let time = Regex::new(r"in \d+\.\d+ s \(\d+ events/s\), \d+ epochs").unwrap();
        let text = time.replace_all(&text, "in [N] s ([N] events/s), [N] epochs");
        let cost = Regex::new(r"checkpoints: (\d+), [^\n]*longest").unwrap();
        let text = cost.replace_all(&text, "checkpoints: $1, …");
        let lines = text.lines().map(str::trim_end).collect::<Vec<_>>();
        lines.join("\n")
    }

    fn sqlite(&self, query: &str) -> Option<i64> {
        // Reading only: opening a file that is not there would make one.
        let read_only = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let path = self.path().join("local/dynamodb.sqlite");
        let connection = rusqlite::Connection::open_with_flags(path, read_only).ok()?;
        connection.query_row(query, [], |row| row.get(0)).ok()
    }
}

fn top(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A file with the first lines of the real events, from line `from`.
fn events(place: &Place, name: &str, from: usize, count: usize) {
    let text = std::fs::read_to_string(top("tests/data/weblog.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().skip(from).take(count).collect();
    std::fs::write(place.path().join(name), lines.join("\n") + "\n").unwrap();
}

/// Counts events by type, from a stream into a table.
const COUNTS: &str = "\
CREATE TABLE events (event_type STRING, `timestamp` TIMESTAMP_LTZ(3), WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
CREATE TABLE counts (event_type STRING, events BIGINT, PRIMARY KEY (event_type) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
INSERT INTO counts SELECT event_type, COUNT(*) FROM events GROUP BY event_type;
";

const TOTAL: &str = "SELECT SUM(events) FROM counts";

/// One of each kind of query.
const SMALL_JOB: &str = "\
CREATE TABLE events (
  event_type STRING,
  `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN:-events.jsonl}', 'format' = 'json');
CREATE TABLE page_views (page STRING, views BIGINT, PRIMARY KEY (page) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = 'out/page_views', 'format' = 'json');
CREATE TABLE per_hour (hour_start TIMESTAMP(3), views BIGINT, visitors BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO page_views SELECT data.page, COUNT(*) FROM events
WHERE event_type = 'page_view' AND REQUIRE(data.page <> '/favicon.ico', 'an icon is no page') GROUP BY data.page;
INSERT INTO per_hour SELECT window_start, COUNT(*), COUNT(DISTINCT data.user_id)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '1' HOUR)) GROUP BY window_start, window_end;
";

#[test]
fn help_of_the_program() {
    assert_snapshot!(Place::new().said(&["--help"]));
}

#[test]
fn help_of_each_command() {
    for command in COMMANDS {
        assert_snapshot!(format!("help_{command}"), Place::new().said(&[command, "--help"]));
    }
}

#[test]
fn every_command_has_help() {
    let place = Place::new();
    let help = String::from_utf8(place.output(&["--help"]).stdout).unwrap();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names: Vec<&str> = listed
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert!(COMMANDS.iter().all(|command| names.contains(command)), "{names:?}");
    for name in names.into_iter().filter(|name| *name != "help") {
        let output = place.output(&[name, "--help"]);
        assert!(output.status.success(), "{name} --help");
        assert!(output.stdout.len() > 200, "{name} --help says next to nothing");
    }
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    let place = Place::with(&[("job.sql", SMALL_JOB)]);
    assert_snapshot!("usage_unknown_option", place.said(&["run", "job.sql", "--dran"]));
    assert_snapshot!("usage_both_endings", place.said(&["run", "job.sql", "--drain", "--once"]));
    assert_snapshot!("usage_wrong_time", place.said(&["run", "job.sql", "--from", "yesterday"]));
}

#[test]
fn check_of_a_good_job() {
    let place = Place::with(&[("job.sql", SMALL_JOB)]);
    assert_snapshot!(place.said(&["check", "job.sql"]));
}

#[test]
fn check_names_what_flink_does_not_take() {
    let place = Place::with(&[("job.sql", SMALL_JOB)]);
    assert_snapshot!(place.said(&["check", "--flink", "job.sql"]));
}

#[test]
fn check_of_a_misspelt_column() {
    let place = Place::with(&[("job.sql", &SMALL_JOB.replace("SELECT data.page,", "SELECT data.pge,"))]);
    assert_snapshot!(place.said(&["check", "job.sql"]));
}

#[test]
fn check_of_a_window_without_a_watermark() {
    let without = SMALL_JOB.replace(",\n  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND", "");
    let place = Place::with(&[("job.sql", &without)]);
    assert_snapshot!(place.said(&["check", "job.sql"]));
}

#[test]
fn check_of_updates_into_a_table_without_a_key() {
    let place = Place::with(&[("job.sql", &SMALL_JOB.replace(", PRIMARY KEY (page) NOT ENFORCED", ""))]);
    assert_snapshot!(place.said(&["check", "job.sql"]));
}

#[test]
fn check_shows_all_errors_of_all_files() {
    let tables = SMALL_JOB.split("INSERT").next().unwrap();
    let place = Place::with(&[
        ("a.sql", tables),
        ("b.sql", "INSERT INTO page_views SELECT data.page, CUONT(*) FROM events GROUP BY data.page;\n"),
        ("c.sql", "INSERT INTO per_hours SELECT 1;\n"),
    ]);
    assert_snapshot!(place.said(&["check", "."]));
}

#[test]
fn explain_for_people() {
    let place = Place::with(&[("job.sql", SMALL_JOB)]);
    assert_snapshot!(place.said(&["explain", "job.sql"]));
}

#[test]
fn explain_for_programs() {
    let place = Place::with(&[("job.sql", SMALL_JOB)]);
    let output = place.output(&["explain", "job.sql", "--format", "json"]);
    let parsed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(parsed["queries"].as_array().map(Vec::len), Some(2));
    assert_snapshot!(String::from_utf8(output.stdout).unwrap());
}

#[test]
fn run_and_its_summary() {
    let place = Place::with(&[("job.sql", SMALL_JOB)]);
    events(&place, "events.jsonl", 0, 1_000);
    let mut lines = std::fs::read_to_string(place.path().join("events.jsonl")).unwrap();
    let icons =
        lines.lines().filter(|l| l.contains("\"page_view\"") && l.contains("\"page\":\"/favicon.ico\"")).count();
    lines.push_str("{\"event_type\":\"page_view\",\"timestamp\":\"soon\"}\n{\"event_type\":\n");
    std::fs::write(place.path().join("events.jsonl"), lines).unwrap();
    assert_snapshot!(place.said(&["run", "job.sql", "--drain", "--local", "local"]));
    let errors: Vec<PathBuf> =
        std::fs::read_dir(place.path().join("local/errors")).unwrap().map(|e| e.unwrap().path()).collect();
    let text: String = errors.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    for (reason, count) in [("bad_timestamp", 1), ("invalid_syntax", 1), ("an icon is no page", icons)] {
        let found = text.matches(&format!("\"reason\":\"{reason}\"")).count();
        assert_eq!(found, count, "lines with the reason '{reason}' in\n{text}");
    }
}

#[test]
fn a_failing_query_is_named_and_ends_the_job() {
    let failing =
        SMALL_JOB.replace("SELECT window_start, COUNT(*)", "SELECT window_start, SUM(CAST(data.page AS BIGINT))");
    // Else the rows that fail would be left out.
    let failing = format!("SET 'tidemill.bisect-batch-on-function-error' = 'false';\n{failing}");
    let place = Place::with(&[("job.sql", &failing)]);
    events(&place, "events.jsonl", 0, 100);
    assert_snapshot!(place.said(&["run", "job.sql", "--drain", "--local", "local"]));
    assert!(!place.path().join("local/checkpoints/job/manifests").exists(), "a failed run must not save its state");
    // Its epochs are logged, so the same query fails in the same way; another one cannot repeat them.
    let again = place.said(&["run", "job.sql", "--drain", "--local", "local"]);
    assert!(again.contains("query 'job:per_hour'") && again.contains("exit code 1"), "{again}");
    std::fs::write(place.path().join("job.sql"), SMALL_JOB).unwrap();
    assert_snapshot!(place.said(&["run", "job.sql", "--drain", "--local", "local"]));
    let fresh = place.said(&["run", "job.sql", "--drain", "--local", "local", "--fresh"]);
    assert!(fresh.contains("exit code 0"), "{fresh}");
}

#[test]
fn the_second_run_goes_on_where_the_first_stopped() {
    let place = Place::with(&[("counts.sql", COUNTS)]);
    events(&place, "first.jsonl", 0, 300);
    events(&place, "second.jsonl", 300, 200);
    let produce = |file: &str| place.said(&["produce", "clicks", "--local", "local", "--from", file]);
    let run = || place.said(&["run", "counts.sql", "--local", "local", "--once"]);
    assert_snapshot!("produce", produce("first.jsonl"));
    assert!(run().contains("300 records"));
    assert_eq!(place.sqlite(TOTAL), Some(300));
    assert!(run().contains("\n0 records"), "everything has been read already");
    produce("second.jsonl");
    assert!(run().contains("200 records"));
    assert_eq!(place.sqlite(TOTAL), Some(500), "the counts go on, they do not start anew");
}

#[test]
fn results_without_saved_state_are_not_written_over() {
    let place = Place::with(&[("counts.sql", COUNTS)]);
    events(&place, "first.jsonl", 0, 50);
    place.said(&["produce", "clicks", "--local", "local", "--from", "first.jsonl"]);
    place.said(&["run", "counts.sql", "--local", "local", "--drain"]);
    std::fs::remove_dir_all(place.path().join("local/checkpoints")).unwrap();
    assert_snapshot!(place.said(&["run", "counts.sql", "--local", "local", "--drain"]));
    let fresh = place.said(&["run", "counts.sql", "--local", "local", "--drain", "--fresh"]);
    assert!(fresh.contains("50 records"), "{fresh}");
    assert_eq!(place.sqlite(TOTAL), Some(50));
}

#[test]
fn a_changed_query_does_not_take_the_state_of_the_old_one() {
    let place = Place::with(&[("counts.sql", COUNTS)]);
    events(&place, "first.jsonl", 0, 50);
    place.said(&["produce", "clicks", "--local", "local", "--from", "first.jsonl"]);
    place.said(&["run", "counts.sql", "--local", "local", "--once"]);
    std::fs::write(place.path().join("counts.sql"), COUNTS.replace("COUNT(*)", "COUNT(DISTINCT `timestamp`)")).unwrap();
    assert_snapshot!(place.said(&["run", "counts.sql", "--local", "local", "--once"]));
}

#[test]
fn without_a_region_an_aws_table_says_where_to_set_it() {
    let place = Place::with(&[("counts.sql", COUNTS)]);
    assert_snapshot!(place.said(&["run", "counts.sql"]));
}

/// Waits until `done`, at most `limit`.
fn wait_for(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn stops_in_order(name: &str) {
    let place = Place::with(&[("counts.sql", COUNTS)]);
    events(&place, "first.jsonl", 0, 200);
    place.said(&["produce", "clicks", "--local", "local", "--from", "first.jsonl"]);
    let mut child =
        place.command(&["run", "counts.sql", "--local", "local", "--epoch-interval", "50ms"]).spawn().unwrap();
    let seen = wait_for(Duration::from_secs(120), || place.sqlite(TOTAL) == Some(200));
    signal(&child, name);
    let asked = Instant::now();
    let ended = wait_for(Duration::from_secs(45), || child.try_wait().unwrap().is_some());
    if !ended {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(seen, "the counts appeared within 120 s: {said}");
    assert!(ended, "it ended within 45 s of {name}: {said}");
    assert_eq!(output.status.code(), Some(0), "after {:?}: {said}", asked.elapsed());
    assert!(said.contains("200 records"), "{said}");
    // What it saved is whole: nothing is read twice.
    assert!(place.said(&["run", "counts.sql", "--local", "local", "--once"]).contains("\n0 records"));
    assert_eq!(place.sqlite(TOTAL), Some(200));
}

#[test]
fn sigterm_ends_a_run_in_order() {
    stops_in_order("-TERM");
}

#[test]
fn sigint_ends_a_run_in_order() {
    stops_in_order("-INT");
}

/// A log file on a disk that is full, or a terminal that has gone.
#[test]
fn a_run_whose_lines_cannot_be_written_ends_as_one_whose_lines_can() {
    let place = Place::with(&[("counts.sql", COUNTS)]);
    events(&place, "first.jsonl", 0, 200);
    place.said(&["produce", "clicks", "--local", "local", "--from", "first.jsonl"]);
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    // Without a place for its state a run begins with a note.
    let copies = "CREATE TABLE t (a BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '3');
CREATE TABLE o (a BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO o SELECT a FROM t;";
    std::fs::write(place.path().join("copies.sql"), copies).unwrap();
    let mut noted = place.command(&["run", "copies.sql"]);
    assert_eq!(noted.stdout(full()).stderr(full()).status().unwrap().code(), Some(0));
    let mut refused = place.command(&["run", "nothing.sql"]);
    assert_eq!(refused.stdout(full()).stderr(full()).status().unwrap().code(), Some(1));

    let mut command = place.command(&["run", "counts.sql", "--local", "local", "--epoch-interval", "50ms"]);
    let mut child = command.stdout(full()).stderr(full()).spawn().unwrap();
    let seen = wait_for(Duration::from_secs(120), || place.sqlite(TOTAL) == Some(200));
    signal(&child, "-TERM");
    let ended = wait_for(Duration::from_secs(45), || child.try_wait().unwrap().is_some());
    if !ended {
        child.kill().unwrap();
    }
    assert!(seen && ended, "seen {seen}, ended {ended}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    // What it saved is whole.
    assert!(place.said(&["run", "counts.sql", "--local", "local", "--once"]).contains("\n0 records"));
}

const PRINTED: &str = "CREATE TABLE t (a BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '100');
CREATE TABLE o (a BIGINT) WITH ('connector' = 'print');
INSERT INTO o SELECT a FROM t;";

/// `| head`: it is not tried again, whoever has checkpoints, and it is no failure to report.
#[test]
fn a_job_whose_reader_has_gone_ends() {
    let place = Place::with(&[("printed.sql", PRINTED)]);
    for more in [&[][..], &["--local", "local"], &["--local", "local", "--lease", "checkpoints"]] {
        let args = [&["run", "printed.sql", "--epoch-interval", "20ms"], more].concat();
        let mut child = place.command(&args).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..5 {
            assert!(lines.next().unwrap().unwrap().starts_with("+I["), "{more:?}");
        }
        drop(lines);
        let ended = wait_for(Duration::from_secs(60), || child.try_wait().unwrap().is_some());
        if !ended {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(ended && !said.contains("error") && !said.contains("failed"), "{more:?}: ended {ended}: {said}");
        assert_eq!(output.status.code(), Some(141), "{more:?}: {said}");
    }
}

/// `| less`: the pipe is full, and the one thread that the job has does not wait in it.
#[test]
fn a_job_whose_reader_stands_still_hears_signals() {
    let place = Place::with(&[("printed.sql", &PRINTED.replace("'100'", "'1000000'"))]);
    let args = ["run", "printed.sql", "--local", "local", "--threads", "1", "--epoch-interval", "20ms"];
    let told = place.path().join("told");
    let mut child = place.command(&args).stderr(std::fs::File::create(&told).unwrap()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 1024]).unwrap();
    // From now on nobody reads. Each write has a thread of its own; one that is there in fifty looks waits.
    let (threads, mut seen) = (PathBuf::from(format!("/proc/{}/task", child.id())), (None, 0));
    let waits = wait_for(Duration::from_secs(60), || {
        let found =
            std::fs::read_dir(&threads).unwrap().flatten().map(|thread| thread.path()).find(|thread| {
                std::fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim_end() == "print")
            });
        seen = if found.is_some() && found == seen.0 { (found, seen.1 + 1) } else { (found, 0) };
        seen.1 >= 50
    });
    signal(&child, "-TERM");
    let heard = wait_for(Duration::from_secs(25), || std::fs::read_to_string(&told).unwrap().contains("stopping: "));
    signal(&child, "-TERM");
    let ended = wait_for(Duration::from_secs(25), || child.try_wait().unwrap().is_some());
    if !ended {
        child.kill().unwrap();
    }
    assert!(waits && heard && ended, "waits {waits}, heard {heard}, ended {ended}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

const LOOKS_UP: &str = "
SET 'state.checkpoints.dir' = 'kept';
SET 'tidemill.errors.path' = 'errors';
CREATE TABLE events (k STRING, proc_time AS PROCTIME()) WITH ('connector' = 'filesystem', 'path' = 'in', 'format' = 'json');
CREATE TABLE names (k STRING, name STRING, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'names');
CREATE TABLE named (k STRING, name STRING) WITH ('connector' = 'filesystem', 'path' = 'out', 'format' = 'json');
INSERT INTO named SELECT e.k, n.name FROM events AS e LEFT JOIN names FOR SYSTEM_TIME AS OF e.proc_time AS n ON n.k = e.k;
";

/// Runs a command until it asks AWS for something, gets no answer, and is told to end, within so long. Answers its exit code, and what it said.
fn terminated(place: &Place, args: &[&str], within: Duration) -> (Option<i32>, String) {
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    silent.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let mut command = place.command(args);
    command.env("AWS_REGION", "eu-west-1").env("AWS_ENDPOINT_URL", &endpoint);
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    let mut child = command.spawn().unwrap();
    let mut connected = None;
    let seen = wait_for(Duration::from_secs(120), || {
        connected = connected.take().or_else(|| silent.accept().ok());
        connected.is_some()
    });
    signal(&child, "-TERM");
    let ended = wait_for(within, || child.try_wait().unwrap().is_some());
    if !ended {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(seen && ended, "{args:?}: connected {seen}, ended {ended}: {said}");
    (output.status.code(), said)
}

/// The kernel gives the first process of a container no signal that it does not listen for: one that comes while it still connects, or
/// loads a state, would be lost, and the process be killed in the end.
#[test]
fn sigterm_is_heard_while_a_run_begins() {
    for (args, leads) in [
        (&["run", "job.sql"][..], false),
        (&["run", "job.sql", "--lease", "checkpoints"], true),
        (&["run", "job.sql", "--lease", "dynamodb:leases"], false),
        (&["fleet", "job.sql"], true),
        (&["fleet", "job.sql", "--lease", "dynamodb:leases"], false),
    ] {
        let place = Place::with(&[("job.sql", LOOKS_UP)]);
        std::fs::create_dir(place.path().join("in")).unwrap();
        let (code, said) = terminated(&place, args, Duration::from_secs(45));
        // Not by the signal.
        assert_eq!(code, Some(0), "{args:?}: {said}");
        assert!(said.contains("stopped before ") && said.contains("leads: ") == leads, "{args:?}: {said}");
        if leads {
            let lease = place.path().join("kept/job/lease");
            let stored = std::fs::read_dir(&lease).map_or_else(
                |_| std::fs::read_to_string(&lease).unwrap(),
                |files| files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect(),
            );
            assert!(stored.contains(r#""released":true"#), "{args:?}: the lease was given back: {stored}");
        }
    }
}

/// So does work that has no order to end in: as the first process of a container it would not end by a signal that it does not listen for.
#[test]
fn sigterm_is_heard_by_commands_that_take_long() {
    let archive = "CREATE TABLE t (k STRING) WITH ('connector' = 'datagen', 'number-of-rows' = '3');
CREATE TABLE o (k STRING) WITH ('connector' = 'filesystem', 'path' = 'archive', 'format' = 'parquet');
INSERT INTO o SELECT k FROM t;";
    let place = Place::with(&[("job.sql", LOOKS_UP), ("archive.sql", archive)]);
    place.said(&["run", "archive.sql", "--drain"]);
    for args in [
        &["check", "job.sql", "--aws"][..],
        &["backfill", "job.sql", "--from", "archive"],
        &["state", "list", "s3://bucket/kept/job"],
    ] {
        let (code, said) = terminated(&place, args, Duration::from_secs(25));
        // Not by the signal's own action, which the first process of a container has not.
        assert_eq!(code, Some(130), "{args:?}: {said}");
    }
}

/// The first block of this kind behind `heading` in README.md.
fn readme_block(kind: &str) -> String {
    let readme = std::fs::read_to_string(top("README.md")).unwrap();
    let start = readme.find(&format!("```{kind}\n")).unwrap_or_else(|| panic!("README.md has a block of {kind}"));
    let block = &readme[start + kind.len() + 4..];
    block[..block.find("```").unwrap()].to_owned()
}

#[test]
fn the_readme_example_prints_what_the_readme_says() {
    let place = Place::with(&[("busiest_pages.sql", &readme_block("sql"))]);
    let input = format!("IN={}", top("tests/data/weblog.jsonl").display());
    let output = place.output(&["run", "busiest_pages.sql", "--drain", "--param", &input]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<&str> = printed.lines().filter(|line| line.starts_with("+I")).collect();
    let expected = readme_block("text");
    let expected: Vec<&str> = expected.lines().filter(|line| line.starts_with("+I")).collect();
    assert_eq!(rows, expected);
}

const KEPT: &str = "
CREATE TABLE clicks (page STRING, `timestamp` TIMESTAMP_LTZ(3)) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
CREATE TABLE kept (page STRING) WITH ('connector' = 'filesystem', 'path' = 's3://bucket/kept', 'format' = 'json');
INSERT INTO kept SELECT page FROM clicks;
";

#[test]
fn fresh_sets_the_files_of_earlier_runs_aside() {
    for (path, folder) in [("s3://bucket/kept", "local/s3/bucket/kept"), ("kept", "kept")] {
        let place = Place::with(&[("kept.sql", &KEPT.replace("s3://bucket/kept", path))]);
        events(&place, "first.jsonl", 0, 50);
        place.said(&["produce", "clicks", "--local", "local", "--from", "first.jsonl"]);
        place.said(&["run", "kept.sql", "--local", "local", "--drain"]);
        let lines = |behind: &str| -> usize {
            let files = std::fs::read_dir(place.path().join(format!("{folder}{behind}"))).unwrap();
            files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap().lines().count()).sum()
        };
        std::fs::write(place.path().join(folder).join("of-somebody-else.jsonl"), "{}\n").unwrap();
        let fresh = place.said(&["run", "kept.sql", "--local", "local", "--drain", "--fresh"]);
        assert!(fresh.contains("were moved from") && fresh.contains("kept.replaced-1"), "{fresh}");
        assert_eq!((lines(""), lines(".replaced-1")), (51, 50));
        place.said(&["run", "kept.sql", "--local", "local", "--drain", "--fresh"]);
        assert_eq!((lines(""), lines(".replaced-2")), (51, 50));
    }
}

const SURPRISING: &str = "
CREATE TABLE clicks (page STRING, user_id STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = 'in', 'format' = 'json');
CREATE TABLE narrow (page STRING, n BIGINT, PRIMARY KEY (page) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = 'narrow', 'format' = 'json');
CREATE TABLE wide (k STRING, start_time TIMESTAMP(3), n BIGINT, PRIMARY KEY (k, start_time) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = 'wide', 'format' = 'json');
CREATE TABLE top (window_start TIMESTAMP(3), place BIGINT, page STRING, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = 'top', 'format' = 'json');
CREATE VIEW counted AS SELECT window_start, window_end, page, COUNT(*) AS n
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, page;
INSERT INTO narrow SELECT page, n FROM counted;
INSERT INTO wide SELECT CONCAT('page#', page), window_start, n FROM counted;
INSERT INTO top SELECT window_start, place, page, n FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY n DESC) AS place FROM counted) WHERE place <= 3;
INSERT INTO top SELECT window_start, place, page, n FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY n DESC, page) AS place FROM counted) WHERE place <= 3;
";

#[test]
fn check_tells_of_narrow_keys_and_of_ties() {
    let place = Place::with(&[("surprising.sql", SURPRISING)]);
    assert_snapshot!(place.said(&["check", "surprising.sql"]));
}

/// Each row is used twice, and that is no error of accounting.
#[test]
fn a_table_that_a_query_reads_twice() {
    let sql =
        "CREATE TABLE t (a BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '3', 'fields.a.kind' = 'sequence',
  'fields.a.start' = '1', 'fields.a.end' = '3');
CREATE TABLE o (a BIGINT) WITH ('connector' = 'print');
INSERT INTO o SELECT a FROM t UNION ALL SELECT a * 10 FROM t WHERE a > 1;";
    let output = Place::with(&[("twice.sql", sql)]).output(&["run", "twice.sql", "--drain"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("3 rows in, 5 used"), "{text}");
}

/// Between two rows of it there is nothing, and that is not its end.
#[test]
fn made_rows_are_read_to_their_end_though_they_come_slowly() {
    let made = "CREATE TABLE t (a BIGINT) WITH ('connector' = 'datagen', OPTIONS);
CREATE TABLE o (a BIGINT) WITH ('connector' = 'print');
INSERT INTO o SELECT a FROM t;";
    for ending in ["--drain", "--once"] {
        let sql = made.replace("OPTIONS", "'number-of-rows' = '8', 'rows-per-second' = '20'");
        let said = Place::with(&[("made.sql", &sql)]).said(&["run", "made.sql", ending]);
        assert!(said.contains("8 rows in, 8 used"), "{ending}: {said}");
        // Those that have no end are read up to now.
        for rate in ["1", "10000"] {
            let sql = made.replace("OPTIONS", &format!("'rows-per-second' = '{rate}'"));
            let said = Place::with(&[("made.sql", &sql)]).said(&["run", "made.sql", ending]);
            assert!(said.contains(" used"), "{ending}: {said}");
        }
    }
}

/// What is there belongs to a table of files, however the program is started; `--from` may say otherwise.
#[test]
fn a_plain_run_reads_the_files_that_are_there() {
    let job = "\
CREATE TABLE events (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'in', 'format' = 'json');
CREATE TABLE copies (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}', 'format' = 'json');
INSERT INTO copies SELECT n FROM events;
";
    let place = Place::with(&[("job.sql", job)]);
    std::fs::create_dir(place.path().join("in")).unwrap();
    for (name, numbers) in [("a.jsonl", 0..20), ("b.jsonl", 20..30)] {
        let lines: String = numbers.map(|n| format!("{{\"n\":{n}}}\n")).collect();
        std::fs::write(place.path().join("in").join(name), lines).unwrap();
    }
    let rows = |out: &str, more: &[&str]| {
        let output = place.output(&[&["run", "job.sql", "--param", &format!("OUT={out}")][..], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let files = std::fs::read_dir(place.path().join(out)).into_iter().flatten();
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap().lines().count()).sum::<usize>()
    };
    assert_eq!(rows("all", &[]), 30);
    assert_eq!(rows("none", &["--from", "latest"]), 0);
}
