//! Looking at saved state by hand, keeping it, and going back to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::*;

/// The first text and the first number of each row of a Parquet file, sorted.
fn parquet(path: &Path) -> Vec<(String, i64)> {
    let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap().map(|row| {
        let row = row.unwrap();
        let text = row.get_column_iter().find_map(|(_, field)| match field {
            Field::Str(text) => Some(text.clone()),
            _ => None,
        });
        let number = row.get_column_iter().find_map(|(_, field)| match field {
            Field::Long(number) => Some(*number),
            _ => None,
        });
        (text.unwrap(), number.unwrap())
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort();
    rows
}

#[test]
fn state_is_looked_at_kept_and_gone_back_to() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    let kept = place.done(&["state", "save", "local", "first"]);
    assert!(kept.contains("checkpoint 1 is kept as savepoint first"), "{kept}");
    place.produce(300, 200);
    assert!(place.run(&[]).contains("200 records"));
    assert_eq!(place.number(TOTAL), 500);
    let list = place.done(&["state", "list", "local"]);
    assert!(
        list.contains("local/checkpoints/job\n") && list.contains("     2  20") && list.contains("  first  20"),
        "{list}"
    );
    let shown = place.done(&["state", "show", "local"]);
    for wanted in
        ["checkpoint 2: ", "shardId-000000000000: after ", "query counts:counts: durable", "group by events.event_type"]
    {
        assert!(shown.contains(wanted), "'{wanted}' in {shown}");
    }
    let diff = place.done(&["state", "diff", "local", "1"]);
    assert!(diff.contains("table events, shardId-000000000000: ") && diff.contains(" -> "), "{diff}");
    let exported = place.done(&["state", "export", "local", "--to", "out"]);
    assert!(exported.contains("out/counts-counts-0.parquet\n1 files"), "{exported}");
    let rows = parquet(&place.at("out/counts-counts-0.parquet"));
    let stored = place.rows("SELECT event_type, events FROM counts");
    assert!(stored.len() == 2 && rows == stored, "what is stored has come of the state: {rows:?}, {stored:?}");
    // Back to the first checkpoint: the same records are read again, and give the same numbers.
    let rewound = place.done(&["state", "rewind", "local", "1"]);
    assert!(rewound.contains("checkpoint 3 is checkpoint 1 again"), "{rewound}");
    assert!(place.run(&[]).contains("200 records"));
    assert_eq!(place.number(TOTAL), 500);
    assert!(place.run(&["--from-savepoint", "first"]).contains("200 records"));
    assert_eq!(place.number(TOTAL), 500);
    let unknown = place.refused(&["run", "job", "--local", "local", "--from-savepoint", "other"]);
    assert!(unknown.contains("there is no savepoint 'other'"), "{unknown}");
    let number = place.refused(&["run", "job", "--local", "local", "--from-savepoint", "2"]);
    assert!(number.contains("`tidemill state rewind local/checkpoints/job 2`"), "{number}");
    // The savepoint has outlived its checkpoint; and it goes to another place.
    assert!(place.refused(&["state", "show", "local", "1"]).contains("there is no checkpoint 1"));
    let restored = place.done(&["state", "restore", "local", "first", "--to", "elsewhere/job"]);
    assert!(restored.contains("a job called 'job' goes on from it with --checkpoints elsewhere"), "{restored}");
    let goes_on = place.run(&["--checkpoints", "elsewhere"]);
    assert!(goes_on.contains("goes on from the newest checkpoint in elsewhere/job: "), "{goes_on}");
    let moved = place.done(&["state", "show", "elsewhere/job", "1"]);
    assert!(moved.contains("from checkpoint 1 of "), "{moved}");
    // Under another name, though its checkpoint has gone.
    let again = place.done(&["state", "save", "local", "second", "--checkpoint", "first"]);
    assert!(again.contains("savepoint first is kept as savepoint second"), "{again}");
    place.done(&["state", "drop", "local", "second"]);
    place.done(&["state", "drop", "local", "first"]);
    assert!(!place.done(&["state", "list", "local"]).contains("\n  first "));
    let (outcome, text) = place.said(&["state", "list", "job"]);
    assert!(!outcome && text.contains("there are no checkpoints in 'job'"), "{text}");
}

/// What a drained run has closed, and a query that was begun anew with other operators.
#[test]
fn a_difference_is_told_where_positions_are_the_same() {
    let place = Place::new(&[("events.sql", SOURCE), ("minutes.sql", MINUTES)]);
    place.run(&[]);
    place.done(&["run", "job", "--local", "local", "--drain"]);
    let diff = |before: &str, after: &str| {
        let diff = place.done(&["state", "diff", "local", before, after]);
        for line in diff.lines() {
            let sides = line.split_once(": ").and_then(|(_, change)| change.split_once(" -> "));
            assert!(sides.is_none_or(|(was, is)| was != is), "'{line}' in {diff}");
        }
        diff
    };
    let drained = diff("1", "2");
    let line = drained.lines().find(|line| line.contains("query minutes:minutes, operator 0: "));
    assert!(line.is_some_and(|line| line.contains(" rows, ") && line.contains("-> 0 rows, ")), "{drained}");
    let days = MINUTES
        .replace(
            "SELECT DATE_FORMAT(window_start, 'yyyy-MM-dd HH:mm'), COUNT(*)\nFROM",
            "SELECT DATE_FORMAT(minute, 'yyyy-MM-dd'), SUM(n) FROM (SELECT window_start AS minute, COUNT(*) AS n\nFROM",
        )
        .replace("window_end;", "window_end) GROUP BY DATE_FORMAT(minute, 'yyyy-MM-dd');");
    place.write("minutes.sql", &days);
    place.produce(300, 200);
    place.run(&["--reset", "minutes"]);
    let reset = diff("2", "3");
    assert!(reset.contains("query minutes:minutes, operator 1: none -> "), "{reset}");
    // And back.
    assert!(diff("3", "2").contains(" -> none\n"));
}

#[test]
fn a_run_says_where_it_begins_and_what_it_writes_twice() {
    let files = "\
CREATE TABLE files (event_type STRING) WITH ('connector' = 'filesystem', 'path' = '../out', 'format' = 'json');
INSERT INTO files SELECT event_type FROM events;
";
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("files.sql", files)]);
    let first = place.run(&[]);
    assert!(first.contains("note: the run begins without state: no checkpoint in local/checkpoints/job\n"), "{first}");
    place.produce(300, 200);
    let second = place.run(&[]);
    assert!(second.contains("note: the run goes on from the newest checkpoint in local/checkpoints/job: "), "{second}");
    assert!(!second.contains("second time"), "{second}");
    place.done(&["state", "rewind", "local", "1"]);
    let twice = "checkpoint 1 is not the newest state: rows that came after it are read again, and come a second time in 'files'";
    let rewound = place.run(&[]);
    assert!(rewound.contains(twice), "{rewound}");
    // Another name is another job.
    std::fs::rename(place.at("job"), place.at("other")).unwrap();
    let other = place.done(&["run", "other", "--checkpoints", "local/checkpoints", "--local", "new", "--once"]);
    assert!(other.contains("no checkpoint in local/checkpoints/other (beside it: job;"), "{other}");
}

/// Rows that wait in a file of a sink, and cannot be computed again, are part of the state.
#[test]
fn rows_of_open_files_are_exported_too() {
    let sink = "'connector' = 'filesystem', 'path' = 'archive', 'format' = 'json', 'sink.rolling-policy.rollover-interval' = '1 h'";
    let minutes = MINUTES.replace("'connector' = 'dynamodb', 'table-name' = 'minutes'", sink);
    let place = Place::new(&[
        ("events.sql", SOURCE),
        ("minutes.sql", &minutes.replace(", PRIMARY KEY (minute_start) NOT ENFORCED", "")),
    ]);
    let mut running =
        place.command(&["run", "job", "--local", "local", "--checkpoint-interval", "100ms"]).spawn().unwrap();
    wait("rows are in open files", || {
        assert!(running.try_wait().unwrap().is_none());
        place.said(&["state", "show", "local"]).1.contains("in open files of its sink")
    });
    running.kill().unwrap();
    running.wait().unwrap();
    let exported = place.done(&["state", "export", "local", "--to", "out", "--query", "minutes:minutes"]);
    assert!(exported.contains("out/minutes-minutes-open.parquet\n"), "{exported}");
    let open = parquet(&place.at("out/minutes-minutes-open.parquet"));
    let visible = || -> Vec<(String, i64)> {
        let files = std::fs::read_dir(place.at("job/archive")).into_iter().flatten().map(|entry| entry.unwrap());
        let files = files.filter(|file| !file.file_name().to_string_lossy().starts_with('.'));
        let text: String = files.map(|file| std::fs::read_to_string(file.path()).unwrap()).collect();
        let row = |line: &str| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            (row["minute_start"].as_str().unwrap().to_owned(), row["events"].as_i64().unwrap())
        };
        let mut rows: Vec<_> = text.lines().map(row).collect();
        rows.sort();
        rows
    };
    assert!(!open.is_empty() && visible().is_empty(), "{open:?}");
    // When the file is finished, its rows are these, and no more than these, since nothing has come.
    place.run(&[]);
    assert_eq!(visible(), open);
}

/// What a folder has, with the bytes of each file.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => found.extend(content(&entry)),
            false => _ = found.insert(entry.clone(), std::fs::read(&entry).unwrap()),
        }
    }
    found
}

/// What cannot be loaded must not become the newest checkpoint, nor cost the epochs that are logged.
#[test]
fn nothing_is_rewound_to_a_checkpoint_whose_files_are_damaged() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    place.done(&["state", "save", "local", "sp"]);
    place.produce(300, 200);
    place.killed(&["--checkpoint-interval", "0"], || place.logged() > 5);
    let own = place.at("local/checkpoints/job");
    let manifest = std::fs::read_to_string(own.join("savepoints/sp.json")).unwrap();
    let file = manifest.split('"').find(|word| word.starts_with("state/") && word.ends_with(".arrow")).unwrap();
    let whole = std::fs::read(own.join(file)).unwrap();
    std::fs::write(own.join(file), &whole[..whole.len() / 2]).unwrap();
    let before = content(&own);
    for which in ["sp", "1", "latest"] {
        let refused = place.refused(&["state", "rewind", "local", which]);
        assert!(refused.contains("error[corrupt]") && refused.contains(file), "{refused}");
        assert!(content(&own) == before, "{which}: nothing is written, and the log is as it was");
    }
    std::fs::write(own.join(file), &whole).unwrap();
    place.done(&["state", "rewind", "local", "sp"]);
    place.run(&[]);
    assert_eq!(place.number(TOTAL), 500);
}

/// Only where a run finds it.
#[test]
fn a_checkpoint_is_copied_into_the_folder_of_a_job_and_no_other() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    std::fs::create_dir_all(place.at("mine")).unwrap();
    std::fs::write(place.at("mine/notes.txt"), "mine").unwrap();
    std::fs::create_dir_all(place.at("several/one/manifests")).unwrap();
    for (to, hint) in [
        ("local", "local/checkpoints/JOB"),
        ("local/checkpoints", "JOB"),
        ("mine", "mine/checkpoints/JOB"),
        ("several", "several/checkpoints/JOB"),
        ("mine/notes.txt", "another place"),
    ] {
        let before = content(&place.at("local"));
        let refused = place.refused(&["state", "restore", "local", "--to", to]);
        assert!(refused.starts_with("error: ") && refused.contains(hint), "{refused}");
        assert!(content(&place.at("local")) == before && !place.at(to).join("manifests").exists(), "{to}");
    }
    // The folder of `--local` that is not there yet: the copy lies where no such run looks, and the run says so.
    place.done(&["state", "restore", "local", "--to", "new"]);
    let (from, to) = (place.at("local/kinesis"), place.at("new/kinesis"));
    assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
    let refused = place.refused(&["run", "job", "--local", "new", "--once"]);
    assert!(refused.contains("'new' has a copy of checkpoints in the folder itself"), "{refused}");
    let own = "new/checkpoints/job";
    assert!(refused.contains(&format!("`tidemill state restore new --to {own}`")), "{refused}");
    place.done(&["state", "restore", "new", "--to", own]);
    let goes_on = place.done(&["run", "job", "--local", "new", "--once"]);
    assert!(goes_on.contains(&format!("goes on from the newest checkpoint in {own}: ")), "{goes_on}");
    // What runs use counts for the tools too, not the copy that is left.
    let list = place.done(&["state", "list", "new"]);
    assert!(list.starts_with(&format!("{own}\n")), "{list}");
}

/// A backup while the job rests, which is needed when that has gone on for long.
#[test]
fn a_copy_counts_from_where_its_job_does_not_come_to() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    place.done(&["state", "restore", "local", "--to", "copy/job"]);
    place.produce(300, 200);
    place.run(&["--epoch-rows", "5"]);
    let (own, copy) = (place.epoch("local"), place.epoch("copy/job"));
    assert!(own >= 40 && copy > 1_000 * own, "{own}, {copy}");
    std::fs::remove_dir_all(place.at("local/checkpoints/job")).unwrap();
    place.done(&["state", "restore", "copy/job", "--to", "local/checkpoints/job"]);
    assert!(place.epoch("local") > copy);
    assert!(place.run(&[]).contains("200 records"));
    assert_eq!(place.number(TOTAL), 500);
}

#[test]
fn a_store_without_anything_is_no_store() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    for manifest in place.manifests() {
        std::fs::remove_file(manifest).unwrap();
    }
    let refused = place.refused(&["state", "list", "local/checkpoints/job"]);
    assert!(refused.contains("there is no checkpoint in 'local/checkpoints/job'"), "{refused}");
}
