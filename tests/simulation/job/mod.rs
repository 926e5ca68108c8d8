//! A whole job in a simulated world: replicas that crash, stop and are cut off, services that lose, delay and double
//! requests, a stream that is resharded. In the end everything has counted once.
//!
//! ```text
//!  simulated                      the program as it is                                simulated
//!  stream ─ SplitReader ─► driver, epochs, queries, writers ─► Sink ─ network ─ table | files | topic with a ledger
//!  table  ─ network ─ Lookup ─┘
//!                          lease, epoch log, checkpoints, recovery ─ network ─ object store
//! ```

mod alerts;
mod careless;
mod checks;
mod lookups;
mod machine;
mod objects;
mod queries;
mod scenario;
mod sinks;
mod stream;

use scenario::{Bug, run};

use crate::world::{Tally, seeds};

/// Seeds in CI, in four tests that run side by side; `SIMULATION_SEEDS=25000` is the long run of 100,000.
const SEEDS: u64 = 250;

fn everything_counts_once(part: u64) {
    let mut faults = Tally::default();
    let seeds: Vec<u64> = match std::env::var_os("SIMULATION_SEED") {
        Some(_) => seeds(1),
        None => seeds(SEEDS).into_iter().map(|seed| 4 * seed + part).collect(),
    };
    for seed in &seeds {
        let outcome = run(*seed, None);
        assert!(
            outcome.problems.is_empty(),
            "SIMULATION_SEED={seed}: {:#?}\n{}",
            outcome.problems,
            outcome.trace.join("\n")
        );
        faults.add(&outcome.faults);
    }
    println!("{faults:?}");
    assert!(seeds.len() < 50 || faults.has_all(&machine::FAULTS), "a fault never came: {faults:?}");
}

#[test]
fn everything_counts_once_whatever_fails_1() {
    everything_counts_once(0);
}

#[test]
fn everything_counts_once_whatever_fails_2() {
    everything_counts_once(1);
}

#[test]
fn everything_counts_once_whatever_fails_3() {
    everything_counts_once(2);
}

#[test]
fn everything_counts_once_whatever_fails_4() {
    everything_counts_once(3);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..5 {
        let (one, other) = (run(seed, None), run(seed, None));
        assert!(one.trace.len() > 20, "{:?}", one.trace);
        assert_eq!(one.trace, other.trace, "seed {seed}");
    }
}

/// The checker can fail: each of these faults of the program's parts is noticed within a few seeds.
#[test]
fn seeded_bugs_are_noticed() {
    for bug in Bug::ALL {
        let first = bug.first_seed();
        let caught = (first..first + 200).find(|seed| !run(*seed, Some(bug)).problems.is_empty());
        println!("{bug:?}: seed {caught:?}");
        assert!(caught.is_some(), "{bug:?} is not noticed by 200 seeds");
    }
}
