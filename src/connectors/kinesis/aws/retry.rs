//! Calls that are tried until they succeed.
//!
//! A source that cannot reach its stream is *behind*, not broken: throttling, 5xx, time-outs and lost connections are
//! retried for ever, with pauses that double up to [`LAST_PAUSE`] and are spread over their whole length ("full
//! jitter"), so that readers of many shards do not come back in step. What no repetition mends (no permission, no such
//! stream) ends the job at once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::connectors::aws::{AwsFailure, Jitter};
use crate::contracts::Clock;

/// The first pause is spread over this.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// And the last ones over this: a stream that comes back is read again within seconds.
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// How long a start tries to reach a stream: a wrong endpoint should be found while somebody looks.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(60);
/// Time between two warnings that a call still fails.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// Growing pauses of one caller.
#[derive(Debug)]
pub(super) struct Backoff {
    clock: Arc<dyn Clock>,
    jitter: Arc<Jitter>,
    attempt: u32,
    since: Option<Duration>,
    warned: Option<Duration>,
}

impl Backoff {
    pub(super) fn new(clock: Arc<dyn Clock>, jitter: Arc<Jitter>) -> Self {
        Self { clock, jitter, attempt: 0, since: None, warned: None }
    }

    /// The call went well.
    pub(super) fn reset(&mut self) {
        self.attempt = 0;
        self.since = None;
        self.warned = None;
    }

    /// How long it has been failing.
    pub(super) fn failing_for(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| self.clock.elapsed().saturating_sub(since))
    }

    /// Waits before the call is made again. Says once in a while that it still fails.
    pub(super) async fn pause(&mut self, failure: &AwsFailure) {
        let now = self.clock.elapsed();
        self.since.get_or_insert(now);
        if self.attempt >= 3 && self.warned.is_none_or(|at| now.saturating_sub(at) >= WARN_EVERY) {
            self.warned = Some(now);
            tracing::warn!(seconds = self.failing_for().as_secs(), "{}; trying again", failure.error);
        } else {
            tracing::debug!(attempt = self.attempt, code = failure.code, "{}", failure.error);
        }
        let most = FIRST_PAUSE.saturating_mul(1 << self.attempt.min(10)).min(LAST_PAUSE);
        self.attempt = self.attempt.saturating_add(1);
        self.clock.sleep(self.jitter.up_to(most)).await;
    }

    /// Makes a call until it succeeds, fails for good, or has failed for `patience`.
    pub(super) async fn persist<T, F, Fut>(&mut self, patience: Option<Duration>, mut call: F) -> Result<T, AwsFailure>
    where
        F: FnMut() -> Fut + Send,
        Fut: Future<Output = Result<T, AwsFailure>> + Send,
        T: Send,
    {
        loop {
            match call().await {
                Ok(value) => {
                    self.reset();
                    return Ok(value);
                }
                Err(failure) if !failure.retryable => return Err(failure),
                Err(failure) if patience.is_some() && failure.lacks_credentials() => return Err(failure),
                Err(failure) if patience.is_some_and(|most| self.failing_for() >= most) => return Err(failure),
                Err(failure) => self.pause(&failure).await,
            }
        }
    }
}
