//! Records that are passed over unparsed (`src/sql/prefilter.rs`): none of them is one that a condition keeps, or that a REQUIRE refuses.
//!
//! Queries by chance run each alone, where records may be passed over, and all beside one that wants every record, where none is: each gives
//! the same both times. Their conditions ask columns of every kind, and values come in every way in which JSON spells them. (`shapes` does the same
//! with queries of more shapes.)
//!
//! ```text
//! cargo nextest run --test skipped                       # 150 queries
//! SKIPPED_QUERIES=2000 cargo nextest run --test skipped  # the long run
//! SKIPPED_SEED=7 …                                       # other ones
//! ```

#![recursion_limit = "256"]
#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use job::{Variant, options, run};
use random::{Random, asked};
use tidemill::connectors::kinesis::local::{LocalStream, PutRecord};
use tidemill::contracts::SystemClock;
use tidemill::runtime::{Ending, Summary};

#[path = "support/job.rs"]
mod job;
#[path = "support/random.rs"]
mod random;
#[path = "skipped/shapes.rs"]
mod shapes;

const QUERIES: u64 = 150;
const ROWS: u64 = 400;

/// Texts that stand in records as they are, that have another spelling, that are JSON themselves, and that stand in the names of files.
const TEXTS: [&str; 14] = [
    "home",
    "purchase",
    "404",
    "-1.5",
    "true",
    "null",
    "[1,2]",
    "a b",
    "été",
    "say \"hi\"",
    "1e3",
    "2026-02-12",
    "a.jsonl",
    "of",
];

/// A folder, and the name of its file.
const FILES: [(&str, &str); 4] = [
    ("day=2026-02-12", "a.jsonl"),
    ("day=home", "purchase"),
    ("day=404", "true"),
    ("day=__DEFAULT_PARTITION__", "b.jsonl"),
];

const TABLES: &str = "
CREATE TABLE events (
  i BIGINT, s STRING, t STRING, n INT, m INT NOT NULL, b BOOLEAN, d ROW<s STRING, deep ROW<t STRING>>, tags MAP<STRING, STRING>, day STRING,
  file STRING METADATA FROM 'file.name' VIRTUAL, c AS COALESCE(s, 'home'), u AS UPPER(t), r AS COALESCE(d.deep.t, s, ''), ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) PARTITIONED BY (day) WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE labels (s STRING, label STRING) WITH ('connector' = 'filesystem', 'path' = '${DIR}/labels.jsonl', 'format' = 'json');
CREATE VIEW views AS SELECT i, t AS s, s AS t, n, m, b, d, tags, day, file, u AS c, c AS u, r FROM events;
";

/// Runs the SQL to its end, over what is in `folder`.
async fn ran(folder: &Path, name: &str, sql: &str) -> Result<Summary, String> {
    let path = folder.join(format!("{name}.sql"));
    std::fs::write(&path, sql).unwrap();
    let parameters = BTreeMap::from([("DIR".to_owned(), folder.display().to_string())]);
    run(&options(path, folder.join("local").join(name), parameters, Variant::default(), Ending::Drain)).await
}

/// Lines of the files below a folder, sorted.
fn lines(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            lines.extend(self::lines(&path));
        } else {
            lines.extend(std::fs::read_to_string(path).unwrap().lines().map(str::to_owned));
        }
    }
    lines.sort();
    lines
}

fn skipped(summary: &Summary) -> u64 {
    summary.tables.iter().map(|table| table.skipped).sum()
}

fn pick<'a>(random: &mut Random, choices: &[&'a str]) -> &'a str {
    choices[random.below(choices.len() as u64) as usize]
}

/// A value for a column of text, in one of its spellings.
fn value(random: &mut Random) -> String {
    let text = pick(random, &TEXTS);
    let quoted = serde_json::to_string(text).unwrap();
    match random.below(8) {
        0 => "null".to_owned(),
        1 => r#"{"home": [1]}"#.to_owned(),
        2 | 3 if serde_json::from_str::<serde_json::Value>(text).is_ok() => text.to_owned(),
        4 => {
            let mut rest = text.chars();
            let first = rest.next().map_or(0, u32::from);
            format!("\"\\u{first:04x}{}\"", rest.as_str().replace('"', "\\\""))
        }
        _ => quoted,
    }
}

/// A record; its columns come or stay away, in any order, and sometimes twice.
fn record(random: &mut Random, i: u64) -> String {
    let mut fields = vec![
        format!("\"i\":{i}"),
        format!("\"m\":{}", i % 7),
        format!("\"ts\":\"2026-02-12 10:{:02}:{:02}\"", i / 60 % 60, (i + random.below(9)) % 60),
    ];
    for _ in 0..random.below(9) {
        let field = match random.below(10) {
            0 | 1 => format!("\"s\":{}", value(random)),
            2 => format!("\"\\u0073\":{}", value(random)),
            3 => format!("\"t\":{}", value(random)),
            4 => format!("\"n\":{}", pick(random, &["404", "\"404\"", "7", "null"])),
            5 => format!("\"b\":{}", pick(random, &["true", "false", "\"true\"", "null"])),
            6 => format!("\"d\":{{\"deep\":{{\"t\":{}}},\"s\":{}}}", value(random), value(random)),
            7 => format!("\"tags\":{{\"k\":{}}}", value(random)),
            8 => format!("\"day\":{}", value(random)),
            _ => format!("\"S\":{}", value(random)),
        };
        let at = random.below(fields.len() as u64 + 1) as usize;
        fields.insert(at, field);
    }
    format!("{{{}}}", fields.join(","))
}

/// One condition of a column. `of` stands before its name.
fn atom(random: &mut Random, of: &str) -> String {
    let column = |random: &mut Random| {
        format!("{of}{}", pick(random, &["s", "s", "t", "d.s", "d.deep.t", "tags['k']", "day", "file", "c", "u"]))
    };
    let (c, other) = (column(random), column(random));
    let (x, y) = (pick(random, &TEXTS), pick(random, &TEXTS));
    match random.below(28) {
        0..=7 => format!("{c} = '{x}'"),
        8 => format!("'{x}' = {c}"),
        9 => format!("{c} IN ('{x}')"),
        10 => format!("{c} IN ('{x}', '{y}')"),
        11 => format!("{c} LIKE '{x}'"),
        12 => format!("{c} LIKE '{x}%'"),
        13 => format!("{c} <> '{x}'"),
        14 => format!("{c} IS NULL"),
        15 => format!("{c} IS NOT NULL"),
        16 => format!("COALESCE({c}, '{x}') = '{x}'"),
        17 => format!("UPPER({c}) = UPPER('{x}')"),
        18 => format!("CAST({c} AS STRING) = '{x}'"),
        19 => format!("CAST({of}n AS STRING) = '404'"),
        20 => format!("{of}n = 404"),
        21 => format!("CASE WHEN {c} = '{x}' THEN TRUE ELSE FALSE END"),
        22 => format!("{c} = {other}"),
        23 => format!("{c} || '' = '{x}'"),
        24 => format!("({c} = '{x}') IS NOT FALSE"),
        25 => format!("CAST({c} AS VARCHAR(4)) = '{x}'"),
        26 => format!("CHAR_LENGTH({c}) = 4"),
        _ => format!("{of}b"),
    }
}

fn condition(random: &mut Random, of: &str, depth: u64) -> String {
    if depth == 0 {
        return atom(random, of);
    }
    let (one, other) = (condition(random, of, depth - 1), condition(random, of, depth - 1));
    match random.below(8) {
        0..=4 => format!("({one} AND {other})"),
        5 | 6 => format!("({one} OR {other})"),
        _ => format!("NOT ({one})"),
    }
}

/// A query of one column of text.
fn query(random: &mut Random) -> String {
    let depth = random.below(3);
    let key = "CAST(i AS STRING)";
    let a = condition(random, "", depth);
    match random.below(8) {
        0..=2 => format!("SELECT {key} FROM events WHERE {a}"),
        3 => {
            let b = condition(random, "q.", depth);
            format!("SELECT {key} FROM (SELECT * FROM events WHERE {a}) AS q WHERE {b}")
        }
        4 => format!("SELECT {key} FROM views WHERE {a}"),
        5 => {
            let b = condition(random, "", depth);
            format!("SELECT {key} FROM events WHERE {a} UNION ALL SELECT {key} FROM views WHERE {b}")
        }
        6 => {
            let on = format!("e.s = r.s{}", pick(random, &["", " AND r.s = 'home'", " AND r.label = '404'"]));
            let (join, a) = (pick(random, &["JOIN", "LEFT JOIN"]), condition(random, "e.", depth));
            format!(
                "SELECT CAST(e.i AS STRING) || COALESCE(r.label, '') FROM events AS e {join} labels AS r ON {on} WHERE {a}"
            )
        }
        _ => format!(
            "SELECT CAST(window_start AS STRING) || ' ' || CAST(COUNT(*) AS STRING)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) WHERE {a} GROUP BY window_start, window_end"
        ),
    }
}

/// A query, and the columns of what it gives.
struct Query {
    columns: &'static str,
    select: String,
}

fn insert(folder: &str, number: usize, Query { columns, select }: &Query) -> String {
    let name = format!("q{number}");
    format!(
        "CREATE TABLE {name} ({columns}) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/{folder}/{name}', 'format' = 'json');
INSERT INTO {name} {select};\n"
    )
}

/// Records by chance, and what they are joined with.
fn write_inputs(folder: &Path, random: &mut Random) {
    for (number, (day, file)) in FILES.iter().enumerate() {
        let inside = folder.join("in").join(day);
        std::fs::create_dir_all(&inside).unwrap();
        let mut text = String::new();
        for i in (0..ROWS).filter(|i| *i as usize % FILES.len() == number) {
            writeln!(text, "{}", record(random, i)).unwrap();
        }
        std::fs::write(inside.join(file), text).unwrap();
    }
    let label = |text: &&str| format!("{{\"s\":{},\"label\":\"404\"}}\n", serde_json::to_string(text).unwrap());
    std::fs::write(folder.join("labels.jsonl"), TEXTS[..5].iter().map(label).collect::<String>()).unwrap();
}

/// Runs queries by chance over records by chance: all beside `every`, which wants each record, and each alone. Each gives the same both times.
/// Answers, of each, how many records were passed over where it ran alone, and how many rows it gave.
async fn alone_and_beside(seed: u64, make: impl Fn(&mut Random) -> Query, every: Query) -> Vec<(u64, usize)> {
    let mut random = Random::new(seed);
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    write_inputs(folder, &mut random);

    let count = asked("SKIPPED_QUERIES").unwrap_or(QUERIES);
    let queries: Vec<Query> = (0..count).map(|_| make(&mut random)).chain([every]).collect();
    let mut all = TABLES.to_owned();
    for (number, query) in queries.iter().enumerate() {
        all += &insert("beside", number, query);
    }
    let summary = ran(folder, "all", &all).await.unwrap_or_else(|e| panic!("seed {seed}: {e}\n{all}"));
    assert_eq!(skipped(&summary), 0);
    let (every, queries) = queries.split_last().unwrap();
    let of_every = lines(&folder.join("beside").join(format!("q{}", queries.len())));
    assert_eq!(of_every.len() as u64, ROWS, "{}", every.select);

    let mut gave = Vec::new();
    for (number, query) in queries.iter().enumerate() {
        let sql = format!("{TABLES}{}", insert("alone", number, query));
        let summary =
            ran(folder, &format!("q{number}"), &sql).await.unwrap_or_else(|e| panic!("seed {seed}: {e}\n{sql}"));
        let [alone, beside] = ["alone", "beside"].map(|run| lines(&folder.join(run).join(format!("q{number}"))));
        let (passed_over, select) = (skipped(&summary), &query.select);
        assert_eq!(alone, beside, "seed {seed}, {passed_over} records were passed over by {select}");
        gave.push((passed_over, alone.len()));
    }
    gave
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_gives_the_same_where_records_are_passed_over() {
    let seed = asked("SKIPPED_SEED").unwrap_or(2026);
    let every = Query { columns: "k STRING", select: "SELECT CAST(i AS STRING) FROM events".to_owned() };
    let make = |random: &mut Random| Query { columns: "k STRING", select: query(random) };
    let gave = alone_and_beside(seed, make, every).await;
    let skipping = gave.iter().filter(|(passed_over, _)| *passed_over > 0);
    let (passed_over, kept) = skipping.fold((0, 0), |(count, kept), (_, rows)| (count + 1, kept + rows));
    println!("seed {seed}: records were passed over by {passed_over} of {} queries, which kept {kept}", gave.len());
    // A test in which nothing is passed over, or nothing kept, tests little.
    assert!(passed_over * 20 > gave.len() && kept >= passed_over, "{passed_over} of {}", gave.len());
}

/// Two files in two folders, each with these lines.
fn files(lines: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (day, file) in [("2026-02-12", "a.jsonl"), ("2026-02-13", "b.jsonl")] {
        let inside = folder.path().join("in").join(format!("day={day}"));
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::write(inside.join(file), lines).unwrap();
    }
    folder
}

/// The rows of a query, and how many records were passed over.
async fn answer(folder: &Path, select: &str) -> (Vec<String>, u64) {
    let sql = format!(
        "CREATE TABLE clicks (page STRING, n BIGINT, day STRING, file_name STRING METADATA FROM 'file.name' VIRTUAL)
PARTITIONED BY (day) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/in', 'format' = 'json');
CREATE VIEW numbered AS SELECT * FROM clicks WHERE page <> 'away' AND REQUIRE(n IS NOT NULL, 'no number');
CREATE TABLE out_rows (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/out', 'format' = 'json');
INSERT INTO out_rows {select};"
    );
    let summary = ran(folder, "job", &sql).await.unwrap_or_else(|e| panic!("{select}: {e}"));
    (lines(&folder.join("out")), skipped(&summary))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_in_the_bytes_of_records_lets_none_be_passed_over() {
    for condition in ["file_name = 'a.jsonl'", "day = '2026-02-12'", "'2026-02-12' = day AND file_name = 'a.jsonl'"] {
        let folder = files("{\"page\":\"home\",\"n\":1}\n{\"page\":\"cart\",\"n\":2}\n");
        let (rows, skipped) = answer(folder.path(), &format!("SELECT n FROM clicks WHERE {condition}")).await;
        assert_eq!((rows, skipped), (vec![r#"{"n":1}"#.to_owned(), r#"{"n":2}"#.to_owned()], 0), "{condition}");
    }
    let folder = files("{\"page\":\"home\",\"n\":1}\n{\"page\":\"cart\",\"n\":2}\n");
    let both = "SELECT n FROM clicks WHERE file_name = 'a.jsonl' AND page = 'cart'";
    assert_eq!(answer(folder.path(), both).await, (vec![r#"{"n":2}"#.to_owned()], 2));
}

/// A column of text takes whatever JSON value as it is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_has_no_quotes_is_not_passed_over() {
    for (text, spellings) in [
        ("404", ["404", "\"404\""]),
        ("-1.50", ["-1.50", "\"-1.50\""]),
        ("true", ["true", "\"true\""]),
        ("[1,2]", ["[1,2]", "\"[1,2]\""]),
        ("home", ["\"h\\u006fme\"", "\"home\""]),
    ] {
        let record = |(n, page): (usize, &str)| format!("{{\"n\":{n},\"page\":{page}}}\n");
        let folder = files(&spellings.into_iter().chain(["7", "null"]).enumerate().map(record).collect::<String>());
        let select = format!("SELECT n FROM clicks WHERE page = '{text}' AND day = '2026-02-12'");
        assert_eq!(answer(folder.path(), &select).await.0, [r#"{"n":0}"#, r#"{"n":1}"#], "{text}");
    }
}

/// REQUIRE speaks of the rows of its own WHERE, whatever a query above a view wants of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_view_requires_is_asked_of_all_its_rows() {
    let folder = files("{\"page\":\"home\",\"n\":1}\n{\"page\":\"cart\"}\n{\"page\":\"away\"}\n");
    let (rows, _) = answer(folder.path(), "SELECT n FROM numbered WHERE page = 'home'").await;
    assert_eq!(rows, [r#"{"n":1}"#; 2]);
    let errors = lines(&folder.path().join("local/job/errors"));
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors.iter().all(|line| line.contains("no number") && line.contains("cart")), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stream_says_of_its_records_is_not_looked_for_in_them() {
    for condition in ["`stream` = 'clicks'", "shard = 'shardId-000000000000'", "partition_key = 'some-key'"] {
        let folder = tempfile::tempdir().unwrap();
        let local = folder.path().join("local/job");
        let mut stream = LocalStream::open(&local, "clicks", Some(1), Arc::new(SystemClock::new())).unwrap();
        stream.put_records(&[PutRecord::new(b"{\"n\":1}", "some-key")]).unwrap();
        drop(stream);
        let sql = format!(
            "CREATE TABLE clicks (n BIGINT, `stream` STRING METADATA VIRTUAL, shard STRING METADATA FROM 'shard-id' VIRTUAL,
partition_key STRING METADATA FROM 'partition-key' VIRTUAL) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
CREATE TABLE out_rows (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/out', 'format' = 'json');
INSERT INTO out_rows SELECT n FROM clicks WHERE {condition};"
        );
        let summary = ran(folder.path(), "job", &sql).await.unwrap();
        assert_eq!(
            (lines(&folder.path().join("out")), skipped(&summary)),
            (vec![r#"{"n":1}"#.to_owned()], 0),
            "{condition}"
        );
    }
}
