//! The same behaviours on independent emulators, which each test starts on a free loopback port and stops: DynamoDB on
//! dynoxide and ministack, SNS into SQS on ministack. The faults come from the stub, as a proxy before them.
//!
//! `tests/emulators/setup-tables` installs them. Without them, a test says that it was skipped; with CI set, it fails.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field};
use serde_json::{Value, json};
use tidemill::contracts::{ChangeKind, Changes, Clock, EpochNumber, SystemClock, TableSpec};

use crate::emulators_of_aws::{Emulator, dynoxide, ministack};
use crate::queues::{received, topic};
use crate::replay;
use crate::stub::{Fault, Running, calm};
use crate::support::*;
use crate::tables::{client, create_table, plain};
use crate::target::Target;

/// The property of `replay`, with fewer cases: an emulator takes milliseconds for a write.
async fn replays(emulator: &Emulator) {
    let target = Target::emulator(emulator.port).await;
    for seed in 0..4 {
        replay::case(&target, &[], seed).await;
        replay::case(&target, &[("sink.write-mode", "put")], seed).await;
        replay::shared_items(&target, seed).await;
        replay::two_workers(&target, &[("sink.write-mode", "add")], seed).await;
        replay::sums(&target, seed % 2 == 0, seed).await;
        replay::batches(&target, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_on_dynoxide() {
    if let Some(emulator) = dynoxide().await {
        replays(&emulator).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_on_ministack() {
    if let Some(emulator) = ministack().await {
        replays(&emulator).await;
    }
}

/// Values, sets, deletes, expiry and refusals, as a real expression engine takes them.
async fn table_on(emulator: &Emulator) {
    let url = format!("http://127.0.0.1:{}", emulator.port);
    let direct = client(&url);
    create_table(&direct, "metrics", &[("k", "S"), ("s", "N")]).await;
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    let columns = schema(&[
        ("k", DataType::Utf8),
        ("s", DataType::Int64),
        ("big", DataType::Decimal128(38, 0)),
        ("size", DataType::Utf8),
        ("tags", list.clone()),
        ("list", list),
    ]);
    let options =
        [("table-name", "metrics"), ("sink.sets", "tags"), ("sink.ttl.attribute", "gone"), ("sink.ttl.after", "1 h")];
    for mode in ["update", "put", "batch"] {
        let table = with_key(spec(&url, "m", &columns, &options).with_option("sink.write-mode", mode), &["k", "s"]);
        let mut sink = connectors_of("job", Arc::new(SystemClock::new())).sink(&table, "dynamodb").unwrap();
        sink.open().await.unwrap();
        let lists = |values: &[Option<&[&str]>]| {
            let mut list = ListBuilder::new(StringBuilder::new());
            values.iter().for_each(|v| list.append_option(v.map(|v| v.iter().map(|s| Some(*s)))));
            Arc::new(list.finish()) as ArrayRef
        };
        let large = "x".repeat(409_000);
        let row = |big: i128, size: &str| {
            let columns: Vec<ArrayRef> = vec![
                texts(&[Some(mode), Some(mode)]),
                numbers(&[Some(1), Some(2)]),
                Arc::new(Decimal128Array::from(vec![Some(big), None]).with_precision_and_scale(38, 0).unwrap()),
                texts(&[Some(size), None]),
                lists(&[Some(&["b", "a", "b"]), Some(&[])]),
                lists(&[Some(&["b", "b"]), None]),
            ];
            rows(&table.schema, columns)
        };
        let nines = 99_999_999_999_999_999_999_999_999_999_999_999_999;
        assert_eq!(reasons(&write_epoch(sink.as_mut(), 5, row(nines, &large)).await.unwrap()), [""; 0], "{mode}");
        let found = |s: &str| {
            let s = s.to_owned();
            let direct = direct.clone();
            async move {
                let output = direct
                    .get_item()
                    .table_name("metrics")
                    .consistent_read(true)
                    .key("k", aws_sdk_dynamodb::types::AttributeValue::S(mode.to_owned()))
                    .key("s", aws_sdk_dynamodb::types::AttributeValue::N(s))
                    .send()
                    .await
                    .unwrap();
                output.item.map(|item| {
                    let visible = item.iter().filter(|(name, _)| !name.starts_with("tm_") && *name != "size");
                    visible.map(|(name, value)| (name.clone(), plain(value))).collect::<BTreeMap<_, _>>()
                })
            }
        };
        let as_map = |value: Value| Some(serde_json::from_value::<BTreeMap<String, Value>>(value).unwrap());
        let (key, gone) = (json!({ "S": mode }), json!({ "N": (5 + 3_600).to_string() }));
        let mut tags = found("1").await.unwrap();
        tags.get_mut("tags").unwrap()["SS"].as_array_mut().unwrap().sort_by_key(ToString::to_string);
        assert_eq!(
            Some(tags),
            as_map(json!({
                "k": key, "s": { "N": "1" }, "big": { "N": nines.to_string() }, "tags": { "SS": ["a", "b"] },
                "list": { "L": [{ "S": "b" }, { "S": "b" }] }, "gone": gone,
            })),
            "{mode}"
        );
        assert_eq!(found("2").await, as_map(json!({ "k": key, "s": { "N": "2" }, "gone": gone })), "{mode}");
        let kinds = Some(vec![ChangeKind::Delete, ChangeKind::Upsert]);
        write_epoch(sink.as_mut(), 6, Changes { kinds, ..row(0, "x") }).await.unwrap();
        let left = found("1").await;
        match mode {
            "batch" => assert_eq!(left, None),
            _ => assert_eq!(left.unwrap().into_keys().collect::<Vec<_>>(), ["gone", "k", "s"]),
        }
    }
    // Attributes of others count for the size, which only the service knows.
    let table = with_key(
        spec(
            &url,
            "m",
            &schema(&[("k", DataType::Utf8), ("s", DataType::Int64), ("more", DataType::Utf8)]),
            &options[..1],
        ),
        &["k", "s"],
    );
    let mut sink = connectors_of("job", Arc::new(SystemClock::new())).sink(&table, "dynamodb").unwrap();
    sink.open().await.unwrap();
    for (column, expected) in [("one", ""), ("two", "item_too_large")] {
        let half = "x".repeat(250_000);
        let columns = schema(&[("k", DataType::Utf8), ("s", DataType::Int64), (column, DataType::Utf8)]);
        let table = with_key(spec(&url, "m", &columns, &options[..1]), &["k", "s"]);
        let mut sink = connectors_of("job", Arc::new(SystemClock::new())).sink(&table, "dynamodb").unwrap();
        sink.open().await.unwrap();
        let row = rows(&columns, vec![texts(&[Some("large")]), numbers(&[Some(1)]), texts(&[Some(&half)])]);
        assert_eq!(reasons(&write_epoch(sink.as_mut(), 1, row).await.unwrap()).join(""), expected);
    }
    // The key as the service describes it.
    let other = with_key(spec(&url, "m", &columns, &[("table-name", "metrics")]), &["s"]);
    let mut sink = connectors_of("job", Arc::new(SystemClock::new())).sink(&other, "dynamodb").unwrap();
    let error = sink.open().await.unwrap_err().to_string();
    assert!(error.contains("has the key (k, s), the SQL has (s)"), "{error}");
    let missing = with_key(spec(&url, "m", &columns, &[("table-name", "missing")]), &["k", "s"]);
    let mut sink = connectors_of("job", Arc::new(SystemClock::new())).sink(&missing, "dynamodb").unwrap();
    let error = sink.open().await.unwrap_err().to_string();
    assert!(error.contains("dynamodb:DescribeTable on 'missing'") && error.contains("provision"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_on_dynoxide() {
    if let Some(emulator) = dynoxide().await {
        table_on(&emulator).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_on_ministack() {
    if let Some(emulator) = ministack().await {
        table_on(&emulator).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_arrive_in_a_queue_by_ministack() {
    let Some(emulator) = ministack().await else { return };
    let port = emulator.port;
    let running = Running::before(port, calm()).await;
    create_table(&client(&format!("http://127.0.0.1:{port}")), "published", &[("id", "S")]).await;
    let columns = schema(&[("subject", DataType::Utf8), ("message", DataType::Utf8)]);
    let bodies: Vec<String> = (0..30).map(|i| format!("alert {i}")).collect();
    let row = || {
        let bodies: Vec<Option<&str>> = bodies.iter().map(|b| Some(b.as_str())).collect();
        rows(&columns, vec![texts(&[Some("High"); 30]), texts(&bodies)])
    };
    let write = async |table: &TableSpec, epoch| {
        let mut sink = connectors_of("job", Arc::new(SystemClock::new())).sink(table, "sns").unwrap();
        sink.open().await.unwrap();
        sink.write(EpochNumber(epoch), row()).await.unwrap();
        assert_eq!(reasons(&sink.flush(EpochNumber(epoch), 0).await.unwrap()), [""; 0]);
    };
    // One reply is lost after its messages were published.
    let lossy = || {
        let mut count = 0;
        Box::new(move |operation: &str| {
            count += usize::from(operation == "PublishBatch");
            if operation == "PublishBatch" && count == 2 { Fault::CutAfter } else { Fault::None }
        })
    };
    for (name, options, replays, most) in [
        ("standard", &[][..], 1, 2),
        ("ledger", &[("sink.ledger.table", "published")], 3, 2),
        ("most-once", &[("sink.ledger.table", "published"), ("sink.delivery", "at-most-once")], 1, 1),
        ("once.fifo", &[], 3, 1),
    ] {
        let (arn, queue) = topic(port, name).await;
        // A name is looked up, an ARN is taken.
        let topic = if name == "standard" { name } else { &arn };
        let table = spec(&running.url(), name, &columns, options).with_option("topic", topic);
        running.follow(if name == "most-once" { calm() } else { lossy() });
        for _ in 0..replays {
            write(&table, 1).await;
            running.follow(calm());
        }
        let all = received(port, &queue).await;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        all.iter().for_each(|(id, _)| *counts.entry(id).or_default() += 1);
        assert_eq!(counts.len(), 30, "{name}: each alert id at least once");
        let lost = counts.values().filter(|n| **n > 1).count();
        assert!(counts.values().all(|n| *n <= most), "{name}: {counts:?}");
        assert_eq!(lost > 0, most > 1, "{name}: twice where a reply was lost, and only there: {counts:?}");
        if name.ends_with(".fifo") {
            assert_eq!(all.into_iter().map(|(_, body)| body).collect::<Vec<_>>(), bodies, "in their order");
        }
    }
}

/// CPU time of this process, where the system tells.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat.rsplit(')').next().unwrap_or("").split(' ').filter_map(|f| f.parse().ok()).collect();
    // utime and stime are the 14th and 15th fields, in hundredths of a second; the first three are cut off or no number.
    fields.get(10).zip(fields.get(11)).map_or(0.0, |(user, system)| (user + system) / 100.0)
}

/// What a mode costs: calls are asserted; items a second and CPU are printed (`--nocapture`) for the docs.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_modes_cost() {
    const ITEMS: i64 = 2_000;
    let Some(emulator) = dynoxide().await else { return };
    let target = Target::emulator(emulator.port).await;
    for (mode, calls) in [("update", 2_000), ("put", 2_000), ("batch", 80), ("add", 2_000)] {
        target.empty().await;
        let table = target.spec("t", &replay::columns("a", "b"), &[("sink.write-mode", mode)]);
        let epoch = |value: i64| (0..ITEMS).map(|key| (format!("key-{key}"), Some((value, -value)))).collect();
        // Once through the proxy, which counts, and once past it.
        let direct = table.clone().with_option("aws.endpoint", format!("http://127.0.0.1:{}", emulator.port));
        let mut figures = (0.0, 0.0);
        for (value, table) in [(1, &table), (2, &direct)] {
            let mut sink = connectors_of("job", Arc::new(SystemClock::new())).sink(table, "dynamodb").unwrap();
            sink.open().await.unwrap();
            let (clock, cpu) = (SystemClock::new(), cpu_seconds());
            write_epoch(sink.as_mut(), value, changes(&table.schema, &epoch(value.cast_signed()))).await.unwrap();
            figures = (clock.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        }
        let (wall, cpu) = figures;
        let made = target.running.calls.lock().unwrap().iter().filter(|(name, _)| name != "DescribeTable").count();
        assert_eq!(made, calls, "{mode}");
        target.running.calls.lock().unwrap().clear();
        let rate = ITEMS as f64 / wall;
        println!(
            "{mode:7} {calls:5} calls  {rate:7.0} items/s  {:5.2} ms of CPU an item",
            1_000.0 * cpu / ITEMS as f64
        );
    }
}
