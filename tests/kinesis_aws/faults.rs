//! Throttling, broken answers, quotas, quiet streams.

use std::time::Duration;

use tidemill::contracts::StartPosition::TrimHorizon;
use tidemill::contracts::{Clock, SystemClock};

use crate::aws_stub::{AwsStub, Fault};
use crate::feed::{Feed, assert_complete};
use crate::in_both_ways;
use crate::run::{Job, Way};

in_both_ways!(
    throttled_for_minutes,
    everything_fails_now_and_then,
    calls_without_an_answer,
    no_permission,
    no_such_stream,
    quiet_streams_cost_little
);

const S: &str = "s";

pub(crate) async fn pause(ms: u64) {
    SystemClock::new().sleep(Duration::from_millis(ms)).await;
}

async fn stub(shards: usize) -> (AwsStub, Feed) {
    let stub = AwsStub::start().await;
    stub.create(S, shards);
    let feed = Feed::new(&stub, S, 23);
    (stub, feed)
}

/// risingwave#7453: throttling that lasts hung the reader; others gave up. Six minutes of it, on a clock that is sixty times
/// as fast.
async fn throttled_for_minutes(way: Way) {
    const SPEED: u32 = 60;
    let (stub, mut feed) = stub(2).await;
    feed.put(200);
    {
        let mut state = stub.state();
        // The stub's own clock is not hurried.
        state.quotas = false;
        state.subscription_gap = Duration::from_secs(5) / SPEED;
    }
    let throttled = Fault::Error(400, "ProvisionedThroughputExceededException");
    let began = SystemClock::new();
    for operation in ["GetRecords", "GetShardIterator", "SubscribeToShard"] {
        stub.fail_for(operation, Duration::from_secs(6), throttled.clone());
    }
    stub.fail("ListShards", 3, Fault::Error(400, "LimitExceededException"));
    let mut job = Job::new(&stub, way, S, &[]);
    job.hurry(SPEED);
    let seen = job.run(TrimHorizon, |s| s.records.len() >= 200 && s.all_idle()).await.unwrap();
    assert_complete(&feed, &seen.records);
    assert!(began.elapsed() >= Duration::from_secs(6));
    // Pauses grow to 10 s, 5 on average: some 72 for each shard in six minutes, not 1,800 at one each 200 ms.
    let calls = stub.calls("GetShardIterator") + stub.calls("SubscribeToShard");
    // (Fewer on a machine that stands still meanwhile; by one a minute they would be 12.)
    assert!((20..400).contains(&calls), "{calls} calls");
}

async fn everything_fails_now_and_then(way: Way) {
    let (stub, mut feed) = stub(2).await;
    feed.put(500);
    let server = Fault::Error(500, "InternalFailure");
    for operation in ["DescribeStreamSummary", "ListShards", "GetShardIterator", "RegisterStreamConsumer"] {
        stub.fail(operation, 1, server.clone());
        stub.fail(operation, 1, Fault::CutAnswer);
        stub.fail(operation, 1, Fault::Closed);
    }
    for fault in [server, Fault::CutAnswer, Fault::Closed, Fault::Error(503, "ServiceUnavailable")] {
        stub.fail("GetRecords", 1, fault);
    }
    let seen = Job::new(&stub, way, S, &[("source.shard.get-records.max-record-count", "60")])
        .run(TrimHorizon, |s| s.records.len() >= 500 && s.all_idle())
        .await
        .unwrap();
    assert_complete(&feed, &seen.records);
}

/// Calls that are never answered, or only by half, on connections that stay: each is given up after 30 s, and made again.
async fn calls_without_an_answer(way: Way) {
    let cases = match way {
        Way::Polling => [
            ("ListShards", Fault::Silence),
            ("GetShardIterator", Fault::Silence),
            ("GetRecords", Fault::Silence),
            ("GetRecords", Fault::Stall),
        ],
        Way::FanOut => [
            ("DescribeStreamConsumer", Fault::Silence),
            ("SubscribeToShard", Fault::Silence),
            ("event", Fault::Silence),
            ("event", Fault::Stall),
        ],
    };
    let runs = cases.map(|(operation, fault)| async move {
        let (stub, mut feed) = stub(1).await;
        feed.put(50);
        stub.fail(operation, 1, fault);
        let mut job = Job::new(&stub, way, S, &[]);
        let seen = job.run(TrimHorizon, |s| s.records.len() >= 50 && s.all_idle()).await.unwrap();
        assert_complete(&feed, &seen.records);
        assert_eq!(stub.faults_left(), 0, "{operation}");
    });
    futures::future::join_all(runs).await;
}

/// The answer to a subscription has begun, and its first event never comes: the client itself would wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_does_not_begin_is_given_up() {
    let (stub, mut feed) = stub(1).await;
    feed.put(50);
    {
        let mut state = stub.state();
        (state.heartbeat, state.subscription_gap) = (Duration::from_millis(50), Duration::ZERO);
    }
    stub.fail("initial-response", 1, Fault::Silence);
    let mut job = Job::new(&stub, Way::FanOut, S, &[]);
    job.hurry(30);
    let seen = job.run(TrimHorizon, |s| s.records.len() >= 50 && s.all_idle()).await.unwrap();
    assert_complete(&feed, &seen.records);
    assert_eq!(stub.faults_left(), 0);
}

/// What no repetition mends ends the job, with what to do.
async fn no_permission(way: Way) {
    let (stub, mut feed) = stub(1).await;
    feed.put(1);
    let operation = if way == Way::Polling { "GetShardIterator" } else { "SubscribeToShard" };
    stub.fail(operation, 1, Fault::Error(400, "AccessDeniedException"));
    let error = Job::new(&stub, way, S, &[]).run(TrimHorizon, |_| false).await.unwrap_err().to_string();
    for part in ["shardId-000000000000", &format!("allow the action 'kinesis:{operation}'"), "stub-1"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// Else new shards would never be read, and nobody would know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_task_that_lists_shards_is_told() {
    let (stub, _feed) = stub(1).await;
    let job = Job::new(&stub, Way::Polling, S, &[("source.shard.discovery.interval", "100 ms")]);
    let source = job.source().unwrap();
    source.begin(TrimHorizon, None).await.unwrap();
    source.splits().await.unwrap();
    // No pause can be divided by it.
    job.hurry(0);
    for _ in 0..200 {
        if let Err(error) = source.splits().await {
            assert_eq!(error.kind(), tidemill::contracts::ErrorKind::Internal, "{error}");
            assert!(error.to_string().contains("the task that lists the shards of stream 's' died: "), "{error}");
            return;
        }
        pause(50).await;
    }
    panic!("nobody hears of it");
}

async fn no_such_stream(way: Way) {
    let stub = AwsStub::start().await;
    let error = Job::new(&stub, way, "nowhere", &[]).run(TrimHorizon, |_| false).await.unwrap_err().to_string();
    assert!(error.contains("'nowhere'") && error.contains("check its name"), "{error}");
}

/// FLINK-36947, spring-cloud-stream#2611: an idle stream cost hundreds of calls a second, or 300 dollars a month.
async fn quiet_streams_cost_little(way: Way) {
    let (stub, mut feed) = stub(2).await;
    feed.put(10);
    let mut job = Job::new(&stub, way, S, &[("source.shard.discovery.interval", "10 s")]);
    let start = SystemClock::new();
    job.run(TrimHorizon, |s| s.all_idle() && start.elapsed() > Duration::from_secs(8)).await.unwrap();
    let calls: u64 = ["GetRecords", "GetShardIterator", "SubscribeToShard", "ListShards", "DescribeStreamSummary"]
        .iter()
        .map(|operation| stub.calls(operation))
        .sum();
    // Polling: 2 shards × (8 calls, one a second, and 3 on the way there), and 5 at the start. Fan-out: nothing but those. A machine that
    // stands still takes longer, and new shards are looked for each 10 s.
    let seconds = start.elapsed().as_secs();
    let most = if way == Way::Polling { 2 * (seconds + 3) + 5 } else { 6 } + seconds / 10;
    assert!(calls <= most, "{calls} calls");
}

/// telegraf#19509: a new iterator must begin after the last record seen, not after the last one that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_iterators_go_on_after_the_last_record_seen() {
    let (stub, mut feed) = stub(1).await;
    feed.put(100);
    let producer = {
        let stub = stub.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                // Each time, one that is in use has expired.
                let before = stub.calls("GetShardIterator").max(1);
                while stub.calls("GetShardIterator") < before {
                    pause(20).await;
                }
                stub.state().generation += 1;
                feed.put(20);
                while stub.calls("GetShardIterator") == before {
                    pause(20).await;
                }
            }
            feed
        })
    };
    let mut job = Job::new(&stub, Way::Polling, S, &[("source.shard.get-records.max-record-count", "7")]);
    let seen = job.run(TrimHorizon, |s| s.records.len() >= 200 && s.all_idle()).await.unwrap();
    assert_complete(&producer.await.unwrap(), &seen.records);
    assert!(stub.calls("GetShardIterator") >= 4);
}

/// boto3#1301: long runs of empty answers come before data. materialize#2288: an answer that is "0 ms behind" has records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_answers_are_not_the_end_and_nothing_behind_is_not_nothing() {
    let (stub, mut feed) = stub(1).await;
    feed.put(10);
    stub.with(S, |s| s.shards.values_mut().for_each(|s| s.empty_answers = 12));
    let mut job = Job::new(&stub, Way::Polling, S, &[]);
    let mut got = job.run(TrimHorizon, |s| s.all_idle()).await.unwrap().records;
    assert_eq!(got.len(), 10);
    feed.put(10);
    stub.with(S, |s| s.shards.values_mut().for_each(|s| s.behind_ms = Some(0)));
    got.extend(job.run(TrimHorizon, |s| s.all_idle()).await.unwrap().records);
    assert_complete(&feed, &got);
}

/// spark-sql-kinesis-connector#49, druid#11005: "behind" that never falls on a stream without records is no lag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_for_ever_on_a_quiet_stream_is_caught_up() {
    let (stub, mut feed) = stub(1).await;
    feed.put(10);
    stub.with(S, |s| s.shards.values_mut().for_each(|s| s.behind_ms = Some(3_600_000)));
    let mut job = Job::new(&stub, Way::Polling, S, &[]);
    let seen = job.run(TrimHorizon, |s| s.all_idle()).await.unwrap();
    assert_complete(&feed, &seen.records);
    assert_eq!(seen.behind["shardId-000000000000"], Some(0));
}

/// pinot#9863: five reads and 2 MB a second and shard. 12 MB in large records: an answer of up to 10 MB is paid for with 5 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_of_a_shard_are_kept() {
    let stub = AwsStub::start().await;
    stub.create(S, 1);
    let large = "x".repeat(100_000);
    for _ in 0..80 {
        stub.put(S, "k", &large);
    }
    let began = SystemClock::new();
    let mut job = Job::new(&stub, Way::Polling, S, &[]);
    let seen = job.run(TrimHorizon, |s| s.records.len() >= 80).await.unwrap();
    assert!(seen.records.iter().all(|r| r.data.len() == 100_000));
    assert_eq!(stub.state().violations, 0);
    // 8 MB at 2 MB/s, of which the last answer's share is not waited for; and no slower than need be (5 s after each answer would be 20),
    // but for a machine that stands still.
    let took = began.elapsed();
    assert!(took > Duration::from_millis(2_500) && took < Duration::from_secs(16), "{took:?}");
}
