//! Metadata, and tables over several streams.

use tidemill::contracts::StartPosition::TrimHorizon;

use crate::aws_stub::{AwsStub, Fault};
use crate::in_both_ways;
use crate::run::{Job, Seen, Way};

in_both_ways!(
    metadata_of_records,
    several_streams,
    another_stream_is_no_continuation,
    streams_come_and_go,
    a_stream_that_is_back_and_was_made_anew,
);

/// FLINK-36671: metadata columns were empty in the new source.
async fn metadata_of_records(way: Way) {
    let stub = AwsStub::start().await;
    stub.create("s", 2);
    let before = stub.now_ms();
    let (shard, sequence) = stub.put("s", "some key", "x");
    let after = stub.now_ms();
    let mut job = Job::new(&stub, way, "s", &[]);
    let seen = job.run(TrimHorizon, |s| s.records.len() == 1).await.unwrap();
    let got = &seen.records[0];
    assert_eq!((&got.sequence, got.key.as_deref()), (&sequence, Some("some key")));
    assert!((before..=after).contains(&got.arrival_ms));
    assert_eq!((got.metadata["stream"].as_str(), &got.metadata["shard-id"]), ("s", &shard));
}

/// A list, a pattern, and an ARN. Shards of different streams have the same names.
async fn several_streams(way: Way) {
    let stub = AwsStub::start().await;
    for stream in ["orders-eu", "orders-us", "other"] {
        stub.create(stream, 1);
        stub.put(stream, "k", &format!("{stream} 1"));
    }
    let arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders-us";
    let cases = [
        ("orders-eu; orders-us", vec![]),
        ("", vec![("stream.pattern", "orders-.*")]),
        ("", vec![("stream.arn", arn)]),
    ];
    for (stream, options) in cases {
        for name in ["orders-eu", "orders-us", "other"] {
            stub.with(name, |s| s.subscriptions.clear());
        }
        let count = if options.first().is_some_and(|o| o.0 == "stream.arn") { 1 } else { 2 };
        let mut job = Job::new(&stub, way, stream, &options);
        let mut seen = job.run(TrimHorizon, |s| s.records.len() >= count && s.all_idle()).await.unwrap();
        seen.records.sort_by(|a, b| a.data.cmp(&b.data));
        for record in &seen.records {
            assert_eq!(record.data, format!("{} 1", record.metadata["stream"]));
            assert_eq!(record.metadata["shard-id"], "shardId-000000000000");
        }
        assert_eq!(seen.records.len(), count);
        assert_eq!(seen.records.last().unwrap().metadata["stream"], "orders-us");
        // And each stream goes on where it stood.
        stub.put("orders-us", "k", "more");
        for name in ["orders-eu", "orders-us"] {
            stub.with(name, |s| s.subscriptions.clear());
        }
        let seen = job.run(TrimHorizon, |s| !s.records.is_empty() && s.all_idle()).await.unwrap();
        assert_eq!(seen.records.iter().map(|r| r.data.as_str()).collect::<Vec<_>>(), ["more"]);
        stub.with("orders-us", |s| s.shards.values_mut().for_each(|s| drop(s.records.pop())));
    }
}

fn texts(seen: &Seen) -> Vec<&str> {
    let mut texts: Vec<&str> = seen.records.iter().map(|r| r.data.as_str()).collect();
    texts.sort_unstable();
    texts
}

/// Shards of two streams have the same names. Positions in one, taken up in the other, passed over what that had below them, and a
/// shard that had ended in one was never opened in the other.
async fn another_stream_is_no_continuation(way: Way) {
    let stub = AwsStub::start().await;
    for stream in ["older", "s"] {
        stub.create(stream, 1);
        (0..5).for_each(|n| drop(stub.put(stream, "k", &format!("{stream} {n}"))));
    }
    (5..9).for_each(|n| drop(stub.put("s", "k", &format!("s {n}"))));
    let mut job = Job::new(&stub, way, "s", &[]);
    job.run(TrimHorizon, |s| s.records.len() >= 9 && s.all_idle()).await.unwrap();
    for now in ["older", "older; also-older"] {
        stub.create("also-older", 1);
        let mut other = Job::new(&stub, way, now, &[]);
        other.saved = job.saved.clone();
        let error = other.run(TrimHorizon, |s| s.all_idle()).await.unwrap_err();
        assert_eq!(error.kind(), tidemill::contracts::ErrorKind::Config);
        let error = error.to_string();
        for part in
            ["table 'events' has read 's' so far", &format!("names '{now}' now"), "another name, or start with --fresh"]
        {
            let part = part.replace("older; also-older", "also-older; older");
            assert!(error.contains(&part), "'{part}' in {error}");
        }
    }
}

/// One stream, then another beside it, then one alone again, and the others back: each goes on where it stood, also after runs that left it
/// out, and a new one is read whole.
async fn streams_come_and_go(way: Way) {
    let stub = AwsStub::start().await;
    for stream in ["r", "s", "t"] {
        stub.create(stream, 1);
        (0..3).for_each(|n| drop(stub.put(stream, "k", &format!("{stream} {n}"))));
    }
    let (mut saved, mut n) = (None, 3);
    for (streams, wanted) in [
        ("s", &["s 0", "s 1", "s 2"][..]),
        ("s; t", &["s 3", "t 0", "t 1", "t 2", "t 3"]),
        ("r; s; t", &["r 0", "r 1", "r 2", "r 3", "r 4", "s 4", "t 4"]),
        ("t", &["t 5"]),
        ("t", &["t 6"]),
        ("s; t", &["s 5", "s 6", "s 7", "t 7"]),
        ("r; s", &["r 5", "r 6", "r 7", "r 8", "s 8"]),
    ] {
        for stream in ["r", "s", "t"] {
            stub.with(stream, |s| s.subscriptions.clear());
        }
        let mut job = Job::new(&stub, way, streams, &[]);
        job.saved = saved;
        let seen = job.run(TrimHorizon, |s| s.records.len() >= wanted.len() && s.all_idle()).await.unwrap();
        assert_eq!(texts(&seen), wanted, "{streams}");
        let names: Vec<_> = seen.records.iter().map(|r| (&r.metadata["stream"], &r.data[..1])).collect();
        assert!(names.iter().all(|(stream, of)| stream == of), "{names:?}");
        saved = job.saved;
        for stream in ["r", "s", "t"] {
            stub.put(stream, "k", &format!("{stream} {n}"));
        }
        n += 1;
    }
}

/// A stream that was left out may have been deleted and made again meanwhile: it is a new one, of whose shards none has ended, and it ends no job.
async fn a_stream_that_is_back_and_was_made_anew(way: Way) {
    for first in ["s", "t"] {
        let stub = AwsStub::start().await;
        for stream in ["s", "t"] {
            stub.create(stream, 1);
            stub.put(stream, "k", &format!("{stream} 0"));
        }
        stub.with("t", |t| t.created_ms -= 3_600_000);
        stub.split("t", "shardId-000000000000");
        stub.put("t", "k", "t 1");
        let (mut saved, mut seen) = (None, Vec::new());
        for streams in [first, "s; t", "s", "s; t", "s; t"] {
            let mut job = Job::new(&stub, way, streams, &[]);
            job.saved = saved;
            let is_back = seen.len() == 3;
            if is_back {
                stub.state().streams.remove("t");
                stub.create("t", 2);
                stub.put("t", "k", "another t");
            }
            stub.put("s", "k", &format!("s {}", seen.len() + 1));
            for stream in ["s", "t"] {
                stub.with(stream, |s| s.subscriptions.clear());
            }
            let has_all = |s: &Seen| !is_back || texts(s).contains(&"another t");
            let run = job.run(TrimHorizon, |s| s.all_idle() && has_all(s)).await.unwrap();
            seen.push(texts(&run).into_iter().filter(|text| text.contains('t')).map(str::to_owned).collect::<Vec<_>>());
            saved = job.saved;
        }
        let whole = ["t 0", "t 1"].map(str::to_owned).to_vec();
        let (alone, beside) = if first == "t" { (whole, vec![]) } else { (vec![], whole) };
        assert_eq!(seen, [alone, beside, vec![], vec!["another t".to_owned()], vec![]], "begun with '{first}'");
    }
}

/// A stream of a pattern that is gone ends no job, and neither does a service that cannot list them for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_pattern_vanish_and_listing_them_fails_for_a_while() {
    let stub = AwsStub::start().await;
    for stream in ["day-1", "day-2"] {
        stub.create(stream, 1);
        stub.put(stream, "k", stream);
    }
    let mut job = Job::new(&stub, Way::Polling, "", &[("stream.pattern", "day-.*")]);
    stub.fail("ListStreams", 2, Fault::Error(400, "LimitExceededException"));
    stub.fail("ListStreams", 1, Fault::Closed);
    let seen = job.run(TrimHorizon, |s| s.records.len() >= 2 && s.all_idle()).await.unwrap();
    assert_eq!(texts(&seen), ["day-1", "day-2"]);
    assert_eq!(stub.faults_left(), 0);
    for stream in ["day-1", "day-2"] {
        stub.state().streams.remove(stream);
    }
    stub.create("day-3", 1);
    stub.put("day-3", "k", "day-3");
    let seen = job.run(TrimHorizon, |s| !s.records.is_empty() && s.all_idle()).await.unwrap();
    assert_eq!(texts(&seen), ["day-3"]);
}
