//! The local disk is full: whatever cannot be written says so, and the next run, which has room again, goes on as if nothing had been.
//!
//! A limit on the size of a file (`ulimit -f`, whose signal is ignored) makes writes fail in the midst of one, as a full disk does, and
//! chooses which file; where a file system can be mounted, a disk is really full.

#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use tidemill::contracts::splitmix64;

const ROWS: u64 = 2_000;
/// What `ulimit -f` counts in.
const BLOCK_BYTES: u64 = 512;

const EVENTS: &str = "
CREATE TABLE events (n BIGINT, k STRING, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = 'in', 'format' = 'json');
";

/// A folder with a job and its input: rows whose text no format makes shorter, 300 bytes of it.
fn place(folder: &Path, job: &str) {
    place_rows(folder, job, ROWS, 300);
}

/// The same, of so many rows of less than an hour with texts of that length.
fn place_rows(folder: &Path, job: &str, rows: u64, length: u64) {
    let mut text = String::new();
    for n in 0..rows {
        let k: String = (0..length).map(|i| char::from(b'!' + (splitmix64(n * length + i) % 94) as u8)).collect();
        let (k, second) = (k.replace(['"', '\\'], "-"), n * ROWS / rows);
        writeln!(text, r#"{{"n":{n},"k":"{k}","at":"2026-03-01T00:{:02}:{:02}Z"}}"#, second / 60, second % 60).unwrap();
    }
    std::fs::create_dir(folder.join("in")).unwrap();
    std::fs::write(folder.join("in/a.jsonl"), text).unwrap();
    std::fs::write(folder.join("job.sql"), format!("{EVENTS}{job}")).unwrap();
}

/// Runs the job, in epochs of `rows` and with more `options`; no file becomes larger than `most` bytes.
fn command(folder: &Path, most: Option<u64>, rows: u64, options: &str) -> Command {
    let limit = most.map_or("unlimited".to_owned(), |bytes| (bytes / BLOCK_BYTES).to_string());
    let program = env!("CARGO_BIN_EXE_tidemill");
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"", "sh", &limit, program])
        .args(["run", "job.sql", "--local", "local", "--epoch-rows", &rows.to_string(), "--epoch-interval", "1h"])
        .args(options.split(' '))
        .current_dir(folder);
    command
}

/// Answers the exit code of such a run, and what it says.
fn run(folder: &Path, most: Option<u64>, rows: u64, options: &str) -> (Option<i32>, String) {
    let output = command(folder, most, rows, options).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code(), said)
}

#[track_caller]
fn fails(outcome: (Option<i32>, String), wanted: &[&str]) {
    let (code, said) = outcome;
    assert_eq!(code, Some(75), "{said}");
    for words in wanted {
        assert!(said.contains(words), "'{words}' in {said}");
    }
}

#[track_caller]
fn done(outcome: (Option<i32>, String)) -> String {
    assert_eq!(outcome.0, Some(0), "{}", outcome.1);
    outcome.1
}

/// The numbers in all files of a sink that a reader sees, sorted.
fn numbers(folder: &Path) -> Vec<i64> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    for path in entries.filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.')) {
        if path.extension().is_some_and(|ending| ending == "parquet") {
            let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
            found.extend(reader.get_row_iter(None).unwrap().map(|row| row.unwrap().get_long(0).unwrap()));
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            let number = |line: &str| line[5..].split([',', '}']).next().unwrap().parse::<i64>().unwrap();
            found.extend(text.lines().map(number));
        }
    }
    found.sort_unstable();
    found
}

/// Nothing is lost, and nothing doubled.
#[track_caller]
fn has_each_once(folder: &Path, rows: u64) {
    assert_eq!(numbers(folder), (0..rows as i64).collect::<Vec<_>>(), "{}", folder.display());
}

const NUMBERS: &str =
    "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'out', 'format' = 'json');
INSERT INTO numbers SELECT n FROM events;";

#[test]
fn an_epoch_whose_cut_cannot_be_written_has_no_effects() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), &format!("SET 'tidemill.retry-delay' = '10 ms';\n{NUMBERS}"));
    let (most, options) = (64 << 10, "--drain --checkpoint-interval 0");
    let log = folder.path().join("local/checkpoints/job/epochs.log");
    fails(run(folder.path(), Some(most), 2, options), &["cannot write the epoch log", "epochs.log", "File too large"]);
    let whole = std::fs::read(&log).unwrap();
    assert!(whole.ends_with(b"\n") && whole.len() as u64 > most - 1_000, "{} bytes", whole.len());
    // There is room for the beginning of a run, but not for its epochs: one that nobody waits for tries again for a while.
    let retries = [
        "failed (1 of 3 retries follows",
        "failed (3 of 3 retries follows",
        "error[unavailable]: cannot write the epoch log",
    ];
    fails(run(folder.path(), Some(most + 1_024), 2, "--checkpoint-interval 0"), &retries);
    assert!(numbers(&folder.path().join("out")).len() < ROWS as usize);
    done(run(folder.path(), None, 2, options));
    has_each_once(&folder.path().join("out"), ROWS);
}

#[test]
fn state_that_cannot_be_spilled_ends_the_run_with_the_name_of_its_query() {
    let job =
        "CREATE TABLE hours (n BIGINT, c BIGINT) WITH ('connector' = 'filesystem', 'path' = 'out', 'format' = 'json');
INSERT INTO hours SELECT MAX(n), COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' HOUR))
GROUP BY window_start, window_end, k;";
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), job);
    let options = "--drain --checkpoint-interval 0 --memory 1MiB";
    let wanted = ["query 'job:hours'", "cannot write spilled state", "make room on that disk", "--spill-dir"];
    fails(run(folder.path(), Some(128 << 10), 400, options), &wanted);
    assert!(!folder.path().join("out").exists() && folder.path().join("local/spill").is_dir());
    let said = done(run(folder.path(), None, 400, options));
    assert!(said.contains("of state were put on disk"), "{said}");
    has_each_once(&folder.path().join("out"), ROWS);
}

/// No record is to blame for it, so none becomes poison, which would outlive the full disk.
#[test]
fn what_a_plan_cannot_spill_ends_the_run_and_is_no_fault_of_the_records() {
    // The state has 3 MiB. When the window closes, 17 are sorted, for which a sort takes twice as much: a fifth of the memory has 26.
    const MANY: u64 = 30_000;
    let job = "
CREATE TABLE ranks (n BIGINT, r BIGINT) WITH ('connector' = 'filesystem', 'path' = 'out', 'format' = 'json');
CREATE VIEW long AS SELECT window_start, window_end, MAX(n) AS n, REPEAT(k, 15) AS t
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' HOUR)) GROUP BY window_start, window_end, k;
INSERT INTO ranks SELECT n, r FROM (
  SELECT n, RANK() OVER (PARTITION BY window_start, window_end ORDER BY t, n) AS r FROM long)
WHERE r > 0;";
    let folder = tempfile::tempdir().unwrap();
    place_rows(folder.path(), job, MANY, 40);
    let options = "--drain --checkpoint-interval 0 --memory 128MiB";
    let log = folder.path().join("local/checkpoints/job/epochs.log");
    // As often as makes an epoch poison.
    for _ in 0..5 {
        let wanted = ["query 'job:ranks'", "cannot write or read what a plan has put on disk", "--spill-dir"];
        fails(run(folder.path(), Some(5 << 20), 5_000, options), &wanted);
        assert!(!std::fs::read_to_string(&log).unwrap().contains("failed"), "no epoch is blamed for it");
    }
    assert!(!folder.path().join("out").exists());
    done(run(folder.path(), None, 5_000, options));
    has_each_once(&folder.path().join("out"), MANY);
}

#[test]
fn a_file_of_a_sink_that_cannot_be_written_ends_the_run_with_the_name_of_its_query() {
    for format in ["parquet", "json"] {
        let job = format!(
            "CREATE TABLE archive (n BIGINT, k STRING) WITH ('connector' = 'filesystem', 'path' = 'out', 'format' = '{format}');
INSERT INTO archive SELECT n, k FROM events;"
        );
        let folder = tempfile::tempdir().unwrap();
        place(folder.path(), &job);
        let options = "--drain --checkpoint-interval 0";
        let wanted = ["query 'job:archive'", "table 'archive'", "could not be written", "File too large"];
        fails(run(folder.path(), Some(256 << 10), 200, options), &wanted);
        assert_eq!(numbers(&folder.path().join("out")), [0_i64; 0], "a part of a file is not to be seen");
        done(run(folder.path(), None, 200, options));
        has_each_once(&folder.path().join("out"), ROWS);
    }
}

/// More is refused at once than waits for the error output, so whoever sends it finds that the output has gone. That is neither the query's
/// fault nor that of the epoch which its sink has just written: none becomes poison, which would outlive the full disk.
#[test]
fn an_error_output_that_cannot_be_written_ends_the_run_and_is_no_fault_of_the_records() {
    const GOOD: u64 = 400;
    const ALL: u64 = 600;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    place(folder, &NUMBERS.replace("FROM events", &format!("FROM events WHERE REQUIRE(n < {GOOD}, 'too large')")));
    // Epochs of 200 records: two are good, and the third has 12 MB that are refused.
    let wide = "x".repeat(60_000);
    let record = |n: u64| {
        let text = if n < GOOD { "" } else { wide.as_str() };
        format!("{{\"n\":{n},\"k\":\"{text}\",\"at\":\"2026-03-01T00:00:00Z\"}}\n")
    };
    std::fs::write(folder.join("in/a.jsonl"), (0..ALL).map(record).collect::<String>()).unwrap();
    let options = "--drain --checkpoint-interval 0";
    let log = folder.join("local/checkpoints/job/epochs.log");
    // As often as makes an epoch poison.
    for _ in 0..5 {
        let outcome = run(folder, Some(256 << 10), 200, options);
        assert!(!outcome.1.contains("has gone"), "it says why: {}", outcome.1);
        fails(outcome, &["error[unavailable]: error output: ", "could not be written", "File too large"]);
        assert!(!std::fs::read_to_string(&log).unwrap().contains("failed"), "no epoch is blamed for it");
    }
    let said = done(run(folder, None, 200, options));
    assert!(said.contains("200 rejected"), "{said}");
    has_each_once(&folder.join("out"), GOOD);
    // (What was written before the disk was full is there once more, or in part.)
    let mut told = BTreeSet::new();
    for path in files(&folder.join("local/errors")) {
        let text = std::fs::read_to_string(path).unwrap();
        let records = text.lines().filter(|line| line.ends_with('}')).map(|line| {
            let (_, record) = line.split_once(r#"{\"n\":"#).unwrap();
            record.split(',').next().unwrap().parse::<u64>().unwrap()
        });
        told.extend(records);
    }
    assert_eq!(told, (GOOD..ALL).collect::<BTreeSet<_>>());
}

#[test]
fn a_table_of_the_stand_in_for_dynamodb_that_cannot_be_written_ends_the_run() {
    let job = "CREATE TABLE counts (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
INSERT INTO counts SELECT k, COUNT(*) FROM events GROUP BY k;";
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), &format!("SET 'tidemill.retry-delay' = '10 ms';\n{job}"));
    let options = "--once --checkpoint-interval 0";
    fails(run(folder.path(), Some(256 << 10), 200, options), &["query 'job:counts'", "local DynamoDB table 'counts'"]);
    // One that nobody waits for tries again for a while, and not for ever: no service is out of reach.
    let retries = ["failed (1 of 3 retries follows", "failed (3 of 3 retries follows", "local DynamoDB table 'counts'"];
    fails(run(folder.path(), Some(256 << 10), 200, "--checkpoint-interval 0"), &retries);
    done(run(folder.path(), None, 200, options));
    let store = rusqlite::Connection::open(folder.path().join("local/dynamodb.sqlite")).unwrap();
    let of =
        |what: &str| store.query_row(&format!("SELECT {what} FROM counts"), [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!([of("COUNT(*)"), of("SUM(c)")], [ROWS as i64; 2]);
}

const COUNTS: &str =
    "CREATE TABLE counts (n BIGINT, c BIGINT) WITH ('connector' = 'filesystem', 'path' = 'out', 'format' = 'json');
INSERT INTO counts SELECT MAX(n), COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '20' MINUTE))
GROUP BY window_start, window_end, k;";

/// Epochs do not wait for a checkpoint, nor end with it. Only the last one of a run has nothing behind it that could make up for it.
#[test]
fn a_checkpoint_that_cannot_be_written_is_a_warning_and_epochs_go_on() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), COUNTS);
    let options = "--once --checkpoint-interval 1ms";
    let wanted = [
        "WARN",
        "no checkpoint: cannot write 'local/checkpoints/job/state/",
        "error[unavailable]: the last checkpoint",
    ];
    // An epoch has more state than fits into a file, and all epochs together have fewer results.
    fails(run(folder.path(), Some(48 << 10), 200, options), &wanted);
    let closed = numbers(&folder.path().join("out"));
    assert_eq!(closed, (0..1_200).collect::<Vec<_>>(), "the first window has closed, after six such epochs");
    let state = files(&folder.path().join("local/checkpoints/job/state"));
    assert!(state.is_empty(), "nothing that was written in part takes room: {state:?}");
    let said = done(run(folder.path(), None, 200, options));
    assert!(said.starts_with("2000 records"), "they are all repeated: {said}");
    assert!(!files(&folder.path().join("local/checkpoints/job/state")).is_empty());
    done(run(folder.path(), None, 200, "--drain"));
    has_each_once(&folder.path().join("out"), ROWS);
}

/// Its log lies on the same disk: what it cannot say is no reason to end otherwise.
#[test]
fn a_warning_that_cannot_be_written_either_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), COUNTS);
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = command(folder.path(), Some(48 << 10), 200, "--once --checkpoint-interval 1ms");
    assert_eq!(command.stderr(full()).stdout(full()).status().unwrap().code(), Some(75));
    let closed = numbers(&folder.path().join("out"));
    assert_eq!(closed, (0..1_200).collect::<Vec<_>>(), "the first window has closed, as if its warnings could be read");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

/// A file system of a few MiB, until the test ends.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mounted(options: &str, folder: &Path) -> bool {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder);
        command.output().is_ok_and(|output| output.status.success())
    }

    /// `None` where this process may not mount one.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        Self::mounted("size=1m", folder.path()).then(|| Self(folder))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

#[test]
fn a_disk_that_is_really_full() {
    let Some(disk) = Disk::new() else {
        println!("skipped: this process may not mount a file system");
        return;
    };
    let job = format!(
        "{NUMBERS}
CREATE TABLE archive (n BIGINT, k STRING) WITH ('connector' = 'filesystem', 'path' = 'archive', 'format' = 'parquet');
INSERT INTO archive SELECT n, k FROM events;
CREATE TABLE hours (n BIGINT, c BIGINT) WITH ('connector' = 'filesystem', 'path' = 'hours', 'format' = 'json');
INSERT INTO hours SELECT MAX(n), COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' HOUR))
GROUP BY window_start, window_end, k;"
    );
    let folder = disk.0.path();
    place(folder, &job);
    // The input has 700 KB, and so has what is made of it.
    fails(run(folder, None, 100, "--drain --checkpoint-interval 1ms"), &["No space left on device"]);
    fails(run(folder, None, 100, "--drain --checkpoint-interval 1ms"), &["No space left on device"]);
    assert!(Disk::mounted("remount,size=16m", folder), "there is room again");
    done(run(folder, None, 100, "--drain --checkpoint-interval 1ms"));
    for sink in ["out", "archive", "hours"] {
        has_each_once(&folder.join(sink), ROWS);
    }
}
