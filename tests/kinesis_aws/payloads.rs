//! What is in records: aggregates of the Kinesis Producer Library, compression, partition keys.

use std::io::Write;

use md5::{Digest, Md5};
use tidemill::contracts::StartPosition::TrimHorizon;

use crate::aws_stub::AwsStub;
use crate::in_both_ways;
use crate::run::{Job, Way};

in_both_ways!(aggregates_are_taken_apart, restart_within_an_aggregate, compressed_payloads);

const S: &str = "s";

/// A length-delimited field of protobuf.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 1 << 14);
    let mut out = vec![number << 3 | 2];
    if bytes.len() >= 128 {
        out.push(bytes.len() as u8 | 0x80);
        out.push((bytes.len() >> 7) as u8);
    } else {
        out.push(bytes.len() as u8);
    }
    out.extend_from_slice(bytes);
    out
}

/// An aggregate as the KPL writes it, written here by its description, not by the program's own code.
pub(crate) fn aggregate(records: &[(&str, &str)]) -> Vec<u8> {
    let mut message = Vec::new();
    for (key, _) in records {
        message.extend(field(1, key.as_bytes()));
    }
    message.extend(field(2, b"123"));
    for (index, (_, data)) in records.iter().enumerate() {
        let mut record = vec![1 << 3, index as u8, 2 << 3, 0];
        record.extend(field(3, data.as_bytes()));
        message.extend(field(3, &record));
    }
    let md5 = Md5::digest(&message);
    [&[0xf3, 0x89, 0x9a, 0xc2][..], &message, &md5].concat()
}

fn put(stub: &AwsStub, key: &str, data: &[u8]) {
    let now = stub.now_ms();
    stub.with(S, |s| s.put(key, None, data, now));
}

/// KCL 3.1.3 drops the whole aggregate when one of its keys belongs to another shard. Nothing is dropped here. A wrong MD5
/// makes it an ordinary record, which the decoder will refuse with its bytes.
async fn aggregates_are_taken_apart(way: Way) {
    let stub = AwsStub::start().await;
    stub.create(S, 4);
    put(&stub, "k", &aggregate(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]));
    put(&stub, "k", b"5");
    let mut broken = aggregate(&[("a", "6")]);
    *broken.last_mut().unwrap() ^= 1;
    put(&stub, "k", &broken);
    let mut job = Job::new(&stub, way, S, &[]);
    let seen = job.run(TrimHorizon, |s| s.records.len() >= 6 && s.all_idle()).await.unwrap();
    let texts: Vec<_> = seen.records.iter().map(|r| r.data.as_str()).collect();
    assert_eq!(texts[..5], ["1", "2", "3", "4", "5"]);
    assert!(texts[5].len() > 10);
    let keys: Vec<_> = seen.records.iter().map(|r| r.key.as_deref().unwrap()).collect();
    assert_eq!(keys, ["a", "b", "c", "d", "k", "k"]);
    // Each has a name of its own.
    let first = seen.records[0].sequence.strip_suffix("/0").unwrap();
    assert_eq!(seen.records[3].sequence, format!("{first}/3"));
    assert!(!seen.records[4].sequence.contains('/'));
    let off = [("kpl.deaggregate", "false")];
    stub.with(S, |s| s.subscriptions.clear());
    let seen = Job::new(&stub, way, S, &off).run(TrimHorizon, |s| s.records.len() >= 3 && s.all_idle()).await.unwrap();
    assert_eq!(seen.records.len(), 3);
}

/// A position may stand between two user records of one Kinesis record.
async fn restart_within_an_aggregate(way: Way) {
    let stub = AwsStub::start().await;
    stub.create(S, 1);
    for base in [0, 3, 6] {
        let texts: Vec<String> = (base..base + 3).map(|i| i.to_string()).collect();
        put(&stub, "k", &aggregate(&[("a", &texts[0]), ("b", &texts[1]), ("a", &texts[2])]));
    }
    for stop_after in 1..9 {
        stub.with(S, |s| s.subscriptions.clear());
        let mut job = Job::new(&stub, way, S, &[("source.efo.consumer.name", &format!("c{stop_after}"))]);
        let mut got = job.run(TrimHorizon, |s| s.records.len() >= stop_after).await.unwrap().records;
        stub.with(S, |s| s.subscriptions.clear());
        got.extend(job.run(TrimHorizon, |s| s.records.len() >= 9 - stop_after && s.all_idle()).await.unwrap().records);
        let texts: Vec<_> = got.iter().map(|r| r.data.as_str()).collect();
        assert_eq!(texts, ["0", "1", "2", "3", "4", "5", "6", "7", "8"], "stopped after {stop_after}");
    }
}

async fn compressed_payloads(way: Way) {
    let stub = AwsStub::start().await;
    stub.create(S, 1);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"packed by gzip").unwrap();
    put(&stub, "k", &gzip.finish().unwrap());
    put(&stub, "k", &zstd::encode_all(&b"packed by zstd"[..], 1).unwrap());
    put(&stub, "k", b"plain");
    let mut job = Job::new(&stub, way, S, &[("payload.compression", "auto")]);
    let seen = job.run(TrimHorizon, |s| s.records.len() >= 3 && s.all_idle()).await.unwrap();
    let texts: Vec<_> = seen.records.iter().map(|r| r.data.as_str()).collect();
    assert_eq!(texts, ["packed by gzip", "packed by zstd", "plain"]);
}
