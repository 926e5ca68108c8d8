//! Virtual time, and chance from a seed.
//!
//! All tasks run on one thread. When none of them can go on, the runtime is about to park: then time jumps to the next
//! timer. So hours pass in milliseconds, and what happens depends on nothing but the seed.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use tidemill::contracts::{Clock, SPLITMIX64_STEP, splitmix64};

/// Seeds that a test runs unless the environment says otherwise.
pub(crate) fn seeds(usual: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    match (number("SIMULATION_SEED"), number("SIMULATION_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, count) => {
            let first = number("SIMULATION_FIRST").unwrap_or(0);
            (first..first + count.unwrap_or(usual)).collect()
        }
    }
}

/// Numbers from a seed.
#[derive(Debug)]
pub(crate) struct Chance(Cell<u64>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        let state = self.0.get();
        self.0.set(state.wrapping_add(SPLITMIX64_STEP));
        splitmix64(state)
    }

    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True in `percent` of 100.
    pub(crate) fn percent(&self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// How often each thing has happened, so that a fault which never comes is noticed.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub(crate) fn count(&mut self, what: &'static str) {
        self.count_many(what, 1);
    }

    pub(crate) fn count_many(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub(crate) fn count_if(&mut self, happened: bool, what: &'static str) {
        self.count_many(what, u64::from(happened));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            self.count_many(what, *times);
        }
    }

    /// Whether each of `expected` has happened.
    pub(crate) fn has_all(&self, expected: &[&'static str]) -> bool {
        expected.iter().all(|what| self.0.get(what).is_some_and(|times| *times > 0))
    }
}

/// The time of everything in a simulation.
#[derive(Debug, Default)]
pub(crate) struct World {
    now_us: AtomicU64,
    next: AtomicU64,
    timers: Mutex<BTreeMap<(u64, u64), Waker>>,
}

impl World {
    /// Runs a simulation to its end.
    ///
    /// # Panics
    /// If nothing can ever go on: every task waits for another one.
    pub(crate) fn run<F: Future>(self: &Arc<Self>, simulation: F) -> F::Output {
        let world = Arc::clone(self);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .on_thread_park(move || world.jump())
            .build()
            .expect("a runtime of one thread");
        runtime.block_on(simulation)
    }

    /// To the next timer.
    fn jump(&self) {
        let mut timers = self.timers.lock().expect("no panic while it is held");
        let Some(((due, _), waker)) = timers.pop_first() else { return };
        self.now_us.fetch_max(due, Ordering::Relaxed);
        drop(timers);
        waker.wake();
    }

    pub(crate) fn now(&self) -> Duration {
        Duration::from_micros(self.now_us.load(Ordering::Relaxed))
    }

    /// The same in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_us.load(Ordering::Relaxed) / 1_000
    }

    /// Waits in the world's own time.
    pub(crate) fn sleep(self: &Arc<Self>, duration: Duration) -> Sleep {
        let due = self.now_us.load(Ordering::Relaxed) + u64::try_from(duration.as_micros()).unwrap_or(u64::MAX >> 1);
        Sleep { world: Arc::clone(self), key: (due, self.next.fetch_add(1, Ordering::Relaxed)) }
    }
}

/// See [`World::sleep`].
pub(crate) struct Sleep {
    world: Arc<World>,
    key: (u64, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.world.now_us.load(Ordering::Relaxed) >= self.key.0 {
            return Poll::Ready(());
        }
        let mut timers = self.world.timers.lock().expect("no panic while it is held");
        timers.insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.world.timers.lock().expect("no panic while it is held").remove(&self.key);
    }
}

/// A machine's clock: it began at some time, and may run fast or slow.
#[derive(Debug)]
pub(crate) struct MachineClock {
    pub(crate) world: Arc<World>,
    pub(crate) offset_ms: i64,
    /// Its seconds for each 1,000 real ones.
    pub(crate) per_mille: u32,
}

impl MachineClock {
    fn local(&self, real: Duration) -> Duration {
        real * self.per_mille / 1_000
    }
}

#[async_trait]
impl Clock for MachineClock {
    fn now_ms(&self) -> i64 {
        self.offset_ms + i64::try_from(self.local(self.world.now()).as_millis()).expect("a short simulation")
    }

    fn elapsed(&self) -> Duration {
        self.local(self.world.now())
    }

    async fn sleep(&self, duration: Duration) {
        // A little more than asked for: a sleep must not end before its time on this clock.
        self.world.sleep(duration * 1_000 / self.per_mille + Duration::from_micros(1)).await;
    }
}

/// A task that can be stopped and go on as if nothing had happened, as a process under SIGSTOP or a virtual machine that
/// is moved.
pub(crate) struct Pausable<F> {
    pub(crate) future: Pin<Box<F>>,
    pub(crate) world: Arc<World>,
    /// Real time until which it stands still.
    pub(crate) until: Arc<Mutex<Duration>>,
    pub(crate) wait: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Pausable<F> {
    pub(crate) fn new(world: &Arc<World>, until: Arc<Mutex<Duration>>, future: F) -> Self {
        Self { future: Box::pin(future), world: Arc::clone(world), until, wait: None }
    }
}

impl<F: Future> Future for Pausable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        loop {
            let left = self.until.lock().expect("no panic while it is held").saturating_sub(self.world.now());
            if left.is_zero() {
                break;
            }
            let wait = self.world.sleep(left);
            let wait = self.wait.insert(Box::pin(wait));
            if wait.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
        self.wait = None;
        self.future.as_mut().poll(context)
    }
}
