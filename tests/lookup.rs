//! Lookup joins against the embedded DynamoDB: what they give equals an ordinary join with the same rows as a reference
//! table, whatever the epochs, threads and cache, and as a batch. The same on an emulator of DynamoDB; with faults, in
//! `dynamodb_sns_aws::lookups`.

#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use job::{Variant, options, run};
use tempfile::TempDir;
use tidemill::contracts::SystemClock;
use tidemill::job::{JobOptions, run_batch};
use tidemill::runtime::Ending;

#[path = "emulators/mod.rs"]
#[expect(dead_code, reason = "shared with the tests of each service")]
mod emulators_of_aws;
#[path = "support/job.rs"]
mod job;
#[path = "support/tables.rs"]
#[allow(dead_code, reason = "shared with the tests of DynamoDB")]
mod tables;

/// The columns of the table, of each kind that has a rule of its own.
const COLUMNS: &str =
    "product STRING, region INT, category STRING, margin DECIMAL(30, 10), stock BIGINT, active BOOLEAN,
  since TIMESTAMP_LTZ(3), tags ARRAY<STRING>, size ROW<w INT, h INT>, photo BYTES";
const PRODUCTS: i64 = 40;

/// Writes the table; every fifth product has no row, every seventh has NULLs.
fn fill(access: &str) -> String {
    let row = |n: i64| {
        if n % 7 == 0 {
            return format!("('p{n}', {}, CAST(NULL AS STRING), NULL, NULL, NULL, NULL, NULL, NULL, NULL)", n % 3);
        }
        format!(
            "('p{n}', {}, 'c\"{}', {n}.5000000001, {}, {}, TIMESTAMP '2026-01-01 00:00:{:02}', ARRAY['t{n}', 'ü'], ROW({n}, 2), x'00ff')",
            n % 3,
            n % 4,
            n * 1_000_000_007,
            n % 2 == 0,
            n,
        )
    };
    let rows: Vec<String> = (0..PRODUCTS).filter(|n| n % 5 != 0).map(row).collect();
    // VALUES takes its types from its first row.
    let cast = "SELECT product, region, category, CAST(margin AS DECIMAL(30, 10)), CAST(stock AS BIGINT), CAST(active AS BOOLEAN),
      CAST(since AS TIMESTAMP_LTZ(3)), tags, size, photo";
    let names = "product, region, category, margin, stock, active, since, tags, size, photo";
    format!(
        "CREATE TABLE dim ({COLUMNS}, PRIMARY KEY (product, region) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'dim'{access});
CREATE TABLE copy ({COLUMNS}) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/copy', 'format' = 'json');
CREATE VIEW everything AS {cast} FROM (VALUES {}) AS v ({names});
INSERT INTO dim SELECT * FROM everything;
INSERT INTO copy SELECT * FROM everything;\n",
        rows.join(",\n")
    )
}

/// Each query twice: looked up, and joined with the files of the same rows.
const QUERIES: [(&str, &str, &str); 6] = [
    (
        "inner",
        "id BIGINT, category STRING, margin DECIMAL(30, 10)",
        "SELECT e.id, d.category, d.margin FROM events AS e JOIN TABLE AS d ON d.product = e.product AND d.region = e.region",
    ),
    (
        "left_all",
        "id BIGINT, category STRING, stock BIGINT, active BOOLEAN, since TIMESTAMP_LTZ(3), tags ARRAY<STRING>, size ROW<w INT, h INT>, photo BYTES",
        "SELECT e.id, d.category, d.stock, d.active, d.since, d.tags, d.size, d.photo FROM events AS e LEFT JOIN TABLE AS d ON e.region = d.region AND e.product = d.product",
    ),
    (
        "left_and_more",
        "id BIGINT, category STRING, one STRING",
        "SELECT e.id, COALESCE(d.category, 'none'), CASE WHEN d.product IS NULL THEN 'no' ELSE 'yes' END FROM events AS e LEFT JOIN TABLE AS d ON d.product = e.product AND d.region = e.region AND d.active AND d.stock > e.n",
    ),
    (
        "computed_key",
        "id BIGINT, w INT",
        "SELECT e.id, d.size.w FROM events AS e JOIN TABLE AS d ON d.product = CONCAT('p', CAST(e.n AS STRING)) AND d.region = MOD(e.n, 3) WHERE e.id > 20 AND d.active",
    ),
    (
        "two",
        "id BIGINT, a STRING, b STRING",
        "SELECT e.id, d.category, f.category FROM events AS e LEFT JOIN TABLE AS d ON d.product = e.product AND d.region = e.region JOIN TABLE AS f ON f.product = 'p1' AND f.region = e.one",
    ),
    (
        "windows",
        "category STRING, start_at TIMESTAMP(3), n BIGINT, total DECIMAL(38, 10)",
        "SELECT category, window_start, COUNT(*), SUM(margin) FROM TABLE(TUMBLE(TABLE VIEWNAME, DESCRIPTOR(at), INTERVAL '10' SECOND)) GROUP BY category, window_start, window_end",
    ),
];

/// The job over `events`; the lookups have `cache` among their options.
fn job(cache: &str) -> String {
    let mut sql = format!(
        "CREATE TABLE events (
  id BIGINT, product STRING, region INT, n INT, one INT, at TIMESTAMP_LTZ(3), proc_time AS PROCTIME(),
  WATERMARK FOR at AS at - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/events.jsonl', 'format' = 'json');
CREATE TABLE dim ({COLUMNS}, PRIMARY KEY (product, region) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'dim'{cache});
CREATE TABLE copy ({COLUMNS}) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/copy', 'format' = 'json');
CREATE VIEW enriched_looked AS SELECT e.at, d.category, d.margin FROM events AS e JOIN dim FOR SYSTEM_TIME AS OF e.proc_time AS d ON d.product = e.product AND d.region = e.region;
CREATE VIEW enriched_joined AS SELECT e.at, d.category, d.margin FROM events AS e JOIN copy AS d ON d.product = e.product AND d.region = e.region;\n"
    );
    for (name, columns, query) in QUERIES {
        for (way, table, view) in [
            ("looked", "dim FOR SYSTEM_TIME AS OF e.proc_time", "enriched_looked"),
            ("joined", "copy", "enriched_joined"),
        ] {
            let query = query.replace("VIEWNAME", view).replace("JOIN TABLE AS", &format!("JOIN {table} AS"));
            write!(
                sql,
                "CREATE TABLE {name}_{way} ({columns}) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/{name}_{way}', 'format' = 'json');
INSERT INTO {name}_{way} {query};\n"
            )
            .expect("text");
        }
    }
    sql
}

fn events() -> String {
    let event = |id: i64| {
        let n = (id * 7) % (PRODUCTS + 3);
        // NULL keys, keys without a row, and keys whose second part does not fit.
        let product = if id % 13 == 0 { "null".to_owned() } else { format!("\"p{n}\"") };
        let region = if id % 17 == 0 { 9 } else { n % 3 };
        format!(
            "{{\"id\":{id},\"product\":{product},\"region\":{region},\"n\":{n},\"one\":1,\"at\":\"2026-01-01T00:{:02}:{:02}Z\"}}\n",
            id / 60 % 60,
            id % 60
        )
    };
    (0..600).map(event).collect()
}

fn lines(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "jsonl") {
            all.extend(fs::read_to_string(path).expect("text").lines().map(str::to_owned));
        }
    }
    all.sort();
    all
}

/// Writes events and table, and answers how the job itself is run. `access` are the table's options on AWS, or nothing.
async fn prepared(dir: &Path, variant: Variant, cache: &str, access: Option<&str>) -> JobOptions {
    fs::write(dir.join("events.jsonl"), events()).unwrap();
    fs::write(dir.join("fill.sql"), fill(access.unwrap_or(""))).unwrap();
    fs::write(dir.join("job.sql"), job(&format!("{cache}{}", access.unwrap_or("")))).unwrap();
    let parameters = BTreeMap::from([("DIR".to_owned(), dir.display().to_string())]);
    let of = |file: &str| {
        let options = options(dir.join(file), dir.join("local"), parameters.clone(), variant, Ending::Drain);
        JobOptions { local: options.local.filter(|_| access.is_none()), ..options }
    };
    run(&of("fill.sql")).await.expect("the table is written");
    of("job.sql")
}

/// Every result equals its ordinary join; there are some.
fn check(dir: &Path, what: &str) {
    for (name, ..) in QUERIES {
        let (looked, joined) = (lines(&dir.join(format!("{name}_looked"))), lines(&dir.join(format!("{name}_joined"))));
        assert!(!joined.is_empty(), "{what}: {name} gives nothing");
        assert_eq!(looked, joined, "{what}: {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_gives_what_a_join_gives() {
    let bounded = ", 'lookup.cache' = 'PARTIAL', 'lookup.partial-cache.max-rows' = '5'";
    let plenty = ", 'lookup.cache' = 'PARTIAL', 'lookup.partial-cache.expire-after-write' = '1 h'";
    for (rows, threads, cache) in
        [(usize::MAX, 1, ""), (100, 1, ""), (7, 4, plenty), (100, 4, bounded), (usize::MAX, 4, plenty)]
    {
        let dir = TempDir::new().expect("a folder");
        let variant = Variant { rows, threads, splits: 1 };
        let summary = run(&prepared(dir.path(), variant, cache, None).await).await;
        summary.expect("the job runs").check().expect("every row is accounted for");
        check(dir.path(), &format!("{variant}{cache}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_looks_up_too() {
    let dir = TempDir::new().expect("a folder");
    let variant = Variant { rows: usize::MAX, threads: 4, splits: 1 };
    let options = prepared(dir.path(), variant, "", None).await;
    run_batch(&options, Arc::new(SystemClock::new())).await.expect("the batch runs");
    check(dir.path(), "batch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_an_emulator_of_dynamodb() {
    let Some(dynamodb) = emulators_of_aws::dynoxide().await else { return };
    let access = format!(
        ", 'aws.endpoint' = '{}', 'aws.region' = 'eu-west-1', 'aws.credentials.provider' = 'BASIC',
  'aws.credentials.basic.accesskeyid' = 'test', 'aws.credentials.basic.secretkey' = 'test'",
        dynamodb.endpoint
    );
    let keys = [("product", "S"), ("region", "N")];
    tables::create_table(&tables::client(&dynamodb.endpoint), "dim", &keys).await;
    for (rows, threads, cache) in [(usize::MAX, 1, ""), (100, 4, ", 'lookup.cache' = 'PARTIAL'")] {
        let dir = TempDir::new().expect("a folder");
        let variant = Variant { rows, threads, splits: 1 };
        let summary = run(&prepared(dir.path(), variant, cache, Some(&access)).await).await;
        summary.expect("the job runs").check().expect("every row is accounted for");
        check(dir.path(), &format!("{variant}{cache}"));
    }
}

/// A table that nobody has written has no rows; what does not fit is said with table, column and item.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_looks_up_what_does_not_fit_goes_to_the_error_output() {
    let dir = TempDir::new().expect("a folder");
    fs::write(dir.path().join("events.jsonl"), "{\"k\":\"a\"}\n").expect("events");
    let sql = "CREATE TABLE events (k STRING, proc_time AS PROCTIME()) WITH ('connector' = 'filesystem', 'path' = '${DIR}/events.jsonl', 'format' = 'json');
CREATE TABLE dim (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'dim');
CREATE TABLE out_rows (k STRING, n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/out', 'format' = 'json');
INSERT INTO out_rows SELECT e.k, d.n FROM events AS e LEFT JOIN dim FOR SYSTEM_TIME AS OF e.proc_time AS d ON d.k = e.k;";
    fs::write(dir.path().join("job.sql"), sql).expect("a file");
    let parameters = BTreeMap::from([("DIR".to_owned(), dir.path().display().to_string())]);
    let go = |fresh| {
        let local = dir.path().join("local");
        let options = options(dir.path().join("job.sql"), local, parameters.clone(), Variant::default(), Ending::Drain);
        async move { run(&JobOptions { fresh, ..options }).await }
    };
    go(false).await.expect("a table that is not there has no rows");
    assert_eq!(lines(&dir.path().join("out")), ["{\"k\":\"a\",\"n\":null}"]);
    let store = rusqlite::Connection::open(dir.path().join("local/dynamodb.sqlite")).expect("SQLite");
    store
        .execute_batch("CREATE TABLE dim (k TEXT PRIMARY KEY, n); INSERT INTO dim VALUES ('a', 'many')")
        .expect("rows");
    let summary = go(true).await.expect("one row fails, not the job");
    assert_eq!(summary.queries[0].rejected["query_failed"], 1);
    let errors = lines(&dir.path().join("local/errors")).join("\n");
    for part in ["job:out_rows", "query_failed", "table 'dim'", "column 'n'", "many", r#"{\"k\":\"a\"}"#] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    store.execute("UPDATE dim SET n = 5", []).expect("a row");
    go(true).await.expect("now it fits");
    assert!(lines(&dir.path().join("out")).contains(&"{\"k\":\"a\",\"n\":5}".to_owned()));
}

/// Keys that are a microsecond apart have rows of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_by_a_time_finds_just_that_time() {
    let dir = TempDir::new().expect("a folder");
    let dim = "CREATE TABLE dim (k STRING, at TIMESTAMP_LTZ, n INT, PRIMARY KEY (k, at) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'dim');";
    let fill = format!(
        "{dim}
INSERT INTO dim SELECT k, CAST(at AS TIMESTAMP_LTZ(6)), n FROM (VALUES ('a', TIMESTAMP '2026-01-01 00:00:00.500001', 1),
  ('a', TIMESTAMP '2026-01-01 00:00:00.500002', 2), ('a', TIMESTAMP '2026-01-01 00:00:00.500', 3)) AS v (k, at, n);"
    );
    let sql = format!(
        "CREATE TABLE events (at TIMESTAMP_LTZ(6), proc_time AS PROCTIME()) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/events.jsonl', 'format' = 'json');
{dim}
CREATE TABLE out_rows (at TIMESTAMP_LTZ(6), n INT) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/out', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');
INSERT INTO out_rows SELECT e.at, d.n FROM events AS e LEFT JOIN dim FOR SYSTEM_TIME AS OF e.proc_time AS d ON d.k = 'a' AND d.at = e.at;"
    );
    let events =
        ["5", "500001", "500002", "500003"].map(|part| format!("{{\"at\":\"2026-01-01T00:00:00.{part}Z\"}}\n"));
    fs::write(dir.path().join("events.jsonl"), events.concat()).unwrap();
    let parameters = BTreeMap::from([("DIR".to_owned(), dir.path().display().to_string())]);
    for (file, text) in [("fill.sql", fill), ("job.sql", sql)] {
        fs::write(dir.path().join(file), text).unwrap();
        let local = dir.path().join("local");
        let options = options(dir.path().join(file), local, parameters.clone(), Variant::default(), Ending::Drain);
        run(&options).await.expect("the job runs");
    }
    let found = [("5", "3"), ("500001", "1"), ("500002", "2"), ("500003", "null")];
    let expected = found.map(|(part, n)| format!("{{\"at\":\"2026-01-01T00:00:00.{part}Z\",\"n\":{n}}}"));
    let mut got = lines(&dir.path().join("out"));
    let mut expected = expected.to_vec();
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
}

/// A table has one key for both zeros, and a double has two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_by_a_zero_finds_it_whatever_its_sign() {
    let dir = TempDir::new().expect("a folder");
    let dim = "CREATE TABLE dim (x DOUBLE, n INT, PRIMARY KEY (x) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'dim');";
    let fill =
        format!("{dim}\nINSERT INTO dim SELECT CAST(x AS DOUBLE), n FROM (VALUES (0.0, 1), (1.5, 2)) AS v (x, n);");
    let sql = format!(
        "CREATE TABLE events (id INT, x DOUBLE, proc_time AS PROCTIME()) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/events.jsonl', 'format' = 'json');
{dim}
CREATE TABLE out_rows (id INT, n INT) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/out', 'format' = 'json');
INSERT INTO out_rows SELECT e.id, d.n FROM events AS e LEFT JOIN dim FOR SYSTEM_TIME AS OF e.proc_time AS d ON d.x = e.x;"
    );
    let events = ["-0.0", "0.0", "1.5", "-1.5"].iter().enumerate();
    let events: Vec<String> = events.map(|(id, x)| format!("{{\"id\":{id},\"x\":{x}}}\n")).collect();
    fs::write(dir.path().join("events.jsonl"), events.concat()).unwrap();
    let parameters = BTreeMap::from([("DIR".to_owned(), dir.path().display().to_string())]);
    for (file, text) in [("fill.sql", fill), ("job.sql", sql)] {
        fs::write(dir.path().join(file), text).unwrap();
        let local = dir.path().join("local");
        let options = options(dir.path().join(file), local, parameters.clone(), Variant::default(), Ending::Drain);
        run(&options).await.expect("the job runs");
    }
    let found = [(0, "1"), (1, "1"), (2, "2"), (3, "null")];
    let mut got = lines(&dir.path().join("out"));
    got.sort();
    assert_eq!(got, found.map(|(id, n)| format!("{{\"id\":{id},\"n\":{n}}}")));
}

/// A table that has another key than the SQL would be asked with half of it, or with none.
#[tokio::test]
async fn a_table_with_another_key_is_named_when_the_run_begins() {
    let dir = TempDir::new().expect("a folder");
    let local = dir.path().join("local");
    fs::create_dir(&local).unwrap();
    let store = rusqlite::Connection::open(local.join("dynamodb.sqlite")).expect("SQLite");
    store.execute_batch("CREATE TABLE dim (k, s, n, PRIMARY KEY (k, s)) WITHOUT ROWID").expect("a table");
    fs::write(dir.path().join("events.jsonl"), "{\"k\":\"a\"}\n").expect("events");
    for (key, on, fits) in [("k", "", false), ("k, s", " AND d.s = e.k", true)] {
        let sql = format!(
            "CREATE TABLE events (k STRING, proc_time AS PROCTIME()) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/events.jsonl', 'format' = 'json');
CREATE TABLE dim (k STRING, s STRING, n BIGINT, PRIMARY KEY ({key}) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'dim');
CREATE TABLE out_rows (k STRING, n BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO out_rows SELECT e.k, d.n FROM events AS e JOIN dim FOR SYSTEM_TIME AS OF e.proc_time AS d ON d.k = e.k{on};"
        );
        fs::write(dir.path().join("job.sql"), sql).expect("a file");
        let parameters = BTreeMap::from([("DIR".to_owned(), dir.path().display().to_string())]);
        let options = options(dir.path().join("job.sql"), local.clone(), parameters, Variant::default(), Ending::Drain);
        let options = JobOptions { fresh: true, ..options };
        let problem = run(&options).await.err();
        let is_named = |problem: &String| problem.contains("exists with the key (k, s), the SQL has (k)");
        assert_eq!((problem.is_none(), problem.as_ref().is_some_and(is_named)), (fits, !fits), "{key}: {problem:?}");
    }
}
