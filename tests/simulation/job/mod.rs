//! A whole job in a simulated world: replicas that crash, stop and are cut off, services that lose, delay and double
//! requests, a stream that is resharded. In the end everything has counted once.
//!
//! ```text
//!  simulated                      the program as it is                                simulated
//!  stream ─ SplitReader ─► driver, epochs, queries, writers ─► Sink ─ network ─ table | files | topic with a ledger
//!  table  ─ network ─ Lookup ─┘
//!                          lease, epoch log, checkpoints, recovery ─ network ─ object store
//! ```
//!
//! In a quarter of the seeds one machine runs the job without a lease, and log and checkpoints are files on its disk.

mod alerts;
mod aws;
mod bug;
mod careless;
mod checks;
mod disk;
mod files;
mod going_back;
mod lookups;
mod machine;
mod objects;
mod process;
mod queries;
mod refusals;
mod scenario;
mod sinks;
mod site;
mod stream;
mod windows;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use bug::Bug;
use objects::Silence;
use scenario::{run, run_in_silence};

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
    assert!(seeds.len() < 200 || faults.has_all(&machine::FAULTS), "a fault never came: {faults:?}");
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

/// Tells the child of [`the_same_seed_gives_the_same_run`] that it is the child.
const TELLS: &str = "SIMULATION_TELLS_DIGESTS";

/// Also in another process, which has other hash keys, and whose counters begin anew.
#[test]
fn the_same_seed_gives_the_same_run() {
    let mut digests = String::new();
    // Some of them have a disk, little memory, or a stream of files.
    for seed in 0..16 {
        let one = run(seed, None);
        assert!(one.trace.len() > 10, "{:?}", one.trace);
        digests += &format!("{seed}: {:016x} {:?}\n", one.digest, one.trace);
        if std::env::var_os(TELLS).is_none() {
            let other = run(seed, None);
            assert_eq!((one.trace, one.digest), (other.trace, other.digest), "seed {seed}");
        }
    }
    if std::env::var_os(TELLS).is_some() {
        println!("{digests}");
        return;
    }
    let mut other = Command::new(std::env::current_exe().expect("this program"));
    other.args(["--exact", "job::the_same_seed_gives_the_same_run", "--nocapture"]).env(TELLS, "1");
    let said = other.output().expect("this program");
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains(&digests), "{digests}\n----\n{said}");
}

/// The checker can fail: each of these faults of the program's parts is noticed within a few seeds.
#[test]
fn seeded_bugs_are_noticed() {
    for bug in Bug::ALL {
        let caught =
            (0..100).find_map(|seed| run(seed, Some(bug)).problems.first().map(|problem| (seed, problem.clone())));
        println!("{bug:?}: seed {caught:?}");
        assert!(caught.is_some(), "{bug:?} is not noticed by 100 seeds");
    }
}

/// While nothing of a checkpoint can be written, epochs and their results go on, and the run does not end; a later checkpoint makes up for it.
#[test]
fn epochs_do_not_wait_for_a_checkpoint() {
    let (from, until) = (Duration::from_secs(5), Duration::from_secs(35));
    let mut watched = 0;
    for seed in 0..20 {
        for of in ["/state/", "/manifests/"] {
            let outcome = run_in_silence(seed, Silence { of, from, until });
            assert!(
                outcome.problems.is_empty(),
                "seed {seed}, {of}: {:#?}\n{}",
                outcome.problems,
                outcome.trace.join("\n")
            );
            let trace = outcome.trace.join("\n");
            assert!(!trace.contains("failed") && !trace.contains("lost:"), "seed {seed}, {of}:\n{trace}");
            if !outcome.faults.has_all(&["silent store"]) {
                continue;
            }
            // Of running counts there is something new in each second, but where the stream pauses.
            let seconds: BTreeSet<u64> = outcome.updates.iter().map(Duration::as_secs).collect();
            watched += usize::from((6..35).filter(|second| seconds.contains(second)).count() >= 20);
        }
    }
    assert!(watched >= 5, "results came all the time in {watched} runs only");
}

/// An epoch whose cut cannot be logged must have no effects: the run ends, and another one goes on when the store answers again.
#[test]
fn a_run_that_cannot_write_its_log_ends_and_another_goes_on() {
    let mut ended = 0;
    for seed in 0..20 {
        let silence = Silence { of: "/log/", from: Duration::from_secs(5), until: Duration::from_secs(30) };
        let outcome = run_in_silence(seed, silence);
        assert!(outcome.problems.is_empty(), "seed {seed}: {:#?}\n{}", outcome.problems, outcome.trace.join("\n"));
        ended += usize::from(outcome.trace.iter().any(|line| line.contains("failed")));
        let seconds: BTreeSet<u64> = outcome.updates.iter().map(Duration::as_secs).collect();
        // What was cut before may still be on its way for a moment.
        assert!(
            (9..30).all(|second| !seconds.contains(&second)),
            "seed {seed}: {seconds:?}\n{}",
            outcome.trace.join("\n")
        );
    }
    assert!(ended >= 15, "{ended} runs have ended");
}
