//! Records of every bad kind through the whole program: nothing panics, nothing is lost silently, and each bad
//! record costs only itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use job::{Variant, options, run};
use serde_json::Value;
use tempfile::TempDir;
use tidemill::runtime::{Ending, Summary};

#[path = "support/job.rs"]
mod job;

const SQL: &str = "
CREATE TABLE events (
  id STRING, n BIGINT, amount DECIMAL(10, 2), ok BOOLEAN, tags ARRAY<STRING>, data ROW<page STRING>, ts TIMESTAMP_LTZ(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE kept (id STRING, n BIGINT, amount DECIMAL(10, 2), ok BOOLEAN, tag STRING, page STRING, ts TIMESTAMP_LTZ(3))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/kept', 'format' = 'json');
INSERT INTO kept SELECT id, n, amount, ok, tags[1], data.page, ts FROM events;

CREATE TABLE strict (id STRING) WITH ('connector' = 'filesystem', 'path' = '${OUT}/strict', 'format' = 'json');
INSERT INTO strict SELECT id FROM events WHERE REQUIRE(n >= 0, 'n is negative') AND n <> 5;

CREATE TABLE minutes (window_start TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/minutes', 'format' = 'json');
INSERT INTO minutes SELECT window_start, COUNT(*)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
";

const TIME: &str = r#""ts":"2026-02-12T10:00:00Z""#;

/// A record, and the reason that it must be refused for.
fn records() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let with = |members: &str| format!("{{{members},{TIME}}}").into_bytes();
    let mut list: Vec<(Vec<u8>, Option<&'static str>)> = vec![
        // Good ones, however odd.
        (with(r#""id":"first","n":1"#), None),
        (with(r#""id":"twice","n":1,"n":2"#), None),
        (with(r#""id":"unknown","x":{"y":[1,{"z":null}]}"#), None),
        (with(r#""id":"nulls","n":null,"amount":null,"data":null,"tags":null"#), None),
        (with(r#""id":"negative","n":-1"#), None),
        (with(r#""id":"escaped \u00e9\ud83d\ude00\n","data":{"page":"\"\\\/"}"#), None),
        (with(r#""id":"small","amount":1e-3"#), None),
        (with(&format!(r#""id":"unused digits","x":{}"#, "9".repeat(60))), None),
        (with(&format!(r#""id":"{}""#, "a".repeat(1 << 20))), None),
        (format!("  {{ \"id\" : \"spaces\" , {TIME} }}  ").into_bytes(), None),
        // Not JSON.
        (br#"{"id":"cut","n":1"#.to_vec(), Some("json")),
        (b"{".to_vec(), Some("json")),
        (b"nonsense".to_vec(), Some("json")),
        (with(r#""id":"nan","n":NaN"#), Some("json")),
        (with(r#""id":"infinite","amount":-Infinity"#), Some("json")),
        (with(r#""id":"zeros","n":007"#), Some("json")),
        (with(r#""id":"comma",,"n":1"#), Some("json")),
        (with(r#""id":"half \ud800""#), Some("json")),
        (b"{\"id\":\"latin1 \xe9\",\"ts\":\"2026-02-12T10:00:00Z\"}".to_vec(), Some("json")),
        (format!("{{\"id\":\"two\",{TIME}}} {{}}").into_bytes(), Some("json")),
        (
            [b"{\"x\":".as_slice(), "[".repeat(10_000).as_bytes(), "]".repeat(10_000).as_bytes(), b"}"].concat(),
            Some("json"),
        ),
        (["{\"x\":".repeat(10_000).as_bytes(), b"1", "}".repeat(10_000).as_bytes()].concat(), Some("json")),
        // JSON, but no object.
        (b"[]".to_vec(), Some("object")),
        (b"\"text\"".to_vec(), Some("object")),
        (b"null".to_vec(), Some("object")),
        // Other types than the table's.
        (with(r#""id":"text","n":"many""#), Some("type")),
        (with(r#""id":"row","data":5"#), Some("type")),
        (with(r#""id":"list","tags":{"a":1}"#), Some("type")),
        (with(r#""id":"flag","ok":"maybe""#), Some("type")),
        (with(&format!(r#""id":"digits","n":{}"#, "9".repeat(60))), Some("type")),
        (with(&format!(r#""id":"digits","amount":{}"#, "9".repeat(60))), Some("type")),
        (with(r#""id":"huge","amount":1e999999999"#), Some("type")),
        // Times that are none.
        (br#"{"id":"timeless","n":1}"#.to_vec(), Some("time")),
        (br#"{"id":"timeless","ts":null}"#.to_vec(), Some("time")),
        (br#"{"id":"a number","ts":1770890400000}"#.to_vec(), Some("time")),
        (br#"{"id":"year 99999","ts":"99999-01-01T00:00:00Z"}"#.to_vec(), Some("time")),
        (br#"{"id":"month 13","ts":"2026-13-01T00:00:00Z"}"#.to_vec(), Some("time")),
        (br#"{"id":"words","ts":"yesterday"}"#.to_vec(), Some("time")),
        (with(r#""id":"last","n":5"#), None),
    ];
    // A day before everything else: it is kept, and late for its window.
    list.push((br#"{"id":"late","ts":"2026-02-11T10:00:00Z"}"#.to_vec(), None));
    list
}

fn kind(reason: &str) -> &'static str {
    match reason {
        "invalid_syntax" | "invalid_utf8" | "too_deep" => "json",
        "not_an_object" => "object",
        "wrong_type" | "out_of_range" => "type",
        "bad_timestamp" | "missing_value" => "time",
        other => panic!("an unknown reason: {other}"),
    }
}

struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new(lines: &[u8]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let stream = folder.path().join("local/kinesis/events");
        fs::create_dir_all(&stream).expect("a folder");
        fs::write(stream.join("one.jsonl"), lines).expect("records");
        fs::write(folder.path().join("job.sql"), SQL).expect("the job");
        Self { folder }
    }

    async fn run(&self, rows: usize, threads: usize) -> Summary {
        let path = |name: &str| self.folder.path().join(name);
        let parameters = BTreeMap::from([("OUT".to_owned(), path("out").to_string_lossy().into_owned())]);
        let variant = Variant { rows, threads, splits: 1 };
        let options = options(path("job.sql"), path("local"), parameters, variant, Ending::Drain);
        run(&options).await.expect("the job runs whatever its records are")
    }

    fn rows(&self, folder: &str) -> Vec<Value> {
        let mut files = Vec::new();
        list(&self.folder.path().join(folder), &mut files);
        files.sort();
        let texts = files.iter().map(|file| fs::read_to_string(file).expect("a file")).collect::<String>();
        texts.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
    }
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => list(&path, files),
            path => files.push(path),
        }
    }
}

async fn each_record_is_accounted_for(rows: usize, threads: usize) {
    let records = records();
    let lines: Vec<u8> = records.iter().flat_map(|(record, _)| [record.as_slice(), b"\n"].concat()).collect();
    let scene = Scene::new(&lines);
    let summary = scene.run(rows, threads).await;
    summary.check().expect("in = decoded + rejected + skipped");

    let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
    for kind in records.iter().filter_map(|(_, reason)| *reason) {
        *wanted.entry(kind).or_default() += 1;
    }
    let mut found: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, count) in &summary.tables[0].rejected {
        *found.entry(kind(reason)).or_default() += count;
    }
    assert_eq!(found, wanted, "{:?}", summary.tables[0].rejected);

    // Every good record is there once, in order; of two members with one name the last counts.
    let good: Vec<Value> = records
        .iter()
        .filter(|(_, reason)| reason.is_none())
        .map(|(r, _)| serde_json::from_slice(r).expect("JSON"))
        .collect();
    let kept = scene.rows("out/kept");
    let ids = |rows: &[Value]| rows.iter().map(|row| row["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&kept), ids(&good));
    assert_eq!(summary.tables[0].decoded, good.len() as u64);
    assert_eq!(kept[1]["n"], 2);

    // Every bad one is in the error output with its bytes and its place, and so are those that REQUIRE refused.
    let errors = scene.rows("local/errors");
    let bad: u64 = wanted.values().sum();
    let of_query = errors.iter().filter(|e| e.to_string().contains("n is negative")).count() as u64;
    assert_eq!(errors.len() as u64, bad + of_query, "{errors:#?}");
    let query = |name: &str| summary.queries.iter().find(|q| q.name.ends_with(name)).expect("the query");
    let strict = query(":strict");
    // The other conditions come first: a row whose `n` is NULL or 5 is not asked.
    let refused: u64 = strict.rejected.values().sum();
    assert_eq!((refused, of_query), (1, 1), "{strict:?}");
    assert_eq!(query(":minutes").late, 1);
    let counted: i64 = scene.rows("out/minutes").iter().filter_map(|row| row["n"].as_i64()).sum();
    assert_eq!(counted as u64 + 1, good.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_record_is_accounted_for_in_one_epoch() {
    each_record_is_accounted_for(usize::MAX, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_record_is_accounted_for_one_by_one() {
    each_record_is_accounted_for(1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn years_at_the_ends_of_time_do_not_stop_the_job() {
    let scene = Scene::new(b"{\"id\":\"0\",\"ts\":\"0000-01-01T00:00:00Z\"}\n{\"id\":\"1\",\"ts\":\"0001-01-01T00:00:00Z\"}\n{\"id\":\"9\",\"ts\":\"9999-12-31T23:59:59Z\"}\n");
    let summary = scene.run(usize::MAX, 1).await;
    assert_eq!(summary.records(), 3);
    summary.check().expect("in = decoded + rejected + skipped");
    let kept = scene.rows("out/kept").len() as u64;
    assert_eq!(kept, summary.tables[0].decoded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_rubbish() {
    let scene = Scene::new(b"\xff\xfe\x00\n\x00\x01\x02\n}{\n");
    let summary = scene.run(usize::MAX, 1).await;
    assert_eq!((summary.records(), summary.tables[0].decoded), (3, 0));
    assert_eq!(scene.rows("local/errors").len(), 3);
    assert_eq!(scene.rows("out/kept").len(), 0);
}
