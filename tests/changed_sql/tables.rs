//! Tables that go by another name than before: with another hint, or renamed.

use super::*;

fn with_hint(sql: &str, value: &str) -> String {
    match value {
        "" => sql.to_owned(),
        value => {
            let hint = format!("FROM events /*+ OPTIONS('scan.watermark.idle-timeout' = '{value}') */");
            sql.replace("FROM events", &hint)
        }
    }
}

fn counted(place: &Place) -> Option<i64> {
    place.rows("SELECT 'all', c FROM counts").get("all").copied().flatten()
}

/// What is read is one stream all the time, so each record counts once, wherever a new table would begin.
#[test]
fn a_hint_that_comes_changes_or_goes_leaves_a_query_where_it_was() {
    for start in ["LATEST", "TRIM_HORIZON"] {
        let source = SOURCE.replace("'format'", &format!("'scan.stream.initpos' = '{start}', 'format'"));
        let place = Place::of(&[("events.sql", &source), ("archive.sql", ARCHIVE), ("counts.sql", COUNTS)]);
        // The stream is there before the job is.
        place.produce(0..1);
        let run = |counts: &str, archive: &str| {
            place.write("counts.sql", &with_hint(COUNTS, counts));
            place.write("archive.sql", &with_hint(ARCHIVE, archive));
            place.done(&["run", "job", "--local", "local", "--once", "--keep-state", "counts"])
        };
        place.done(&["run", "job", "--local", "local", "--once"]);
        let first = u64::from(start == "LATEST");
        let mut ids = 1;
        let hints =
            [("", ""), ("", "5 s"), ("", "6 s"), ("6 s", "6 s"), ("7 s", "6 s"), ("7s", "7s"), ("7s", ""), ("", "")];
        let mut before = ("", "");
        for (counts, archive) in hints {
            place.produce(ids..ids + 10);
            ids += 10;
            let said = run(counts, archive);
            assert_eq!(said.contains("is read on from there"), before != (counts, archive), "{before:?}: {said}");
            assert_eq!(counted(&place), i64::try_from(ids - first).ok(), "{start}: {counts}, {archive}: {said}");
            archived_once(&place, &place.archived(), first..ids);
            before = (counts, archive);
        }
    }
}

#[test]
fn a_hint_on_one_of_two_branches_counts_no_record_twice() {
    let both = |hint: &str| {
        let more = with_hint(" SELECT id, at, seen FROM events WHERE MOD(id, 2) = 1;\n", hint);
        ARCHIVE.replace("FROM events;\n", &format!("FROM events WHERE MOD(id, 2) = 0 UNION ALL{more}"))
    };
    let place = Place::of(&[("events.sql", SOURCE), ("archive.sql", &both(""))]);
    for (number, hint) in ["", "5 s", "6 s", ""].into_iter().enumerate() {
        let ids = number as u64 * 50;
        place.write("archive.sql", &both(hint));
        place.produce(ids..ids + 50);
        place.run(&[]);
        archived_once(&place, &place.archived(), 0..ids + 50);
    }
}

/// The log has records of a table that would not be there.
#[test]
fn a_hint_that_changes_after_a_kill_is_refused_while_epochs_are_to_be_repeated() {
    let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", &with_hint(COUNTS, "5 s"))]);
    place.produce(0..100);
    let mut ids = 100;
    place.killed_without_a_checkpoint(&mut ids);
    place.write("counts.sql", &with_hint(COUNTS, "6 s"));
    place.produce(ids..200);
    let refused = place.refused(&RUN);
    for part in [
        "did not end in order",
        "events OPTIONS('scan.watermark.idle-timeout'='6 s')",
        "'='5 s')' then",
        "run once with --once",
    ] {
        assert!(refused.contains(part), "'{part}' in {refused}");
    }
    place.write("counts.sql", &with_hint(COUNTS, "5 s"));
    place.run(&[]);
    place.write("counts.sql", &with_hint(COUNTS, "6 s"));
    place.produce(200..300);
    place.run(&[]);
    assert_eq!(counted(&place), Some(300));
}

/// Not the run that repeats epochs, but the one before it had the change.
#[test]
fn a_hint_that_is_changed_back_after_a_kill_is_refused_too() {
    let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", &with_hint(COUNTS, "5 s"))]);
    place.produce(0..100);
    place.run(&[]);
    place.write("counts.sql", &with_hint(COUNTS, "6 s"));
    place.produce(100..150);
    let mut ids = 150;
    place.killed_without_a_checkpoint(&mut ids);
    place.write("counts.sql", &with_hint(COUNTS, "5 s"));
    let refused = place.refused(&RUN);
    assert!(refused.contains("did not end in order") && refused.contains("'6 s')' then"), "{refused}");
    place.write("counts.sql", &with_hint(COUNTS, "6 s"));
    place.produce(ids..200);
    place.run(&[]);
    place.write("counts.sql", &with_hint(COUNTS, "5 s"));
    place.produce(200..210);
    place.run(&[]);
    assert_eq!(counted(&place), Some(210));
}

/// Whether it is the same table is not known to the program.
#[test]
fn a_table_that_was_renamed_is_read_on_where_a_person_says_that_it_is_the_same() {
    let renamed = |sql: &str| sql.replace("TABLE events", "TABLE records").replace("FROM events", "FROM records");
    let changed = |queries: &[(&str, &str)]| {
        let place = Place::of(&[&[("events.sql", SOURCE)], queries].concat());
        place.produce(0..100);
        place.run(&[]);
        place.produce(100..150);
        place.write("events.sql", &renamed(SOURCE));
        queries.iter().for_each(|(name, sql)| place.write(name, &renamed(sql)));
        place
    };
    let place = changed(&[("archive.sql", ARCHIVE)]);
    let refused = place.refused(&RUN);
    let parts = [
        "the query 'archive:archive' reads table 'records'",
        "and read 'events' up to the last checkpoint",
        "--keep-state archive:archive",
        "--reset archive:archive",
    ];
    for part in parts {
        assert!(refused.contains(part), "'{part}' in {refused}");
    }
    let said = place.run(&["--keep-state", "archive"]);
    assert!(said.contains("table 'records' was 'events' before, and is read on from there"), "{said}");
    place.produce(150..160);
    place.run(&[]);
    archived_once(&place, &place.archived(), 0..160);
    // With state; and as another table, which is read from where it says.
    for (word, count) in [("--keep-state", 150), ("--reset", 150)] {
        let place = changed(&[("counts.sql", COUNTS)]);
        place.run(&[word, "counts"]);
        assert_eq!(counted(&place), Some(count), "{word}");
    }
}

#[test]
fn a_table_more_for_a_query_that_goes_on_is_said_to_be_new() {
    let more = SOURCE.replace("TABLE events", "TABLE others").replace("'clicks'", "'others'");
    let place = Place::of(&[("events.sql", SOURCE), ("archive.sql", ARCHIVE)]);
    place.produce(0..100);
    place.run(&[]);
    let both = format!("{} UNION ALL SELECT id, at, seen FROM others;", ARCHIVE.trim_end().trim_end_matches(';'));
    place.write("archive.sql", &format!("{more}{both}"));
    place.produce(100..150);
    let said = place.run(&[]);
    assert!(said.contains("table 'others' is new to query 'archive:archive'"), "{said}");
    archived_once(&place, &place.archived(), 0..150);
}
