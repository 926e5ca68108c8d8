//! Calls that are tried until they succeed.
//!
//! A source that cannot reach its stream is *behind*, not broken: throttling, 5xx, time-outs and lost connections are
//! retried for ever, with pauses that double up to [`LAST_PAUSE`] and are spread over their whole length ("full
//! jitter"), so that readers of many shards do not come back in step. What no repetition mends (no permission, no such
//! stream) ends the job at once.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::connectors::aws::AwsFailure;
use crate::contracts::Clock;

/// The first pause is spread over this.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// And the last ones over this: a stream that comes back is read again within seconds.
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// Time between two warnings that a call still fails.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// Random numbers from a seed (splitmix64, Steele et al. 2014): the same seed gives the same pauses.
#[derive(Debug)]
pub(super) struct Jitter(AtomicU64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between nothing and `most`.
    pub(super) fn up_to(&self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.next() % nanos.max(1))
    }
}

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
                Err(failure) if patience.is_some() && no_credentials(&failure) => return Err(failure),
                Err(failure) if patience.is_some_and(|most| self.failing_for() >= most) => return Err(failure),
                Err(failure) => self.pause(&failure).await,
            }
        }
    }
}

/// Whether nothing says who is calling. Later it may be a metadata service that does not answer for a while; at the start
/// it is a person who forgot.
fn no_credentials(failure: &AwsFailure) -> bool {
    failure.error.hint_text().is_some_and(|hint| hint.contains("credentials are missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_pauses_within_their_bound() {
        let (one, other) = (Jitter::new(7), Jitter::new(7));
        for _ in 0..100 {
            let pause = one.up_to(Duration::from_secs(1));
            assert_eq!(pause, other.up_to(Duration::from_secs(1)));
            assert!(pause < Duration::from_secs(1));
        }
        assert_ne!(Jitter::new(1).next(), Jitter::new(2).next());
    }
}
