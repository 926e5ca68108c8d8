//! Leases beyond a bad network: requests and answers get lost, come late, and arrive when nobody waits for them any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tidemill::contracts::{Error, Lease, LeaseStore, Result};

use super::world::{Chance, Tally, World};

/// What all stores of a simulation share.
pub(crate) struct Network {
    world: Arc<World>,
    /// From then on nothing fails any more.
    calm: Duration,
    state: Mutex<State>,
}

struct State {
    chance: Chance,
    counts: Tally,
    stored: BTreeMap<String, Lease>,
    /// Machines that cannot reach the stores, until then.
    cut: BTreeMap<usize, Duration>,
    /// A fault of the simulation: leases of these holders are renewed though they are dead.
    ghosts: BTreeSet<String>,
}

impl Network {
    pub(crate) fn new(world: &Arc<World>, seed: u64, calm: Duration) -> Arc<Self> {
        let (counts, stored, cut, ghosts) = Default::default();
        let state = State { chance: Chance::new(seed), counts, stored, cut, ghosts };
        Arc::new(Self { world: Arc::clone(world), calm, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.lock().chance.below(bound)
    }

    pub(crate) fn count(&self, what: &'static str) {
        self.lock().counts.count(what);
    }

    pub(crate) fn counts(&self) -> Tally {
        self.lock().counts.clone()
    }

    pub(crate) fn cut_off(&self, machine: usize, until: Duration) {
        self.lock().cut.insert(machine, until);
    }

    /// Names of what this holder has, whether or not it lives.
    pub(crate) fn held_by(&self, holder: &str) -> Vec<String> {
        let state = self.lock();
        let held = state.stored.iter().filter(|(_, lease)| lease.holder == holder && !lease.released);
        held.map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn haunt(&self, holder: &str) {
        self.lock().ghosts.insert(holder.to_owned());
    }
}

/// A lease, as one machine sees it.
#[derive(Clone)]
pub(crate) struct FarStore {
    network: Arc<Network>,
    machine: usize,
    name: String,
}

impl std::fmt::Debug for FarStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FarStore")
    }
}

impl FarStore {
    pub(crate) fn new(network: &Arc<Network>, machine: usize, name: impl Into<String>) -> Self {
        Self { network: Arc::clone(network), machine, name: name.into() }
    }

    /// The way of a message; `Err` if it does not arrive.
    async fn way(&self, reply: bool) -> Result<()> {
        let world = &self.network.world;
        let (ms, lost) = {
            let mut state = self.network.lock();
            let fails = world.now() < self.network.calm;
            let cut = state.cut.get(&self.machine).is_some_and(|until| *until > world.now());
            let lost = cut || (fails && state.chance.percent(4));
            let late = fails && state.chance.percent(4);
            let ms = 1 + state.chance.below(if late { 8_000 } else { 30 });
            let counts = &mut state.counts;
            counts.count_if(late, "late");
            counts.count_if(cut, "cut off");
            counts.count_if(lost, if reply { "lost reply" } else { "lost request" });
            (ms, lost)
        };
        world.sleep(Duration::from_millis(ms)).await;
        if lost {
            // A connection that hangs, and breaks in the end.
            let seconds = self.network.below(20);
            world.sleep(Duration::from_secs(seconds)).await;
            return Err(Error::unavailable("the connection broke"));
        }
        Ok(())
    }

    /// A request that is on its way arrives, whether or not somebody still waits for the answer.
    async fn call<T: Send + 'static>(&self, work: impl FnOnce(&mut State, &str) -> T + Send + 'static) -> Result<T> {
        let far = self.clone();
        let sent = tokio::spawn(async move {
            far.way(false).await?;
            Ok::<_, Error>(work(&mut far.network.lock(), &far.name))
        });
        let answer = sent.await.expect("the network does not panic")?;
        self.way(true).await?;
        Ok(answer)
    }
}

#[async_trait]
impl LeaseStore for FarStore {
    fn place(&self) -> String {
        "the simulated store".to_owned()
    }

    async fn read(&self) -> Result<Option<Lease>> {
        self.call(|state, name| {
            let lease = state.stored.get_mut(name)?;
            lease.beat += u64::from(state.ghosts.contains(&lease.holder));
            Some(lease.clone())
        })
        .await
    }

    async fn replace(&self, expected: Option<&Lease>, next: &Lease) -> Result<bool> {
        let (expected, next) = (expected.cloned(), next.clone());
        self.call(move |state, name| {
            let fits = state.stored.get(name) == expected.as_ref();
            if fits {
                state.stored.insert(name.to_owned(), next);
            }
            fits
        })
        .await
    }
}
