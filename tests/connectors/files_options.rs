//! Options of written files: order, rows, packing, marks, and how Parquet is made. The same code writes to S3.

use std::path::Path;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use tidemill::contracts::{ChangeKind, Changes, Committable, EpochNumber, StartPosition, TableSpec};

use crate::support::*;

fn numbers(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn table(dir: &Path, format: &str, options: &[(&str, &str)]) -> TableSpec {
    let path = dir.join("out").display().to_string();
    let fields = [("n", DataType::Int64), ("text", DataType::Utf8View)];
    let table = spec("t", schema(&fields), &[("path", path.as_str()), ("format", format)]);
    options.iter().fold(table, |table, (key, value)| table.with_option(key, *value))
}

fn rows(table: &TableSpec, values: &[i64]) -> Changes {
    let texts: StringViewArray = values.iter().map(|n| Some(format!("t{}", n % 3))).collect();
    appends(batch(&table.schema, vec![numbers(values.iter().copied()), Arc::new(texts)]))
}

async fn written(dir: &Path, table: &TableSpec, epochs: &[&[i64]]) -> Vec<String> {
    let mut sink = connectors(dir, 1).sink(table, "filesystem").unwrap();
    write_all(sink.as_mut(), epochs.iter().map(|values| rows(table, values)).collect()).await;
    tree(&dir.join("out"))
}

#[tokio::test]
async fn rows_are_sorted_within_each_file() {
    let dir = tempfile::tempdir().unwrap();
    let options = [("sink.sort-by", "text, `n` DESC"), ("sink.rolling-policy.row-count", "4")];
    let table = table(dir.path(), "parquet", &options);
    let files = written(dir.path(), &table, &[&[5, 1, 3], &[2, 9, 4, 8]]).await;
    assert_eq!(files, ["part-test-1-0-e1.parquet", "part-test-1-1-e1.parquet"]);
    let mut seen = Vec::new();
    for file in files {
        let path = dir.path().join("out").join(file);
        let metadata = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        let group = metadata.metadata().row_group(0);
        let order: Vec<_> = group.sorting_columns().unwrap().iter().map(|c| (c.column_idx, c.descending)).collect();
        assert_eq!(order, [(1, false), (0, true)]);
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap()).unwrap();
        let batch = reader.build().unwrap().next().unwrap().unwrap();
        seen.push(batch.column(0).as_primitive::<Int64Type>().values().to_vec());
    }
    // The first file has the first four rows: 5 1 3 2, whose texts are t2 t1 t0 t2.
    assert_eq!(seen, [vec![3, 1, 5, 2], vec![9, 4, 8]]);
}

#[tokio::test]
async fn what_cannot_be_sorted_is_said() {
    let dir = tempfile::tempdir().unwrap();
    for (order, expected) in [
        ("nobody", "no column 'nobody'"),
        ("n SIDEWAYS", "'SIDEWAYS' after 'n' is not understood"),
        ("n,,text", "has an empty item"),
    ] {
        let table = table(dir.path(), "json", &[("sink.sort-by", order)]);
        let error = connectors(dir.path(), 1).sink(&table, "filesystem").err().unwrap().to_string();
        assert!(error.contains(expected) && error.contains("hint: write column names"), "{error}");
    }
    let mut table = table(dir.path(), "json", &[("sink.sort-by", "n")]);
    table.primary_key = vec!["n".to_owned()];
    let mut sink = connectors(dir.path(), 1).sink(&table, "filesystem").unwrap();
    let mut changes = rows(&table, &[1]);
    changes.kinds = Some(vec![ChangeKind::Upsert]);
    let error = sink.write(EpochNumber(1), changes).await.unwrap_err().to_string();
    assert!(error.contains("an update stream cannot be sorted"), "{error}");
}

#[tokio::test]
async fn files_have_exactly_so_many_rows() {
    let dir = tempfile::tempdir().unwrap();
    let table = table(dir.path(), "json", &[("sink.rolling-policy.row-count", "3")]);
    let files = written(dir.path(), &table, &[&[0, 1], &[2, 3, 4, 5, 6, 7, 8], &[9]]).await;
    let lines = |file: &String| std::fs::read_to_string(dir.path().join("out").join(file)).unwrap().lines().count();
    assert_eq!(files.iter().map(lines).collect::<Vec<_>>(), [3, 3, 3, 1]);
}

#[tokio::test]
async fn packed_text_is_read_back_and_on_from_any_position() {
    for (format, compression, ending) in [
        ("json", "gzip", ".jsonl.gz"),
        ("json", "ZSTD", ".jsonl.zst"),
        ("csv", "gzip", ".csv.gz"),
        ("csv", "zstd", ".csv.zst"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let written_as = table(dir.path(), format, &[("compression", compression), ("csv.header", "true")]);
        let values: Vec<i64> = (0..300_000).collect();
        let files = written(dir.path(), &written_as, &[&values]).await;
        assert!(files.len() == 1 && files[0].ends_with(ending), "{files:?}");
        // By its name alone.
        let table = table(dir.path(), format, &[("csv.header", "true")]);
        let source = connectors(dir.path(), 1).source(&table, "filesystem").unwrap();
        let split = &source.splits().await.unwrap()[0];
        let all = read_split(source.as_ref(), split, None, StartPosition::TrimHorizon).await;
        assert_eq!(all.len(), 300_000, "{format} {compression}");
        for at in [0, 123_456, 299_999] {
            let rest = read_split(source.as_ref(), split, Some(&all[at].1), StartPosition::TrimHorizon).await;
            assert_eq!(rest, all[at + 1..], "{format} {compression} after {at}");
        }
    }
}

#[tokio::test]
async fn a_broken_packed_file_is_an_error_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("out")).unwrap();
    std::fs::write(dir.path().join("out/a.json.gz"), b"\x1f\x8b\x08\x00this is no gzip").unwrap();
    let table = table(dir.path(), "json", &[]);
    let source = connectors(dir.path(), 1).source(&table, "filesystem").unwrap();
    let split = &source.splits().await.unwrap()[0];
    let error = match source.open(split, None, StartPosition::TrimHorizon).await {
        Err(error) => error.to_string(),
        Ok(mut reader) => reader.next().await.unwrap_err().to_string(),
    };
    assert!(error.contains("out/a.json.gz' cannot be unpacked"), "{error}");
    std::fs::write(dir.path().join("out/a.json.bz2"), b"BZh9").unwrap();
    let error = source.splits().await.unwrap_err().to_string();
    assert!(error.contains("packed by bzip2 are not read"), "{error}");
}

#[tokio::test]
async fn parquet_as_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let options = [
        ("parquet.compression", "zstd"),
        ("parquet.compression.codec.zstd.level", "7"),
        ("parquet.enable.dictionary", "false"),
        ("parquet.column.statistics.enabled", "false"),
    ];
    let asked = table(dir.path(), "parquet", &options);
    let files = written(dir.path(), &asked, &[&[1, 2, 3]]).await;
    let file = std::fs::File::open(dir.path().join("out").join(&files[0])).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let column = reader.metadata().row_group(0).column(0);
    assert!(column.statistics().is_none() && column.dictionary_page_offset().is_none());
    assert!(matches!(column.compression(), parquet::basic::Compression::ZSTD(_)));
    for (options, expected) in [
        (&[("parquet.compression.codec.zstd.level", "7")][..], "a ZSTD level without ZSTD"),
        (&[("parquet.compression", "ZSTD"), ("parquet.compression.codec.zstd.level", "99")], "1 is the fastest"),
        (&[("compression", "gzip")], "set 'parquet.compression' instead"),
    ] {
        let wrong = table(dir.path(), "parquet", options);
        let error = connectors(dir.path(), 1).sink(&wrong, "filesystem").err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn partitions_are_marked_when_they_are_complete() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = table(
        dir.path(),
        "json",
        &[("sink.partition-commit.policy.kind", "success-file"), ("sink.partition-commit.success-file.name", "_DONE")],
    );
    table.partitioned_by = vec!["text".to_owned()];
    let mut sink = connectors(dir.path(), 1).sink(&table, "filesystem").unwrap();
    sink.write(EpochNumber(1), rows(&table, &[0, 1])).await.unwrap();
    sink.flush(EpochNumber(1), 1_000).await.unwrap();
    // Their files are open.
    assert!(sink.prepare(EpochNumber(1)).await.unwrap().is_empty());
    let staged = sink.finish(EpochNumber(1)).await.unwrap();
    assert_eq!(staged.len(), 4);
    sink.commit(staged.clone()).await.unwrap();
    sink.commit(staged).await.unwrap();
    let out = dir.path().join("out");
    let expected =
        ["text=t0/_DONE", "text=t0/part-test-1-0-e1.jsonl", "text=t1/_DONE", "text=t1/part-test-1-1-e1.jsonl"];
    assert_eq!(tree(&out), expected);
    for (key, value, expected) in [
        ("sink.partition-commit.policy.kind", "metastore,success-file", "tidemill athena"),
        ("sink.partition-commit.policy.kind", "custom", "there is 'success-file'"),
        ("sink.partition-commit.trigger", "partition-time", "process-time"),
    ] {
        let wrong = table.clone().with_option(key, value);
        let error = connectors(dir.path(), 1).sink(&wrong, "filesystem").err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// A mark comes later than the files; by then whoever reads them may have taken them away, and their folder.
#[tokio::test]
async fn a_partition_whose_folder_was_taken_away_is_marked_nevertheless() {
    let dir = tempfile::tempdir().unwrap();
    let options = [
        ("sink.partition-commit.policy.kind", "success-file"),
        ("sink.partition-commit.delay", "10 s"),
        ("sink.rolling-policy.rollover-interval", "2 s"),
    ];
    let mut table = table(dir.path(), "json", &options);
    table.partitioned_by = vec!["text".to_owned()];
    let out = dir.path().join("out");
    let mut sink = connectors(dir.path(), 1).sink(&table, "filesystem").unwrap();
    sink.write(EpochNumber(1), rows(&table, &[0])).await.unwrap();
    for now_ms in [1_000, 5_000] {
        sink.flush(EpochNumber(1), now_ms).await.unwrap();
        let staged = sink.prepare(EpochNumber(1)).await.unwrap();
        sink.commit(staged).await.unwrap();
    }
    assert_eq!(tree(&out), ["text=t0/part-test-1-0-e1.jsonl"]);
    std::fs::remove_dir_all(&out).unwrap();
    sink.flush(EpochNumber(2), 11_000).await.unwrap();
    let staged = sink.prepare(EpochNumber(2)).await.unwrap();
    assert_eq!(staged.len(), 1);
    // As it was promised, by this run and by one that comes after a kill.
    sink.commit(staged.clone()).await.unwrap();
    assert_eq!(tree(&out), ["text=t0/_SUCCESS"]);
    std::fs::remove_dir_all(&out).unwrap();
    let mut later = connectors(dir.path(), 2).sink(&table, "filesystem").unwrap();
    later.recover(Vec::new(), staged).await.unwrap();
    assert_eq!(tree(&out), ["text=t0/_SUCCESS"]);
}

/// The time of the epochs that are repeated begins long before the partition does.
#[tokio::test]
async fn after_a_kill_a_partition_waits_for_its_mark_as_long_as_it_would_have() {
    let dir = tempfile::tempdir().unwrap();
    let options = [
        ("sink.partition-commit.policy.kind", "success-file"),
        ("sink.partition-commit.delay", "10 s"),
        ("sink.rolling-policy.rollover-interval", "2 s"),
    ];
    let mut table = table(dir.path(), "json", &options);
    table.partitioned_by = vec!["text".to_owned()];
    let mut sink = connectors(dir.path(), 1).sink(&table, "filesystem").unwrap();
    sink.write(EpochNumber(5), rows(&table, &[0])).await.unwrap();
    let mut logged = Vec::new();
    for (epoch, now_ms) in [(5, 100_000), (6, 103_000)] {
        sink.flush(EpochNumber(epoch), now_ms).await.unwrap();
        logged.extend(sink.prepare(EpochNumber(epoch)).await.unwrap());
    }
    assert_eq!(logged.len(), 1);
    // Its marks, when each of these epochs is repeated.
    let marked = async |appeared: &[Committable], promised: &[Committable]| {
        let mut later = connectors(dir.path(), 2).sink(&table, "filesystem").unwrap();
        later.recover(appeared.to_vec(), promised.to_vec()).await.unwrap();
        let (mut marked, mut staged) = (Vec::new(), Vec::new());
        for (epoch, now_ms) in [(3, 80_000), (4, 95_000), (6, 109_999), (7, 110_000), (8, 200_000)] {
            later.flush(EpochNumber(epoch), now_ms).await.unwrap();
            let prepared = later.prepare(EpochNumber(epoch)).await.unwrap();
            marked.extend(prepared.iter().map(|_| now_ms));
            staged.extend(prepared);
        }
        (marked, staged)
    };
    let (times, marks) = marked(&[], &logged).await;
    assert_eq!(times, [110_000]);
    // A mark that the log has is not made once more, before what is still to come.
    let (times, _) = marked(&logged, &marks).await;
    assert_eq!(times, [0_i64; 0]);
}

#[tokio::test]
async fn folders_by_time_and_by_column() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out").display().to_string();
    let fields = [("n", DataType::Int64), ("at", millis()), ("kind", DataType::Utf8View)];
    let base = spec("t", schema(&fields), &[("path", path.as_str()), ("format", "json")]);
    let mut table = base
        .clone()
        .with_option("sink.partition.pattern", "day={yyyy}-{MM}-{dd}/hour={HH}/")
        .with_option("sink.partition.time-column", "at");
    table.partitioned_by = vec!["kind".to_owned()];
    let hour = 3_600_000;
    let times = [Some(0), Some(hour - 1), Some(hour), Some(-1), None, Some(26 * hour)];
    let rows = batch(
        &table.schema,
        vec![
            numbers(0..6),
            Arc::new(TimestampMillisecondArray::from(times.to_vec()).with_timezone("UTC")),
            Arc::new(StringViewArray::from_iter_values(["a"; 6])),
        ],
    );
    let mut sink = connectors(dir.path(), 1).sink(&table, "filesystem").unwrap();
    write_all(sink.as_mut(), vec![appends(rows)]).await;
    let folders: Vec<String> =
        tree(&dir.path().join("out")).iter().map(|f| f.rsplit_once('/').unwrap().0.to_owned()).collect();
    assert_eq!(
        folders,
        [
            "kind=a/day=1969-12-31/hour=23",
            "kind=a/day=1970-01-01/hour=00",
            "kind=a/day=1970-01-01/hour=01",
            "kind=a/day=1970-01-02/hour=02",
            "kind=a/day=__DEFAULT_PARTITION__/hour=__DEFAULT_PARTITION__",
        ]
    );
    let first = dir.path().join("out/kind=a/day=1970-01-01/hour=00");
    let text = std::fs::read_to_string(first.join(&tree(&first)[0])).unwrap();
    assert_eq!(text.lines().next(), Some("{\"n\":0,\"at\":\"1970-01-01 00:00:00Z\"}"));
    for (options, expected) in [
        (&[("sink.partition.pattern", "{yyyy}")][..], "'sink.partition.time-column' is missing"),
        (&[("sink.partition.pattern", "{yy}"), ("sink.partition.time-column", "at")], "'{yy}' is none of"),
        (&[("sink.partition.pattern", "{yyyy"), ("sink.partition.time-column", "at")], "'{' without '}'"),
        (&[("sink.partition.pattern", "_x/{dd}"), ("sink.partition.time-column", "at")], "no reader would see it"),
        (&[("sink.partition.pattern", "{dd}"), ("sink.partition.time-column", "n")], "'n' is Int64"),
    ] {
        let wrong = options.iter().fold(base.clone(), |table, (key, value)| table.with_option(key, *value));
        let error = connectors(dir.path(), 1).sink(&wrong, "filesystem").err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let mut hidden = spec("t", schema(&[("n", DataType::Int64), ("_c", DataType::Utf8View)]), &[("format", "json")]);
    hidden.partitioned_by = vec!["_c".to_owned()];
    let hidden = hidden.with_option("path", path.as_str());
    let error = connectors(dir.path(), 1).sink(&hidden, "filesystem").err().unwrap().to_string();
    assert!(error.contains("'_c'") && error.contains("no reader would see"), "{error}");
}

#[tokio::test]
async fn a_reference_table_of_parquet_has_all_rows_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out").display().to_string();
    let table = spec("t", schema(&[("n", DataType::Int64)]), &[("path", path.as_str()), ("format", "parquet")]);
    let rows = batch(&table.schema, vec![Arc::new(Int64Array::from(vec![Some(1), Some(300), None]))]);
    let connectors = connectors(dir.path(), 1);
    write_all(connectors.sink(&table, "filesystem").unwrap().as_mut(), vec![appends(rows)]).await;
    let read = async |data_type: DataType, nullable: bool| {
        let mut table = table.clone();
        table.schema = Arc::new(Schema::new(vec![Field::new("n", data_type, nullable)]));
        let files = connectors.reference(&table, "filesystem").unwrap();
        files.load().await.map(|(_, rows)| rows.num_rows()).map_err(|e| e.to_string())
    };
    assert_eq!(read(DataType::Int32, true).await, Ok(3));
    for (error, parts) in [
        (read(DataType::Int8, true).await, ["row 1", "'n'", "300"]),
        (read(DataType::Int64, false).await, ["does not fit the table's columns", ".parquet", "'t'"]),
        (read(DataType::Time32(TimeUnit::Second), true).await, ["'n'", "declared type", ".parquet"]),
    ] {
        let error = error.expect_err("it does not fit");
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

/// A value of an event is no reason to stop a job: no file system takes a name of more than 255 bytes.
#[tokio::test]
async fn rows_of_partitions_with_too_long_names_are_refused_and_the_others_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = table(dir.path(), "json", &[]);
    table.partitioned_by = vec!["text".to_owned()];
    // `text=` and the value, of which a colon takes three bytes.
    let longest = "y".repeat(250);
    let texts = ["a", &"x".repeat(300), &longest, &":".repeat(84), "a"];
    let changes = |texts: &[&str]| {
        let numbers = numbers(0..texts.len() as i64);
        appends(batch(&table.schema, vec![numbers, Arc::new(StringViewArray::from(texts.to_vec()))]))
    };
    let mut sink = connectors(dir.path(), 1).sink(&table, "filesystem").unwrap();
    for (texts, written) in [(&texts[..], 3), (&texts[1..2], 0)] {
        let outcome = sink.write(EpochNumber(1), changes(texts)).await.unwrap();
        assert_eq!(outcome.written, written);
        let refused: Vec<_> = outcome.refused.iter().map(|r| (r.row, r.reason.as_str(), r.column.as_deref())).collect();
        let expected: &[usize] = if written == 3 { &[1, 3] } else { &[0] };
        let expected: Vec<_> = expected.iter().map(|row| (*row, "partition_too_long", Some("text"))).collect();
        assert_eq!(refused, expected);
        assert!(outcome.refused[0].detail.contains("305 bytes"), "{}", outcome.refused[0].detail);
    }
    sink.flush(EpochNumber(1), 0).await.unwrap();
    let staged = sink.finish(EpochNumber(1)).await.unwrap();
    sink.commit(staged).await.unwrap();
    let folders: Vec<String> =
        tree(&dir.path().join("out")).iter().map(|f| f.rsplit_once('/').unwrap().0.to_owned()).collect();
    assert_eq!(folders, ["text=a".to_owned(), format!("text={longest}")]);
}
