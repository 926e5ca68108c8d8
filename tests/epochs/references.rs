//! Reference tables that change between an epoch and its repetition: the repeated epoch joins with what it had.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{cuts, lines, program};

/// Each click is written with the price of then, added up, told, and archived in a file that stays open over checkpoints.
const JOB: &str = "
CREATE TABLE clicks (n BIGINT, k STRING) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
CREATE TABLE prices (k STRING, price BIGINT, note STRING) WITH ('connector' = 'filesystem', 'path' = 'prices', 'format' = 'json');
CREATE VIEW priced AS SELECT c.n, c.k, p.price FROM clicks AS c JOIN prices AS p ON p.k = c.k;
CREATE TABLE bills (n BIGINT, price BIGINT, PRIMARY KEY (n) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'bills');
CREATE TABLE totals (k STRING, total BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'totals');
CREATE TABLE alerts (n BIGINT, price BIGINT) WITH ('connector' = 'sns', 'topic' = 'alerts');
CREATE TABLE archive (n BIGINT, price BIGINT)
WITH ('connector' = 'filesystem', 'path' = 'archive', 'format' = 'json', 'sink.rolling-policy.rollover-interval' = '300 s');
INSERT INTO bills SELECT n, price FROM priced;
INSERT INTO totals SELECT k, SUM(price) FROM priced GROUP BY k;
INSERT INTO alerts SELECT n, price FROM priced;
INSERT INTO archive SELECT n, price FROM priced;
";

struct Place(tempfile::TempDir);

impl Place {
    fn new(price: i64) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.at("prices")).unwrap();
        place.price(price);
        std::fs::write(place.at("job.sql"), JOB).unwrap();
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// `a` costs so much, and `b` ten times that.
    fn price(&self, price: i64) {
        let line = |k: &str, price: i64| format!("{{\"k\":\"{k}\",\"price\":{price},\"note\":\"not used\"}}\n");
        std::fs::write(self.at("prices/.next"), line("a", price) + &line("b", 10 * price)).unwrap();
        std::fs::rename(self.at("prices/.next"), self.at("prices/now.jsonl")).unwrap();
    }

    fn produce(&self, clicks: std::ops::Range<i64>) {
        let text: Vec<String> =
            clicks.map(|n| format!(r#"{{"n":{n},"k":"{}"}}"#, if n % 3 == 0 { "b" } else { "a" })).collect();
        std::fs::write(self.at("new.jsonl"), text.join("\n") + "\n").unwrap();
        self.done(&["produce", "clicks", "--local", "local", "--from", "new.jsonl"]);
    }

    #[track_caller]
    fn done(&self, args: &[&str]) -> String {
        let output = program(self.0.path(), args);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "tidemill {args:?}: {said}");
        said
    }

    fn command(more: &[&str]) -> Vec<String> {
        let args = ["run", "job.sql", "--local", "local", "--once", "--from", "trim_horizon", "--epoch-interval", "1h"];
        args.iter().chain(more).map(ToString::to_string).collect()
    }

    /// Runs what is there, to the end.
    #[track_caller]
    fn run(&self, more: &[&str]) -> String {
        self.done(&Self::command(more).iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs what is there, to an error. Answers it.
    #[track_caller]
    fn refused(&self) -> String {
        let output = program(self.0.path(), &Self::command(&[]).iter().map(String::as_str).collect::<Vec<_>>());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{said}");
        said
    }

    /// Runs to a place where it dies.
    #[track_caller]
    fn killed(&self, crash: &str, more: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(Self::command(more)).current_dir(self.0.path()).env("TIDEMILL_CRASH_AT", crash);
        let output = command.output().unwrap();
        assert!(output.status.code().is_none(), "{crash}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs to a place where it dies, in small epochs and with checkpoints whenever there can be one. It does not end by itself: however long a
    /// checkpoint takes, files are still open when it is made.
    #[track_caller]
    fn killed_live(&self, crash: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(["run", "job.sql", "--local", "local", "--from", "trim_horizon", "--epoch-interval", "10ms"]);
        command.args(["--epoch-rows", "5", "--checkpoint-interval", "1ms"]).current_dir(self.0.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut run = command.env("TIDEMILL_CRASH_AT", crash).spawn().unwrap();
        let began = Instant::now();
        let status = loop {
            if let Some(status) = run.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > Duration::from_secs(120) {
                run.kill().unwrap();
                panic!("{crash} is not reached");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.code().is_none(), "{crash}: it ended by itself");
        assert!(lines(&self.at("archive")).is_empty(), "files are open");
    }

    /// Price of each click, as three sinks have it: each once, and the same in all.
    #[track_caller]
    fn prices(&self) -> BTreeMap<i64, i64> {
        let once = |rows: Vec<(i64, i64)>, what: &str| {
            let map: BTreeMap<i64, i64> = rows.iter().copied().collect();
            assert_eq!(map.len(), rows.len(), "{what}: some are there twice: {rows:?}");
            map
        };
        let pair = |value: &Value| (value["n"].as_i64().unwrap(), value["price"].as_i64().unwrap());
        let archived =
            lines(&self.at("archive")).iter().map(|line| pair(&serde_json::from_str(line).unwrap())).collect();
        let archived = once(archived, "archive");
        let topic = std::fs::read_to_string(self.at("local/sns/alerts.jsonl")).unwrap();
        let message = |line: &str| -> Value {
            let line: Value = serde_json::from_str(line).unwrap();
            serde_json::from_str(line["message"].as_str().unwrap()).unwrap()
        };
        assert_eq!(once(topic.lines().map(|line| pair(&message(line))).collect(), "alerts"), archived);
        assert_eq!(self.bills(), archived);
        let total: i64 = self.store().query_row("SELECT SUM(total) FROM totals", [], |row| row.get(0)).unwrap();
        assert_eq!(total, archived.values().sum::<i64>());
        archived
    }

    /// The same, as one of them has it, which takes the last.
    fn bills(&self) -> BTreeMap<i64, i64> {
        let store = self.store();
        let mut bills = store.prepare("SELECT n, price FROM bills").unwrap();
        bills.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    }

    /// How many clicks have one, while a job runs.
    fn billed(&self) -> Option<i64> {
        let read_only = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let store = rusqlite::Connection::open_with_flags(self.at("local/dynamodb.sqlite"), read_only).ok()?;
        store.query_row("SELECT COUNT(*) FROM bills", [], |row| row.get(0)).ok()
    }

    fn store(&self) -> rusqlite::Connection {
        let file = self.at("local/dynamodb.sqlite");
        rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
    }

    /// Files of versions that are kept.
    fn versions(&self) -> BTreeSet<PathBuf> {
        let entries = std::fs::read_dir(self.at("local/checkpoints/job/references")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// What each click costs; prices are given for a range of clicks.
fn wanted<const N: usize>(parts: [(std::ops::Range<i64>, i64); N]) -> BTreeMap<i64, i64> {
    let price = |n: i64, price: i64| (n, if n % 3 == 0 { 10 * price } else { price });
    parts.into_iter().flat_map(|(clicks, of_a)| clicks.map(move |n| price(n, of_a))).collect()
}

#[test]
fn a_repeated_epoch_joins_with_what_it_had() {
    for crash in ["cut.after:1", "sink.flushed:1", "sink.flushed:3", "committed:1", "manifest.before:1"] {
        let place = Place::new(1);
        place.produce(0..30);
        place.killed(crash, &[]);
        // It changes before the repetition, again before the next, and is what it is in new epochs.
        place.price(2);
        place.produce(30..40);
        place.killed("cut.after:1", &[]);
        place.price(3);
        place.produce(40..45);
        place.run(&[]);
        assert_eq!(place.prices(), wanted([(0..30, 1), (30..40, 2), (40..45, 3)]), "{crash}");
        place.produce(45..50);
        place.price(4);
        place.run(&[]);
        assert_eq!(place.prices(), wanted([(0..30, 1), (30..40, 2), (40..45, 3), (45..50, 4)]), "{crash}");
    }
}

/// What it had is known by the table's name and hint.
#[test]
fn a_hint_that_changes_before_the_repetition_is_refused() {
    let hinted = |pattern: &str| {
        let hint = format!("JOIN prices /*+ OPTIONS('source.path.regex-pattern' = '{pattern}') */ AS p");
        JOB.replace("JOIN prices AS p", &hint)
    };
    let place = Place::new(1);
    std::fs::write(place.at("job.sql"), hinted(".*now.*")).unwrap();
    place.produce(0..30);
    place.killed("cut.after:1", &[]);
    place.price(2);
    std::fs::write(place.at("job.sql"), hinted(".*now[.].*")).unwrap();
    let refused = place.refused();
    for part in ["did not end in order", "the reference table 'prices OPTIONS(", "'.*now.*')' then"] {
        assert!(refused.contains(part), "'{part}' in {refused}");
    }
    std::fs::write(place.at("job.sql"), hinted(".*now.*")).unwrap();
    place.run(&[]);
    std::fs::write(place.at("job.sql"), hinted(".*now[.].*")).unwrap();
    place.produce(30..40);
    place.run(&[]);
    assert_eq!(place.prices(), wanted([(0..30, 1), (30..40, 2)]));
}

#[test]
fn so_do_rows_of_open_files_that_are_made_again_behind_a_checkpoint() {
    let place = Place::new(1);
    place.produce(0..200);
    // The second one is made in any case, also where the first takes as long as the rest of the epochs.
    place.killed_live("manifest.after:2");
    let first = place.bills();
    assert!(first.len() > 5, "{first:?}");
    // Twice more: what is repeated comes from three runs.
    place.price(2);
    place.produce(200..400);
    place.killed_live("manifest.after:2");
    place.price(3);
    place.produce(400..410);
    place.run(&["--epoch-rows", "5", "--checkpoint-interval", "1ms"]);
    let prices = place.prices();
    assert_eq!(prices.len(), 410);
    let all = [1, 2, 3].map(|of_a| wanted([(0..410, of_a)]));
    assert!(first.iter().all(|(n, price)| price == &all[0][n] && prices[n] == *price), "{first:?} {prices:?}");
    let by = |which: usize| prices.iter().filter(|(n, price)| **price == all[which][n]).count();
    assert!(by(0) >= first.len() && by(1) > 0 && by(2) > 0 && by(0) + by(1) + by(2) == 410, "{prices:?}");
}

/// Whoever replaces files has moments without any, or minutes: no row is dropped, or joined with nothing, and the job goes on.
#[test]
fn a_table_that_is_away_while_the_job_runs_stays_as_it_was() {
    let place = Place::new(1);
    place.produce(0..10);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(["run", "job.sql", "--local", "local", "--from", "trim_horizon", "--epoch-interval", "10ms"]);
    command.current_dir(place.0.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut run = command.spawn().unwrap();
    let mut has = |count: i64| {
        let began = Instant::now();
        while place.billed() != Some(count) {
            if run.try_wait().unwrap().is_some() || began.elapsed() > Duration::from_secs(120) {
                let _ = run.kill();
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    };
    let file = place.at("prices/now.jsonl");
    let begun = has(10);
    // As a copy begins.
    std::fs::write(&file, "").unwrap();
    place.produce(10..20);
    let emptied = has(20);
    std::fs::remove_file(&file).unwrap();
    place.produce(20..30);
    let gone = has(30);
    std::fs::remove_dir(place.at("prices")).unwrap();
    place.produce(30..40);
    let gone_with_its_folder = has(40);
    std::fs::create_dir(place.at("prices")).unwrap();
    place.price(2);
    place.produce(40..50);
    let back = has(50);
    Command::new("kill").args(["-TERM", &run.id().to_string()]).status().unwrap();
    let output = run.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(begun && emptied && gone && gone_with_its_folder && back, "{said}");
    assert!(
        said.contains("stay in use") && said.contains("there are no files at '") && said.contains("prices'"),
        "{said}"
    );
    place.run(&[]);
    assert_eq!(place.prices(), wanted([(0..40, 1), (40..50, 2)]));
}

/// Its path may be misspelt, or its disk not be there.
#[test]
fn a_table_that_is_away_when_a_job_begins_is_refused_and_one_without_rows_is_not() {
    let place = Place::new(1);
    place.produce(0..10);
    let file = place.at("prices/now.jsonl");
    std::fs::write(&file, "").unwrap();
    assert!(place.refused().contains("there are no files at '"));
    std::fs::remove_file(&file).unwrap();
    assert!(place.refused().contains("there are no files at '"));
    std::fs::remove_dir(place.at("prices")).unwrap();
    let said = place.refused();
    assert!(said.contains("there are no files at '") && said.contains("a file without rows"), "{said}");
    std::fs::create_dir(place.at("prices")).unwrap();
    std::fs::write(&file, "\n").unwrap();
    place.run(&[]);
    assert!(lines(&place.at("archive")).is_empty());
}

#[test]
fn a_version_that_is_gone_or_damaged_is_told_and_the_old_files_will_do() {
    let place = Place::new(1);
    place.produce(0..30);
    place.killed("sink.flushed:2", &[]);
    place.price(2);
    let file = place.versions().pop_first().unwrap();
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 4;
    for (content, what) in [(None, "is not in "), (Some(damaged), "is damaged: "), (Some(Vec::new()), "is damaged: ")] {
        match content {
            Some(content) => std::fs::write(&file, content).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let said = place.refused();
        let wanted =
            [what, "reference table 'prices'", "is repeated", "put the table's own files back", "state rewind"];
        assert!(wanted.iter().all(|text| said.contains(text)), "{said}");
    }
    // The files as they were are the same version.
    place.price(1);
    place.killed("cut.after:1", &[]);
    place.price(2);
    std::fs::write(&file, whole).unwrap();
    place.produce(30..35);
    place.run(&[]);
    assert_eq!(place.prices(), wanted([(0..30, 1), (30..35, 2)]));
    // Given up: what was to be repeated is new.
    place.price(3);
    place.produce(35..40);
    place.killed("sink.flushed:2", &[]);
    place.price(4);
    for file in place.versions() {
        std::fs::remove_file(file).unwrap();
    }
    assert!(place.refused().contains("is not in "));
    place.done(&["state", "rewind", "local", "latest"]);
    place.run(&[]);
    assert_eq!(place.bills(), wanted([(0..30, 1), (30..35, 2), (35..40, 4)]));
}

#[test]
fn a_column_that_was_not_kept_is_refused_until_the_unchanged_files_have_run() {
    let place = Place::new(1);
    place.produce(0..9);
    place.killed("sink.flushed:2", &[]);
    let more = "
        CREATE TABLE notes (n BIGINT, note STRING, PRIMARY KEY (n) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'notes');
        INSERT INTO notes SELECT c.n, p.note FROM clicks AS c JOIN prices AS p ON p.k = c.k;";
    std::fs::write(place.at("job.sql"), format!("{JOB}{more}")).unwrap();
    let said = place.refused();
    assert!(
        said.contains("column 'note'") && said.contains("reference table 'prices'") && said.contains("--once"),
        "{said}"
    );
    std::fs::write(place.at("job.sql"), JOB).unwrap();
    place.run(&[]);
    std::fs::write(place.at("job.sql"), format!("{JOB}{more}")).unwrap();
    place.produce(9..12);
    place.run(&[]);
    assert_eq!(place.prices(), wanted([(0..12, 1)]));
    let notes: i64 = place.store().query_row("SELECT COUNT(*) FROM notes", [], |row| row.get(0)).unwrap();
    assert_eq!(notes, 3);
}

/// A log as programs wrote it that kept no versions.
fn forget_versions(log: &Path) {
    let text = std::fs::read_to_string(log).unwrap();
    let line = |line: &str| {
        let mut entry: Value = serde_json::from_str(&line[line.find('{').unwrap()..]).unwrap();
        if let Some(cut) = entry.get_mut("cut") {
            assert!(cut.as_object_mut().unwrap().remove("references").is_some(), "{cut}");
        }
        let json = entry.to_string();
        let digest: String = Sha256::digest(json.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{digest} {json}\n")
    };
    std::fs::write(log, text.lines().map(line).collect::<String>()).unwrap();
}

#[test]
fn a_log_of_before_is_repeated_with_the_files_as_they_are() {
    let place = Place::new(1);
    place.produce(0..30);
    place.killed("cut.after:1", &[]);
    forget_versions(&place.at("local/checkpoints/job/epochs.log"));
    std::fs::remove_dir_all(place.at("local/checkpoints/job/references")).unwrap();
    place.price(2);
    place.produce(30..35);
    // From its own cut on, this program knows.
    place.killed("cut.after:1", &[]);
    let named: Vec<bool> = cuts(place.0.path()).iter().map(|cut| cut["references"]["prices"].is_string()).collect();
    assert_eq!(named, [false, true]);
    place.price(3);
    place.run(&[]);
    assert_eq!(place.bills(), wanted([(0..30, 3), (30..35, 2)]));
}

#[test]
fn versions_are_kept_for_checkpoints_and_savepoints_and_no_longer() {
    let place = Place::new(1);
    place.produce(0..9);
    place.run(&[]);
    let first = place.versions();
    assert_eq!(first.len(), 1);
    // Files that are written anew and say the same are no other version; nor are columns that nobody uses.
    place.price(1);
    place.produce(9..12);
    place.run(&[]);
    assert_eq!(place.versions(), first);
    let shown = place.done(&["state", "show", "local"]);
    assert!(shown.contains("  reference table prices: version ") && shown.contains(", 2 rows, "), "{shown}");
    place.done(&["state", "save", "local", "early"]);
    for price in 2..8 {
        place.price(price);
        place.produce(10 + price..11 + price);
        place.run(&[]);
    }
    let kept = place.versions();
    // Three checkpoints, and the savepoint.
    assert!(kept.len() == 4 && kept.is_superset(&first), "{kept:?}");
    let diff = place.done(&["state", "diff", "local", "early"]);
    assert!(diff.contains("  reference table prices: version ") && diff.contains(" -> version "), "{diff}");
    // Going back reads the records again, as new ones.
    place.run(&["--from-savepoint", "early"]);
    let store = place.store();
    let price =
        |n: i64| -> i64 { store.query_row("SELECT price FROM bills WHERE n = ?", [n], |row| row.get(0)).unwrap() };
    assert_eq!([price(1), price(13)], [1, 7]);
    place.done(&["state", "restore", "local", "early", "--to", "elsewhere"]);
    assert_eq!(std::fs::read_dir(place.at("elsewhere/references")).unwrap().count(), 1);
    place.done(&["state", "drop", "local", "early"]);
    for n in 30..34 {
        place.produce(n..n + 1);
        place.run(&[]);
    }
    assert_eq!(place.versions().len(), 1, "{:?}", place.versions());
    assert_ne!(place.versions(), first);
}
