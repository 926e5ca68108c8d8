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
