//! The embedded Kinesis: routing, limits, crashes, several writers, growth, latency.

use std::io::{BufReader, Write};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, StringViewArray};
use arrow::datatypes::DataType;
use tidemill::connectors::kinesis::local::{LocalKinesisSource, LocalStream, PutRecord, routing, stream_folder};
use tidemill::connectors::kinesis::produce::{OutRecord, ProduceOptions, Put, PutBatch, local_target, produce};
use tidemill::contracts::{Clock, Fetch, ManualClock, Result, Source, SourceProgress, StartPosition, SystemClock};

use crate::hurried::Hurried;
use crate::support::*;

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

fn put(stream: &mut LocalStream, text: &str) -> (u32, u64) {
    let result = stream.put_records(&[PutRecord::new(text.as_bytes(), text)]).unwrap();
    let receipt = result[0].clone().unwrap();
    (receipt.shard, receipt.sequence_number)
}

/// Shards as `md5(key) / 2^126` gives them, computed with Python's hashlib.
#[test]
fn keys_go_to_the_shards_of_aws() {
    let expected = [("a", 0), ("b", 2), ("user-1", 3), ("user-000055", 1), ("", 3), ("ключ", 0)];
    for (key, _) in expected {
        let md5 = routing::hash_key(key);
        assert_eq!(u128::from(routing::shard_of(md5, 4)), md5 >> 126, "{key}");
    }
    assert_eq!(routing::shard_of(routing::hash_key("a"), 4), 0);
    assert_eq!(
        routing::hash_key("user-000055") >> 126,
        u128::from(routing::shard_of(routing::hash_key("user-000055"), 4))
    );
}

#[tokio::test]
async fn limits_refuse_single_records() {
    let dir = tempfile::tempdir().unwrap();
    let mut stream = LocalStream::open(dir.path(), "s", None, clock()).unwrap();
    let large = vec![b'x'; 1 << 20];
    let long_key = "k".repeat(257);
    let records = [
        PutRecord::new(b"ok", "k"),
        PutRecord::new(&large, "k"),
        PutRecord::new(b"ok", ""),
        PutRecord::new(b"ok", &long_key),
        PutRecord::new(&large[1..], "k"),
    ];
    let results = stream.put_records(&records).unwrap();
    let stored: Vec<bool> = results.iter().map(|r| r.is_ok()).collect();
    assert_eq!(stored, [true, false, false, false, true]);
    let source = LocalKinesisSource::new(dir.path(), "s", clock(), true);
    assert_eq!(read_source(&source).await.len(), 2);
}

/// PARTITIONED BY names the sink's key: its columns are in the records, and are read from there by the DDL that has written them.
#[tokio::test]
async fn columns_of_the_key_are_read_back() {
    for format in ["csv", "json"] {
        let dir = tempfile::tempdir().unwrap();
        let columns = schema(&[("id", DataType::Int64), ("user", DataType::Utf8View), ("page", DataType::Utf8View)]);
        let mut table = spec("t", columns, &[("stream", "s"), ("format", format)]);
        table.partitioned_by = vec!["user".to_owned()];
        let text = |text: &str| -> ArrayRef { Arc::new(StringViewArray::from(vec![text])) };
        let rows = batch(&table.schema, vec![Arc::new(Int64Array::from(vec![1])), text("u"), text("home")]);
        drop(LocalStream::open(dir.path(), "s", Some(1), clock()).unwrap());
        let connectors = connectors(dir.path(), 1);
        write_all(connectors.sink(&table, "kinesis").unwrap().as_mut(), vec![appends(rows.clone())]).await;
        let source = connectors.source(&table, "kinesis").unwrap();
        let mut reader =
            source.open(&source.splits().await.unwrap()[0], None, StartPosition::TrimHorizon).await.unwrap();
        let mut decoder = tidemill::formats::decoder(format, &table, None).unwrap();
        let Fetch::Records(chunk) = reader.next().await.unwrap() else { panic!("nothing was written") };
        let decoded = decoder.decode(&chunk);
        assert_eq!((decoded.batch, decoded.rejects.len()), (rows, 0), "{format}");
    }
}

#[tokio::test]
async fn a_torn_tail_is_not_read_and_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let mut stream = LocalStream::open(dir.path(), "s", Some(1), clock()).unwrap();
    for i in 0..10 {
        put(&mut stream, &format!("record {i}"));
    }
    drop(stream);
    let log = stream_folder(dir.path(), "s").join("shardId-000000000000.log");
    let whole = std::fs::read(&log).unwrap();
    let source = LocalKinesisSource::new(dir.path(), "s", clock(), true);
    let split = source.splits().await.unwrap().remove(0);
    for cut in 1..60 {
        std::fs::write(&log, &whole[..whole.len() - cut]).unwrap();
        assert_eq!(read_split(&source, &split, None, StartPosition::TrimHorizon).await.len(), 9, "cut {cut}");
    }
    let mut stream = LocalStream::open(dir.path(), "s", None, clock()).unwrap();
    assert_eq!(put(&mut stream, "after the crash"), (0, 10));
    let all = read_split(&source, &split, None, StartPosition::TrimHorizon).await;
    assert_eq!(all.len(), 10);
    assert_eq!((all[9].0.as_str(), &*all[9].1.0), ("after the crash", "10"));
    // Damage in the middle is no torn tail: neither readers nor writers pass it.
    let mut damaged = std::fs::read(&log).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 50].fill(0);
    std::fs::write(&log, &damaged).unwrap();
    let mut reader = source.open(&split, None, StartPosition::TrimHorizon).await.unwrap();
    let error = loop {
        match reader.next().await {
            Ok(Fetch::CaughtUp) => panic!("damage was taken for the end"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("damaged"), "{error}");
    let mut stream = LocalStream::open(dir.path(), "s", None, clock()).unwrap();
    assert!(stream.put_records(&[PutRecord::new(b"x", "k")]).is_err());
}

#[tokio::test]
async fn two_producers_and_a_reader_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    LocalStream::open(&path, "s", Some(2), clock()).unwrap();
    let writers: Vec<_> = (0..2)
        .map(|w| {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut stream = LocalStream::open(&path, "s", None, clock()).unwrap();
                for i in 0..300 {
                    put(&mut stream, &format!("{w}-{i}"));
                }
            })
        })
        .collect();
    let mut all = Vec::new();
    let source = LocalKinesisSource::new(&path, "s", clock(), false);
    assert_eq!(source.splits().await.unwrap().len(), 2);
    for split in source.splits().await.unwrap() {
        let mut reader = source.open(&split, None, StartPosition::TrimHorizon).await.unwrap();
        let mut rests = 0;
        while rests < 5 || writers.iter().any(|w| !w.is_finished()) {
            match reader.next().await.unwrap() {
                Fetch::CaughtUp => rests += 1,
                records => all.extend(fetched(&records).into_iter().map(|r| (split.id.clone(), r))),
            }
        }
    }
    writers.into_iter().for_each(|w| w.join().unwrap());
    assert_eq!(all.len(), 600);
    for writer in ["0-", "1-"] {
        for split in source.splits().await.unwrap() {
            let of_writer = all.iter().filter(|(s, r)| *s == split.id && r.0.starts_with(writer));
            let numbers: Vec<u32> = of_writer.map(|(_, r)| r.0[2..].parse().unwrap()).collect();
            assert!(numbers.is_sorted(), "order of one producer is kept");
        }
    }
}

#[tokio::test]
async fn a_growing_file_is_followed_by_whole_lines() {
    let dir = tempfile::tempdir().unwrap();
    let folder = stream_folder(dir.path(), "s");
    std::fs::create_dir_all(&folder).unwrap();
    let mut file = std::fs::File::create(folder.join("x.jsonl")).unwrap();
    file.write_all(b"one\ntw").unwrap();
    let source = LocalKinesisSource::new(dir.path(), "s", clock(), false);
    let split = source.splits().await.unwrap().remove(0);
    let mut reader = source.open(&split, None, StartPosition::TrimHorizon).await.unwrap();
    let mut latest = source.open(&split, None, StartPosition::Latest).await.unwrap();
    assert_eq!(fetched(&reader.next().await.unwrap())[0].0, "one");
    assert!(matches!(reader.next().await.unwrap(), Fetch::CaughtUp));
    file.write_all(b"o\nthree\n").unwrap();
    let next: Vec<String> = fetched(&reader.next().await.unwrap()).into_iter().map(|r| r.0).collect();
    assert_eq!(next, ["two", "three"]);
    assert_eq!(fetched(&latest.next().await.unwrap())[0].0, "two");
}

#[tokio::test]
async fn start_positions() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1_000));
    let mut stream = LocalStream::open(dir.path(), "s", Some(1), clock.clone()).unwrap();
    for i in 0..5 {
        put(&mut stream, &format!("{i}"));
        clock.advance(Duration::from_millis(10));
    }
    let source = LocalKinesisSource::new(dir.path(), "s", Arc::new(SystemClock::new()), false);
    let split = source.splits().await.unwrap().remove(0);
    for (start, count) in [
        (StartPosition::TrimHorizon, 5),
        (StartPosition::Latest, 0),
        (StartPosition::AtTimestamp(1_020), 3),
        (StartPosition::AtTimestamp(1_021), 2),
        (StartPosition::AtTimestamp(0), 5),
        (StartPosition::AtTimestamp(9_999), 0),
    ] {
        assert_eq!(read_split(&source, &split, None, start).await.len(), count, "{start:?}");
    }
    let mut latest = source.open(&split, None, StartPosition::Latest).await.unwrap();
    assert!(matches!(latest.next().await.unwrap(), Fetch::CaughtUp));
    put(&mut stream, "new");
    assert_eq!(fetched(&latest.next().await.unwrap())[0].0, "new");
}

#[tokio::test]
async fn from_put_to_read_is_quick() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let mut stream = LocalStream::open(dir.path(), "s", Some(1), clock.clone()).unwrap();
    put(&mut stream, "first");
    let source = LocalKinesisSource::new(dir.path(), "s", clock.clone(), false);
    let split = source.splits().await.unwrap().remove(0);
    let mut reader = source.open(&split, None, StartPosition::Latest).await.unwrap();
    let mut waits = Vec::new();
    for i in 0..20 {
        // Long enough that the reader is at rest.
        while !matches!(reader.next().await.unwrap(), Fetch::CaughtUp) {}
        for _ in 0..3 {
            reader.next().await.unwrap();
        }
        let before = clock.elapsed();
        put(&mut stream, &format!("{i}"));
        while matches!(reader.next().await.unwrap(), Fetch::CaughtUp) {}
        waits.push(clock.elapsed() - before);
    }
    // The shortest: a reader at rest waits alike each time, and whatever else this machine does comes on top.
    let shortest = waits.iter().min().unwrap();
    assert!(*shortest <= Duration::from_millis(20), "{waits:?}");
}

/// Fails every third record twice.
struct Flaky {
    stored: Vec<String>,
    failed: std::collections::HashMap<String, u32>,
}

#[async_trait::async_trait]
impl PutBatch for Flaky {
    async fn put(&mut self, records: &[OutRecord]) -> Result<Vec<Put>> {
        assert!(records.len() <= 500);
        let mut results = Vec::new();
        for (i, record) in records.iter().enumerate() {
            let text = String::from_utf8(record.data.clone()).unwrap();
            let failures = self.failed.entry(text.clone()).or_insert(0);
            if i % 3 == 0 && *failures < 2 {
                *failures += 1;
                results.push(Put::Retry("throttled".to_owned()));
            } else if text.contains("bad") {
                results.push(Put::Refused("too large".to_owned()));
            } else {
                self.stored.push(text);
                results.push(Put::Stored);
            }
        }
        Ok(results)
    }
}

#[tokio::test]
async fn producing_retries_only_what_failed() {
    let lines: String = (0..1_300).map(|i| format!("{{\"n\":{i}}}\n")).collect::<String>() + "\n{\"bad\":1}\n";
    let mut target = Flaky { stored: Vec::new(), failed: Default::default() };
    let input = BufReader::with_capacity(1 << 20, lines.as_bytes());
    let options = ProduceOptions::default();
    let done = produce(input, &mut target, &options, clock().as_ref(), |_| {}).await.unwrap();
    assert_eq!((done.records, done.refused, done.first_refusal.as_deref()), (1_300, 1, Some("too large")));
    assert!(done.retried > 400);
    target.stored.sort();
    target.stored.dedup();
    assert_eq!(target.stored.len(), 1_300);
}

#[tokio::test]
async fn producing_by_key_limit_and_rate() {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = (0..500).map(|i| format!("{{\"n\":{i},\"data\":{{\"user\":\"u{}\"}}}}\n", i % 3)).collect();
    let clock: Arc<dyn Clock> = Arc::new(Hurried::default());
    let mut target = local_target(dir.path(), "s", clock.clone()).unwrap();
    let options = ProduceOptions {
        partition_key: Some("data.user".to_owned()),
        rate: Some(1_000.0),
        limit: Some(200),
        ..Default::default()
    };
    let before = clock.elapsed();
    let input = BufReader::new(lines.as_bytes());
    let done = produce(input, target.as_mut(), &options, clock.as_ref(), |_| {}).await.unwrap();
    let took = clock.elapsed() - before;
    assert_eq!(done.records, 200);
    assert!(took >= Duration::from_millis(190) && took < Duration::from_millis(300), "{took:?}");
    let source = LocalKinesisSource::new(dir.path(), "s", clock, true).with_partition_keys();
    for split in source.splits().await.unwrap() {
        let mut reader = source.open(&split, None, StartPosition::TrimHorizon).await.unwrap();
        if let Fetch::Records(chunk) = reader.next().await.unwrap() {
            let keys = chunk.partition_keys.clone().unwrap();
            for i in 0..chunk.len() {
                let text = String::from_utf8_lossy(chunk.record(i)).into_owned();
                assert!(text.contains(&format!("\"{}\"", keys[i])), "{text} {}", keys[i]);
            }
        }
    }
}

#[tokio::test]
async fn producing_by_explicit_hash_keys() {
    let dir = tempfile::tempdir().unwrap();
    let quarter = u128::MAX / 4 + 1;
    let line = |n: u128| format!("{{\"n\":{n},\"hash\":\"{}\"}}\n", (n % 4) * quarter + n);
    let lines = (0..40).map(line).collect::<String>() + "{\"hash\":\"far\"}\n{\"n\":3,\"hash\":null}\n";
    let mut target = local_target(dir.path(), "s", clock()).unwrap();
    let options = ProduceOptions { explicit_hash_key: Some("hash".to_owned()), ..Default::default() };
    let input = BufReader::new(lines.as_bytes());
    let done = produce(input, target.as_mut(), &options, clock().as_ref(), |_| {}).await.unwrap();
    assert_eq!((done.records, done.refused), (41, 1));
    assert!(done.first_refusal.unwrap().starts_with("line 41: 'far' is no explicit hash key"));
    let source = LocalKinesisSource::new(dir.path(), "s", clock(), true);
    for (shard, split) in source.splits().await.unwrap().iter().enumerate() {
        let read = read_split(&source, split, None, StartPosition::TrimHorizon).await;
        let own = read.iter().filter(|(text, _)| !text.contains("null"));
        let numbers: Vec<usize> = own.map(|(text, _)| text[5..].split(',').next().unwrap().parse().unwrap()).collect();
        assert_eq!(numbers, (0..10).map(|n| n * 4 + shard).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn rows_become_records() {
    let dir = tempfile::tempdir().unwrap();
    let columns = schema(&[("id", DataType::Int64), ("t", millis())]);
    let mut table = spec("t", columns.clone(), &[("stream.arn", "arn:aws:kinesis:x:1:stream/out"), ("format", "json")]);
    table.partitioned_by = vec!["id".to_owned()];
    let rows = batch(
        &columns,
        vec![
            Arc::new(arrow::array::Int64Array::from(vec![1, 2])),
            Arc::new(arrow::array::TimestampMillisecondArray::from(vec![Some(0), None]).with_timezone("UTC")),
        ],
    );
    write_all(connectors(dir.path(), 1).sink(&table, "kinesis").unwrap().as_mut(), vec![appends(rows)]).await;
    let source = LocalKinesisSource::new(dir.path(), "out", clock(), true);
    let mut read = read_source(&source).await;
    read.sort();
    assert_eq!(read, [r#"{"id":1,"t":"1970-01-01 00:00:00Z"}"#, r#"{"id":2,"t":null}"#]);
}

/// Shards of all streams have the same names and count from 1: positions in one would pass over records of another.
#[tokio::test]
async fn positions_of_another_stream_are_not_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let source = |name| LocalKinesisSource::new(dir.path(), name, clock(), true);
    let earlier = SourceProgress { state: source("old").snapshot(), ..SourceProgress::default() };
    source("old").begin(StartPosition::TrimHorizon, Some(&earlier)).await.unwrap();
    // A state of an earlier version does not say it.
    source("new").begin(StartPosition::TrimHorizon, Some(&SourceProgress::default())).await.unwrap();
    let error = source("new").begin(StartPosition::TrimHorizon, Some(&earlier)).await.unwrap_err().to_string();
    for part in ["has read the stream 'old' so far, and names 'new' now", "--fresh"] {
        assert!(error.contains(part), "'{part}' in {error}");
    }
}
