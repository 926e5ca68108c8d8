//! Event time of a table under chance: splits that fall silent and cannot be asked, answers and records that come late, epochs of any length.
//!
//! A record's time is that of its arrival, so none may ever be late, whatever is read when. And when everything can be asked, time goes on.

use super::splits::tests::table;
use super::splits::{FeedSplits, Status};
use super::table_time::TableTime;
use crate::contracts::{SPLITMIX64_STEP, splitmix64};

const TIMEOUT_MS: i64 = 30_000;
const END_MS: i64 = 400_000;
/// From then on all goes well.
const CALM_MS: i64 = 300_000;

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: i64) -> i64 {
        self.0 = self.0.wrapping_add(SPLITMIX64_STEP);
        (splitmix64(self.0) % bound as u64) as i64
    }

    fn percent(&mut self, percent: i64) -> bool {
        self.below(100) < percent
    }
}

/// What a reader has on its way to the driver.
enum Answer {
    Records(Vec<i64>),
    /// There was nothing, at that time.
    Nothing(i64),
}

/// A split, its records, and its reader.
struct Shard {
    /// When records arrive; the next one last.
    arrivals: Vec<i64>,
    /// It cannot be asked before.
    reachable_ms: i64,
    asks_ms: i64,
    answer: Option<(i64, Answer)>,
}

impl Shard {
    fn new(chance: &mut Chance) -> Self {
        let (mut at, mut arrivals) = (0, Vec::new());
        while at < END_MS {
            // Often, rarely, or not for long.
            let most = [500, 5_000, 90_000][chance.below(3) as usize];
            at += 1 + chance.below(most);
            arrivals.push(at);
        }
        arrivals.reverse();
        Self { arrivals, reachable_ms: 0, asks_ms: chance.below(1_000), answer: None }
    }

    /// Looks, when it is time to, and answers some time later.
    fn turn(&mut self, split: usize, now_ms: i64, feed: &FeedSplits, chance: &mut Chance) {
        let calm = now_ms >= CALM_MS;
        if !calm && chance.below(8_000) == 0 {
            self.reachable_ms = now_ms + chance.below(90_000);
        }
        let reachable_ms = if calm { 0 } else { self.reachable_ms };
        if self.answer.is_some() || now_ms < self.asks_ms.max(reachable_ms) {
            return;
        }
        let behind = self.arrivals.len() - self.arrivals.iter().rev().take_while(|at| **at <= now_ms).count().min(20);
        let mut records = self.arrivals.split_off(behind);
        records.reverse();
        let late = if !calm && chance.percent(3) { chance.below(60_000) } else { chance.below(300) };
        let answer = if records.is_empty() { Answer::Nothing(now_ms) } else { Answer::Records(records) };
        if matches!(answer, Answer::Records(_)) {
            // As soon as they are there; what is on the network is not known to be.
            feed.list[split].idleness.pending().add();
        }
        self.answer = Some((now_ms + late, answer));
        self.asks_ms = now_ms + late + 200 + chance.below(800);
    }
}

fn run(seed: u64) -> (i64, Vec<String>) {
    let mut chance = Chance(seed);
    let splits = 2 + chance.below(3) as usize;
    let (mut time, mut feed): (TableTime, FeedSplits) = table(&vec![(Status::Reading, i64::MIN, 0); splits]);
    time.idle_timeout_ms = Some(TIMEOUT_MS);
    let mut shards: Vec<Shard> = (0..splits).map(|_| Shard::new(&mut chance)).collect();
    let (mut late, mut epoch_ends) = (Vec::new(), 500);
    for now_ms in (0..END_MS).step_by(50) {
        for (split, shard) in shards.iter_mut().enumerate() {
            shard.turn(split, now_ms, &feed, &mut chance);
            let Some((_, answer)) = shard.answer.take_if(|(due, _)| *due <= now_ms) else { continue };
            match answer {
                Answer::Records(records) => {
                    let behind = records.iter().filter(|at| **at < time.floor);
                    late.extend(behind.map(|at| format!("{at} of {split} at {now_ms}, floor {}", time.floor)));
                    let newest = records.into_iter().max().unwrap_or(i64::MIN);
                    time.watermarks[split] = time.watermarks[split].max(newest);
                    feed.list[split].status = Status::Reading;
                    feed.list[split].idleness.data(now_ms);
                }
                Answer::Nothing(at_ms) => {
                    feed.list[split].status = Status::CaughtUp;
                    feed.list[split].idleness.nothing(at_ms);
                }
            }
        }
        if now_ms >= epoch_ends {
            let before = time.reported;
            assert!(time.advance(&feed.list, now_ms) >= before, "time goes back");
            let long = chance.percent(2) && now_ms < CALM_MS;
            epoch_ends = now_ms + if long { chance.below(50_000) } else { 500 };
        }
    }
    (time.reported.0, late)
}

#[test]
fn no_record_is_late_because_of_when_it_is_read() {
    let mut stood = 0;
    for seed in 0..2_000 {
        let (reported, late) = run(seed);
        assert!(late.is_empty(), "seed {seed}: {late:?}");
        // Within a timeout and an epoch.
        stood += usize::from(reported < END_MS - TIMEOUT_MS - 5_000);
    }
    assert_eq!(stood, 0, "time stood still in so many of 2,000");
}
