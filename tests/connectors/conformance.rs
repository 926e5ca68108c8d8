//! Every source: splits are stable, and reading on after any record gives exactly the rest.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::DataType;
use tidemill::connectors::kinesis::local::{LocalStream, PutRecord};
use tidemill::contracts::{Source, StartPosition, SystemClock};

use crate::support::*;

async fn conforms(source: &dyn Source, records: usize) {
    let splits = source.splits().await.unwrap();
    assert_eq!(splits, source.splits().await.unwrap());
    let mut total = 0;
    for split in &splits {
        let all = read_split(source, split, None, StartPosition::TrimHorizon).await;
        total += all.len();
        let again = read_split(source, split, None, StartPosition::TrimHorizon).await;
        assert_eq!(all, again);
        for (index, (_, position)) in all.iter().enumerate() {
            let rest = read_split(source, split, Some(position), StartPosition::TrimHorizon).await;
            assert_eq!(rest, all[index + 1..], "after {position} of {}", split.id);
        }
        let none = read_split(source, split, None, StartPosition::AtTimestamp(i64::MAX)).await;
        assert!(none.is_empty() || source.boundedness() == tidemill::contracts::Boundedness::Bounded);
    }
    assert_eq!(total, records);
}

#[tokio::test]
async fn kinesis_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut stream = LocalStream::open(dir.path(), "s", Some(3), Arc::new(SystemClock::new())).unwrap();
    let lines: Vec<String> = (0..100).map(|i| format!("{{\"n\":{i}}}")).collect();
    for lines in lines.chunks(17) {
        let records: Vec<_> = lines.iter().map(|l| PutRecord::new(l.as_bytes(), l)).collect();
        assert!(stream.put_records(&records).unwrap().iter().all(Result::is_ok));
    }
    let source = connectors(dir.path(), 1).source(&spec("t", schema(&[]), &[("stream", "s")]), "kinesis").unwrap();
    conforms(source.as_ref(), 100).await;
    let mut read = read_source(source.as_ref()).await;
    read.sort_by_key(|l| l.len());
    let mut expected = lines;
    expected.sort_by_key(|l| l.len());
    read.sort();
    expected.sort();
    assert_eq!(read, expected);
}

#[tokio::test]
async fn kinesis_lines() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("kinesis/s");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("a.jsonl"), "{\"a\":1}\r\n\n{\"a\":2}\n{\"a\":3}").unwrap();
    std::fs::write(folder.join("b.jsonl"), "{\"b\":1}\n").unwrap();
    let source = connectors(dir.path(), 1).source(&spec("t", schema(&[]), &[("stream", "s")]), "kinesis").unwrap();
    conforms(source.as_ref(), 4).await;
    assert_eq!(read_source(source.as_ref()).await, ["{\"a\":1}", "{\"a\":2}", "{\"a\":3}", "{\"b\":1}"]);
}

#[tokio::test]
async fn files_of_lines() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("in/sub")).unwrap();
    for (name, text) in [
        ("b.json", "1\n22\n\n333"),
        ("a.json", ""),
        ("sub/c.json", "\u{feff}4\n5\n"),
        (".hidden", "6\n"),
        ("_SUCCESS", ""),
    ] {
        std::fs::write(dir.path().join("in").join(name), text).unwrap();
    }
    let path = dir.path().join("in").display().to_string();
    for format in ["json", "csv"] {
        let spec = spec("t", schema(&[("a", DataType::Int64)]), &[("path", &path), ("format", format)]);
        let source = connectors(dir.path(), 1).source(&spec, "filesystem").unwrap();
        conforms(source.as_ref(), 5).await;
        assert_eq!(read_source(source.as_ref()).await, ["1", "22", "333", "4", "5"]);
    }
}

#[tokio::test]
async fn csv_records_over_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv").display().to_string();
    std::fs::write(&path, "id,text\n1,\"a\nb\"\n2,\"c\"\"d\"\n3,e").unwrap();
    let options = [("path", path.as_str()), ("format", "csv"), ("csv.header", "true")];
    let spec = spec("t", schema(&[("id", DataType::Int64)]), &options);
    let source = connectors(dir.path(), 1).source(&spec, "filesystem").unwrap();
    conforms(source.as_ref(), 3).await;
    assert_eq!(read_source(source.as_ref()).await, ["1,\"a\nb\"", "2,\"c\"\"d\"", "3,e"]);
}

#[tokio::test]
async fn large_files_come_in_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json").display().to_string();
    let mut file = std::fs::File::create(&path).unwrap();
    let lines: Vec<String> =
        (0..40_000).map(|i| format!("{{\"n\":{i},\"pad\":\"{}\"}}", "x".repeat(i % 200))).collect();
    let huge = "y".repeat(5 << 20);
    for (i, line) in lines.iter().enumerate() {
        writeln!(file, "{line}").unwrap();
        if i == 20_000 {
            writeln!(file, "{huge}").unwrap();
        }
    }
    let spec = spec("t", schema(&[("n", DataType::Int64)]), &[("path", &path), ("format", "json")]);
    let source = connectors(dir.path(), 1).source(&spec, "filesystem").unwrap();
    let split = &source.splits().await.unwrap()[0];
    let all = read_split(source.as_ref(), split, None, StartPosition::TrimHorizon).await;
    let mut expected: Vec<&str> = lines.iter().map(String::as_str).collect();
    expected.insert(20_001, &huge);
    assert!(all.iter().map(|r| r.0.as_str()).eq(expected));
    for index in [0, 4_999, 20_000, 20_001, 39_999, 40_000] {
        let rest = read_split(source.as_ref(), split, Some(&all[index].1), StartPosition::TrimHorizon).await;
        assert_eq!(rest.len(), all.len() - index - 1);
        assert_eq!(rest.first(), all.get(index + 1));
    }
}

#[tokio::test]
async fn parquet() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out").display().to_string();
    let columns = schema(&[("id", DataType::Int64), ("text", DataType::Utf8)]);
    let spec = spec("t", columns.clone(), &[("path", &path), ("format", "parquet")]);
    let rows = batch(
        &columns,
        vec![
            Arc::new(Int64Array::from_iter_values(0..60)),
            Arc::new(StringArray::from_iter_values((0..60).map(|i| format!("t{i}")))),
        ],
    );
    write_all(connectors(dir.path(), 1).sink(&spec, "filesystem").unwrap().as_mut(), vec![appends(rows)]).await;
    let source = connectors(dir.path(), 1).source(&spec, "filesystem").unwrap();
    conforms(source.as_ref(), 60).await;
}

#[tokio::test]
async fn datagen() {
    let dir = tempfile::tempdir().unwrap();
    let columns = schema(&[
        ("id", DataType::Int64),
        ("text", DataType::Utf8View),
        ("amount", DataType::Decimal128(10, 2)),
        ("tags", DataType::List(Arc::new(arrow::datatypes::Field::new("element", DataType::Int32, true)))),
    ]);
    let options = [
        ("number-of-rows", "50"),
        ("rows-per-second", "100000"),
        ("fields.id.kind", "sequence"),
        ("fields.id.start", "5"),
        ("fields.id.end", "1000"),
        ("fields.text.length", "7"),
        ("fields.amount.min", "1.5"),
        ("fields.amount.max", "2"),
        ("fields.text.null-rate", "0.5"),
    ];
    let table = spec("t", columns, &options);
    let source = connectors(dir.path(), 1).source(&table, "datagen").unwrap();
    conforms(source.as_ref(), 50).await;
    let rows = read_source(source.as_ref()).await;
    assert!(rows[0].starts_with("{\"id\":5,") && rows[49].starts_with("{\"id\":54,"), "{rows:?}");
    assert!(rows.iter().any(|r| r.contains("\"text\":null")) && rows.iter().any(|r| r.contains("\"text\":\"")));
    let other = connectors(dir.path(), 1).source(&table.with_option("seed", "1"), "datagen").unwrap();
    assert_ne!(rows, read_source(other.as_ref()).await);
}
