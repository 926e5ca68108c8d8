//! A run that ends in the midst, as a kill would end it: its log takes a few entries more, and then nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tidemill::contracts::{Clock, EpochLog, Error, ErrorKind, LogEntry, Result, SystemClock};
use tidemill::job::{JobOptions, prepare};
use tidemill::runtime::{Progress, Worker};
use tokio::sync::watch;

const KILLED: &str = "killed by the test";

struct Dying {
    log: Arc<dyn EpochLog>,
    left: AtomicUsize,
}

#[async_trait]
impl EpochLog for Dying {
    async fn append(&self, entry: &LogEntry) -> Result<()> {
        let left = self.left.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_err() {
            return Err(Error::internal(KILLED));
        }
        self.log.append(entry).await
    }

    async fn forget(&self, epoch: u64) -> Result<()> {
        self.log.forget(epoch).await
    }
}

/// Runs a job that dies after `entries` of its log; false when it came to its end before.
pub(crate) async fn dies_after(options: &JobOptions, entries: usize) -> std::result::Result<bool, String> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let texts = |errors: Vec<Error>| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let mut prepared = loop {
        match prepare(options, Arc::clone(&clock)).await {
            // What is left of the run before still has the log for a moment.
            Err(errors) if errors[0].kind() == ErrorKind::Fenced => clock.sleep(Duration::from_millis(2)).await,
            prepared => break prepared.map_err(texts)?,
        }
    };
    let log = prepared.job.log.take();
    prepared.job.log = log.map(|mut log| {
        log.log = Arc::new(Dying { log: log.log, left: AtomicUsize::new(entries) });
        log
    });
    let (_stop, stopped) = watch::channel(false);
    match Worker::run(prepared.job, stopped, Arc::new(Progress::default())).await {
        Ok(_) => Ok(false),
        Err(error) if error.to_string().contains(KILLED) => Ok(true),
        Err(error) => Err(format!("failed: {error}")),
    }
}
