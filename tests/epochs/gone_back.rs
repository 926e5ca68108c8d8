//! What a run makes of files of a job that has gone back to a checkpoint while they were open.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tidemill::runtime::Ending;

use super::going_on::{EVENTS, Watched, assert_killed, dies_after, job, ran, replace};
use super::{HOUR, lines, numbers, program, refused, write};

pub(super) fn rewind(folder: &Path) {
    let output = program(folder, &["state", "rewind", "local", "latest"]);
    assert!(output.status.success(), "{output:?}");
}

/// A partition is complete as soon as no file of it is open.
const MARKED: &str = "
CREATE TABLE events (n BIGINT, `day` BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE archive (n BIGINT, `day` BIGINT) PARTITIONED BY (`day`)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/archive', 'format' = 'json', 'sink.partition-commit.policy.kind' = 'success-file');
INSERT INTO archive SELECT n, `day` FROM events;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_partition_is_called_complete_while_its_rows_have_still_to_be_caught_up_with() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let event = |n: i64| format!("{{\"n\":{n},\"day\":{}}}\n", n % 3);
    write(&folder.join("in/a.jsonl"), &(0..EVENTS).map(event).collect::<String>(), HOUR);
    let options = job(folder, MARKED, Ending::Drain);
    // The fourth checkpoint has four epochs at least, of a row each.
    let dies = dies_after(folder, 5, 4);
    assert_killed(ran(&options, |job| replace(job, "archive", |sink| Watched { before_write: dies, ..sink })).await);
    rewind(folder);
    let [written, commits] = [(); 2].map(|()| Arc::<AtomicU32>::default());
    let ended = ran(&options, |job| {
        let waiting = job.saved.queries.values().next().unwrap().sink.as_deref().unwrap();
        assert!((0..3).all(|day| waiting.contains(&format!("day={day}"))), "{waiting}");
        let rows = Arc::clone(&written);
        let before_write = move || {
            rows.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let (rows, commits) = (Arc::clone(&written), Arc::clone(&commits));
        let before_commit = move || {
            assert_eq!(i64::from(rows.load(Ordering::Relaxed)), EVENTS, "files and marks appear at the end alone");
            commits.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let (before_write, before_commit) = (Box::new(before_write), Box::new(before_commit));
        replace(job, "archive", |sink| Watched { before_write, before_commit, ..sink });
    });
    ended.await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(commits.load(Ordering::Relaxed), 1);
    for day in 0..3 {
        let place = folder.join(format!("archive/day={day}"));
        assert_eq!(numbers(&lines(&place)), (0..EVENTS).filter(|n| n % 3 == day).collect::<Vec<_>>());
        assert!(place.join("_SUCCESS").exists());
    }
}

const AGED: &str = "
SET 'tidemill.maximum-record-age' = '1 h';
CREATE TABLE events (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE copies (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/copies', 'format' = 'json');
INSERT INTO copies SELECT n FROM events;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_too_old_is_not_caught_up_with() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let event = |n: i64| format!("{{\"n\":{n}}}\n");
    // Both are read side by side: records of the first lie among those of the second.
    write(&folder.join("in/a.jsonl"), &(EVENTS..2 * EVENTS).map(event).collect::<String>(), 2 * HOUR);
    write(&folder.join("in/b.jsonl"), &(0..EVENTS).map(event).collect::<String>(), HOUR / 100);
    let options = job(folder, AGED, Ending::Drain);
    let dies = dies_after(folder, 20, 4);
    assert_killed(ran(&options, |job| replace(job, "copies", |sink| Watched { before_write: dies, ..sink })).await);
    rewind(folder);
    ran(&options, |_| ()).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(numbers(&lines(&folder.join("copies"))), (0..EVENTS).collect::<Vec<_>>());
    let refused: BTreeSet<String> = refused(folder).iter().map(|line| line["record"].to_string()).collect();
    assert_eq!(refused.len() as i64, EVENTS);
}
