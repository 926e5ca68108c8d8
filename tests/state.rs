//! A job's saved state from outside: looked at, kept, gone back to, taken elsewhere, damaged; and what becomes of it when
//! the SQL changes.

#![expect(clippy::disallowed_methods, reason = "the program under test lives in real time")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;

use place::{Place, RUN, wait};
use tidemill::contracts::{EpochLog, LogEntry};
use tidemill::state::FileEpochLog;

#[path = "state/again.rs"]
mod again;
#[path = "state/earlier.rs"]
mod earlier;
#[path = "state/elsewhere.rs"]
mod elsewhere;
#[path = "state/folders.rs"]
mod folders;
#[path = "state/going_back.rs"]
mod going_back;
#[path = "support/left.rs"]
#[expect(dead_code, reason = "shared with the test of kills")]
mod left;
#[path = "support/place.rs"]
mod place;
#[path = "state/places.rs"]
mod places;
#[path = "state/tools.rs"]
mod tools;

const SOURCE: &str = "\
CREATE TABLE events (event_type STRING, `timestamp` TIMESTAMP_LTZ(3), data ROW<page STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
";
const COUNTS: &str = "\
CREATE TABLE counts (event_type STRING, events BIGINT, PRIMARY KEY (event_type) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
INSERT INTO counts SELECT event_type, COUNT(*) FROM events GROUP BY event_type;
";
const MINUTES: &str = "\
CREATE TABLE minutes (minute_start STRING, events BIGINT, PRIMARY KEY (minute_start) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'minutes');
INSERT INTO minutes SELECT DATE_FORMAT(window_start, 'yyyy-MM-dd HH:mm'), COUNT(*)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
";
const PAGES: &str = "\
CREATE TABLE pages (page STRING, views BIGINT, PRIMARY KEY (page) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'pages');
INSERT INTO pages SELECT data.page, COUNT(*) FROM events WHERE data.page <> '' GROUP BY data.page;
";

impl Place {
    /// A job of these files, and a stream with the first events.
    fn new(files: &[(&str, &str)]) -> Self {
        let place = Self::of(files);
        place.produce(0, 300);
        place
    }

    fn produce(&self, from: usize, count: usize) {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/weblog.jsonl");
        let text = std::fs::read_to_string(all).unwrap();
        let lines: Vec<&str> = text.lines().skip(from).take(count).collect();
        self.put(&(lines.join("\n") + "\n"));
    }

    fn number(&self, query: &str) -> i64 {
        let connection = rusqlite::Connection::open(self.at("local/dynamodb.sqlite")).unwrap();
        connection.query_row(query, [], |row| row.get(0)).unwrap()
    }

    /// Of each row a text and a number, sorted.
    fn rows(&self, query: &str) -> Vec<(String, i64)> {
        let connection = rusqlite::Connection::open(self.at("local/dynamodb.sqlite")).unwrap();
        let mut query = connection.prepare(query).unwrap();
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let mut rows: Vec<_> = rows.map(Result::unwrap).collect();
        rows.sort();
        rows
    }

    fn manifests(&self) -> Vec<PathBuf> {
        let folder = self.at("local/checkpoints/job/manifests");
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// Epoch of the newest checkpoint.
    fn epoch(&self, store: &str) -> u64 {
        let text = self.done(&["state", "show", store]);
        text.split(", epoch ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap()
    }

    /// Runs on, with small epochs, until `done`; then it is killed.
    #[track_caller]
    fn killed(&self, more: &[&str], done: impl FnMut() -> bool) {
        let often = ["run", "job", "--local", "local", "--epoch-rows", "5", "--epoch-interval", "10ms"];
        let mut child = self.command(&[&often[..], more].concat()).spawn().unwrap();
        wait("the run has come so far", done);
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.code().is_none() && !text.contains("error"), "{text}");
    }

    /// The epochs that the log has.
    fn logged(&self) -> usize {
        let log = std::fs::read_to_string(self.at("local/checkpoints/job/epochs.log")).unwrap_or_default();
        log.matches("\"cut\":").count()
    }
}

/// So much further a copy counts than its job had come.
const AHEAD: u64 = 10_000_000;

const TOTAL: &str = "SELECT SUM(events) FROM counts";
const VIEWS: &str = "SELECT SUM(views) FROM pages";

#[test]
fn a_damaged_checkpoint_is_told_and_the_one_before_is_used_only_when_asked() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    place.produce(300, 200);
    place.run(&[]);
    let newest = place.manifests().pop().unwrap();
    let whole = std::fs::read(&newest).unwrap();
    for damaged in [
        whole[..whole.len() / 2].to_vec(),
        whole.iter().map(|b| if *b == b'7' { b'8' } else { *b }).collect(),
        Vec::new(),
    ] {
        std::fs::write(&newest, damaged).unwrap();
        let refused = place.refused(&RUN);
        assert!(
            refused.contains("0000000002.json' is damaged") && refused.contains("--previous-checkpoint"),
            "{refused}"
        );
    }
    let list = place.done(&["state", "list", "local"]);
    assert!(list.contains("is damaged"), "{list}");
    let again = place.run(&["--previous-checkpoint"]);
    assert!(again.contains("going on from the one before") && again.contains("200 records"), "{again}");
    assert_eq!(place.number(TOTAL), 500);
    // What came of it is a checkpoint as any other.
    place.produce(500, 100);
    assert!(place.run(&[]).contains("100 records"));
    assert_eq!(place.number(TOTAL), 600);
    // The flag does nothing where nothing is damaged.
    assert!(place.run(&["--previous-checkpoint"]).starts_with("0 records"));
}

/// Whoever names another state need not have the newest.
#[test]
fn a_damaged_checkpoint_is_no_obstacle_to_those_that_are_whole() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    let damage = || {
        let newest = place.manifests().pop().unwrap();
        std::fs::write(&newest, &std::fs::read(&newest).unwrap()[1..]).unwrap();
    };
    place.run(&[]);
    place.done(&["state", "save", "local", "whole"]);
    place.produce(300, 200);
    place.run(&[]);
    damage();
    assert!(place.refused(&RUN).contains("go back to a savepoint with --from-savepoint (there is whole); or restore"));
    assert!(place.refused(&["state", "rewind", "local", "latest"]).contains("is damaged"));
    place.done(&["state", "restore", "local", "whole", "--to", "copy/job"]);
    assert!(place.run(&["--checkpoints", "copy"]).contains("200 records"));
    let went_back = place.run(&["--from-savepoint", "whole"]);
    assert!(
        went_back.contains("is damaged: passed over for savepoint whole") && went_back.contains("200 records"),
        "{went_back}"
    );
    assert_eq!(place.number(TOTAL), 500);
    damage();
    place.done(&["state", "rewind", "local", "whole"]);
    assert!(place.run(&[]).contains("200 records"));
    // None that can be read but the savepoint: what it counts is still newer than what was written.
    for manifest in place.manifests() {
        std::fs::write(manifest, "nothing").unwrap();
    }
    place.produce(500, 100);
    let none = place.refused(&[&RUN[..], &["--previous-checkpoint"]].concat());
    assert!(
        none.contains("can be read") && none.contains("--from-savepoint (there is whole); or start anew"),
        "{none}"
    );
    assert!(place.run(&["--from-savepoint", "whole"]).contains("300 records"));
    assert_eq!(place.number(TOTAL), 600);
}

#[test]
fn a_damaged_or_missing_state_file_is_told_before_anything_is_written() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    place.produce(300, 200);
    place.run(&[]);
    let named = |manifest: &Path| -> Vec<PathBuf> {
        let text = std::fs::read_to_string(manifest).unwrap();
        let names = text.split('"').filter(|word| word.starts_with("state/") && word.ends_with(".arrow"));
        names.map(|name| place.at("local/checkpoints/job").join(name)).collect()
    };
    let [before, newest] = &place.manifests()[..] else { panic!("{:?}", place.manifests()) };
    let (before, own) = (named(before), named(newest));
    let file = own.iter().find(|file| !before.contains(file)).unwrap();
    let (whole, mut damaged) = (std::fs::read(file).unwrap(), std::fs::read(file).unwrap());
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(file, &damaged).unwrap();
    for _ in 0..2 {
        let refused = place.refused(&RUN);
        assert!(refused.contains("is damaged") && refused.contains("--previous-checkpoint"), "{refused}");
    }
    assert_eq!(place.manifests().len(), 2);
    std::fs::remove_file(file).unwrap();
    let refused = place.refused(&RUN);
    assert!(refused.contains("is missing") && refused.contains("query 'counts:counts'"), "{refused}");
    assert_eq!(place.manifests().len(), 2);
    let again = place.run(&["--previous-checkpoint"]);
    assert!(again.contains("is missing: going on from the one before") && again.contains("200 records"), "{again}");
    assert_eq!(place.number(TOTAL), 500);
    place.produce(500, 100);
    assert!(place.run(&[]).contains("100 records"));
    assert_eq!(place.number(TOTAL), 600);
}

/// A copy of a checkpoint knows nothing of the epochs that came after it; what they wrote must not be newer than what comes of the copy.
#[test]
fn a_checkpoint_that_is_taken_elsewhere_counts_epochs_on_from_all_that_were_cut() {
    let settings = |rows: u32| format!("SET 'tidemill.epoch.rows' = '{rows}';\n{SOURCE}");
    let place = Place::new(&[("events.sql", &settings(1_000)), ("counts.sql", COUNTS)]);
    place.run(&[]);
    // Many epochs are written, and no checkpoint is.
    place.produce(300, 200);
    place.write("events.sql", &settings(10));
    let mut killed = place.command(&["run", "job", "--local", "local", "--once", "--checkpoint-interval", "0"]);
    let killed = killed.env("TIDEMILL_CRASH_AT", "manifest.before:1").output().unwrap();
    assert_eq!(killed.status.code(), None, "{}", String::from_utf8_lossy(&killed.stderr));
    assert_eq!((place.number(TOTAL), place.manifests().len()), (500, 1));
    let before = place.epoch("local");
    place.done(&["state", "restore", "local", "latest", "--to", "elsewhere/job"]);
    // The copy is an epoch of its own, beyond those that the job may cut until the copy is used.
    assert_eq!(place.epoch("elsewhere/job"), before + place.logged() as u64 + AHEAD + 1);
    assert!(place.logged() > 10);
    // One epoch with all.
    place.write("events.sql", &settings(1_000));
    place.produce(500, 100);
    let text = place.run(&["--checkpoints", "elsewhere"]);
    assert!(text.contains("300 records"), "{text}");
    assert_eq!(place.number(TOTAL), 600);
}

#[test]
fn a_changed_job_goes_on_as_far_as_it_is_the_same() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("minutes.sql", MINUTES)]);
    place.run(&[]);
    // A new query begins behind the checkpoint; the other one goes on.
    place.write("pages.sql", PAGES);
    place.produce(300, 200);
    let added = place.run(&[]);
    assert!(added.contains("query 'pages:pages' is new"), "{added}");
    assert_eq!(place.number(TOTAL), 500);
    let views = place.number(VIEWS);
    assert!(views > 0 && views <= 200, "{views}");
    // What stands above an operator may change.
    place.write("counts.sql", &COUNTS.replace("COUNT(*)", "COUNT(*) * 2"));
    place.produce(500, 100);
    place.run(&[]);
    assert!(place.number(TOTAL) > 600, "the state went on, and what is made of it is new");
    // An operator may not, but for a word.
    place.write("pages.sql", &PAGES.replace("COUNT(*)", "SUM(2)"));
    let changed = place.refused(&RUN);
    for wanted in ["the query 'pages:pages' has changed", "\n  - group by ", "\n  + group by ", "--reset pages:pages"] {
        assert!(changed.contains(wanted), "'{wanted}' in {changed}");
    }
    let wrong = place.refused(&[&RUN[..], &["--reset", "page"]].concat());
    assert!(wrong.contains("no saved query is called 'page'") && wrong.contains("pages:pages"), "{wrong}");
    place.produce(600, 100);
    let reset = place.run(&["--reset", "pages"]);
    assert!(reset.contains("query 'pages:pages' begins without state"), "{reset}");
    // One that is gone needs a word too, since its state goes with it.
    std::fs::remove_file(place.at("job/pages.sql")).unwrap();
    let gone = place.refused(&RUN);
    assert!(
        gone.contains("the query 'pages:pages' is not in the job any more") && gone.contains("--drop-state"),
        "{gone}"
    );
    place.run(&["--drop-state", "pages:pages"]);
    assert!(place.run(&[]).starts_with("0 records"));
    // Through all this, the windows have gone on: each event is in one.
    place.done(&["run", "job", "--local", "local", "--drain"]);
    assert_eq!(place.number("SELECT SUM(events) FROM minutes"), 700);
}

/// Nobody needs what the old checkpoints say when all is begun anew.
#[tokio::test]
async fn a_run_that_was_killed_when_it_began_anew_is_followed_whatever_became_of_the_checkpoints() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    place.produce(300, 200);
    place.run(&[]);
    let log = |anew| {
        let started = LogEntry::started(3, anew);
        let (log, _) = FileEpochLog::open(&place.at("local/checkpoints/job")).unwrap();
        async move { log.append(&started).await.unwrap() }
    };
    std::fs::write(place.manifests().pop().unwrap(), "half").unwrap();
    log(true).await;
    // Who asks for another one, gets that, or nothing.
    let refused = place.refused(&[&RUN[..], &["--from-savepoint", "none"]].concat());
    assert!(refused.contains("there is no savepoint 'none'"), "{refused}");
    let anew = place.run(&[]);
    assert!(anew.contains("was killed while it began anew") && anew.contains("500 records"), "{anew}");
    assert_eq!((place.number(TOTAL), place.manifests().len()), (500, 1));
    place.produce(500, 100);
    assert!(place.run(&[]).contains("100 records"));
    assert_eq!(place.number(TOTAL), 600);
}

#[test]
fn a_killed_run_that_began_anew_goes_on() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    place.killed(&["--fresh", "--checkpoint-interval", "0"], || place.logged() >= 5);
    place.run(&[]);
    assert_eq!(place.number(TOTAL), 300);
    // With checkpoints of its own: their numbers go on.
    let before = place.manifests();
    place.killed(&["--fresh", "--checkpoint-interval", "20ms"], || {
        place.manifests().iter().filter(|own| !before.contains(own)).count() >= 2
    });
    place.run(&[]);
    assert_eq!(place.number(TOTAL), 300);
}

/// What the pages say of a manifest that somebody removes. To go back, there is `tidemill state rewind`.
#[test]
fn the_newest_manifest_is_removed_by_hand() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    place.produce(300, 100);
    place.run(&[]);
    place.produce(400, 100);
    place.killed(&["--checkpoint-interval", "0"], || place.logged() >= 5);
    let [before, newest] = &place.manifests()[..] else { panic!("{:?}", place.manifests()) };
    std::fs::remove_file(newest).unwrap();
    // Epochs are logged that do not follow the one before.
    for _ in 0..2 {
        let refused = place.refused(&RUN);
        assert!(refused.contains("the epoch log has epoch ") && refused.contains("tidemill state rewind"), "{refused}");
    }
    assert_eq!(place.manifests(), std::slice::from_ref(before));
    // On purpose: all that came after it is read again.
    place.done(&["state", "rewind", "local", "latest"]);
    assert!(place.run(&[]).contains("200 records"));
    assert_eq!(place.number(TOTAL), 500);
    // After an end in order, nothing tells.
    std::fs::remove_file(place.manifests().pop().unwrap()).unwrap();
    assert!(place.run(&[]).contains("200 records"));
    assert_eq!(place.number(TOTAL), 500);
}

/// Also where there was one only, so that no epoch is missing behind another one.
#[test]
fn the_only_manifest_is_removed_by_hand_after_a_kill() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    // Epochs of a run that had none are repeated without one.
    place.killed(&["--checkpoint-interval", "0"], || place.logged() >= 1);
    assert!(!place.at("local/checkpoints/job/manifests").exists());
    place.run(&[]);
    assert_eq!(place.number(TOTAL), 300);
    place.produce(300, 100);
    place.killed(&["--checkpoint-interval", "0"], || place.number(TOTAL) == 400);
    let [only] = &place.manifests()[..] else { panic!("{:?}", place.manifests()) };
    let elsewhere = only.with_extension("kept");
    std::fs::rename(only, &elsewhere).unwrap();
    for _ in 0..2 {
        let refused = place.refused(&RUN);
        assert!(refused.contains("there is no checkpoint, and the epoch log goes on from one"), "{refused}");
    }
    assert_eq!(place.number(TOTAL), 400);
    std::fs::rename(elsewhere, only).unwrap();
    place.produce(400, 100);
    place.run(&[]);
    assert_eq!(place.number(TOTAL), 500);
}

#[test]
fn so_many_checkpoints_are_kept_as_the_job_says() {
    let settings = |kept: &str| match kept {
        "" => SOURCE.to_owned(),
        kept => format!("SET 'state.checkpoints.num-retained' = '{kept}';\n{SOURCE}"),
    };
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    let mut last = 0;
    for (kept, runs, wanted) in [("1", 3, 1), ("5", 6, 5), ("", 1, 3), ("1", 1, 1)] {
        place.write("events.sql", &settings(kept));
        for _ in 0..runs {
            place.produce(300, 10);
            place.run(&[]);
        }
        last += runs;
        let numbers = (last - wanted + 1..=last).map(|number| format!("{number:010}.json"));
        let files = place.manifests();
        let files = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap());
        assert!(files.eq(numbers), "{kept}: {:?}", place.manifests());
    }
    assert_eq!(place.number(TOTAL), 300 + 10 * last);
}

#[test]
fn after_a_kill_a_job_goes_on_though_tables_came_and_went() {
    let other = PAGES.replace("FROM events", "FROM clicks");
    let clicks = SOURCE.replace("TABLE events", "TABLE clicks");
    let place =
        Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("clicks.sql", &clicks), ("pages.sql", &other)]);
    let kill = || place.killed(&["--checkpoint-interval", "0"], || place.logged() > 5);
    // One reader has served both tables; now one of them is gone.
    kill();
    std::fs::remove_file(place.at("job/clicks.sql")).unwrap();
    std::fs::remove_file(place.at("job/pages.sql")).unwrap();
    assert!(place.run(&[]).starts_with("300 records"));
    assert_eq!(place.number(TOTAL), 300);
    // And now there is another one, which has not been read before.
    place.produce(300, 200);
    kill();
    place.write("clicks.sql", &clicks);
    place.write("pages.sql", &other);
    let text = place.run(&[]);
    assert!(text.contains("query 'pages:pages' is new"), "{text}");
    assert_eq!(place.number(TOTAL), 500);
    assert!(place.number(VIEWS) > 400, "the new table is read from its beginning");
}

#[test]
fn checkpoints_lie_where_the_job_says() {
    let sql = format!("SET 'execution.checkpointing.dir' = 'kept';\n{SOURCE}{COUNTS}")
        .replace("'connector' = 'kinesis', 'stream' = 'clicks'", "'connector' = 'filesystem', 'path' = 'in'")
        .replace(
            "'connector' = 'dynamodb', 'table-name' = 'counts'",
            "'connector' = 'filesystem', 'path' = 'out', 'format' = 'json'",
        );
    let place = Place::new(&[("a.sql", &sql)]);
    std::fs::create_dir(place.at("job/in")).unwrap();
    std::fs::copy(place.at("new.jsonl"), place.at("job/in/1.jsonl")).unwrap();
    assert!(place.done(&["run", "job", "--once"]).contains("300 records"));
    assert!(place.at("kept/job/manifests/0000000001.json").exists());
    assert!(place.done(&["run", "job", "--once"]).starts_with("0 records"));
    let other = place.done(&["run", "job", "--once", "--checkpoints", "other"]);
    assert!(other.contains("300 records") && place.at("other/job/manifests").is_dir(), "{other}");
}

#[test]
fn two_runs_cannot_share_a_folder() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    place.produce(300, 10);
    let often = ["run", "job", "--local", "local", "--epoch-interval", "20ms", "--checkpoint-interval", "0"];
    let first = place.command(&often).spawn().unwrap();
    wait("it counts", || place.number(TOTAL) == 310);
    for second in [&RUN[..], &["state", "rewind", "local", "latest"]] {
        let refused = place.refused(second);
        assert!(refused.contains("another run of this job uses"), "{refused}");
    }
    // Looking, and copying, is allowed. What the run has logged is not known then, nor what it will: the copy is far beyond that.
    place.done(&["state", "restore", "local", "latest", "--to", "elsewhere/job"]);
    place.produce(310, 90);
    wait("it goes on", || place.number(TOTAL) == 400);
    assert!(Command::new("kill").args(["-TERM", &first.id().to_string()]).status().unwrap().success());
    let output = first.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (copy, last) = (place.epoch("elsewhere/job"), place.epoch("local"));
    assert!(copy > last + 1_000_000, "{copy} after {last}");
    assert!(place.run(&["--checkpoints", "elsewhere"]).contains("100 records"));
    assert_eq!(place.number(TOTAL), 400);
    // Nobody runs it any more; but somebody may, before the copy is needed.
    place.done(&["state", "restore", "local", "latest", "--to", "third/job"]);
    assert_eq!(place.epoch("third/job"), last + AHEAD + 1);
}
