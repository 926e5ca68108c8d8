//! Rows that are made at a pace: what a run before was given does not take its time once more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tidemill::runtime::{Ending, Job};
use tokio::sync::watch;

use super::clock::Fast;
use super::going_on::{Hook, Watched, assert_killed, dies_after, job, replace, worked_by};
use super::gone_back::rewind;
use super::{lines, numbers};

/// So slowly that there is nothing for longer than a reader waits for records which are gone.
const SLOW: &str = "
CREATE TABLE made (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '1',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '1000000');
CREATE TABLE copies (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/copies', 'format' = 'json');
INSERT INTO copies SELECT n FROM made;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_were_made_before_are_made_again_at_once() {
    for goes_back in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let options = job(folder, SLOW, Ending::Run);
        let run = async |stopped: watch::Receiver<bool>, hook: Hook| {
            // Sleepers wake early, so a reader asks often while there is nothing.
            let clock = Arc::new(Fast::new(5, 20));
            let change = |job: &mut Job| replace(job, "copies", |sink| Watched { before_write: hook, ..sink });
            worked_by(clock, &options, stopped, Arc::default(), change).await
        };
        let written = Arc::<AtomicU32>::default();
        let (rows, mut dies) = (Arc::clone(&written), dies_after(folder, 4, 3));
        let hook = move || {
            rows.fetch_add(1, Ordering::Relaxed);
            dies()
        };
        assert_killed(run(watch::channel(false).1, Box::new(hook)).await);
        assert!(lines(&folder.join("copies")).is_empty(), "they lie in an open file");
        if goes_back {
            rewind(folder);
        }
        // All of them, and two more.
        let wanted = written.load(Ordering::Relaxed) + 2;
        let (stop, stopped) = watch::channel(false);
        let mut rows = 0;
        let hook = move || {
            rows += 1;
            stop.send_replace(rows >= wanted);
            Ok(())
        };
        run(stopped, Box::new(hook)).await.unwrap_or_else(|e| panic!("goes back: {goes_back}: {e}"));
        let copied = numbers(&lines(&folder.join("copies")));
        assert!(copied.len() >= wanted as usize, "goes back: {goes_back}: {copied:?}");
        assert_eq!(copied, (0..copied.len() as i64).collect::<Vec<_>>(), "goes back: {goes_back}");
    }
}
