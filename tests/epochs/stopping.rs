//! A run that is asked to stop while a sink does not answer: at the start, and in mid-run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tidemill::contracts::{Changes, Clock, Committable, EpochNumber, ErrorKind, Result, Sink, WriteOutcome};
use tidemill::job::prepare;
use tidemill::runtime::{Ending, Summary, Worker};
use tokio::sync::watch;

use super::clock::Fast;
use super::going_on::{EVENTS, events, job, ran};
use super::{lines, numbers};

/// What a sink does not come back from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stuck {
    Open,
    Recover,
    Write,
    Flush,
    Commit,
    Finish,
}

struct Silent {
    sink: Box<dyn Sink>,
    stuck: Stuck,
    /// It has come to that point.
    there: Arc<AtomicBool>,
    epochs: u32,
}

impl Silent {
    async fn at(&mut self, point: Stuck) {
        // Some epochs go well.
        if self.stuck == point && (self.epochs > 3 || matches!(point, Stuck::Open | Stuck::Recover | Stuck::Finish)) {
            self.there.store(true, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Sink for Silent {
    async fn open(&mut self) -> Result<()> {
        self.at(Stuck::Open).await;
        self.sink.open().await
    }

    async fn recover(&mut self, appeared: Vec<Committable>, promised: Vec<Committable>) -> Result<()> {
        self.at(Stuck::Recover).await;
        self.sink.recover(appeared, promised).await
    }

    fn open_since(&self) -> Option<EpochNumber> {
        self.sink.open_since()
    }

    async fn write(&mut self, epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        self.epochs += 1;
        self.at(Stuck::Write).await;
        self.sink.write(epoch, changes).await
    }

    async fn flush(&mut self, epoch: EpochNumber, now_ms: i64) -> Result<WriteOutcome> {
        self.at(Stuck::Flush).await;
        self.sink.flush(epoch, now_ms).await
    }

    async fn prepare(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        self.sink.prepare(epoch).await
    }

    async fn commit(&mut self, committables: Vec<Committable>) -> Result<()> {
        self.at(Stuck::Commit).await;
        self.sink.commit(committables).await?;
        // All is written: nothing but the end has to be done within the patience, which is short on such a clock.
        if self.stuck == Stuck::Finish && i64::from(self.epochs) == EVENTS {
            self.there.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    async fn finish(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        self.at(Stuck::Finish).await;
        self.sink.finish(epoch).await
    }
}

const SQL: &str = "
CREATE TABLE events (n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json', 'source.monitor-interval' = '10 ms');
CREATE TABLE copies (n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/copies', 'format' = 'json', 'sink.rolling-policy.row-count' = '1');
INSERT INTO copies SELECT n FROM events;
";

/// Runs with such a sink, and stops when it is stuck. How long that took, by the clock of the run.
async fn stopped(folder: &Path, stuck: Stuck) -> (Result<Summary>, Duration) {
    let options = job(folder, SQL, Ending::Run);
    let clock: Arc<dyn Clock> = Arc::new(Fast::new(100, 100));
    let mut prepared = prepare(&options, Arc::clone(&clock)).await.unwrap_or_else(|errors| panic!("{errors:?}"));
    let query = &mut prepared.job.queries[0];
    let there = Arc::new(AtomicBool::new(false));
    let own = std::mem::replace(&mut query.sink, Box::new(super::going_on::Nothing));
    query.sink = Box::new(Silent { sink: own, stuck, there: Arc::clone(&there), epochs: 0 });
    let (stop, asked) = watch::channel(false);
    let run = tokio::spawn(Worker::run(prepared.job, asked, Arc::default()));
    while !there.load(Ordering::SeqCst) {
        assert!(!run.is_finished(), "{stuck:?}: {:?}", run.await.unwrap().map(drop));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let since = clock.elapsed();
    stop.send_replace(true);
    let ended = tokio::time::timeout(Duration::from_secs(120), run).await;
    let ended = ended.unwrap_or_else(|_| panic!("{stuck:?}: it hangs")).expect("no panic");
    (ended, clock.elapsed() - since)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_heard_while_a_sink_does_not_answer() {
    for stuck in [Stuck::Open, Stuck::Recover, Stuck::Write, Stuck::Flush, Stuck::Commit, Stuck::Finish] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        events(folder);
        if stuck == Stuck::Recover {
            // A run before has promised something.
            let (ended, _) = stopped(folder, Stuck::Commit).await;
            assert!(ended.is_err());
        }
        let manifests = || lines(&folder.join("local/checkpoints/job/manifests")).len();
        let before = manifests();
        let (ended, waited) = stopped(folder, stuck).await;
        match (stuck, ended) {
            // Nothing has left yet: that is an end in order.
            (Stuck::Open | Stuck::Recover, ended) => {
                let summary = ended.unwrap_or_else(|e| panic!("{stuck:?}: {e}"));
                assert_eq!(summary.epochs, 0, "{stuck:?}");
                assert!(summary.checkpoints.is_none() && manifests() == before, "{stuck:?}: no new checkpoint");
            }
            (stuck, ended) => {
                let error = ended.expect_err("the sink has not taken all");
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{stuck:?}: {error}");
                let patience = if matches!(stuck, Stuck::Write | Stuck::Flush) { 30 } else { 300 };
                let text = error.to_string();
                for part in ["query 'job:copies'", &format!("within {patience} s of the stop"), "the next run"] {
                    assert!(text.contains(part), "{stuck:?}: '{part}' in {text}");
                }
                // Not before; how much later is this machine's affair, of which each second counts a hundred times.
                assert!(waited.as_secs() >= patience, "{stuck:?}: {waited:?}");
            }
        }
        // As after a kill: the next run has each row once.
        ran(&job(folder, SQL, Ending::Drain), |_| {}).await.unwrap_or_else(|e| panic!("{stuck:?}: {e}"));
        assert_eq!(numbers(&lines(&folder.join("copies"))), Vec::from_iter(0..EVENTS), "{stuck:?}");
    }
}
