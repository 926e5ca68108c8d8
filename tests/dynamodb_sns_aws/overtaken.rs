//! A job that has run for a moment with other checkpoints, and goes on with its own: of the items that it has written meanwhile it does not
//! reach the version for years, and says so.

use crate::rebuilt::{command, minutes, put, tidemill, with};
use crate::stub::{Running, calm};

const SQL: &str = "
SET 'state.checkpoints.dir' = 'kept';
SET 'tidemill.errors.path' = 'errors';
CREATE TABLE events (id BIGINT, at TIMESTAMP_LTZ(3))
WITH ('connector' = 'filesystem', 'path' = 'in', 'format' = 'json', 'source.monitor-interval' = '1 s',
  'json.timestamp-format.standard' = 'ISO-8601');
CREATE TABLE minutes (m STRING, c BIGINT, PRIMARY KEY (m) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'minutes', 'sink.write-mode' = 'MODE', 'sink.version.attribute' = '${VERSION:-tm_epoch}');
INSERT INTO minutes SELECT DATE_FORMAT(at, 'HH:mm'), COUNT(*) FROM events GROUP BY DATE_FORMAT(at, 'HH:mm');
";
const RUN: [&str; 5] = ["run", "job.sql", "--from", "trim_horizon", "--once"];
const KEEPS: &str = "DynamoDB table 'minutes' keeps values that this run would replace: item m=10:0";

async fn place(mode: &str) -> (Running, tempfile::TempDir) {
    let stub = Running::start(calm()).await;
    stub.tables.create("minutes", &[("m", "S")]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("in")).unwrap();
    std::fs::write(folder.path().join("job.sql"), SQL.replace("MODE", mode)).unwrap();
    (stub, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_another_count_of_epochs_has_written_are_told_of() {
    for mode in ["update", "put", "add"] {
        let (stub, folder) = place(mode).await;
        let folder = folder.path();
        let run = |more: &[&str]| tidemill(folder, &stub, &[&RUN[..], more].concat());
        put(folder, 0..100);
        assert!(!run(&[]).contains(KEEPS));
        // Epochs are counted from the time on, where nothing is kept of the job.
        put(folder, 100..150);
        assert!(!run(&["--checkpoints", "other"]).contains(KEEPS));
        assert_eq!(minutes(&stub), with(&[60, 60, 30]), "{mode}");
        put(folder, 150..180);
        let said = run(&[]);
        assert_eq!(minutes(&stub), with(&[60, 60, 30]), "{mode}: that is what is lost");
        assert_eq!(said.matches(KEEPS).count(), 1, "{mode}: once in a while: {said}");
        for part in [" has tm_epoch", ", which is new", "with other checkpoints or none", "'sink.version.attribute'"] {
            assert!(said.contains(part), "{mode}: '{part}': {said}");
        }
        // What it says to do.
        put(folder, 120..130);
        let said = run(&["--param", "VERSION=tm_again"]);
        assert!(!said.contains(KEEPS), "{mode}: {said}");
        assert_eq!(minutes(&stub), with(&[60, 60, 70]), "{mode}");
    }
}

/// The run before had come further.
#[tokio::test(flavor = "multi_thread")]
async fn epochs_that_are_repeated_find_later_ones_and_say_nothing() {
    for mode in ["update", "put", "add"] {
        let (stub, folder) = place(mode).await;
        let folder = folder.path();
        (0..3).for_each(|file| put(folder, file * 10..file * 10 + 10));
        let often = [&RUN[..], &["--epoch-rows", "10", "--checkpoint-interval", "1h"]].concat();
        let mut killed = command(folder, &stub, &often);
        killed.env("TIDEMILL_CRASH_AT", "sink.flushed:3");
        let killed = tokio::task::block_in_place(|| killed.output().unwrap());
        assert!(!killed.status.success(), "{}", String::from_utf8_lossy(&killed.stderr));
        assert_eq!(minutes(&stub), with(&[30]), "{mode}");
        let stored = stub.tables.history("minutes").len();
        let said = tidemill(folder, &stub, &often);
        assert!(said.contains("epochs up to ") && !said.contains(KEEPS), "{mode}: {said}");
        assert!(stub.tables.history("minutes").len() < stored + 2, "{mode}: two of three were refused");
        assert_eq!(minutes(&stub), with(&[30]), "{mode}");
    }
}
