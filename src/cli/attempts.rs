//! A run that has failed is tried again, from the last checkpoint on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::log::tell;
use crate::contracts::{Clock, Error, ErrorKind};
use crate::runtime::{Progress, Retries};

/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Shortest pause before the first one that is not counted: a service that is away is not asked without pause.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// Attempts at going on past one epoch.
pub(super) struct Attempts {
    /// Stands before each line.
    of: String,
    retries: Retries,
    /// A run of this process has done an epoch, or has stood by while another one led.
    has_run: bool,
    /// Failures that count.
    failed: u32,
    /// Failures because something was out of reach, since the last one that counts.
    unavailable: u32,
    /// The last epoch when a run failed, and how many queries went on without it.
    reached: (u64, u64),
}

impl Attempts {
    /// None yet.
    pub(super) fn new(of: &str, retries: Retries) -> Self {
        Self { of: of.to_owned(), retries, has_run: false, failed: 0, unavailable: 0, reached: (0, 0) }
    }

    /// Waits until a run that has failed may be tried again; false when that would not help, or has been tried enough.
    ///
    /// A service that is out of reach is waited for, for as long as it takes: an end would help nobody. But not before a run of this
    /// process has done an epoch, or has stood by: a wrong endpoint or bucket should be found while somebody looks.
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
        // Another query that fails where one is left out fails for the first time.
        let reached = (progress.epoch.load(Ordering::Relaxed), progress.without_epoch.load(Ordering::Relaxed));
        if reached > self.reached {
            (self.reached, self.failed, self.unavailable) = (reached, 0, 0);
        }
        self.has_run |= progress.epochs.load(Ordering::Relaxed) > 0;
        if self.has_run && errors.iter().all(is_out_of_reach) {
            let pause = doubled(self.first_pause().max(SHORTEST_PAUSE), self.unavailable);
            self.unavailable = self.unavailable.saturating_add(1);
            for error in errors {
                tell!("{}failed (tried again in {} ms, for as long as it takes): {error}", self.of, pause.as_millis());
            }
            return waits(clock, stop, pause).await;
        }
        self.unavailable = 0;
        self.failed = self.failed.saturating_add(1);
        let most = self.retries.most;
        // One more when the epoch is skipped then.
        if self.failed > most.saturating_add(u32::from(self.retries.skips)) {
            return false;
        }
        let pause = doubled(self.first_pause(), self.failed - 1);
        let follows = match most {
            Retries::FOR_EVER => format!("retry {}", self.failed),
            most => format!("{} of {most} retries", self.failed.min(most)),
        };
        for error in errors {
            tell!("{}failed ({follows} follows in {} ms): {error}", self.of, pause.as_millis());
        }
        waits(clock, stop, pause).await
    }

    /// It has waited while another process led: the job and its services are as they should be.
    pub(super) fn stood_by(&mut self) {
        self.has_run = true;
    }

    fn first_pause(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.retries.delay_ms).unwrap_or(0))
    }
}

/// Whether a service was out of reach. A disk of this machine that is full does not empty itself, and its memory does not grow: somebody
/// should see that.
fn is_out_of_reach(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable && !error.is_of_this_machine()
}

/// A pause that has been doubled so many times.
fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(LONGEST_PAUSE)
}

/// Waits; false when somebody ends it.
async fn waits(clock: &Arc<dyn Clock>, stop: &watch::Receiver<bool>, pause: Duration) -> bool {
    let mut stop = stop.clone();
    tokio::select! {
        () = clock.sleep(pause) => true,
        _ = stop.wait_for(|stop| *stop) => false,
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
            self.fails_by(epoch, Error::new(kind, "it has failed")).await
        }

        async fn fails_by(&mut self, epoch: u64, error: Error) -> bool {
            self.progress.epoch.store(epoch, Ordering::Relaxed);
            let clock: Arc<dyn Clock> = self.noted.clone();
            let errors = [error];
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
    async fn what_is_out_of_reach_is_waited_for_once_a_run_has_done_something() {
        let mut job = Job::new(2, 0, false);
        // A start that has never succeeded.
        assert!(job.fails(0, ErrorKind::Unavailable).await && job.fails(0, ErrorKind::Unavailable).await);
        assert!(!job.fails(0, ErrorKind::Unavailable).await);
        job.pauses();
        let mut job = Job::new(2, 0, false);
        job.progress.epochs.store(1, Ordering::Relaxed);
        for _ in 0..100 {
            assert!(job.fails(7, ErrorKind::Unavailable).await);
        }
        let pauses = job.pauses();
        assert_eq!(pauses[..8], [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(pauses[99], 60_000);
        // What is counted is counted as before, and pauses begin anew behind the epoch.
        assert!(job.fails(7, ErrorKind::Data).await && job.fails(7, ErrorKind::Unavailable).await);
        assert!(job.fails(7, ErrorKind::Internal).await && job.fails(8, ErrorKind::Unavailable).await);
        assert_eq!(job.pauses(), [0, 1_000, 0, 1_000]);
        assert!(job.fails(8, ErrorKind::Data).await && job.fails(8, ErrorKind::Data).await);
        assert!(!job.fails(8, ErrorKind::Data).await);
        job.stop.send_replace(true);
        assert!(!job.fails(8, ErrorKind::Unavailable).await, "somebody ends it");
        // It takes over from one that has failed, and has done no epoch of its own.
        let mut job = Job::new(0, 0, false);
        job.attempts.stood_by();
        assert!(job.fails(0, ErrorKind::Unavailable).await && !job.fails(0, ErrorKind::Data).await);
    }

    #[test]
    fn a_full_disk_is_not_out_of_reach() {
        use std::io::ErrorKind as Io;
        let error = |kind: Io| Error::unavailable("it has failed").caused_by(std::io::Error::from(kind));
        assert!(is_out_of_reach(&error(Io::ConnectionRefused)));
        assert!(!is_out_of_reach(&error(Io::StorageFull)) && !is_out_of_reach(&error(Io::FileTooLarge)));
        assert!(!is_out_of_reach(&Error::data("a bad row")));
    }

    /// It would be tried for ever, and nobody would learn that it cannot be.
    #[tokio::test]
    async fn what_this_machine_lacks_is_counted() {
        let lacks = || Error::unavailable("a partition does not fit").of_this_machine().context("query 'a'");
        let mut job = Job::new(2, 10, false);
        job.progress.epochs.store(7, Ordering::Relaxed);
        assert!(job.fails_by(7, lacks()).await && job.fails_by(7, lacks()).await);
        assert!(!job.fails_by(7, lacks()).await, "it is the same each time");
        assert_eq!(job.pauses(), [10, 20]);
    }

    #[tokio::test]
    async fn one_more_where_the_epoch_is_skipped_then() {
        let mut job = Job::new(1, 10, true);
        assert!(job.fails(7, ErrorKind::Data).await && job.fails(7, ErrorKind::Data).await);
        assert_eq!(job.pauses(), [10, 20]);
        assert!(!job.fails(7, ErrorKind::Data).await);
    }

    #[tokio::test]
    async fn each_query_that_fails_at_an_epoch_is_tried_as_often() {
        let mut job = Job::new(1, 10, true);
        for skipped in 0..3 {
            job.progress.without_epoch.store(skipped, Ordering::Relaxed);
            assert!(job.fails(7, ErrorKind::Data).await && job.fails(7, ErrorKind::Data).await, "{skipped}");
        }
        assert_eq!(job.pauses(), [10, 20, 10, 20, 10, 20]);
        assert!(!job.fails(7, ErrorKind::Data).await);
    }

    /// -1 of Lambda. It is so with an epoch that would be skipped in the end, too.
    #[tokio::test]
    async fn there_may_be_no_end() {
        for skips in [false, true] {
            let mut job = Job::new(Retries::FOR_EVER, 10, skips);
            for _ in 0..1_000 {
                assert!(job.fails(7, ErrorKind::Data).await);
            }
            assert_eq!(job.pauses()[999], 60_000);
            job.attempts.failed = u32::MAX - 1;
            assert!(job.fails(7, ErrorKind::Data).await && job.fails(7, ErrorKind::Data).await);
        }
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
