//! Many calls at the same time, each repeated for as long as it takes.
//!
//! ```text
//!  ready ──► running (at most `limit`) ──► done
//!    ▲            │ throttled, no answer, a part left over
//!    └─ waiting ◄─┘   pause: doubled each time, jittered
//! ```
//!
//! A task that waits holds no place among the running ones: a hot partition does not keep others from being written.
//! It is not a rate limiter, and it does not give up: a sink that cannot write is back-pressure for its job. It says so, though, once
//! in a while; and a service that cannot be reached when a job begins ends its start.
//!
//! Invariant: [`Requests::run`] returns `Ok` only when every task is done.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::{AwsFailure, Call, Jitter};
use crate::contracts::{Clock, Error, Outage, Result};

/// Bounds of a pause after a fault that is no throttling (a cut connection, a 500): doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// Bounds after throttling: services count requests by the second, so shorter pauses only cost refused calls.
const FIRST_THROTTLED_PAUSE: Duration = Duration::from_millis(50);
const LAST_THROTTLED_PAUSE: Duration = Duration::from_secs(5);
/// How long a start tries to reach a service: a wrong endpoint should be found while somebody looks.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long calls fail before it is said. A service that is throttled for a moment is no news.
const FIRST_WARNING: Duration = Duration::from_secs(5);

/// What came of one call.
pub(crate) enum Attempt<T> {
    /// All of the task is done.
    Done,
    /// A part of the task is left; it may succeed later.
    Again {
        /// What is left.
        task: T,
        /// Whether the service asked for fewer calls.
        throttled: bool,
        /// Whether a part of the task was done: then the next pause is a first one again.
        progress: bool,
        /// Why it is left, for people who wait.
        why: Error,
    },
    /// It never will succeed: the job must end.
    Failed(Error),
}

impl<T> Attempt<T> {
    /// Again, if the failure passes by itself; else the end.
    pub(crate) fn after(task: T, failure: AwsFailure) -> Self {
        match failure.retryable {
            true => Self::Again { task, throttled: failure.throttled, progress: false, why: failure.error },
            false => Self::Failed(failure.error),
        }
    }

    /// Again, where an answer leaves `left` of the `of` parts of a task over.
    pub(crate) fn left_over(call: Call<'_>, task: T, (left, of): (usize, usize), throttled: bool) -> Self {
        let Call { service, operation, resource } = call;
        let why = format!("{service}:{operation} on '{resource}' leaves {left} of {of} over");
        Self::Again { task, throttled, progress: left < of, why: Error::unavailable(why) }
    }
}

/// The pause before attempt `attempt` (from 1), before chance.
fn whole_pause(attempt: u32, throttled: bool) -> Duration {
    let (first, last) = match throttled {
        true => (FIRST_THROTTLED_PAUSE, LAST_THROTTLED_PAUSE),
        false => (FIRST_PAUSE, LAST_PAUSE),
    };
    first.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(last)
}

/// Calls that fail, until one of them succeeds or all are done.
#[derive(Debug)]
struct Failing {
    outage: Outage,
    calls: u64,
}

impl Failing {
    fn new(now: Duration) -> Self {
        Self { outage: Outage::new(now, FIRST_WARNING), calls: 0 }
    }

    /// Another call has failed. Answers for how long they have now, if that is to be said.
    fn again(&mut self, now: Duration) -> Option<Duration> {
        self.calls += 1;
        self.outage.to_tell(now)
    }

    fn tell(&mut self, now: Duration, waiting: usize, why: &Error) {
        if let Some(since) = self.again(now) {
            tracing::warn!(seconds = since.as_secs(), failed_calls = self.calls, waiting, "{why}; trying again");
        }
    }
}

/// Runs tasks; kept by a sink for its life.
#[derive(Debug)]
pub(crate) struct Requests {
    clock: Arc<dyn Clock>,
    jitter: Jitter,
    limit: usize,
}

impl Requests {
    /// At most `limit` calls run at the same time.
    pub(crate) fn new(clock: Arc<dyn Clock>, jitter: Jitter, limit: usize) -> Self {
        Self { clock, jitter, limit: limit.max(1) }
    }

    /// One call, with which a start finds out whether a service can be used: repeated until it has an answer.
    ///
    /// # Errors
    /// It never will succeed; it has failed for [`START_PATIENCE`]; nothing says who is calling.
    pub(crate) async fn once<R, F, Fut>(&self, call: F) -> Result<R>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = std::result::Result<R, AwsFailure>>,
    {
        let mut attempt = 0;
        let mut failing: Option<Failing> = None;
        loop {
            match call().await {
                Ok(answer) => return Ok(answer),
                Err(failure) if !failure.retryable || failure.lacks_credentials() => return Err(failure.error),
                Err(failure) => {
                    let now = self.clock.elapsed();
                    let failing = failing.get_or_insert_with(|| Failing::new(now));
                    if failing.outage.lasted(now) >= START_PATIENCE {
                        return Err(failure.error);
                    }
                    failing.tell(now, 1, &failure.error);
                    attempt += 1;
                    self.clock.sleep(self.pause(attempt, failure.throttled)).await;
                }
            }
        }
    }

    fn pause(&self, attempt: u32, throttled: bool) -> Duration {
        self.jitter.half_to_all(whole_pause(attempt, throttled))
    }

    /// Calls for every task until it is done.
    ///
    /// # Errors
    /// The first [`Attempt::Failed`]; calls that run then are dropped.
    pub(crate) async fn run<T, F, Fut>(&self, tasks: impl IntoIterator<Item = T>, call: F) -> Result<()>
    where
        F: Fn(T) -> Fut,
        Fut: Future<Output = Attempt<T>>,
    {
        let mut ready: VecDeque<(u32, T)> = tasks.into_iter().map(|task| (0, task)).collect();
        let mut waiting: Vec<(Duration, u32, T)> = Vec::new();
        let mut running = FuturesUnordered::new();
        let mut failing: Option<Failing> = None;
        loop {
            let now = self.clock.elapsed();
            for (_, attempt, task) in waiting.extract_if(.., |(due, _, _)| *due <= now) {
                ready.push_front((attempt, task));
            }
            while running.len() < self.limit
                && let Some((attempt, task)) = ready.pop_front()
            {
                let called = call(task);
                running.push(async move { (attempt, called.await) });
            }
            if running.is_empty() && waiting.is_empty() {
                return Ok(());
            }
            let due = waiting.iter().map(|(due, _, _)| *due).min();
            let pause = async {
                match due {
                    Some(due) => self.clock.sleep(due.saturating_sub(now)).await,
                    None => std::future::pending().await,
                }
            };
            let ended = tokio::select! {
                biased;
                Some(ended) = running.next() => ended,
                () = pause => continue,
            };
            match ended {
                (_, Attempt::Done) => {}
                (_, Attempt::Failed(error)) => return Err(error),
                (attempt, Attempt::Again { task, throttled, progress, why }) => {
                    let attempt = if progress { 1 } else { attempt + 1 };
                    let now = self.clock.elapsed();
                    let left = 1 + ready.len() + waiting.len() + running.len();
                    failing.get_or_insert_with(|| Failing::new(now)).tell(now, left, &why);
                    waiting.push((now + self.pause(attempt, throttled), attempt, task));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::contracts::SystemClock;

    #[test]
    fn pauses_double_up_to_their_last() {
        let pauses: Vec<u128> = (1..10).map(|attempt| whole_pause(attempt, true).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!([whole_pause(1, false), whole_pause(99, false)], [FIRST_PAUSE, LAST_PAUSE]);
    }

    #[test]
    fn it_is_said_after_seconds_and_then_each_half_minute() {
        let mut failing = Failing::new(Duration::from_secs(100));
        let said: Vec<u64> = (100..=200).filter(|s| failing.again(Duration::from_secs(*s)).is_some()).collect();
        assert_eq!((said, failing.calls), (vec![105, 135, 165, 195], 101));
    }

    #[tokio::test]
    async fn all_tasks_are_done_within_the_bound_whatever_fails_on_the_way() {
        let (now, most, calls) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let requests = Requests::new(Arc::new(SystemClock::new()), Jitter::seeded(&["t"]), 3);
        let call = |(id, left): (usize, usize)| {
            let (now, most, calls) = (&now, &most, &calls);
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                calls.fetch_add(1, Ordering::SeqCst);
                match left {
                    0 => Attempt::Done,
                    left => {
                        let why = Error::unavailable("not yet");
                        Attempt::Again { task: (id, left - 1), throttled: false, progress: left > 1, why }
                    }
                }
            }
        };
        requests.run((0..20).map(|id| (id, id % 3)), call).await.unwrap();
        assert_eq!(calls.into_inner(), 20 + (0..20).map(|id| id % 3).sum::<usize>());
        assert_eq!(most.into_inner(), 3);
        let failed = requests.run([1, 2], |_| async { Attempt::<i32>::Failed(Error::config("no")) }).await;
        assert!(failed.is_err());
    }

    #[tokio::test]
    async fn a_task_that_waits_does_not_keep_others_from_running() {
        let clock = Arc::new(crate::contracts::ManualClock::new(0));
        let requests = Requests::new(clock.clone(), Jitter::seeded(&["t"]), 1);
        let others = AtomicUsize::new(0);
        let call = |(hot, again): (bool, bool)| {
            let (others, clock) = (&others, &clock);
            async move {
                match (hot, again) {
                    (true, true) => {
                        let why = Error::unavailable("too hot");
                        return Attempt::Again { task: (true, false), throttled: true, progress: false, why };
                    }
                    (true, false) => assert_eq!(others.load(Ordering::SeqCst), 5, "the others came first"),
                    (false, _) => {
                        // The last of the others lets time go on.
                        if others.fetch_add(1, Ordering::SeqCst) == 4 {
                            clock.advance(Duration::from_secs(1));
                        }
                    }
                }
                Attempt::Done
            }
        };
        let tasks = std::iter::once((true, true)).chain([(false, false); 5]);
        requests.run(tasks, call).await.unwrap();
    }
}
