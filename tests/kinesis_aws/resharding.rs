//! Splits, merges, and restarts around them.

use tidemill::contracts::StartPosition::{AtTimestamp, Latest, TrimHorizon};

use crate::aws_stub::AwsStub;
use crate::feed::{Feed, assert_complete, assert_from, mark};
use crate::in_both_ways;
use crate::run::{Job, Way};

in_both_ways!(
    everything_once_and_in_order,
    restart_in_the_midst_of_a_split,
    restart_in_the_midst_of_a_merge,
    resharded_twice_while_down,
    live_grandchild_of_expired_shards,
    children_never_before_their_parents,
    shard_end_is_remembered,
    ancestors_are_not_read,
    children_that_no_answer_names,
    resharding_while_running,
);

const S: &str = "s";

fn shard(number: usize) -> String {
    format!("shardId-{number:012}")
}

async fn stub(shards: usize) -> (AwsStub, Feed) {
    let stub = AwsStub::start().await;
    stub.create(S, shards);
    let feed = Feed::new(&stub, S, 23);
    (stub, feed)
}

/// Shards in several pages of ListShards: clients that drop the stream's name or keep it with the token fail here
/// (ministack, moto and floci#1900 do the opposite).
async fn everything_once_and_in_order(way: Way) {
    let (stub, mut feed) = stub(4).await;
    stub.state().page = 3;
    feed.put(1_000);
    let total = feed.total();
    let seen =
        Job::new(&stub, way, S, &[]).run(TrimHorizon, |s| s.records.len() >= total && s.all_idle()).await.unwrap();
    assert_complete(&feed, &seen.records);
    assert_eq!(seen.opened.len(), 4);
    assert_eq!(stub.state().violations, 0);
}

/// FLINK-37627: a job restarted while a split was under way lost the children.
async fn restart_in_the_midst_of_a_split(way: Way) {
    for stop_after in [10, 60, 100] {
        let (stub, mut feed) = stub(1).await;
        feed.put(100);
        stub.split(S, &shard(0));
        feed.put(100);
        let mut job = Job::new(&stub, way, S, &[]);
        let mut got = job.run(TrimHorizon, |s| s.records.len() >= stop_after).await.unwrap().records;
        assert_eq!(got.len(), stop_after);
        stub.with(S, |s| s.subscriptions.clear());
        let left = 200 - stop_after;
        got.extend(job.run(Latest, |s| s.records.len() >= left && s.all_idle()).await.unwrap().records);
        assert_complete(&feed, &got);
    }
}

/// The same for a merge; the child has two parents, of which one may be read and the other not.
async fn restart_in_the_midst_of_a_merge(way: Way) {
    for stop_after in [10, 95, 150] {
        let (stub, mut feed) = stub(2).await;
        feed.put(100);
        stub.merge(S, &shard(0), &shard(1));
        feed.put(100);
        let mut job = Job::new(&stub, way, S, &[]);
        let mut got = job.run(TrimHorizon, |s| s.records.len() >= stop_after).await.unwrap().records;
        stub.with(S, |s| s.subscriptions.clear());
        let left = 200 - stop_after;
        got.extend(job.run(Latest, |s| s.records.len() >= left && s.all_idle()).await.unwrap().records);
        assert_complete(&feed, &got);
    }
}

/// kinesis-sql#55: a stream that is resharded while the job is down. Here twice: split, and the halves merged and split.
async fn resharded_twice_while_down(way: Way) {
    let (stub, mut feed) = stub(2).await;
    feed.put(50);
    let mut job = Job::new(&stub, way, S, &[]);
    let mut got = job.run(TrimHorizon, |s| s.records.len() >= 50 && s.all_idle()).await.unwrap().records;
    feed.put(50);
    let (left, right) = stub.split(S, &shard(0));
    feed.put(50);
    let merged = stub.merge(S, &left, &right);
    feed.put(50);
    stub.split(S, &merged);
    feed.put(50);
    stub.with(S, |s| s.subscriptions.clear());
    got.extend(job.run(Latest, |s| s.records.len() >= 200 && s.all_idle()).await.unwrap().records);
    assert_complete(&feed, &got);
}

/// beam#20563: shards of the saved positions *and their children* have aged out, and a grandchild lives. By default the job
/// says what is lost; told to, it goes on with the grandchild from its oldest record.
async fn live_grandchild_of_expired_shards(way: Way) {
    for policy in ["fail", "oldest"] {
        let (stub, mut feed) = stub(1).await;
        feed.put(30);
        let mut job = Job::new(&stub, way, S, &[("source.on-expired-position", policy)]);
        job.run(TrimHorizon, |s| s.records.len() >= 20).await.unwrap();
        let (left, right) = stub.split(S, &shard(0));
        feed.put(30);
        let merged = stub.merge(S, &left, &right);
        job.hours_later(&stub, S, 30);
        assert_eq!(stub.with(S, |s| s.open_shards()).join(" "), merged);
        let from = mark(&feed);
        feed.put(40);
        let result = job.run(Latest, |s| s.records.len() >= 40 && s.all_idle()).await;
        if policy == "fail" {
            let error = result.unwrap_err().to_string();
            assert!(
                error.contains("is lost") && error.contains("5 h 59 min") || error.contains("6 h 0 min"),
                "{error}"
            );
            assert!(error.contains("source.on-expired-position"), "{error}");
            continue;
        }
        let seen = result.unwrap();
        assert_from(&feed, &from, &seen.records);
        assert_eq!(seen.opened.iter().map(|o| o.0.clone()).collect::<Vec<_>>(), [merged]);
    }
}

/// NiFi documents that it reads parents and children together; druid#8644 and pinot#15608 mixed their order.
async fn children_never_before_their_parents(way: Way) {
    let (stub, mut feed) = stub(2).await;
    feed.put(300);
    let merged = stub.merge(S, &shard(0), &shard(1));
    feed.put(100);
    let (left, right) = stub.split(S, &merged);
    feed.put(100);
    let seen = Job::new(&stub, way, S, &[]).run(TrimHorizon, |s| s.records.len() >= 500 && s.all_idle()).await.unwrap();
    assert_complete(&feed, &seen.records);
    let opened = |id: &str| seen.opened.iter().find(|o| o.0 == id).unwrap().1;
    assert_eq!((opened(&merged), opened(&left), opened(&right)), (300, 400, 400));
}

/// zio-kinesis#220, kinesis-consumer#200, FLINK-8484: the end of a shard was not kept, and it was read again.
async fn shard_end_is_remembered(way: Way) {
    let (stub, mut feed) = stub(1).await;
    feed.put(50);
    stub.split(S, &shard(0));
    feed.put(50);
    let mut job = Job::new(&stub, way, S, &[]);
    let mut got = job.run(TrimHorizon, |s| s.records.len() >= 100 && s.all_idle()).await.unwrap().records;
    feed.put(50);
    for _ in 0..2 {
        stub.with(S, |s| {
            s.subscriptions.clear();
            s.starts.clear();
        });
        let wanted = feed.total() - got.len();
        let seen = job.run(TrimHorizon, |s| s.records.len() >= wanted && s.all_idle()).await.unwrap();
        got.extend(seen.records);
        assert!(stub.with(S, |s| s.starts.iter().all(|(id, _)| *id != shard(0))));
        assert!(!seen.opened.iter().any(|o| o.0 == shard(0)));
    }
    assert_complete(&feed, &got);
}

/// kinesis-client#751: a shard from before the start was replayed from trim horizon, here after a restart or a listing.
async fn ancestors_are_not_read(way: Way) {
    for start in ["latest", "timestamp"] {
        let (stub, mut feed) = stub(1).await;
        feed.put(50);
        let (left, _) = stub.split(S, &shard(0));
        feed.put(50);
        let from = mark(&feed);
        crate::faults::pause(20).await;
        let start = if start == "latest" { Latest } else { AtTimestamp(stub.now_ms()) };
        let mut job = Job::new(&stub, way, S, &[]);
        let seen = job.run(start, |s| s.all_idle()).await.unwrap();
        assert!(seen.records.is_empty());
        feed.put(50);
        stub.split(S, &left);
        feed.put(50);
        stub.with(S, |s| s.subscriptions.clear());
        let seen = job.run(start, |s| s.records.len() >= 100 && s.all_idle()).await.unwrap();
        assert_from(&feed, &from, &seen.records);
        assert!(!seen.opened.iter().any(|o| o.0 == shard(0)));
    }
}

/// Emulators and older answers end a shard without naming its children: they must be listed before the end is told.
async fn children_that_no_answer_names(way: Way) {
    let (stub, mut feed) = stub(1).await;
    stub.state().hides_children = true;
    feed.put(50);
    stub.split(S, &shard(0));
    feed.put(50);
    let options = [("source.shard.discovery.interval", "1 h")];
    let seen =
        Job::new(&stub, way, S, &options).run(TrimHorizon, |s| s.records.len() >= 100 && s.all_idle()).await.unwrap();
    assert_complete(&feed, &seen.records);
}

/// The last answer of one parent of a merge names the child before any listing has the other parent, which has come of a split that is not read to
/// its end: the child waits until a later listing has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_parent_of_a_merge_is_listed_late() {
    let stub = AwsStub::start().await;
    stub.create(S, 2);
    let put = |shard: &str, text: &str| {
        let now = stub.now_ms();
        let put = stub.with(S, |s| s.put("k", Some(s.shards[shard].first_hash), text.as_bytes(), now));
        assert_eq!(put.0, shard);
    };
    (0..100).for_each(|n| put(&shard(0), &format!("{n}")));
    let (left, right) = stub.split(S, &shard(0));
    put(&right, "of the other parent");
    let merged = stub.merge(S, &right, &shard(1));
    put(&merged, "of the child");
    // That at the start, and the first two of the time when the empty parent has ended.
    stub.state().unlisted = (3, [left, right, merged].into());
    // The split shard takes some seconds.
    let options = [("source.shard.discovery.interval", "1 h"), ("source.shard.get-records.max-record-count", "5")];
    let mut job = Job::new(&stub, Way::Polling, S, &options);
    let seen = job.run(TrimHorizon, |s| s.records.len() >= 102).await.unwrap();
    let at = |text: &str| seen.records.iter().position(|record| record.data == text).unwrap();
    assert!(at("of the other parent") < at("of the child"), "{:?}", seen.opened);
    assert_eq!(stub.state().unlisted.0, 0);
}

/// quickwit#5896, materialize#8995: a reshard was a fatal crash. On-demand streams do it by themselves: it must be boring.
async fn resharding_while_running(way: Way) {
    let (stub, mut feed) = stub(4).await;
    let mut got = Vec::new();
    let mut job = Job::new(&stub, way, S, &[]);
    feed.put(400);
    let open = stub.with(S, |s| s.open_shards());
    let producer = {
        let stub = stub.clone();
        tokio::spawn(async move {
            // 4 → 8 → 3, with records in between.
            for id in &open {
                crate::faults::pause(50).await;
                stub.split(S, id);
                feed.put(100);
            }
            for _ in 0..5 {
                crate::faults::pause(50).await;
                let mut open: Vec<_> = stub.with(S, |s| {
                    let open = s.shards.values().filter(|s| s.closed.is_none());
                    open.map(|s| (s.first_hash, s.id.clone())).collect()
                });
                open.sort();
                stub.merge(S, &open[0].1, &open[1].1);
                feed.put(100);
            }
            feed
        })
    };
    let seen = job.run(TrimHorizon, |s| s.records.len() >= 1_300 && s.all_idle()).await.unwrap();
    got.extend(seen.records);
    let feed = producer.await.unwrap();
    assert_complete(&feed, &got);
    assert_eq!(stub.with(S, |s| s.open_shards().len()), 3);
}
