//! Items that DynamoDB refuses for what only it knows: the keys of a table's indexes. On dynoxide, which checks them.

use std::sync::Arc;

use arrow::datatypes::DataType;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
    ScalarAttributeType,
};
use tidemill::contracts::{ErrorKind, Result, Sink, TableSpec, WriteOutcome};

use crate::emulators_of_aws::{Emulator, dynoxide};
use crate::stub::{Running, calm};
use crate::support::*;
use crate::tables::{client, plain};

const MODES: [&str; 4] = ["update", "put", "batch", "add"];

fn url(emulator: &Emulator) -> String {
    format!("http://127.0.0.1:{}", emulator.port)
}

/// A table with the key `id`, a number, and an index by `k`, a text.
async fn create_indexed(emulator: &Emulator, name: &str) {
    let attribute =
        |name: &str, kind| AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().unwrap();
    let key = |name: &str| KeySchemaElement::builder().attribute_name(name).key_type(KeyType::Hash).build().unwrap();
    let projection = Projection::builder().projection_type(ProjectionType::All).build();
    let index = GlobalSecondaryIndex::builder().index_name("by_k").key_schema(key("k")).projection(projection);
    let create = client(&url(emulator)).create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
    let create = create.attribute_definitions(attribute("id", ScalarAttributeType::N)).key_schema(key("id"));
    let create = create.attribute_definitions(attribute("k", ScalarAttributeType::S));
    create.global_secondary_indexes(index.build().unwrap()).send().await.unwrap();
}

/// What is stored, as `id=k`, in order.
async fn stored(emulator: &Emulator, table: &str) -> Vec<String> {
    let output = client(&url(emulator)).scan().table_name(table).consistent_read(true).send().await.unwrap();
    let text =
        |value: serde_json::Value| value.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
    let shown = |item: &std::collections::HashMap<String, _>| {
        let [id, k] = ["id", "k"].map(|name| item.get(name).map(|value| text(plain(value))).unwrap_or_default());
        format!("{id}={k}")
    };
    let mut found: Vec<String> = output.items().iter().map(shown).collect();
    found.sort();
    found
}

async fn opened(emulator: &Emulator, table: &str, mode: &str) -> (TableSpec, Box<dyn Sink>) {
    let columns = schema(&[("id", DataType::Int64), ("k", DataType::Utf8), ("n", DataType::Int64)]);
    let options = [("table-name", table), ("sink.write-mode", mode)];
    let spec = with_key(spec(&url(emulator), "t", &columns, &options), &["id"]);
    let mut sink = connectors_of("job", Arc::new(Hurried::default())).sink(&spec, "dynamodb").unwrap();
    sink.open().await.unwrap();
    (spec, sink)
}

/// Writes an epoch of rows whose `k` these are; `id` counts from `first`.
async fn write(sink: &mut dyn Sink, spec: &TableSpec, epoch: u64, first: i64, keys: &[&str]) -> Result<WriteOutcome> {
    let ids: Vec<Option<i64>> = (first..).take(keys.len()).map(Some).collect();
    let keys: Vec<Option<&str>> = keys.iter().map(|k| Some(*k)).collect();
    let rows = rows(&spec.schema, vec![numbers(&ids), texts(&keys), numbers(&vec![Some(1); ids.len()])]);
    write_epoch(sink, epoch, rows).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_whose_index_key_is_refused_is_named_and_the_others_are_stored() {
    let Some(emulator) = dynoxide().await else { return };
    for mode in MODES {
        create_indexed(&emulator, mode).await;
        let (spec, mut sink) = opened(&emulator, mode, mode).await;
        let outcome =
            write(sink.as_mut(), &spec, 1, 1, &["a", "", "c"]).await.unwrap_or_else(|e| panic!("{mode}: {e}"));
        assert_eq!(reasons(&outcome), ["refused_by_dynamodb"], "{mode}");
        let detail = &outcome.refused[0].detail;
        assert!(detail.contains("secondary index key") && detail.ends_with("item id=2"), "{mode}: {detail}");
        let record: serde_json::Value = serde_json::from_slice(outcome.refused[0].record.as_ref().unwrap()).unwrap();
        assert_eq!((record["id"].to_string(), &record["k"]), ("2".to_owned(), &"".into()), "{mode}: {record}");
        assert_eq!(stored(&emulator, mode).await, ["1=a", "3=c"], "{mode}");
        // Of a call for 25 items, and of several of them, one each.
        let keys: Vec<&str> = (0..60).map(|i| if i % 20 == 7 { "" } else { "k" }).collect();
        let outcome = write(sink.as_mut(), &spec, 2, 100, &keys).await.unwrap_or_else(|e| panic!("{mode}: {e}"));
        let mut named: Vec<&str> = outcome.refused.iter().filter_map(|r| r.detail.rsplit("item ").next()).collect();
        named.sort_unstable();
        assert_eq!(named, ["id=107", "id=127", "id=147"], "{mode}");
        assert_eq!(stored(&emulator, mode).await.len(), 2 + 57, "{mode}");
    }
}

/// A hash key that has too much, in a table with a local index: an answer of its own, in each mode.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_whose_collection_is_full_is_named_and_the_others_are_stored() {
    for mode in MODES {
        let running = Running::start(calm()).await;
        running.tables.create("m", &[("id", "N")]);
        *running.tables.full.lock().unwrap() = Some("2".to_owned());
        let columns = schema(&[("id", DataType::Int64), ("k", DataType::Utf8), ("n", DataType::Int64)]);
        let options = [("table-name", "m"), ("sink.write-mode", mode)];
        let spec = with_key(spec(&running.url(), "t", &columns, &options), &["id"]);
        let mut sink = connectors_of("job", Arc::new(Hurried::default())).sink(&spec, "dynamodb").unwrap();
        sink.open().await.unwrap();
        let outcome =
            write(sink.as_mut(), &spec, 1, 1, &["a", "b", "c"]).await.unwrap_or_else(|e| panic!("{mode}: {e}"));
        assert_eq!(reasons(&outcome), ["item_collection_too_large"], "{mode}");
        assert!(outcome.refused[0].detail.ends_with("item id=2"), "{mode}: {}", outcome.refused[0].detail);
        assert_eq!(running.tables.items("m").len(), 2, "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_all_of_whose_items_are_refused_stops_its_job() {
    let Some(emulator) = dynoxide().await else { return };
    for mode in MODES {
        create_indexed(&emulator, mode).await;
        let (spec, mut sink) = opened(&emulator, mode, mode).await;
        // Many, but an item is stored between.
        for epoch in 1..=3 {
            let first = 1_000 * i64::try_from(epoch).unwrap();
            let outcome = write(sink.as_mut(), &spec, epoch, first, &[""; 60]).await.unwrap();
            assert_eq!(outcome.refused.len(), 60, "{mode}");
            let outcome = write(sink.as_mut(), &spec, epoch, first + 500, &["good"]).await.unwrap();
            assert_eq!(reasons(&outcome), [""; 0], "{mode}");
        }
        assert_eq!(stored(&emulator, mode).await.len(), 3, "{mode}");
        // One after the other, in one epoch or several.
        assert_eq!(write(sink.as_mut(), &spec, 4, 10_000, &[""; 60]).await.unwrap().refused.len(), 60, "{mode}");
        let error = write(sink.as_mut(), &spec, 5, 11_000, &[""; 60]).await.expect_err("every item is refused");
        assert_eq!(error.kind(), ErrorKind::Data, "{mode}: what is done about data that fails is the job's choice");
        let text = error.to_string();
        for part in ["100 items one after the other", "secondary index key", "item id=110", "hint"] {
            assert!(text.contains(part), "{mode}: '{part}' in {text}");
        }
    }
}
