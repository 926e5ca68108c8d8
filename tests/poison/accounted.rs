//! What is in no result is a line of the error output, whatever it comes from: a record, a typed row, or a result.

use super::*;

/// The numbers `name` of the records of refused lines, in order.
fn numbers(refused: &[serde_json::Value], name: &str) -> Vec<i64> {
    let number = |line: &serde_json::Value| {
        let record: serde_json::Value = serde_json::from_str(line["record"].as_str().unwrap()).unwrap();
        record[name].as_i64().unwrap_or_else(|| panic!("no '{name}' in {line}"))
    };
    let mut numbers: Vec<i64> = refused.iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Of a result there is no record that could be written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_require_refuses_are_written_as_they_are() {
    let job = "
CREATE TABLE events (n BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '10' MINUTE)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE again (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE windows (s TIMESTAMP(3), c BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/windows', 'format' = 'json');
CREATE TABLE firsts (n BIGINT, place BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/firsts', 'format' = 'json');
CREATE TABLE constants (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/constants', 'format' = 'json');
CREATE TABLE mixed (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/mixed', 'format' = 'json');
INSERT INTO windows SELECT s, c FROM (SELECT window_start AS s, COUNT(*) AS c
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end)
WHERE REQUIRE(c >= 10, 'few');
INSERT INTO firsts SELECT n, place FROM (
SELECT n, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY n) AS place
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE))) WHERE REQUIRE(place <= 9, 'not among nine');
INSERT INTO constants SELECT n FROM (VALUES (1), (2), (3)) AS t(n) WHERE REQUIRE(n > 1, 'small');
-- Rows of a table and results in one place.
INSERT INTO mixed SELECT n FROM (SELECT n FROM again UNION ALL SELECT COUNT(*) AS n
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end)
WHERE REQUIRE(n >= 10, 'small');";
    for variant in VARIANTS {
        let folder = place(job, 0..ROWS);
        let summary = ran(folder.path(), variant).await.unwrap_or_else(|e| panic!("[{variant}] {e}"));
        let minutes = ROWS / 10;
        // Of the third minute three are missing, and the fourth has them: its tenth to thirteenth are too many there, the tenth elsewhere.
        let places = 4 + (minutes - 2);
        for (query, reason, rows, lines_out) in [
            ("windows", "few", 1, minutes - 1),
            ("firsts", "not among nine", places, ROWS - places),
            ("constants", "small", 1, 2),
            ("mixed", "small", 10 + 1, ROWS + minutes - 11),
        ] {
            let what = format!("[{variant}] {query}");
            assert_eq!(lines(&folder.path().join(query)).len(), lines_out, "{what}");
            let refused = refused(folder.path(), &format!(":{query}"));
            assert_eq!(refused.len(), rows, "{what}: {refused:?}");
            for line in &refused {
                assert!(line["reason"] == reason && line["sequence_number"] == "", "{what}: {line}");
            }
            let counts = summary.queries.iter().find(|counts| counts.name.ends_with(&format!(":{query}"))).unwrap();
            assert_eq!(counts.refused, BTreeMap::from([(reason.to_owned(), rows as u64)]), "{what}");
            assert!(counts.rejected.is_empty(), "{what}: rows of tables are used: {:?}", counts.rejected);
        }
        let windows = refused(folder.path(), ":windows");
        let record: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(windows[0]["record"].as_str().unwrap()).unwrap();
        assert!(record.keys().eq(["c", "s"]), "[{variant}] columns of the query, and no others: {record:?}");
        assert_eq!(record["c"], 7, "[{variant}]");
        assert!(record["s"].as_str().unwrap().starts_with("2026-03-01T00:02:00"), "[{variant}] {record:?}");
        assert_eq!(numbers(&refused(folder.path(), ":constants"), "n"), [1], "[{variant}]");
        assert_eq!(numbers(&refused(folder.path(), ":mixed"), "n"), [0, 1, 2, 3, 4, 5, 6, 7, 7, 8, 9], "[{variant}]");
    }
}

/// Writes the first `rows` records as a file of Parquet, in their order, into `typed`.
async fn as_parquet(rows: usize) -> tempfile::TempDir {
    let write = "
CREATE TABLE events (n BIGINT, s STRING, at TIMESTAMP_LTZ(3)) WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE typed (n BIGINT, s STRING, at TIMESTAMP(3)) WITH ('connector' = 'filesystem', 'path' = '${DIR}/typed', 'format' = 'parquet');
INSERT INTO typed SELECT n, s, CAST(at AS TIMESTAMP(3)) FROM events;";
    let folder = place(write, 0..rows);
    ran(folder.path(), Variant::default()).await.expect("written");
    std::fs::remove_dir_all(folder.path().join("local")).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_parquet_that_a_query_refuses_are_written_with_their_position() {
    let read = "
SET 'tidemill.late-rows' = 'errors';
CREATE TABLE typed (n BIGINT, s STRING, at TIMESTAMP(3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/typed', 'format' = 'parquet');
CREATE TABLE small (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/small', 'format' = 'json');
CREATE TABLE counts (w TIMESTAMP(3), c BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/counts', 'format' = 'json');
CREATE TABLE numbers (s BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/numbers', 'format' = 'json');
INSERT INTO small SELECT n FROM typed WHERE REQUIRE(n < 490, 'too large');
INSERT INTO counts SELECT window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE typed, DESCRIPTOR(at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end;
INSERT INTO numbers SELECT CAST(s AS BIGINT) FROM typed;";
    for variant in VARIANTS {
        let folder = as_parquet(ROWS).await;
        std::fs::write(folder.path().join("job.sql"), read).unwrap();
        let summary = ran(folder.path(), variant).await.unwrap_or_else(|e| panic!("[{variant}] {e}"));
        let large: Vec<i64> = (490..ROWS as i64).collect();
        // Three of the fourth minute came before them.
        let late: Vec<i64> = (23..30).collect();
        for (query, reason, wanted) in [
            ("small", "too large", large),
            ("counts", "late", late),
            ("numbers", "query_failed", BAD.map(|n| n as i64).to_vec()),
        ] {
            let what = format!("[{variant}] {query}");
            let refused = refused(folder.path(), query);
            assert_eq!(numbers(&refused, "n"), wanted, "{what}");
            for line in &refused {
                assert_eq!(line["reason"], reason, "{what}: {line}");
                assert!(
                    line["split"].as_str().unwrap().ends_with(".parquet") && line["arrival"].is_string(),
                    "{what}: {line}"
                );
                // Row `n` of the file is that with the number `n`.
                let number = numbers(std::slice::from_ref(line), "n")[0].to_string();
                assert_eq!(line["sequence_number"], number.as_str(), "{what}: {line}");
            }
            let counts = summary.queries.iter().find(|counts| counts.name.ends_with(query)).unwrap();
            let counted = counts.late + counts.rejected.values().sum::<u64>();
            assert_eq!(counted, wanted.len() as u64, "{what}");
        }
    }
}

/// Of two tables, one of records and one of typed rows. What was refused before there was an epoch has its line already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_that_is_skipped_is_written_row_by_row_whatever_its_tables_are() {
    const TYPED: usize = 20;
    let folder = as_parquet(TYPED).await;
    let folder = folder.path();
    let old = folder.join("in/old.jsonl");
    std::fs::write(&old, (100..105).map(|n| record(n) + "\n").collect::<String>()).unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    std::fs::File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
    std::fs::write(folder.join("in/a.jsonl"), format!("{}\nno json\n{}\n", record(30), record(31))).unwrap();
    let job = "
SET 'tidemill.on-exhausted-retries' = 'skip';
SET 'tidemill.maximum-retry-attempts' = '0';
SET 'tidemill.retry-delay' = '10 ms';
SET 'tidemill.bisect-batch-on-function-error' = 'false';
SET 'tidemill.maximum-record-age' = '1 h';
CREATE TABLE events (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'in', 'format' = 'json');
CREATE TABLE typed (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'typed', 'format' = 'parquet');
CREATE TABLE ratios (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'ratios', 'format' = 'json');
INSERT INTO ratios SELECT 1 / (n - 3) FROM typed UNION ALL SELECT n FROM events;";
    std::fs::write(folder.join("job.sql"), job).unwrap();
    let output = program(folder, &["run", "job.sql", "--local", "local"]).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("22 rows in, 0 used, 0 late, 22 rejected (22 query_failed)"), "{said}");
    let mut wanted: Vec<i64> = (0..TYPED as i64).collect();
    wanted.extend([30, 31]);
    let skipped = refused(folder, ":ratios");
    assert_eq!(numbers(&skipped, "n"), wanted, "{skipped:?}");
    let typed = skipped.iter().filter(|line| line["split"].as_str().unwrap().ends_with(".parquet"));
    assert_eq!(typed.count(), TYPED, "{skipped:?}");
    assert!(skipped.iter().all(|line| line["sequence_number"] != ""), "{skipped:?}");
    let mut reasons: Vec<String> =
        refused(folder, "events").iter().map(|line| line["reason"].as_str().unwrap().to_owned()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["invalid_syntax", "too_old", "too_old", "too_old", "too_old", "too_old"]);
}
