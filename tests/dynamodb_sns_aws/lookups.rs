//! Rows looked up by their keys while calls fail: on the stub, and on emulators behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use tidemill::contracts::{ErrorKind, Lookup, Result};

use crate::emulators_of_aws::{dynoxide, ministack};
use crate::stub::{Fault, Running, calm};
use crate::support::*;
use crate::target::Target;

/// Items `k-0`, `k-2`, … of so many; the odd ones are not there.
const ITEMS: i64 = 500;

fn lookup(target: &Target) -> Arc<dyn Lookup> {
    let columns = schema(&[("k", DataType::Utf8View), ("a", DataType::Int64), ("b", DataType::Int64)]);
    let table = target.spec("dim", &columns, &[]);
    connectors_of("job", Arc::new(Hurried::default())).lookup(&table, "dynamodb").unwrap()
}

async fn ask(lookup: &dyn Lookup, numbers: impl Iterator<Item = i64>) -> Result<BTreeMap<String, i64>> {
    let keys = numbers.map(|n| format!("k-{n}"));
    let keys = Arc::new(arrow::array::StringViewArray::from_iter_values(keys));
    let rows = lookup.get(&RecordBatch::try_new(schema(&[("k", DataType::Utf8View)]), vec![keys]).unwrap()).await?;
    let (keys, values) = (rows.column(0).as_string_view(), rows.column(1).as_primitive::<Int64Type>());
    assert_eq!(rows.num_columns(), 3);
    Ok(keys.iter().map(|k| k.unwrap().to_owned()).zip(values.iter().map(Option::unwrap)).collect())
}

async fn rows_come_through_faults(target: &Target) {
    target.empty().await;
    let columns = schema(&[("k", DataType::Utf8), ("a", DataType::Int64), ("b", DataType::Int64)]);
    let mut sink = connectors_of("job", Arc::new(Hurried::default()))
        .sink(&target.spec("dim", &columns, &[]), "dynamodb")
        .unwrap();
    sink.open().await.unwrap();
    let items = (0..ITEMS).step_by(2).map(|n| (format!("k-{n}"), Some((n, -n)))).collect();
    write_epoch(sink.as_mut(), 1, changes(&columns, &items)).await.unwrap();

    let lookup = lookup(target);
    lookup.open().await.unwrap();
    let wanted: BTreeMap<String, i64> = (0..ITEMS).step_by(2).map(|n| (format!("k-{n}"), n)).collect();
    let before = target.running.count("BatchGetItem");
    assert_eq!(ask(lookup.as_ref(), 0..ITEMS).await.unwrap(), wanted);
    assert_eq!(target.running.count("BatchGetItem") - before, 5, "100 keys a call");
    let storm =
        [Fault::Partial, Fault::Throttle, Fault::CutAfter, Fault::ServerError, Fault::CutBefore, Fault::Partial];
    let mut count = 0;
    target.running.follow(Box::new(move |operation| {
        count += usize::from(operation == "BatchGetItem");
        if operation == "BatchGetItem" && count % 4 != 0 { storm[count % storm.len()] } else { Fault::None }
    }));
    assert_eq!(ask(lookup.as_ref(), 0..ITEMS).await.unwrap(), wanted);
    target.running.follow(calm());
    let met: Vec<Fault> = target.running.calls.lock().unwrap().iter().map(|(_, fault)| *fault).collect();
    assert!(storm.iter().all(|fault| met.contains(fault)), "{met:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_through_faults_on_the_stub() {
    rows_come_through_faults(&Target::stub().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_through_faults_on_emulators() {
    for emulator in [dynoxide().await, ministack().await].into_iter().flatten() {
        rows_come_through_faults(&Target::emulator(emulator.port).await).await;
    }
}

/// Another key than the SQL's, and a table that is not there, are found when a run begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_table_is_named() {
    let target = Target::stub().await;
    let missing = lookup(&target).open().await.unwrap_err();
    assert!(missing.to_string().contains("dynamodb:DescribeTable on 'counters'"), "{missing}");
    target.running.tables.create("counters", &[("other", "S")]);
    let other = lookup(&target).open().await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Config);
    assert!(other.to_string().contains("has the key (other), the SQL has (k)"), "{other}");
}

/// One key that no item can have fails a whole call; no item has it, so it has no row, and the others have theirs.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_no_item_can_have_have_no_row() {
    let running = Running::start(calm()).await;
    running.tables.create("pairs", &[("k", "S"), ("r", "S")]);
    let columns = schema(&[("k", DataType::Utf8), ("r", DataType::Utf8), ("n", DataType::Int64)]);
    let table = with_key(spec(&running.url(), "pairs", &columns, &[("table-name", "pairs")]), &["k", "r"]);
    let connectors = connectors_of("job", Arc::new(Hurried::default()));
    let mut sink = connectors.sink(&table, "dynamodb").unwrap();
    sink.open().await.unwrap();
    let text = |length: usize| "x".repeat(length);
    // As long as may be; what is a byte longer in one of the two, or empty, cannot be stored.
    let (k, r, longer_k, longer_r) = (text(2_048), text(1_024), text(2_049), text(1_025));
    let stored = rows(
        &columns,
        vec![texts(&[Some(&k), Some("k")]), texts(&[Some(&r), Some("r")]), numbers(&[Some(1), Some(2)])],
    );
    assert_eq!(reasons(&write_epoch(sink.as_mut(), 1, stored).await.unwrap()), [""; 0]);
    let lookup = connectors.lookup(&table, "dynamodb").unwrap();
    lookup.open().await.unwrap();
    let pairs = [(&*k, &*r), (&*longer_k, "r"), ("k", &*longer_r), ("k", "r"), ("", "r"), ("k", ""), ("é", "none")];
    let column = |pick: fn(&(&str, &str)) -> String| {
        let values: Vec<String> = pairs.iter().map(pick).collect();
        texts(&values.iter().map(|v| Some(v.as_str())).collect::<Vec<_>>())
    };
    let keys = vec![column(|pair| pair.0.to_owned()), column(|pair| pair.1.to_owned())];
    let keys = RecordBatch::try_new(schema(&[("k", DataType::Utf8), ("r", DataType::Utf8)]), keys).unwrap();
    let found = lookup.get(&keys).await.unwrap();
    let mut values = found.column(2).as_primitive::<Int64Type>().values().to_vec();
    values.sort_unstable();
    assert_eq!(values, [1, 2]);
    // What else a request is refused for is in one of its keys too: the row is to be found, not the job to be ended.
    running.tables.create("pairs", &[("k", "S"), ("r", "N")]);
    let error = lookup.get(&keys).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("does not match the schema"), "{error}");
}
