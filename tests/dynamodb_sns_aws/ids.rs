//! Messages whose id a column gives: several may have one.

use std::sync::Arc;

use arrow::datatypes::DataType;
use tidemill::contracts::{Changes, Sink, TableSpec};

use crate::stub::topics::ARN;
use crate::stub::{Running, calm};
use crate::support::*;

fn alerts(running: &Running, options: &[(&str, &str)]) -> TableSpec {
    let columns = schema(&[("alert_id", DataType::Utf8), ("message", DataType::Utf8), ("kind", DataType::Utf8)]);
    spec(&running.url(), "alerts", &columns, options)
}

/// Rows of id, message and kind.
fn messages(table: &TableSpec, all: &[(&str, &str, &str)]) -> Changes {
    let of = |pick: fn(&(&str, &str, &str)) -> String| {
        let values: Vec<String> = all.iter().map(pick).collect();
        texts(&values.iter().map(|value| Some(value.as_str())).collect::<Vec<_>>())
    };
    rows(&table.schema, vec![of(|m| m.0.to_owned()), of(|m| m.1.to_owned()), of(|m| m.2.to_owned())])
}

async fn opened(table: &TableSpec) -> Box<dyn Sink> {
    let mut sink = connectors_of("job", Arc::new(Hurried::default())).sink(table, "sns").unwrap();
    sink.open().await.unwrap();
    sink
}

/// What is published, in the order of its text.
fn published(running: &Running) -> Vec<String> {
    let published = running.topics.published.lock().unwrap();
    let mut bodies: Vec<String> =
        published.iter().map(|p| format!("{}{}", p.message, p.attributes["kind"].1)).collect();
    bodies.sort();
    bodies
}

/// Two INSERTs write into one table. Each of their alerts is one, though they have one id; a replay in another order brings none again.
#[tokio::test]
async fn alerts_of_one_id_are_told_apart_by_what_they_say() {
    for delivery in ["at-least-once", "at-most-once"] {
        let running = Running::start(calm()).await;
        running.tables.create("published", &[("id", "S")]);
        let options = [("topic", "alerts"), ("sink.ledger.table", "published"), ("sink.delivery", delivery)];
        let table = alerts(&running, &options);
        let one = [("u1", "a", "x"), ("u1", "b", "x"), ("u1", "b", "x")];
        let other = [("u1", "c", "x"), ("u1", "a", "y"), ("u2", "a", "x")];
        for turned in [false, true, false] {
            let mut inserts = [one, other];
            if turned {
                inserts.reverse();
                inserts.iter_mut().for_each(|insert| insert.reverse());
            }
            for insert in inserts {
                let outcome = write_epoch(opened(&table).await.as_mut(), 1, messages(&table, &insert)).await.unwrap();
                assert_eq!(reasons(&outcome), [""; 0], "{delivery}");
            }
            assert_eq!(published(&running), ["ax", "ax", "ay", "bx", "bx", "cx"], "{delivery}, turned: {turned}");
        }
        // An equal one of a later epoch is a new one.
        write_epoch(opened(&table).await.as_mut(), 2, messages(&table, &one[..1])).await.unwrap();
        assert_eq!(published(&running).len(), 7, "{delivery}");
    }
}

/// Entries of rows without a name for them are those of earlier versions: what these have published is not published again.
#[tokio::test]
async fn entries_of_rows_without_a_name_are_as_they_always_were() {
    let running = Running::start(calm()).await;
    running.tables.create("published", &[("id", "S")]);
    let table = alerts(&running, &[("topic", "alerts"), ("sink.ledger.table", "published")]);
    let all = [("", "a", "x"), ("", "a", "x"), ("u1", "a", "x")];
    write_epoch(opened(&table).await.as_mut(), 7, messages(&table, &all)).await.unwrap();
    let items = running.tables.items("published");
    let mut entries: Vec<Vec<&str>> =
        items.iter().map(|item| item["id"]["S"].as_str().unwrap().split('/').skip(1).collect()).collect();
    entries.sort();
    assert_eq!(entries[..2], [["7", "0"], ["7", "1"]]);
    assert_eq!((entries[2][0], entries[2][1].len(), entries[2][2]), ("7", 8, "0"));
}

/// An empty name is none: rows are told apart as without the column.
#[tokio::test]
async fn an_empty_id_is_none() {
    let running = Running::start(calm()).await;
    let topic = format!("{ARN}alerts.fifo");
    let table = alerts(&running, &[("topic", &topic)]);
    let all = [("", "a", "x"), ("", "b", "x"), ("u1", "c", "x"), ("u1", "c", "x")];
    write_epoch(opened(&table).await.as_mut(), 1, messages(&table, &all)).await.unwrap();
    assert_eq!(published(&running), ["ax", "bx", "cx"], "SNS leaves the second one of an id out");
    let published = running.topics.published.lock().unwrap();
    assert!(published.iter().all(|p| !p.attributes["alert_id"].1.is_empty()));
}
