//! Times within keys: what is finer than a millisecond tells items apart, in each mode, on the stub and embedded; and
//! whole milliseconds are stored as they always were.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType};
use tidemill::connectors::{Connectors, JobContext};
use tidemill::contracts::TableSpec;

use crate::stub::{Running, calm};
use crate::support::*;

/// 2026-02-12T10:00:00.5Z in microseconds.
const BASE: i64 = 1_770_890_400_500_000;
const MODES: [&str; 4] = ["update", "put", "batch", "add"];

fn columns() -> SchemaRef {
    let at = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    schema(&[("k", DataType::Utf8), ("at", at), ("n", DataType::Int64)])
}

fn times(values: &[i64]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values.to_vec()).with_timezone("UTC"))
}

/// Writes an epoch of `n` by the time, with a sink of its own, as a process has it that has just begun.
async fn write(connectors: &Connectors, table: &TableSpec, epoch: u64, values: &[(i64, i64)]) {
    let mut sink = connectors.sink(table, "dynamodb").unwrap();
    sink.open().await.unwrap();
    let (at, n): (Vec<i64>, Vec<Option<i64>>) = values.iter().map(|(at, n)| (*at, Some(*n))).unzip();
    let row = rows(&table.schema, vec![texts(&vec![Some("k"); n.len()]), times(&at), numbers(&n)]);
    let outcome = write_epoch(sink.as_mut(), epoch, row).await.unwrap();
    assert_eq!(reasons(&outcome), [""; 0]);
}

/// `n` of those of the times that have an item.
async fn look_up(connectors: &Connectors, table: &TableSpec, at: &[i64]) -> BTreeMap<i64, i64> {
    let lookup = connectors.lookup(table, "dynamodb").unwrap();
    lookup.open().await.unwrap();
    let key = table.schema.project(&[0, 1]).unwrap();
    let keys = RecordBatch::try_new(Arc::new(key), vec![texts(&vec![Some("k"); at.len()]), times(at)]).unwrap();
    let found = lookup.get(&keys).await.unwrap();
    let at = found.column(1).as_primitive::<TimestampMicrosecondType>().values().to_vec();
    at.into_iter().zip(found.column(2).as_primitive::<Int64Type>().values().to_vec()).collect()
}

/// Items a microsecond apart are items of their own, and are found by just their time.
async fn are_told_apart(connectors: &Connectors, table: &TableSpec) {
    write(connectors, table, 1, &[(BASE, 1), (BASE + 1, 2), (BASE + 2, 3)]).await;
    write(connectors, table, 2, &[(BASE + 2, 5)]).await;
    let found = look_up(connectors, table, &[BASE - 1, BASE, BASE + 1, BASE + 2, BASE + 3]).await;
    assert_eq!(found, BTreeMap::from([(BASE, 1), (BASE + 1, 2), (BASE + 2, 5)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_a_microsecond_apart_are_items_of_their_own() {
    for mode in MODES {
        let running = Running::start(calm()).await;
        running.tables.create("m", &[("k", "S"), ("at", "S")]);
        let options = [("table-name", "m"), ("sink.write-mode", mode)];
        let table = with_key(spec(&running.url(), "m", &columns(), &options), &["k", "at"]);
        are_told_apart(&connectors_of("job", Arc::new(Hurried::default())), &table).await;
        let stored: Vec<String> =
            running.tables.items("m").iter().map(|item| item["at"]["S"].as_str().unwrap().to_owned()).collect();
        // A whole millisecond is stored as before there were finer ones.
        let expected = ["2026-02-12T10:00:00.500001Z", "2026-02-12T10:00:00.500002Z", "2026-02-12T10:00:00.500Z"];
        assert_eq!(stored, expected, "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_they_are_without_aws() {
    for mode in MODES {
        let dir = tempfile::tempdir().unwrap();
        let job = JobContext { job: "job".to_owned(), generation: 1 };
        let local = Connectors::new(Some(dir.path().to_owned()), Arc::new(Hurried::default()), job);
        let options = [("table-name", "m"), ("sink.write-mode", mode)];
        are_told_apart(&local, &with_key(spec("", "m", &columns(), &options), &["k", "at"])).await;
    }
}
