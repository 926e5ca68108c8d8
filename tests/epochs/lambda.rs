//! Options under the names that a Lambda user knows, each with what it does: size and window of a batch, pauses between retries,
//! the destination of what has failed. (`poison` tries the others.)

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::lines;

const SQL: &str = "
CREATE TABLE clicks (n BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
CREATE TABLE counts (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
INSERT INTO counts SELECT 'all', COUNT(*) FROM clicks;
";

struct Place(tempfile::TempDir);

impl Place {
    /// The job under these settings, and an empty stream of one shard.
    fn new(settings: &str, sql: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(place.path().join("local/kinesis/clicks")).unwrap();
        std::fs::write(place.path().join("local/kinesis/clicks/shard.jsonl"), "").unwrap();
        std::fs::write(place.path().join("job.sql"), format!("{settings}\n{sql}")).unwrap();
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn put(&self, text: &str) {
        let stream = self.path().join("local/kinesis/clicks/shard.jsonl");
        std::fs::OpenOptions::new().append(true).open(stream).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(["run", "job.sql", "--local", "local", "--from", "trim_horizon"]).args(more);
        command.current_dir(self.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs what is there.
    fn once(&self) -> String {
        let output = self.command(&["--once"]).output().unwrap();
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        said
    }

    fn counted(&self) -> i64 {
        let read = || {
            let file = self.path().join("local/dynamodb.sqlite");
            let open = rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            open.query_row("SELECT c FROM counts", [], |row| row.get(0))
        };
        // Not yet there, or just being written.
        read().unwrap_or(0)
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// How many epochs have given a count: a row each.
fn epochs(said: &str) -> u64 {
    let (before, _) = said.split_once(" rows out").unwrap_or_else(|| panic!("{said}"));
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

fn end(child: Child) -> String {
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    said
}

fn records(count: u64) -> String {
    (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

#[test]
fn a_batch_has_its_size() {
    for (settings, wanted) in [
        ("", 1),
        ("SET 'tidemill.batch-size' = '10';", 30),
        ("SET 'tidemill.batch-size' = '7';", 43),
        ("SET 'tidemill.epoch.rows' = '10';", 30),
    ] {
        // So that no epoch ends by its time.
        let place = Place::new(&format!("{settings} SET 'tidemill.batching-window' = '1 h';"), SQL);
        place.put(&records(300));
        let said = place.once();
        assert_eq!(epochs(&said), wanted, "{settings}: {said}");
        assert_eq!(place.counted(), 300, "{settings}");
    }
}

#[test]
fn a_batch_waits_for_its_window() {
    const RECORDS: i64 = 12;
    // Puts records one by one, of which so many are counted before the next one is put.
    let run = |window: &str, waits: i64| {
        let place = Place::new(&format!("SET 'tidemill.batching-window' = '{window}';"), SQL);
        let mut child = place.command(&[]).spawn().unwrap();
        for number in 1..=RECORDS {
            place.put("{\"n\":1}\n");
            let began = Instant::now();
            while number <= waits && place.counted() < number {
                let (lasts, ended) = (began.elapsed(), child.try_wait().unwrap());
                assert!(lasts < Duration::from_secs(60) && ended.is_none(), "{window}: {number} are not counted");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        // Time for those that nobody waited for.
        std::thread::sleep(Duration::from_millis(if waits < RECORDS { 1_500 } else { 0 }));
        let before = place.counted();
        let said = end(child);
        assert_eq!(place.counted(), RECORDS, "{said}");
        (before, epochs(&said))
    };
    let (before, many) = run("20 ms", RECORDS);
    assert!(before == RECORDS && many >= RECORDS as u64, "{before} counted, {many} epochs");
    // The first results are not waited for: the first epoch ends soon.
    let (before, few) = run("1 h", 1);
    assert!(before == 1 && few == 2, "{before} counted, {few} epochs");
}

#[test]
fn what_has_failed_goes_to_its_destination() {
    for (destination, folder) in
        [("elsewhere/failed", "elsewhere/failed"), ("s3://bucket/failed", "local/s3/bucket/failed")]
    {
        for name in ["tidemill.on-failure-destination", "tidemill.errors.path"] {
            let place = Place::new(&format!("SET '{name}' = '{destination}';"), SQL);
            place.put("{\"n\":1}\nbroken\n[\n");
            let said = place.once();
            assert_eq!(place.counted(), 1, "{said}");
            let mut records: Vec<String> = Vec::new();
            let mut folders = vec![place.path().join(folder)];
            while let Some(folder) = folders.pop() {
                records.extend(lines(&folder));
                let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
                folders.extend(entries.filter(|path| path.is_dir()));
            }
            let of = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap()["record"].clone();
            let mut records: Vec<serde_json::Value> = records.iter().map(of).collect();
            records.sort_by_key(ToString::to_string);
            assert_eq!(records, ["[", "broken"], "{name} = {destination}: {said}");
            assert!(!place.path().join("local/errors").exists(), "{name} = {destination}");
        }
    }
}

/// `cli::attempts` has the whole of the pauses; here it is the setting.
#[test]
fn pauses_between_retries_begin_with_the_delay_and_double() {
    let place = Place::new(
        "SET 'tidemill.retry-delay' = '30 ms';
         SET 'tidemill.maximum-retry-attempts' = '4';
         SET 'tidemill.bisect-batch-on-function-error' = 'false';",
        &SQL.replace("COUNT(*)", "SUM(7 / n)"),
    );
    place.put("{\"n\":0}\n");
    let began = Instant::now();
    let output = place.command(&["--epoch-interval", "20ms"]).output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for (attempt, pause) in [(1, 30), (2, 60), (3, 120), (4, 240)] {
        let line = format!("failed ({attempt} of 4 retries follows in {pause} ms)");
        assert_eq!(said.matches(&line).count(), 1, "'{line}' in {said}");
    }
    assert!(began.elapsed() >= Duration::from_millis(450), "it has waited: {:?}", began.elapsed());
}

/// -1 of Lambda, and its default there. The default here is 3.
#[test]
fn minus_one_retry_attempts_are_for_ever() {
    let sql = SQL.replace("COUNT(*)", "SUM(7 / n)");
    let settings = |most: &str| {
        format!(
            "SET 'tidemill.retry-delay' = '1 ms'; SET 'tidemill.maximum-retry-attempts' = '{most}';
             SET 'tidemill.bisect-batch-on-function-error' = 'false';"
        )
    };
    let place = Place::new(&settings("-1"), &sql);
    place.put("{\"n\":0}\n");
    let mut child = place.command(&["--epoch-interval", "20ms"]).spawn().unwrap();
    let mut said = String::new();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    for line in lines {
        let line = line.unwrap();
        said.push_str(&line);
        said.push('\n');
        if line.contains("failed (retry 7 follows in 64 ms)") {
            break;
        }
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "it goes on: {said}");
    for retry in 1..=7 {
        assert_eq!(
            said.matches(&format!("failed (retry {retry} follows in {} ms)", 1 << (retry - 1))).count(),
            1,
            "{said}"
        );
    }
    let wrong = Place::new(&settings("-2"), &sql).command(&[]).output().unwrap();
    let said = self::said(&wrong);
    assert!(!wrong.status.success() && said.contains("a number of attempts") && said.contains("'-1'"), "{said}");
}
