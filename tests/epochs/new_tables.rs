//! A table that is new after a kill begins where its options say, though the run first repeats epochs that did not have it; and one that
//! was there before the kill begins nowhere else than then.

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
