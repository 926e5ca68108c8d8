//! What becomes of a run when the machine's clock is set.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tidemill::contracts::{Clock, SystemClock};
use tidemill::job::{JobOptions, prepare};
use tidemill::runtime::{Ending, Progress, Worker};
use tokio::sync::watch;

use super::HOUR;
use super::job::{Variant, options};

/// The machine's clock, whose wall time somebody sets.
#[derive(Debug)]
struct SetClock {
    machine: SystemClock,
    ahead_ms: AtomicI64,
}

#[async_trait]
impl Clock for SetClock {
    fn now_ms(&self) -> i64 {
        self.machine.now_ms() + self.ahead_ms.load(Ordering::SeqCst)
    }

    fn elapsed(&self) -> Duration {
        self.machine.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        self.machine.sleep(duration).await;
    }
}

/// The machine's clock, on which time passes so many times as fast, and sleepers wake so many times as early.
#[derive(Debug)]
pub(super) struct Fast {
    machine: SystemClock,
    passes: u32,
    wakes: u32,
}

impl Fast {
    pub(super) fn new(passes: u32, wakes: u32) -> Self {
        Self { machine: SystemClock::new(), passes, wakes }
    }
}

#[async_trait]
impl Clock for Fast {
    fn now_ms(&self) -> i64 {
        self.machine.now_ms()
    }

    fn elapsed(&self) -> Duration {
        self.machine.elapsed() * self.passes
    }

    async fn sleep(&self, duration: Duration) {
        self.machine.sleep(duration / self.wakes).await;
    }
}

const COPIED: &str = "
CREATE TABLE events (n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json', 'source.monitor-interval' = '10 ms');
CREATE TABLE copied (n BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO copied SELECT n FROM events;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_files_are_looked_for_though_the_clock_is_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("job.sql"), COPIED).unwrap();
    std::fs::create_dir(folder.join("in")).unwrap();
    std::fs::write(folder.join("in/a.jsonl"), "{\"n\":1}\n").unwrap();
    let parameters = BTreeMap::from([("DIR".to_owned(), folder.display().to_string())]);
    let options = options(folder.join("job.sql"), folder.join("local"), parameters, Variant::default(), Ending::Run);
    let options = JobOptions { epoch_interval: Some(Duration::from_millis(20)), ..options };
    let clock = Arc::new(SetClock { machine: SystemClock::new(), ahead_ms: AtomicI64::new(0) });
    let prepared = prepare(&options, Arc::clone(&clock) as Arc<dyn Clock>).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let progress = Arc::new(Progress::default());
    let run = tokio::spawn(Worker::run(prepared.job, stopped, Arc::clone(&progress)));
    let has_read = async |rows: u64| {
        for _ in 0..5_000 {
            if progress.rows_out.load(Ordering::Relaxed) >= rows {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    };
    assert!(has_read(1).await, "the first file");
    clock.ahead_ms.store(-i64::try_from(HOUR.as_millis()).unwrap(), Ordering::SeqCst);
    // Whole at once: who sees a file that is not written yet has read it to its end.
    std::fs::write(folder.join("b.jsonl"), "{\"n\":2}\n").unwrap();
    std::fs::rename(folder.join("b.jsonl"), folder.join("in/b.jsonl")).unwrap();
    assert!(has_read(2).await, "a file that came after the clock had been set back is not read within 100 s");
    stop.send(true).unwrap();
    run.await.unwrap().unwrap();
}
