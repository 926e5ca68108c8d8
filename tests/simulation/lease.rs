//! Replicas that want the same lease, in a bad network.
//!
//! What must hold, whatever fails: terms have growing numbers; nobody believes to have the lease while another has it,
//! but for one that was paused between looking and acting; and when the network is well, a job whose leader dies or stands still
//! has another one soon enough for results to go on within 15 s.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill::contracts::Clock;
use tidemill::ha::{Candidate, Times};

use super::far::{FarStore, Network};
use super::world::{MachineClock, Pausable, Tally, World, seeds};

const REPLICAS: usize = 3;
const SECONDS: u64 = 300;
/// In this last part of a run nothing fails any more, but for a leader: at these seconds it dies, and stands still to the end.
const QUIET_SECONDS: u64 = 60;
const DIES_AT: u64 = 15;
const STANDS_STILL_AT: u64 = 35;
/// Then another one leads: of 15 s, 3 are for 1 GiB of state and 1 for what is repeated.
const WITHIN: Duration = Duration::from_secs(11);

/// Everything that must have happened.
const EXPECTED: [&str; 10] = [
    "lost request",
    "lost reply",
    "late",
    "crash",
    "pause",
    "cut off",
    "term",
    "release",
    "dead leader",
    "still leader",
];

struct Shared {
    network: Arc<Network>,
    /// Terms that a replica believes to have.
    believers: BTreeMap<usize, u64>,
    paused: BTreeMap<usize, Duration>,
    last_generation: u64,
    /// Since when nobody has had a term.
    vacant: Option<Duration>,
    /// Since when the one that leads has been dead, or stood still, in the quiet part.
    gone: Option<Duration>,
    problems: Vec<String>,
    trace: Vec<String>,
}

type Common = Arc<Mutex<Shared>>;

fn lock(shared: &Common) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().expect("no panic while it is held")
}

/// One life of a replica: from its start to a crash.
async fn life(world: Arc<World>, shared: Common, replica: usize, start: u64, per_mille: u32, times: Times) {
    let network = Arc::clone(&lock(&shared).network);
    let store = FarStore::new(&network, replica, "lease");
    // Clocks of different machines may be hours apart.
    let offset_ms = i64::try_from(start % 7).expect("small") * 3_600_000;
    let clock: Arc<dyn Clock> = Arc::new(MachineClock { world: Arc::clone(&world), offset_ms, per_mille });
    let name = format!("replica-{replica}-{start}");
    let candidate = Candidate::new(Arc::new(store), clock, name, times);
    loop {
        let mut term = candidate.acquire(|_| {}).await.expect("nothing but the network fails");
        begin(&world, &shared, replica, term.generation());
        let works = world.sleep(Duration::from_secs(20 + network.below(60)));
        let lost = tokio::select! {
            lost = term.keep() => Some(lost),
            () = works => None,
        };
        end(&world, &shared, replica);
        if lost.is_none() {
            network.count("release");
            let _ = term.release().await;
        }
    }
}

fn begin(world: &World, shared: &Common, replica: usize, generation: u64) {
    let now = world.now();
    let mut shared = lock(shared);
    shared.trace.push(format!("{now:?} {replica} begins {generation}"));
    if generation <= shared.last_generation {
        let last = shared.last_generation;
        shared.problems.push(format!("{now:?}: term {generation} after {last}"));
    }
    // One that is paused cannot have looked.
    let others: Vec<usize> = shared.believers.keys().copied().filter(|other| *other != replica).collect();
    for other in others {
        if shared.paused.get(&other).is_none_or(|until| *until < now) {
            shared.problems.push(format!("{now:?}: {replica} has the lease, and {other} believes to have it"));
        }
    }
    if let Some(since) = shared.vacant.take() {
        // A request that was on its way when things became well may still hang for a moment.
        let quiet = Duration::from_secs(SECONDS - QUIET_SECONDS + 3);
        let since = since.max(quiet);
        if now > since + Duration::from_secs(15) {
            shared.problems.push(format!("without a leader from {since:?} to {now:?}"));
        }
    }
    if let Some(since) = shared.gone.take()
        && now > since + WITHIN
    {
        shared.problems.push(format!("the leader has gone at {since:?}, and another one comes at {now:?}"));
    }
    shared.last_generation = generation;
    shared.believers.insert(replica, generation);
    shared.network.count("term");
}

/// The leader dies, or stands still, in the quiet part. Answers who it is; `None` when nobody leads just now.
fn goes(world: &World, shared: &Common, what: &'static str) -> Option<usize> {
    let mut shared = lock(shared);
    let leader = shared.believers.keys().next().copied()?;
    shared.trace.push(format!("{:?} {what}: {leader}", world.now()));
    shared.gone = Some(world.now());
    shared.network.count(what);
    Some(leader)
}

fn end(world: &World, shared: &Common, replica: usize) {
    let mut shared = lock(shared);
    shared.trace.push(format!("{:?} {replica} ends", world.now()));
    shared.believers.remove(&replica);
    if shared.believers.is_empty() {
        shared.vacant = Some(world.now());
    }
}

/// One run; `per_mille` is how fast the clocks of the replicas run.
fn run(seed: u64, per_mille: [u32; REPLICAS], times: Times) -> (Vec<String>, Tally, Vec<String>) {
    let world = Arc::<World>::default();
    let network = Network::new(&world, seed, Duration::from_secs(SECONDS - QUIET_SECONDS));
    let shared = Arc::new(Mutex::new(Shared {
        network: Arc::clone(&network),
        believers: BTreeMap::new(),
        paused: BTreeMap::new(),
        last_generation: 0,
        vacant: Some(Duration::ZERO),
        gone: None,
        problems: Vec::new(),
        trace: Vec::new(),
    }));
    world.run(async {
        let until: Vec<_> = (0..REPLICAS).map(|_| Arc::new(Mutex::new(Duration::ZERO))).collect();
        let spawn = |replica: usize, start: u64| {
            let life = life(Arc::clone(&world), Arc::clone(&shared), replica, start, per_mille[replica], times);
            tokio::spawn(Pausable::new(&world, Arc::clone(&until[replica]), life))
        };
        let mut replicas: Vec<_> = (0..REPLICAS).map(|replica| spawn(replica, 0)).collect();
        let (mut starts, mut events) = (0, vec![(STANDS_STILL_AT, "still leader"), (DIES_AT, "dead leader")]);
        while world.now() < Duration::from_secs(SECONDS) {
            world.sleep(Duration::from_secs(1)).await;
            if let Some(quiet) = world.now().checked_sub(Duration::from_secs(SECONDS - QUIET_SECONDS)) {
                if let Some((at, what)) = events.last()
                    && quiet >= Duration::from_secs(*at)
                    && let Some(leader) = goes(&world, &shared, what)
                {
                    if *at == DIES_AT {
                        replicas[leader].abort();
                        end(&world, &shared, leader);
                        starts += 1;
                        replicas[leader] = spawn(leader, starts);
                    } else {
                        let until_end = Duration::from_secs(SECONDS + 15);
                        *until[leader].lock().expect("no panic while it is held") = until_end;
                        lock(&shared).paused.insert(leader, until_end);
                    }
                    events.pop();
                }
                continue;
            }
            let (replica, what) = (network.below(REPLICAS as u64) as usize, network.below(40));
            let seconds = 1 + network.below(25);
            let later = (world.now() + Duration::from_secs(seconds)).min(Duration::from_secs(SECONDS - QUIET_SECONDS));
            match what {
                0 => {
                    replicas[replica].abort();
                    end(&world, &shared, replica);
                    network.count("crash");
                    starts += 1;
                    replicas[replica] = spawn(replica, starts);
                }
                1 => {
                    let mut until = until[replica].lock().expect("no panic while it is held");
                    let later = later.max(*until);
                    *until = later;
                    lock(&shared).paused.insert(replica, later);
                    network.count("pause");
                }
                2 => network.cut_off(replica, later),
                _ => {}
            }
        }
        for replica in replicas {
            replica.abort();
        }
    });
    let mut shared = lock(&shared);
    if let Some(since) = shared.gone {
        shared.problems.push(format!("the leader has gone at {since:?}, and no other one comes"));
    }
    if shared.believers.is_empty() && shared.vacant.is_none_or(|since| since < Duration::from_secs(SECONDS - 15)) {
        shared.problems.push("nobody leads at the end".to_owned());
    }
    (std::mem::take(&mut shared.problems), network.counts(), std::mem::take(&mut shared.trace))
}

const TRUE: [u32; REPLICAS] = [1_000; REPLICAS];

#[test]
fn one_leads_and_a_successor_comes_in_time() {
    let mut all = Tally::default();
    let seeds = seeds(1_000);
    for &seed in &seeds {
        let (problems, counts, trace) = run(seed, TRUE, Times::default());
        assert!(problems.is_empty(), "SIMULATION_SEED={seed}: {problems:#?}\n{}", trace.join("\n"));
        all.add(&counts);
    }
    println!("{all:?}");
    assert!(seeds.len() < 1_000 || all.has_all(&EXPECTED), "a fault never came: {all:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (_, _, one) = run(7, TRUE, Times::default());
    let (_, _, other) = run(7, TRUE, Times::default());
    assert!(one.len() > 4);
    assert_eq!(one, other);
}

/// The checker can fail: a replica whose clock runs at half speed believes in its lease for twice as long.
#[test]
fn a_clock_at_half_speed_is_noticed() {
    let caught = (0..50).find(|seed| {
        let (problems, ..) = run(*seed, [500, 1_000, 1_000], Times::default());
        problems.iter().any(|problem| problem.contains("believes to have it"))
    });
    assert!(caught.is_some(), "no seed of 50 shows it");
}

/// So it can about the time: these leases are so long that one who dies is missed too late.
#[test]
fn a_lease_that_is_too_long_is_noticed() {
    for seconds in [13, 16] {
        let ttl = Duration::from_secs(seconds);
        let caught = (0..20).find(|seed| {
            let (problems, ..) = run(*seed, TRUE, Times { ttl, beat: ttl / 5 });
            problems.iter().any(|problem| problem.contains("and another one comes at"))
        });
        assert!(caught.is_some(), "{seconds} s: no seed of 20 shows it");
    }
}
