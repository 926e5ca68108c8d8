//! What may have changed, and what not, when the run before was killed and the log still has what it did.

use super::*;

/// A file for each event, so that nothing is open at a checkpoint.
const COPIES: &str = "\
CREATE TABLE copies (id BIGINT)
WITH ('connector' = 'filesystem', 'path' = '../copies', 'format' = 'json', 'sink.rolling-policy.row-count' = '1');
INSERT INTO copies SELECT id FROM events;
";

/// Is killed when a checkpoint has everything, and the log has still all that was committed, since a file of the archive is open.
/// Answers how many events there were.
fn killed_with_copies(place: &Place) -> u64 {
    let ids = killed_with_an_open_archive(place, true);
    let log = std::fs::read_to_string(place.at("local/checkpoints/job/epochs.log")).unwrap();
    assert!(log.contains("\"query\":\"copies:copies\""), "{log}");
    ids
}

fn with_copies() -> Place {
    let counts = [("events.sql", SOURCE), ("counts.sql", COUNTS)];
    Place::of(&[&counts[..], &[("archive.sql", ARCHIVE), ("copies.sql", COPIES)]].concat())
}

#[test]
fn a_query_that_could_leave_the_job_is_not_asked_for_after_the_next_kill() {
    let place = with_copies();
    let mut ids = killed_with_copies(&place);
    std::fs::remove_file(place.at("job/copies.sql")).unwrap();
    let before = place.newest_checkpoint();
    let child = place.run_until(i64::try_from(ids).unwrap(), &["--checkpoint-interval", "50ms"]);
    std::thread::sleep(Duration::from_millis(100));
    place.one_more(&mut ids);
    // The checkpoint does not name it any more, and the log has still what it has committed.
    wait("a checkpoint", || place.newest_checkpoint() > before);
    kill(child);
    place.run(&[]);
    archived_once(&place, &place.archived(), 0..ids);
    assert_eq!(std::fs::read_dir(place.at("copies")).unwrap().count() as u64, ids - 1, "as they were");
}

#[test]
fn a_table_whose_files_have_all_appeared_can_have_another_connector_after_a_kill() {
    let place = with_copies();
    let ids = killed_with_copies(&place);
    place.write(
        "copies.sql",
        "CREATE TABLE copies (id BIGINT) WITH ('connector' = 'print');\nINSERT INTO copies SELECT id FROM events;",
    );
    place.produce(ids..ids + 1);
    place.run(&[]);
    archived_once(&place, &place.archived(), 0..ids + 1);
    assert_eq!(std::fs::read_dir(place.at("copies")).unwrap().count() as u64, ids, "as they were");
}

/// A checkpoint that needs nothing of the log empties it. What follows stands there without the beginning of its run.
#[test]
fn sql_is_compared_where_the_log_does_not_say_with_what_its_epochs_were_cut() {
    let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.produce(0..100);
    let log = || std::fs::read_to_string(place.at("local/checkpoints/job/epochs.log")).unwrap_or_default();
    let mut ids = 100;
    let lacks_its_beginning = || log().contains("cut") && !log().contains("started");
    // Where a disk stands still, the next checkpoint may come before the kill: then it is tried again.
    while !lacks_its_beginning() {
        let child = place.run_until(i64::try_from(ids).unwrap(), &["--checkpoint-interval", "3s"]);
        place.one_more(&mut ids);
        while !lacks_its_beginning() {
            assert!(ids < 1_000, "no checkpoint");
            std::thread::sleep(Duration::from_millis(60));
            place.one_more(&mut ids);
        }
        kill(child);
    }
    let counted = |by: u64| Some(i64::try_from(ids * by).unwrap());
    let changed = COUNTS.replace("COUNT(*)", "COUNT(*) * 1000");
    place.write("counts.sql", &changed);
    let refused = place.refused(&RUN);
    for part in ["did not end in order", "'counts:counts' has changed", "  + ", "1000", "--reset counts:counts"] {
        assert!(refused.contains(part), "'{part}' in {refused}");
    }
    assert_eq!(place.rows("SELECT 'all', c FROM counts")["all"], counted(1));
    place.write("counts.sql", COUNTS);
    place.run(&[]);
    place.write("counts.sql", &changed);
    ids += 1;
    place.produce(ids - 1..ids);
    place.run(&[]);
    assert_eq!(place.rows("SELECT 'all', c FROM counts")["all"], Some(i64::try_from(ids * 1000).unwrap()));
}

/// Rows of windows that have closed cannot be computed again. They are kept as the sink took them, and it takes others now.
#[test]
fn rows_in_open_files_are_written_before_their_columns_change() {
    let closed = "\
CREATE TABLE archive (id BIGINT, c BIGINT)
WITH ('connector' = 's3', 'path' = 's3://archive/events/', 'format' = 'parquet');
INSERT INTO archive SELECT MIN(id), COUNT(*)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
";
    let wider = closed.replace("c BIGINT", "c BIGINT, twice BIGINT").replace("COUNT(*)", "COUNT(*), 2 * COUNT(*)");
    let retyped = closed.replace("c BIGINT", "c STRING").replace("COUNT(*)", "CAST(COUNT(*) AS STRING)");
    for in_checkpoint in [false, true] {
        let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("archive.sql", closed)]);
        let ids = killed_with_an_open_archive(&place, in_checkpoint);
        let before = place.newest_checkpoint();
        for changed in [&wider, &retyped] {
            place.write("archive.sql", changed);
            for more in [&[][..], &["--keep-state", "archive"]] {
                let refused = place.refused(&[&RUN[..], more].concat());
                // Where epochs are to be repeated, this is said first.
                let is_said = in_checkpoint || !more.is_empty();
                let wanted =
                    if is_said { "has rows in open files with other columns" } else { "'archive:archive' has changed" };
                assert!(refused.contains(wanted) && !refused.contains("panicked"), "'{wanted}' in {refused}");
                assert!(!is_said || refused.contains("run the unchanged files once with --once"), "{refused}");
            }
        }
        assert_eq!(place.newest_checkpoint(), before, "nothing was written");
        place.write("archive.sql", closed);
        place.run(&[]);
        place.write("archive.sql", &wider);
        place.produce(ids..300);
        place.run(&[]);
        let mut first: Vec<u64> =
            place.archived().iter().flat_map(|file| archive_rows(file)).map(|(id, _)| id).collect();
        first.sort_unstable();
        assert_eq!(first, [0, 60, 120, 180], "each window that has closed, once");
    }
}

/// A row that had counted would be late in the repetition, and the sum of its window go back.
#[test]
fn another_watermark_is_noticed_where_epochs_are_to_be_repeated() {
    let source = SOURCE.replace("INTERVAL '5' SECOND", "INTERVAL '60' SECOND");
    let place = Place::of(&[("events.sql", &source), ("counts.sql", COUNTS), ("minutes.sql", MINUTES)]);
    let first = |count| place.rows(COUNTED).get("10:00") == Some(&Some(count));
    place.produce(0..100);
    // Without a checkpoint, all epochs are repeated.
    let child = place.run_until(100, &["--checkpoint-interval", "1h"]);
    let counted = |wanted: i64| {
        wait("they are counted", || place.rows("SELECT 'all', c FROM counts").get("all") == Some(&Some(wanted)));
    };
    // Half a minute behind the newest one, and not late.
    place.produce(59..60);
    counted(101);
    place.produce(100..190);
    counted(191);
    wait("the first minute closes", || first(61));
    kill(child);
    place.write("events.sql", SOURCE);
    let refused = place.refused(&RUN);
    for part in ["did not end in order", "'counts:counts' has changed", "--keep-state counts:counts"] {
        assert!(refused.contains(part), "'{part}' in {refused}");
    }
    assert!(first(61));
    // The unchanged files repeat them as they were; behind an end in order, another watermark is none of the state's business.
    place.write("events.sql", &source);
    place.run(&[]);
    assert!(first(61));
    place.write("events.sql", SOURCE);
    let child = place.run_until(191, &["--checkpoint-interval", "1h"]);
    place.produce(190..200);
    counted(201);
    kill(child);
    // Now a checkpoint can show what is another.
    place.write("events.sql", &source.replace("'60'", "'30'"));
    let refused = place.refused(&RUN);
    for part in ["  -     WATERMARK at - 1 min", "  +     WATERMARK at - 30 s"] {
        assert!(refused.contains(part), "'{part}' in {refused}");
    }
    place.run(&["--keep-state", "counts", "--keep-state", "minutes"]);
    place.produce(200..260);
    place.done(&["run", "job", "--local", "local", "--drain"]);
    assert_eq!(place.rows("SELECT 'all', c FROM counts")["all"], Some(261));
    let mut expected = minutes(0..260, |_| 1);
    expected.insert("10:00".to_owned(), Some(61));
    assert_eq!(place.rows(COUNTED), expected);
}

/// Of 60 rows of `a`, a file; when it is full, one of `b` is open, which has the first row of all.
const PARTED: &str = "\
CREATE TABLE parted (id BIGINT, kind STRING) PARTITIONED BY (kind)
WITH ('connector' = 'filesystem', 'path' = '../parted', 'format' = 'json', 'sink.rolling-policy.row-count' = '60');
INSERT INTO parted SELECT id, CASE WHEN MOD(id, 3) = 0 THEN 'b' ELSE 'a' END FROM events;
";

fn parted(place: &Place) -> Vec<u64> {
    let mut found = Vec::new();
    let mut folders = vec![place.at("parted")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if !entry.file_name().to_string_lossy().starts_with('.') {
                let text = std::fs::read_to_string(entry.path()).unwrap();
                let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_u64().unwrap();
                found.extend(text.lines().map(id));
            }
        }
    }
    found.sort_unstable();
    found
}

fn once(ids: Range<u64>) -> Vec<u64> {
    ids.collect()
}

/// What is in committed files is known by their folders: rows that belong to others since would be there twice, or not at all.
#[test]
fn partitions_are_not_changed_while_rows_of_committed_files_are_to_be_written_again() {
    let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("parted.sql", PARTED)]);
    let ids = killed_with_an_open_archive(&place, true);
    place.produce(ids..200);
    let (by_kind, at_the_path) = ("PARTITIONED BY (kind)", "'path' = '../parted'");
    for (changed, said) in [
        (
            PARTED.replace(by_kind, ""),
            "parted by kind (Utf8View), NULL as __DEFAULT_PARTITION__, and those of now by no column",
        ),
        (
            PARTED.replace(at_the_path, "'partition.default-name' = 'none', 'path' = '../parted'"),
            "those of now by kind (Utf8View), NULL as none",
        ),
        (
            PARTED.replace("THEN 'b'", "THEN 'c'"),
            "'kind', which says in which folder a row lies, comes from something else",
        ),
    ] {
        place.write("parted.sql", &changed);
        let refused = place.refused(&RUN);
        for part in ["table 'parted'", said, "undo the change and run once with --once", "tidemill state rewind"] {
            assert!(refused.contains(part), "'{part}' in {refused}");
        }
    }
    // A row's partition comes from what it came from.
    place.write(
        "parted.sql",
        &PARTED.replace("SELECT id, CASE", "(kind, id) SELECT CASE").replace("END FROM", "END, id FROM"),
    );
    place.run(&[]);
    assert_eq!(parted(&place), once(0..200));
    // Behind an end in order nothing is written again.
    place.write("parted.sql", &PARTED.replace(by_kind, ""));
    place.produce(200..300);
    place.run(&[]);
    assert_eq!(parted(&place), once(0..300));
}

/// The epochs since are repeated as somebody has said, but rows keep their partitions.
#[test]
fn epochs_are_repeated_by_new_sql_only_into_the_same_partitions() {
    let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("parted.sql", PARTED)]);
    let ids = killed_with_an_open_archive(&place, false);
    place.write("parted.sql", &PARTED.replace("THEN 'b'", "THEN 'c'"));
    let refused = place.refused(&[&RUN[..], &["--keep-state", "parted"]].concat());
    assert!(refused.contains("'kind', which says in which folder a row lies"), "{refused}");
    place.write("parted.sql", &PARTED.replace("FROM events", "FROM events WHERE id >= 0"));
    let refused = place.refused(&RUN);
    assert!(refused.contains("'parted:parted' has changed"), "{refused}");
    place.run(&["--keep-state", "parted"]);
    assert_eq!(parted(&place), once(0..ids));
}

/// What was in open files is given up, and the epochs behind the last checkpoint have nothing in committed ones.
#[test]
fn without_its_state_a_query_may_have_other_partitions() {
    let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("parted.sql", PARTED)]);
    let mut ids = killed_with_an_open_archive(&place, false);
    place.write("parted.sql", &PARTED.replace("THEN 'b'", "THEN 'c'"));
    place.run(&["--reset", "parted"]);
    place.produce(ids..ids + 10);
    ids += 10;
    place.run(&[]);
    let mut found = parted(&place);
    assert!(found.ends_with(&once(101..ids)), "{found:?}");
    found.dedup();
    assert_eq!(found, parted(&place), "none is there twice");
}

/// Lines of the error output: ids of the records, each as often as it is there.
fn refused_ids(place: &Place) -> BTreeMap<u64, usize> {
    let mut ids = BTreeMap::new();
    let files = std::fs::read_dir(place.at("local/errors")).into_iter().flatten();
    for file in files.map(|file| file.unwrap().path()) {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let refused: serde_json::Value = serde_json::from_str(line).unwrap();
            let record: serde_json::Value = serde_json::from_str(refused["record"].as_str().unwrap()).unwrap();
            *ids.entry(record["id"].as_u64().unwrap()).or_default() += 1;
        }
    }
    ids
}

/// Records of an open file are read again, up to the checkpoint, and what was refused then has been told. What is refused only now has not.
#[test]
fn what_is_refused_only_when_it_is_read_again_is_told() {
    const ODD: &str = "INSERT INTO archive SELECT id, at, seen FROM events WHERE REQUIRE(id % 10 <> 3, 'three')";
    const FAILS: &str = "INSERT INTO archive SELECT 0 / IF(id % 10 = 3, 0, 1) + id, at, seen FROM events";
    const SUMS: &str = "CREATE TABLE sums (id BIGINT, a BIGINT) WITH ('connector' = 'print');
INSERT INTO sums SELECT id, amount FROM events WHERE id < 0;";
    let without = "INSERT INTO archive SELECT id, at, seen FROM events";
    let skips = "SET 'tidemill.on-exhausted-retries' = 'skip';
SET 'tidemill.maximum-retry-attempts' = '0';
SET 'tidemill.maximum-failed-rows' = '0';\n";
    let all = 0..110;
    let threes: BTreeSet<u64> = all.clone().filter(|id| id % 10 == 3).collect();
    let none = BTreeSet::new();
    for (name, before, after, more, refused) in [
        ("nothing", ODD, ODD.to_owned(), "", &threes),
        ("a REQUIRE", without, ODD.to_owned(), "", &threes),
        ("what fails", without, FAILS.to_owned(), "", &threes),
        ("how failing rows are treated", FAILS, format!("{skips}{FAILS}"), "", &all.clone().collect()),
        ("a query more that reads a column", without, without.to_owned(), SUMS, &(100..110).collect()),
        ("a condition", without, format!("{without} WHERE id % 10 <> 3"), "", &none),
    ] {
        let archive = |insert: &str| ARCHIVE.replace(without, insert);
        let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("archive.sql", &archive(before))]);
        place.produce(0..100);
        let wrong = |id| format!("{{\"id\":{id},\"at\":\"2026-03-01T10:02:00Z\",\"amount\":\"none\"}}\n");
        place.put(&(100..110).map(wrong).collect::<String>());
        let child = place.run_until(110, &["--checkpoint-interval", "50ms"]);
        wait("a checkpoint has all", || place.has_all_in_a_checkpoint());
        kill(child);
        assert_eq!(place.archived(), BTreeSet::new(), "{name}: the file was open");
        let told = refused_ids(&place);
        place.write("archive.sql", &archive(&after));
        place.write("sums.sql", more);
        match after.starts_with("SET") {
            true => {
                // Whoever waits for the end is told of the failure.
                let child = place.run_until(110, &[]);
                wait("all are refused", || refused_ids(&place).len() == refused.len());
                end(child);
            }
            false => drop(place.run(&[])),
        }
        let refused_now = refused_ids(&place);
        assert_eq!(refused_now.keys().copied().collect::<BTreeSet<_>>(), *refused, "{name}");
        if name == "nothing" {
            assert_eq!(refused_now, told, "told once");
        }
        let archived: BTreeSet<u64> =
            place.archived().iter().flat_map(|path| archive_rows(path)).map(|(id, _)| id).collect();
        let is_left_out = |id: &u64| refused.contains(id) || (name == "a condition" && id % 10 == 3);
        assert_eq!(archived, all.clone().filter(|id| !is_left_out(id)).collect(), "{name}");
    }
}

/// Nothing of the job has changed; a row of another table has, which says now what does not fit.
#[test]
fn what_does_not_fit_when_it_is_looked_up_again_is_told() {
    let values = "CREATE TABLE parts (k STRING, w STRING, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'parts');
INSERT INTO parts VALUES ('0', '10'), ('1', '11'), ('2', '12');";
    let looks_up = "CREATE VIEW keyed AS SELECT id, at, seen, CAST(id % 3 AS STRING) AS k, PROCTIME() AS p FROM events;
CREATE TABLE parts (k STRING, w INT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'parts');
CREATE TABLE archive (id BIGINT, at TIMESTAMP_LTZ(3), w BIGINT)
WITH ('connector' = 's3', 'path' = 's3://archive/events/', 'format' = 'parquet');
INSERT INTO archive SELECT e.id, e.at, p.w FROM keyed AS e LEFT JOIN parts FOR SYSTEM_TIME AS OF e.p AS p ON p.k = e.k;";
    let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("archive.sql", looks_up)]);
    std::fs::create_dir(place.at("parts")).unwrap();
    std::fs::write(place.at("parts/parts.sql"), values).unwrap();
    place.done(&["run", "parts", "--local", "local", "--drain"]);
    let ids = killed_with_an_open_archive(&place, true);
    assert_eq!(refused_ids(&place), BTreeMap::new());
    let database = rusqlite::Connection::open(place.at("local/dynamodb.sqlite")).unwrap();
    assert_eq!(database.execute("UPDATE parts SET w = 'many' WHERE k = '1'", []).unwrap(), 1);
    drop(database);
    place.run(&[]);
    let (refused, archived): (BTreeSet<u64>, BTreeSet<u64>) = (0..ids).partition(|id| id % 3 == 1);
    assert_eq!(refused_ids(&place).into_keys().collect::<BTreeSet<_>>(), refused);
    let rows = place.archived().iter().flat_map(|path| archive_rows(path)).map(|(id, _)| id).collect::<BTreeSet<_>>();
    assert_eq!(rows, archived);
}

/// CSV is read by place: a column more that nobody reads makes all records too short.
#[test]
fn what_is_too_short_when_it_is_read_again_is_told() {
    let source =
        "CREATE TABLE events (id BIGINT, at TIMESTAMP_LTZ(3), seen TIMESTAMP_LTZ(3) METADATA FROM 'watermark' VIRTUAL)
WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'csv');\n";
    let place = Place::of(&[("events.sql", source), ("counts.sql", COUNTS), ("archive.sql", ARCHIVE)]);
    place.put(&(0..100).map(|id| format!("{id},2026-03-01 10:00:00Z\n")).collect::<String>());
    let child = place.run_until(100, &["--checkpoint-interval", "50ms"]);
    wait("a checkpoint has all", || place.has_all_in_a_checkpoint());
    kill(child);
    assert_eq!(place.archived(), BTreeSet::new(), "the file was open");
    place.write("events.sql", &source.replace("id BIGINT,", "id BIGINT, more STRING,"));
    place.run(&[]);
    let files = std::fs::read_dir(place.at("local/errors")).unwrap().map(|file| file.unwrap().path());
    let refused: usize = files.map(|file| std::fs::read_to_string(file).unwrap().lines().count()).sum();
    assert_eq!((refused, place.archived().len()), (100, 0));
}
