//! What only enhanced fan-out does.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tidemill::contracts::StartPosition::TrimHorizon;
use tidemill::contracts::{Clock, Fetch, SystemClock};

use crate::aws_stub::kinesis::StubStream;
use crate::aws_stub::{AwsStub, Fault};
use crate::feed::{Feed, assert_complete};
use crate::run::{Job, Seen, Way};

const S: &str = "s";

async fn stub(shards: usize) -> (AwsStub, Feed) {
    let stub = AwsStub::start().await;
    stub.create(S, shards);
    let feed = Feed::new(&stub, S, 23);
    (stub, feed)
}

/// A subscription ends after five minutes (here 400 ms); the next one goes on behind the last record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_end_after_five_minutes() {
    let (stub, mut feed) = stub(1).await;
    stub.state().subscription = Duration::from_millis(400);
    feed.put(150);
    let producer = {
        let (stub, mut feed) = (stub.clone(), feed);
        tokio::spawn(async move {
            for number in 0..10 {
                // However slow the machine is, the last ones come when the first subscription has ended.
                while number == 9 && stub.calls("SubscribeToShard") < 2 {
                    crate::faults::pause(20).await;
                }
                crate::faults::pause(150).await;
                feed.put(15);
            }
            feed
        })
    };
    let mut job = Job::new(&stub, Way::FanOut, S, &[]);
    let seen = job.run(TrimHorizon, |s| s.records.len() >= 300).await.unwrap();
    assert_complete(&producer.await.unwrap(), &seen.records);
    assert!(stub.calls("SubscribeToShard") >= 2);
    // The service refuses a second one within 5 s; ours does not even ask.
    assert_eq!(stub.calls("SubscribeToShard"), stub.with(S, |s| s.starts.len()) as u64);
}

/// Exceptions within the stream, a frame with a wrong checksum, a cut connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_within_a_subscription() {
    for fault in [
        Fault::Exception("InternalFailureException"),
        Fault::Exception("KMSThrottlingException"),
        Fault::BadFrame,
        Fault::CutStream,
    ] {
        let (stub, mut feed) = stub(1).await;
        feed.put(250);
        // The first event goes through, the second does not.
        stub.fail("event", 1, fault);
        let mut job = Job::new(&stub, Way::FanOut, S, &[]);
        let seen = job.run(TrimHorizon, |s| s.records.len() >= 250 && s.all_idle()).await.unwrap();
        assert_complete(&feed, &seen.records);
        assert_eq!(stub.faults_left(), 0);
    }
}

/// An exception that no repetition mends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_disabled_ends_the_job() {
    let (stub, mut feed) = stub(1).await;
    feed.put(1);
    stub.fail("event", 1, Fault::Exception("KMSDisabledException"));
    let error = Job::new(&stub, Way::FanOut, S, &[]).run(TrimHorizon, |_| false).await.unwrap_err().to_string();
    assert!(error.contains("KMSDisabledException") && error.contains("SubscribeToShard"), "{error}");
}

/// FLINK-39540, FLINK-38814: a job that is restarted at once finds its consumer being deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_against_a_consumer_that_is_being_deleted() {
    let (stub, mut feed) = stub(1).await;
    feed.put(10);
    let mut job = Job::new(&stub, Way::FanOut, S, &[]);
    let mut got = job.run(TrimHorizon, |s| s.records.len() >= 5).await.unwrap().records;
    assert!(stub.with(S, |s| s.consumers[0].deleting_until.is_some()), "what the job registered it removes");
    got.extend(job.run(TrimHorizon, |s| s.records.len() >= 5).await.unwrap().records);
    assert_complete(&feed, &got);
    assert_eq!(stub.calls("RegisterStreamConsumer"), 2);
}

/// A run that hands over leaves its consumer to the next one, which need not wait until AWS has removed it and made it again. Who goes
/// on last removes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_is_handed_over() {
    let (stub, mut feed) = stub(1).await;
    feed.put(15);
    let mut job = Job::new(&stub, Way::FanOut, S, &[]);
    let mut got = Vec::new();
    for is_handed_over in [true, true, false] {
        job.is_handed_over = is_handed_over;
        stub.with(S, |s| s.subscriptions.clear());
        got.extend(job.run(TrimHorizon, |s| s.records.len() >= 5).await.unwrap().records);
        assert_eq!(stub.with(S, |s| s.consumers[0].deleting_until.is_none()), is_handed_over);
    }
    assert_complete(&feed, &got);
    assert_eq!(stub.calls("RegisterStreamConsumer"), 1);
}

/// Somebody removes the consumer while the job reads: another job of the same name at its end, say. What comes after is not lost,
/// whatever is to be done about records that have aged out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_somebody_removes_is_registered_again() {
    for expired in ["oldest", "fail"] {
        let (stub, mut feed) = stub(2).await;
        feed.put(40);
        let feed = RefCell::new(feed);
        let removed = Cell::new(0);
        let mut job = Job::new(&stub, Way::FanOut, S, &[("source.on-expired-position", expired)]);
        let done = |seen: &Seen| {
            if removed.get() < 2 && seen.records.len() == feed.borrow().total() {
                removed.set(removed.get() + 1);
                let active =
                    |s: &StubStream| s.consumers.iter().find(|c| c.deleting_until.is_none()).map(|c| c.arn.clone());
                assert!(stub.with(S, |s| s.deregister(&active(s).expect("a consumer"))));
                feed.borrow_mut().put(30);
            }
            seen.records.len() >= 100
        };
        let seen = job.run(TrimHorizon, done).await.unwrap();
        assert_complete(&feed.borrow(), &seen.records);
        assert!(seen.finished.is_empty(), "{expired}: {:?}", seen.finished);
        assert_eq!(stub.calls("RegisterStreamConsumer"), 3);
        assert!(
            stub.with(S, |s| s.consumers.iter().all(|c| c.deleting_until.is_some())),
            "what it registered it removes"
        );
    }
}

/// The service says that it does not find a shard which it lists all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_listed_is_not_gone() {
    for way in [Way::FanOut, Way::Polling] {
        let (stub, mut feed) = stub(1).await;
        feed.put(20);
        for call in ["SubscribeToShard", "GetShardIterator"] {
            stub.fail(call, 2, Fault::Error(400, "ResourceNotFoundException"));
        }
        stub.state().subscription_gap = Duration::ZERO;
        let mut job = Job::new(&stub, way, S, &[("source.on-expired-position", "oldest")]);
        let seen = job.run(TrimHorizon, |s| s.records.len() >= 20 || !s.finished.is_empty()).await.unwrap();
        assert_complete(&feed, &seen.records);
        assert_eq!(stub.faults_left(), 2);
    }
}

/// A consumer that was there before stays, and `SELF_MANAGED` never makes one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_of_somebody_else_stays() {
    let (stub, mut feed) = stub(1).await;
    feed.put(10);
    let own = [("source.efo.lifecycle", "SELF_MANAGED")];
    let error = Job::new(&stub, Way::FanOut, S, &own).run(TrimHorizon, |_| false).await.unwrap_err().to_string();
    assert!(error.contains("no consumer 'tidemill-test'"), "{error}");
    stub.with(S, |s| {
        s.consumers.push(crate::aws_stub::kinesis::StubConsumer {
            name: "tidemill-test".to_owned(),
            arn: format!("{}/consumer/tidemill-test:1", s.arn),
            created_ms: 0,
            deleting_until: None,
        });
    });
    for options in [&own[..], &[]] {
        stub.with(S, |s| s.subscriptions.clear());
        Job::new(&stub, Way::FanOut, S, options).run(TrimHorizon, |s| s.records.len() >= 10).await.unwrap();
        assert!(stub.with(S, |s| s.consumers[0].deleting_until.is_none()));
    }
    assert_eq!(stub.calls("RegisterStreamConsumer"), 0);
}

/// FLINK-37908: another subscription of the same consumer (ours of before a crash) is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_of_before_a_crash_is_waited_for() {
    let (stub, mut feed) = stub(1).await;
    feed.put(10);
    let clock = SystemClock::new();
    stub.fail_for("SubscribeToShard", Duration::from_secs(3), Fault::Error(400, "ResourceInUseException"));
    let seen = Job::new(&stub, Way::FanOut, S, &[]).run(TrimHorizon, |s| s.records.len() >= 10).await.unwrap();
    assert_complete(&feed, &seen.records);
    assert!(clock.elapsed() > Duration::from_secs(3));
}

/// A shard that was closed and drained before the job began, which no emulator gets right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_was_closed_long_ago() {
    let (stub, mut feed) = stub(2).await;
    stub.merge(S, "shardId-000000000000", "shardId-000000000001");
    feed.put(20);
    let options = [("scan.stream.recordpublisher", "EFO"), ("scan.stream.efo.consumername", "older-spelling")];
    let mut job = Job::new(&stub, Way::Polling, S, &options);
    let seen = job.run(TrimHorizon, |s| s.records.len() >= 20 && s.all_idle()).await.unwrap();
    assert_complete(&feed, &seen.records);
    assert_eq!(seen.finished.len(), 2);
    assert_eq!(stub.calls("GetRecords"), 0);
}

/// Heartbeats that lie in the connection while nobody reads say nothing about what has come behind them, and a record that lies there was not
/// read up to when it is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_of_before_are_no_news() {
    let (stub, mut feed) = stub(1).await;
    let source = Job::new(&stub, Way::FanOut, S, &[]).source().unwrap();
    source.begin(TrimHorizon, None).await.unwrap();
    let shard = source.splits().await.unwrap().remove(0);
    let mut reader = source.open(&shard, None, TrimHorizon).await.unwrap();
    assert!(matches!(reader.next().await.unwrap(), Fetch::CaughtUp));
    // Some heartbeats, and then a record, which has time to come.
    crate::faults::pause(1_000).await;
    feed.put(1);
    let put_ms = stub.now_ms();
    crate::faults::pause(3_000).await;
    let next = reader.next().await.unwrap();
    assert!(matches!(next, Fetch::Records(_)), "{next:?}");
    let position = reader.position().unwrap();
    let until_ms: i64 = position.0.rsplit_once('@').unwrap().1.parse().unwrap();
    assert!(until_ms <= put_ms, "{position} was read up to {} ms after the record", until_ms - put_ms);
    source.end().await;
}
