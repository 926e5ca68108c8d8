//! Schedules by chance: records, splits, merges, faults, expired iterators and restarts in any order, from a seed that is
//! printed. Whatever happens, each record comes once and those of a key in order.
//!
//! `TIDEMILL_SEED=17 cargo test --test kinesis_aws random` plays one seed again.

use std::time::Duration;

use tidemill::contracts::StartPosition::TrimHorizon;

use crate::aws_stub::{AwsStub, Fault};
use crate::feed::{Feed, assert_complete};
use crate::in_both_ways;
use crate::run::{Job, Way};

const S: &str = "s";
const SEEDS: u64 = 10;

struct Dice(u64);

impl Dice {
    /// Below `sides`.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// How much faster the program's pauses pass by fan-out: there are 5 s between two subscriptions of a shard.
const SPEED: u32 = 50;

/// A call, or a subscription, that goes wrong.
fn fail(stub: &AwsStub, way: Way, dice: &mut Dice) {
    let server = Fault::Error(500, "InternalFailure");
    let (operation, faults) = match (way, dice.roll(3)) {
        (_, 0) => ("ListShards", vec![server, Fault::Error(400, "LimitExceededException")]),
        (Way::Polling, _) => {
            let throttled = Fault::Error(400, "ProvisionedThroughputExceededException");
            let expired = Fault::Error(400, "ExpiredIteratorException");
            ("GetRecords", vec![server, throttled, expired, Fault::Closed, Fault::CutAnswer])
        }
        (Way::FanOut, 1) => {
            ("SubscribeToShard", vec![server, Fault::Error(400, "LimitExceededException"), Fault::Closed])
        }
        (Way::FanOut, _) => {
            ("event", vec![Fault::Exception("InternalFailureException"), Fault::BadFrame, Fault::CutStream])
        }
    };
    let fault = faults[dice.roll(faults.len())].clone();
    stub.fail(operation, 1 + dice.roll(2), fault);
}

/// One thing that happens to the stream.
fn happen(stub: &AwsStub, way: Way, feed: &mut Feed, dice: &mut Dice) {
    match dice.roll(10) {
        0 | 1 => {
            let open = stub.with(S, |s| s.open_shards());
            if open.len() < 12 {
                stub.split(S, &open[dice.roll(open.len())]);
            }
        }
        2 | 3 => {
            let mut open: Vec<_> = stub.with(S, |s| {
                let open = s.shards.values().filter(|s| s.closed.is_none());
                open.map(|s| (s.first_hash, s.id.clone())).collect()
            });
            open.sort();
            if open.len() > 1 {
                let at = dice.roll(open.len() - 1);
                stub.merge(S, &open[at].1, &open[at + 1].1);
            }
        }
        4 => fail(stub, way, dice),
        5 => stub.state().generation += 1,
        6 => {
            let hides = dice.roll(2) == 0;
            let page = 1 + dice.roll(5);
            let mut state = stub.state();
            state.hides_children = hides;
            state.page = page;
        }
        _ => feed.put(5 + dice.roll(40)),
    }
}

async fn play(way: Way, seed: u64) {
    let mut dice = Dice(seed);
    let stub = AwsStub::start().await;
    stub.create(S, 1 + dice.roll(4));
    {
        let mut state = stub.state();
        state.quotas = false;
        state.subscription_gap = Duration::from_secs(5) / SPEED;
        state.heartbeat = Duration::from_millis(20);
        // Some end by themselves.
        state.subscription = Duration::from_millis(400);
    }
    let mut feed = Feed::new(&stub, S, 17);
    let options = [
        ("source.shard.get-records.interval", "1 ms"),
        ("source.shard.get-records.idle-interval", "20 ms"),
        ("source.shard.discovery.interval", "100 ms"),
        ("source.shard.get-records.max-record-count", "9"),
    ];
    let mut job = Job::new(&stub, way, S, &options);
    if way == Way::FanOut {
        job.hurry(SPEED);
    }
    let mut got = Vec::new();
    for _ in 0..4 {
        for _ in 0..dice.roll(8) {
            happen(&stub, way, &mut feed, &mut dice);
        }
        // At least so many come while the run goes on.
        feed.put(10);
        let wanted = 1 + dice.roll(feed.total() - got.len());
        let meanwhile = {
            let (stub, mut dice) = (stub.clone(), Dice(dice.0 ^ 0xabcd));
            tokio::spawn(async move {
                for _ in 0..10 {
                    happen(&stub, way, &mut feed, &mut dice);
                    crate::faults::pause(3).await;
                }
                feed
            })
        };
        got.extend(job.run(TrimHorizon, |s| s.records.len() >= wanted).await.unwrap().records);
        feed = meanwhile.await.unwrap();
    }
    let left = feed.total() - got.len();
    got.extend(job.run(TrimHorizon, |s| s.records.len() >= left && s.all_idle()).await.unwrap().records);
    assert_complete(&feed, &got);
}

in_both_ways!(any_schedule_gives_each_record_once_and_in_order);

async fn any_schedule_gives_each_record_once_and_in_order(way: Way) {
    let chosen = std::env::var("TIDEMILL_SEED").ok().and_then(|s| s.parse::<u64>().ok());
    for seed in chosen.map_or(0..SEEDS, |seed| seed..seed + 1) {
        eprintln!("TIDEMILL_SEED={seed}");
        play(way, seed).await;
    }
}
