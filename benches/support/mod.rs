//! Planned jobs and epochs of made-up rows for benches of operators: no reading, no decoding, no sink.
#![allow(dead_code, reason = "each bench uses its part")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::compute::cast;
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup};
use tidemill::contracts::{SPLITMIX64_STEP, Watermark, splitmix64};
use tidemill::job::JobOptions;
use tidemill::operators::{Compute, EpochInputs, QueryGraph, StoredRows, TableRows};
use tidemill::runtime::Ending;

/// The source of all benches, and a sink that takes everything.
pub(crate) const TABLES: &str = "
CREATE TABLE events (
  user_id STRING, page STRING, amount BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = 'nowhere', 'format' = 'json');
";

/// A planned query with the schema of the rows that it takes.
pub(crate) struct Planned {
    pub(crate) graph: QueryGraph,
    pub(crate) schema: arrow::datatypes::SchemaRef,
}

/// What to run a job in `folder` with.
pub(crate) fn options(
    file: PathBuf,
    local: PathBuf,
    parameters: BTreeMap<String, String>,
    threads: usize,
) -> JobOptions {
    JobOptions {
        paths: vec![file],
        local: Some(local),
        ending: Ending::Drain,
        from: None,
        parameters,
        fresh: false,
        state: Default::default(),
        threads,
        epoch_interval: None,
        epoch_rows: None,
        memory: None,
    }
}

/// A runtime with one worker: operators are measured on one core.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// One task.
pub(crate) fn compute() -> Compute {
    Compute::new(1)
}

/// Plans the one INSERT of `sql` over [`TABLES`].
pub(crate) async fn planned(sql: &str) -> Planned {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bench.sql");
    std::fs::write(&file, format!("{TABLES}{sql}")).expect("written");
    let options = options(file, folder.path().join("local"), BTreeMap::new(), 1);
    let plan = tidemill::job::plan(&options, &Arc::default()).await;
    let mut plan = plan.unwrap_or_else(|errors| panic!("{}", errors[0]));
    Planned { graph: plan.queries.remove(0).graph, schema: Arc::clone(&plan.sources[0].schema) }
}

/// Numbers from a fixed seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let number = splitmix64(self.0);
        self.0 = self.0.wrapping_add(SPLITMIX64_STEP);
        number % bound
    }
}

/// Shape of the rows.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) rows: usize,
    pub(crate) rows_per_epoch: usize,
    pub(crate) users: u64,
    pub(crate) pages: u64,
    /// Events a second of event time.
    pub(crate) per_second: u64,
}

/// The rows of an epoch and the watermark after it.
pub(crate) type Epoch = (Vec<RecordBatch>, Watermark);

/// What a query is given: nothing is kept from one run over the same rows to the next.
pub(crate) fn inputs((rows, watermark): &Epoch) -> EpochInputs {
    let tables = vec![TableRows::new(rows, &[])];
    EpochInputs { tables, watermarks: vec![*watermark], standings: vec![], closes: false, references: vec![] }
}

/// Epochs of rows in order of their time, and one that closes what is open.
pub(crate) fn epochs(schema: &arrow::datatypes::SchemaRef, shape: Rows) -> Vec<Epoch> {
    const START_MS: i64 = 1_767_225_600_000;
    let mut random = Random(42);
    let mut epochs = Vec::new();
    let (mut made, mut watermark) = (0, i64::MIN);
    while made < shape.rows {
        let count = shape.rows_per_epoch.min(shape.rows - made);
        let times: Vec<i64> =
            (made..made + count).map(|n| START_MS + (n as u64 * 1_000 / shape.per_second) as i64).collect();
        let numbers =
            |values: &mut dyn Iterator<Item = i64>| Arc::new(Int64Array::from_iter_values(values)) as ArrayRef;
        let texts = |prefix: &str, bound: u64, random: &mut Random| {
            // The smaller of two draws: some values are much more frequent than others.
            let one = |random: &mut Random| random.below(bound).min(random.below(bound));
            let text = (0..count).map(|_| format!("{prefix}{}", one(random))).collect::<Vec<_>>();
            Arc::new(StringArray::from(text)) as ArrayRef
        };
        let columns = schema.fields().iter().map(|field| {
            let column = match field.name().as_str() {
                "user_id" => texts("user-", shape.users, &mut random),
                "page" => texts("/page/", shape.pages, &mut random),
                "amount" => numbers(&mut (0..count).map(|_| random.below(10_000) as i64)),
                "ts" | "__tm_time" => numbers(&mut times.iter().copied()),
                "__tm_watermark" => numbers(&mut times.iter().map(|time| time - 5_001)),
                "__tm_origin" => Arc::new(UInt64Array::from_iter_values(0..count as u64)),
                other => panic!("no rule for the column '{other}'"),
            };
            cast(&column, field.data_type()).expect("it fits")
        });
        let batch = RecordBatch::try_new(Arc::clone(schema), columns.collect()).expect("a batch");
        watermark = times.last().map_or(watermark, |time| time - 5_000);
        epochs.push((vec![batch], Watermark(watermark)));
        made += count;
    }
    epochs.push((vec![], Watermark::MAX));
    epochs
}

/// Runs all epochs through and counts the rows that came out.
pub(crate) async fn process(mut graph: QueryGraph, epochs: &[Epoch]) -> usize {
    let (compute, mut rows) = (compute(), 0);
    for epoch in epochs {
        let output = graph.process(&inputs(epoch), &compute).await.expect("the query runs");
        rows += output.rows.iter().map(StoredRows::len).sum::<usize>();
    }
    rows
}

/// Measures a query from its rows, which are `shape`d, to its results.
pub(crate) fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &tokio::runtime::Runtime,
    name: &str,
    sql: &str,
    shape: Rows,
) {
    let input = epochs(&runtime.block_on(planned(sql)).schema, shape);
    group.bench_function(name, |bencher| {
        let plan = || runtime.block_on(planned(sql)).graph;
        let run = |graph| black_box(runtime.block_on(process(graph, &input)));
        bencher.iter_batched(plan, run, BatchSize::PerIteration);
    });
}
