//! A table that is new after a kill begins where its options say, though the run first repeats epochs that did not have it; and one that
//! was there before the kill begins nowhere else than then.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{cuts, lines, numbers, program, run_job};

const CLICKS: &str = "
CREATE TABLE clicks (n BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
CREATE TABLE copies (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'copies', 'format' = 'json');
INSERT INTO copies SELECT n FROM clicks;
";

const ORDERS: &str = "
CREATE TABLE orders (n BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'orders', 'format' = 'json', 'source.init.position' = 'LATEST');
CREATE TABLE seen (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'seen', 'format' = 'json');
INSERT INTO seen SELECT n FROM orders;
";

const FILES: &str = "
CREATE TABLE files (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'in', 'format' = 'json', 'source.monitor-interval' = '1 s');
CREATE TABLE read (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'read', 'format' = 'json');
INSERT INTO read SELECT n FROM files;
";

struct Place(tempfile::TempDir);

impl Place {
    fn new(queries: &[&str]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.at("in")).unwrap();
        place.job(queries);
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn job(&self, queries: &[&str]) {
        std::fs::write(self.at("job.sql"), queries.concat()).unwrap();
    }

    fn produce(&self, stream: &str, events: std::ops::Range<i64>) {
        let text: String = events.map(|n| format!("{{\"n\":{n}}}\n")).collect();
        std::fs::write(self.at("new.jsonl"), text).unwrap();
        let output = program(self.0.path(), &["produce", stream, "--local", "local", "--from", "new.jsonl"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs what is there, to the end or to a crash.
    #[track_caller]
    fn run(&self, more: &[&str], crash: Option<&str>) {
        run_job(self.0.path(), more, crash);
    }

    fn numbers(&self, folder: &str) -> Vec<i64> {
        numbers(&lines(&self.at(folder)))
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }
}

#[test]
fn a_table_that_is_new_after_a_kill_begins_where_its_options_say() {
    // Killed again in the epoch that is the first for the new table, it goes on from there.
    for again in [false, true] {
        let place = Place::new(&[CLICKS]);
        place.produce("clicks", 0..30);
        place.produce("orders", 0..20);
        place.run(&[], Some("cut.after:1"));
        assert_eq!(cuts(place.folder()).len(), 1);
        place.job(&[CLICKS, ORDERS]);
        if again {
            place.run(&[], Some("cut.after:1"));
            assert_eq!(cuts(place.folder()).len(), 2, "one that was repeated, and one of its own");
            place.produce("orders", 20..25);
        }
        place.run(&[], None);
        place.produce("orders", 25..30);
        place.run(&[], None);
        assert_eq!(place.numbers("copies"), (0..30).collect::<Vec<_>>());
        let first = if again { 20 } else { 25 };
        assert_eq!(place.numbers("seen"), (first..30).collect::<Vec<_>>(), "killed again: {again}");
    }
}

/// The run before had begun to read the folder: what is put there since is new, and not what was there at the start.
#[test]
fn a_table_without_splits_before_a_kill_is_not_new_after_it() {
    let place = Place::new(&[CLICKS, FILES]);
    place.run(&["--from", "latest"], Some("cut.after:1"));
    std::fs::write(place.at("in/a.jsonl"), "{\"n\":1}\n{\"n\":2}\n").unwrap();
    place.run(&["--from", "latest"], None);
    assert_eq!(place.numbers("read"), [1, 2]);
}

/// The tables differ in nothing any more but in what the run before has read of each: its epochs are repeated for each by itself.
#[test]
fn tables_that_were_read_apart_before_a_kill_are_read_apart_until_their_epochs_are_repeated() {
    let again = |queries: &str, option: &str| {
        let mut again = queries.to_owned();
        for (one, other) in [("clicks (", "again ("), ("FROM clicks", "FROM again"), ("files (", "again (")] {
            again = again.replace(one, other);
        }
        for (one, other) in [("FROM files", "FROM again"), ("copies", "doubles"), ("'read'", "'doubles'")] {
            again = again.replace(one, other);
        }
        let again = again.replace("read (", "doubles (").replace("INTO read", "INTO doubles");
        again.replace("'1 s'", option)
    };
    let clicks =
        CLICKS.replace("'stream' = 'clicks',", "'stream' = 'clicks', 'source.shard.discovery.interval' = '1 s',");
    for (queries, folder) in [(clicks.as_str(), "copies"), (FILES, "read")] {
        // All in one epoch; in several; and some of it before a checkpoint.
        for (more, crash, before) in [
            (&[][..], "cut.after:1", false),
            (&["--epoch-rows", "5"][..], "cut.after:2", false),
            (&["--epoch-rows", "5"][..], "cut.after:2", true),
        ] {
            let place = Place::new(&[queries, &again(queries, "'2 s'")]);
            let add = |numbers: std::ops::Range<i64>| {
                place.produce("clicks", numbers.clone());
                let (file, lines) = (format!("in/{}.jsonl", numbers.start), place.at("new.jsonl"));
                std::fs::rename(lines, place.at(&file)).unwrap();
            };
            let all_are_there = |numbers: i64| {
                for folder in [folder, "doubles"] {
                    assert_eq!(place.numbers(folder), (0..numbers).collect::<Vec<_>>(), "{folder} {crash} {before}");
                }
            };
            add(0..10);
            if before {
                place.run(&[], None);
                add(10..20);
            }
            place.run(more, Some(crash));
            let feeds: BTreeSet<String> = cuts(place.folder())
                .iter()
                .flat_map(|cut| cut["splits"].as_array().unwrap().clone())
                .map(|split| split["feed"].as_str().unwrap().to_owned())
                .collect();
            assert!(feeds.iter().all(|feed| !feed.contains('+')), "{feeds:?}");
            let numbers = if before { 20 } else { 10 };
            place.job(&[queries, &again(queries, "'1 s'")]);
            // Killed once more, when it has repeated them.
            place.run(more, Some("cut.after:1"));
            place.run(&[], None);
            all_are_there(numbers);
            // From here on, one reader serves both.
            add(numbers..numbers + 5);
            place.run(&[], Some("cut.after:1"));
            assert!(cuts(place.folder()).iter().any(|cut| cut["splits"][0]["feed"].as_str().unwrap().contains(" + ")));
            place.run(&[], None);
            all_are_there(numbers + 5);
        }
    }
}
