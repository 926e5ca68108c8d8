//! A small job that is killed while it begins anew, and before one of its queries leaves it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value as Json;

use crate::left::{files, name, tables};
use crate::{dies_at, start, text, tidemill};

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
