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
