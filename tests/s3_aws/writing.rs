//! What is written: whole or not at all, once, in bounded memory.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::DataType;
use tidemill::contracts::{EpochNumber, RejectReason, RejectedRecord, TableSpec};

use crate::emulator::{Emulator, both, peak_kib, seaweed};
use crate::on_aws;
use crate::support::*;

fn numbers(values: std::ops::Range<i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn n_table(emulator: &Emulator, path: &str) -> TableSpec {
    emulator.table(path, schema(&[("n", DataType::Int64)]), &[("format", "json")])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_comes_back_from_odd_partitions() {
    type Format<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let formats: [Format<'_>; 7] = [
        ("json", &[], ".jsonl"),
        ("json", &[("compression", "gzip")], ".jsonl.gz"),
        ("json", &[("compression", "zstd")], ".jsonl.zst"),
        ("csv", &[], ".csv"),
        ("csv", &[("compression", "gzip")], ".csv.gz"),
        ("parquet", &[], ".parquet"),
        (
            "parquet",
            &[
                ("parquet.compression", "ZSTD"),
                ("parquet.compression.codec.zstd.level", "9"),
                ("parquet.enable.dictionary", "false"),
                ("parquet.column.statistics.enabled", "false"),
                ("parquet.row-group.size", "1 mb"),
            ],
            ".parquet",
        ),
    ];
    for emulator in both().await {
        let bucket = emulator.bucket("formats").await;
        for (number, (format, options, ending)) in formats.iter().enumerate() {
            let fields = [("n", DataType::Int64), ("text", DataType::Utf8View), ("place", DataType::Utf8View)];
            let mut table = emulator.table(&format!("s3://formats/{number}/"), schema(&fields), options);
            table = table.with_option("format", *format);
            table.partitioned_by = vec!["place".to_owned()];
            let texts = ["plain", "with \"quotes\", commas", "ünïcode", "", "x"];
            let places = [Some("a/b=c"), Some("100%"), None, Some("a b+ü"), Some("a/b=c")];
            let rows = batch(
                &table.schema,
                vec![
                    numbers(0..5),
                    Arc::new(StringViewArray::from_iter_values(texts)),
                    Arc::new(StringViewArray::from_iter(places)),
                ],
            );
            let mut sink = on_aws(3).sink(&table, "s3").unwrap();
            sink.open().await.unwrap();
            write_all(sink.as_mut(), vec![appends(rows)]).await;
            let keys: Vec<String> = bucket.keys().await;
            let own: Vec<&String> = keys.iter().filter(|k| k.starts_with(&format!("{number}/"))).collect();
            assert_eq!(own.len(), 4, "{}: {own:?}", emulator.name);
            assert!(own.iter().all(|k| k.ends_with(ending) && k.contains("/part-test-3-")), "{own:?}");
            assert!(own.iter().any(|k| k.contains("/place=a%2Fb%3Dc/")), "{own:?}");
            let source = on_aws(3).source(&table, "s3").unwrap();
            let mut seen = Vec::new();
            for split in source.splits().await.unwrap() {
                let columns = source.split_columns(&split).unwrap();
                let place = columns.iter().find(|(name, _)| name == "place");
                for (row, _) in
                    read_split(source.as_ref(), &split, None, tidemill::contracts::StartPosition::TrimHorizon).await
                {
                    match place {
                        // Typed rows carry their partition; of raw ones the runtime fills it in.
                        None => seen.push(row),
                        Some((_, value)) => seen.push(format!("{row} @ {:?}", value.as_string_view().iter().next())),
                    }
                }
            }
            seen.sort();
            assert_eq!(seen.len(), 5, "{}: {seen:?}", emulator.name);
            for text in ["ünïcode", "quotes"] {
                assert_eq!(seen.iter().filter(|r| r.contains(text)).count(), 1, "{}: {seen:?}", emulator.name);
            }
            for place in ["a/b=c", "100%", "a b+ü"] {
                assert!(seen.iter().any(|r| r.contains(place)), "{} {format}: {seen:?}", emulator.name);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_appears_at_its_commit_and_once() {
    for emulator in both().await {
        let bucket = emulator.bucket("commits").await;
        let table = n_table(&emulator, "s3://commits/out");
        let mut sink = on_aws(7).sink(&table, "s3").unwrap();
        sink.write(EpochNumber(1), appends(batch(&table.schema, vec![numbers(0..3)]))).await.unwrap();
        sink.flush(EpochNumber(1), 1_000).await.unwrap();
        assert!(sink.prepare(EpochNumber(1)).await.unwrap().is_empty());
        let staged = sink.finish(EpochNumber(2)).await.unwrap();
        assert_eq!(staged.len(), 1);
        assert!(!staged[0].payload.contains("testtest"), "no secret in a manifest");
        let shown = format!("{table:?} {:?}", on_aws(7).source(&table, "s3").unwrap());
        assert!(!shown.contains("testtest"), "no secret in a log: {shown}");
        assert!(bucket.keys().await.is_empty(), "{}", emulator.name);
        assert_eq!(bucket.uploads().await, ["out/part-test-7-0-e1.jsonl"]);
        sink.commit(staged.clone()).await.unwrap();
        assert_eq!(bucket.keys().await, ["out/part-test-7-0-e1.jsonl"]);
        assert_eq!(bucket.get("out/part-test-7-0-e1.jsonl").await, b"{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n");
        // Again, also in another process.
        sink.commit(staged.clone()).await.unwrap();
        let mut later = on_aws(8).sink(&table, "s3").unwrap();
        later.commit(staged.clone()).await.unwrap();
        assert!(bucket.uploads().await.is_empty(), "{}", emulator.name);
        bucket.delete("out/part-test-7-0-e1.jsonl").await;
        // ministack answers every further completion with success, whatever has become of the object.
        if emulator.name != "ministack" {
            let lost = later.commit(staged.clone()).await.unwrap_err().to_string();
            assert!(lost.contains("is gone, and the object is not there") && lost.contains("table 't'"), "{lost}");
        }
        bucket.put("out/part-test-7-0-e1.jsonl", "something else").await;
        if emulator.name != "ministack" {
            let other = later.commit(staged).await.unwrap_err().to_string();
            assert!(other.contains("has 14 bytes, but the upload to complete has 24"), "{other}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_staged_uploads_are_completed_and_others_aborted() {
    for emulator in both().await {
        let bucket = emulator.bucket("crash").await;
        let text = emulator.table("s3://crash/out", schema(&[("s", DataType::Utf8View)]), &[("format", "json")]);
        // 12 MiB: one part is up, and the rest is in memory, when the process dies.
        let large = || {
            let line = "x".repeat(1 << 16);
            appends(batch(&text.schema, vec![Arc::new(StringViewArray::from_iter_values(vec![line; 192]))]))
        };
        let small = || appends(batch(&text.schema, vec![Arc::new(StringViewArray::from_iter_values(["s"]))]));
        let mut first = on_aws(1).sink(&text, "s3").unwrap();
        first.write(EpochNumber(1), small()).await.unwrap();
        let staged = first.finish(EpochNumber(1)).await.unwrap();
        first.write(EpochNumber(2), large()).await.unwrap();
        drop(first);
        assert_eq!(bucket.uploads().await, ["out/part-test-1-0-e1.jsonl", "out/part-test-1-1-e2.jsonl"]);
        // Another job's, and another table's, are not ours to abort.
        for key in ["out/part-other-1-0.jsonl", "out2/part-test-1-0-e1.jsonl", "out/by-hand"] {
            bucket.client.create_multipart_upload().bucket("crash").key(key).send().await.unwrap();
        }
        let mut second = on_aws(2).sink(&text, "s3").unwrap();
        second.commit(staged).await.unwrap();
        second.write(EpochNumber(2), large()).await.unwrap();
        let staged = second.finish(EpochNumber(2)).await.unwrap();
        assert_eq!(
            bucket.uploads().await,
            ["out/by-hand", "out/part-other-1-0.jsonl", "out/part-test-2-0-e2.jsonl", "out2/part-test-1-0-e1.jsonl"],
            "{}",
            emulator.name
        );
        second.commit(staged).await.unwrap();
        assert_eq!(bucket.keys().await, ["out/part-test-1-0-e1.jsonl", "out/part-test-2-0-e2.jsonl"]);
        assert_eq!(bucket.get("out/part-test-2-0-e2.jsonl").await.len(), 192 * ((1 << 16) + 9));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_died_before_it_saved_anything_is_not_written_over() {
    for emulator in both().await {
        let bucket = emulator.bucket("names").await;
        let table = n_table(&emulator, "s3://names/out");
        for row in 0..2 {
            // The same number both times: nothing was saved that could count the runs.
            let mut sink = on_aws(5).sink(&table, "s3").unwrap();
            write_all(sink.as_mut(), vec![appends(batch(&table.schema, vec![numbers(row..row + 1)]))]).await;
        }
        assert_eq!(
            bucket.keys().await,
            ["out/part-test-5-0-e1.jsonl", "out/part-test-5-1-e1.jsonl"],
            "{}",
            emulator.name
        );
        assert_eq!(bucket.get("out/part-test-5-0-e1.jsonl").await, b"{\"n\":0}\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_generations_the_older_one_fails_and_loses_nothing_of_the_newer() {
    for emulator in both().await {
        let bucket = emulator.bucket("race").await;
        let table = n_table(&emulator, "s3://race/out");
        let rows = || appends(batch(&table.schema, vec![numbers(0..1000)]));
        let (mut old, mut new) = (on_aws(1).sink(&table, "s3").unwrap(), on_aws(2).sink(&table, "s3").unwrap());
        old.write(EpochNumber(1), rows()).await.unwrap();
        new.write(EpochNumber(1), rows()).await.unwrap();
        // Its upload has been aborted under it: the worker that lost the job learns of it here.
        let staged = old.finish(EpochNumber(1)).await.unwrap_or_default();
        let committed = if staged.is_empty() { Ok(()) } else { old.commit(staged).await };
        let staged = new.finish(EpochNumber(1)).await.unwrap();
        new.commit(staged).await.unwrap();
        assert_eq!(bucket.keys().await, ["out/part-test-2-0-e1.jsonl"], "{}: {committed:?}", emulator.name);
        assert!(bucket.uploads().await.is_empty(), "{}", emulator.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_takes_little_memory() {
    let Some(emulator) = seaweed().await else { return };
    let bucket = emulator.bucket("large").await;
    let table = emulator
        .table("s3://large/out", schema(&[("s", DataType::Utf8View)]), &[("format", "json")])
        .with_option("sink.rolling-policy.file-size", "1 gb");
    let mut sink = on_aws(1).sink(&table, "s3").unwrap();
    let line = "y".repeat(1 << 20);
    let before = peak_kib();
    for epoch in 0..160 {
        let rows = batch(&table.schema, vec![Arc::new(StringViewArray::from_iter_values([&line]))]);
        sink.write(EpochNumber(epoch), appends(rows)).await.unwrap();
    }
    let staged = sink.finish(EpochNumber(160)).await.unwrap();
    sink.commit(staged).await.unwrap();
    let source = on_aws(1).source(&table, "s3").unwrap();
    let splits = source.splits().await.unwrap();
    assert_eq!(splits.len(), 1);
    assert_eq!(splits[0].bytes, Some(160 * ((1 << 20) + 9)));
    let mut reader = source.open(&splits[0], None, tidemill::contracts::StartPosition::TrimHorizon).await.unwrap();
    let mut lines = 0;
    while let tidemill::contracts::Fetch::Records(chunk) = reader.next().await.unwrap() {
        lines += chunk.len();
    }
    assert_eq!(lines, 160);
    let grown = (peak_kib() - before) >> 10;
    // Parts of 8 MiB: one gathered, four under way; reading, 4 MiB and some chunks. The file has 160 MiB.
    assert!(grown < 110, "{grown} MiB");
    assert_eq!(bucket.keys().await.len(), 1);
}

/// A record of so many bytes that was refused.
pub(crate) fn record(number: usize, bytes: usize) -> RejectedRecord {
    RejectedRecord {
        origin: "t".to_owned(),
        stream: "s".to_owned(),
        split: "shard".to_owned(),
        sequence_number: number.to_string(),
        arrival_ms: Some(0),
        reason: RejectReason::InvalidSyntax,
        column: None,
        detail: "d".to_owned(),
        record: vec![b'z'; bytes],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_records_are_durable_when_flushed() {
    for emulator in both().await {
        let bucket = emulator.bucket("refused").await;
        let table = n_table(&emulator, "s3://refused/out");
        let mut output = on_aws(4).error_output_beside("s3://refused/errors/job", &table).unwrap();
        output.write(&[record(1, 10)]).await.unwrap();
        output.flush().await.unwrap();
        output.write(&[record(2, 10)]).await.unwrap();
        output.flush().await.unwrap();
        assert_eq!(bucket.keys().await, ["errors/job/errors-test-4-0.jsonl"]);
        let lines = String::from_utf8(bucket.get("errors/job/errors-test-4-0.jsonl").await).unwrap();
        assert_eq!(lines.lines().count(), 2, "{}: {lines}", emulator.name);
        // A run of the same number, which the other one has left no trace for: neither takes lines from the other.
        let mut other = on_aws(4).error_output_beside("s3://refused/errors/job", &table).unwrap();
        other.write(&[record(1, 10)]).await.unwrap();
        other.flush().await.unwrap();
        output.write(&[record(2, 10)]).await.unwrap();
        output.flush().await.unwrap();
        let mut lines = Vec::new();
        for key in bucket.keys().await {
            lines.push(String::from_utf8(bucket.get(&key).await).unwrap().lines().count());
        }
        assert_eq!(lines, [3, 1], "{}", emulator.name);
        for number in 3..6 {
            output.write(&[record(number, 600 << 10)]).await.unwrap();
        }
        output.flush().await.unwrap();
        let keys = bucket.keys().await;
        assert_eq!(keys.len(), 4, "{keys:?}");
        let mut total = 0;
        for key in keys {
            total += String::from_utf8(bucket.get(&key).await).unwrap().lines().count();
        }
        assert_eq!(total, 7);
    }
}

/// Somebody takes the object away: the next one is added to as that was.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_refused_records_that_is_taken_away_is_followed_by_one() {
    for emulator in both().await {
        let bucket = emulator.bucket("taken").await;
        let table = n_table(&emulator, "s3://taken/out");
        let mut output = on_aws(4).error_output_beside("s3://taken/errors/job", &table).unwrap();
        let mut refuse = async |number| {
            output.write(&[record(number, 10)]).await.unwrap();
            output.flush().await.unwrap();
        };
        refuse(1).await;
        refuse(2).await;
        bucket.delete("errors/job/errors-test-4-0.jsonl").await;
        refuse(3).await;
        refuse(4).await;
        refuse(5).await;
        assert_eq!(bucket.keys().await, ["errors/job/errors-test-4-1.jsonl"], "{}", emulator.name);
        let lines = String::from_utf8(bucket.get("errors/job/errors-test-4-1.jsonl").await).unwrap();
        assert_eq!(lines.lines().count(), 3, "{}: {lines}", emulator.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_marked_after_their_files() {
    for emulator in both().await {
        let bucket = emulator.bucket("marks").await;
        let fields = [("n", DataType::Int64), ("day", DataType::Int64)];
        let mut table = emulator
            .table("s3://marks/out", schema(&fields), &[("format", "json")])
            .with_option("sink.partition-commit.policy.kind", "success-file")
            .with_option("sink.partition-commit.delay", "10 s")
            .with_option("sink.rolling-policy.rollover-interval", "2 s");
        table.partitioned_by = vec!["day".to_owned()];
        let mut sink = on_aws(1).sink(&table, "s3").unwrap();
        let rows = batch(&table.schema, vec![numbers(0..2), numbers(11..13)]);
        sink.write(EpochNumber(1), appends(rows)).await.unwrap();
        let mut seen = Vec::new();
        for now_ms in [1_000, 5_000, 10_999, 11_000] {
            sink.flush(EpochNumber(1), now_ms).await.unwrap();
            let staged = sink.prepare(EpochNumber(1)).await.unwrap();
            sink.commit(staged).await.unwrap();
            seen.push(bucket.keys().await.len());
        }
        assert_eq!(seen, [0, 2, 2, 4], "{}", emulator.name);
        assert!(bucket.keys().await.contains(&"out/day=12/_SUCCESS".to_owned()));
    }
}

/// S3 takes keys of 1,024 bytes; no value of an event is a reason to stop a job.
#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_keys_would_be_too_long_are_refused_and_the_others_written() {
    for emulator in both().await {
        let bucket = emulator.bucket("long").await;
        let fields = [("n", DataType::Int64), ("u", DataType::Utf8View), ("v", DataType::Utf8View)];
        let mut table = emulator.table("s3://long/out", schema(&fields), &[("format", "json")]);
        table.partitioned_by = vec!["u".to_owned(), "v".to_owned()];
        let texts = |texts: [&str; 4]| -> ArrayRef { Arc::new(StringViewArray::from(texts.to_vec())) };
        // Each name is one that folders could have, for an emulator that keeps objects in files.
        let (long, longer) = ("x".repeat(240), "%".repeat(400));
        let columns = vec![numbers(0..4), texts(["a", &long, "b", &longer]), texts(["a", &long, "b", "b"])];
        let mut sink = on_aws(1).sink(&table, "s3").unwrap();
        let outcome = sink.write(EpochNumber(1), appends(batch(&table.schema, columns))).await.unwrap();
        assert_eq!(outcome.written, 3, "{}", emulator.name);
        let refused = &outcome.refused[0];
        assert_eq!(
            (refused.row, refused.reason.as_str(), refused.column.as_deref()),
            (3, "partition_too_long", Some("u"))
        );
        sink.flush(EpochNumber(1), 0).await.unwrap();
        let staged = sink.finish(EpochNumber(1)).await.unwrap();
        sink.commit(staged).await.unwrap();
        let folders: Vec<String> =
            bucket.keys().await.iter().map(|key| key.rsplit_once('/').unwrap().0.to_owned()).collect();
        assert_eq!(folders, ["out/u=a/v=a".to_owned(), "out/u=b/v=b".to_owned(), format!("out/u={long}/v={long}")]);
    }
}
