//! Rates, printed: `cargo test --release --test connectors rates -- --ignored --nocapture --test-threads 1`.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Fields};
use tidemill::connectors::kinesis::local::{LocalStream, PutRecord};
use tidemill::contracts::{Clock, EpochNumber, Fetch, Sink, StartPosition, SystemClock, TableSpec};

use crate::support::*;

const EVENTS: usize = 2_000_000;

fn event(i: usize) -> String {
    format!(
        "{{\"event_id\":\"{:08x}-{:04x}-4{:03x}-8000-{:012x}\",\"event_type\":\"page_view\",\"timestamp\":\"2026-02-12T10:00:{:02}.{:03}Z\",\"data\":{{\"user_id\":\"user-{:06}\",\"page\":\"/shop/page-{:04}.html\",\"referrer\":\"https://www.google.com/\",\"device\":\"desktop\"}}}}",
        i.wrapping_mul(2_654_435_761) as u32,
        i & 0xffff,
        i & 0xfff,
        i,
        i / 1000 % 60,
        i % 1000,
        i * 7 % 10_000,
        i * 31 % 1_000
    )
}

/// CPU seconds of this process so far, user and system (hundredths).
fn cpu() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat.rsplit(')').next().unwrap_or("").split(' ').map(|f| f.parse().unwrap_or(0.0)).collect();
    (fields[12] / 100.0, fields[13] / 100.0)
}

static LAST: std::sync::Mutex<(f64, f64)> = std::sync::Mutex::new((0.0, 0.0));

fn start(clock: &SystemClock) -> std::time::Duration {
    *LAST.lock().unwrap() = cpu();
    clock.elapsed()
}

fn report(what: &str, count: usize, clock: &SystemClock, before: std::time::Duration) {
    let seconds = (clock.elapsed() - before).as_secs_f64();
    let ((user, system), last) = (cpu(), *LAST.lock().unwrap());
    let (user, system) = (user - last.0, system - last.1);
    let per_cpu = count as f64 / (user + system).max(0.01) / 1e6;
    println!("{what}: {per_cpu:.2} M/CPU-s ({seconds:.2} s wall, {user:.2} s user, {system:.2} s system)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "measures"]
async fn rates_of_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock::new());
    let events: Vec<String> = (0..EVENTS).map(event).collect();
    let before = start(&clock);
    let mut stream = LocalStream::open(dir.path(), "s", None, clock.clone()).unwrap();
    for events in events.chunks(500) {
        let records: Vec<_> = events.iter().map(|e| PutRecord::new(e.as_bytes(), &e[13..49])).collect();
        stream.put_records(&records).unwrap();
    }
    report("put_records", EVENTS, &clock, before);
    let table = spec("t", schema(&[]), &[("stream", "s")]);
    let source = connectors(dir.path(), 1).source(&table, "kinesis").unwrap();
    for _ in 0..2 {
        let before = start(&clock);
        let mut count = 0;
        for split in source.splits().await.unwrap() {
            let mut reader = source.open(&split, None, StartPosition::TrimHorizon).await.unwrap();
            while let Fetch::Records(chunk) = reader.next().await.unwrap() {
                count += chunk.len();
            }
        }
        assert_eq!(count, EVENTS);
        report("read of the log", EVENTS, &clock, before);
    }
    let file = dir.path().join("x.json");
    std::fs::write(&file, events.join("\n")).unwrap();
    let table = spec("t", schema(&[]), &[("path", &file.display().to_string()), ("format", "json")]);
    let source = connectors(dir.path(), 1).source(&table, "filesystem").unwrap();
    for _ in 0..2 {
        let before = start(&clock);
        let split = source.splits().await.unwrap().remove(0);
        let mut reader = source.open(&split, None, StartPosition::TrimHorizon).await.unwrap();
        let mut count = 0;
        while let Fetch::Records(chunk) = reader.next().await.unwrap() {
            count += chunk.len();
        }
        assert_eq!(count, EVENTS);
        report("read of lines", EVENTS, &clock, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "measures"]
async fn rest_of_readers() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock::new());
    let table = spec("t", schema(&[]), &[("stream", "s")]);
    LocalStream::open(dir.path(), "s", None, clock.clone()).unwrap();
    let source = connectors(dir.path(), 1).source(&table, "kinesis").unwrap();
    let before = start(&clock);
    let seconds = std::time::Duration::from_secs(10);
    let mut tasks = Vec::new();
    for split in source.splits().await.unwrap() {
        let (source, clock) = (source.clone(), clock.clone());
        tasks.push(tokio::spawn(async move {
            let mut reader = source.open(&split, None, StartPosition::TrimHorizon).await.unwrap();
            let mut count = 0;
            while clock.elapsed() - before < seconds {
                assert!(matches!(reader.next().await.unwrap(), Fetch::CaughtUp));
                count += 1;
            }
            count
        }));
    }
    let mut count = 0;
    for task in tasks {
        count += task.await.unwrap();
    }
    report("four readers at rest for 10 s", count, &clock, before);
}

fn archive(rows: usize) -> (TableSpec, Vec<RecordBatch>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let text = |name: &str| Field::new(name, DataType::Utf8View, true);
    let data = Fields::from(vec![
        text("user_id"),
        text("page"),
        text("referrer"),
        text("device"),
        text("product_id"),
        Field::new("amount", DataType::Decimal128(38, 18), true),
        text("currency"),
        text("error_code"),
        text("message"),
    ]);
    let columns = schema(&[
        ("event_id", DataType::Utf8View),
        ("event_type", DataType::Utf8View),
        ("timestamp", millis()),
        ("data", DataType::Struct(data.clone())),
        ("arrived_at", millis()),
        ("shard_id", DataType::Utf8View),
        ("sequence_number", DataType::Utf8View),
        ("split_watermark", millis()),
        ("raw_event", DataType::Utf8View),
        ("year", DataType::Utf8View),
        ("month", DataType::Utf8View),
        ("day", DataType::Utf8View),
    ]);
    let mut table = spec(
        "archive",
        columns.clone(),
        &[("path", &dir.path().join("out").display().to_string()), ("format", "parquet")],
    );
    table.partitioned_by = ["year", "month", "day"].map(str::to_owned).to_vec();
    let kind = |i: usize| i * 7919 % 100;
    let each = 32_768;
    let batches = (0..rows / each).map(|b| {
        let rows: Vec<usize> = (b * each..(b + 1) * each).collect();
        let strings = |f: &dyn Fn(usize) -> Option<String>| {
            Arc::new(rows.iter().map(|i| f(*i)).collect::<StringViewArray>()) as ArrayRef
        };
        let times = |d: usize| {
            Arc::new(
                TimestampMillisecondArray::from_iter_values(
                    rows.iter().map(|i| 1_770_890_400_000 + (i / 2 + i * 7919 % 3_000 + d) as i64),
                )
                .with_timezone("UTC"),
            ) as ArrayRef
        };
        let view = |i: usize| kind(i) < 80;
        let purchase = |i: usize| (80..92).contains(&kind(i));
        let error = |i: usize| kind(i) >= 92;
        let amounts = rows.iter().map(|i| purchase(*i).then_some((i * 7919 % 60_000) as i128 * 10_000_000_000_000_000));
        let data = StructArray::try_new(
            data.clone(),
            vec![
                strings(&|i| (!error(i)).then(|| format!("user-{:06}", i * i % 9_973))),
                strings(&|i| view(i).then(|| format!("/shop/page-{:04}.html", i * 31 % 1_000))),
                strings(&|i| view(i).then(|| "https://www.google.com/".to_owned())),
                strings(&|i| view(i).then(|| ["desktop", "mobile", "tablet"][i % 3].to_owned())),
                strings(&|i| purchase(i).then(|| format!("product-{:05}", i * 13 % 1_000))),
                Arc::new(amounts.collect::<Decimal128Array>().with_precision_and_scale(38, 18).unwrap()),
                strings(&|i| purchase(i).then(|| "USD".to_owned())),
                strings(&|i| error(i).then(|| ["500", "502", "404"][i % 3].to_owned())),
                strings(&|i| {
                    error(i).then(|| format!("internal error in checkout (host-{}, request {:08x})", i % 50, i))
                }),
            ],
            None,
        )
        .unwrap();
        batch(
            &columns,
            vec![
                strings(&|i| {
                    Some(format!(
                        "{:08x}-{:04x}-4{:03x}-8000-{:012x}",
                        i.wrapping_mul(2_654_435_761) as u32,
                        i & 0xffff,
                        i & 0xfff,
                        i
                    ))
                }),
                strings(&|i| {
                    Some(
                        if view(i) {
                            "page_view"
                        } else if purchase(i) {
                            "purchase"
                        } else {
                            "error"
                        }
                        .to_owned(),
                    )
                }),
                times(0),
                Arc::new(data),
                times(10_000),
                strings(&|_| Some(format!("shardId-00000000000{}", b % 4))),
                strings(&|i| Some(i.to_string())),
                times(5_000),
                strings(&|_| None),
                strings(&|_| Some("2026".to_owned())),
                strings(&|_| Some("02".to_owned())),
                strings(&|_| Some("12".to_owned())),
            ],
        )
    });
    let batches = batches.collect();
    (table, batches, dir)
}

async fn write(table: &TableSpec, batches: &[RecordBatch], dir: &std::path::Path, generation: u64) -> u64 {
    let mut sink: Box<dyn Sink> = connectors(dir, generation).sink(table, "filesystem").unwrap();
    for rows in batches {
        sink.write(EpochNumber(1), appends(rows.clone())).await.unwrap();
        sink.flush(EpochNumber(1), 0).await.unwrap();
    }
    let staged = sink.finish(EpochNumber(1)).await.unwrap();
    sink.commit(staged).await.unwrap();
    let out = dir.join("out");
    tree(&out)
        .iter()
        .filter(|f| f.contains(&format!("part-test-{generation}-")))
        .map(|f| out.join(f).metadata().unwrap().len())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "measures"]
async fn rates_of_files() {
    let clock = SystemClock::new();
    let (table, batches, dir) = archive(EVENTS);
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let zstd = table.clone().with_option("parquet.compression", "ZSTD");
    let json = table.clone().with_option("format", "json");
    let csv_columns: Vec<usize> = (0..12).filter(|c| *c != 3).collect();
    for (generation, name, table) in
        [(1, "archive, Snappy", &table), (2, "archive, ZSTD 1", &zstd), (3, "archive as JSON", &json)]
    {
        for repeat in 0..2 {
            let before = start(&clock);
            let bytes = write(table, &batches, dir.path(), generation * 10 + repeat).await;
            report(&format!("{name}, {} MB", bytes / 1_000_000), rows, &clock, before);
        }
    }
    let _ = csv_columns;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "measures"]
async fn rates_of_tables() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SystemClock::new();
    let columns = schema(&[
        ("k", DataType::Utf8View),
        ("s", DataType::Utf8View),
        ("n", DataType::Int64),
        ("t", DataType::Utf8View),
    ]);
    let mut table = spec("m", columns.clone(), &[("table-name", "m")]);
    table.primary_key = vec!["k".to_owned(), "s".to_owned()];
    let rows = batch(
        &columns,
        vec![
            Arc::new((0..200_000).map(|_| Some("pageviews#2026-02-12")).collect::<StringViewArray>()),
            Arc::new(
                (0..200_000)
                    .map(|i| Some(format!("/shop/page-{:06}.html", i * 7919 % 200_000)))
                    .collect::<StringViewArray>(),
            ),
            Arc::new(Int64Array::from_iter_values(0..200_000)),
            Arc::new((0..200_000).map(|_| Some("2026-02-12T10:00:00.000Z")).collect::<StringViewArray>()),
        ],
    );
    let mut sink = connectors(dir.path(), 1).sink(&table, "dynamodb").unwrap();
    for epoch in 0..4 {
        let before = start(&clock);
        sink.write(EpochNumber(epoch), appends(rows.clone())).await.unwrap();
        sink.flush(EpochNumber(epoch), 0).await.unwrap();
        report(if epoch == 0 { "items inserted" } else { "items updated" }, 200_000, &clock, before);
    }
}
