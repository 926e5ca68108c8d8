//! Tables that name the same stream: it is read once and decoded once, and each table sees what it would see alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::execution::TaskContext;
use job::{Variant, options, run};
use tidemill::contracts::{
    Arrivals, Boundedness, Clock, Decoded, Decoder, Fetch, Position, RawChunk, RecordRange, Result, SequenceNumbers,
    Source, Split, SplitId, SplitReader, StartPosition, SystemClock, TableSpec,
};
use tidemill::formats::{RawTest, decoder};
use tidemill::operators::Compute;
use tidemill::runtime::{AllRows, DecoderFactory, Ending, FeedSpecification, TableSpecification, read_all, union_of};

#[path = "support/job.rs"]
mod job;

/// Lines of two splits, and how often they were opened and fetched.
#[derive(Debug)]
struct Counting {
    splits: Vec<Vec<&'static str>>,
    opened: Arc<AtomicUsize>,
}

struct CountingReader {
    chunk: Option<RawChunk>,
}

#[async_trait]
impl Source for Counting {
    async fn splits(&self) -> Result<Vec<Split>> {
        let split = |number| Split { id: SplitId(format!("{number}").into()), bytes: None, parents: vec![] };
        Ok((0..self.splits.len()).map(split).collect())
    }

    async fn open(&self, split: &Split, _: Option<&Position>, _: StartPosition) -> Result<Box<dyn SplitReader>> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let lines = &self.splits[split.id.0.parse::<usize>().expect("a number")];
        let mut ranges = Vec::new();
        let mut bytes = Vec::new();
        for line in lines {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(line.as_bytes());
            ranges.push(RecordRange { start, end: bytes.len() as u32 });
        }
        let chunk = RawChunk {
            split: split.id.clone(),
            data: bytes.into(),
            records: ranges.into(),
            sequence: SequenceNumbers::Dense { first: 1 },
            arrivals: Arrivals::Same(0),
            partition_keys: None,
        };
        Ok(Box::new(CountingReader { chunk: Some(chunk) }))
    }

    fn boundedness(&self) -> Boundedness {
        Boundedness::Bounded
    }
}

#[async_trait]
impl SplitReader for CountingReader {
    async fn next(&mut self) -> Result<Fetch> {
        Ok(self.chunk.take().map_or(Fetch::Finished, Fetch::Records))
    }
}

/// Counts the records that are decoded.
struct CountingDecoder(Box<dyn Decoder>, Arc<AtomicUsize>);

impl Decoder for CountingDecoder {
    fn decode(&mut self, chunk: &RawChunk) -> Decoded {
        self.1.fetch_add(chunk.len(), Ordering::SeqCst);
        self.0.decode(chunk)
    }
}

fn decodes(schema: &SchemaRef, test: Option<&str>, count: &Arc<AtomicUsize>) -> DecoderFactory {
    let (spec, count) = (TableSpec::new("t", Arc::clone(schema)), Arc::clone(count));
    let test = test.map(|text| RawTest { text: text.to_owned(), time_column: None });
    Arc::new(move || Ok(Box::new(CountingDecoder(decoder("json", &spec, test.as_ref())?, Arc::clone(&count)))))
}

/// Reads the lines for tables of these columns, together or each alone.
async fn read(
    splits: &[Vec<&'static str>],
    schemas: &[SchemaRef],
    test: Option<&str>,
    together: bool,
) -> (AllRows, usize, usize) {
    let (opened, decoded) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let table = |(index, schema): (usize, &SchemaRef)| TableSpecification {
        table: index,
        name: format!("t{index}"),
        decoder: Some(decodes(schema, test, &decoded)),
        schema: Arc::clone(schema),
        physical: schema.fields().len(),
        metadata: vec![],
        watermark: None,
        idle_timeout_ms: None,
        max_drift_ms: None,
    };
    let feed = |shared, tables| FeedSpecification {
        stream: "s".to_owned(),
        source: Arc::new(Counting { splits: splits.to_vec(), opened: Arc::clone(&opened) }),
        start: StartPosition::TrimHorizon,
        shared,
        tables,
    };
    let tables = schemas.iter().enumerate().map(table);
    let feeds = if together {
        let union = schemas.iter().skip(1).fold(Arc::clone(&schemas[0]), |a, b| union_of(&a, b).expect("they agree"));
        vec![feed(Some(decodes(&union, test, &decoded)), tables.collect())]
    } else {
        tables.map(|table| feed(None, vec![table])).collect()
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let context = Arc::new(TaskContext::default());
    let compute = Compute { merges: Arc::clone(&context), context, ..Compute::new(1) };
    let all = read_all(feeds, schemas.len(), clock, compute).await.expect("it is read");
    (all, opened.load(Ordering::SeqCst), decoded.load(Ordering::SeqCst))
}

fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    for batch in batches {
        writer.write(batch).expect("JSON");
    }
    writer.finish().expect("JSON");
    String::from_utf8(writer.into_inner()).expect("UTF-8").lines().map(str::to_owned).collect()
}

/// What a table saw, in words that do not depend on the order of splits.
fn seen(all: &AllRows, table: usize) -> (Vec<String>, Vec<String>, String) {
    let name = format!("t{table}");
    let mut rows = rows(&all.tables[table]);
    rows.sort();
    let own = all.rejects.iter().filter(|reject| reject.origin == name);
    let mut rejects: Vec<String> =
        own.map(|r| format!("{} {} {} {:?} {}", r.split, r.sequence_number, r.reason, r.column, r.detail)).collect();
    rejects.sort();
    let counts = all.counts.iter().find(|counts| counts.name == name).expect("its counts");
    (rows, rejects, format!("{} {} {} {:?}", counts.records, counts.decoded, counts.skipped, counts.rejected))
}

fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8View, nullable)
}

#[tokio::test]
async fn a_stream_of_several_tables_is_read_and_decoded_once_and_each_sees_what_it_would_alone() {
    let first = vec![
        r#"{"id":"a","n":1,"data":{"x":"1","y":7}}"#,
        r#"{"id":"b","n":"no number","data":{"x":"2","y":8}}"#,
        r#"not JSON"#,
        r#"{"n":4,"data":{"x":"4","y":"none"}}"#,
        r#"{"id":"e","n":5,"data":null}"#,
        r#"{"id":"f","n":6}"#,
    ];
    let second = vec![r#"{"id":"g","n":7,"data":{"y":9}}"#, r#"{"id":"h","n":[],"data":[]}"#];
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    let data = |fields: Vec<Field>| Field::new("data", DataType::Struct(Fields::from(fields)), true);
    let schemas = [
        schema(vec![text("id", false), number("n")]),
        schema(vec![data(vec![text("x", true)]), text("id", true)]),
        schema(vec![data(vec![number("y")])]),
    ];
    for test in [None, Some("a"), Some("g")] {
        let splits = [first.clone(), second.clone()];
        let (shared, opened, decoded) = read(&splits, &schemas, test, true).await;
        let (alone, opened_alone, decoded_alone) = read(&splits, &schemas, test, false).await;
        for table in 0..schemas.len() {
            assert_eq!(seen(&shared, table), seen(&alone, table), "table {table}, test {test:?}");
        }
        assert_eq!((opened, opened_alone), (2, 6), "each split is opened once");
        assert_eq!(decoded_alone, 3 * 8);
        assert!(decoded <= 8 + 3 * 4, "only refused records are decoded again, but {decoded} were decoded");
        assert_eq!(shared.counts.iter().filter(|counts| counts.read_with.is_none()).count(), 1);
    }
    // Without bad records there is nothing to decode twice.
    let good: Vec<&str> = vec![r#"{"id":"a","n":1,"data":{"x":"1","y":7}}"#; 50];
    let (shared, _, decoded) = read(&[good.clone(), good], &schemas, None, true).await;
    assert_eq!((decoded, shared.tables[1].iter().map(RecordBatch::num_rows).sum::<usize>()), (100, 100));
}

#[test]
fn columns_of_one_name_must_agree() {
    let data = |field: Field| Field::new("data", DataType::Struct(vec![field].into()), true);
    let texts = schema(vec![text("a", true), data(text("x", true))]);
    let numbers = schema(vec![Field::new("a", DataType::Int64, true)]);
    assert!(union_of(&texts, &numbers).is_none());
    let nested = schema(vec![data(Field::new("x", DataType::Int64, true))]);
    assert!(union_of(&texts, &nested).is_none());
    let strict = schema(vec![text("b", true), data(text("y", true)), text("a", false)]);
    let union = union_of(&texts, &strict).expect("they agree");
    let names: Vec<&str> = union.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["a", "data", "b"]);
    assert!(!union.field(0).is_nullable(), "the stricter one holds, and the other decodes again");
    let DataType::Struct(fields) = union.field(1).data_type() else { panic!("a struct") };
    assert_eq!(fields.len(), 2);
}

const JOB: &str = "
CREATE TABLE by_time (id STRING, `time` TIMESTAMP_LTZ(3), amount DECIMAL(10, 2), WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${IN}', 'format' = 'json');
CREATE TABLE plain (id STRING, kind STRING, note ROW<words BIGINT>)
WITH ('connector' = 'filesystem', 'path' = '${IN}', 'format' = 'json');
CREATE TABLE other_types (id STRING, amount STRING)
WITH ('connector' = 'filesystem', 'path' = '${IN}', 'format' = 'json');
CREATE TABLE sums (window_start TIMESTAMP(3), amount DECIMAL(20, 2), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/sums', 'format' = 'json');
CREATE TABLE kinds (kind STRING, n BIGINT, words BIGINT, PRIMARY KEY (kind) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/kinds', 'format' = 'json');
CREATE TABLE amounts (id STRING, amount STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/amounts', 'format' = 'json');
INSERT INTO sums SELECT window_start, SUM(amount), COUNT(*)
FROM TABLE(TUMBLE(TABLE by_time, DESCRIPTOR(`time`), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
INSERT INTO kinds SELECT kind, COUNT(*), SUM(note.words) FROM plain GROUP BY kind;
INSERT INTO amounts SELECT id, amount FROM other_types;
";

/// All lines below a folder, sorted.
fn lines(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => lines.extend(self::lines(&path)),
            path => lines.extend(std::fs::read_to_string(&path).expect("text").lines().map(str::to_owned)),
        }
    }
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_over_one_stream_gives_what_its_queries_give_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let input = folder.path().join("in");
    std::fs::create_dir(&input).expect("a folder");
    for part in 0..3 {
        let line = |n: usize| {
            let amount = if n % 10 == 3 { "\"free\"".to_owned() } else { format!("{n}.25") };
            let words = if n % 14 == 5 { "[]".to_owned() } else { n.to_string() };
            format!(
                "{{\"id\":\"{part}-{n}\",\"time\":\"2026-03-01T10:{:02}:00Z\",\"amount\":{amount},\"kind\":\"k{}\",\"note\":{{\"words\":{words}}}}}\n",
                n / 2,
                n % 3
            )
        };
        std::fs::write(input.join(format!("{part}.jsonl")), (0..100).map(line).collect::<String>()).expect("events");
    }
    let (declarations, inserts) = JOB.split_at(JOB.find("INSERT").expect("the queries"));
    let whole = [JOB.to_owned()];
    let alone: Vec<String> = inserts.split_inclusive(";\n").map(|insert| format!("{declarations}{insert}")).collect();
    assert_eq!(alone.len(), 3);
    let mut results = Vec::new();
    for (kind, jobs) in [("together", &whole[..]), ("alone", &alone[..])] {
        let place = folder.path().join(kind);
        let mut summaries = Vec::new();
        for (number, sql) in jobs.iter().enumerate() {
            let file = folder.path().join(format!("{kind}-{number}.sql"));
            std::fs::write(&file, sql).expect("a job");
            let text = |path: &Path| path.to_string_lossy().into_owned();
            let parameters =
                BTreeMap::from([("IN".to_owned(), text(&input)), ("OUT".to_owned(), text(&place.join("out")))]);
            let variant = Variant { rows: 64, threads: 2, splits: 1 };
            summaries.push(
                run(&options(file, place.join("local"), parameters, variant, Ending::Drain)).await.expect("it runs"),
            );
        }
        let records: Vec<u64> = summaries.iter().map(|summary| summary.records()).collect();
        match kind {
            "together" => {
                let shared = summaries[0].tables.iter().filter(|table| table.read_with.is_some()).count();
                assert_eq!((records, shared), (vec![300], 2), "one reader for three tables");
            }
            _ => assert_eq!(records, [300, 300, 300]),
        }
        let rejected: BTreeMap<String, BTreeMap<String, u64>> =
            summaries.iter().flat_map(|s| &s.tables).map(|t| (t.name.clone(), t.rejected.clone())).collect();
        // The last line of a key counts.
        let keyed = |line: &String| line.split(',').next().map(str::to_owned);
        let mut last = BTreeMap::new();
        for line in lines(&place.join("out/kinds")) {
            let count = |line: &str| line.split("\"n\":").nth(1).and_then(|n| n.split(',').next()?.parse::<u64>().ok());
            let kept = last.entry(keyed(&line)).or_insert_with(|| line.clone());
            if count(&line) > count(kept) {
                *kept = line;
            }
        }
        results.push((lines(&place.join("out/sums")), last, lines(&place.join("out/amounts")), rejected));
    }
    assert!(!results[0].0.is_empty() && results[0].1.len() == 3 && results[0].2.len() == 300);
    assert_eq!(results[0].3["by_time"], BTreeMap::from([("wrong_type".to_owned(), 30)]));
    assert_eq!(results[0], results[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_new_to_a_job_reads_from_the_beginning_and_shares_from_then_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let input = folder.path().join("in");
    std::fs::create_dir(&input).expect("a folder");
    let add = |part: usize| {
        let line =
            |n: usize| format!("{{\"id\":\"{part}-{n}\",\"time\":\"2026-03-01T1{part}:{n:02}:00Z\",\"kind\":\"k\"}}\n");
        std::fs::write(input.join(format!("{part}.jsonl")), (0..50).map(line).collect::<String>()).expect("events");
    };
    let file = folder.path().join("job.sql");
    let inserts: Vec<&str> = JOB.match_indices("INSERT").map(|(at, _)| &JOB[at..]).collect();
    let declarations = &JOB[..JOB.find("INSERT").expect("queries")];
    let first = inserts[0].split_inclusive(";\n").next().expect("one");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let parameters =
        BTreeMap::from([("IN".to_owned(), text(&input)), ("OUT".to_owned(), text(&folder.path().join("out")))]);
    let options = options(file.clone(), folder.path().join("local"), parameters, Variant::default(), Ending::Once);
    let run = async || {
        let summary = run(&options).await.expect("it runs");
        let table = |t: &tidemill::runtime::TableCounts| (t.name.clone(), t.records, t.read_with.clone());
        let mut tables: Vec<_> = summary.tables.iter().map(table).collect();
        tables.sort();
        tables
    };
    let seen = |name: &str, records: u64, with: Option<&str>| (name.to_owned(), records, with.map(str::to_owned));
    std::fs::write(&file, format!("{declarations}{first}")).expect("a job");
    add(0);
    assert_eq!(run().await, [seen("by_time", 50, None)]);
    std::fs::write(&file, JOB).expect("a job");
    add(1);
    // The two new ones stand at the same place, the old one elsewhere.
    let with = Some("other_types");
    assert_eq!(run().await, [seen("by_time", 50, None), seen("other_types", 100, None), seen("plain", 100, with)]);
    add(2);
    let with = Some("by_time");
    assert_eq!(run().await, [seen("by_time", 50, None), seen("other_types", 50, with), seen("plain", 50, with)]);
    let expected = lines(&folder.path().join("out/amounts")).len();
    assert_eq!(expected, 150, "every record once");
}
