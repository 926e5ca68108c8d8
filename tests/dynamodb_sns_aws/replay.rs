//! The promise of the table sink, as a property: whatever suffix of epochs is replayed, by however many processes that
//! were killed at any point, with replies lost and writes that are applied long after they were given up, the table ends
//! the same, and no state in between takes a value back.
//!
//! A case that fails prints its seed. `TIDEMILL_CASES=1000` runs that many of each kind.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::datatypes::{DataType, SchemaRef};
use serde_json::Value;
use tidemill::contracts::{Sink, TableSpec};

use crate::stub::tables::Item;
use crate::stub::{Fault, Script};
use crate::support::*;
use crate::target::Target;

const KEYS: u64 = 5;
const EPOCHS: u64 = 9;

/// Every fault that a client can meet, as often as it likes.
const FAULTS: [Fault; 9] = [
    Fault::Throttle,
    Fault::Conflict,
    Fault::ServerError,
    Fault::CutBefore,
    Fault::CutAfter,
    Fault::ServerErrorAfter,
    Fault::Late(3),
    Fault::Late(40),
    Fault::Partial,
];

pub(crate) fn stormy(seed: u64, faults: &'static [Fault]) -> Script {
    let mut random = Random(seed ^ 0x5707);
    Box::new(move |operation| match (operation, random.below(3)) {
        // Polls and set-up are not the sink's.
        ("Scan" | "CreateTable", _) => Fault::None,
        ("DescribeTable", 0) => Fault::Throttle,
        (_, 0) => faults[random.below(faults.len() as u64) as usize],
        _ => Fault::None,
    })
}

pub(crate) fn columns(first: &str, second: &str) -> SchemaRef {
    schema(&[("k", DataType::Utf8), (first, DataType::Int64), (second, DataType::Int64)])
}

/// Epochs from 1: values grow from epoch to epoch, and 100 of them belong to an epoch.
pub(crate) fn scenario(seed: u64, deletes: bool) -> Vec<EpochRows> {
    let mut random = Random(seed);
    let epoch = |epoch: u64| {
        let mut rows = EpochRows::new();
        for key in 0..KEYS {
            let value = i64::try_from(epoch * 100 + random.below(100)).unwrap();
            match random.below(5) {
                0 | 1 => drop(rows.insert(format!("key-{key}"), Some((value, -value)))),
                2 if deletes => drop(rows.insert(format!("key-{key}"), None)),
                _ => {}
            }
        }
        rows
    };
    (1..=EPOCHS).map(epoch).collect()
}

/// What each key holds in the end.
pub(crate) fn last_values(epochs: &[EpochRows]) -> EpochRows {
    let mut last = EpochRows::new();
    for rows in epochs {
        last.extend(rows.iter().map(|(k, v)| (k.clone(), *v)));
    }
    last
}

/// When a process is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kill {
    /// At any moment: calls that are on their way then may be applied later.
    Anywhere,
    /// When none of its calls is on its way.
    AtRest,
}

/// Writes all epochs by processes that are killed again and again, each of which starts over at some earlier epoch.
async fn run_with_kills(target: &Target, spec: &TableSpec, job: &str, epochs: &[EpochRows], seed: u64) {
    run_and_kill(target, spec, job, epochs, seed, Kill::Anywhere).await;
}

async fn run_and_kill(target: &Target, spec: &TableSpec, job: &str, epochs: &[EpochRows], seed: u64, kill: Kill) {
    let mut random = Random(seed ^ 0xDEAD);
    let (mut reached, mut kills) = (0, random.below(6));
    loop {
        let connectors = connectors_of(job, Arc::new(Hurried::default()));
        let mut sink = connectors.sink(spec, "dynamodb").unwrap();
        // Any suffix: a checkpoint may be as old as it likes. (At rest, none is newer than where the last process ended:
        // where nothing guards a table, half a replay leaves old values behind.)
        let mut next = random.below(reached + 1);
        let patience = if kills > 0 { 1 + random.below(60) as usize } else { usize::MAX };
        let deadline = target.running.calls.lock().unwrap().len().saturating_add(patience);
        let past = || target.running.calls.lock().unwrap().len() >= deadline;
        let life = async {
            sink.open().await.unwrap();
            while next < epochs.len() as u64 && !(kill == Kill::AtRest && past()) {
                let changes = changes(&spec.schema, &epochs[next as usize]);
                let outcome = write_epoch(sink.as_mut() as &mut dyn Sink, next + 1, changes).await.unwrap();
                assert_eq!(reasons(&outcome), [""; 0]);
                next += 1;
                reached = if kill == Kill::AtRest { next } else { reached.max(next) };
            }
        };
        let killed = async {
            while kill == Kill::AtRest || !past() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = life => if kills == 0 { break },
            () = killed => {}
        }
        kills = kills.saturating_sub(1);
    }
}

fn number(item: &Item, name: &str) -> Option<i64> {
    item.get(name).map(|value: &Value| value["N"].as_str().unwrap().parse().unwrap())
}

/// The hidden version attribute, whatever its group.
fn version(item: &Item) -> Option<i64> {
    item.keys().find(|name| name.starts_with("tm_epoch")).and_then(|name| number(item, name))
}

fn key(item: &Item) -> &str {
    item["k"]["S"].as_str().unwrap()
}

/// Checks each state of an item against the ones before it.
fn never_goes_back(states: &[Item], seed: u64) {
    let mut versions = std::collections::BTreeMap::new();
    for item in states {
        let now = version(item).expect("a version");
        let before = versions.insert(key(item).to_owned(), now).unwrap_or(0);
        assert!(now >= before, "seed {seed}: {} went from version {before} to {now}", key(item));
        if let Some(a) = number(item, "a") {
            assert_eq!(a / 100, now, "seed {seed}: the value of another epoch than the version's");
            assert_eq!(number(item, "b"), Some(-a), "seed {seed}: half of a write");
        }
    }
}

async fn same_table(target: &Target, expected: &EpochRows, seed: u64) {
    let items = target.items().await;
    assert_eq!(items.len(), expected.len(), "seed {seed}");
    for item in items {
        let values = number(&item, "a").map(|a| (a, number(&item, "b").unwrap()));
        assert_eq!(values, expected[key(&item)], "seed {seed}: {}", key(&item));
    }
}

/// One case: `options` choose the mode.
pub(crate) async fn case(target: &Target, options: &[(&str, &str)], seed: u64) {
    target.empty().await;
    target.running.follow(stormy(seed, &FAULTS));
    let epochs = scenario(seed, true);
    let spec = target.spec("t", &columns("a", "b"), options);
    let (states, ()) = target.watched(run_with_kills(target, &spec, "job", &epochs, seed)).await;
    target.running.raise_all().await;
    never_goes_back(&states, seed);
    same_table(target, &last_values(&epochs), seed).await;
}

/// Two workers of one job at the same time, each of which believes that the other is dead.
pub(crate) async fn two_workers(target: &Target, options: &[(&str, &str)], seed: u64) {
    target.empty().await;
    target.running.follow(stormy(seed, &FAULTS));
    let epochs = scenario(seed, true);
    let spec = target.spec("t", &columns("a", "b"), options);
    let both = async {
        tokio::join!(
            run_with_kills(target, &spec, "job", &epochs, seed),
            run_with_kills(target, &spec, "job", &epochs, seed + 1_000)
        );
    };
    let (states, ()) = target.watched(both).await;
    target.running.raise_all().await;
    let last = last_values(&epochs);
    if options.contains(&("sink.write-mode", "add")) {
        for item in target.items().await {
            let expected = last[key(&item)].map_or(0, |v| v.0);
            assert_eq!(number(&item, "a"), Some(expected), "seed {seed}: {}", key(&item));
        }
    } else {
        never_goes_back(&states, seed);
        same_table(target, &last, seed).await;
    }
}

/// Two INSERTs of a job write different attributes of the same items.
pub(crate) async fn shared_items(target: &Target, seed: u64) {
    target.empty().await;
    target.running.follow(stormy(seed, &FAULTS));
    let (one, other) = (scenario(seed, true), scenario(seed + 1_000, true));
    let (first, second) = (target.spec("t", &columns("a", "b"), &[]), target.spec("t", &columns("c", "d"), &[]));
    tokio::join!(
        run_with_kills(target, &first, "job", &one, seed),
        run_with_kills(target, &second, "job", &other, seed + 1_000)
    );
    target.running.raise_all().await;
    let (one, other) = (last_values(&one), last_values(&other));
    for item in target.items().await {
        let of = |a: &str, b: &str| number(&item, a).map(|v| (v, number(&item, b).unwrap()));
        assert_eq!(of("a", "b"), one.get(key(&item)).copied().flatten(), "seed {seed}");
        assert_eq!(of("c", "d"), other.get(key(&item)).copied().flatten(), "seed {seed}");
    }
}

/// Two jobs add to the same sums.
pub(crate) async fn sums(target: &Target, deletes: bool, seed: u64) {
    target.empty().await;
    target.running.follow(stormy(seed, &FAULTS));
    let (one, other) = (scenario(seed, deletes), scenario(seed + 1_000, deletes));
    let spec = target.spec("t", &columns("a", "b"), &[("sink.write-mode", "add")]);
    let both = async {
        tokio::join!(
            run_with_kills(target, &spec, "job-1", &one, seed),
            run_with_kills(target, &spec, "job-2", &other, seed + 1_000)
        );
    };
    let (states, ()) = target.watched(both).await;
    target.running.raise_all().await;
    if !deletes {
        let mut largest = std::collections::BTreeMap::new();
        for item in &states {
            let (now, least) = (number(item, "a").unwrap_or(0), number(item, "b").unwrap_or(0));
            let before = largest.insert(key(item).to_owned(), now).unwrap_or(0);
            assert!(now >= before && least == -now, "seed {seed}: {} went from {before} to {now}", key(item));
        }
    }
    let (one, other) = (last_values(&one), last_values(&other));
    let of = |rows: &EpochRows, key: &str| rows.get(key).copied().flatten().map_or(0, |v| v.0);
    for item in target.items().await {
        let expected = of(&one, key(&item)) + of(&other, key(&item));
        assert_eq!(number(&item, "a"), Some(expected), "seed {seed}: {}", key(&item));
        assert_eq!(number(&item, "b"), Some(-expected), "seed {seed}: {}", key(&item));
    }
}

/// Whole items without a condition: the table ends the same where no write comes after its time, from a connection that
/// was given up or from a process that was killed.
pub(crate) async fn batches(target: &Target, seed: u64) {
    const NEVER_LATE: [Fault; 6] = [
        Fault::Throttle,
        Fault::ServerError,
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::ServerErrorAfter,
        Fault::Partial,
    ];
    target.empty().await;
    target.running.follow(stormy(seed, &NEVER_LATE));
    let epochs = scenario(seed, true);
    let spec = target.spec("t", &columns("a", "b"), &[("sink.write-mode", "batch")]);
    run_and_kill(target, &spec, "job", &epochs, seed, Kill::AtRest).await;
    let mut expected = last_values(&epochs);
    expected.retain(|_, values| values.is_some());
    same_table(target, &expected, seed).await;
}

/// Cases on the stub; emulators, which are slower, take fewer.
fn cases() -> std::ops::Range<u64> {
    let chosen = std::env::var("TIDEMILL_CASES").ok().and_then(|n| n.parse().ok());
    0..chosen.unwrap_or(10)
}

#[tokio::test]
async fn updates_replay_to_the_same_table_and_never_go_back() {
    let target = Target::stub().await;
    for seed in cases() {
        case(&target, &[], seed).await;
    }
}

#[tokio::test]
async fn whole_items_replay_to_the_same_table_and_never_go_back() {
    let target = Target::stub().await;
    for seed in cases() {
        case(&target, &[("sink.write-mode", "put")], seed).await;
    }
}

#[tokio::test]
async fn two_workers_at_once_do_no_harm() {
    let target = Target::stub().await;
    for seed in cases() {
        for mode in ["update", "put", "add"] {
            two_workers(&target, &[("sink.write-mode", mode)], seed).await;
        }
    }
}

#[tokio::test]
async fn inserts_that_share_items_do_not_hinder_each_other() {
    let target = Target::stub().await;
    for seed in cases() {
        shared_items(&target, seed).await;
    }
}

#[tokio::test]
async fn sums_hold_each_jobs_contribution_once() {
    let target = Target::stub().await;
    for seed in cases() {
        sums(&target, seed % 2 == 0, seed).await;
    }
}

#[tokio::test]
async fn batches_end_the_same_without_late_writes() {
    let target = Target::stub().await;
    for seed in cases() {
        batches(&target, seed).await;
    }
}

/// The conditions are what keeps the promises: where the service does not heed them, the checks above must fail.
#[tokio::test]
async fn without_the_conditions_the_promises_are_broken() {
    let target = Arc::new(Target::stub().await);
    target.running.tables.blind.store(true, Ordering::SeqCst);
    for mode in ["update", "put", "add"] {
        let mut broken = 0;
        for seed in 0..10 {
            let target = Arc::clone(&target);
            let check = async move {
                match mode {
                    "add" => sums(&target, true, seed).await,
                    _ => case(&target, &[("sink.write-mode", mode)], seed).await,
                }
            };
            broken += usize::from(tokio::spawn(check).await.is_err());
        }
        assert!(broken > 0, "{mode}: nothing is noticed");
    }
}
