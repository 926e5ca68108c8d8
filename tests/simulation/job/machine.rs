//! A machine that a replica runs on, its network, and what fails there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tidemill::contracts::{Clock, splitmix64};
use tokio::sync::oneshot;

use crate::world::{Chance, MachineClock, Tally, World};

/// Every kind of fault, and of what else must come.
pub(crate) const FAULTS: [&str; 54] = [
    "hesitation",
    "lost request",
    "lost reply",
    "late request",
    "crash",
    "pause",
    "cut",
    "reshard",
    "lost lead",
    "hand-over",
    "stale write",
    "alert again",
    "changed table",
    "file",
    "silent shard",
    "doubled request",
    "pause longer than the lease",
    "two leaders",
    "fast clock",
    "torn write",
    "full disk",
    "little memory",
    "cut from one service",
    "old answer",
    "row out of order",
    "late row",
    "broken record",
    "asked again",
    "throttled",
    "failed request",
    "failed answer",
    "refused by condition",
    "batch with troubles",
    "expired",
    "deduplicated",
    "alert nobody knows of",
    "record again",
    "pushed",
    "silent connection",
    "broken connection",
    "completed before",
    "aborted upload",
    "part of an aborted upload",
    "went back",
    "catches up",
    "row that fails",
    "result that fails",
    "refused row",
    "refused result",
    "union of two tables",
    "union of a table with itself",
    "view that projects and filters",
    "aggregate with a filter",
    "grouping sets",
];

/// A request is on its way for so long at most; one that comes twice, for twice as long.
const LATEST: Duration = Duration::from_secs(9);

/// What a machine can be cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Far {
    /// The store of checkpoints, log and lease.
    Store,
    /// What the job writes to, and looks up in.
    Services,
}

/// What all machines share: chance, counts, and what is written down of a run.
#[derive(Debug)]
pub(crate) struct Nature {
    pub(crate) world: Arc<World>,
    inner: Mutex<Inner>,
    /// Nothing fails from then on.
    pub(crate) calm: Duration,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) chance: Chance,
    pub(crate) faults: Tally,
    pub(crate) trace: Vec<String>,
    pub(crate) problems: Vec<String>,
    /// Of every request: when it was sent, and what became of it.
    pub(crate) digest: u64,
    /// Processes that lead, as far as they know.
    leaders: BTreeSet<u64>,
}

impl Nature {
    pub(crate) fn new(world: Arc<World>, seed: u64, calm: Duration) -> Self {
        let (faults, trace, problems, leaders) = Default::default();
        let inner = Inner { chance: Chance::new(seed), faults, trace, problems, digest: 0, leaders };
        Self { world, inner: Mutex::new(inner), calm }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while it is held")
    }

    pub(crate) fn trace(&self, text: impl std::fmt::Display) {
        let line = format!("{:>10.3?} {text}", self.world.now().as_secs_f64());
        self.lock().trace.push(line);
    }

    /// A process leads, or has heard that it does not any more.
    pub(crate) fn leads(&self, process: u64, leads: bool) {
        let mut inner = self.lock();
        if leads {
            inner.leaders.insert(process);
            let two = inner.leaders.len() > 1;
            inner.faults.count_if(two, "two leaders");
        } else {
            inner.leaders.remove(&process);
        }
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.world.now() >= self.calm
    }

    /// Whether nothing fails, and what was on its way before has arrived.
    pub(crate) fn has_been_calm(&self) -> bool {
        self.world.now() >= self.calm + 2 * LATEST
    }
}

/// A machine. A dead one, and one that stands still, send nothing and hear nothing.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) nature: Arc<Nature>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    dead: bool,
    stands_until: Duration,
    /// From the store, and from the services.
    cut_until: [Duration; 2],
}

/// Its clock. While a machine stands still, nobody on it wakes up: a leader finds out that its lease has ended when the machine goes on.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) clock: MachineClock,
    pub(crate) machine: Arc<Machine>,
}

#[async_trait]
impl Clock for Watch {
    fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration).await;
        self.machine.goes().await;
    }
}

/// The answer did not come.
#[derive(Debug)]
pub(crate) struct Lost;

impl Machine {
    pub(crate) fn new(nature: &Arc<Nature>) -> Arc<Self> {
        Arc::new(Self { nature: Arc::clone(nature), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    pub(crate) fn die(&self) {
        self.state().dead = true;
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state().dead
    }

    pub(crate) fn stand_until(&self, until: Duration) {
        let mut state = self.state();
        state.stands_until = state.stands_until.max(until);
    }

    pub(crate) fn is_cut(&self, from: Far) -> bool {
        self.state().cut_until[from as usize] > self.nature.world.now()
    }

    pub(crate) fn cut_until(&self, from: &[Far], until: Duration) {
        let mut state = self.state();
        for far in from {
            let cut = &mut state.cut_until[*far as usize];
            *cut = until.max(*cut);
        }
    }

    /// Goes on when the machine does; never on a dead one.
    pub(crate) async fn goes(&self) {
        loop {
            let (dead, until) = {
                let state = self.state();
                (state.dead, state.stands_until)
            };
            if dead {
                std::future::pending::<()>().await;
            }
            let left = until.saturating_sub(self.nature.world.now());
            if left.is_zero() {
                return;
            }
            self.nature.world.sleep(left).await;
        }
    }

    /// Asks a service to do something. A request that was sent arrives, sooner or later, whatever becomes of the sender.
    pub(crate) async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        far: Far,
        work: impl Fn() -> T + Send + 'static,
    ) -> Result<T, Lost> {
        self.goes().await;
        let calm = self.nature.is_calm();
        let (there, again, back, request_lost, reply_lost) = {
            let cut = self.is_cut(far);
            let latest = LATEST.as_millis() as u64;
            let mut inner = self.nature.lock();
            let request_lost = cut || (!calm && inner.chance.percent(2));
            let reply_lost = !calm && inner.chance.percent(2);
            let late = !calm && inner.chance.percent(2);
            let there = 1 + inner.chance.below(if late { latest } else { 20 });
            let again = (!calm && inner.chance.percent(2)).then(|| inner.chance.below(latest));
            inner.faults.count_if(again.is_some() && !request_lost, "doubled request");
            let back = 1 + inner.chance.below(20);
            inner.faults.count_if(request_lost, "lost request");
            inner.faults.count_if(reply_lost && !request_lost, "lost reply");
            inner.faults.count_if(late && !request_lost, "late request");
            let sent = u64::try_from(self.nature.world.now().as_micros()).expect("a short simulation");
            let fate = (there << 32) ^ (back << 16) ^ u64::from(request_lost) ^ (u64::from(reply_lost) << 1);
            inner.digest = splitmix64(inner.digest ^ splitmix64(sent) ^ fate);
            (there, again, back, request_lost, reply_lost)
        };
        let world = Arc::clone(&self.nature.world);
        if request_lost {
            world.sleep(Duration::from_millis(1_500)).await;
            self.goes().await;
            return Err(Lost);
        }
        let (answered, mut answer) = oneshot::channel();
        tokio::spawn({
            let world = Arc::clone(&world);
            async move {
                world.sleep(Duration::from_millis(there)).await;
                // Nobody may wait any more.
                let _ = answered.send(work());
                if let Some(again) = again {
                    world.sleep(Duration::from_millis(again)).await;
                    work();
                }
            }
        });
        // Whoever waits gives up after a while; the request is still on its way.
        let answer = tokio::select! {
            biased;
            answer = &mut answer => Ok(answer.expect("a service does not panic")),
            () = world.sleep(Duration::from_millis(2_000)) => Err(Lost),
        };
        let back = if reply_lost { 1_500 } else { back };
        world.sleep(Duration::from_millis(back)).await;
        self.goes().await;
        if reply_lost { Err(Lost) } else { answer }
    }

    /// Asks again when no answer comes, as clients do: later each time, and `retries` times at most. What was asked may have been done.
    pub(crate) async fn try_again<T: Send + 'static>(
        self: &Arc<Self>,
        far: Far,
        retries: u32,
        work: impl Fn() -> T + Clone + Send + 'static,
    ) -> Result<T, Lost> {
        for retry in 0..retries {
            if let Ok(answer) = self.call(far, work.clone()).await {
                return Ok(answer);
            }
            self.asks_again(retry).await;
        }
        self.call(far, work).await
    }

    /// Waits as a client does before it asks once more: longer each time.
    pub(crate) async fn asks_again(&self, retry: u32) {
        self.nature.lock().faults.count("asked again");
        self.nature.world.sleep(Duration::from_millis(100 << retry.min(5))).await;
    }

    /// Asks one that the job writes to, until there is an answer.
    pub(crate) async fn insist<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Fn() -> T + Clone + Send + 'static,
    ) -> T {
        loop {
            let work = work.clone();
            if let Ok(answer) = self.call(Far::Services, work).await {
                return answer;
            }
        }
    }
}
