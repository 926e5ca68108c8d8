//! Files: whole or not at all, partitions, rolling, formats, errors, reference tables.

use std::path::Path;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use tidemill::contracts::{
    Arrivals, ChangeKind, Changes, Decoded, EpochNumber, RawChunk, RecordRange, RejectReason, RejectedRecord,
    SequenceNumbers, SplitId, TableSpec,
};

use crate::support::*;

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

fn numbers(values: std::ops::Range<i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn table(dir: &Path, format: &str, columns: &[(&str, DataType)]) -> TableSpec {
    spec("t", schema(columns), &[("path", &path(dir, "out")), ("format", format)])
}

#[tokio::test]
async fn a_file_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let table = table(dir.path(), "json", &[("n", DataType::Int64)]);
    let out = dir.path().join("out");
    let mut sink = connectors(dir.path(), 7).sink(&table, "filesystem").unwrap();
    sink.write(EpochNumber(1), appends(batch(&table.schema, vec![numbers(0..3)]))).await.unwrap();
    sink.flush(EpochNumber(1), 1_000).await.unwrap();
    assert!(sink.prepare(EpochNumber(1)).await.unwrap().is_empty());
    assert_eq!(tree(&out), [".part-test-7-0-e1.jsonl"]);
    let staged = sink.finish(EpochNumber(2)).await.unwrap();
    assert_eq!((staged.len(), tree(&out)), (1, vec![".part-test-7-0-e1.jsonl".to_owned()]));
    let source = connectors(dir.path(), 7).source(&table, "filesystem").unwrap();
    assert!(source.splits().await.unwrap().is_empty());
    sink.commit(staged.clone()).await.unwrap();
    assert_eq!(tree(&out), ["part-test-7-0-e1.jsonl"]);
    // Again, also by another sink in a later run.
    sink.commit(staged.clone()).await.unwrap();
    let mut later = connectors(dir.path(), 8).sink(&table, "filesystem").unwrap();
    later.commit(staged.clone()).await.unwrap();
    assert_eq!(
        std::fs::read_to_string(out.join("part-test-7-0-e1.jsonl")).unwrap(),
        "{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n"
    );
    std::fs::remove_file(out.join("part-test-7-0-e1.jsonl")).unwrap();
    assert!(later.commit(staged).await.is_err(), "lost rows are said");
}

#[tokio::test]
async fn leftovers_go_but_staged_files_can_still_be_committed() {
    let dir = tempfile::tempdir().unwrap();
    let table = table(dir.path(), "json", &[("n", DataType::Int64)]);
    let rows = || appends(batch(&table.schema, vec![numbers(0..1)]));
    let mut first = connectors(dir.path(), 1).sink(&table, "filesystem").unwrap();
    first.write(EpochNumber(1), rows()).await.unwrap();
    let staged = first.finish(EpochNumber(1)).await.unwrap();
    first.write(EpochNumber(2), rows()).await.unwrap();
    drop(first);
    let mut second = connectors(dir.path(), 2).sink(&table, "filesystem").unwrap();
    second.commit(staged).await.unwrap();
    second.write(EpochNumber(2), rows()).await.unwrap();
    assert_eq!(tree(&dir.path().join("out")), [".part-test-2-0-e2.jsonl", "part-test-1-0-e1.jsonl"]);
    // A run that crashed before it saved anything is followed by one of the same generation.
    drop(second);
    let mut again = connectors(dir.path(), 2).sink(&table, "filesystem").unwrap();
    again.write(EpochNumber(2), rows()).await.unwrap();
    let staged = again.finish(EpochNumber(2)).await.unwrap();
    again.commit(staged).await.unwrap();
    assert_eq!(tree(&dir.path().join("out")), ["part-test-1-0-e1.jsonl", "part-test-2-0-e2.jsonl"]);
}

#[tokio::test]
async fn files_roll_by_size_and_age() {
    let dir = tempfile::tempdir().unwrap();
    let base = table(dir.path(), "json", &[("n", DataType::Int64)]);
    let by_size = base.clone().with_option("sink.rolling-policy.file-size", "100 b");
    let mut sink = connectors(dir.path(), 1).sink(&by_size, "filesystem").unwrap();
    let mut staged = Vec::new();
    for epoch in 0..4 {
        sink.write(EpochNumber(epoch), appends(batch(&base.schema, vec![numbers(0..9)]))).await.unwrap();
        sink.flush(EpochNumber(epoch), 0).await.unwrap();
        staged.push(sink.prepare(EpochNumber(epoch)).await.unwrap().len());
    }
    assert_eq!(staged, [0, 1, 0, 1]);
    let by_age = base.clone().with_option("sink.rolling-policy.rollover-interval", "10 s");
    let mut sink = connectors(dir.path(), 2).sink(&by_age, "filesystem").unwrap();
    sink.write(EpochNumber(1), appends(batch(&base.schema, vec![numbers(0..1)]))).await.unwrap();
    for (now, staged) in [(5_000, 0), (14_999, 0), (15_000, 1), (99_000, 0)] {
        sink.flush(EpochNumber(1), now).await.unwrap();
        assert_eq!(sink.prepare(EpochNumber(1)).await.unwrap().len(), staged, "at {now}");
    }
    // The clock is put back by an hour: the file does not stay open for so long.
    sink.write(EpochNumber(2), appends(batch(&base.schema, vec![numbers(0..1)]))).await.unwrap();
    let hour = 3_600_000;
    for (now, staged) in [(hour, 0), (5_000, 0), (14_999, 0), (15_000, 1)] {
        sink.flush(EpochNumber(2), now).await.unwrap();
        assert_eq!(sink.prepare(EpochNumber(2)).await.unwrap().len(), staged, "at {now}");
    }
}

fn partitioned(dir: &Path, format: &str) -> TableSpec {
    let mut table =
        table(dir, format, &[("n", DataType::Int64), ("year", DataType::Utf8View), ("day", DataType::Int32)]);
    table.partitioned_by = vec!["year".to_owned(), "day".to_owned()];
    table
}

#[tokio::test]
async fn partitions_are_folders_and_read_back() {
    for format in ["parquet", "csv"] {
        let dir = tempfile::tempdir().unwrap();
        let table = partitioned(dir.path(), format);
        let many = batch(
            &table.schema,
            vec![
                numbers(0..5),
                Arc::new(StringViewArray::from(vec![Some("2026"), Some("a/b=c"), Some("2026"), None, Some("2026")])),
                Arc::new(Int32Array::from(vec![12, 1, 12, 2, 13])),
            ],
        );
        let one = batch(
            &table.schema,
            vec![
                numbers(5..7),
                Arc::new(StringViewArray::from(vec!["2026"; 2])),
                Arc::new(Int32Array::from(vec![12; 2])),
            ],
        );
        let connectors = connectors(dir.path(), 1);
        write_all(connectors.sink(&table, "filesystem").unwrap().as_mut(), vec![appends(many), appends(one)]).await;
        let folders: Vec<String> =
            tree(&dir.path().join("out")).iter().map(|f| f.rsplit_once('/').unwrap().0.to_owned()).collect();
        assert_eq!(
            folders,
            ["year=2026/day=12", "year=2026/day=13", "year=__DEFAULT_PARTITION__/day=2", "year=a%2Fb%3Dc/day=1"]
        );
        let source = connectors.source(&table, "filesystem").unwrap();
        if format == "parquet" {
            let mut rows = read_source(source.as_ref()).await;
            rows.sort();
            assert_eq!(rows[0], r#"{"n":0,"year":"2026","day":12}"#);
            assert_eq!(rows[1], r#"{"n":1,"year":"a/b=c","day":1}"#);
            assert_eq!(rows[3], r#"{"n":3,"year":null,"day":2}"#);
            assert_eq!(rows.len(), 7);
        } else {
            let splits = source.splits().await.unwrap();
            let columns = source.split_columns(&splits[3]).unwrap();
            assert_eq!(columns[0].1.as_string_view().value(0), "a/b=c");
            assert_eq!(columns[1].1.as_primitive::<arrow::datatypes::Int32Type>().value(0), 1);
            // Partition columns are not in the file, so they do not count as fields of its records.
            let files = connectors.reference(&table, "filesystem").unwrap();
            assert_eq!(files.load().await.unwrap().1.num_rows(), 7);
        }
    }
}

fn nested() -> (TableSpec, RecordBatch, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let data = Fields::from(vec![
        Field::new("user", DataType::Utf8View, true),
        Field::new("amount", DataType::Decimal128(38, 18), true),
        Field::new(
            "deep",
            DataType::Struct(
                vec![Field::new("x", DataType::Int32, true), Field::new("y", DataType::Int32, true)].into(),
            ),
            true,
        ),
    ]);
    let item = Arc::new(Field::new("element", DataType::Utf8View, true));
    let columns = [
        ("id", DataType::Int64),
        ("t", millis()),
        ("data", DataType::Struct(data.clone())),
        ("tags", DataType::List(item)),
    ];
    let table = table(dir.path(), "parquet", &columns);
    let deep = StructArray::try_new(
        vec![Field::new("x", DataType::Int32, true), Field::new("y", DataType::Int32, true)].into(),
        vec![Arc::new(Int32Array::from(vec![1, 2, 3])), Arc::new(Int32Array::from(vec![None, Some(5), None]))],
        Some(vec![true, false, true].into()),
    );
    let row = StructArray::try_new(
        data,
        vec![
            Arc::new(StringViewArray::from(vec![Some("a longer string than twelve"), None, Some("c")])),
            Arc::new(
                Decimal128Array::from(vec![Some(1_500_000_000_000_000_000), None, Some(0)])
                    .with_precision_and_scale(38, 18)
                    .unwrap(),
            ),
            Arc::new(deep.unwrap()),
        ],
        Some(vec![true, true, false].into()),
    );
    let mut tags = ListBuilder::new(StringViewBuilder::new()).with_field(Arc::new(Field::new(
        "element",
        DataType::Utf8View,
        true,
    )));
    tags.append_value([Some("x"), None]);
    tags.append_null();
    tags.append_value::<[Option<&str>; 0], &str>([]);
    let rows = batch(
        &table.schema,
        vec![
            numbers(1..4),
            Arc::new(TimestampMillisecondArray::from(vec![Some(1), None, Some(-1)]).with_timezone("UTC")),
            Arc::new(row.unwrap()),
            Arc::new(tags.finish()),
        ],
    );
    (table, rows, dir)
}

#[tokio::test]
async fn parquet_keeps_nested_rows_and_reads_pruned_ones() {
    for compression in ["SNAPPY", "ZSTD", "UNCOMPRESSED"] {
        let (table, rows, dir) = nested();
        let written = table.clone().with_option("parquet.compression", compression);
        let connectors = connectors(dir.path(), 1);
        write_all(connectors.sink(&written, "filesystem").unwrap().as_mut(), vec![appends(rows)]).await;
        let all = read_source(connectors.source(&table, "filesystem").unwrap().as_ref()).await;
        assert_eq!(
            all,
            [
                r#"{"id":1,"t":"1970-01-01T00:00:00.001Z","data":{"user":"a longer string than twelve","amount":1.500000000000000000,"deep":{"x":1,"y":null}},"tags":["x",null]}"#,
                r#"{"id":2,"t":null,"data":{"user":null,"amount":null,"deep":null},"tags":null}"#,
                r#"{"id":3,"t":"1969-12-31T23:59:59.999Z","data":null,"tags":[]}"#,
            ]
        );
        let y = Fields::from(vec![Field::new("y", DataType::Int64, true)]);
        let data = Fields::from(vec![
            Field::new("deep", DataType::Struct(y), true),
            Field::new("user", DataType::Utf8, true),
            Field::new("added_later", DataType::Utf8, true),
        ]);
        let mut pruned = table.clone();
        pruned.schema = schema(&[("data", DataType::Struct(data)), ("new", DataType::Int32), ("id", DataType::Int32)]);
        let some = read_source(connectors.source(&pruned, "filesystem").unwrap().as_ref()).await;
        assert_eq!(
            some,
            [
                r#"{"data":{"deep":{"y":null},"user":"a longer string than twelve","added_later":null},"new":null,"id":1}"#,
                r#"{"data":{"deep":null,"user":null,"added_later":null},"new":null,"id":2}"#,
                r#"{"data":null,"new":null,"id":3}"#,
            ]
        );
    }
}

#[tokio::test]
async fn json_with_a_key_takes_updates() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = table(dir.path(), "json", &[("k", DataType::Utf8), ("n", DataType::Int64)]);
    let rows = batch(&table.schema, vec![Arc::new(StringArray::from(vec!["a", "b"])), numbers(1..3)]);
    let changes = || Changes { batch: rows.clone(), kinds: Some(vec![ChangeKind::Upsert, ChangeKind::Delete]) };
    let mut sink = connectors(dir.path(), 1).sink(&table, "filesystem").unwrap();
    let error = sink.write(EpochNumber(1), changes()).await.unwrap_err().to_string();
    assert!(error.contains("PRIMARY KEY"), "{error}");
    table.primary_key = vec!["k".to_owned()];
    write_all(connectors(dir.path(), 2).sink(&table, "filesystem").unwrap().as_mut(), vec![changes()]).await;
    let text = std::fs::read_to_string(dir.path().join("out/part-test-2-0-e1.jsonl")).unwrap();
    assert_eq!(text, "{\"k\":\"a\",\"n\":1}\n{\"k\":\"b\",\"__op\":\"delete\"}\n");
}

#[tokio::test]
async fn json_options() {
    let dir = tempfile::tempdir().unwrap();
    let base = table(dir.path(), "json", &[("t", millis()), ("a", DataType::Decimal128(12, 2))]);
    let rows = || {
        batch(
            &base.schema,
            vec![
                Arc::new(TimestampMillisecondArray::from(vec![Some(1_770_890_400_500), None]).with_timezone("UTC")),
                Arc::new(Decimal128Array::from(vec![None, Some(1999)]).with_precision_and_scale(12, 2).unwrap()),
            ],
        )
    };
    let iso = base
        .clone()
        .with_option("json.timestamp-format.standard", "ISO-8601")
        .with_option("json.encode.ignore-null-fields", "true");
    for (generation, table, expected) in [
        (1, &base, "{\"t\":\"2026-02-12 10:00:00.5Z\",\"a\":null}\n{\"t\":null,\"a\":19.99}\n"),
        (2, &iso, "{\"t\":\"2026-02-12T10:00:00.5Z\"}\n{\"a\":19.99}\n"),
    ] {
        write_all(
            connectors(dir.path(), generation).sink(table, "filesystem").unwrap().as_mut(),
            vec![appends(rows())],
        )
        .await;
        let text = std::fs::read_to_string(dir.path().join(format!("out/part-test-{generation}-0-e1.jsonl"))).unwrap();
        assert_eq!(text, expected);
    }
}

#[tokio::test]
async fn csv_goes_out_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let item = Arc::new(Field::new("element", DataType::Int32, true));
    let columns = [
        ("id", DataType::Int64),
        ("text", DataType::Utf8View),
        ("amount", DataType::Decimal128(10, 4)),
        ("t", millis()),
        ("day", DataType::Date32),
        ("ok", DataType::Boolean),
        ("d", DataType::Float64),
        ("tags", DataType::List(item.clone())),
    ];
    let table =
        table(dir.path(), "csv", &columns).with_option("csv.header", "true").with_option("csv.null-literal", "\\N");
    let mut tags = ListBuilder::new(Int32Builder::new()).with_field(item);
    tags.append_value([Some(1), Some(2)]);
    tags.append_null();
    let rows = batch(
        &table.schema,
        vec![
            numbers(1..3),
            Arc::new(StringViewArray::from(vec![Some("a \"b\",\nc"), None])),
            Arc::new(Decimal128Array::from(vec![Some(35_000), None]).with_precision_and_scale(10, 4).unwrap()),
            Arc::new(TimestampMillisecondArray::from(vec![Some(1_770_890_400_500), None]).with_timezone("UTC")),
            Arc::new(Date32Array::from(vec![Some(1), None])),
            Arc::new(BooleanArray::from(vec![Some(true), None])),
            Arc::new(Float64Array::from(vec![Some(0.5), None])),
            Arc::new(tags.finish()),
        ],
    );
    let connectors = connectors(dir.path(), 1);
    write_all(connectors.sink(&table, "filesystem").unwrap().as_mut(), vec![appends(rows.clone())]).await;
    let text = std::fs::read_to_string(dir.path().join("out/part-test-1-0-e1.csv")).unwrap();
    assert_eq!(
        text,
        "id,text,amount,t,day,ok,d,tags\n1,\"a \"\"b\"\",\nc\",3.5000,2026-02-12 10:00:00.5Z,1970-01-02,true,0.5,1;2\n2,\\N,\\N,\\N,\\N,\\N,\\N,\\N\n"
    );
    let (_, back) = connectors.reference(&table, "filesystem").unwrap().load().await.unwrap();
    assert_eq!(back, rows);
    // Columns by name: another order, fewer of them, one that the file lacks.
    let mut other = table.clone();
    other.schema = schema(&[("d", DataType::Float64), ("none", DataType::Int32), ("id", DataType::Int32)]);
    let (_, back) = connectors.reference(&other, "filesystem").unwrap().load().await.unwrap();
    assert_eq!(back.column(2).as_primitive::<arrow::datatypes::Int32Type>().values(), &[1, 2]);
    assert_eq!(back.column(1).null_count(), 2);
}

/// What the decoder of a CSV table makes of records.
fn decoded(table: &TableSpec, records: &[&str]) -> Decoded {
    let mut at = 0;
    let ranges = records.iter().map(|r| {
        let start = at;
        at += r.len() as u32;
        RecordRange { start, end: at }
    });
    let chunk = RawChunk {
        split: SplitId("s".into()),
        records: ranges.collect(),
        data: arrow::buffer::Buffer::from_vec(records.concat().into_bytes()),
        sequence: SequenceNumbers::Dense { first: 0 },
        arrivals: Arrivals::Same(0),
        partition_keys: None,
    };
    tidemill::formats::decoder("csv", table, None).unwrap().decode(&chunk)
}

/// Producers end each record of a stream by a line end. What Flink 2.3 makes of these records (`CsvRowDataDeserializationSchema`), but for an
/// empty number, which it refuses.
#[test]
fn line_ends_behind_a_record_are_no_part_of_it() {
    let table = TableSpec::new("t", schema(&[("n", DataType::Int32), ("s", DataType::Utf8)]));
    let turned = TableSpec::new("t", schema(&[("s", DataType::Utf8), ("n", DataType::Int32)]));
    let escaping = table.clone().with_option("csv.escape-character", "\\");
    for (table, record, wanted) in [
        (&table, "1,home\n", Some((Some(1), "home"))),
        (&table, "1,home\r\n", Some((Some(1), "home"))),
        (&table, "1,home\r", Some((Some(1), "home"))),
        (&table, "1,home\n\n", Some((Some(1), "home"))),
        (&table, "1,\"home\"\n", Some((Some(1), "home"))),
        (&table, "1,\"home\"\r\n", Some((Some(1), "home"))),
        (&table, "1,\"home\n\"", Some((Some(1), "home\n"))),
        (&table, "1,\"home\n", None),
        (&table, "1,\n", Some((Some(1), ""))),
        (&table, "\n", None),
        (&table, "1,home\\\n", Some((Some(1), "home\\"))),
        (&escaping, "1,home\\\n", Some((Some(1), "home\n"))),
        (&escaping, "1,home\\\\\n", Some((Some(1), "home\\"))),
        (&turned, "a,1\n", Some((Some(1), "a"))),
        (&turned, "a,\r\n", Some((None, "a"))),
    ] {
        let batch = decoded(table, &[record]).batch;
        let n = batch.column_by_name("n").unwrap().as_primitive::<arrow::datatypes::Int32Type>();
        let s = batch.column_by_name("s").unwrap().as_string::<i32>();
        let got = (batch.num_rows() > 0).then(|| (n.iter().next().flatten(), s.value(0)));
        assert_eq!(got, wanted, "{record:?}");
    }
}

/// Which of them is meant, nobody knows. A table that does not read it takes the others.
#[tokio::test]
async fn a_name_that_a_header_has_twice_is_read_by_nobody() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("out"), "id,text,text\n1,a,b\n2,c,d\n").unwrap();
    let both = table(dir.path(), "csv", &[("id", DataType::Int64), ("text", DataType::Utf8View)])
        .with_option("csv.header", "true");
    let connectors = connectors(dir.path(), 1);
    let error = connectors.reference(&both, "filesystem").unwrap().load().await.unwrap_err().to_string();
    for part in ["out', byte 13", "in column 'text'", "the file's header has this name more than once"] {
        assert!(error.contains(part), "'{part}' in {error}");
    }
    let mut one = both.clone();
    one.schema = schema(&[("id", DataType::Int64)]);
    let (_, rows) = connectors.reference(&one, "filesystem").unwrap().load().await.unwrap();
    assert_eq!(rows.column(0).as_ref(), numbers(1..3).as_ref());
}

/// What folders say, records have not; where a column is NOT NULL, the folder must say it.
#[tokio::test]
async fn a_reference_table_takes_columns_that_are_not_null_from_folders() {
    for (format, record) in [("json", "{\"n\":1}\n"), ("csv", "1\n")] {
        let dir = tempfile::tempdir().unwrap();
        let mut table = table(dir.path(), format, &[]);
        let day = Field::new("day", DataType::Utf8View, false);
        table.schema = Arc::new(Schema::new(vec![day, Field::new("n", DataType::Int64, true)]));
        table.physical = table.schema.clone();
        table.partitioned_by = vec!["day".to_owned()];
        std::fs::create_dir_all(dir.path().join("out/day=12")).unwrap();
        std::fs::write(dir.path().join("out/day=12/a"), record).unwrap();
        let reference = connectors(dir.path(), 1).reference(&table, "filesystem").unwrap();
        let (_, rows) = reference.load().await.unwrap();
        assert_eq!((rows.column(0).as_string_view().value(0), rows.num_rows()), ("12", 1), "{format}");
        std::fs::write(dir.path().join("out/b"), record).unwrap();
        let error = reference.load().await.unwrap_err().to_string();
        assert!(error.contains("out/b': its folders say nothing of 'day', which is NOT NULL"), "{error}");
    }
}

#[tokio::test]
async fn csv_refuses_single_records() {
    let columns = schema(&[("id", DataType::Int32), ("text", DataType::Utf8), ("t", millis())]);
    let mut table = TableSpec::new("t", columns);
    table.schema = schema(&[("t", millis()), ("id", DataType::Int32)]);
    let records = [
        "1,a,2026-02-12T10:00:00Z",
        "2,b",
        "x,c,",
        "4,\"open,",
        "5,e,yesterday",
        "99999999999,f,",
        ",,",
        "8,\"g\"h,",
        " 9 ,\"i,j\",2026-02-12 10:00:00",
    ];
    let decoded = decoded(&table, &records);
    assert_eq!(decoded.rows.as_deref(), Some(&[0, 6, 8][..]));
    assert_eq!(
        decoded.batch.column(1).as_primitive::<arrow::datatypes::Int32Type>().iter().collect::<Vec<_>>(),
        [Some(1), None, Some(9)]
    );
    let rejects: Vec<(u32, String, Option<&str>)> =
        decoded.rejects.iter().map(|r| (r.record, r.reason.to_string(), r.column.as_deref())).collect();
    let reject = |i, reason: &str, column| (i, reason.to_owned(), column);
    assert_eq!(
        rejects,
        [
            reject(1, "invalid_syntax", None),
            reject(2, "wrong_type", Some("id")),
            reject(3, "invalid_syntax", None),
            reject(4, "bad_timestamp", Some("t")),
            reject(5, "out_of_range", Some("id")),
            reject(7, "invalid_syntax", None),
        ]
    );
}

#[tokio::test]
async fn a_reference_table_is_read_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let file = path(dir.path(), "products.csv");
    std::fs::write(&file, "p1,home,0.4\np2,\"toys, games\",0.5\n").unwrap();
    let columns = schema(&[
        ("product", DataType::Utf8View),
        ("category", DataType::Utf8View),
        ("margin", DataType::Decimal128(5, 4)),
    ]);
    let table = spec("products", columns, &[("path", &file), ("format", "csv")]);
    let files = connectors(dir.path(), 1).reference(&table, "filesystem").unwrap();
    let (version, rows) = files.load().await.unwrap();
    assert_eq!(rows.num_rows(), 2);
    assert_eq!(version, files.version().await.unwrap());
    std::fs::write(&file, "p1,home,0.4\np2,\"toys, games\",0.5\np3,x,much\n").unwrap();
    assert_ne!(version, files.version().await.unwrap());
    let error = files.load().await.unwrap_err().to_string();
    assert!(error.contains("margin") && error.contains("p3,x,much") && error.contains("products.csv"), "{error}");
}

#[tokio::test]
async fn a_reference_table_that_is_too_large_is_refused_before_it_is_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    for (number, format) in ["csv", "csv"].into_iter().enumerate() {
        let lines: String = (0..20_000).map(|n| format!("product-{n:030},{number}\n")).collect();
        std::fs::write(dir.path().join(format!("{number}.{format}")), lines).unwrap();
    }
    let columns = schema(&[("product", DataType::Utf8View), ("n", DataType::Int64)]);
    let table = spec("products", columns, &[("path", &path(dir.path(), "")), ("format", "csv")]);
    let files = connectors(dir.path(), 1).reference(&table, "filesystem").unwrap();
    assert_eq!(files.load().await.unwrap().1.num_rows(), 40_000);
    assert_eq!(files.clone().within(Some(8 << 20)).load().await.unwrap().1.num_rows(), 40_000);
    // One file would fit.
    let error = files.within(Some(2 << 20)).load().await.unwrap_err().to_string();
    assert!(error.contains("'products' has more than 2 MiB") && error.contains("--memory"), "{error}");
}

#[tokio::test]
async fn refused_records_are_lines() {
    let dir = tempfile::tempdir().unwrap();
    let record = |reason, sequence: &str, bytes: &[u8]| RejectedRecord {
        origin: "events".to_owned(),
        stream: "analytics-events".to_owned(),
        split: "shardId-000000000001".to_owned(),
        sequence_number: sequence.to_owned(),
        arrival_ms: Some(0),
        reason,
        column: Some("data.amount".to_owned()),
        detail: "\"x\"".to_owned(),
        record: bytes.to_vec(),
    };
    let mut output = connectors(dir.path(), 3).error_output("s3://bucket/errors").unwrap();
    let large = vec![b'z'; 100_000];
    output
        .write(&[
            record(RejectReason::WrongType, "1", b"{\"a\":1}"),
            record(RejectReason::InvalidUtf8, "2", b"\xff"),
            record(RejectReason::Late, "3", &large),
            record(RejectReason::SinkRefused("key_too_long".to_owned()), "3", &large),
        ])
        .await
        .unwrap();
    output.flush().await.unwrap();
    let folder = dir.path().join("s3/bucket/errors");
    assert_eq!(tree(&folder), ["errors-test-3-0.jsonl"]);
    let text = std::fs::read_to_string(folder.join("errors-test-3-0.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        lines[0].to_string(),
        r#"{"origin":"events","stream":"analytics-events","split":"shardId-000000000001","sequence_number":"1","arrival":"1970-01-01T00:00:00.000Z","reason":"wrong_type","column":"data.amount","detail":"\"x\"","record":"{\"a\":1}"}"#
    );
    assert_eq!(lines[1]["record_base64"], "/w==");
    assert_eq!(lines[2]["record"].as_str().unwrap().len(), 100_000);
    assert_eq!(lines[3]["reason"], "key_too_long");
    assert!(text.len() < 110_000, "one record's bytes are written once");
}

fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringViewArray::from(values.to_vec()))
}

/// Whatever stands in a text, and whatever characters the table chooses.
#[tokio::test]
async fn csv_reads_back_what_it_writes() {
    let item = Arc::new(Field::new("element", DataType::Int32, true));
    let columns = [("id", DataType::Int64), ("text", DataType::Utf8View), ("tags", DataType::List(item.clone()))];
    let odd = [
        Some("C:\\"),
        Some("\\"),
        Some("a\\\"b"),
        Some("\"\\\n"),
        Some("x\\\n\\,"),
        Some("a,b\r\nc"),
        Some("0"),
        Some("NULL"),
        Some("#no comment"),
        None,
        Some("\\N"),
        Some("x\r"),
        Some("\\\r"),
    ];
    let escape = ("csv.escape-character", "\\");
    let options: [&[(&str, &str)]; 7] = [
        &[],
        &[escape],
        &[escape, ("csv.null-literal", "0")],
        &[("csv.null-literal", "0"), ("csv.header", "true")],
        &[escape, ("csv.null-literal", "NULL"), ("csv.allow-comments", "true")],
        &[("csv.null-literal", "\\N"), ("csv.quote-character", "'"), ("csv.field-delimiter", "0")],
        &[escape, ("csv.disable-quote-character", "true"), ("csv.null-literal", "no value")],
    ];
    for options in options {
        let dir = tempfile::tempdir().unwrap();
        let table = table(dir.path(), "csv", &columns);
        let table = options.iter().fold(table, |table, (key, value)| table.with_option(key, *value));
        let mut tags = ListBuilder::new(Int32Builder::new()).with_field(item.clone());
        for n in 0..odd.len() {
            match n % 3 {
                0 => tags.append_value([Some(7)]),
                1 => tags.append_value([Some(1), None, Some(50)]),
                _ => tags.append_null(),
            }
        }
        let ids = Int64Array::from_iter((0..odd.len() as i64).map(|n| (n != 3).then_some(n)));
        // Without a text that means NULL, it is the empty one.
        let has_null = options.iter().any(|(key, _)| *key == "csv.null-literal");
        let read: Vec<_> = odd.iter().map(|text| if has_null { *text } else { text.or(Some("")) }).collect();
        let rows =
            |texts: ArrayRef| batch(&table.schema, vec![Arc::new(ids.clone()), texts, Arc::new(tags.finish_cloned())]);
        let connectors = connectors(dir.path(), 1);
        let mut sink = connectors.sink(&table, "filesystem").unwrap();
        write_all(sink.as_mut(), vec![appends(rows(texts(&odd)))]).await;
        let (_, back) = connectors.reference(&table, "filesystem").unwrap().load().await.unwrap();
        assert_eq!(back, rows(texts(&read)), "{options:?}");
    }
}

/// An empty line is no record: a record of one empty field is not one.
#[tokio::test]
async fn csv_of_one_column_keeps_its_empty_rows() {
    let texts = texts(&[Some("a"), Some(""), None, Some("b"), None]);
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, None, Some(0), None]));
    for (data_type, column, literal, expected) in [
        (DataType::Utf8View, &texts, None, "a\n\"\"\n\"\"\nb\n\"\"\n"),
        (DataType::Utf8View, &texts, Some("n"), "a\n\"\"\nn\nb\nn\n"),
        (DataType::Int32, &numbers, None, "1\n\"\"\n\"\"\n0\n\"\"\n"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let table = table(dir.path(), "csv", &[("c", data_type)]);
        let table = literal.iter().fold(table, |table, literal| table.with_option("csv.null-literal", *literal));
        let rows = batch(&table.schema, vec![Arc::clone(column)]);
        let connectors = connectors(dir.path(), 1);
        write_all(connectors.sink(&table, "filesystem").unwrap().as_mut(), vec![appends(rows.clone())]).await;
        let text = std::fs::read_to_string(dir.path().join("out/part-test-1-0-e1.csv")).unwrap();
        assert_eq!(text, expected);
        let (_, back) = connectors.reference(&table, "filesystem").unwrap().load().await.unwrap();
        assert_eq!(back.num_rows(), 5);
        if column.data_type() == &DataType::Int32 || literal.is_some() {
            assert_eq!(back, rows);
        }
    }
}

/// From each record on, a run that goes on reads what one reads that was not interrupted: also where a quote stays open, and where the last
/// line has no end.
#[tokio::test]
async fn csv_goes_on_behind_each_record() {
    for (options, text, records) in [
        (&[][..], "0,x\n1,\"a\nb\"", &["0,x", "1,\"a\nb\""][..]),
        (&[("csv.escape-character", "\\")], "0,x\n1,\"a\\\"\nb\"", &["0,x", "1,\"a\\\"\nb\""]),
        (&[], "0,x\n1,\"open\n2,y\n3,z\n", &["0,x", "1,\"open", "2,y", "3,z"]),
        (&[], "0,\"open\r\n\n1,y\n2,\"open\n3,z", &["0,\"open\r\n\n1,y\n2,\"open", "3,z"]),
        (&[("csv.header", "true")], "id,text\n0,x\n1,\"open\n2,y\n", &["0,x", "1,\"open", "2,y"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let table = table(dir.path(), "csv", &[("id", DataType::Int32), ("text", DataType::Utf8)]);
        let table = options.iter().fold(table, |table, (key, value)| table.with_option(key, *value));
        std::fs::create_dir(dir.path().join("out")).unwrap();
        std::fs::write(dir.path().join("out/a.csv"), text).unwrap();
        let source = connectors(dir.path(), 1).source(&table, "filesystem").unwrap();
        let split = source.splits().await.unwrap().remove(0);
        let start = tidemill::contracts::StartPosition::TrimHorizon;
        let all = read_split(source.as_ref(), &split, None, start).await;
        assert_eq!(all.iter().map(|(record, _)| record.as_str()).collect::<Vec<_>>(), records, "{text}");
        for (number, (_, position)) in all.iter().enumerate() {
            let rest = read_split(source.as_ref(), &split, Some(position), start).await;
            assert_eq!(rest, all[number + 1..], "{text} behind {}", records[number]);
        }
    }
}

/// Bytes of a partition are base64 in the folder's name, and the same bytes when they are read.
#[tokio::test]
async fn bytes_of_a_partition_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = table(dir.path(), "parquet", &[("n", DataType::Int64), ("key", DataType::Binary)]);
    table.partitioned_by = vec!["key".to_owned()];
    let keys: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&b"\0\xff\xbf"[..]), None, Some(b"plain")]));
    let connectors = connectors(dir.path(), 1);
    let rows = batch(&table.schema, vec![numbers(0..3), keys]);
    write_all(connectors.sink(&table, "filesystem").unwrap().as_mut(), vec![appends(rows)]).await;
    let mut read = read_source(connectors.source(&table, "filesystem").unwrap().as_ref()).await;
    read.sort();
    assert_eq!(read, [r#"{"n":0,"key":"AP+/"}"#, r#"{"n":1,"key":null}"#, r#"{"n":2,"key":"cGxhaW4="}"#]);
    std::fs::rename(dir.path().join("out/key=cGxhaW4%3D"), dir.path().join("out/key=plain!")).unwrap();
    let source = connectors.source(&table, "filesystem").unwrap();
    let splits = source.splits().await.unwrap();
    let start = tidemill::contracts::StartPosition::TrimHorizon;
    let error = source.open(splits.last().unwrap(), None, start).await.err().unwrap().to_string();
    assert!(error.contains("key=plain!") && error.contains("'key' is no base64"), "{error}");
}

/// What a test logs.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Somebody copies a file into the folder, and takes longer than it takes to read what is there.
#[tokio::test]
async fn a_file_that_grows_after_it_was_read_is_named_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let said = || String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let table = table(dir.path(), "json", &[("n", DataType::Int64)]);
    std::fs::create_dir(dir.path().join("out")).unwrap();
    let place = |name: &str| dir.path().join("out").join(name);
    let append = |name: &str, text: &str| {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(place(name)).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    };
    ["whole.jsonl", "growing.jsonl", "later.jsonl"].into_iter().for_each(|name| append(name, "{\"n\":1}\n"));
    let source = connectors(dir.path(), 1).source(&table, "filesystem").unwrap();
    assert_eq!(read_source(source.as_ref()).await.len(), 3);
    source.splits().await.unwrap();
    assert_eq!(said(), "");
    append("growing.jsonl", "{\"n\":2}\n");
    for _ in 0..3 {
        source.splits().await.unwrap();
    }
    let text = said();
    assert_eq!(text.matches("is not read").count(), 1, "{text}");
    assert!(text.contains("growing.jsonl' had 8 bytes") && text.contains("has 16 now"), "{text}");
    // After the last listing, and before the end of the run.
    append("later.jsonl", "{\"n\":2}\n");
    std::fs::remove_file(place("whole.jsonl")).unwrap();
    source.end().await;
    let text = said();
    assert_eq!(text.matches("is not read").count(), 2, "{text}");
    assert!(text.contains("later.jsonl' had 8 bytes"), "{text}");
}

/// Row groups of all open files have one bound together, where there is one.
#[tokio::test]
async fn row_groups_keep_to_the_sink_s_memory() {
    const MEMORY: u64 = 2 << 20;
    for (memory, most_rows) in [(None, 20_000), (Some(MEMORY), 4_000)] {
        let dir = tempfile::tempdir().unwrap();
        let fields = [("n", DataType::Int64), ("text", DataType::Utf8View), ("part", DataType::Int64)];
        let mut table = table(dir.path(), "parquet", &fields).with_option("parquet.compression", "UNCOMPRESSED");
        table.partitioned_by = vec!["part".to_owned()];
        let job = tidemill::connectors::JobContext { job: "test".to_owned(), generation: 1 };
        let clock = Arc::new(tidemill::contracts::SystemClock::new());
        let connectors = tidemill::connectors::Connectors::new(None, clock, job).with_files_memory(memory);
        let mut sink = connectors.sink(&table, "filesystem").unwrap();
        // 8 partitions of 10 MB.
        for epoch in 0..40 {
            let ids = || epoch * 4_000..(epoch + 1) * 4_000;
            let text = |n: i64| Some(format!("{n} {}", "x".repeat(500)));
            let parts: ArrayRef = Arc::new(Int64Array::from_iter_values(ids().map(|n| n % 8)));
            let rows = vec![numbers(ids()), Arc::new(ids().map(text).collect::<StringViewArray>()), parts];
            let number = EpochNumber(epoch as u64 + 1);
            sink.write(number, appends(batch(&table.schema, rows))).await.unwrap();
            sink.flush(number, 0).await.unwrap();
        }
        let staged = sink.finish(EpochNumber(41)).await.unwrap();
        sink.commit(staged).await.unwrap();
        let names = tree(&dir.path().join("out"));
        assert_eq!(names.len(), 8, "files are not closed for it: {names:?}");
        let mut total = 0;
        for name in names {
            let file = std::fs::File::open(dir.path().join("out").join(name)).unwrap();
            let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            let groups: Vec<i64> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
            total += groups.iter().sum::<i64>();
            let largest = groups.iter().copied().max().unwrap();
            assert!(largest <= most_rows, "{memory:?}: {groups:?}");
            assert!(memory.is_some() || groups.len() == 1, "as large as they may be: {groups:?}");
        }
        assert_eq!(total, 160_000);
    }
}
