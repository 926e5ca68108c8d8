//! Tables that a query reads beside each other, in a run that goes on: one that has ended, or brings nothing, is no reason for windows to stay open.

use std::process::{Child, Stdio};
use std::time::Instant;

use super::*;

/// How long a run may take to show what it should.
const LONGEST: Duration = Duration::from_secs(120);

const JOB: &str = "
CREATE TABLE history (n BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at)
WITH ('connector' = 'filesystem', 'path' = 'history', 'format' = 'json');
CREATE TABLE live (n BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at)
WITH ('connector' = 'kinesis', 'stream' = 'live', 'format' = 'json', 'scan.watermark.idle-timeout' = '300 ms');
CREATE TABLE quiet (n BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at)
WITH ('connector' = 'kinesis', 'stream' = 'quiet', 'format' = 'json', 'scan.watermark.idle-timeout' = '300 ms');
CREATE VIEW with_history AS SELECT n, at FROM history UNION ALL SELECT n, at FROM live;
CREATE VIEW with_quiet AS SELECT n, at FROM quiet UNION ALL SELECT n, at FROM live;
CREATE TABLE of_history (w TIMESTAMP(3), c BIGINT, total BIGINT)
WITH ('connector' = 'filesystem', 'path' = 'of_history', 'format' = 'json', 'sink.rolling-policy.rollover-interval' = '100 ms');
CREATE TABLE of_quiet (w TIMESTAMP(3), c BIGINT, total BIGINT)
WITH ('connector' = 'filesystem', 'path' = 'of_quiet', 'format' = 'json', 'sink.rolling-policy.rollover-interval' = '100 ms');
INSERT INTO of_history SELECT window_start, COUNT(*), SUM(n)
FROM TABLE(TUMBLE(TABLE with_history, DESCRIPTOR(at), INTERVAL '1' HOUR)) GROUP BY window_start, window_end;
INSERT INTO of_quiet SELECT window_start, COUNT(*), SUM(n)
FROM TABLE(TUMBLE(TABLE with_quiet, DESCRIPTOR(at), INTERVAL '1' HOUR)) GROUP BY window_start, window_end;
";

/// A job that goes on until it is killed.
struct Running(Child);

impl Running {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(["run", "job.sql", "--local", "local", "--from", "trim_horizon", "--epoch-interval", "50 ms"]);
        command.args(["--checkpoint-interval", "1h"]).current_dir(folder);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn put(folder: &Path, stream: &str, events: &[(i64, &str)]) {
    std::fs::write(folder.join("new.jsonl"), records(events)).unwrap();
    let output = program(folder, &["produce", stream, "--local", "local", "--from", "new.jsonl"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn records(events: &[(i64, &str)]) -> String {
    events.iter().map(|(n, at)| format!("{{\"n\":{n},\"at\":\"2026-03-01T{at}Z\"}}\n")).collect()
}

/// A window, its rows and their sum.
type Window = (&'static str, i64, i64);

fn windows(rows: &[Window]) -> Vec<String> {
    rows.iter().map(|(w, c, total)| format!(r#"{{"w":"2026-03-01 {w}","c":{c},"total":{total}}}"#)).collect()
}

fn wait_for(folder: &Path, wanted: &[(&str, &[Window])]) {
    let began = Instant::now();
    for (sink, rows) in wanted {
        while lines(&folder.join(sink)) != windows(rows) {
            assert!(began.elapsed() < LONGEST, "{sink}: {:?}", lines(&folder.join(sink)));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_table_that_has_ended_or_is_quiet_does_not_hold_windows_back() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    std::fs::write(folder.join("job.sql"), JOB).unwrap();
    write(&folder.join("history/1.jsonl"), &records(&[(100, "00:10:00"), (200, "01:10:00")]), HOUR);
    put(folder, "live", &[(1, "00:30:00"), (2, "02:30:00"), (3, "04:30:00")]);

    let first = [("00:00:00", 2, 101), ("01:00:00", 1, 200), ("02:00:00", 1, 2)];
    let alone = [("00:00:00", 1, 1), ("02:00:00", 1, 2)];
    let running = Running::start(folder);
    wait_for(folder, &[("of_history", &first), ("of_quiet", &alone)]);
    // The window of its first record has fired without it.
    put(folder, "quiet", &[(20, "02:40:00"), (10, "04:40:00")]);
    put(folder, "live", &[(4, "05:30:00"), (5, "06:30:00")]);
    let second = [&first[..], &[("04:00:00", 1, 3), ("05:00:00", 1, 4)]].concat();
    wait_for(folder, &[("of_history", &second)]);
    let with_quiet = [&alone[..], &[("04:00:00", 2, 13), ("05:00:00", 1, 4)]].concat();
    wait_for(folder, &[("of_quiet", &with_quiet)]);
    drop(running);

    // Killed without a checkpoint: all epochs are repeated as they were, with what was late.
    let output = program(folder, &["run", "job.sql", "--local", "local", "--from", "trim_horizon", "--drain"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_for(folder, &[("of_history", &[&second[..], &[("06:00:00", 1, 5)]].concat())]);
    wait_for(folder, &[("of_quiet", &[&with_quiet[..], &[("06:00:00", 1, 5)]].concat())]);
}
