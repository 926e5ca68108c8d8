//! A run that has failed is tried again, from the last checkpoint on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use crate::contracts::{Clock, Error, ErrorKind};
use crate::runtime::{Progress, Retries};

/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Attempts at going on past one epoch.
pub(super) struct Attempts {
    /// Stands before each line.
    of: String,
    retries: Retries,
    failed: u32,
    /// The last epoch when a run failed.
    epoch: u64,
}

impl Attempts {
    /// None yet.
    pub(super) fn new(of: &str, retries: Retries) -> Self {
        Self { of: of.to_owned(), retries, failed: 0, epoch: 0 }
    }

    /// Waits until a run that has failed may be tried again; false when that would not help, or has been tried enough.
    pub(super) async fn again(
        &mut self,
        errors: &[Error],
        progress: &Progress,
        clock: &Arc<dyn Clock>,
        stop: &watch::Receiver<bool>,
    ) -> bool {
        let passes =
            |error: &Error| matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Data | ErrorKind::Internal);
        if errors.is_empty() || !errors.iter().all(passes) || *stop.borrow() {
            return false;
        }
        let epoch = progress.epoch.load(Ordering::Relaxed);
        if epoch > self.epoch {
            (self.epoch, self.failed) = (epoch, 0);
        }
        self.failed += 1;
        // One more when the epoch is skipped then.
        if self.failed > self.retries.most + u32::from(self.retries.skips) {
            return false;
        }
        let first = Duration::from_millis(u64::try_from(self.retries.delay_ms).unwrap_or(0));
        let pause = first.saturating_mul(1 << (self.failed - 1).min(16)).min(LONGEST_PAUSE);
        let most = self.retries.most;
        for error in errors {
            eprintln!(
                "{}failed ({} of {most} retries follows in {} ms): {error}",
                self.of,
                self.failed.min(most),
                pause.as_millis()
            );
        }
        let mut stop = stop.clone();
        tokio::select! {
            () = clock.sleep(pause) => true,
            _ = stop.wait_for(|stop| *stop) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;

    /// Notes pauses, which are over at once.
    #[derive(Debug, Default)]
    struct Noted(Mutex<Vec<u64>>);

    #[async_trait]
    impl Clock for Noted {
        fn now_ms(&self) -> i64 {
            0
        }

        fn elapsed(&self) -> Duration {
            Duration::ZERO
        }

        async fn sleep(&self, duration: Duration) {
            self.0
                .lock()
                .expect("no test panics with it")
                .push(u64::try_from(duration.as_millis()).expect("a short one"));
        }
    }

    struct Job {
        attempts: Attempts,
        progress: Progress,
        noted: Arc<Noted>,
        stop: watch::Sender<bool>,
    }

    impl Job {
        fn new(most: u32, delay_ms: i64, skips: bool) -> Self {
            let attempts = Attempts::new("", Retries { most, delay_ms, skips });
            Self { attempts, progress: Progress::default(), noted: Arc::default(), stop: watch::Sender::new(false) }
        }

        /// A run has failed in `epoch`.
        async fn fails(&mut self, epoch: u64, kind: ErrorKind) -> bool {
            self.progress.epoch.store(epoch, Ordering::Relaxed);
            let clock: Arc<dyn Clock> = self.noted.clone();
            let errors = [Error::new(kind, "it has failed")];
            self.attempts.again(&errors, &self.progress, &clock, &self.stop.subscribe()).await
        }

        fn pauses(&self) -> Vec<u64> {
            std::mem::take(&mut self.noted.0.lock().expect("no test panics with it"))
        }
    }

    #[tokio::test]
    async fn pauses_double_up_to_a_minute_and_end() {
        let mut job = Job::new(9, 1_000, false);
        for attempt in 1..=9 {
            assert!(job.fails(7, ErrorKind::Data).await, "{attempt}");
        }
        assert_eq!(job.pauses(), [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        assert!(!job.fails(7, ErrorKind::Data).await);
        assert_eq!(job.pauses(), [0_u64; 0]);
        // However often: no pause overflows.
        let mut job = Job::new(200, 59_000, false);
        for _ in 0..200 {
            assert!(job.fails(7, ErrorKind::Unavailable).await);
        }
        assert_eq!(job.pauses()[199], 60_000);
        let mut job = Job::new(2, 0, false);
        assert!(job.fails(1, ErrorKind::Internal).await && job.fails(1, ErrorKind::Internal).await);
        assert_eq!(job.pauses(), [0, 0]);
    }

    #[tokio::test]
    async fn they_begin_anew_behind_the_epoch_that_failed() {
        let mut job = Job::new(2, 250, false);
        assert!(job.fails(7, ErrorKind::Data).await && job.fails(7, ErrorKind::Data).await);
        assert!(job.fails(8, ErrorKind::Data).await, "it came further");
        // A run that goes back to an earlier epoch has not come further.
        assert!(job.fails(3, ErrorKind::Data).await);
        assert_eq!(job.pauses(), [250, 500, 250, 500]);
        assert!(!job.fails(8, ErrorKind::Data).await);
    }

    #[tokio::test]
    async fn one_more_where_the_epoch_is_skipped_then() {
        let mut job = Job::new(1, 10, true);
        assert!(job.fails(7, ErrorKind::Data).await && job.fails(7, ErrorKind::Data).await);
        assert_eq!(job.pauses(), [10, 20]);
        assert!(!job.fails(7, ErrorKind::Data).await);
    }

    #[tokio::test]
    async fn what_would_not_help_is_not_tried() {
        let mut job = Job::new(3, 10, false);
        for kind in [ErrorKind::Config, ErrorKind::Sql, ErrorKind::Fenced, ErrorKind::Corrupt] {
            assert!(!job.fails(7, kind).await, "{kind:?}");
        }
        job.stop.send_replace(true);
        assert!(!job.fails(7, ErrorKind::Unavailable).await, "somebody ends it");
        assert_eq!(job.pauses(), [0_u64; 0]);
    }
}
