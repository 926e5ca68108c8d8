//! Records that are found to be unfit before there is an epoch, when their reader makes rows of them.

use super::*;

/// Rows whose time, or whose watermark, cannot be computed. Readers compute it, before there is an epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_whose_time_cannot_be_computed_are_rejected_with_their_position() {
    let tables = |columns: &str| {
        format!(
            "CREATE TABLE events (i BIGINT, {columns}, never_used AS CAST(k AS BIGINT))
WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/in', 'format' = 'json');
CREATE TABLE counts (w TIMESTAMP(3), c BIGINT) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/counts', 'format' = 'json');
CREATE TABLE everything (i BIGINT) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/everything', 'format' = 'json');
INSERT INTO counts SELECT window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end;
INSERT INTO everything SELECT i FROM events;"
        )
    };
    let start_ms = 1_772_323_200_000_i64;
    let ms = |i: usize| start_ms + 1_000 * i as i64;
    let text = |i: usize| format!("2026-03-01 00:{:02}:{:02}", i / 60, i % 60);
    type Record<'a> = &'a dyn Fn(usize, bool) -> String;
    let kinds: [(&str, &str, Record<'_>, &str); 3] = [
        (
            "a text that is no time",
            "k STRING, n STRING, ts AS CAST(n AS TIMESTAMP(3)), WATERMARK FOR ts AS ts - INTERVAL '1' SECOND",
            &|i, is_bad| format!(r#""n":"{}""#, if is_bad { "garbage".to_owned() } else { text(i) }),
            "garbage",
        ),
        (
            "nanoseconds for milliseconds",
            "k STRING, n BIGINT, ts AS TO_TIMESTAMP_LTZ(n, 3), WATERMARK FOR ts AS ts - INTERVAL '1' SECOND",
            &|i, is_bad| format!(r#""n":{}"#, if is_bad { ms(i) * 1_000_000 } else { ms(i) }),
            "",
        ),
        (
            "a watermark that cannot be computed",
            "k STRING, n BIGINT, m BIGINT, ts TIMESTAMP_LTZ(3), WATERMARK FOR ts AS TO_TIMESTAMP_LTZ(n / m, 3)",
            &|i, is_bad| format!(r#""n":{},"m":{},"ts":"{}Z""#, ms(i), i64::from(!is_bad), text(i).replace(' ', "T")),
            "zero",
        ),
    ];
    for (what, columns, record, detail) in kinds {
        for (variant, ending) in VARIANTS.into_iter().flat_map(|v| [(v, Ending::Drain), (v, Ending::Once)]) {
            let what = format!("{what} [{variant}] {ending:?}");
            let folder = place(&tables(columns), std::iter::empty());
            let record = |i: usize| format!(r#"{{"i":{i},"k":"no number",{}}}"#, record(i, BAD.contains(&i)));
            let lines_in: Vec<String> = (0..ROWS).map(record).collect();
            std::fs::write(folder.path().join("in/a.jsonl"), lines_in.join("\n") + "\n").unwrap();
            let parameters = BTreeMap::from([("DIR".to_owned(), folder.path().display().to_string())]);
            let options =
                options(folder.path().join("job.sql"), folder.path().join("local"), parameters, variant, ending);
            let summary = run(&options).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            let good = ROWS - BAD.len();
            let counts = &summary.tables[0];
            let rejected = counts.rejected.get("bad_timestamp").copied();
            assert_eq!((counts.decoded, rejected), (good as u64, Some(BAD.len() as u64)), "{what}");
            for query in &summary.queries {
                assert_eq!((query.used, query.late), (good as u64, 0), "{what}: {}", query.name);
            }
            let used: i64 = lines(&folder.path().join("counts"))
                .iter()
                .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["c"].as_i64().unwrap())
                .sum();
            // The last record of all is bad, and the ones before it are of the minute that stays open.
            let closed = if ending == Ending::Drain { good } else { 480 - 3 };
            assert_eq!(used, closed as i64, "{what}");
            assert_eq!(lines(&folder.path().join("everything")).len(), good, "{what}");
            let mut refused = refused(folder.path(), "events");
            refused.sort_by_key(|line| line["sequence_number"].as_str().unwrap().parse::<u64>().unwrap());
            let mut positions = 0;
            for (line, i) in refused.iter().zip(BAD) {
                assert_eq!(line["reason"], "bad_timestamp", "{what}: {line}");
                assert!(line["split"].as_str().unwrap().ends_with("a.jsonl"), "{what}: {line}");
                assert_eq!(line["record"].as_str(), Some(lines_in[i].as_str()), "{what}: {line}");
                let said = line["detail"].as_str().unwrap();
                assert!(!said.is_empty() && said.contains(detail), "{what}: {line}");
                // The position of a record of a file is its first byte.
                positions = lines_in[..i].iter().map(|line| line.len() + 1).sum();
                assert_eq!(line["sequence_number"], positions.to_string(), "{what}: {line}");
            }
            assert_eq!(refused.len(), BAD.len(), "{what}: {refused:?}");
            assert!(positions > 0);
        }
    }
}

/// What is the same for all records of a file can be unfit too. What folders say, records have not, as the sink of such a table writes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_and_folders_that_do_not_fit_refuse_their_records() {
    let job = "
CREATE TABLE events (n BIGINT, part INT NOT NULL, name BIGINT NOT NULL METADATA FROM 'file.name' VIRTUAL)
PARTITIONED BY (part) WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE parts (n BIGINT, part INT NOT NULL)
PARTITIONED BY (part) WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE numbers (n BIGINT, part INT, name BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/numbers', 'format' = 'json');
CREATE TABLE all_parts (part INT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/all_parts', 'format' = 'json');
INSERT INTO numbers SELECT n, part, name FROM events;
INSERT INTO all_parts SELECT part FROM parts;";
    for (format, record) in [
        ("json", (|n| format!("{{\"n\":{n}}}\n")) as fn(u8) -> String),
        ("json", |n| format!("{{\"n\":{n},\"part\":7}}\n")),
        ("csv", |n| format!("{n}\n")),
    ] {
        let job = job.replace("/in', 'format' = 'json'", &format!("/in', 'format' = '{format}'"));
        // The two tables are read by one reader, and each alone.
        for job in [job.clone(), job.replace("INSERT INTO all_parts SELECT part FROM parts;", "")] {
            let folder = place(&job, std::iter::empty());
            std::fs::remove_file(folder.path().join("in/a.jsonl")).unwrap();
            for (file, n) in [("part=1/17", 1), ("part=1/none", 2), ("part=__DEFAULT_PARTITION__/18", 3)] {
                let file = folder.path().join("in").join(file);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, record(n)).unwrap();
            }
            let summary = ran(folder.path(), Variant::default()).await.expect("it runs");
            let what = record(0);
            assert_eq!(lines(&folder.path().join("numbers")), [r#"{"n":1,"part":1,"name":17}"#], "{what}");
            let counts = summary.tables.iter().find(|counts| counts.name == "events").unwrap();
            assert_eq!(counts.rejected["missing_value"], 2, "{what}");
            let refused = refused(folder.path(), "events");
            let mut columns: Vec<&str> = refused.iter().map(|line| line["column"].as_str().unwrap()).collect();
            columns.sort_unstable();
            assert_eq!(columns, ["name", "part"], "{what} {refused:?}");
            if summary.tables.len() > 1 {
                assert_eq!(lines(&folder.path().join("all_parts")), [r#"{"part":1}"#; 2], "{what}");
            }
        }
    }
}

/// Values of typed rows. Some tables share a reader with the one whose columns they do not fit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_parquet_that_do_not_fit_are_refused_alone() {
    let write = "
CREATE TABLE events (n BIGINT, s STRING, at TIMESTAMP_LTZ(3)) WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE typed (n BIGINT, s STRING, at TIMESTAMP(3)) WITH ('connector' = 'filesystem', 'path' = '${DIR}/typed', 'format' = 'parquet');
INSERT INTO typed SELECT n, s, CAST(CASE WHEN n = 5 THEN NULL ELSE at END AS TIMESTAMP(3)) FROM events;";
    let read = "
CREATE TABLE typed (n TINYINT NOT NULL, s BIGINT, at TIMESTAMP(3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/typed', 'format' = 'parquet');
CREATE TABLE again (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/typed', 'format' = 'parquet');
CREATE TABLE texts (s STRING) WITH ('connector' = 'filesystem', 'path' = '${DIR}/typed', 'format' = 'parquet');
CREATE TABLE times (at TIMESTAMP(3)) WITH ('connector' = 'filesystem', 'path' = '${DIR}/typed', 'format' = 'parquet');
CREATE TABLE all_times (at TIMESTAMP(3)) WITH ('connector' = 'filesystem', 'path' = '${DIR}/all_times', 'format' = 'json');
CREATE TABLE numbers (n BIGINT, s BIGINT, at TIMESTAMP(3))
WITH ('connector' = 'filesystem', 'path' = '${DIR}/numbers', 'format' = 'json');
CREATE TABLE everything (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/everything', 'format' = 'json');
CREATE TABLE all_texts (s STRING) WITH ('connector' = 'filesystem', 'path' = '${DIR}/all_texts', 'format' = 'json');
INSERT INTO numbers SELECT n, s, at FROM typed;
INSERT INTO all_times SELECT at FROM times;
INSERT INTO everything SELECT n FROM again;
INSERT INTO all_texts SELECT s FROM texts;";
    for variant in VARIANTS {
        let folder = place(write, 0..ROWS);
        ran(folder.path(), Variant::default()).await.expect("written");
        std::fs::remove_dir_all(folder.path().join("local")).unwrap();
        std::fs::write(folder.path().join("job.sql"), read).unwrap();
        let summary = ran(folder.path(), variant).await.unwrap_or_else(|e| panic!("[{variant}] {e}"));
        assert_eq!(lines(&folder.path().join("everything")).len(), ROWS, "[{variant}]");
        assert_eq!(lines(&folder.path().join("all_texts")).len(), ROWS, "[{variant}]");
        assert_eq!(lines(&folder.path().join("all_times")).len(), ROWS, "[{variant}]");
        // 0, 17, 18 and 499 have a text that is no number; from 128 on `n` is no TINYINT; 5 has no time.
        let good: Vec<usize> = (0..128).filter(|n| !BAD.contains(n) && *n != 5).collect();
        assert_eq!(lines(&folder.path().join("numbers")).len(), good.len(), "[{variant}]");
        let counts = summary.tables.iter().find(|counts| counts.decoded == good.len() as u64).expect("of `typed`");
        assert_eq!(counts.rejected["wrong_type"], (ROWS - 128 + 3) as u64, "[{variant}]");
        assert_eq!(counts.rejected["missing_value"], 1, "[{variant}]");
        let refused = refused(folder.path(), "typed");
        assert_eq!(refused.len(), ROWS - good.len(), "[{variant}]");
        let of = |row: usize| {
            let row = row.to_string();
            refused.iter().find(|line| line["sequence_number"] == row.as_str()).unwrap_or_else(|| panic!("row {row}"))
        };
        assert_eq!((&of(5)["column"], &of(5)["reason"]), (&"at".into(), &"missing_value".into()), "[{variant}]");
        for (row, column, detail) in [(17, "s", "none 17"), (128, "n", "128"), (300, "n", "300")] {
            assert_eq!(of(row)["column"], column, "[{variant}]");
            assert!(of(row)["detail"].as_str().unwrap().contains(detail), "[{variant}] {}", of(row));
        }
    }
}

/// An item of a list, or a value of a map, that cannot be cast is its own row's fault: a slice of a batch has its own only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_cannot_be_cast_fails_its_own_row_only() {
    const LISTS: &str = "
CREATE TABLE events (n BIGINT, tags ARRAY<STRING>, sizes MAP<STRING, STRING>)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE lists (n BIGINT, tags ARRAY<INT>) WITH ('connector' = 'filesystem', 'path' = '${DIR}/lists', 'format' = 'json');
CREATE TABLE maps (n BIGINT, sizes MAP<STRING, INT>) WITH ('connector' = 'filesystem', 'path' = '${DIR}/maps', 'format' = 'json');
INSERT INTO lists SELECT n, CAST(tags AS ARRAY<INT>) FROM events;
INSERT INTO maps SELECT n, CAST(sizes AS MAP<STRING, INT>) FROM events;
";
    for variant in VARIANTS {
        let folder = place(LISTS, std::iter::empty());
        let text = |n: usize| if BAD.contains(&n) { "none".to_owned() } else { n.to_string() };
        let record = |n: usize| format!(r#"{{"n":{n},"tags":["1","{0}"],"sizes":{{"a":"{0}"}}}}"#, text(n));
        let records: Vec<String> = (0..ROWS).map(record).collect();
        std::fs::write(folder.path().join("in/a.jsonl"), records.join("\n") + "\n").unwrap();
        ran(folder.path(), variant).await.unwrap_or_else(|e| panic!("[{variant}] {e}"));
        let wanted = |row: &dyn Fn(usize) -> String| {
            let mut wanted: Vec<String> = (0..ROWS).filter(|n| !BAD.contains(n)).map(row).collect();
            wanted.sort();
            wanted
        };
        let lists = wanted(&|n| format!(r#"{{"n":{n},"tags":[1,{n}]}}"#));
        assert_eq!(lines(&folder.path().join("lists")), lists, "[{variant}]");
        let maps = wanted(&|n| format!(r#"{{"n":{n},"sizes":{{"a":{n}}}}}"#));
        assert_eq!(lines(&folder.path().join("maps")), maps, "[{variant}]");
        for query in ["lists", "maps"] {
            assert_eq!(refused(folder.path(), query).len(), BAD.len(), "[{variant}] {query}");
        }
    }
}

/// What a query computes is computed for rows that its WHERE lets through, and for no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_condition_leaves_out_make_nothing_fail() {
    let table = |name: &str| {
        format!(
            "CREATE TABLE {name} (n BIGINT, r BIGINT) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/{name}', 'format' = 'json');\n"
        )
    };
    let job = format!(
        "SET 'tidemill.maximum-failed-rows' = '1';
CREATE TABLE events (n BIGINT, x BIGINT, y BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at)
WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/in', 'format' = 'json');
CREATE VIEW ratios AS SELECT n, (x + y) / MOD(n, 5) AS r FROM events WHERE MOD(n, 5) <> 0;
{}{}{}
INSERT INTO bare SELECT n, (x + y) / MOD(n, 5) FROM events WHERE MOD(n, 5) <> 0;
INSERT INTO viewed SELECT n, r FROM ratios WHERE n > 1;
INSERT INTO summed SELECT MOD(n, 5), SUM((x + y) / MOD(n, 5)) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY))
WHERE MOD(n, 5) <> 0 GROUP BY window_start, window_end, MOD(n, 5);",
        table("bare"),
        table("viewed"),
        table("summed"),
    );
    for variant in VARIANTS {
        let folder = place(&job, std::iter::empty());
        let record = |n: usize| format!(r#"{{"n":{n},"x":{},"y":{n},"at":"2026-03-01T00:00:00Z"}}"#, 2 * n);
        let records: Vec<String> = (0..ROWS).map(record).collect();
        std::fs::write(folder.path().join("in/a.jsonl"), records.join("\n") + "\n").unwrap();
        ran(folder.path(), variant).await.unwrap();
        let good = |least: usize| (least..ROWS).filter(|n| n % 5 != 0);
        let line = |n: usize, r: usize| format!(r#"{{"n":{n},"r":{r}}}"#);
        let sorted = |mut lines: Vec<String>| {
            lines.sort();
            lines
        };
        let wanted = |least| sorted(good(least).map(|n| line(n, 3 * n / (n % 5))).collect());
        assert_eq!(lines(&folder.path().join("bare")), wanted(0), "[{variant}]");
        assert_eq!(lines(&folder.path().join("viewed")), wanted(2), "[{variant}]");
        let sum = |k| line(k, good(0).filter(|n| n % 5 == k).map(|n| 3 * n / k).sum());
        assert_eq!(lines(&folder.path().join("summed")), [1, 2, 3, 4].map(sum), "[{variant}]");
        assert_eq!(lines(&folder.path().join("local/errors")), Vec::<String>::new(), "[{variant}]");
    }
}
