//! A table of thousands of files: a few are read at a time, also when the epochs of a killed run are cut again, and the
//! others hold event time until it is their turn.
//!
//! The program runs with so few file descriptors that it could not have all files open.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

const FILES: usize = 2_000;
/// The source has 32 files open; the rest is for results, state and the runtime.
const DESCRIPTORS: usize = 96;

/// Each file has a row of every minute: one that is read after others have moved time on would be late.
const JOB: &str = "
CREATE TABLE events (id BIGINT, `minute` BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = 'in', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');
CREATE TABLE minutes (minute_start TIMESTAMP(3), n BIGINT, total BIGINT)
WITH ('connector' = 'filesystem', 'path' = 'out/minutes', 'format' = 'csv');
CREATE TABLE copies (id BIGINT, `minute` BIGINT)
WITH ('connector' = 'filesystem', 'path' = 'out/copies', 'format' = 'json', 'sink.rolling-policy.row-count' = '700');
INSERT INTO minutes SELECT window_start, COUNT(*), SUM(id)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
INSERT INTO copies SELECT id, `minute` FROM events;
";
const MINUTES: usize = 10;

struct Place(tempfile::TempDir);

impl Place {
    fn new(files: usize) -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        std::fs::create_dir(place.at("in")).expect("a folder");
        for file in 0..files {
            let row = |minute: usize| {
                format!("{{\"id\":{file},\"minute\":{minute},\"at\":\"2026-01-01T00:{minute:02}:30Z\"}}\n")
            };
            std::fs::write(place.input(file), (0..MINUTES).map(row).collect::<String>()).expect("a file");
        }
        std::fs::write(place.at("job.sql"), JOB).expect("a job");
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn input(&self, file: usize) -> PathBuf {
        self.at(&format!("in/{file:05}.json"))
    }

    /// The program, which cannot have many files open.
    fn command(&self, arguments: &[&str]) -> Command {
        let limit = format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &limit, env!("CARGO_BIN_EXE_tidemill")]).args(arguments);
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Runs the job to its end, or to its death at a named place.
    fn run(&self, more: &[&str], dies_at: Option<&str>) -> Output {
        let output = self.run_or_die(more, dies_at);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_none() == dies_at.is_some(), "{dies_at:?} was not reached: {said}");
        output
    }

    /// The same, where it may come to its end before.
    fn run_or_die(&self, more: &[&str], dies_at: Option<&str>) -> Output {
        let mut command = self.command(&[&["run", "job.sql", "--local", "local"], more].concat());
        if let Some(place) = dies_at {
            command.env("TIDEMILL_CRASH_AT", place);
        }
        let output = command.output().expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || (dies_at.is_some() && output.status.code().is_none()), "{said}");
        output
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.at("local/checkpoints/job/epochs.log")).unwrap_or_default()
    }

    /// All lines of a table, sorted.
    fn lines(&self, table: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in std::fs::read_dir(self.at("out").join(table)).into_iter().flatten().flatten() {
            lines.extend(std::fs::read_to_string(entry.path()).expect("text").lines().map(str::to_owned));
        }
        lines.sort();
        lines
    }

    #[track_caller]
    fn assert_whole(&self, files: std::ops::Range<usize>) {
        let (count, total) = (files.len(), files.clone().sum::<usize>());
        let minutes = self.lines("minutes");
        assert_eq!(minutes.len(), MINUTES, "{minutes:?}");
        for line in &minutes {
            assert!(line.ends_with(&format!(",{count},{total}")), "{count} and {total} in {line}");
        }
        let copies = self.lines("copies");
        let row = |file: usize, minute: usize| format!("{{\"id\":{file},\"minute\":{minute}}}");
        let mut wanted: Vec<String> =
            files.flat_map(|file| (0..MINUTES).map(move |minute| row(file, minute))).collect();
        wanted.sort();
        assert_eq!(copies.len(), wanted.len());
        assert!(copies == wanted, "every row once");
    }
}

#[test]
fn thousands_of_files_are_read_a_few_at_a_time() {
    let place = Place::new(FILES);
    place.run(&["--drain", "--epoch-rows", "300"], None);
    place.assert_whole(0..FILES);
}

#[test]
fn the_epochs_of_a_killed_run_are_cut_again_with_as_few_files_open() {
    let place = Place::new(FILES);
    // Without a checkpoint, so that all epochs are repeated; then with some.
    let run = ["--drain", "--epoch-rows", "200", "--checkpoint-interval"];
    place.run(&[&run[..], &["0"]].concat(), Some("cut.after:40"));
    let log = place.log();
    let (cuts, ended) = (log.matches("\"cut\"").count(), log.matches("\"ended\":true").count());
    assert!(cuts >= 40, "{cuts} epochs are to be repeated");
    assert!(ended > DESCRIPTORS, "{ended} files have ended in them, more than can be open");
    place.run(&[&run[..], &["0"]].concat(), Some("cut.after:20"));
    let more = place.log().matches("\"cut\"").count();
    assert!(more > cuts, "{more} epochs after {cuts}");
    place.run(&[&run[..], &["50ms"]].concat(), Some("manifest.after:2"));
    // Where that checkpoint took as long as the rest of the epochs, there are no ten more.
    place.run_or_die(&[&run[..], &["50ms"]].concat(), Some("cut.after:10"));
    place.run(&[&run[..], &["50ms"]].concat(), None);
    place.assert_whole(0..FILES);
}

/// A long series in the order of time: windows close while it is read, though most of it waits; and no row is late.
#[test]
fn the_slowest_files_are_read_first_so_that_windows_close() {
    const SERIES: usize = 100;
    let place = Place::new(0);
    // 2.2 MB each, of which one look sees a half.
    let filler = "x".repeat(20_000);
    for file in 0..SERIES {
        let row = |row: usize| {
            let (minute, second) = ((file * 110 + row) / 11, (row % 11) * 5);
            let (hour, minute) = (minute / 60, minute % 60);
            format!(
                "{{\"id\":{file},\"minute\":{row},\"at\":\"2026-01-01T{hour:02}:{minute:02}:{second:02}Z\",\"more\":\"{filler}\"}}\n"
            )
        };
        std::fs::write(place.input(file), (0..110).map(row).collect::<String>()).expect("a file");
    }
    let job = JOB.replace("'format' = 'csv'", "'format' = 'csv', 'sink.rolling-policy.row-count' = '1'");
    std::fs::write(place.at("job.sql"), job).expect("a job");
    let run = ["--drain", "--epoch-rows", "20", "--checkpoint-interval", "20ms"];
    // Of some 550 epochs, the first 260 have looked into every file.
    place.run(&run, Some("cut.after:330"));
    let (early, read) = (place.lines("minutes").len(), place.log());
    assert!(early > 60, "{early} of 1,000 windows have closed: {read}");
    place.run(&run, None);
    let minutes = place.lines("minutes");
    assert_eq!(minutes.len(), SERIES * 10);
    for (number, line) in minutes.iter().enumerate() {
        assert!(line.ends_with(&format!(",11,{}", number / 10 * 11)), "{line}");
    }
    assert_eq!(place.lines("copies").len(), SERIES * 110);
}

#[test]
fn what_was_not_to_be_read_is_not_read_after_a_restart_either() {
    const OLD: usize = 150;
    let place = Place::new(2 * OLD);
    // All others are of now.
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    for file in OLD..2 * OLD {
        let file = std::fs::File::options().write(true).open(place.input(file)).expect("a file");
        file.set_modified(old).expect("a time");
    }
    let run = ["--drain", "--epoch-rows", "20", "--checkpoint-interval", "20ms"];
    // Killed when the saved state knows files that it has not opened; and when only the log does.
    place.run(&[&run[..], &["--from", "2021-01-01T00:00:00Z"]].concat(), Some("cut.after:2"));
    place.run(&run, Some("manifest.after:1"));
    let shown = place.command(&["state", "show", "local"]).output().expect("the program runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("/00299.json: arrivals from 20"), "{shown}");
    place.run(&run, None);
    place.assert_whole(0..OLD);

    let place = Place::new(OLD);
    let output = place.run(&["--drain", "--from", "latest"], None);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(place.lines("copies").is_empty(), "{said}");
    // What comes later is read, and nothing else.
    for file in OLD..OLD + 5 {
        std::fs::copy(place.input(0), place.input(file)).expect("a copy");
    }
    place.run(&["--drain"], None);
    assert_eq!(place.lines("copies").len(), 5 * MINUTES);
}
