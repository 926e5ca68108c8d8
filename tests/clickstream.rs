//! The shipped job (`queries/`) on real and on made events: every counter, window, alert and archived row is
//! what `independent/clickstream.py` computes without it, whatever the epochs, in one run or in two.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use exact::canonical;
use job::{Variant, options, run};
use parquet::file::reader::{FileReader, SerializedFileReader};
use rusqlite::types::ValueRef;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidemill::runtime::{Ending, Summary};

#[path = "support/exact.rs"]
mod exact;
#[path = "support/job.rs"]
mod job;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TABLES: [&str; 4] = ["analytics-metrics", "page-views-per-minute", "top-pages", "revenue-by-category"];
const ALL: Variant = Variant { rows: usize::MAX, threads: 4, splits: 1 };
const BY_1000: Variant = Variant { rows: 1_000, threads: 1, splits: 1 };

/// A `--local` folder with events, and what must become of them.
struct Scene {
    local: TempDir,
    expected: Value,
}

impl Scene {
    fn new(expected: &str, shards: &[&str]) -> Self {
        let scene = Self {
            local: TempDir::new().expect("a temporary folder"),
            expected: serde_json::from_str(&read(&data(&format!("expected/{expected}.json")))).expect("JSON"),
        };
        fs::create_dir_all(scene.stream()).expect("a folder");
        for shard in shards {
            fs::copy(data(shard), scene.shard(shard)).expect("a shard");
        }
        scene
    }

    fn stream(&self) -> PathBuf {
        self.local.path().join("kinesis/analytics-events")
    }

    fn shard(&self, name: &str) -> PathBuf {
        self.stream().join(Path::new(name).file_name().unwrap_or_default())
    }

    async fn run(&self, variant: Variant, ending: Ending) -> Summary {
        let queries = PathBuf::from(ROOT).join("queries");
        let options = options(queries, self.local.path().to_owned(), BTreeMap::new(), variant, ending);
        run(&options).await.expect("the job runs")
    }

    /// Every table, alert and archived row.
    fn check_results(&self) {
        for table in TABLES {
            let wanted = self.expected[table].as_array().expect("items").iter().map(flat).collect();
            assert_same(table, wanted, self.items(table));
        }
        let wanted = self.expected["alerts"].as_array().expect("alerts").iter().map(canonical).collect();
        assert_same("alerts", wanted, self.alerts());
        assert_eq!(self.archived(), self.expected["archive_rows"].as_i64().expect("a number"), "archived rows");
    }

    /// Items of a table as the local DynamoDB keeps them.
    fn items(&self, table: &str) -> Vec<String> {
        let store = rusqlite::Connection::open(self.local.path().join("dynamodb.sqlite")).expect("the tables");
        let exists = "select count(*) from sqlite_master where name = ?1";
        if store.query_row(exists, [table], |row| row.get::<_, i64>(0)).expect("a count") == 0 {
            return Vec::new();
        }
        let mut query = store.prepare(&format!("select * from \"{table}\"")).expect("the table");
        let names: Vec<String> = query.column_names().map(str::to_owned).collect();
        let item = |row: &rusqlite::Row<'_>| {
            let mut item = BTreeMap::new();
            for (at, name) in names.iter().enumerate().filter(|(_, name)| !name.starts_with("__")) {
                let text = match row.get_ref(at)? {
                    ValueRef::Null => continue,
                    ValueRef::Integer(number) => number.to_string(),
                    ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                    other => panic!("{table}.{name} is {other:?}"),
                };
                item.insert(name.clone(), text);
            }
            Ok(format!("{item:?}"))
        };
        query.query_map([], item).expect("items").map(|item| item.expect("an item")).collect()
    }

    fn alerts(&self) -> Vec<String> {
        let text = fs::read_to_string(self.local.path().join("sns/analytics-alerts.jsonl")).unwrap_or_default();
        let alert = |line: &str| {
            let line: Value = serde_json::from_str(line).expect("a message");
            let message: Value = serde_json::from_str(line["message"].as_str().expect("a text")).expect("JSON");
            canonical(&json!({"subject": line["subject"], "message": message, "attributes": line["attributes"]}))
        };
        text.lines().map(alert).collect()
    }

    fn archived(&self) -> i64 {
        let mut files = Vec::new();
        list(&self.local.path().join("s3/my-analytics-archive/events"), &mut files);
        let rows = |file: PathBuf| {
            let reader = SerializedFileReader::new(fs::File::open(file).expect("a file")).expect("Parquet");
            reader.metadata().file_metadata().num_rows()
        };
        files.into_iter().map(rows).sum()
    }

    /// What was refused and what was late, added up over runs.
    fn check_counts(&self, runs: &[Summary]) {
        let (mut rejected, mut late) = (BTreeMap::new(), BTreeMap::new());
        let mut add = |reason: &str, count: u64| *rejected.entry(reason.to_owned()).or_insert(0) += count;
        for summary in runs {
            summary.check().expect("every record is accounted for");
            for (reason, count) in summary.tables.iter().flat_map(|t| &t.rejected) {
                add(kind_of(reason), *count);
            }
            for query in &summary.queries {
                for (reason, count) in &query.rejected {
                    add(&format!("require:{reason}"), *count);
                }
                if query.late > 0 {
                    *late.entry(short(&query.name)).or_insert(0) += query.late;
                }
                assert!(query.refused.is_empty(), "{query:?}");
            }
        }
        let mut wanted = BTreeMap::new();
        for (reason, count) in self.expected["rejected"].as_object().expect("reasons") {
            let kind = if reason.starts_with("type:") { "type" } else { reason.as_str() };
            *wanted.entry(kind.to_owned()).or_insert(0) += count.as_u64().expect("a count");
        }
        assert_eq!(rejected, wanted, "rejected");
        let wanted = self.expected["late"].as_object().expect("queries").iter();
        let wanted: BTreeMap<String, u64> =
            wanted.map(|(name, n)| (name.clone(), n.as_u64().expect("a count"))).collect();
        assert_eq!(late, wanted, "late");
    }
}

/// The program's reason as the independent computation's.
fn kind_of(reason: &str) -> &str {
    match reason {
        "invalid_syntax" | "invalid_utf8" | "not_an_object" | "too_deep" => "json",
        "bad_timestamp" | "missing_value" => "timestamp",
        "wrong_type" | "out_of_range" => "type",
        other => other,
    }
}

/// `revenue:metrics#2` is the second INSERT of revenue.sql.
fn short(query: &str) -> String {
    match query.split(':').next() {
        Some("revenue") if query.ends_with("#2") => "revenue_by_currency".to_owned(),
        name => name.unwrap_or_default().to_owned(),
    }
}

fn flat(item: &Value) -> String {
    let item = item.as_object().expect("an item").iter().filter(|(_, value)| !value.is_null());
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!("{:?}", item.map(|(name, value)| (name.clone(), text(value))).collect::<BTreeMap<_, _>>())
}

fn assert_same(what: &str, mut wanted: Vec<String>, mut found: Vec<String>) {
    wanted.sort();
    found.sort();
    let missing: Vec<_> = wanted.iter().filter(|row| found.binary_search(row).is_err()).take(5).collect();
    let surplus: Vec<_> = found.iter().filter(|row| wanted.binary_search(row).is_err()).take(5).collect();
    let (n, m) = (wanted.len(), found.len());
    assert!(wanted == found, "{what}: {n} wanted, {m} found\nmissing: {missing:#?}\ntoo many: {surplus:#?}");
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => list(&path, files),
            path => files.push(path),
        }
    }
}

fn data(name: &str) -> PathBuf {
    PathBuf::from(ROOT).join("tests/data").join(name)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

async fn whole(expected: &str, shards: &[&str], variant: Variant) {
    let scene = Scene::new(expected, shards);
    let summary = scene.run(variant, Ending::Drain).await;
    scene.check_results();
    scene.check_counts(&[summary]);
    // All has been read: a second run changes nothing.
    let again = scene.run(variant, Ending::Drain).await;
    assert_eq!(again.records(), 0, "records are read once");
    scene.check_results();
}

/// One half of each shard, a stop that keeps windows open, then the rest.
async fn halves(expected: &str, shards: &[&str], variant: Variant) {
    let scene = Scene::new(expected, shards);
    for shard in shards {
        let bytes = fs::read(data(shard)).expect("a shard");
        let middle = bytes.len() / 2;
        let end = middle + bytes[middle..].iter().position(|b| *b == b'\n').expect("a line's end") + 1;
        fs::write(scene.shard(shard), &bytes[..end]).expect("one half");
    }
    let first = scene.run(variant, Ending::Once).await;
    for shard in shards {
        fs::copy(data(shard), scene.shard(shard)).expect("the whole shard");
    }
    let second = scene.run(variant, Ending::Drain).await;
    scene.check_results();
    scene.check_counts(&[first, second]);
}

const EDGE: [&str; 2] = ["edge/shard-0.jsonl", "edge/shard-1.jsonl"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_web_traffic() {
    whole("weblog", &["weblog.jsonl"], ALL).await;
    whole("weblog", &["weblog.jsonl"], BY_1000).await;
    halves("weblog", &["weblog.jsonl"], BY_1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop() {
    whole("shop", &["shop.jsonl"], ALL).await;
    whole("shop", &["shop.jsonl"], BY_1000).await;
    halves("shop", &["shop.jsonl"], BY_1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_wrong_and_odd_events_in_two_shards() {
    whole("edge", &EDGE, ALL).await;
    whole("edge", &EDGE, BY_1000).await;
    whole("edge", &EDGE, Variant { rows: 10, threads: 1, splits: 1 }).await;
    halves("edge", &EDGE, BY_1000).await;
}
