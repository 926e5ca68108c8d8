//! A job whose SQL changes between two runs, as `docs/reliability.md` ("When the SQL changes") says it may: nothing is lost,
//! nothing is there twice, and what cannot go on is refused with the choices, each of which is taken here.

#![expect(clippy::disallowed_methods, reason = "the program under test lives in real time")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use place::{Place, RUN, wait};

#[path = "changed_sql/after_kill.rs"]
mod after_kill;
#[path = "support/place.rs"]
mod place;
#[path = "changed_sql/places.rs"]
mod places;
#[path = "changed_sql/tables.rs"]
mod tables;

/// Event `id` is at second `id` after 10:00, so minute `m` has the ids from 60 m on.
const SOURCE: &str = "\
CREATE TABLE events (id BIGINT, at TIMESTAMP_LTZ(3), amount BIGINT,
  seen TIMESTAMP_LTZ(3) METADATA FROM 'watermark' VIRTUAL,
  WATERMARK FOR at AS at - INTERVAL '5' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');
";
const COUNTS: &str = "\
CREATE TABLE counts (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
INSERT INTO counts SELECT 'all', COUNT(*) FROM events;
";
const ARCHIVE: &str = "\
CREATE TABLE archive (id BIGINT, at TIMESTAMP_LTZ(3), seen TIMESTAMP_LTZ(3))
WITH ('connector' = 's3', 'path' = 's3://archive/events/', 'format' = 'parquet');
INSERT INTO archive SELECT id, at, seen FROM events;
";
const WIDER_ARCHIVE: &str = "\
CREATE TABLE archive (id BIGINT, at TIMESTAMP_LTZ(3), seen TIMESTAMP_LTZ(3), amount BIGINT)
WITH ('connector' = 's3', 'path' = 's3://archive/events/', 'format' = 'parquet');
INSERT INTO archive SELECT id, at, seen, amount FROM events;
";
const MINUTES: &str = "\
CREATE TABLE minutes (m STRING, c BIGINT, PRIMARY KEY (m) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'minutes');
INSERT INTO minutes SELECT DATE_FORMAT(window_start, 'HH:mm'), COUNT(*)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
";

fn amount(id: u64) -> u64 {
    id * id % 97
}

impl Place {
    fn produce(&self, ids: Range<u64>) {
        let line = |id: u64| {
            let (minute, second, amount) = (id / 60, id % 60, amount(id));
            format!("{{\"id\":{id},\"at\":\"2026-03-01T10:{minute:02}:{second:02}Z\",\"amount\":{amount}}}\n")
        };
        self.put(&ids.map(line).collect::<String>());
    }

    /// Runs on, until `counts` has counted so many.
    fn run_until(&self, count: i64, more: &[&str]) -> Child {
        let args = ["run", "job", "--local", "local", "--epoch-interval", "20ms"];
        let child = self.command(&[&args, more].concat()).spawn().unwrap();
        wait("all are counted", || self.rows("SELECT 'all', c FROM counts").get("all") == Some(&Some(count)));
        child
    }

    /// Rows of a text and a number.
    fn rows(&self, sql: &str) -> BTreeMap<String, Option<i64>> {
        let read = || {
            let database = rusqlite::Connection::open_with_flags(
                self.at("local/dynamodb.sqlite"),
                rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
            )?;
            let mut rows = database.prepare(sql)?;
            let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        // Not yet there, or just being written.
        read().unwrap_or_default()
    }

    /// Whether the newest checkpoint has every epoch that was counted.
    fn has_all_in_a_checkpoint(&self) -> bool {
        let last = self.last_logged();
        self.newest_manifest().is_some_and(|newest| newest["epoch"].as_u64() >= last)
    }

    /// Puts an event more, and waits until a run has counted it: there are so many then.
    fn one_more(&self, ids: &mut u64) {
        self.produce(*ids..*ids + 1);
        *ids += 1;
        let wanted = i64::try_from(*ids).unwrap();
        wait("it is counted", || self.rows("SELECT 'all', c FROM counts").get("all") == Some(&Some(wanted)));
    }

    /// Kills a run that makes no checkpoint, when it has counted all of the events that there are and one more.
    fn killed_without_a_checkpoint(&self, ids: &mut u64) {
        let child = self.run_until(i64::try_from(*ids).unwrap(), &["--checkpoint-interval", "0"]);
        self.one_more(ids);
        kill(child);
    }

    /// Files of the archive.
    fn archived(&self) -> BTreeSet<PathBuf> {
        let folder = self.at("local/s3/archive/events");
        let files = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
        // One that is open has a hidden name.
        let hidden = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with('.');
        files.filter(|path| !hidden(path) && path.extension().is_some_and(|e| e == "parquet")).collect()
    }
}

fn end(mut child: Child) {
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Rows of a Parquet file: id and amount; the latter only where there is such a column.
fn archive_rows(path: &Path) -> Vec<(u64, Option<u64>)> {
    let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let number = |field: &Field| match field {
        Field::Long(number) => u64::try_from(*number).unwrap(),
        other => panic!("{other}"),
    };
    let mut rows = Vec::new();
    for row in reader.get_row_iter(None).unwrap() {
        let row = row.unwrap();
        let columns: BTreeMap<&str, &Field> = row.get_column_iter().map(|(name, f)| (name.as_str(), f)).collect();
        rows.push((number(columns["id"]), columns.get("amount").map(|field| number(field))));
    }
    rows
}

/// Of each minute, what it has of the ids, by `of`.
fn minutes(ids: Range<u64>, of: impl Fn(u64) -> u64) -> BTreeMap<String, Option<i64>> {
    let mut minutes: BTreeMap<String, Option<i64>> = BTreeMap::new();
    for id in ids {
        let minute = minutes.entry(format!("10:{:02}", id / 60)).or_insert(Some(0));
        *minute = minute.map(|sum| sum + i64::try_from(of(id)).unwrap());
    }
    minutes
}

const COUNTED: &str = "SELECT m, c FROM minutes";
const SUMMED: &str = "SELECT m, total FROM minutes WHERE total IS NOT NULL";

/// Each id is in the archive once: in `old` files without an amount, in others with it.
fn archived_once(place: &Place, old: &BTreeSet<PathBuf>, all: Range<u64>) {
    let mut ids = Vec::new();
    for file in place.archived() {
        for (id, with) in archive_rows(&file) {
            assert_eq!(with, (!old.contains(&file)).then(|| amount(id)), "id {id} in {}", file.display());
            ids.push(id);
        }
    }
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(all), "{ids:?}");
}

#[test]
fn a_column_more_in_the_archive_is_in_the_files_from_then_on() {
    let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("archive.sql", ARCHIVE)]);
    place.produce(0..150);
    // Files are open, and would be for 300 s.
    end(place.run_until(150, &[]));
    let old = place.archived();
    let before: Vec<Vec<u8>> = old.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!old.is_empty());
    place.write("archive.sql", WIDER_ARCHIVE);
    place.produce(150..300);
    end(place.run_until(300, &[]));
    archived_once(&place, &old, 0..300);
    let after: Vec<Vec<u8>> = old.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(before == after, "old files were touched");
    assert!(place.archived().len() > old.len());
    // And a column less: nothing is asked either.
    place.write("archive.sql", ARCHIVE);
    place.produce(300..310);
    let wide = place.archived();
    place.run(&[]);
    let mut narrow: Vec<_> = place.archived().difference(&wide).flat_map(|file| archive_rows(file)).collect();
    narrow.sort_unstable();
    assert_eq!(narrow, (300..310).map(|id| (id, None)).collect::<Vec<_>>());
}

/// Kills a run whose archive is open, and answers how many events there were. The last epoch is behind the last checkpoint, or
/// in it.
fn killed_with_an_open_archive(place: &Place, in_checkpoint: bool) -> u64 {
    place.produce(0..100);
    let mut ids = 100;
    let child = place.run_until(100, &["--checkpoint-interval", "50ms"]);
    wait("a checkpoint", || place.newest_checkpoint().is_some());
    place.one_more(&mut ids);
    wait("a checkpoint has all", || place.has_all_in_a_checkpoint());
    kill(child);
    if !in_checkpoint {
        // However slow this machine is, no checkpoint has what a run counts that makes none.
        place.killed_without_a_checkpoint(&mut ids);
        assert!(!place.has_all_in_a_checkpoint());
    }
    assert_eq!(place.archived(), BTreeSet::new(), "the file was open");
    ids
}

#[test]
fn an_archive_that_is_changed_after_a_kill_is_refused_while_epochs_are_to_be_repeated() {
    let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("archive.sql", ARCHIVE)]);
    let ids = killed_with_an_open_archive(&place, false);
    place.write("archive.sql", WIDER_ARCHIVE);
    place.produce(ids..300);
    let refused = place.refused(&RUN);
    let parts =
        ["did not end in order", "'archive:archive' has changed", "  + ", "amount", "undo the change and run once"];
    for part in parts {
        assert!(refused.contains(part), "'{part}' in {refused}");
    }
    place.write("archive.sql", ARCHIVE);
    place.run(&[]);
    let old = place.archived();
    place.write("archive.sql", WIDER_ARCHIVE);
    place.produce(300..400);
    place.run(&[]);
    archived_once(&place, &old, 0..400);
    assert_eq!(place.rows("SELECT 'all', c FROM counts")["all"], Some(400));
}

/// Nothing is to be repeated, and of what was in the open file nobody has seen anything: it is read once more, by the new SQL.
#[test]
fn an_archive_that_is_changed_after_a_kill_has_the_column_in_what_was_open() {
    let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("archive.sql", ARCHIVE)]);
    let ids = killed_with_an_open_archive(&place, true);
    place.write("archive.sql", WIDER_ARCHIVE);
    place.produce(ids..300);
    place.run(&[]);
    archived_once(&place, &BTreeSet::new(), 0..300);
    assert_eq!(place.rows("SELECT 'all', c FROM counts")["all"], Some(300));
}

/// The new aggregate has an INSERT of its own, into the same items, from a window on that has not begun.
#[test]
fn an_aggregate_more_for_the_same_items_is_an_insert_of_its_own() {
    let place = Place::of(&[("events.sql", SOURCE), ("minutes.sql", MINUTES)]);
    place.produce(0..150);
    place.run(&[]);
    assert_eq!(place.rows(COUNTED), minutes(0..120, |_| 1), "10:02 is open");
    let wider = MINUTES.replace("c BIGINT", "c BIGINT, total BIGINT");
    place.write("minutes.sql", &wider.replace("INSERT INTO minutes", "INSERT INTO minutes (m, c)"));
    place.write(
        "totals.sql",
        "INSERT INTO minutes (m, total) SELECT DATE_FORMAT(window_start, 'HH:mm'), SUM(amount)
         FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end
         HAVING window_start >= TIMESTAMP '2026-03-01 10:03:00';",
    );
    place.produce(150..400);
    let said = place.run(&[]);
    assert!(said.contains("query 'totals:minutes' is new"), "{said}");
    place.done(&["run", "job", "--local", "local", "--drain"]);
    assert_eq!(place.rows(COUNTED), minutes(0..400, |_| 1));
    assert_eq!(place.rows(SUMMED), minutes(180..400, amount));
}

/// A table with the options of a hint is one, however often it is named with them, and goes on from its own position.
#[test]
fn an_insert_more_with_the_same_hint_takes_no_position_from_another_one() {
    let with_hint =
        |text: &str| text.replace("FROM events", "FROM events /*+ OPTIONS('scan.stream.initpos' = 'TRIM_HORIZON') */");
    let place = Place::of(&[("events.sql", SOURCE), ("archive.sql", &with_hint(ARCHIVE))]);
    place.produce(0..150);
    place.run(&[]);
    // In a file that comes before the archive's.
    place.write("a.sql", &with_hint(COUNTS));
    place.produce(150..300);
    let said = place.run(&[]);
    assert!(said.contains("query 'a:counts' is new"), "{said}");
    archived_once(&place, &place.archived(), 0..300);
    assert_eq!(place.rows("SELECT 'all', c FROM counts")["all"], Some(150));
}

/// Rows are held as they are until their window closes: what they mean stands in the query alone.
#[test]
fn what_is_changed_below_held_rows_or_in_a_window_s_grid_is_refused() {
    const RANKS: &str = "\
CREATE TABLE texts (id BIGINT, k STRING, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '5' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');
CREATE TABLE ranks (k STRING, r BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'ranks');
INSERT INTO ranks SELECT k, r FROM (
  SELECT k, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY id) AS r
  FROM TABLE(TUMBLE(TABLE texts, DESCRIPTOR(at), INTERVAL '1' HOUR)) WHERE k = 'a');
CREATE TABLE hours (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'hours');
INSERT INTO hours SELECT DATE_FORMAT(window_start, 'HH:mm'), COUNT(*)
FROM TABLE(TUMBLE(TABLE texts, DESCRIPTOR(at), INTERVAL '1' HOUR)) GROUP BY window_start, window_end;
";
    let place = Place::of(&[("job.sql", RANKS)]);
    place.put(
        &["a", "b", "a"].map(|k| format!("{{\"id\":1,\"k\":\"{k}\",\"at\":\"2026-03-01T10:00:00Z\"}}\n")).concat(),
    );
    place.run(&[]);
    let (shorter, from) = ("INTERVAL '1' MINUTE", "INTERVAL '1' HOUR, INTERVAL '30' MINUTE");
    let nth = |n: usize, what: &str, by: &str| {
        let (at, _) = RANKS.match_indices(what).nth(n).unwrap();
        format!("{}{by}{}", &RANKS[..at], &RANKS[at + what.len()..])
    };
    let changes = [
        ("job:ranks", nth(0, "INTERVAL '1' HOUR", shorter)),
        ("job:ranks", nth(0, "INTERVAL '1' HOUR", from)),
        ("job:ranks", nth(0, "k = 'a'", "k = 'b'")),
        ("job:hours", nth(1, "INTERVAL '1' HOUR", from)),
    ];
    for (query, changed) in changes {
        place.write("job.sql", &changed);
        let refused = place.refused(&RUN);
        let wanted = format!("the query '{query}' has changed since its state was saved");
        assert!(refused.contains(&wanted) && refused.contains("\n  + "), "{refused}\nfor\n{changed}");
    }
    place.write("job.sql", RANKS);
    place.run(&[]);
}

/// A column made of a window's bounds that nobody selects is in no text of a plan, but it keeps windows from sharing panes: their states are
/// laid out otherwise.
#[test]
fn a_column_that_nobody_selects_is_noticed_where_windows_shared_panes_without_it() {
    let job = |window: &str, column: &str| {
        format!(
            "\
CREATE TABLE windows (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'windows');
CREATE VIEW seen AS SELECT id, window_start, window_end{column}
FROM TABLE({window}(TABLE events, DESCRIPTOR(at), INTERVAL '10' SECOND, INTERVAL '30' SECOND));
INSERT INTO windows SELECT DATE_FORMAT(window_end, 'HH:mm:ss'), COUNT(*) FROM seen GROUP BY window_start, window_end;
"
        )
    };
    const COLUMN: &str = ", DATE_FORMAT(window_start, 'HH:mm') AS label";
    for window in ["HOP", "CUMULATE"] {
        let first = |end: u64| if window == "HOP" { end.saturating_sub(30) } else { (end - 1) / 30 * 30 };
        for (saved, changed, sign) in [("", COLUMN, '+'), (COLUMN, "", '-')] {
            let (saved, changed) = (job(window, saved), job(window, changed));
            let place = Place::of(&[("events.sql", SOURCE), ("windows.sql", &saved)]);
            place.produce(0..25);
            place.run(&[]);
            place.write("windows.sql", &changed);
            place.produce(25..125);
            let refused = place.refused(&RUN);
            assert!(
                refused.contains("the query 'windows:windows' has changed since its state was saved")
                    && refused.contains(&format!("\n  {sign} with each row in each of its windows")),
                "{refused}\nfor\n{changed}"
            );
            // As it was, it goes on. Event time is at 119 s.
            place.write("windows.sql", &saved);
            place.run(&[]);
            let count =
                |end: u64| (format!("10:{:02}:{:02}", end / 60, end % 60), i64::try_from(end - first(end)).ok());
            let expected: BTreeMap<_, _> = (10..=110).step_by(10).map(count).collect();
            assert_eq!(place.rows("SELECT k, c FROM windows"), expected, "{saved}");
        }
    }
}

/// What DataFusion writes of a plan has the first five rows of VALUES, and no parentheses where operators bind alike.
#[test]
fn what_is_changed_in_the_sixth_row_of_values_or_by_parentheses_is_refused() {
    const GROUPS: &str = "\
CREATE TABLE groups (k STRING, total BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'groups');
INSERT INTO groups SELECT v.k, SUM(e.amount - (e.id - 1)) FROM events AS e
JOIN (VALUES (0, 'a'), (1, 'b'), (2, 'c'), (3, 'd'), (4, 'e'), (5, 'f')) AS v (n, k) ON v.n = MOD(e.id, 6) GROUP BY v.k;
";
    let place = Place::of(&[("events.sql", SOURCE), ("groups.sql", GROUPS)]);
    place.produce(0..60);
    place.run(&[]);
    let before = place.rows("SELECT k, total FROM groups");
    assert_eq!(before.len(), 6);
    place.produce(60..66);
    let changes = [("(5, 'f')", "(5, 'g')"), ("(e.id - 1)", "e.id - 1")];
    for (part, by) in changes {
        place.write("groups.sql", &GROUPS.replace(part, by));
        let refused = place.refused(&RUN);
        let is_told = refused.contains("the query 'groups:groups' has changed since its state was saved");
        let is_shown = ["+", "-"].iter().any(|sign| refused.contains(&format!("\n  {sign} in full: ")));
        assert!(is_told && is_shown, "{by}: {refused}");
    }
    assert_eq!(place.rows("SELECT k, total FROM groups"), before);
    place.write("groups.sql", GROUPS);
    place.run(&[]);
    assert_ne!(place.rows("SELECT k, total FROM groups"), before);
}

#[test]
fn another_time_zone_is_refused_where_there_is_state() {
    const DAYS: &str = "\
CREATE TABLE days (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'days');
INSERT INTO days SELECT DATE_FORMAT(at, 'yyyy-MM-dd HH'), COUNT(*) FROM events GROUP BY DATE_FORMAT(at, 'yyyy-MM-dd HH');
";
    let place = Place::of(&[("events.sql", SOURCE), ("days.sql", DAYS)]);
    place.produce(0..3);
    place.run(&[]);
    place.write("days.sql", &format!("SET 'table.local-time-zone' = 'Asia/Tokyo';\n{DAYS}"));
    place.produce(3..5);
    let refused = place.refused(&RUN);
    assert!(refused.contains("'days:days' has changed") && refused.contains("  + in the zone Asia/Tokyo"), "{refused}");
    place.run(&["--reset", "days"]);
    let expected = [("2026-03-01 10", 3), ("2026-03-01 19", 2)].map(|(k, c)| (k.to_owned(), Some(c)));
    assert_eq!(place.rows("SELECT k, c FROM days"), expected.into_iter().collect());
}

/// A note of `check` asks for a time-to-live, so a job that runs must be able to get one; and to lose it again.
#[test]
fn a_time_to_live_may_come_and_go() {
    const COUNTS: &str = "\
CREATE TABLE counts (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
INSERT INTO counts SELECT CASE WHEN id IN (1, 2, 320) THEN 'soon' WHEN id IN (3, 4, 500) THEN 'late' ELSE 'often' END, COUNT(*)
FROM events GROUP BY CASE WHEN id IN (1, 2, 320) THEN 'soon' WHEN id IN (3, 4, 500) THEN 'late' ELSE 'often' END;
";
    let are = |often, soon, late| {
        let pairs = [("often", often), ("soon", soon), ("late", late)];
        pairs.into_iter().map(|(k, c)| (k.to_owned(), Some(c))).collect::<BTreeMap<_, _>>()
    };
    // The last epoch of a run that drains closes all windows. It is the only one here, as in a job that cron runs.
    for ending in ["--once", "--drain"] {
        let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
        let counts = || place.rows("SELECT k, c FROM counts");
        let run = || place.done(&["run", "job", "--local", "local", "--epoch-interval", "1h", ending]);
        place.produce(0..300);
        run();
        assert_eq!(counts(), are(296, 2, 2));
        place.write("counts.sql", &format!("SET 'table.exec.state.ttl' = '60 s';\n{COUNTS}"));
        place.produce(300..490);
        run();
        // As if all had been seen when it came: at second 294.
        assert_eq!(counts(), are(485, 3, 2));
        place.produce(490..510);
        run();
        assert_eq!(counts(), are(504, 3, 1), "that was too late: its count begins anew; {ending}");
        place.write("counts.sql", COUNTS);
        place.produce(510..600);
        run();
        assert_eq!(counts(), are(594, 3, 1));
    }
}

/// A HAVING stands above what is withdrawn, too.
#[test]
fn a_row_that_a_stricter_having_leaves_is_told_and_stays_until_its_key_comes_through() {
    const GROUPS: &str = "\
CREATE TABLE groups (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'groups');
INSERT INTO groups SELECT CASE WHEN id >= 0 THEN 'all' ELSE 'none' END, COUNT(*) FROM events
GROUP BY CASE WHEN id >= 0 THEN 'all' ELSE 'none' END HAVING COUNT(*) >= 3;
";
    const TOLD: &str = "query 'groups:groups' has another HAVING";
    let place = Place::of(&[("events.sql", SOURCE), ("groups.sql", GROUPS)]);
    let ran = |ids: Range<u64>| {
        place.produce(ids);
        let said = place.run(&[]);
        (said.contains(TOLD), place.rows("SELECT k, c FROM groups").get("all").copied().flatten())
    };
    assert_eq!(ran(0..5), (false, Some(5)));
    place.write("groups.sql", &GROUPS.replace(">= 3", ">= 100"));
    assert_eq!(ran(5..25), (true, Some(5)));
    assert_eq!(ran(25..30), (false, Some(5)), "it is told once");
    assert_eq!(ran(30..150), (false, Some(150)));
}

/// The old query goes on up to a window that has not begun, and the new one, with more, from there on: also where rows are
/// only added.
#[test]
fn a_changed_window_takes_over_from_the_old_one_at_a_window_that_has_not_begun() {
    const OLD: &str = "\
CREATE TABLE minutes (m STRING, c BIGINT, total BIGINT)
WITH ('connector' = 'filesystem', 'path' = '../out', 'format' = 'json');
INSERT INTO minutes (m, c) SELECT DATE_FORMAT(window_start, 'HH:mm'), COUNT(*)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end
";
    let changed = OLD.replace("(m, c)", "(m, c, total)").replace("COUNT(*)", "COUNT(*), SUM(amount)");
    let from = "HAVING window_start >= TIMESTAMP '2026-03-01 10:03:00';";
    let until = from.replace(">=", "<");
    let place = Place::of(&[("events.sql", SOURCE), ("minutes.sql", &format!("{OLD};"))]);
    place.produce(0..150);
    place.run(&[]);
    // Changed where it stands, it is refused, with what has changed and with the choices.
    place.write("minutes.sql", &format!("{changed};"));
    let refused = place.refused(&RUN);
    let choices = [
        "undo the change",
        "keep this query until its windows have closed",
        "another file name",
        "--reset minutes:minutes",
    ];
    let shown =
        ["the query 'minutes:minutes' has changed", "\n  - ", "\n  + ", "sum(events.amount)", "tidemill backfill"];
    for part in choices.into_iter().chain(shown) {
        assert!(refused.contains(part), "'{part}' in {refused}");
    }
    // The HAVING stands above the aggregation, whose state goes on.
    place.write("minutes.sql", &format!("{OLD} {until}"));
    let insert = &changed[changed.find("INSERT").unwrap()..];
    place.write("minutes-2.sql", &format!("{insert} {from}"));
    place.produce(150..270);
    place.run(&[]);
    // 10:03 has closed, so the old one has nothing more to do.
    let insert = OLD.find("INSERT").unwrap();
    place.write("minutes.sql", &OLD[..insert]);
    place.produce(270..400);
    assert!(place.refused(&RUN).contains("--drop-state minutes:minutes"));
    place.run(&["--drop-state", "minutes:minutes"]);
    place.done(&["run", "job", "--local", "local", "--drain"]);
    let mut rows: Vec<serde_json::Value> = Vec::new();
    for entry in std::fs::read_dir(place.at("out")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        rows.extend(text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()));
    }
    let of = |column: &str| -> BTreeMap<String, Option<i64>> {
        rows.iter().map(|row| (row["m"].as_str().unwrap().to_owned(), row[column].as_i64())).collect()
    };
    assert_eq!(rows.len(), 7, "each window once: {rows:?}");
    assert_eq!(of("c"), minutes(0..400, |_| 1));
    let mut totals = of("total");
    totals.retain(|_, total| total.is_some());
    assert_eq!(totals, minutes(180..400, amount));
}

/// Without state, the windows that were open are incomplete, and the new aggregate is missing from the old ones: the archive has
/// what is needed for both.
#[test]
fn a_query_that_was_reset_is_completed_from_the_archive() {
    let place = Place::of(&[("events.sql", SOURCE), ("archive.sql", WIDER_ARCHIVE), ("minutes.sql", MINUTES)]);
    place.produce(0..150);
    place.run(&[]);
    let changed = MINUTES.replace("c BIGINT", "c BIGINT, total BIGINT").replace("COUNT(*)", "COUNT(*), SUM(amount)");
    place.write("minutes.sql", &changed);
    let refused = place.refused(&RUN);
    assert!(refused.contains("--reset minutes:minutes") && refused.contains("tidemill backfill"), "{refused}");
    place.produce(150..400);
    let reset = place.run(&["--reset", "minutes:minutes"]);
    assert!(reset.contains("begins without state"), "{reset}");
    // The windows that were open at the reset have closed by now.
    let incomplete = place.rows(COUNTED);
    assert_eq!((incomplete["10:02"], incomplete["10:03"]), (Some(30), Some(60)));
    assert_eq!(place.rows(SUMMED), minutes(150..360, amount));
    let args =
        ["backfill", "job", "--from", "local/s3/archive/events", "--end", "2026-03-01T10:03:00Z", "--local", "local"];
    let said = place.done(&args);
    assert!(said.contains("it writes the archive that is read"), "{said}");
    assert_eq!(place.rows(COUNTED), minutes(0..360, |_| 1));
    assert_eq!(place.rows(SUMMED), minutes(0..360, amount));
    // And the job goes on.
    place.produce(400..450);
    place.done(&["run", "job", "--local", "local", "--drain"]);
    assert_eq!(place.rows(COUNTED), minutes(0..450, |_| 1));
    assert_eq!(place.rows(SUMMED), minutes(0..450, amount));
}

/// Where windows overlap, those that had begun before the reset end behind it. Each is computed whole, or not at all; and what counts from the
/// first row on is left alone.
#[test]
fn overlapping_windows_of_a_query_that_was_reset_are_completed_from_the_archive() {
    let hops = MINUTES.replace("TUMBLE(", "HOP(").replace("'1' MINUTE", "'1' MINUTE, INTERVAL '3' MINUTES");
    let files =
        [("events.sql", SOURCE), ("archive.sql", WIDER_ARCHIVE), ("minutes.sql", &hops), ("counts.sql", COUNTS)];
    let place = Place::of(&files);
    place.produce(0..150);
    place.run(&[]);
    let changed = hops.replace("c BIGINT", "c BIGINT, total BIGINT").replace("COUNT(*)", "COUNT(*), SUM(amount)");
    place.write("minutes.sql", &changed);
    place.produce(150..400);
    place.run(&["--reset", "minutes:minutes"]);
    // Those that end at 10:06 have closed; they begin between 9:58 and 10:03.
    let whole = |of: fn(u64) -> u64| -> BTreeMap<String, Option<i64>> {
        let window = |ends: u64| {
            let sum: u64 = ((60 * ends).saturating_sub(180)..60 * ends).map(of).sum();
            let start = if ends < 3 { format!("09:{:02}", 57 + ends) } else { format!("10:{:02}", ends - 3) };
            (start, i64::try_from(sum).ok())
        };
        (1..=6).map(window).collect()
    };
    assert_ne!(place.rows(COUNTED), whole(|_| 1), "those that were open at the reset are incomplete");
    // The last one that was open then ends at 10:05. Other ends, and beginnings, do no harm, wherever they lie.
    for more in [
        &["--end", "2026-03-01T10:05:00Z"][..],
        &["--end", "2026-03-01T10:05:59Z"],
        &["--start", "2026-03-01T09:58:30Z", "--end", "2026-03-01T10:03:30Z"],
        &["--start", "2026-03-01T10:00:30Z", "--end", "2026-03-01T10:06:00Z"],
    ] {
        let args = ["backfill", "job", "--from", "local/s3/archive/events", "--local", "local"];
        let said = place.done(&[&args, more].concat());
        assert!(
            said.contains("query minutes:minutes: ")
                && said.contains("query counts:counts: left out, it has a GROUP BY"),
            "{said}"
        );
        assert_eq!((place.rows(COUNTED), place.rows(SUMMED)), (whole(|_| 1), whole(amount)), "{more:?}");
        assert_eq!(place.rows("SELECT 'all', c FROM counts")["all"], Some(400), "{more:?}");
    }
}

/// A new query over a table of its own begins where somebody says; the others go on behind the checkpoint, whatever is said.
#[test]
fn a_new_query_begins_at_a_time_of_choice() {
    const OTHER: &str = "\
CREATE TABLE events_NAME (id BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json'OPTIONS);
CREATE TABLE NAME (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'NAME');
INSERT INTO NAME SELECT 'first', MIN(id) FROM events_NAME;
";
    let other = |name: &str, options: &str| OTHER.replace("NAME", name).replace("OPTIONS", options);
    let now = || {
        // Records that are put together have one time of arrival, to the millisecond.
        std::thread::sleep(Duration::from_millis(20));
        let now = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now());
        std::thread::sleep(Duration::from_millis(20));
        now.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    };
    let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.produce(0..100);
    let first = now();
    place.produce(100..200);
    let second = now();
    place.produce(200..300);
    place.run(&[]);
    place.produce(300..310);
    let begins = |name: &str| place.rows(&format!("SELECT k, c FROM {name}")).get("first").copied().flatten();
    // By the command line.
    place.write("by_line.sql", &other("by_line", ""));
    place.run(&["--from", &first]);
    assert_eq!(begins("by_line"), Some(100));
    // By the table's own options; the one before, and the old ones, go on, whatever the command line says.
    let option = format!(", 'source.init.position' = 'AT_TIMESTAMP', 'source.init.timestamp' = '{second}'");
    place.write("by_option.sql", &other("by_option", &option));
    place.produce(310..320);
    place.run(&[]);
    assert_eq!(begins("by_option"), Some(200));
    // The command line wins over the options, and says nothing to tables that have been read before.
    place.write("by_both.sql", &other("by_both", &option));
    place.produce(320..330);
    place.run(&["--from", &first]);
    assert_eq!(begins("by_both"), Some(100));
    // Over a table that is read already it begins behind the checkpoint.
    place.write(
        "behind.sql",
        "CREATE TABLE behind (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
         WITH ('connector' = 'dynamodb', 'table-name' = 'behind');
         INSERT INTO behind SELECT 'first', MIN(id) FROM events;",
    );
    place.produce(330..340);
    place.run(&["--from", &first]);
    assert_eq!(begins("behind"), Some(330));
    assert_eq!((begins("by_line"), begins("by_option"), begins("by_both")), (Some(100), Some(200), Some(100)));
    assert_eq!(place.rows("SELECT 'all', c FROM counts")["all"], Some(340));
}
