//! A run is killed at moments that nobody chose; the next one repeats the epochs that had been cut, as they were, and
//! goes on: tables, alerts and archive are those of a run that nothing has disturbed.
//!
//! Each seed is another job: files that stay open for a moment or over many checkpoints; and each run another interval
//! between checkpoints, or none. `CRASH_SEED=N` repeats a run of the test; `CRASH_ROUNDS=N` makes it longer.

#![expect(clippy::disallowed_methods, reason = "the program under test lives in real time")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use parquet::file::reader::{FileReader, SerializedFileReader};
use random::{Random, asked};
use rusqlite::types::Value;
use serde_json::Value as Json;

#[path = "support/random.rs"]
mod random;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program runs")
}

/// Runs the program to the place where it dies, the n-th time that it comes there (`committed:2`).
#[track_caller]
fn dies_at(place: &str, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(arguments).env("TIDEMILL_CRASH_AT", place).stdin(Stdio::null());
    let output = command.output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code().is_none(), "{place} was not reached: {said}");
}

fn tidemill(arguments: &[&str]) -> String {
    let output = start(arguments).wait_with_output().expect("it ends");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "tidemill {arguments:?}\n{out}\n{err}");
    out.into_owned()
}

/// Every row of every table.
fn tables(local: &Path) -> BTreeMap<String, u64> {
    let store = rusqlite::Connection::open(local.join("dynamodb.sqlite")).expect("results");
    let mut names = store.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").expect("a query");
    let names: Vec<String> =
        names.query_map([], |row| row.get(0)).expect("names").map(|n| n.expect("a name")).collect();
    let mut rows = BTreeMap::new();
    for table in names {
        let mut query = store.prepare(&format!("SELECT * FROM \"{table}\"")).expect("a table");
        let columns: Vec<String> = query.column_names().map(str::to_owned).collect();
        let shown = query.query_map([], |row| {
            let mut cells = Vec::new();
            for (index, column) in columns.iter().enumerate() {
                match row.get::<_, Value>(index)? {
                    Value::Null => {}
                    value => cells.push(format!("{column}={value:?}")),
                }
            }
            cells.sort();
            Ok(format!("{table}: {}", cells.join(", ")))
        });
        for row in shown.expect("rows") {
            *rows.entry(row.expect("a row")).or_default() += 1;
        }
    }
    rows
}

/// Every message, by its id and what it says; when it was published is another matter.
fn alerts(local: &Path) -> BTreeMap<String, u64> {
    let mut messages = BTreeMap::new();
    let text = std::fs::read_to_string(local.join("sns/analytics-alerts.jsonl")).expect("alerts");
    for line in text.lines() {
        let message: Json = serde_json::from_str(line).expect("JSON");
        let shown = format!("{} {} {}", message["message_id"], message["subject"], message["message"]);
        *messages.entry(shown).or_default() += 1;
    }
    messages
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// All files below a folder, none of them hidden.
fn files(folder: &Path) -> Vec<PathBuf> {
    fn find(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            match entry.path() {
                path if path.is_dir() => find(&path, found),
                path => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    find(folder, &mut found);
    let hidden: Vec<&PathBuf> = found.iter().filter(|path| name(path).starts_with('.')).collect();
    assert!(hidden.is_empty(), "hidden files are left over: {hidden:?}");
    found
}

/// Every archived row.
fn archive(folder: &Path) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    for path in files(folder) {
        let reader = SerializedFileReader::new(std::fs::File::open(&path).expect("a file")).expect("Parquet");
        for row in reader.get_row_iter(None).expect("rows") {
            *rows.entry(row.expect("a row").to_string()).or_default() += 1;
        }
    }
    rows
}

#[track_caller]
fn assert_same(what: &str, seed: u64, wanted: &BTreeMap<String, u64>, found: &BTreeMap<String, u64>) {
    let differs = |a: &BTreeMap<String, u64>, b: &BTreeMap<String, u64>| {
        a.iter()
            .filter(|(row, n)| b.get(*row) != Some(n))
            .take(3)
            .map(|(row, n)| format!("{n} x {row}"))
            .collect::<Vec<_>>()
    };
    assert!(!wanted.is_empty(), "there are no {what}");
    assert!(
        wanted == found,
        "{what}, CRASH_SEED={seed}: wanted {:#?}, found {:#?}",
        differs(wanted, found),
        differs(found, wanted)
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Results of windows in files: rows that no epoch gives again once their window has closed.
const WINDOW_FILES: &str = "
CREATE TABLE minutes (window_start TIMESTAMP(3), event_type STRING, events BIGINT, users BIGINT, `day` STRING)
PARTITIONED BY (`day`) WITH ('connector' = 'filesystem', 'path' = 's3://minutes/m/', 'format' = 'parquet',
  'sink.rolling-policy.rollover-interval' = '300 s');
INSERT INTO minutes
SELECT window_start, event_type, COUNT(*), COUNT(DISTINCT data.user_id), DATE_FORMAT(window_start, 'yyyy-MM-dd')
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, event_type;
";

/// How long a file stays open at most, by seed: some are complete when the kill comes, some are not, some never are.
const ROLLOVERS: [&str; 3] = ["150 ms", "600 ms", "300 s"];
/// Between checkpoints; 0 is only at the end of a run.
const INTERVALS: [&str; 4] = ["0", "40ms", "150ms", "400ms"];

/// The shipped job, and windows into files; files are rolled after `rollover`.
fn queries(folder: &Path, rollover: &str) -> PathBuf {
    let queries = folder.join("queries");
    copy(&Path::new(ROOT).join("queries"), &queries);
    std::fs::write(queries.join("minutes.sql"), WINDOW_FILES).expect("written");
    for file in ["archive.sql", "minutes.sql"] {
        let text = std::fs::read_to_string(queries.join(file)).expect("a query");
        assert!(text.contains("'300 s'"), "the rollover that is changed here");
        std::fs::write(queries.join(file), text.replace("'300 s'", &format!("'{rollover}'"))).expect("written");
    }
    queries
}

/// Number of the newest checkpoint.
fn checkpoint(local: &Path) -> u64 {
    let manifests = std::fs::read_dir(local.join("checkpoints/queries/manifests")).into_iter().flatten().flatten();
    let number = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().strip_suffix(".json")?.parse().ok();
    manifests.filter_map(number).max().unwrap_or(0)
}

fn log_text(local: &Path) -> String {
    std::fs::read_to_string(local.join("checkpoints/queries/epochs.log")).unwrap_or_default()
}

/// Epochs in the log of the job.
fn logged(local: &Path) -> usize {
    log_text(local).lines().filter(|line| line.contains("\"cut\"")).count()
}

#[test]
fn a_killed_run_is_repeated_exactly_and_goes_on() {
    let seed = asked("CRASH_SEED").unwrap_or(20_260_301);
    let rounds = asked("CRASH_ROUNDS").unwrap_or(3);
    let folder = tempfile::tempdir().expect("a folder");
    let undisturbed = Undisturbed::new(folder.path());
    let mut checkpoints = 0;
    for seed in seed..seed + rounds {
        let mut random = Random::new(seed);
        let local = folder.path().join(format!("killed-{seed}"));
        copy(&undisturbed.stream, &local);
        let rollover = ROLLOVERS[(seed % 3) as usize];
        let queries = queries(&folder.path().join(format!("job-{seed}")), rollover);
        let run = ["run", text(&queries), "--local", text(&local), "--epoch-rows", "300", "--epoch-interval", "30ms"];
        let (mut kills_in_midst, mut stopped) = (0, 0);
        for _ in 0..6 {
            let interval = INTERVALS[random.below(4) as usize];
            let mut child = start(&[&run[..], &["--checkpoint-interval", interval]].concat());
            let orderly = random.below(5) == 0;
            // However slow the machine is, the run has begun; and then any moment will do.
            let before = log_text(&local);
            for _ in 0..1_000 {
                if log_text(&local) != before || child.try_wait().expect("a child").is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(Duration::from_millis(random.below(1_000)));
            if orderly {
                // A signal in the midst of repeating: what is left is repeated by the next run.
                let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
                assert!(sent.success());
                stopped += 1;
            } else {
                child.kill().expect("it was there");
            }
            let output = child.wait_with_output().expect("it has ended");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!said.lines().any(|line| line.starts_with("error")), "CRASH_SEED={seed}: {said}");
            kills_in_midst += usize::from(logged(&local) > 0);
        }
        assert!(
            kills_in_midst > 0,
            "CRASH_SEED={seed}: no run was killed before it had saved ({stopped} were stopped)"
        );
        checkpoints += checkpoint(&local);
        tidemill(&["run", text(&queries), "--local", text(&local), "--drain"]);
        undisturbed.assert_same(seed, &local);
        assert_eq!(logged(&local), 0, "a saved state needs no log");
        let manifests = std::fs::read_dir(local.join("checkpoints/queries/manifests")).expect("checkpoints").count();
        assert!(manifests <= 3, "CRASH_SEED={seed}: {manifests} checkpoints are kept");
    }
    assert!(checkpoints > rounds, "there were {checkpoints} checkpoints in {rounds} rounds");
}

/// The stream of the shipped job with all events, and what an undisturbed run makes of it.
struct Undisturbed {
    stream: PathBuf,
    tables: BTreeMap<String, u64>,
    alerts: BTreeMap<String, u64>,
    files: [BTreeMap<String, u64>; 2],
}

fn archives(local: &Path) -> [BTreeMap<String, u64>; 2] {
    ["my-analytics-archive/events", "minutes/m"].map(|path| archive(&local.join("s3").join(path)))
}

impl Undisturbed {
    fn new(folder: &Path) -> Self {
        let (whole, stream) = (folder.join("whole"), folder.join("stream"));
        let events = Path::new(ROOT).join("tests/data/shop.jsonl");
        let to = ["produce", "analytics-events", "--local", text(&stream), "--from", text(&events)];
        tidemill(&[&to[..], &["--partition-key", "data.user_id"]].concat());
        copy(&stream, &whole);
        let job = queries(&folder.join("undisturbed"), "300 s");
        tidemill(&["run", text(&job), "--local", text(&whole), "--drain"]);
        Self { stream, tables: tables(&whole), alerts: alerts(&whole), files: archives(&whole) }
    }

    fn assert_same(&self, seed: u64, local: &Path) {
        assert_same("rows of tables", seed, &self.tables, &tables(local));
        assert_same("alerts", seed, &self.alerts, &alerts(local));
        let [archived, minutes] = archives(local);
        assert_same("archived rows", seed, &self.files[0], &archived);
        assert_same("rows of windows", seed, &self.files[1], &minutes);
    }
}

#[test]
fn a_run_that_dies_at_any_named_place_is_repeated_exactly() {
    let folder = tempfile::tempdir().expect("a folder");
    let undisturbed = Undisturbed::new(folder.path());
    for (number, point) in tidemill::contracts::CRASH_POINTS.into_iter().enumerate() {
        let local = folder.path().join(format!("killed-{number}"));
        copy(&undisturbed.stream, &local);
        let job = queries(&folder.path().join(format!("job-{number}")), ROLLOVERS[0]);
        let run = ["run", text(&job), "--local", text(&local), "--drain", "--checkpoint-interval", "50ms"];
        // Early, and when there are checkpoints to go on from.
        for time in [1, 3] {
            dies_at(&format!("{point}:{time}"), &[&run[..], &["--epoch-rows", "300"]].concat());
        }
        tidemill(&run);
        undisturbed.assert_same(number as u64, &local);
        assert_eq!(logged(&local), 0, "{point}: a saved state needs no log");
    }
}

/// Files of a hundred numbers each, and beside them a count.
struct Hundreds(tempfile::TempDir);

const NUMBERS: std::ops::Range<u64> = 0..1_000;

impl Hundreds {
    const KEPT: &str = "
CREATE TABLE kept (n BIGINT)
WITH ('connector' = 'filesystem', 'path' = 's3://kept/k/', 'format' = 'json', 'sink.rolling-policy.row-count' = '100');
INSERT INTO kept SELECT n FROM clicks;
";
    const KEYED: &str = "
CREATE TABLE kept (n BIGINT, PRIMARY KEY (n) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'kept');
INSERT INTO kept SELECT n FROM clicks;
";
    const COUNT: &str = "
CREATE TABLE clicks (n BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
CREATE TABLE counts (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
INSERT INTO counts SELECT 'all', COUNT(*) FROM clicks;
";

    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        std::fs::create_dir(place.at("job")).expect("a folder");
        std::fs::write(place.at("job/count.sql"), Self::COUNT).expect("written");
        std::fs::write(place.at("job/kept.sql"), Self::KEPT).expect("written");
        let lines: String = NUMBERS.map(|n| format!("{{\"n\":{n}}}\n")).collect();
        std::fs::write(place.at("new.jsonl"), lines).expect("written");
        let (local, new) = (place.at("local"), place.at("new.jsonl"));
        tidemill(&["produce", "clicks", "--local", text(&local), "--from", text(&new)]);
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// The arguments of a run over what is there.
    fn run(&self, more: &[&str]) -> Vec<String> {
        let (job, local) = (self.at("job"), self.at("local"));
        let run = ["run", text(&job), "--local", text(&local), "--once", "--epoch-rows", "100"];
        run.iter().chain(more).map(|argument| (*argument).to_owned()).collect()
    }

    fn runs(&self, more: &[&str]) {
        tidemill(&self.run(more).iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[track_caller]
    fn dies_at(&self, place: &str, more: &[&str]) {
        dies_at(place, &self.run(more).iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[track_caller]
    fn refused(&self, more: &[&str]) -> String {
        let run = self.run(more);
        let output = start(&run.iter().map(String::as_str).collect::<Vec<_>>()).wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    }

    /// The numbers in files below a folder of the bucket, in order; and the run and the epoch of each file.
    fn kept(&self, folder: &str) -> (Vec<u64>, Vec<(u64, u64)>) {
        let (mut numbers, mut names) = (Vec::new(), Vec::new());
        for path in files(&self.at("local/s3/kept").join(folder)) {
            let lines = std::fs::read_to_string(&path).expect("a file");
            let number = |line: &str| serde_json::from_str::<Json>(line).expect("JSON")["n"].as_u64();
            numbers.extend(lines.lines().map(|line| number(line).expect("a number")));
            // part-<job>-<run>-<number>-e<epoch>.json
            let name = name(&path);
            let parts: Vec<&str> = name.split(['-', '.']).collect();
            names.push((parts[2].parse().expect("a run"), parts[4][1..].parse().expect("an epoch")));
        }
        numbers.sort_unstable();
        (numbers, names)
    }
}

#[test]
fn a_run_that_dies_while_it_begins_anew_begins_anew_again() {
    let deaths: [&[&str]; 6] = [
        &["fresh.cleared:1"],
        &["fresh.midst:1"],
        &["fresh.midst:3", "fresh.midst:2", "fresh.cleared:1"],
        &["fresh.aside:1"],
        &["fresh.aside:1", "fresh.aside:1"],
        &["cut.before:1"],
    ];
    for (number, deaths) in deaths.into_iter().enumerate() {
        let place = Hundreds::new();
        // What is there already is of a run that has ended, or that was killed and has logged epochs.
        match number % 2 {
            0 => place.runs(&[]),
            _ => place.dies_at("committed:4", &["--checkpoint-interval", "0"]),
        }
        let visible = |name: &str| !name.starts_with('.');
        let folder = std::fs::read_dir(place.at("local/s3/kept/k")).expect("files").flatten();
        let old: Vec<String> = folder.map(|entry| name(&entry.path())).filter(|name| visible(name)).collect();
        assert!(old.len() > 3, "{deaths:?}: {old:?}");
        for (number, death) in deaths.iter().enumerate() {
            place.dies_at(death, if number == 0 { &["--fresh"] } else { &[] });
        }
        place.runs(&[]);
        let (numbers, own) = place.kept("k");
        assert!(numbers.iter().copied().eq(NUMBERS), "{deaths:?}: each once, not {numbers:?}");
        let (mut aside, mut moved) = (BTreeSet::new(), Vec::new());
        for folder in std::fs::read_dir(place.at("local/s3/kept")).expect("a folder").flatten() {
            let folder = name(&folder.path());
            if folder != "k" {
                moved.extend(place.kept(&folder).1);
                aside.extend(files(&place.at("local/s3/kept").join(folder)).iter().map(|path| name(path)));
            }
        }
        assert_eq!(aside, old.into_iter().collect(), "{deaths:?}: they are beside");
        let last = moved.iter().fold((0, 0), |last, of| (last.0.max(of.0), last.1.max(of.1)));
        let counts_on = |of: &(u64, u64)| of.0 > last.0 + deaths.len() as u64 && of.1 > last.1;
        assert!(own.iter().all(counts_on), "{deaths:?}: {own:?} after {last:?}");
        assert_eq!(tables(&place.at("local")).keys().collect::<Vec<_>>(), ["counts: c=Integer(1000), k=Text(\"all\")"]);
    }
}

#[test]
fn what_a_query_has_promised_is_done_before_it_leaves_the_job() {
    // Before the first checkpoint, and behind one.
    for (interval, time) in [("0", 2), ("10ms", 7)] {
        let place = Hundreds::new();
        place.dies_at(&format!("committable.logged:{time}"), &["--checkpoint-interval", interval]);
        std::fs::remove_file(place.at("job/kept.sql")).expect("removed");
        for more in [&[][..], &["--drop-state", "kept"]] {
            let said = place.refused(more);
            for part in ["'kept:kept' is not in the job any more", "has promised", "--once"] {
                assert!(said.contains(part), "'{part}' in {said}");
            }
        }
        std::fs::write(place.at("job/kept.sql"), Hundreds::KEYED).expect("written");
        let said = place.refused(&[]);
        assert!(said.contains("has promised") && said.contains("another connector"), "{said}");
        // As it is advised.
        std::fs::write(place.at("job/kept.sql"), Hundreds::KEPT).expect("written");
        place.runs(&[]);
        std::fs::remove_file(place.at("job/kept.sql")).expect("removed");
        place.runs(&[]);
        let (numbers, _) = place.kept("k");
        assert!(numbers.iter().copied().eq(NUMBERS), "each once, not {numbers:?}");
    }
}
