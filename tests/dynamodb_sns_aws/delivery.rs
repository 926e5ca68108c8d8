//! The Firehose sink on the stub.

use std::sync::Arc;

use arrow::datatypes::DataType;

use crate::stub::{Fault, Running, calm};
use crate::support::*;

#[tokio::test]
async fn only_the_failed_records_are_put_again() {
    let mut left = 4;
    let running = Running::start(Box::new(move |operation| match operation {
        "PutRecordBatch" if left > 0 => {
            left -= 1;
            if left == 1 { Fault::Throttle } else { Fault::Partial }
        }
        _ => Fault::None,
    }))
    .await;
    let columns = schema(&[("n", DataType::Int64), ("text", DataType::Utf8)]);
    let options = [("delivery-stream", "events"), ("format", "json"), ("json.encode.ignore-null-fields", "true")];
    let table = spec(&running.url(), "out", &columns, &options);
    let mut sink = connectors_of("job", Arc::new(Hurried::default())).sink(&table, "firehose").unwrap();
    sink.open().await.unwrap();
    let wide: Vec<Option<i64>> = (0..1_200).map(Some).collect();
    let large = "x".repeat(1_024_001);
    let mut column = vec![None; 1_200];
    column[7] = Some(large.as_str());
    let outcome = write_epoch(sink.as_mut(), 1, rows(&columns, vec![numbers(&wide), texts(&column)])).await.unwrap();
    assert_eq!((outcome.written, reasons(&outcome)), (1_199, vec!["record_too_large"]));
    let mut records: Vec<String> =
        running.delivered.lock().unwrap().iter().map(|r| String::from_utf8(r.clone()).unwrap()).collect();
    records.sort();
    let mut expected: Vec<String> = (0..1_200).filter(|n| *n != 7).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    expected.sort();
    assert_eq!(records, expected);
    let deliveries = running.deliveries.lock().unwrap().clone();
    assert!(deliveries.iter().all(|n| *n <= 500) && deliveries.len() <= 8, "{deliveries:?}");
}

#[tokio::test]
async fn options_and_the_embedded_stream() {
    let running = Running::start(calm()).await;
    let columns = schema(&[("n", DataType::Int64)]);
    let connectors = connectors_of("job", Arc::new(Hurried::default()));
    for (options, expected) in [
        (&[("delivery-stream", "a/b"), ("format", "json")][..], "no name for a delivery stream"),
        (&[("delivery-stream", "s"), ("format", "csv")], "in format 'json'"),
    ] {
        let error = connectors.sink(&spec(&running.url(), "out", &columns, options), "firehose").err().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let job = tidemill::connectors::JobContext { job: "job".to_owned(), generation: 1 };
    let local = tidemill::connectors::Connectors::new(Some(dir.path().to_owned()), Arc::new(Hurried::default()), job);
    let table = spec("", "out", &columns, &[("delivery-stream", "s"), ("format", "json")]);
    let mut sink = local.sink(&table, "firehose").unwrap();
    write_epoch(sink.as_mut(), 1, rows(&columns, vec![numbers(&[Some(1), None])])).await.unwrap();
    let text = std::fs::read_to_string(dir.path().join("firehose/s.jsonl")).unwrap();
    assert_eq!(text, "{\"n\":1}\n{\"n\":null}\n");
}
