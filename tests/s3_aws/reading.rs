//! What is read: in the order of keys, one version of each object, and errors that say what to do.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::DataType;
use tidemill::contracts::{ErrorKind, Fetch, Position, SourceProgress, SplitProgress, StartPosition};

use crate::emulator::{both, seaweed};
use crate::on_aws;
use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn splits_are_in_the_order_of_their_keys_and_hidden_ones_are_none() {
    for emulator in both().await {
        let bucket = emulator.bucket("order").await;
        let shown = ["in/a b.json", "in/a-b.json", "in/a.json", "in/a/b.json", "in/b%2F.json", "in/year=1/ü.json"];
        for key in shown.iter().rev() {
            bucket.put(key, "{\"n\":1}\n").await;
        }
        for hidden in
            ["in/_SUCCESS", "in/.x.json", "in/_tmp/a.json", "in/year=1/.part.json", "into.json", "other/a.json"]
        {
            bucket.put(hidden, "{\"n\":2}\n").await;
        }
        bucket.put("in/", "").await;
        bucket.put("in/year=2/", "").await;
        let table = emulator.table("s3://order/in/", schema(&[("n", DataType::Int64)]), &[("format", "json")]);
        let source = on_aws(1).source(&table, "s3").unwrap();
        let found: Vec<String> = source.splits().await.unwrap().iter().map(|s| s.id.to_string()).collect();
        let expected: Vec<String> = shown.iter().map(|key| format!("s3://order/{key}")).collect();
        assert_eq!(found, expected, "{}", emulator.name);
        assert_eq!(read_source(source.as_ref()).await, vec!["{\"n\":1}"; 6]);
        // A table may be one object.
        let one = emulator.table("s3://order/in/a.json", schema(&[("n", DataType::Int64)]), &[("format", "json")]);
        assert_eq!(read_source(on_aws(1).source(&one, "s3").unwrap().as_ref()).await, ["{\"n\":1}"]);
        let none = emulator.table("s3://order/nowhere", schema(&[("n", DataType::Int64)]), &[("format", "json")]);
        let error = on_aws(1).source(&none, "s3").unwrap().splits().await.unwrap_err().to_string();
        assert!(error.contains("there are no files at 's3://order/nowhere'"), "{error}");
        let pattern = table.clone().with_option("source.path.regex-pattern", "s3://order/in/a/.*");
        let source = on_aws(1).source(&pattern, "s3").unwrap();
        assert_eq!(source.splits().await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_lines_are_read_on_from_a_position() {
    for emulator in both().await {
        emulator.bucket("packed").await;
        for compression in ["none", "gzip", "zstd"] {
            let table = emulator
                .table(&format!("s3://packed/{compression}"), schema(&[("n", DataType::Int64)]), &[("format", "json")])
                .with_option("compression", compression);
            let mut sink = on_aws(1).sink(&table, "s3").unwrap();
            // 6 MB: more than one range, and several chunks.
            let rows = Arc::new(Int64Array::from_iter_values(1_000_000..1_400_000));
            write_all(sink.as_mut(), vec![appends(batch(&table.schema, vec![rows]))]).await;
            let source = on_aws(1).source(&table, "s3").unwrap();
            let split = &source.splits().await.unwrap()[0];
            let all = read_split(source.as_ref(), split, None, StartPosition::TrimHorizon).await;
            assert_eq!(all.len(), 400_000, "{} {compression}", emulator.name);
            for at in [0, 99_999, 300_000, 399_999] {
                let rest = read_split(source.as_ref(), split, Some(&all[at].1), StartPosition::TrimHorizon).await;
                assert_eq!(rest, all[at + 1..], "{} {compression} after {at}", emulator.name);
            }
            assert!(read_split(source.as_ref(), split, None, StartPosition::Latest).await.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_is_read_in_blocks_and_on_from_a_position() {
    for emulator in both().await {
        emulator.bucket("parquet").await;
        let fields = [("n", DataType::Int64), ("text", DataType::Utf8View)];
        let table = emulator
            .table("s3://parquet/in", schema(&fields), &[("format", "parquet")])
            .with_option("parquet.compression", "UNCOMPRESSED")
            .with_option("parquet.row-group.size", "1 mb");
        let rows = batch(
            &table.schema,
            vec![
                Arc::new(Int64Array::from_iter_values(0..60_000)),
                // 6 MB that neither a dictionary nor the value before makes small.
                Arc::new(StringViewArray::from_iter_values((0..60_000).map(|i| format!("{i:0>5}{:x<95}", "")))),
            ],
        );
        let mut sink = on_aws(1).sink(&table, "s3").unwrap();
        write_all(sink.as_mut(), vec![appends(rows)]).await;
        let source = on_aws(1).source(&table, "s3").unwrap();
        let split = &source.splits().await.unwrap()[0];
        assert!(split.bytes.unwrap() > 5 << 20);
        let all = read_split(source.as_ref(), split, None, StartPosition::TrimHorizon).await;
        assert_eq!(all.len(), 60_000, "{}", emulator.name);
        assert_eq!(all[59_999].0, format!("{{\"n\":59999,\"text\":\"59999{:x<95}\"}}", ""));
        let rest = read_split(source.as_ref(), split, Some(&all[41_000].1), StartPosition::TrimHorizon).await;
        assert_eq!(rest, all[41_001..]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_written_over_while_it_is_read_is_an_error() {
    for emulator in both().await {
        let bucket = emulator.bucket("changing").await;
        let lines = |n: usize| format!("{{\"n\":{n:0>90}}}\n").repeat(200_000).into_bytes();
        bucket.put("in/a.json", lines(1)).await;
        let table = emulator.table("s3://changing/in", schema(&[("n", DataType::Utf8View)]), &[("format", "json")]);
        let source = on_aws(1).source(&table, "s3").unwrap();
        let split = &source.splits().await.unwrap()[0];
        let mut reader = source.open(split, None, StartPosition::TrimHorizon).await.unwrap();
        assert!(matches!(reader.next().await.unwrap(), Fetch::Records(_)));
        bucket.put("in/a.json", lines(2)).await;
        let error = loop {
            match reader.next().await {
                Ok(Fetch::Records(_)) => {}
                Ok(other) => panic!("{}: {other:?}", emulator.name),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("'s3://changing/in/a.json' was written over while it was read"), "{error}");
    }
}

/// A position within it would be one in another text.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_written_over_between_two_runs_is_an_error() {
    for emulator in both().await {
        let bucket = emulator.bucket("between").await;
        let lines = |n: usize| format!("{{\"n\":{n:0>90}}}\n").repeat(1_000).into_bytes();
        for key in ["in/a.json", "in/b.json"] {
            bucket.put(key, lines(1)).await;
        }
        let table = emulator.table("s3://between/in", schema(&[("n", DataType::Utf8View)]), &[("format", "json")]);
        let first = on_aws(1).source(&table, "s3").unwrap();
        first.begin(StartPosition::TrimHorizon, None).await.unwrap();
        let splits = first.splits().await.unwrap();
        let [a, b] = [&splits[0], &splits[1]];
        let all = read_split(first.as_ref(), a, None, StartPosition::TrimHorizon).await;
        read_split(first.as_ref(), b, None, StartPosition::TrimHorizon).await;
        let version = first.version(&a.id);
        assert!(version.is_some());
        let progress = |position: &Position, version: &Option<String>| {
            let (after_exclusive, version) = (Some(position.clone()), version.clone());
            let at = SplitProgress { after_exclusive, finished: false, version };
            SourceProgress { splits: [(a.id.clone(), at)].into(), state: None }
        };
        // As it was, it is read on; also a run that has not come to it keeps what it was.
        let second = on_aws(2).source(&table, "s3").unwrap();
        second.begin(StartPosition::TrimHorizon, Some(&progress(&all[9].1, &version))).await.unwrap();
        assert_eq!((second.version(&a.id), second.version(&b.id)), (version.clone(), None));
        let rest = read_split(second.as_ref(), a, Some(&all[9].1), StartPosition::TrimHorizon).await;
        assert_eq!(rest, all[10..], "{}", emulator.name);
        for key in ["in/a.json", "in/b.json"] {
            bucket.put(key, lines(2)).await;
        }
        let third = on_aws(3).source(&table, "s3").unwrap();
        third.begin(StartPosition::TrimHorizon, Some(&progress(&all[499].1, &version))).await.unwrap();
        let mut reader = third.open(a, Some(&all[499].1), StartPosition::TrimHorizon).await.unwrap();
        let error = reader.next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let said = error.to_string();
        assert!(said.contains("'s3://between/in/a.json' was written over") && said.contains("table 't'"), "{said}");
        // One that nobody had begun with, or had read to its end, is read as it is.
        assert_eq!(read_split(third.as_ref(), b, None, StartPosition::TrimHorizon).await.len(), 1_000);
    }
}

/// The same with the program, which was killed in the midst of an object.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_does_not_go_on_in_another_version_of_an_object() {
    const ROWS: i64 = 20_000;
    for emulator in both().await {
        let bucket = emulator.bucket("went-on").await;
        let lines = |from: i64| (from..from + ROWS).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>();
        bucket.put("in/a.json", lines(100_000)).await;
        let folder = tempfile::tempdir().unwrap();
        let sql =
            "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 's3', 'path' = 's3://went-on/in/', 'format' = 'json');
            CREATE TABLE copies (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'copies', 'format' = 'json');
            INSERT INTO copies SELECT n FROM numbers;";
        std::fs::write(folder.path().join("job.sql"), sql).unwrap();
        let run = |dies_at: Option<&str>| {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidemill"));
            command.args(["run", "job.sql", "--checkpoints", "kept", "--once", "--epoch-rows", "100"]);
            command.args(["--checkpoint-interval", "1ms"]).current_dir(folder.path()).envs(emulator.environment());
            command.envs(dies_at.map(|place| ("TIDEMILL_CRASH_AT", place)));
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
        };
        // A busy machine may make it when the run has ended, and its file is there: that is not the midst of an object.
        let killed_in_the_midst = || {
            for made in ["kept", "copies"] {
                let _ = std::fs::remove_dir_all(folder.path().join(made));
            }
            let (code, said) = run(Some("manifest.after:2"));
            assert_eq!(code, None, "{}: it was not reached: {said}", emulator.name);
            let mut files = std::fs::read_dir(folder.path().join("copies")).into_iter().flatten().flatten();
            files.all(|file| file.file_name().to_string_lossy().starts_with('.'))
        };
        assert!((0..10).any(|_| killed_in_the_midst()), "ten times, the run had ended at its second checkpoint");
        // Lines of the same length.
        bucket.put("in/a.json", lines(200_000)).await;
        for _ in 0..2 {
            let (code, said) = run(None);
            assert_eq!(code, Some(1), "{}: {said}", emulator.name);
            assert!(said.contains("'s3://went-on/in/a.json' was written over"), "{said}");
        }
        // It is as it was again.
        bucket.put("in/a.json", lines(100_000)).await;
        let (code, said) = run(None);
        assert_eq!(code, Some(0), "{}: {said}", emulator.name);
        let files = std::fs::read_dir(folder.path().join("copies")).unwrap().flatten().map(|file| file.path());
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        let text: String = files.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let mut copied: Vec<&str> = text.lines().collect();
        copied.sort_unstable();
        let (lines, name) = (lines(100_000), &emulator.name);
        assert!(copied.iter().copied().eq(lines.lines()), "{name}: {} of {ROWS}: {:?}", copied.len(), copied.first());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_table_is_loaded_again_when_an_etag_changes() {
    for emulator in both().await {
        let bucket = emulator.bucket("references").await;
        bucket.put("in/p.csv", "a,1\nb,2\n").await;
        let table = emulator.table(
            "s3://references/in",
            schema(&[("name", DataType::Utf8View), ("n", DataType::Int64)]),
            &[("format", "csv")],
        );
        let reference = on_aws(1).reference(&table, "s3").unwrap();
        let (version, rows) = reference.load().await.unwrap();
        assert_eq!(rows.num_rows(), 2);
        assert_eq!(reference.version().await.unwrap(), version);
        // The same size, within the same second.
        bucket.put("in/p.csv", "a,1\nb,3\n").await;
        let fresh = on_aws(1).reference(&table, "s3").unwrap();
        assert_ne!(fresh.version().await.unwrap(), version, "{}", emulator.name);
        // The first one asks again when its last answer is old, which `load` does not wait for.
        let (later, rows) = reference.load().await.unwrap();
        assert_ne!(later, version);
        assert_eq!(rows.column(1).as_primitive::<arrow::datatypes::Int64Type>().values(), &[1, 3]);
        bucket.put("in/p.csv", "a,1\nb,many\n").await;
        let error = reference.load().await.unwrap_err().to_string();
        assert!(error.contains("'s3://references/in/p.csv', byte 4") && error.contains("many"), "{error}");
        bucket.delete("in/p.csv").await;
        let error = reference.load().await.unwrap_err().to_string();
        assert!(error.contains("there are no files"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_objects_are_found_where_they_are_looked_for() {
    for emulator in both().await {
        let bucket = emulator.bucket("monitored").await;
        let table = emulator
            .table("s3://monitored/in", schema(&[("n", DataType::Int64)]), &[("format", "json")])
            .with_option("source.monitor-interval", "50 ms");
        let source = on_aws(1).source(&table, "s3").unwrap();
        assert!(source.splits().await.unwrap().is_empty());
        bucket.put("in/b.json", "{\"n\":1}\n").await;
        let mut found = 0;
        for _ in 0..100 {
            found = source.splits().await.unwrap().len();
            if found == 1 {
                break;
            }
            crate::emulator::pause(50).await;
        }
        assert_eq!(found, 1, "{}", emulator.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_bucket_the_code_and_what_to_do() {
    for emulator in both().await {
        let columns = || schema(&[("n", DataType::Int64)]);
        let missing = emulator.table("s3://no-such-bucket/in", columns(), &[("format", "json")]);
        let source = on_aws(1).source(&missing, "s3").unwrap().splits().await.unwrap_err().to_string();
        let sink = on_aws(1).sink(&missing, "s3").unwrap().open().await.unwrap_err().to_string();
        for error in [source, sink] {
            for part in ["table 't'", "s3:ListObjectsV2 on 'no-such-bucket", "NoSuchBucket", "tidemill provision"] {
                assert!(error.contains(part), "{}: no {part} in {error}", emulator.name);
            }
        }
    }
    let Some(emulator) = seaweed().await else { return };
    emulator.bucket("guarded").await;
    let columns = schema(&[("n", DataType::Int64)]);
    let wrong = emulator
        .table("s3://guarded/in", columns.clone(), &[("format", "json")])
        .with_option("aws.credentials.basic.secretkey", "not-the-one");
    let error = on_aws(1).sink(&wrong, "s3").unwrap().open().await.unwrap_err().to_string();
    assert!(error.contains("SignatureDoesNotMatch") && error.contains("credentials are missing, wrong"), "{error}");
    assert!(!error.contains("not-the-one"), "{error}");
    let unknown = emulator
        .table("s3://guarded/in", columns.clone(), &[("format", "json")])
        .with_option("aws.credentials.basic.accesskeyid", "AKIDNOBODY");
    let error = on_aws(1).source(&unknown, "s3").unwrap().splits().await.unwrap_err().to_string();
    assert!(error.contains("InvalidAccessKeyId") && error.contains("credentials are missing, wrong"), "{error}");
    let nobody_listens = emulator
        .table("s3://guarded/in", columns, &[("format", "json")])
        .with_option("aws.endpoint", "http://127.0.0.1:9");
    let error = on_aws(1).sink(&nobody_listens, "s3").unwrap().open().await.unwrap_err().to_string();
    assert!(error.contains("check the network, the region and the endpoint"), "{error}");
}
