//! Messages that SNS refuses one by one, within an answer that is no error.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::datatypes::DataType;
use tidemill::contracts::{ErrorKind, Sink, TableSpec};

use crate::stub::{Fault, Running, calm};
use crate::support::*;

fn alerts(running: &Running) -> TableSpec {
    let columns = schema(&[("subject", DataType::Utf8), ("message", DataType::Utf8)]);
    spec(&running.url(), "alerts", &columns, &[("topic", "alerts")])
}

fn messages(table: &TableSpec, from: usize, count: usize) -> tidemill::contracts::Changes {
    let bodies: Vec<String> = (from..from + count).map(|n| format!("m{n}")).collect();
    let bodies: Vec<Option<&str>> = bodies.iter().map(|b| Some(b.as_str())).collect();
    rows(&table.schema, vec![texts(&vec![Some("High"); count]), texts(&bodies)])
}

async fn opened(table: &TableSpec) -> Box<dyn Sink> {
    let mut sink = connectors_of("job", Arc::new(Hurried::default())).sink(table, "sns").unwrap();
    sink.open().await.unwrap();
    sink
}

fn published(running: &Running) -> usize {
    running.topics.published.lock().unwrap().len()
}

/// Throttling counts as the sender's fault, and passes all the same.
#[tokio::test]
async fn what_passes_is_published_again_whoever_is_to_blame() {
    for code in [
        "Throttled",
        "ThrottlingException",
        "KMSThrottling",
        "KMSThrottlingException",
        "InternalError",
        "ServiceUnavailable",
    ] {
        for sender in [true, false] {
            let running = Running::start(calm()).await;
            *running.topics.failing.lock().unwrap() = Some((code, sender));
            let mut times = 3;
            running.follow(Box::new(move |operation| {
                times -= i32::from(operation == "PublishBatch");
                if operation == "PublishBatch" && times >= 0 { Fault::Partial } else { Fault::None }
            }));
            let table = alerts(&running);
            let outcome = write_epoch(opened(&table).await.as_mut(), 1, messages(&table, 0, 20)).await.unwrap();
            assert_eq!((reasons(&outcome), published(&running)), (vec![], 20), "{code}");
        }
    }
}

/// Whether SNS refuses the message alone or the call is up to it; the others are published in both cases, and once.
#[tokio::test]
async fn a_call_that_is_refused_for_one_message_keeps_no_other_from_being_published() {
    for delivery in ["at-least-once", "at-most-once"] {
        let running = Running::start(calm()).await;
        running.tables.create("published", &[("id", "S")]);
        *running.topics.refused_text.lock().unwrap() = Some("m4");
        let columns = schema(&[("subject", DataType::Utf8), ("message", DataType::Utf8)]);
        let options = [("topic", "alerts"), ("sink.ledger.table", "published"), ("sink.delivery", delivery)];
        let table = spec(&running.url(), "alerts", &columns, &options);
        for epoch in [1, 1, 2] {
            let outcome = write_epoch(opened(&table).await.as_mut(), epoch, messages(&table, 0, 23)).await.unwrap();
            assert_eq!(reasons(&outcome), ["refused_by_sns"], "{delivery}");
            let record: serde_json::Value =
                serde_json::from_slice(outcome.refused[0].record.as_ref().unwrap()).unwrap();
            assert_eq!(record["message"], "m4");
            // What the ledger knows is not published again.
            assert_eq!(published(&running), if epoch == 1 { 22 } else { 44 }, "{delivery}");
        }
    }
}

/// A topic that refuses everything (a key that it may not use, say) ends its job, and so no alert goes unheard for long; one message
/// in between that is taken shows that the others are to blame.
#[tokio::test]
async fn a_topic_that_refuses_every_message_stops_its_job() {
    let running = Running::start(calm()).await;
    *running.topics.failing.lock().unwrap() = Some(("KMSDisabled", true));
    let table = alerts(&running);
    let mut sink = opened(&table).await;
    let refuses = |all: bool| running.topics.fails_all.store(all, Ordering::SeqCst);
    for epoch in 1..=3 {
        refuses(true);
        let outcome = write_epoch(sink.as_mut(), 2 * epoch, messages(&table, 0, 60)).await.unwrap();
        assert_eq!(reasons(&outcome), ["refused_by_sns"; 60]);
        // The alert itself is told, not only its name.
        let mut told: Vec<serde_json::Value> =
            outcome.refused.iter().map(|row| serde_json::from_slice(row.record.as_ref().unwrap()).unwrap()).collect();
        told.sort_by_key(|record| record["message"].as_str().map(|m| (m.len(), m.to_owned())));
        for (place, record) in told.iter().enumerate() {
            assert_eq!((&record["message"], &record["subject"]), (&format!("m{place}").into(), &"High".into()));
            assert_eq!(record["attributes"]["alert_id"], record["message_id"]);
        }
        refuses(false);
        let outcome = write_epoch(sink.as_mut(), 2 * epoch + 1, messages(&table, 0, 1)).await.unwrap();
        assert_eq!(reasons(&outcome), [""; 0]);
    }
    assert_eq!(published(&running), 3);
    // One after the other, in one epoch or several.
    refuses(true);
    assert_eq!(write_epoch(sink.as_mut(), 10, messages(&table, 0, 60)).await.unwrap().refused.len(), 60);
    let error = write_epoch(sink.as_mut(), 11, messages(&table, 60, 60)).await.expect_err("every message is refused");
    assert_eq!(error.kind(), ErrorKind::Data, "what is done about data that fails is the job's choice");
    let text = error.to_string();
    for part in ["SNS topic 'arn:", "100 messages one after the other", "KMSDisabled", "of subject 'High'", "hint"] {
        assert!(text.contains(part), "'{part}' in {text}");
    }
}
