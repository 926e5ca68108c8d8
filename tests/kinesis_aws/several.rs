//! Metadata, and tables over several streams.

use tidemill::contracts::StartPosition::TrimHorizon;

use crate::aws_stub::AwsStub;
use crate::in_both_ways;
use crate::run::{Job, Way};

in_both_ways!(metadata_of_records, several_streams);

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
