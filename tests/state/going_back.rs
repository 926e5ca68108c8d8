//! Going back to a checkpoint of a job that was running: files were open, of which records before the checkpoint are needed again, and queries
//! with state have had these records.

use std::collections::BTreeMap;

use tidemill::state::CATCH_UP_VERSION;

use super::earlier::{close_tables, copy, data};
use super::*;

const ARCHIVE: &str = "\
CREATE TABLE archive (event_type STRING, `timestamp` TIMESTAMP_LTZ(3), page STRING)
WITH ('connector' = 'filesystem', 'path' = '../archive', 'format' = 'json', 'sink.rolling-policy.rollover-interval' = '1 h');
INSERT INTO archive SELECT event_type, `timestamp`, data.page FROM events;
";
const FIVE_SECONDS: &str = "INTERVAL '5' SECOND";
const LIVE: [&str; 8] = ["run", "job", "--local", "local", "--epoch-rows", "5", "--epoch-interval", "10ms"];

/// Rows of the archive, and how often each is there.
type Archive = BTreeMap<String, usize>;

fn archive(place: &Place) -> Archive {
    let files = std::fs::read_dir(place.at("archive")).into_iter().flatten().map(|entry| entry.unwrap());
    let files = files.filter(|file| !file.file_name().to_string_lossy().starts_with('.'));
    let text: String = files.map(|file| std::fs::read_to_string(file.path()).unwrap()).collect();
    text.lines().fold(Archive::new(), |mut rows, line| {
        *rows.entry(line.to_owned()).or_default() += 1;
        rows
    })
}

/// What the job gives of the first `events` where nothing happens.
fn undisturbed(files: &[(&str, &str)], events: usize) -> Archive {
    let place = Place::of(files);
    place.produce(0, events);
    place.run(&[]);
    let archive = archive(&place);
    assert_eq!(archive.values().sum::<usize>(), events);
    archive
}

/// The events in files instead of a stream, with other options.
fn in_files(options: &str) -> String {
    let files = format!("'connector' = 'filesystem', 'path' = 'in'{options}");
    SOURCE.replace("'connector' = 'kinesis', 'stream' = 'clicks'", &files)
}

fn weblog() -> Vec<String> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/weblog.jsonl");
    std::fs::read_to_string(all).unwrap().lines().map(str::to_owned).collect()
}

fn files() -> [(&'static str, &'static str); 3] {
    [("events.sql", SOURCE), ("counts.sql", COUNTS), ("archive.sql", ARCHIVE)]
}

impl Place {
    /// The same job over files, of which there are none yet.
    fn over_files(source: &str) -> Self {
        let place = Self::of(&[("events.sql", source), ("counts.sql", COUNTS), ("archive.sql", ARCHIVE)]);
        std::fs::create_dir(place.at("job/in")).unwrap();
        place
    }

    /// Whole at once: who sees a file that is not written yet has read it to its end.
    fn in_file(&self, number: usize, lines: &[String]) {
        std::fs::write(self.at("job/new"), lines.join("\n") + "\n").unwrap();
        std::fs::rename(self.at("job/new"), self.at(&format!("job/in/{number}.jsonl"))).unwrap();
    }

    fn manifests_or_none(&self) -> Vec<PathBuf> {
        if self.at("local/checkpoints/job/manifests").exists() { self.manifests() } else { Vec::new() }
    }

    fn newest(&self) -> serde_json::Value {
        self.newest_manifest().unwrap_or_default()
    }

    /// Whether `events` have been counted, and the newest checkpoint, which is not the first, has all of them and open files: however long it
    /// took to be made. Each epoch that was counted is in the log until a checkpoint has it.
    fn has_all_with_open_files(&self, events: i64) -> bool {
        if !self.at("local/dynamodb.sqlite").exists() || self.total() != events {
            return false;
        }
        let (last, manifest) = (self.last_logged(), self.newest());
        self.manifests_or_none().len() > 1 && manifest["reread"].is_object() && manifest["epoch"].as_u64() >= last
    }

    /// The job runs, and is killed when a checkpoint has `events` in its states, and open files of the archive.
    fn killed_with_open_files(&self, events: i64) {
        self.killed(&["--checkpoint-interval", "30ms"], || self.has_all_with_open_files(events));
        assert!(archive(self).is_empty(), "nothing of it is to be seen yet");
    }

    fn total(&self) -> i64 {
        let connection = rusqlite::Connection::open(self.at("local/dynamodb.sqlite")).unwrap();
        connection.query_row(TOTAL, [], |row| row.get(0)).unwrap_or(0)
    }

    /// Runs, and is killed where it comes to a point for the n-th time; false when it does not.
    fn crashed(&self, at: &str, more: &[&str]) -> bool {
        let mut run = self.command(&[&LIVE[..], &["--once"], more].concat());
        let output = run.env("TIDEMILL_CRASH_AT", at).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.code().is_none_or(|code| code == 0), "{text}");
        output.status.code().is_none()
    }

    /// The same of a run that does not end by itself: however long a checkpoint takes, its files are still open when it is made. The second
    /// checkpoint comes in any case, where there are two epochs more.
    #[track_caller]
    fn crashes(&self, at: &str, more: &[&str]) {
        let mut run = self.command(&[&LIVE[..], more].concat()).env("TIDEMILL_CRASH_AT", at).spawn().unwrap();
        wait(at, || run.try_wait().unwrap().is_some());
        let output = run.wait_with_output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.code().is_none(), "{at}: it ended by itself: {text}");
        assert!(archive(self).is_empty(), "nothing of it is to be seen yet");
    }
}

#[test]
fn going_back_to_a_checkpoint_of_a_running_job_counts_nothing_twice() {
    let place = Place::new(&files());
    place.killed_with_open_files(300);
    place.done(&["state", "save", "local", "kept"]);
    let wanted = undisturbed(&files(), 300);
    let rewound = place.done(&["state", "rewind", "local", "latest"]);
    assert!(rewound.contains("'archive:archive' had rows in open files"), "{rewound}");
    let manifest = place.newest();
    assert_eq!(manifest["version"], 5, "a program that would give them to all queries must not read it");
    let shown = place.done(&["state", "show", "local"]);
    assert!(shown.contains("  read again first, for archive:archive alone\n    events, shardId-"), "{shown}");
    place.run(&[]);
    assert_eq!((place.number(TOTAL), archive(&place)), (300, wanted.clone()));
    // There is nothing left to catch up with.
    assert_eq!(place.newest()["version"], 4);
    place.produce(300, 200);
    assert!(place.run(&[]).contains("200 records"));
    assert_eq!((place.number(TOTAL), archive(&place)), (500, undisturbed(&files(), 500)));

    // Back once more, by the run itself; the files were moved away.
    std::fs::remove_dir_all(place.at("archive")).unwrap();
    let back = place.run(&["--from-savepoint", "kept"]);
    assert!(back.contains("'archive:archive' had rows in open files"), "{back}");
    assert_eq!((place.number(TOTAL), archive(&place)), (500, undisturbed(&files(), 500)));

    // And elsewhere.
    std::fs::remove_dir_all(place.at("archive")).unwrap();
    let restored = place.done(&["state", "restore", "local", "kept", "--to", "elsewhere/job"]);
    assert!(restored.contains("'archive:archive' had rows in open files"), "{restored}");
    place.run(&["--checkpoints", "elsewhere"]);
    assert_eq!((place.number(TOTAL), archive(&place)), (500, undisturbed(&files(), 500)));
}

fn earlier_one() -> PathBuf {
    data().join(format!("catching-up-{CATCH_UP_VERSION}"))
}

#[test]
fn an_earlier_program_has_gone_back() {
    let place = Place::of(&[]);
    copy(&earlier_one(), place.path());
    let manifest = place.newest();
    assert!(manifest["reread"]["catch_up"].is_object() && manifest["version"] == CATCH_UP_VERSION, "{manifest}");
    let again = place.run(&[]);
    assert!(again.contains("300 records"), "{again}");
    assert_eq!((place.number(TOTAL), archive(&place)), (300, undisturbed(&files(), 300)));
}

#[test]
#[ignore = "it writes a checkpoint of this version into tests/data, where there must be none"]
fn make_a_checkpoint_that_catches_up() {
    assert!(!earlier_one().exists(), "there is one: a new layout has a new version");
    let place = Place::new(&files());
    place.killed_with_open_files(300);
    place.done(&["state", "rewind", "local", "latest"]);
    close_tables(&place);
    std::fs::remove_dir_all(place.at("local/spill")).unwrap();
    for folder in ["job", "local"] {
        copy(&place.at(folder), &earlier_one().join(folder));
    }
}

#[test]
fn the_checkpoint_before_a_damaged_one_counts_nothing_twice() {
    let place = Place::new(&files());
    place.killed_with_open_files(300);
    std::fs::write(place.manifests().pop().unwrap(), "half").unwrap();
    place.run(&["--previous-checkpoint"]);
    assert_eq!((place.number(TOTAL), archive(&place)), (300, undisturbed(&files(), 300)));
}

/// Killed in its first new epochs, in those that catch up, behind them, and behind a checkpoint which still needs them.
#[test]
fn a_job_that_has_gone_back_is_killed_again_wherever_it_is() {
    let place = Place::new(&files());
    place.killed_with_open_files(300);
    place.done(&["state", "save", "local", "kept"]);
    place.produce(300, 200);
    let wanted = undisturbed(&files(), 500);
    let often = ["--checkpoint-interval", "1ms"];
    let again = |what: &str, crashes: &[&str], more: &[&str]| {
        place.done(&["state", "rewind", "local", "kept"]);
        let _ = std::fs::remove_dir_all(place.at("archive"));
        // With checkpoints, a machine that is busy may have nothing left to do when it comes to the later ones.
        for (number, at) in crashes.iter().enumerate() {
            match (more == often, number) {
                (true, 0) => place.crashes(at, more),
                (true, _) => _ = place.crashed(at, more),
                (false, _) => assert!(place.crashed(at, more), "{what}: it came to {at}"),
            }
        }
        place.run(&[]);
        assert_eq!((place.number(TOTAL), archive(&place)), (500, wanted.clone()), "{what}");
    };
    let never = ["--checkpoint-interval", "0"];
    again("at once", &["cut.after:1", "cut.before:1"], &never);
    again("while it catches up", &["cut.after:7", "sink.flushed:20"], &never);
    again("where it has", &["cut.after:59", "cut.after:1", "cut.after:1", "cut.before:2"], &never);
    again("behind that", &["cut.after:85", "cut.after:3"], &never);
    // Checkpoints that are made behind it need what comes before: the file that was opened there is still open.
    again("with checkpoints", &["manifest.after:2", "manifest.after:2", "cut.after:2"], &often);
    // Back to such a one.
    place.done(&["state", "rewind", "local", "kept"]);
    std::fs::remove_dir_all(place.at("archive")).unwrap();
    place.crashes("manifest.after:2", &often);
    let manifest = place.newest();
    assert!(manifest["reread"]["catch_up"].is_object() && manifest["version"] == 5, "{manifest}");
    assert_ne!(manifest["reread"]["after_epoch"], manifest["epoch"]);
    place.done(&["state", "rewind", "local", "latest"]);
    place.run(&[]);
    assert_eq!((place.number(TOTAL), archive(&place)), (500, wanted));
}

/// Open windows, what is late for them, and a query that has its own rows in open files.
#[test]
fn windows_that_were_open_close_as_if_nobody_had_gone_back() {
    let minutes = MINUTES
        .replace("COUNT(*)", "COUNT(*), SUM(CHAR_LENGTH(data.page))")
        .replace("events BIGINT", "events BIGINT, pages BIGINT");
    let source = SOURCE.replace(FIVE_SECONDS, "INTERVAL '1' SECOND");
    let files = [("events.sql", source.as_str()), ("minutes.sql", minutes.as_str()), ("archive.sql", ARCHIVE)];
    let rows = |place: &Place| -> Vec<(String, i64)> {
        let mut rows = place.rows("SELECT minute_start, events FROM minutes");
        rows.extend(place.rows("SELECT minute_start, pages FROM minutes"));
        rows
    };
    let drain = ["run", "job", "--local", "local", "--drain"];
    let whole = Place::new(&files);
    whole.killed(&["--checkpoint-interval", "0"], || whole.logged() >= 40);
    whole.produce(300, 200);
    whole.done(&drain);
    let place = Place::new(&files);
    place.killed(&["--checkpoint-interval", "30ms"], || {
        place.newest()["reread"].is_object() && place.newest()["epoch"].as_u64() >= Some(40)
    });
    place.done(&["state", "rewind", "local", "latest"]);
    place.produce(300, 200);
    place.done(&drain);
    assert!(rows(&whole).len() > 4);
    assert_eq!(rows(&place), rows(&whole));
    assert_eq!(archive(&place), archive(&whole));
}

/// A query with state has rows in open files, and later ones in files that have appeared. The former are written again first, and files of the
/// latter appear once more, in which a kill comes.
#[test]
fn rows_of_a_query_with_state_are_written_again_once() {
    let archive = "\
CREATE TABLE archive (event_type STRING, at TIMESTAMP(3), events BIGINT) PARTITIONED BY (event_type)
WITH ('connector' = 'filesystem', 'path' = '../archive', 'format' = 'json', 'sink.rolling-policy.rollover-interval' = '1 h',
  'sink.rolling-policy.row-count' = '2');
INSERT INTO archive SELECT event_type, window_start, COUNT(*)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '1' SECOND)) GROUP BY event_type, window_start, window_end;
";
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("archive.sql", archive)]);
    // Of each of the two kinds, one row at most is in an open file: with three, there is one that has appeared.
    let rows = || place.newest()["queries"]["archive:archive"]["unwritten"]["rows"].as_u64();
    let produced = std::cell::Cell::new(300);
    place.killed(&["--checkpoint-interval", "30ms"], || {
        if rows() >= Some(3) {
            return true;
        }
        // Each has other windows.
        if place.at("local/dynamodb.sqlite").exists() && place.total() == produced.get() as i64 && produced.get() < 500
        {
            place.produce(produced.get(), 10);
            produced.set(produced.get() + 10);
        }
        false
    });
    let written = || {
        let folders = std::fs::read_dir(place.at("archive")).into_iter().flatten().map(|folder| folder.unwrap().path());
        let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|file| file.unwrap());
        let files = files.filter(|file| !file.file_name().to_string_lossy().starts_with('.'));
        let text: String = files.map(|file| std::fs::read_to_string(file.path()).unwrap()).collect();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    place.done(&["state", "save", "local", "kept"]);
    let again = |crash: Option<&str>| {
        place.done(&["state", "rewind", "local", "kept"]);
        let _ = std::fs::remove_dir_all(place.at("archive"));
        if let Some(crash) = crash {
            assert!(place.crashed(crash, &["--checkpoint-interval", "0"]), "it came to {crash}");
            assert!(!written().is_empty(), "a file has appeared");
        }
        place.done(&["run", "job", "--local", "local", "--drain"]);
        written()
    };
    let undisturbed = again(None);
    assert!(undisturbed.windows(2).all(|two| two[0] != two[1]), "{undisturbed:?}");
    for crash in ["committed:1", "settle.before:1"] {
        assert_eq!(again(Some(crash)), undisturbed, "{crash}");
    }
}

/// A stream that is read from its newest record on: where that was is known by the checkpoint alone.
#[test]
fn the_first_checkpoint_knows_where_reading_began() {
    let latest = SOURCE.replace("'format'", "'scan.stream.initpos' = 'LATEST', 'format'");
    let place = Place::of(&[("events.sql", latest.as_str()), ("counts.sql", COUNTS), ("archive.sql", ARCHIVE)]);
    place.produce(0, 100);
    let mut produced = false;
    place.killed(&["--checkpoint-interval", "30ms"], || {
        if !produced && !place.manifests_or_none().is_empty() {
            place.produce(100, 200);
            produced = true;
        }
        produced && place.has_all_with_open_files(200)
    });
    place.done(&["state", "rewind", "local", "latest"]);
    place.run(&[]);
    assert_eq!((place.number(TOTAL), archive(&place).values().sum::<usize>()), (200, 200));
}

/// More files than are open at a time: some have been read before the point from which the archive's rows are read again, some between that
/// and the checkpoint, some in part, and some not at all.
#[test]
fn files_are_read_again_up_to_where_each_stood() {
    let lines = weblog();
    let wanted = undisturbed(&files(), 500);
    let often = ["--checkpoint-interval", "1ms"];
    // On a busy machine there may be fewer checkpoints; or this one was made when the last epoch had ended, and what that has published stays,
    // and comes once more after an older one. That is not the case that is asked for.
    let killed_in_the_midst = |first: u32| {
        let place = Place::over_files(&in_files(""));
        lines[..500].chunks(10).enumerate().for_each(|(number, lines)| place.in_file(number, lines));
        let crashed = place.crashed(&format!("manifest.after:{first}"), &often);
        (crashed && archive(&place).is_empty()).then_some(place)
    };
    for (first, second) in [(1, "cut.after:2"), (4, "cut.after:9"), (9, "manifest.after:1"), (13, "sink.flushed:3")] {
        let attempts = if first > 4 { 1 } else { 10 };
        let Some(place) = (0..attempts).find_map(|_| killed_in_the_midst(first)) else {
            assert!(first > 1, "the first checkpoint of a run was made when it had ended, {attempts} times");
            continue;
        };
        let manifest = place.newest();
        place.done(&["state", "rewind", "local", "latest"]);
        assert!(manifest["reread"].is_object(), "{manifest}");
        assert!(place.crashed(second, &often) || second.starts_with("manifest"), "{first}: it came to {second}");
        place.run(&[]);
        assert_eq!((place.number(TOTAL), archive(&place)), (500, wanted.clone()), "{first}");
    }
}

/// What is gone of it is told, and nothing else suffers.
#[test]
fn a_file_that_has_gone_since_is_missed_where_its_rows_are_read_again() {
    let place = Place::over_files(&in_files(", 'source.monitor-interval' = '1 s'"));
    weblog()[..200].chunks(100).enumerate().for_each(|(number, lines)| place.in_file(number, lines));
    // Both have been read when it is killed.
    place.killed_with_open_files(200);
    place.done(&["state", "rewind", "local", "latest"]);
    std::fs::remove_file(place.at("job/in/0.jsonl")).unwrap();
    let told = place.run(&[]);
    assert!(told.contains("0.jsonl") && told.contains("are not given again what it had"), "{told}");
    assert_eq!((place.number(TOTAL), archive(&place).values().sum::<usize>()), (200, 100));
}

/// One that has been read to its end, and was removed before the checkpoint was made, is in it as one that is gone: nobody waits for it.
#[test]
fn a_file_that_had_gone_before_the_checkpoint_is_told_too() {
    let (place, lines) = (Place::over_files(&in_files(", 'source.monitor-interval' = '100 ms'")), weblog());
    place.in_file(0, &lines[..100]);
    place.in_file(1, &lines[100..200]);
    let named = |tables: &serde_json::Value| {
        let splits = |table: &serde_json::Value| table["splits"].as_object().cloned().unwrap_or_default();
        let all = tables.as_object().into_iter().flat_map(|tables| tables.values()).flat_map(splits);
        all.filter(|(split, _)| split.ends_with("/0.jsonl")).map(|(_, saved)| saved).next()
    };
    let (mut removed, mut looks, mut more) = (false, 0, 0);
    place.killed(&["--checkpoint-interval", "30ms"], || {
        let manifest = place.newest();
        let has_all = place.at("local/dynamodb.sqlite").exists() && place.total() == 200;
        if has_all && !removed && manifest["reread"].is_object() {
            std::fs::remove_file(place.at("job/in/0.jsonl")).unwrap();
            removed = true;
        }
        looks += usize::from(removed);
        // Without records there is nothing to make a checkpoint of.
        if looks > 20 * (more + 1) {
            place.in_file(2 + more, &lines[200 + more..201 + more]);
            more += 1;
        }
        let is_gone = named(&manifest["tables"]).is_some_and(|saved| saved["gone_ms"].is_i64());
        removed && named(&manifest["reread"]["tables"]).is_some() && is_gone
    });
    place.done(&["state", "rewind", "local", "latest"]);
    let told = place.run(&[]);
    assert!(told.contains("/0.jsonl") && told.contains("it was gone before"), "{told}");
    let total = usize::try_from(place.number(TOTAL)).unwrap();
    assert_eq!((total, archive(&place).values().sum::<usize>()), (200 + more, 100 + more));
}

/// Which queries catch up is known by their names, and these change with their places.
#[test]
fn an_insert_that_comes_before_others_after_going_back_leaves_them_what_they_have_to_catch_up() {
    let (table, insert) = ARCHIVE.split_once("INSERT").unwrap();
    let insert = format!("INSERT{}", insert.trim_end().trim_end_matches(';'));
    let of = |condition: &str| format!("{insert} WHERE {condition};\n");
    let [views, others] = [of("event_type = 'page_view'"), of("event_type <> 'page_view'")];
    let none = of("data.page = 'nowhere'");
    let both = format!("{table}{views}{others}");
    let files = [("events.sql", SOURCE), ("counts.sql", COUNTS), ("archive.sql", both.as_str())];
    let wanted = undisturbed(&files, 300);
    for dies_at in [None, Some("cut.after:3"), Some("cut.after:50")] {
        let place = Place::new(&files);
        place.killed_with_open_files(300);
        place.done(&["state", "rewind", "local", "latest"]);
        place.write("archive.sql", &format!("{table}{none}{views}{others}"));
        if let Some(at) = dies_at {
            assert!(place.crashed(at, &["--checkpoint-interval", "0"]), "{at}");
        }
        let said = place.run(&[]);
        assert!(said.contains("'archive:archive#3' was 'archive:archive#2' before"), "{said}");
        assert_eq!((place.number(TOTAL), archive(&place)), (300, wanted.clone()), "{dies_at:?}");
    }
}
