//! Writing: PutRecords and what fails of it.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema};
use tidemill::connectors::{Connectors, JobContext};
use tidemill::contracts::StartPosition::TrimHorizon;
use tidemill::contracts::{Changes, EpochNumber, Sink, SystemClock, TableSpec};

use crate::aws_stub::{AwsStub, Fault};
use crate::run::{Job, Way, spec};

const S: &str = "out";

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8View, true), Field::new("n", DataType::Int64, true)]))
}

fn sink(stub: &AwsStub, keyed: bool, options: &[(&str, &str)]) -> Box<dyn Sink> {
    let base = spec(&stub.endpoint(), Way::Polling, S, options);
    let mut table = TableSpec::new("out", schema());
    table.options = base.options;
    if keyed {
        table.partitioned_by = vec!["k".to_owned()];
    }
    let job = JobContext { job: "test".to_owned(), generation: 1 };
    Connectors::new(None, Arc::new(SystemClock::new()), job).sink(&table, "kinesis").unwrap()
}

async fn write(sink: &mut dyn Sink, rows: usize) {
    let keys: StringViewArray = (0..rows).map(|i| Some(format!("key-{}", i % 7))).collect();
    let numbers: Int64Array = (0..rows as i64).map(Some).collect();
    let batch = RecordBatch::try_new(schema(), vec![Arc::new(keys), Arc::new(numbers)]).unwrap();
    let outcome = sink.write(EpochNumber(1), Changes { batch, kinds: None }).await.unwrap();
    assert_eq!((outcome.written as usize, outcome.refused.len()), (rows, 0));
    sink.flush(EpochNumber(1), 0).await.unwrap();
}

/// What is in the stream, by key, in the order of the shards.
async fn stored(stub: &AwsStub, records: usize) -> Vec<(String, i64)> {
    let mut job = Job::new(stub, Way::Polling, S, &[]);
    let seen = job.run(TrimHorizon, |s| s.records.len() >= records && s.all_idle()).await.unwrap();
    let parse = |data: &str| {
        let json: serde_json::Value = serde_json::from_str(data).unwrap();
        (json["k"].as_str().unwrap().to_owned(), json["n"].as_i64().unwrap())
    };
    seen.records.iter().map(|r| parse(&r.data)).collect()
}

/// Of a batch only what failed is put again: nothing is missing, nothing is doubled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_failed_records_are_put_again() {
    let stub = AwsStub::start().await;
    stub.create(S, 4);
    stub.state().failing_puts =
        (0..1_500).map(|i| if i % 3 == 0 { "ProvisionedThroughputExceededException" } else { "" }).collect();
    stub.fail("PutRecords", 2, Fault::Error(500, "InternalFailure"));
    write(sink(&stub, true, &[]).as_mut(), 1_200).await;
    let mut numbers: Vec<_> = stored(&stub, 1_200).await.into_iter().map(|r| r.1).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..1_200).collect::<Vec<_>>());
}

/// With `sink.keep-order`, records of a key never overtake each other, whichever fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_of_a_key_is_kept() {
    for aggregation in ["false", "true"] {
        let stub = AwsStub::start().await;
        stub.create(S, 4);
        stub.state().failing_puts = (0..60).map(|i| if i % 2 == 0 { "InternalFailure" } else { "" }).collect();
        write(sink(&stub, true, &[("sink.keep-order", "true"), ("sink.aggregation", aggregation)]).as_mut(), 150).await;
        let got = stored(&stub, 150).await;
        assert_eq!(got.len(), 150);
        for key in 0..7 {
            let of_key: Vec<i64> = got.iter().filter(|r| r.0 == format!("key-{key}")).map(|r| r.1).collect();
            assert!(of_key.is_sorted(), "{of_key:?}");
        }
        let calls = stub.calls("PutRecords");
        assert!(if aggregation == "true" { calls < 20 } else { calls >= 22 }, "{calls} calls");
    }
}

/// Rows without keys of their own are spread over all shards, or, by option, go to one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitioners() {
    for (partitioner, shards) in [("random", 4), ("fixed", 1)] {
        let stub = AwsStub::start().await;
        stub.create(S, 4);
        write(sink(&stub, false, &[("sink.partitioner", partitioner)]).as_mut(), 100).await;
        let used = stub.with(S, |s| s.shards.values().filter(|s| !s.records.is_empty()).count());
        assert_eq!(used, shards, "{partitioner}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_not_there_is_named() {
    let stub = AwsStub::start().await;
    let mut sink = sink(&stub, true, &[]);
    // At the start, not at the first alert a week later.
    let error = sink.open().await.unwrap_err().to_string();
    assert!(error.contains("'out'") && error.contains("check its name"), "{error}");
}

/// The service refuses a call because of one record: it is found, told with its content, and the others are put.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_service_refuses_is_told_and_the_others_are_put() {
    for aggregation in ["false", "true"] {
        let stub = AwsStub::start().await;
        stub.create(S, 4);
        let mut sink = sink(&stub, true, &[("sink.aggregation", aggregation)]);
        let keys: StringViewArray = (0..20).map(|i| Some(format!("key-{}", i % 2))).collect();
        let numbers: Int64Array = (0..20).map(Some).collect();
        let batch = RecordBatch::try_new(schema(), vec![Arc::new(keys), Arc::new(numbers)]).unwrap();
        sink.write(EpochNumber(1), Changes { batch, kinds: None }).await.unwrap();
        // The call, and then the first record by itself: an aggregate of a key's ten rows, or a row.
        stub.fail("PutRecords", 2, Fault::Error(400, "InvalidArgumentException"));
        let outcome = sink.flush(EpochNumber(1), 0).await.unwrap();
        let told: Vec<&str> = outcome.refused.iter().map(|r| r.detail.as_str()).collect();
        assert_eq!(told.len(), if aggregation == "true" { 10 } else { 1 }, "{told:?}");
        assert!(outcome.refused.iter().all(|r| r.reason == "refused_by_kinesis"));
        assert!(told[0].contains(r#"{"k":"key-0","n":0}"#) && told[0].contains("InvalidArgumentException"), "{told:?}");
        assert_eq!(stored(&stub, 20 - told.len()).await.len(), 20 - told.len());
    }
}

/// Nothing but refusals is no fault of the records: the run ends, and says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_refuses_everything_ends_the_run() {
    let stub = AwsStub::start().await;
    stub.create(S, 4);
    let mut sink = sink(&stub, false, &[]);
    let mut failed = None;
    for epoch in 1..=4 {
        let keys: StringViewArray = (0..40).map(|i| Some(format!("key-{i}"))).collect();
        let numbers: Int64Array = (0..40).map(Some).collect();
        let batch = RecordBatch::try_new(schema(), vec![Arc::new(keys), Arc::new(numbers)]).unwrap();
        sink.write(EpochNumber(epoch), Changes { batch, kinds: None }).await.unwrap();
        // The call, and each record by itself.
        stub.fail("PutRecords", 41, Fault::Error(400, "InvalidArgumentException"));
        match sink.flush(EpochNumber(epoch), 0).await {
            Ok(outcome) => assert_eq!(outcome.refused.len(), 40),
            Err(error) => {
                failed = Some((epoch, error.to_string()));
                break;
            }
        }
    }
    let (epoch, error) = failed.expect("it ends");
    assert!(epoch == 3 && error.contains("refuses more than 100 records one after the other"), "{epoch}: {error}");
}
