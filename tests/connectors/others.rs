//! SNS, print, blackhole, and the check of options.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::DataType;
use tidemill::connectors::describe::Role;
use tidemill::connectors::options::Severity;
use tidemill::connectors::validate_options;
use tidemill::contracts::EpochNumber;

use crate::support::*;

fn lines(dir: &std::path::Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(dir.join("sns/alerts.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// A run that is killed while it writes leaves a part of a line, which never was a record.
#[tokio::test]
async fn a_delivery_stream_without_aws_goes_on_behind_a_torn_line() {
    let dir = tempfile::tempdir().unwrap();
    let columns = schema(&[("n", DataType::Int64)]);
    let table = spec("out", columns.clone(), &[("delivery-stream", "out"), ("format", "json")]);
    let path = dir.path().join("firehose/out.jsonl");
    for n in 0..3 {
        let mut sink = connectors(dir.path(), 1).sink(&table, "firehose").unwrap();
        sink.write(EpochNumber(n), appends(batch(&columns, vec![Arc::new(Int64Array::from(vec![n as i64]))])))
            .await
            .unwrap();
        sink.flush(EpochNumber(n), 0).await.unwrap();
        let mut text = std::fs::read_to_string(&path).unwrap();
        let found: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(found.len() as u64, n + 1);
        text.push_str("{\"n\":1");
        std::fs::write(&path, text).unwrap();
    }
}

#[tokio::test]
async fn sns_messages_and_replay() {
    let dir = tempfile::tempdir().unwrap();
    let columns = schema(&[("subject", DataType::Utf8View), ("message", DataType::Utf8), ("kind", DataType::Utf8)]);
    let table = spec("alerts", columns.clone(), &[("topic", "arn:aws:sns:eu-west-1:1:alerts")]);
    let row = |message: &str| {
        appends(batch(
            &columns,
            vec![
                Arc::new(StringViewArray::from(vec!["High"])),
                Arc::new(StringArray::from(vec![message])),
                Arc::new(StringArray::from(vec![Some("order")])),
            ],
        ))
    };
    let run = |generation| connectors(dir.path(), generation).sink(&table, "sns").unwrap();
    let mut sink = run(1);
    let mut other = run(1);
    for message in ["one", "one", "two"] {
        sink.write(EpochNumber(1), row(message)).await.unwrap();
    }
    sink.flush(EpochNumber(1), 500).await.unwrap();
    other.write(EpochNumber(1), row("one")).await.unwrap();
    other.flush(EpochNumber(1), 500).await.unwrap();
    assert_eq!(lines(dir.path()).len(), 4, "equal rows are messages of their own");
    let first = lines(dir.path())[0].clone();
    assert_eq!(first["message_id"].as_str().unwrap().len(), 32);
    assert_eq!(
        (&first["subject"], &first["message"], &first["published_at"]),
        (&"High".into(), &"one".into(), &"1970-01-01T00:00:00.500Z".into())
    );
    assert_eq!(first["attributes"].to_string(), r#"{"kind":"order"}"#);
    // A crash in the middle of a line, then a replay of the epoch and a new one.
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().append(true).open(dir.path().join("sns/alerts.jsonl")).unwrap();
    file.write_all(b"{\"message_id\":\"torn").unwrap();
    let mut sink = run(2);
    for message in ["one", "one", "two"] {
        sink.write(EpochNumber(1), row(message)).await.unwrap();
    }
    sink.flush(EpochNumber(1), 500).await.unwrap();
    assert_eq!(lines(dir.path()).len(), 4);
    sink.write(EpochNumber(2), row("one")).await.unwrap();
    sink.flush(EpochNumber(2), 900).await.unwrap();
    let all = lines(dir.path());
    assert_eq!((all.len(), &all[4]["message_id"]), (5, &first["message_id"]));
}

/// Two INSERTs write alerts of one id; the run is killed when the first one's are in the file, in the midst of a line of any length.
#[tokio::test]
async fn alerts_of_one_id_are_told_apart_by_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let columns = schema(&[("alert_id", DataType::Utf8), ("message", DataType::Utf8), ("at", DataType::Float64)]);
    let table = spec("alerts", columns.clone(), &[("topic", "alerts")]);
    let row = |all: &[(&str, &str, f64)]| {
        let of = |pick: fn(&(&str, &str, f64)) -> String| -> ArrayRef {
            Arc::new(StringArray::from(all.iter().map(pick).collect::<Vec<_>>()))
        };
        let at = Float64Array::from(all.iter().map(|m| m.2).collect::<Vec<_>>());
        appends(batch(&columns, vec![of(|m| m.0.to_owned()), of(|m| m.1.to_owned()), Arc::new(at)]))
    };
    let one = [("u1", "a \u{7f}\"é\u{1}", 0.1), ("u1", "b", 1e300)];
    let other = [("u1", "c", 0.1), ("u1", "b", 2.0), ("", "b", 2.0), ("", "c", 2.0)];
    let write = async |generation, all: &[(&str, &str, f64)]| {
        let mut sink = connectors(dir.path(), generation).sink(&table, "sns").unwrap();
        sink.write(EpochNumber(1), row(all)).await.unwrap();
        sink.flush(EpochNumber(1), 500).await.unwrap();
        lines(dir.path()).len()
    };
    assert_eq!(write(1, &one).await, 2);
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().append(true).open(dir.path().join("sns/alerts.jsonl")).unwrap();
    file.write_all(&b"x".repeat(3 << 20)).unwrap();
    assert_eq!(write(2, &other).await, 6);
    assert_eq!(write(3, &one).await, 6);
    let turned: Vec<_> = other.iter().rev().copied().collect();
    assert_eq!(write(4, &turned).await, 6);
    // An empty id is none: these are of their own.
    let ids: Vec<String> = lines(dir.path())[4..].iter().map(|line| line["message_id"].to_string()).collect();
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn sns_without_a_message_column_and_limits() {
    let dir = tempfile::tempdir().unwrap();
    let columns = schema(&[("subject", DataType::Utf8), ("amount", DataType::Decimal128(10, 2)), ("t", millis())]);
    let table = spec("alerts", columns.clone(), &[("topic", "alerts")]);
    let long = "é".repeat(101);
    let rows = batch(
        &columns,
        vec![
            Arc::new(StringArray::from(vec![Some("s"), Some(&long), None])),
            Arc::new(Decimal128Array::from(vec![51_723, 1, 2]).with_precision_and_scale(10, 2).unwrap()),
            Arc::new(TimestampMillisecondArray::from(vec![Some(1), None, None]).with_timezone("UTC")),
        ],
    );
    let mut sink = connectors(dir.path(), 1).sink(&table, "sns").unwrap();
    let outcome = sink.write(EpochNumber(1), appends(rows)).await.unwrap();
    assert_eq!(
        (outcome.written, outcome.refused[0].row, outcome.refused[0].reason.as_str()),
        (2, 1, "subject_too_long")
    );
    sink.flush(EpochNumber(1), 0).await.unwrap();
    assert_eq!(lines(dir.path())[0]["message"], r#"{"amount":517.23,"t":"1970-01-01T00:00:00.001Z"}"#);
    assert_eq!(lines(dir.path())[1]["subject"], serde_json::Value::Null);
}

fn problems(connector: &str, role: Role, options: &[(&str, &str)]) -> Vec<(String, Option<String>, Severity)> {
    let options: BTreeMap<String, String> = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    validate_options(connector, &options, role).into_iter().map(|p| (p.key, p.hint, p.severity)).collect()
}

#[test]
fn options_are_checked() {
    let good = [
        ("stream.arn", "arn:aws:kinesis:eu-west-1:1:stream/s"),
        ("aws.region", "eu-west-1"),
        ("format", "json"),
        ("source.init.position", "trim_horizon"),
        ("json.timestamp-format.standard", "ISO-8601"),
        ("scan.watermark.idle-timeout", "30 s"),
    ];
    assert_eq!(problems("kinesis", Role::Source, &good), []);
    let hint = |text: &str| Some(text.to_owned());
    let error = Severity::Error;
    assert_eq!(
        problems("kinesis", Role::Source, &[("steam", "s"), ("format", "jsn")]),
        [
            ("stream".to_owned(), hint("add 'stream' = '…'"), error),
            ("format".to_owned(), hint("did you mean 'json'?"), error),
            ("steam".to_owned(), hint("did you mean 'stream'?"), error),
        ]
    );
    let files = [
        ("path", "x"),
        ("format", "parquet"),
        ("parquet.compression", "GZIP"),
        ("sink.rolling-policy.file-size", "64 pots"),
        ("json.timestamp-format.standard", "SQL"),
    ];
    let found = problems("filesystem", Role::Sink, &files);
    let keys: Vec<&str> = found.iter().map(|p| p.0.as_str()).collect();
    assert_eq!(keys, ["json.timestamp-format.standard", "parquet.compression", "sink.rolling-policy.file-size"]);
    assert_eq!(problems("print", Role::Sink, &[("sink.parallelism", "1")])[0].2, Severity::Note);
}

#[tokio::test]
async fn connectors_say_what_they_cannot_do() {
    let dir = tempfile::tempdir().unwrap();
    let local = connectors(dir.path(), 1);
    let table = spec("t", schema(&[]), &[("stream", "s"), ("path", "s3://b/k"), ("format", "json")]);
    for (error, text) in [
        (local.source(&table, "kafka").err(), "no connector 'kafka'"),
        (local.source(&table, "kinesys").err(), "did you mean 'kinesis'?"),
        (local.source(&table, "print").err(), "cannot be read"),
    ] {
        let error = error.unwrap().to_string();
        assert!(error.contains(text), "{error}");
    }
    let mut sink = local.sink(&table, "blackhole").unwrap();
    let columns = schema(&[("n", DataType::Int64)]);
    let rows = batch(&columns, vec![Arc::new(Int64Array::from(vec![1, 2]))]);
    assert_eq!(sink.write(EpochNumber(1), appends(rows)).await.unwrap().written, 2);
}
