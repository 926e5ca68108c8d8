//! The table sink, behaviour by behaviour, on the stub.

use std::sync::{Arc, Mutex};

use arrow::array::*;
use arrow::datatypes::{DataType, Field, TimeUnit};
use serde_json::{Value, json};
use tidemill::contracts::{ChangeKind, Changes, ErrorKind, Sink, TableSpec};

use crate::stub::{Fault, Running, calm};
use crate::support::*;

async fn start(keys: &[(&str, &str)]) -> Running {
    let running = Running::start(calm()).await;
    running.tables.create("m", keys);
    running
}

fn sink(spec: &TableSpec) -> tidemill::contracts::Result<Box<dyn Sink>> {
    connectors_of("job", Arc::new(Hurried::default())).sink(spec, "dynamodb")
}

fn table(running: &Running, columns: &[(&str, DataType)], keys: &[&str], options: &[(&str, &str)]) -> TableSpec {
    let named = [&[("table-name", "m")], options].concat();
    with_key(spec(&running.url(), "metrics", &schema(columns), &named), keys)
}

/// Opens the sink and writes one epoch.
async fn write(spec: &TableSpec, epoch: u64, changes: Changes) -> tidemill::contracts::WriteOutcome {
    let mut sink = sink(spec).unwrap();
    sink.open().await.unwrap();
    write_epoch(sink.as_mut(), epoch, changes).await.unwrap()
}

/// The only item, without hidden attributes.
fn item(running: &Running) -> Value {
    let mut items = running.tables.items("m");
    assert_eq!(items.len(), 1);
    let mut item = items.remove(0);
    item.retain(|name, _| !name.starts_with("tm_"));
    Value::Object(item)
}

#[tokio::test]
async fn values_have_exact_types() {
    let running = start(&[("id", "N")]).await;
    let numbers_list = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
    let row =
        DataType::Struct(vec![Field::new("x", DataType::Utf8, true), Field::new("y", DataType::Int64, true)].into());
    let columns = [
        ("id", DataType::Int64),
        ("money", DataType::Decimal128(12, 2)),
        ("big", DataType::Decimal128(38, 0)),
        ("double", DataType::Float64),
        ("flag", DataType::Boolean),
        ("time", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))),
        ("day", DataType::Date32),
        ("empty", DataType::Utf8),
        ("nothing", DataType::Utf8),
        ("list", numbers_list.clone()),
        ("set", numbers_list),
        ("row", row.clone()),
        ("bytes", DataType::Binary),
    ];
    let table = table(&running, &columns, &["id"], &[("sink.sets", "set")]);
    let list = |values: &[Option<i64>]| {
        let mut list = ListBuilder::new(Int64Builder::new());
        list.append_value(values.iter().copied());
        Arc::new(list.finish()) as ArrayRef
    };
    let DataType::Struct(fields) = row else { unreachable!() };
    let decimal = |v: i128, p, s| Arc::new(Decimal128Array::from(vec![v]).with_precision_and_scale(p, s).unwrap());
    let outcome = write(
        &table,
        7,
        rows(
            &table.schema,
            vec![
                numbers(&[Some(-7)]),
                decimal(199_950, 12, 2),
                decimal(-99_999_999_999_999_999_999_999_999_999_999_999_999, 38, 0),
                Arc::new(Float64Array::from(vec![0.1])),
                Arc::new(BooleanArray::from(vec![true])),
                Arc::new(TimestampMillisecondArray::from(vec![1_770_890_400_500]).with_timezone("UTC")),
                Arc::new(Date32Array::from(vec![0])),
                texts(&[Some("")]),
                texts(&[None]),
                list(&[Some(2), None]),
                list(&[Some(2), Some(1), Some(2)]),
                Arc::new(StructArray::new(fields, vec![texts(&[Some("é")]), numbers(&[None])], None)),
                Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..]])),
            ],
        ),
    )
    .await;
    assert_eq!((outcome.written, reasons(&outcome).len()), (1, 0));
    assert_eq!(
        item(&running),
        json!({
            "id": { "N": "-7" },
            "money": { "N": "1999.5" },
            "big": { "N": "-99999999999999999999999999999999999999" },
            "double": { "N": "0.1" },
            "flag": { "BOOL": true },
            "time": { "S": "2026-02-12T10:00:00.500Z" },
            "day": { "S": "1970-01-01" },
            "empty": { "S": "" },
            "list": { "L": [{ "N": "2" }, { "NULL": true }] },
            "set": { "NS": ["1", "2"] },
            "row": { "M": { "x": { "S": "é" }, "y": { "NULL": true } } },
            "bytes": { "B": "AP8=" },
        })
    );
}

#[tokio::test]
async fn rows_that_dynamodb_would_refuse_are_refused_alone() {
    let running = start(&[("k", "S")]).await;
    let columns =
        [("k", DataType::Utf8), ("v", DataType::Utf8), ("n", DataType::Float64), ("w", DataType::Decimal256(50, 0))];
    let table = table(&running, &columns, &["k"], &[]);
    let (long, large) = ("k".repeat(2_049), "v".repeat(409_600));
    let wide = |v: &str| arrow::datatypes::i256::from_string(v);
    let outcome = write(
        &table,
        1,
        rows(
            &table.schema,
            vec![
                texts(&[Some("a"), Some(""), None, Some(&long), Some("b"), Some("c"), Some("d"), Some("e")]),
                texts(&[Some("v"), None, None, None, Some(&large), None, None, None]),
                Arc::new(Float64Array::from(vec![None, None, None, None, None, Some(f64::NAN), Some(1e200), None])),
                Arc::new(
                    Decimal256Array::from(vec![wide("1"), None, None, None, None, None, None, wide(&"9".repeat(39))])
                        .with_precision_and_scale(50, 0)
                        .unwrap(),
                ),
            ],
        ),
    )
    .await;
    assert_eq!(
        reasons(&outcome),
        [
            "empty_key",
            "null_key",
            "key_too_long",
            "item_too_large",
            "not_a_number",
            "number_out_of_range",
            "number_out_of_range"
        ]
    );
    assert_eq!(outcome.written, 1);
    assert_eq!(item(&running), json!({ "k": { "S": "a" }, "v": { "S": "v" }, "w": { "N": "1" } }));
}

#[tokio::test]
async fn an_item_that_only_dynamodb_finds_too_large_is_refused_with_its_key() {
    let running = start(&[("k", "S")]).await;
    let half = "v".repeat(250_000);
    for (column, expected) in [("one", ""), ("two", "item_too_large")] {
        let table = table(&running, &[("k", DataType::Utf8), (column, DataType::Utf8)], &["k"], &[]);
        let outcome = write(&table, 1, rows(&table.schema, vec![texts(&[Some("a")]), texts(&[Some(&half)])])).await;
        assert_eq!(reasons(&outcome).join(""), expected);
        assert!(outcome.refused.iter().all(|r| r.detail.contains("k=a")));
    }
}

#[tokio::test]
async fn an_epoch_writes_a_key_once_and_keeps_the_attributes_of_others() {
    let running = start(&[("k", "S")]).await;
    let columns = [("k", DataType::Utf8), ("a", DataType::Int64), ("b", DataType::Int64)];
    let mine = table(&running, &columns, &["k"], &[]);
    let other = table(&running, &[("k", DataType::Utf8), ("x", DataType::Int64)], &["k"], &[]);
    write(&other, 5, rows(&other.schema, vec![texts(&[Some("k")]), numbers(&[Some(1)])])).await;
    let mut sink = sink(&mine).unwrap();
    sink.open().await.unwrap();
    let row = |a, b| rows(&mine.schema, vec![texts(&[Some("k")]), numbers(&[a]), numbers(&[b])]);
    for value in 1..100 {
        sink.write(tidemill::contracts::EpochNumber(1), row(Some(value), Some(2))).await.unwrap();
    }
    write_epoch(sink.as_mut(), 1, row(Some(100), None)).await.unwrap();
    assert_eq!(running.count("UpdateItem"), 2);
    assert_eq!(item(&running), json!({ "k": { "S": "k" }, "x": { "N": "1" }, "a": { "N": "100" } }));
    // Gone: the attributes of this INSERT only. An older epoch does not bring them back.
    let gone = Changes { kinds: Some(vec![ChangeKind::Delete]), ..row(None, None) };
    write_epoch(sink.as_mut(), 3, gone).await.unwrap();
    write_epoch(sink.as_mut(), 2, row(Some(7), Some(7))).await.unwrap();
    assert_eq!(item(&running), json!({ "k": { "S": "k" }, "x": { "N": "1" } }));
}

#[tokio::test]
async fn nulls_may_be_ignored_and_items_deleted() {
    let running = start(&[("k", "S")]).await;
    let columns = [("k", DataType::Utf8), ("a", DataType::Int64), ("b", DataType::Int64)];
    let ignoring = table(&running, &columns, &["k"], &[("sink.ignore-nulls", "true"), ("sink.delete", "item")]);
    let two = vec![texts(&[Some("k"), Some("k")]), numbers(&[Some(1), None]), numbers(&[None, Some(2)])];
    write(&ignoring, 1, rows(&ignoring.schema, two)).await;
    assert_eq!(item(&running), json!({ "k": { "S": "k" }, "a": { "N": "1" }, "b": { "N": "2" } }));
    let kinds = Some(vec![ChangeKind::Delete, ChangeKind::Upsert]);
    let replaced = vec![texts(&[Some("k"), Some("k")]), numbers(&[None, Some(9)]), numbers(&[None, None])];
    write(&ignoring, 2, Changes { kinds, ..rows(&ignoring.schema, replaced) }).await;
    assert_eq!(item(&running), json!({ "k": { "S": "k" }, "a": { "N": "9" } }), "a delete before it counts");
    let gone = vec![texts(&[Some("k")]), numbers(&[None]), numbers(&[None])];
    write(&ignoring, 3, Changes { kinds: Some(vec![ChangeKind::Delete]), ..rows(&ignoring.schema, gone) }).await;
    assert_eq!(running.tables.items("m").len(), 0);
}

#[tokio::test]
async fn items_may_expire() {
    let running = start(&[("k", "S")]).await;
    let columns = [("k", DataType::Utf8), ("day", DataType::Utf8)];
    let ttl = [("sink.ttl.attribute", "expires"), ("sink.ttl.after", "3 d"), ("sink.ttl.column", "day")];
    let by_column = table(&running, &columns, &["k"], &ttl);
    let row = |day| rows(&by_column.schema, vec![texts(&[Some("k")]), texts(&[Some(day)])]);
    let outcome = write(&by_column, 1, row("soon")).await;
    assert_eq!(reasons(&outcome), ["bad_timestamp"]);
    write(&by_column, 1, row("2026-02-12T10:00:00.001Z")).await;
    assert_eq!(item(&running)["expires"], json!({ "N": "1771149601" }), "rounded up: never a second too early");
    let by_epoch = table(&running, &columns, &["k"], &ttl[..2]);
    write(&by_epoch, 9, row("x")).await;
    assert_eq!(item(&running)["expires"], json!({ "N": (9 + 3 * 86_400).to_string() }));
}

#[tokio::test]
async fn an_item_whose_time_to_live_is_null_does_not_expire_any_more() {
    let columns = [("k", DataType::Utf8), ("n", DataType::Int64), ("until", DataType::Utf8)];
    let ttl = [("sink.ttl.attribute", "expires"), ("sink.ttl.after", "1 s"), ("sink.ttl.column", "until")];
    let time = "2026-02-12T10:00:00Z";
    for (mode, ignores, kept) in [("update", "false", false), ("add", "false", false), ("update", "true", true)] {
        let running = start(&[("k", "S")]).await;
        let options = [&ttl[..], &[("sink.write-mode", mode), ("sink.ignore-nulls", ignores)]].concat();
        let table = table(&running, &columns, &["k"], &options);
        let row = |until| rows(&table.schema, vec![texts(&[Some("k")]), numbers(&[Some(1)]), texts(&[until])]);
        write(&table, 1, row(Some(time))).await;
        assert_eq!(item(&running)["expires"], json!({ "N": "1770890401" }), "{mode}");
        write(&table, 2, row(None)).await;
        assert_eq!(item(&running).get("expires").is_some(), kept, "{mode}, NULLs ignored: {ignores}");
        // In one epoch, too.
        let both = vec![texts(&[Some("k"); 2]), numbers(&[Some(1); 2]), texts(&[Some(time), None])];
        write(&table, 3, rows(&table.schema, both)).await;
        assert_eq!(item(&running).get("expires").is_some(), kept, "{mode}, NULLs ignored: {ignores}");
    }
}

/// An expression has 4 KB at most.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_adds_as_many_columns_as_an_expression_takes() {
    let names: Vec<String> = (0..200).map(|i| format!("c{i}")).collect();
    let columns = |count: usize| {
        let mut columns = vec![("k", DataType::Utf8)];
        columns.extend(names.iter().take(count).map(|name| (name.as_str(), DataType::Int64)));
        columns
    };
    let running = start(&[("k", "S")]).await;
    let adding = [("sink.write-mode", "add"), ("sink.ttl.attribute", "gone"), ("sink.ttl.after", "1 d")];
    let takes = |count: usize| sink(&table(&running, &columns(count), &["k"], &adding)).map(drop);
    let most = (1..=200).rev().find(|count| takes(*count).is_ok()).unwrap();
    assert!((100..200).contains(&most), "{most}");
    let error = takes(most + 1).expect_err("one more").to_string();
    assert!(error.contains("4096") && error.contains("sink.add.columns"), "{error}");
    // What is taken is taken by the service.
    let Some(emulator) = crate::emulators_of_aws::dynoxide().await else { return };
    let url = format!("http://127.0.0.1:{}", emulator.port);
    crate::tables::create_table(&crate::tables::client(&url), "sums", &[("k", "S")]).await;
    let table = table(&running, &columns(most), &["k"], &adding);
    let table = table.with_option("aws.endpoint", &url).with_option("table-name", "sums");
    for (epoch, value) in [(1, 5), (2, 7)] {
        let numbers = (0..most).map(|_| numbers(&[Some(value)]));
        let columns = std::iter::once(texts(&[Some("k")])).chain(numbers).collect();
        assert_eq!(reasons(&write(&table, epoch, rows(&table.schema, columns)).await), [""; 0]);
    }
}

#[tokio::test]
async fn a_batch_is_written_until_nothing_is_left_of_it() {
    let running = start(&[("k", "S")]).await;
    let mut left = 6;
    running.follow(Box::new(move |operation| match operation {
        "BatchWriteItem" if left > 0 => {
            left -= 1;
            Fault::Partial
        }
        _ => Fault::None,
    }));
    let columns = [("k", DataType::Utf8), ("v", DataType::Int64)];
    let table = table(&running, &columns, &["k"], &[("sink.write-mode", "batch")]);
    let keys: Vec<String> = (0..60).map(|i| i.to_string()).collect();
    let keys: Vec<Option<&str>> = keys.iter().map(|k| Some(k.as_str())).collect();
    write(&table, 1, rows(&table.schema, vec![texts(&keys), numbers(&[Some(1); 60])])).await;
    assert_eq!(running.tables.items("m").len(), 60);
    assert_eq!(running.count("BatchWriteItem"), 9, "3 batches, and a call for each part that was left over");
}

#[tokio::test]
async fn throttling_lasts_as_long_as_it_lasts() {
    let running = start(&[("k", "S")]).await;
    let mut left = 300;
    running.follow(Box::new(move |operation| match operation {
        "UpdateItem" if left > 0 => {
            left -= 1;
            Fault::Throttle
        }
        _ => Fault::None,
    }));
    let columns = [("k", DataType::Utf8), ("v", DataType::Int64)];
    let table = table(&running, &columns, &["k"], &[("sink.requests.max-inflight", "4")]);
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].map(Some);
    write(&table, 1, rows(&table.schema, vec![texts(&keys), numbers(&[Some(1); 10])])).await;
    assert_eq!((running.tables.items("m").len(), running.count("UpdateItem")), (10, 310));
}

#[tokio::test]
async fn what_open_and_the_options_find() {
    let running = start(&[("k", "S"), ("s", "N")]).await;
    let columns = [("k", DataType::Utf8), ("s", DataType::Int64), ("t", DataType::Utf8), ("v", DataType::Boolean)];
    let open = async |keys: &[&str], options: &[(&str, &str)]| -> String {
        let table = table(&running, &columns, keys, options);
        match sink(&table) {
            Err(e) => e.to_string(),
            Ok(mut sink) => sink.open().await.err().map(|e| e.to_string()).unwrap_or_default(),
        }
    };
    assert_eq!(open(&["k", "s"], &[]).await, "");
    for (keys, options, expected) in [
        (&["k"][..], &[][..], "has the key (k, s), the SQL has (k)"),
        (&["s", "k"], &[], "write PRIMARY KEY (k, s)"),
        (&["k", "s"], &[("table-name", "n")], "tidemill provision"),
        (&[], &[], "PRIMARY KEY of 0 columns"),
        (&["k", "s"], &[("sink.write-mode", "upsert")], "it takes update, put, batch, add"),
        (&["k", "s"], &[("sink.write-mode", "batch"), ("sink.delete", "tombstone")], "keeps no tombstones"),
        (&["k", "s"], &[("sink.write-mode", "add"), ("sink.add.columns", "t")], "cannot be added"),
        (&["k", "s"], &[("sink.write-mode", "add")], "nothing to add"),
        (&["k", "s"], &[("sink.sets", "w")], "no column that the INSERT writes"),
        (&["k", "s"], &[("sink.ttl.after", "1 d")], "needs 'sink.ttl.attribute'"),
        (&["k", "s"], &[("sink.ttl.attribute", "t"), ("sink.ttl.after", "1 d")], "hidden attribute"),
        (&["k", "s"], &[("sink.requests.max-inflight", "0")], "from 1 to 1000"),
    ] {
        let error = open(keys, options).await;
        assert!(error.contains(expected), "{keys:?} {options:?}: {error}");
    }
    running.tables.create("m", &[("k", "S"), ("s", "S")]);
    let error = open(&["k", "s"], &[]).await;
    assert!(error.contains("key 's' of DynamoDB table 'm' is of type S") && error.contains("would be N"), "{error}");
    // Flink's way to name the key.
    let mut partitioned = table(&running, &[("k", DataType::Utf8), ("s", DataType::Utf8)], &[], &[]);
    partitioned.partitioned_by = vec!["k".to_owned(), "s".to_owned()];
    write(&partitioned, 1, rows(&partitioned.schema, vec![texts(&[Some("a")]), texts(&[Some("b")])])).await;
    assert_eq!(item(&running), json!({ "k": { "S": "a" }, "s": { "S": "b" } }));
}

#[tokio::test]
async fn sums_are_exact_decimals_beside_values_that_are_set() {
    let running = start(&[("k", "S")]).await;
    let columns = [("k", DataType::Utf8), ("total", DataType::Decimal128(20, 2)), ("at", DataType::Utf8)];
    let table = table(&running, &columns, &["k"], &[("sink.write-mode", "add")]);
    let row = |units: i128, at| {
        let total = Decimal128Array::from(vec![units]).with_precision_and_scale(20, 2).unwrap();
        rows(&table.schema, vec![texts(&[Some("k")]), Arc::new(total), texts(&[Some(at)])])
    };
    for job in ["one", "two"] {
        for (epoch, units, at) in [(1, 1_010, "a"), (2, 1_005, "b"), (1, 1_010, "a"), (2, 1_005, "b")] {
            let mut sink = connectors_of(job, Arc::new(Hurried::default())).sink(&table, "dynamodb").unwrap();
            sink.open().await.unwrap();
            write_epoch(sink.as_mut(), epoch, row(units, at)).await.unwrap();
        }
    }
    assert_eq!(item(&running), json!({ "k": { "S": "k" }, "total": { "N": "20.1" }, "at": { "S": "b" } }));
}

/// What has been set is in the sum already, and nothing says that it is this job's part of it.
#[tokio::test]
async fn a_column_that_was_written_before_it_is_added_does_not_come_on_top() {
    let columns = [("k", DataType::Utf8), ("views", DataType::Int64), ("clicks", DataType::Int64)];
    let adding = ("sink.write-mode", "add");
    for (before, now, column) in [
        (&[][..], &[adding][..], "views"),
        (&[adding, ("sink.add.columns", "views")], &[adding, ("sink.add.columns", "views,clicks")], "clicks"),
        (&[adding], &[adding, ("sink.contribution.attribute", "mine")], "views"),
    ] {
        let running = start(&[("k", "S")]).await;
        let [before, now] = [before, now].map(|options| table(&running, &columns, &["k"], options));
        let row = |key, n| rows(&now.schema, vec![texts(&[Some(key)]), numbers(&[n]), numbers(&[n])]);
        write(&before, 1, row("a", Some(100))).await;
        let mut sink = sink(&now).unwrap();
        sink.open().await.unwrap();
        let error = write_epoch(sink.as_mut(), 2, row("a", Some(105))).await.expect_err("it would be counted twice");
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Config, "{text}");
        assert!(
            text.contains("item k=a of DynamoDB table 'm'") && text.contains(&format!("a '{column}' that")),
            "{text}"
        );
        assert_eq!(item(&running), json!({ "k": { "S": "a" }, "views": { "N": "100" }, "clicks": { "N": "100" } }));
        // What another job has written there is no part of this one's.
        running.tables.create("m", &[("k", "S")]);
        let mut others = connectors_of("other", Arc::new(Hurried::default())).sink(&before, "dynamodb").unwrap();
        others.open().await.unwrap();
        write_epoch(others.as_mut(), 1, row("a", Some(7))).await.unwrap();
        write_epoch(sink.as_mut(), 2, row("a", Some(105))).await.unwrap();
        assert_eq!(item(&running)[column], json!({ "N": "112" }));
    }
}

/// It costs bytes, and says nothing where the run before had come further.
#[tokio::test]
async fn a_refusal_brings_the_item_along_where_the_epoch_is_new() {
    let columns = [("k", DataType::Utf8), ("n", DataType::Int64)];
    for (mode, kind) in [
        ("update", ChangeKind::Upsert),
        ("put", ChangeKind::Upsert),
        ("update", ChangeKind::Delete),
        ("put", ChangeKind::Delete),
    ] {
        let running = start(&[("k", "S")]).await;
        let table = table(&running, &columns, &["k"], &[("sink.write-mode", mode), ("sink.delete", "item")]);
        let row = |n| rows(&table.schema, vec![texts(&[Some("k")]), numbers(&[Some(n)])]);
        write(&table, 9, row(9)).await;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        running.follow_requests(Box::new(move |operation, request| {
            if operation != "DescribeTable" {
                seen.lock().unwrap().push(request.json()["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD");
            }
            Fault::None
        }));
        let mut sink = sink(&table).unwrap();
        sink.open().await.unwrap();
        for (epoch, repeats) in [(5, true), (6, false)] {
            sink.repeats(repeats);
            let changes = Changes { kinds: Some(vec![kind]), ..row(epoch) };
            write_epoch(sink.as_mut(), u64::try_from(epoch).unwrap(), changes).await.unwrap();
        }
        assert_eq!(*asked.lock().unwrap(), [false, true], "{mode}, {kind:?}");
        assert_eq!(item(&running)["n"], json!({ "N": "9" }));
    }
}
