//! Where reading starts, goes on, and what has aged out.

use tidemill::contracts::StartPosition::{AtTimestamp, Latest, TrimHorizon};

use crate::aws_stub::AwsStub;
use crate::feed::{Feed, assert_complete, assert_from, mark};
use crate::in_both_ways;
use crate::run::{Job, Way};

in_both_ways!(
    latest_is_resolved_once,
    ten_minutes_behind,
    start_at_sequence_numbers,
    latest_survives_a_reshard,
    resume_is_exclusive,
    older_than_retention,
    quiet_for_longer_than_retention,
    start_at_a_time,
    stop_at_a_time,
    start_older_than_retention,
    made_again_under_the_same_name,
    sequence_numbers_grow_by_a_digit,
    unread_child_of_a_finished_shard_ages,
    unread_child_of_a_shard_that_was_read_late_ages,
    merged_child_of_a_quiet_shard_is_not_taken_for_lost,
);

const S: &str = "s";

async fn stub(shards: usize) -> (AwsStub, Feed) {
    let stub = AwsStub::start().await;
    stub.create(S, shards);
    let feed = Feed::new(&stub, S, 23);
    (stub, feed)
}

/// tenzir#6188, spiceai#7880, spark-sql-kinesis-connector#91: LATEST on a shard without records was asked for again after a
/// restart, and what had come in between was skipped.
async fn latest_is_resolved_once(way: Way) {
    let (stub, mut feed) = stub(3).await;
    feed.put(50);
    let from = mark(&feed);
    crate::faults::pause(20).await;
    let mut job = Job::new(&stub, way, S, &[]);
    let seen = job.run(Latest, |s| s.all_idle()).await.unwrap();
    assert!(seen.records.is_empty());
    // While the job is down.
    feed.put(50);
    stub.with(S, |s| s.subscriptions.clear());
    let seen = job.run(Latest, |s| s.records.len() >= 50 && s.all_idle()).await.unwrap();
    assert_from(&feed, &from, &seen.records);
}

/// Even a run that ends before its first answer has resolved it; and the children of the shard are read whole.
async fn latest_survives_a_reshard(way: Way) {
    let (stub, mut feed) = stub(1).await;
    feed.put(50);
    let from = mark(&feed);
    crate::faults::pause(20).await;
    let mut job = Job::new(&stub, way, S, &[]);
    job.run(Latest, |_| true).await.unwrap();
    feed.put(25);
    stub.split(S, "shardId-000000000000");
    feed.put(25);
    stub.with(S, |s| s.subscriptions.clear());
    let seen = job.run(Latest, |s| s.records.len() >= 50 && s.all_idle()).await.unwrap();
    assert_from(&feed, &from, &seen.records);
}

/// Arroyo resumes at the last record instead of after it, and reads it twice.
async fn resume_is_exclusive(way: Way) {
    let (stub, mut feed) = stub(1).await;
    feed.put(100);
    let mut job = Job::new(&stub, way, S, &[]);
    let mut got = Vec::new();
    for stop_after in [1, 1, 48, 49, 1] {
        stub.with(S, |s| s.subscriptions.clear());
        got.extend(job.run(TrimHorizon, |s| s.records.len() >= stop_after).await.unwrap().records);
    }
    assert_complete(&feed, &got);
}

/// spark-sql-kinesis-connector#88, Flink by design, kinesis-consumer#98: a position older than retention was passed over in
/// silence, or hung.
async fn older_than_retention(way: Way) {
    for policy in ["fail", "oldest"] {
        let (stub, mut feed) = stub(1).await;
        feed.put(100);
        let mut job = Job::new(&stub, way, S, &[("source.on-expired-position", policy)]);
        job.run(TrimHorizon, |s| s.records.len() >= 40).await.unwrap();
        job.hours_later(&stub, S, 26);
        let from = mark(&feed);
        feed.put(30);
        let result = job.run(TrimHorizon, |s| s.records.len() >= 30 && s.all_idle()).await;
        if policy == "fail" {
            let error = result.unwrap_err().to_string();
            for part in ["shardId-000000000000", "what arrived in the ", "is lost", "retention 1 days 0 h"] {
                assert!(error.contains(part), "{part}: {error}");
            }
            assert!(error.contains("in the 2 h 0 min") || error.contains("in the 1 h 59 min"), "{error}");
        } else {
            assert_from(&feed, &from, &result.unwrap().records);
        }
    }
}

/// pinot#7965, kinesis-consumer#175: the position's record has aged out, but nothing came after it: nothing is lost, and
/// nobody is bothered. Also where the service refuses the number of a record that is gone.
async fn quiet_for_longer_than_retention(way: Way) {
    for refuses in [false, true] {
        let (stub, mut feed) = stub(1).await;
        stub.state().refuses_trimmed = refuses;
        feed.put(10);
        let mut job = Job::new(&stub, way, S, &[]);
        let mut got = job.run(TrimHorizon, |s| s.records.len() >= 10 && s.all_idle()).await.unwrap().records;
        for hours in [20, 20] {
            job.hours_later(&stub, S, hours);
            let seen = job.run(TrimHorizon, |s| s.all_idle()).await.unwrap();
            assert!(seen.records.is_empty());
        }
        job.hours_later(&stub, S, 20);
        assert!(stub.with(S, |s| s.shards.values().all(|s| s.trimmed == s.records.len())));
        feed.put(10);
        got.extend(job.run(TrimHorizon, |s| s.records.len() >= 10 && s.all_idle()).await.unwrap().records);
        assert_complete(&feed, &got);
    }
}

async fn start_at_a_time(way: Way) {
    let (stub, mut feed) = stub(2).await;
    feed.put(50);
    let from = mark(&feed);
    crate::faults::pause(20).await;
    let time = stub.now_ms();
    feed.put(50);
    let mut job = Job::new(&stub, way, S, &[]);
    let seen = job.run(AtTimestamp(time), |s| s.records.len() >= 50 && s.all_idle()).await.unwrap();
    assert_from(&feed, &from, &seen.records);
}

/// A bounded run ends at a time, and a later one goes on from there.
async fn stop_at_a_time(way: Way) {
    let (stub, mut feed) = stub(2).await;
    feed.put(50);
    crate::faults::pause(20).await;
    let time = stub.now_ms() as f64 / 1_000.0;
    feed.put(50);
    let mut job = Job::new(&stub, way, S, &[("scan.bounded.timestamp", &format!("{time:.3}"))]);
    let mut got = job.run(TrimHorizon, |s| s.all_idle()).await.unwrap().records;
    assert_eq!(got.len(), 50);
    stub.with(S, |s| s.subscriptions.clear());
    let mut later = Job::new(&stub, way, S, &[]);
    later.saved = job.saved;
    got.extend(later.run(TrimHorizon, |s| s.records.len() >= 50 && s.all_idle()).await.unwrap().records);
    assert_complete(&feed, &got);
}

/// A start at a time that is no longer kept is a position older than retention too.
async fn start_older_than_retention(way: Way) {
    let (stub, mut feed) = stub(1).await;
    let mut job = Job::new(&stub, way, S, &[]);
    let time = stub.now_ms();
    feed.put(10);
    job.hours_later(&stub, S, 25);
    let error = job.run(AtTimestamp(time - 1), |_| false).await.unwrap_err().to_string();
    assert!(error.contains("is lost"), "{error}");
    let error = job.run(AtTimestamp(stub.now_ms() + 60_000), |_| false).await.unwrap_err().to_string();
    assert!(error.contains("in the future"), "{error}");
    // A stream that is younger than that has lost nothing.
    stub.create("young", 1);
    let mut job = Job::new(&stub, way, "young", &[]);
    job.run(AtTimestamp(time), |s| s.all_idle()).await.unwrap();
}

/// The shards of the new stream have the same names; their numbers mean something else.
async fn made_again_under_the_same_name(way: Way) {
    let (stub, mut feed) = stub(1).await;
    feed.put(10);
    let mut job = Job::new(&stub, way, S, &[]);
    job.run(TrimHorizon, |s| s.records.len() >= 10).await.unwrap();
    stub.set_offset(5_000);
    stub.create(S, 1);
    let error = job.run(TrimHorizon, |_| false).await.unwrap_err().to_string();
    assert!(error.contains("stream 's' was deleted and made again"), "{error}");
    assert!(error.contains("--fresh"), "{error}");
}

/// Compared as text, "9" comes after "10".
async fn sequence_numbers_grow_by_a_digit(way: Way) {
    let (stub, mut feed) = stub(1).await;
    stub.with(S, |s| s.short_numbers = true);
    feed.put(150);
    let mut job = Job::new(&stub, way, S, &[]);
    let mut got = job.run(TrimHorizon, |s| s.records.len() >= 5).await.unwrap().records;
    stub.with(S, |s| s.subscriptions.clear());
    got.extend(job.run(TrimHorizon, |s| s.records.len() >= 145 && s.all_idle()).await.unwrap().records);
    assert_complete(&feed, &got);
}

/// A child that was known and never read has no position; what it loses is measured from its parent's.
async fn unread_child_of_a_finished_shard_ages(way: Way) {
    let (stub, mut feed) = stub(1).await;
    feed.put(10);
    stub.split(S, "shardId-000000000000");
    feed.put(10);
    let mut job = Job::new(&stub, way, S, &[]);
    // Both children are opened when the parent ends; stop at that very moment.
    job.run(TrimHorizon, |s| s.finished.len() == 1).await.unwrap();
    job.hours_later(&stub, S, 25);
    let error = job.run(TrimHorizon, |_| false).await.unwrap_err().to_string();
    assert!(error.contains("is lost"), "{error}");
}

/// A shard that was closed long ago and is read now says "0 ms behind" at its end. That is no news of its children, whose backlog
/// is as old: what of it ages out before it is read is lost, and that is said.
async fn unread_child_of_a_shard_that_was_read_late_ages(way: Way) {
    for policy in ["fail", "oldest"] {
        let (stub, mut feed) = stub(1).await;
        feed.put(10);
        stub.split(S, "shardId-000000000000");
        feed.put(10);
        let mut job = Job::new(&stub, way, S, &[("source.on-expired-position", policy)]);
        job.hours_later(&stub, S, 20);
        job.run(TrimHorizon, |s| s.finished.len() == 1).await.unwrap();
        job.hours_later(&stub, S, 10);
        let from = mark(&feed);
        feed.put(10);
        let result = job.run(TrimHorizon, |s| s.records.len() >= 10 && s.all_idle()).await;
        if policy == "fail" {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("is lost") && error.contains("in the 6 h 0 min"), "{error}");
        } else {
            assert_from(&feed, &from, &result.unwrap().records);
        }
    }
}

/// One parent of a merge had been quiet for a day: the child's records are younger than the merge, and so than what was read of the other.
async fn merged_child_of_a_quiet_shard_is_not_taken_for_lost(way: Way) {
    let (stub, _) = stub(2).await;
    let put = |hash: u128, data: &str| {
        let now_ms = stub.now_ms();
        stub.with(S, |s| s.put("k", Some(hash), data.as_bytes(), now_ms));
    };
    put(0, "quiet");
    let mut job = Job::new(&stub, way, S, &[]);
    job.hours_later(&stub, S, 22);
    put(u128::MAX, "busy");
    stub.merge(S, "shardId-000000000000", "shardId-000000000001");
    (0..10).for_each(|n| put(0, &format!("child {n}")));
    let seen = job.run(TrimHorizon, |s| s.finished.len() == 2).await.unwrap();
    let mut got = seen.records.len();
    job.hours_later(&stub, S, 3);
    while got < 12 {
        got += job.run(TrimHorizon, |s| !s.records.is_empty() && s.all_idle()).await.unwrap().records.len();
    }
    assert_eq!(got, 12);
}

/// A consumer that is ten minutes behind says so, and catches up while records go on coming.
async fn ten_minutes_behind(way: Way) {
    let (stub, mut feed) = stub(2).await;
    stub.set_offset(-600_000);
    feed.put(3_000);
    stub.set_offset(0);
    let most_behind = std::sync::atomic::AtomicU64::new(0);
    let mut job = Job::new(&stub, way, S, &[("source.shard.get-records.max-record-count", "500")]);
    let producer = tokio::spawn(async move {
        for _ in 0..20 {
            crate::faults::pause(100).await;
            feed.put(10);
        }
        feed
    });
    let done = |seen: &crate::run::Seen| {
        let behind = seen.behind.values().flatten().max().copied().unwrap_or(0);
        most_behind.fetch_max(behind, std::sync::atomic::Ordering::Relaxed);
        seen.records.len() >= 3_200 && seen.all_idle()
    };
    let seen = job.run(TrimHorizon, done).await.unwrap();
    assert_complete(&producer.await.unwrap(), &seen.records);
    let most = most_behind.into_inner();
    assert!((590_000..700_000).contains(&most), "{most} ms behind");
    assert!(seen.behind.values().all(|behind| *behind == Some(0)), "{:?}", seen.behind);
    assert_eq!(stub.state().violations, 0);
}

/// A first run begins behind the records that the table names, in shards that have been split since, and reads what is not
/// named from its beginning; a later run goes on where the first one stood.
async fn start_at_sequence_numbers(way: Way) {
    let (stub, mut feed) = stub(3).await;
    feed.put(300);
    // Behind the tenth record of the first shard and the last of the second; the third is not named.
    let number = |shard: &str, index: usize| {
        stub.with(S, |s| {
            let records = &s.shards[shard].records;
            records[index.min(records.len() - 1)].sequence.clone()
        })
    };
    let (first, second) = ("shardId-000000000000", "shardId-000000000001");
    let named = format!("{first}={}; {second}={}@{}", number(first, 9), number(second, 999), stub.now_ms());
    let texts = |shard: &str, from: usize| {
        stub.with(S, |s| {
            let records = s.shards[shard].records.iter().skip(from);
            records.map(|r| String::from_utf8(r.data.clone()).unwrap()).collect::<Vec<_>>()
        })
    };
    let behind = texts(second, 0).len();
    stub.split(S, first);
    feed.put(60);
    let children = [texts("shardId-000000000003", 0), texts("shardId-000000000004", 0)].concat();
    let parts = [texts(first, 10), texts(second, behind), texts("shardId-000000000002", 0), children];
    let mut wanted = parts.concat();
    wanted.sort();
    let mut job = Job::new(&stub, way, S, &[("source.init.sequence-numbers", &named)]);
    // LATEST, which is the default on AWS, says nothing of shards beside the option.
    let seen = job.run(Latest, |s| s.records.len() >= 50).await.unwrap();
    let mut got: Vec<String> = seen.records.into_iter().map(|r| r.data).collect();
    stub.with(S, |s| s.subscriptions.clear());
    let left = wanted.len() - got.len();
    let seen = job.run(Latest, |s| s.records.len() >= left && s.all_idle()).await.unwrap();
    got.extend(seen.records.into_iter().map(|r| r.data));
    got.sort();
    assert_eq!(got, wanted);
    let wrong = Job::new(&stub, way, S, &[("source.init.sequence-numbers", "shardId-000000000000: 5")]).source();
    assert!(wrong.unwrap_err().to_string().contains("shardId-000000000000=4959"));
}
