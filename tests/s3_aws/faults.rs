//! A busy service, a cut network, a missing right: nothing is lost, nothing is there twice, and it is said.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::DataType;
use tidemill::contracts::{EpochNumber, TableSpec};

use crate::emulator::{Emulator, both};
use crate::on_aws;
use crate::proxy::{Fault, Proxy};
use crate::support::*;
use crate::writing::record;

fn table(emulator: &Emulator, proxy: &Proxy, path: &str) -> TableSpec {
    let table = emulator.table(path, schema(&[("s", DataType::Utf8View)]), &[("format", "json")]);
    table.with_option("aws.endpoint", &proxy.endpoint)
}

/// 12 MiB: two parts.
fn rows(table: &TableSpec) -> tidemill::contracts::Changes {
    let line = "x".repeat(1 << 16);
    appends(batch(&table.schema, vec![Arc::new(StringViewArray::from_iter_values(vec![line; 192]))]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_gets_through_faults_once() {
    for emulator in both().await {
        let bucket = emulator.bucket("faults").await;
        let proxy = Proxy::before(&emulator.endpoint).await;
        let table = table(&emulator, &proxy, "s3://faults/out");
        proxy.next(2, "GET", "list-type=2", Fault::Answer(503, "SlowDown"));
        proxy.next(1, "GET", "uploads", Fault::Answer(500, "InternalError"));
        proxy.next(1, "POST", "uploads", Fault::Answer(503, "SlowDown"));
        proxy.next(1, "PUT", "partNumber=1", Fault::LoseAnswer);
        proxy.next(2, "PUT", "partNumber=2", Fault::Answer(503, "SlowDown"));
        proxy.next(1, "POST", "uploadId=", Fault::Answer(500, "InternalError"));
        // It is completed, and nobody hears of it: what the client sends again is refused.
        proxy.next(1, "POST", "uploadId=", Fault::LoseAnswer);
        let mut sink = on_aws(1).sink(&table, "s3").unwrap();
        sink.write(EpochNumber(1), rows(&table)).await.unwrap();
        let staged = sink.finish(EpochNumber(1)).await.unwrap();
        assert!(bucket.keys().await.is_empty());
        sink.commit(staged).await.unwrap();
        assert_eq!(proxy.left(), 0, "{}: every fault was met", emulator.name);
        assert_eq!(bucket.keys().await, ["out/part-test-1-0-e1.jsonl"]);
        assert_eq!(bucket.get("out/part-test-1-0-e1.jsonl").await.len(), 192 * ((1 << 16) + 9), "{}", emulator.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_gets_through_faults_once() {
    for emulator in both().await {
        let bucket = emulator.bucket("reads").await;
        let lines: String = (0..100_000).map(|n| format!("{{\"s\":\"{n:0>80}\"}}\n")).collect();
        bucket.put("in/a.json", lines.clone()).await;
        let proxy = Proxy::before(&emulator.endpoint).await;
        let table = table(&emulator, &proxy, "s3://reads/in");
        proxy.next(1, "GET", "list-type=2", Fault::Answer(503, "SlowDown"));
        proxy.next(1, "HEAD", "a.json", Fault::LoseAnswer);
        proxy.next(1, "GET", "a.json", Fault::Answer(503, "SlowDown"));
        proxy.next(1, "GET", "a.json", Fault::HalfAnswer);
        let read = read_source(on_aws(1).source(&table, "s3").unwrap().as_ref()).await;
        assert_eq!(proxy.left(), 0, "{}: every fault was met", emulator.name);
        assert_eq!(read.join("\n") + "\n", lines, "{}", emulator.name);
    }
}

/// Refused records are in the error output once more where an answer was lost, and in objects of their own where none can be put again.
#[tokio::test(flavor = "multi_thread")]
async fn the_error_output_gets_through_faults() {
    for emulator in both().await {
        let bucket = emulator.bucket("refused").await;
        let proxy = Proxy::before(&emulator.endpoint).await;
        let table = table(&emulator, &proxy, "s3://refused/out");
        let mut output = on_aws(4).error_output_beside("s3://refused/errors", &table).unwrap();
        let denied = || Fault::Answer(403, "AccessDenied");
        for (number, fault) in [
            // It is there, and the next name is taken.
            (0, Some(Fault::LoseAnswer)),
            (1, None),
            // The object has the line, and is not the one any more that was put.
            (2, Some(Fault::LoseAnswer)),
            (3, Some(Fault::Answer(503, "SlowDown"))),
            (4, Some(denied())),
            (5, None),
            (6, None),
        ] {
            if let Some(fault) = fault {
                proxy.next(1, "PUT", "errors-", fault);
            }
            output.write(&[record(number, 10)]).await.unwrap();
            output.flush().await.unwrap();
            assert_eq!(proxy.left(), 0, "{}: every fault was met", emulator.name);
        }
        let mut found = Vec::new();
        for key in bucket.keys().await {
            let text = String::from_utf8(bucket.get(&key).await).unwrap();
            let numbers = text.lines().map(|line| line.split("\"sequence_number\":\"").nth(1).unwrap()[..1].to_owned());
            found.push(numbers.collect::<String>());
        }
        assert_eq!(found, ["0", "012", "23", "4", "5", "6"], "{}", emulator.name);
        proxy.next(1, "PUT", "errors-", denied());
        output.write(&[record(7, 10)]).await.unwrap();
        let error = output.flush().await.unwrap_err().to_string();
        assert!(error.contains("error output") && error.contains("allow the action 's3:PutObject' on it"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named() {
    for emulator in both().await {
        emulator.bucket("denied").await;
        let proxy = Proxy::before(&emulator.endpoint).await;
        let table = table(&emulator, &proxy, "s3://denied/out");
        let denied = || Fault::Answer(403, "AccessDenied");
        for (method, part, action) in [
            ("GET", "list-type=2", "s3:ListBucket"),
            ("GET", "uploads", "s3:ListBucketMultipartUploads"),
            ("POST", "uploads", "s3:PutObject"),
            ("PUT", "partNumber", "s3:PutObject"),
        ] {
            proxy.next(1, method, part, denied());
            let mut sink = on_aws(1).sink(&table, "s3").unwrap();
            let done = async {
                sink.open().await?;
                sink.write(EpochNumber(1), rows(&table)).await?;
                sink.finish(EpochNumber(1)).await
            };
            let error = done.await.unwrap_err().to_string();
            assert_eq!(proxy.left(), 0, "{}: {method} {part}: {error}", emulator.name);
            let hint = format!("allow the action '{action}' on it");
            assert!(error.contains(&hint) && error.contains("request R1") && error.contains("table 't'"), "{error}");
        }
    }
}
